"""What ONNX's text forbids and its checker lets pass: attributes of windows, axes, permutations and quantisers.

One function for a family of operators; each gives what is wrong as (value, rule), None where all is well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from greenedge.errors import Reason, ReasonKind
from greenedge.frontends.domains import QONNX

if TYPE_CHECKING:
    import onnx

Shape = tuple[int, ...]
MAX_SIZE = 1 << 20  # of a window, stride, dilation or pad: larger ones are damage
_AUTO_PADS = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID", "")


@dataclass(frozen=True)
class _Facts:
    """One node: its attributes and the shapes of its inputs, None where unknown or left out."""

    op: str
    attrs: Mapping[str, Any]
    shapes: Sequence[Shape | None]
    outputs: int

    def shape(self, k: int) -> Shape | None:
        return self.shapes[k] if k < len(self.shapes) else None


class _Wrong(Exception):
    """An attribute that breaks a rule."""


def _require(condition: bool, value: str, rule: str) -> None:
    if not condition:
        raise _Wrong(value, rule)


def find_wrong_attributes(graph: onnx.GraphProto, shapes: Mapping[str, Shape]) -> list[Reason]:
    """A reason for every node with attributes that its operator does not allow; `shapes` of the known tensors."""
    known = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer} | dict(shapes)
    reasons = []
    for node in graph.node:
        rule = RULES.get(node.op_type) if node.domain == "" else QUANTISER_RULES.get(node.op_type)
        names = [attribute.name for attribute in node.attribute]
        if twice := next((name for name in names if names.count(name) > 1), None):
            rule_text, cure = "an attribute has one value", "leave one of them"
            reasons.append(Reason(node.name, ReasonKind.MALFORMED, f"{twice} is given twice", rule_text, cure))
            continue
        if rule is None or node.domain not in ("", QONNX):
            continue
        try:
            attrs = {a.name: _read_attribute(a) for a in node.attribute}
            rule(_Facts(node.op_type, attrs, [known.get(name) for name in node.input], len(node.output)))
        except _Wrong as wrong:
            value, text = wrong.args
            reasons.append(
                Reason(node.name, ReasonKind.MALFORMED, value, text, "correct the attribute or export again")
            )
    return reasons


def _read_attribute(attribute: onnx.AttributeProto) -> Any:
    import onnx

    value = onnx.helper.get_attribute_value(attribute)
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _sizes(facts: _Facts, name: str, count: int | None, least: int) -> None:
    """The attribute, where given, has `count` whole numbers of at least `least`."""
    values = facts.attrs.get(name)
    if values is None:
        return
    _require(isinstance(values, (list, tuple)), f"{name} {values}", f"{name} is a list of whole numbers")
    shown = f"{name} {list(values)}"
    _require(count is None or len(values) == count, shown, f"{facts.op} has {count} of them here")
    _require(all(least <= v <= MAX_SIZE for v in values), shown, f"each is {least} to {MAX_SIZE:,}")


def _window(facts: _Facts, kernel: Sequence[int] | None) -> None:
    """Strides, dilations and pads of a window; `kernel` where its size is known."""
    data = facts.shape(0)
    n = len(kernel) if kernel is not None else (len(data) - 2 if data is not None else None)
    _sizes(facts, "kernel_shape", n, 1)
    _sizes(facts, "strides", n, 1)
    _sizes(facts, "dilations", n, 1)
    _sizes(facts, "pads", None if n is None else 2 * n, 0)
    auto = facts.attrs.get("auto_pad", "NOTSET")
    _require(auto in _AUTO_PADS, f"auto_pad {auto!r}", f"it is one of {', '.join(_AUTO_PADS[:4])}")
    pads = facts.attrs.get("pads", ())
    _require(
        auto in ("NOTSET", "") or not any(pads), f"pads {list(pads)} with auto_pad {auto}", "it has one of the two"
    )


def _convolution(facts: _Facts) -> None:
    weight = facts.shape(1)
    group = facts.attrs.get("group", 1)
    _require(isinstance(group, int) and 1 <= group <= MAX_SIZE, f"group {group}", f"group is 1 to {MAX_SIZE:,}")
    kernel = facts.attrs.get("kernel_shape")
    if weight is not None:
        _require(len(weight) > 2 and 0 not in weight, f"weights of shape {weight}", "weights have three axes or more")
        same = kernel is None or tuple(kernel) == weight[2:]
        _require(same, f"kernel_shape {kernel} with weights of shape {weight}", "kernel_shape is that of the weights")
        kernel = weight[2:]
    _window(facts, kernel)
    if weight is None:
        return
    turned = facts.op == "ConvTranspose"
    shown = f"weights of shape {weight} in {group} groups"
    _require(weight[0] % group == 0, shown, "the groups share the channels evenly")
    bias, outputs = facts.shape(2), weight[1] * group if turned else weight[0]
    if facts.op in ("Conv", "ConvTranspose") and bias is not None:
        _require(bias == (outputs,), f"a bias of shape {bias}", f"it has one number for each of {outputs} channels")
    if turned:
        _output_padding(facts, len(weight) - 2)


def _output_padding(facts: _Facts, n: int) -> None:
    _sizes(facts, "output_padding", n, 0)
    extra = facts.attrs.get("output_padding")
    strides, dilations = (facts.attrs.get(key, (1,) * n) for key in ("strides", "dilations"))
    if extra is not None:
        fits = all(e < max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True))
        _require(fits, f"output_padding {list(extra)}", "each is smaller than the stride or the dilation")


def _pool(facts: _Facts) -> None:
    kernel = tuple(facts.attrs.get("kernel_shape") or ())
    _require(bool(kernel), "no kernel_shape", "a pool has a window")
    _window(facts, kernel)
    dilations = facts.attrs.get("dilations", (1,) * len(kernel))
    pads = facts.attrs.get("pads", ())
    spans = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    fits = all(pad < span for pad, span in zip(pads, spans * 2, strict=False))
    _require(fits, f"pads {list(pads)} around a window of {spans}", "a window never lies in the padding alone")
    for name in ("ceil_mode", "count_include_pad", "storage_order"):
        _flag(facts, name)


def _flag(facts: _Facts, name: str, default: int = 0) -> None:
    value = facts.attrs.get(name, default)
    _require(isinstance(value, int) and value in (0, 1), f"{name} {value!r}", f"{name} is 0 or 1")


def _permutation(facts: _Facts) -> None:
    perm, data = facts.attrs.get("perm"), facts.shape(0)
    if perm is not None:
        whole = sorted(perm) == list(range(len(perm))) and (data is None or len(data) == len(perm))
        axes = len(perm) if data is None else len(data)
        _require(whole, f"perm {list(perm)}", f"it names each of {axes} axes once")


def _axis(facts: _Facts) -> None:
    axis, data = facts.attrs.get("axis"), facts.shape(0)
    if axis is not None and data is not None:
        _require(-len(data) <= axis < max(1, len(data)), f"axis {axis}", f"its input has {len(data)} axes")


def _check_scale(facts: _Facts) -> None:
    """QuantizeLinear and DequantizeLinear: one scale, or one for each channel along the axis; a zero point like it."""
    data, scale, zero = (facts.shape(k) for k in range(3))
    if scale is None:
        return
    _require(len(scale) <= 1 and 0 not in scale, f"a scale of shape {scale}", "it is one number, or a row of channels")
    both_one = zero in ((), (1,)) and scale in ((), (1,))  # ONNX Runtime's quantiser writes one of each kind
    is_alike = zero is None or zero == scale or both_one
    _require(is_alike, f"a zero point of shape {zero} with a scale of {scale}", "both are alike")
    axis = facts.attrs.get("axis", 1)
    if data is not None and scale and scale != (1,):
        _require(-len(data) <= axis < len(data), f"axis {axis}", f"its input has {len(data)} axes")
    _require(not facts.attrs.get("block_size"), f"block_size {facts.attrs.get('block_size')}", "blocks are not read")


def _batch_norm(facts: _Facts) -> None:
    data = facts.shape(0)
    epsilon = facts.attrs.get("epsilon", 1e-5)
    _require(math.isfinite(epsilon) and epsilon >= 0, f"epsilon {epsilon}", "epsilon is a number of at least 0")
    for k, name in enumerate(("scale", "bias", "mean", "variance"), start=1):
        shape = facts.shape(k)
        if shape is not None and len(shape) == 1 and data is not None and len(data) > 1:
            _require(
                shape == (data[1],), f"a {name} of shape {shape}", f"it has one number for each of {data[1]} channels"
            )


def _block(facts: _Facts) -> None:
    block, data = facts.attrs.get("blocksize", 0), facts.shape(0)
    _require(1 <= block <= MAX_SIZE, f"blocksize {block}", f"it is 1 to {MAX_SIZE:,}")
    if facts.op == "DepthToSpace":
        mode = facts.attrs.get("mode", "DCR")
        _require(mode in ("DCR", "CRD"), f"mode {mode!r}", "it is DCR or CRD")
        if data is not None and len(data) == 4:
            _require(data[1] % block**2 == 0, f"{data[1]} channels in blocks of {block}", "the blocks take all of them")


def _list_inputs(facts: _Facts) -> None:
    """Shapes, axes, pads, starts and ends are lists, also where they hold one number."""
    for k, shape in enumerate(facts.shapes[1:], start=1):
        if shape is not None and not (facts.op == "Pad" and k == 2):
            _require(len(shape) == 1, f"input {k} of shape {shape}", "it is a list of numbers")


def _finite(facts: _Facts) -> None:
    for name, value in facts.attrs.items():
        if isinstance(value, float):
            _require(math.isfinite(value), f"{name} {value}", f"{name} is a number")


def _gemm(facts: _Facts) -> None:
    _finite(facts)
    _flag(facts, "transA")
    _flag(facts, "transB")


# -- quantisers of QONNX ----------------------------------------------------------------------------------------------

_TYPES: dict[str, dict[str, type]] = {
    "Quant": {"signed": int, "narrow": int, "rounding_mode": str},
    "IntQuant": {"signed": int, "narrow": int, "rounding_mode": str},
    "BipolarQuant": {},
    "Trunc": {"signed": int, "narrow": int, "rounding_mode": str},
    "MultiThreshold": {
        "out_dtype": str,
        "out_scale": float,
        "out_bias": float,
        "data_layout": str,
        "zero_point": int,  # the level that stands for 0: a word of ours, of files whose tensors have zero points
    },
}
_INPUTS = {"Quant": (4,), "IntQuant": (4,), "BipolarQuant": (2,), "Trunc": (5, 6), "MultiThreshold": (2,)}


def _quantiser(facts: _Facts) -> None:
    """Attributes that it has, of their types; all its inputs, none of them empty; one output."""
    types = _TYPES[facts.op]
    for name, value in facts.attrs.items():
        _require(name in types, f"attribute {name!r}", f"{facts.op} has {', '.join(types) or 'none'}")
        right = isinstance(value, types[name]) or (types[name] is float and isinstance(value, int))
        _require(right, f"{name} {value!r}", f"{name} is {'text' if types[name] is str else 'a number'}")
        _require(types[name] is str or math.isfinite(value), f"{name} {value}", f"{name} is a number")
    for name in ("signed", "narrow"):
        _flag(facts, name, 1)
    counts = _INPUTS[facts.op]
    shown = f"{len(facts.shapes)} inputs and {facts.outputs} outputs"
    whole = len(facts.shapes) in counts and facts.outputs == 1
    _require(whole, shown, f"{facts.op} has {' or '.join(map(str, counts))} inputs and one output")
    data = facts.shape(0)
    for shape in facts.shapes[1:]:
        if shape is None:
            continue
        _require(0 not in shape, f"a parameter of shape {shape}", "every parameter holds a number")
        fits = facts.op == "MultiThreshold" or data is None or len(shape) <= max(1, len(data))
        _require(fits, f"a parameter of shape {shape} with data of shape {data}", "parameters add no axes")
    if facts.op == "MultiThreshold":
        layout, data = facts.attrs.get("data_layout"), facts.shape(0)
        if layout:
            named = layout[0] == "N" and "C" in layout and len(set(layout)) == len(layout) <= 8
            whole = named and (data is None or len(data) == len(layout))
            _require(whole, f"data_layout {layout[:40]!r}", "it names every axis once, N first, with C among them")


RULES: dict[str, Callable[[_Facts], None]] = {
    "Conv": _convolution,
    "ConvInteger": _convolution,
    "ConvTranspose": _convolution,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "LpPool": _pool,
    "Transpose": _permutation,
    "Softmax": _axis,
    "LogSoftmax": _axis,
    "ArgMax": _axis,
    "ArgMin": _axis,
    "TopK": _axis,
    "Concat": _axis,
    "Split": _axis,
    "Gather": _axis,
    "QuantizeLinear": _check_scale,
    "DequantizeLinear": _check_scale,
    "BatchNormalization": _batch_norm,
    "DepthToSpace": _block,
    "SpaceToDepth": _block,
    "Gemm": _gemm,
    "LeakyRelu": _finite,
    "Elu": _finite,
    "HardSigmoid": _finite,
    "Clip": _finite,
    "Pad": _list_inputs,
    "Squeeze": _list_inputs,
    "Expand": _list_inputs,
    "Tile": _list_inputs,
    "Slice": _list_inputs,
}
QUANTISER_RULES: dict[str, Callable[[_Facts], None]] = dict.fromkeys(_TYPES, _quantiser)
