"""Operators that move stored values, and those at both ends of a network.

RESHAPE, SQUEEZE, EXPAND_DIMS, TRANSPOSE, PAD, CONCATENATION, TILE, RESIZE_NEAREST_NEIGHBOR

QUANTIZE, DEQUANTIZE, SOFTMAX
"""

from __future__ import annotations

import numpy as np

from greenedge.errors import ReasonKind, Refused
from greenedge.frontends.tflite.elementwise import REQUANTISE
from greenedge.frontends.tflite.file import MAX_RANK, Operator, Tensor
from greenedge.frontends.tflite.network import Network, Rule, order_axis, order_permutation
from greenedge.frontends.tflite.pools import require_same_code
from greenedge.graph.ops.base import Ints

_MOST_COPIES = 64
_FLOAT, _INT8 = 1, 3  # ONNX's numbers of element types


def _ends(net: Network, operator: Operator) -> tuple[Tensor, Tensor]:
    return net.tensor(operator.inputs[0]), net.tensor(operator.outputs[0])


def reshape(net: Network, operator: Operator) -> None:
    """RESHAPE, SQUEEZE, EXPAND_DIMS → the stored values in the file's order, under another shape."""
    source, out = _ends(net, operator)
    require_same_code(net, source, out, operator.kind)
    if out.elements != source.elements or not out.shape or out.shape[0] != source.shape[0]:
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"{operator.kind} from {source.shape} to {out.shape}",
            "a sample keeps its elements and the batch stays the first axis",
            "keep the batch axis",
        )
    net.put(out, net.move_shape(net.value(source.number), source.shape, out.shape, operator.name))


def transpose(net: Network, operator: Operator) -> None:
    """TRANSPOSE → Transpose, of the axes as they are here."""
    source, out = _ends(net, operator)
    require_same_code(net, source, out, "TRANSPOSE")
    permutation = [int(axis) for axis in net.read_integers(operator.inputs[1], "permutation").reshape(-1)]
    if sorted(permutation) != list(range(len(source.shape))) or permutation[0] != 0:
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"a permutation {permutation} of {len(source.shape)} axes",
            "all axes are named and the batch stays the first",
            "keep the batch axis",
        )
    perm = list(order_permutation(permutation))
    net.put(out, net.node("Transpose", [net.value(source.number)], operator.name, perm=perm))


def pad(net: Network, operator: Operator) -> None:
    """PAD → Pad by the zero point. XNNPACK's delegate takes equal zero points alone and fails on others."""
    source, out = _ends(net, operator)
    code, target = net.code(source), net.code(out)
    if code != target and (net.kernels == "xnnpack" or code.scale != target.scale):
        raise Refused(
            ReasonKind.UNEQUAL_SCALES,
            f"PAD from scale {code.scale:g} and zero point {code.zero} to {target.scale:g} and {target.zero}",
            "LiteRT fails to load such a file with XNNPACK",
            "convert it again",
        )
    widths = net.read_integers(operator.inputs[1], "paddings")
    rank = len(source.shape)
    if widths.shape != (rank, 2) or widths.min() < 0 or widths.max() > 1 << 16 or widths[0].any():
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"paddings of shape {widths.shape}",
            f"two for each of {rank} axes, and none of the batch",
            "convert it again",
        )
    places = [order_axis(axis, rank) for axis in range(rank)]
    ordered = np.zeros_like(widths)
    ordered[places] = widths
    pads = net.constant(ordered.T.reshape(-1), f"{operator.name}_pads")
    fill = net.number(0 if net.is_real else target.zero, f"{operator.name}_fill")
    net.put(out, net.node("Pad", [net.value(source.number), pads, fill], operator.name, mode="constant"))


def concatenation(net: Network, operator: Operator) -> None:
    """CONCATENATION → Concat; LiteRT takes equal scales alone."""
    out = net.tensor(operator.outputs[0])
    parts = [net.tensor(number) for number in operator.inputs]
    for part in parts:
        require_same_code(net, part, out, "CONCATENATION")
    axis = order_axis(int(operator.options.get("axis", 0)), len(out.shape))
    if axis == 0 or int(operator.options.get("fusedActivationFunction", 0)):
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            "CONCATENATION of batches, or with an activation",
            "branches are joined along their own axes",
            "join them along the channels",
        )
    net.put(out, net.node("Concat", [net.value(part.number) for part in parts], operator.name, axis=axis))


def tile(net: Network, operator: Operator) -> None:
    """TILE → Concat of a tensor with itself, axis by axis."""
    source, out = _ends(net, operator)
    require_same_code(net, source, out, "TILE")
    counts = net.read_integers(operator.inputs[1], "multiples").reshape(-1)
    rank = len(source.shape)
    if len(counts) != rank or counts[0] != 1 or counts.min() < 1 or counts.prod() > _MOST_COPIES:
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            f"TILE by {counts[:MAX_RANK].tolist()}",
            f"at most {_MOST_COPIES} copies of a sample, and one of the batch",
            "repeat it less",
        )
    if out.shape != tuple(int(s * c) for s, c in zip(source.shape, counts, strict=True)):
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"TILE from {source.shape} to {out.shape}",
            "copies add up",
            "convert it again",
        )
    value = net.value(source.number)
    for axis, count in enumerate(counts):
        if count > 1:
            parts = [value] * int(count)
            value = net.node("Concat", parts, f"{operator.name}_{axis}", axis=order_axis(axis, rank))
    net.put(out, value)


def resize_nearest(net: Network, operator: Operator) -> None:
    """RESIZE_NEAREST_NEIGHBOR → Resize by whole factors, where the kernel's float32 indices are those."""
    source, out = _ends(net, operator)
    require_same_code(net, source, out, "RESIZE_NEAREST_NEIGHBOR")
    if len(source.shape) != 4 or len(out.shape) != 4:
        raise Refused(ReasonKind.UNSUPPORTED_SHAPE, f"a shape of {source.shape}", "images of four axes", "reshape it")
    factors = []
    for before, after in zip(source.shape[1:3], out.shape[1:3], strict=True):
        factor, rest = divmod(after, max(before, 1))
        wanted = np.repeat(np.arange(before), factor)
        if rest or not factor or not np.array_equal(_nearest(operator, before, after), wanted):
            raise Refused(
                ReasonKind.UNSUPPORTED_MODE,
                f"a resize from {source.shape[1:3]} to {out.shape[1:3]}",
                "every sample is repeated as often",
                "resize by whole factors, without aligned corners",
            )
        factors.append(factor)
    scales = net.number([1, 1, *factors], f"{operator.name}_scales")
    name = net.node(
        "Resize",
        [net.value(source.number), "", scales],
        operator.name,
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    net.put(out, name)


def _nearest(operator: Operator, before: int, after: int) -> Ints:
    """The index of the sample that each place takes, as the kernel computes it."""
    corners, half = (bool(operator.options.get(key, False)) for key in ("alignCorners", "halfPixelCenters"))
    step = np.float32(before - 1) / np.float32(after - 1) if corners and after > 1 else np.float32(before) / after
    place = (np.arange(after).astype(np.float32) + np.float32(0.5 if half else 0)) * np.float32(step)
    index = np.floor(place + np.float32(0.5)) if corners else np.floor(place)
    return np.clip(index, 0, before - 1).astype(np.int64)


# -- both ends ---------------------------------------------------------------------------------------------------------


def quantize(net: Network, operator: Operator) -> None:
    """QUANTIZE: of int8 a function of one value; of a float input the host's quantiser; of uint8 to int8, or back at
    the end, another name for the same levels."""
    source, out = _ends(net, operator)
    if source.kind == "FLOAT32" and source.number in net.floats:
        scale, zero = net.put_code(net.code(out), operator.name)
        levels = net.node("QuantizeLinear", [net.floats[source.number], scale, zero], f"{operator.name}_levels")
        if net.is_real:
            real = net.node("DequantizeLinear", [levels, scale, zero], f"{operator.name}_real")
            return net.put(out, net.put_first(real, out.shape, operator.name))
        value = net.node("Cast", [levels], f"{operator.name}_stored", to=_FLOAT)
        net.put(out, net.put_first(value, out.shape, operator.name))
        return
    if source.number in net.floats and out.number not in net.file.outputs:
        raise _refuse_softmax("QUANTIZE")
    if {source.kind, out.kind} == {"INT8", "UINT8"}:
        shift = 128 if out.kind == "UINT8" else -128
        if (
            len(source.scales) != 1
            or out.scales.tolist() != source.scales.tolist()
            or out.zeros - shift != source.zeros
        ):
            raise Refused(
                ReasonKind.UNEQUAL_SCALES,
                "QUANTIZE between int8 and uint8 of other scales",
                "the two hold the same levels, 128 apart",
                "convert with inference_input_type=tf.int8",
            )
        if source.number in net.floats:  # of a softmax: the host has it in floats already
            net.floats[out.number] = net.floats[source.number]
            return
        return net.put(out, net.value(source.number))
    REQUANTISE(net, operator)


def dequantize(net: Network, operator: Operator) -> None:
    """DEQUANTIZE at the end: the host's scale * (q - zero)."""
    source, out = _ends(net, operator)
    if source.number in net.floats:  # of a softmax: the host has it in floats already
        net.floats[out.number] = net.floats[source.number]
        return
    net.floats[out.number] = dequantise(net, source, operator.name)


def dequantise(net: Network, source: Tensor, name: str) -> str:
    """A tensor's real numbers in the file's order: what the host makes of its integers."""
    if len(source.scales) != 1 or source.kind not in ("INT8", "UINT8"):
        raise Refused(
            ReasonKind.UNSUPPORTED_SCALE,
            f"tensor {source.name!r} of {source.kind.lower()} with {len(source.scales)} scales",
            "outputs are int8 or uint8 with one scale",
            "convert with full-integer quantisation",
        )
    if net.is_real:
        return net.put_last(net.value(source.number), source.shape, f"{name}_real")
    value = net.put_last(net.value(source.number), source.shape, f"{name}_last")
    stored = net.node("Cast", [value], f"{name}_stored", to=_INT8)
    real = net.node("DequantizeLinear", [stored, *net.put_code(net.code(source), name)], f"{name}_real")
    net.tensors.setdefault(real, source.number)
    return real


def _refuse_softmax(readers: str) -> Refused:
    return Refused(
        ReasonKind.FLOAT_ISLAND,
        f"a softmax that {readers} reads",
        "a softmax is the host's, behind the last integer layer",
        "cut the network before it",
    )


def softmax(net: Network, operator: Operator) -> None:
    """SOFTMAX at the end: the host's, in floats, of the integers before it."""
    source, out = _ends(net, operator)
    net.code(source)
    readers = {op.kind for op in net.file.operators if out.number in op.inputs}
    if readers - {"DEQUANTIZE", "QUANTIZE"}:
        raise _refuse_softmax(" and ".join(sorted(readers)))
    real = dequantise(net, source, operator.name)
    beta = float(operator.options.get("beta", 1.0))
    if beta != 1.0:
        real = net.node("Mul", [real, net.number(beta, f"{operator.name}_beta")], f"{operator.name}_scaled")
    net.floats[out.number] = net.node("Softmax", [real], operator.name, axis=len(source.shape) - 1)


RULES: dict[str, Rule] = {
    "RESHAPE": reshape,
    "SQUEEZE": reshape,
    "EXPAND_DIMS": reshape,
    "TRANSPOSE": transpose,
    "PAD": pad,
    "CONCATENATION": concatenation,
    "TILE": tile,
    "RESIZE_NEAREST_NEIGHBOR": resize_nearest,
    "QUANTIZE": quantize,
    "DEQUANTIZE": dequantize,
    "SOFTMAX": softmax,
}
