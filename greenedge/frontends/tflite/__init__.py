"""An int8 or uint8 .tflite file as an ONNX model that `lower` knows, in the arithmetic of one of LiteRT's kernel sets.

    proto, kind = read_tflite(path, "xnnpack")      # UnsupportedError carries every reason

A .tflite means what its runtime computes. Behind every sum LiteRT stores a level that is a rising function of the sum:
the model written here holds that very function as thresholds, found by bisection of the kernel set's own arithmetic
(kernels.py), so the integer graph, and whatever is built from it, equals LiteRT on the original file.

    file.py         the flatbuffer as records, within bounds
    shapes.py       what a file computes from its own shapes, as constants
    kernels.py      what each kernel set computes
    network.py      the ONNX model under construction
    linear.py, pools.py, elementwise.py, moves.py     one rule an operator: it is read, or refused by name
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from greenedge.errors import GreenedgeError, Reason, ReasonKind, Refused, UnsupportedError
from greenedge.frontends.tflite import elementwise, linear, moves, pools
from greenedge.frontends.tflite.file import File, Tensor, read_file
from greenedge.frontends.tflite.kernels import KERNELS
from greenedge.frontends.tflite.network import REAL, Network, Rule
from greenedge.frontends.tflite.shapes import fold_shapes

if TYPE_CHECKING:
    from onnx import ModelProto

ARITHMETICS = (*KERNELS, REAL)
FAMILIES = (linear, pools, elementwise, moves)
RULES: dict[str, Rule] = {kind: rule for family in FAMILIES for kind, rule in family.RULES.items()}
_SUMS = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
_FULL_INTEGER = (
    "set converter.optimizations, representative_dataset and target_spec.supported_ops = "
    "[tf.lite.OpsSet.TFLITE_BUILTINS_INT8]"
)


def read_tflite(path: Path, arithmetic: str) -> tuple[ModelProto, str]:
    """(the file as an ONNX model on stored integers, which are its inputs too where the file's are integers; what kind
    of network it holds).

    Raises UnsupportedError with every reason why the network cannot be read, GreenedgeError for a damaged file or an
    arithmetic that there is not.
    """
    if arithmetic not in ARITHMETICS:
        raise GreenedgeError(f"there is no arithmetic {arithmetic!r}; they are: {', '.join(ARITHMETICS)}.")
    file = fold_shapes(read_file(path))
    if (whole := _refuse_kind(file)) is not None:
        raise UnsupportedError(f"{path.name} cannot become an integer graph:", [whole])
    net = Network(file, arithmetic)
    inputs = _add_inputs(net)
    for operator in file.operators:
        try:
            rule = RULES.get(operator.kind)
            if rule is None:
                known = f"the operators that are read are {', '.join(sorted(RULES))}"
                first = not any(reason.rule == known for reason in net.reasons)
                raise Refused(
                    ReasonKind.UNSUPPORTED_OP,
                    operator.kind,
                    known if first else "it is none of the operators that are read",
                    "replace the layer, or cut the network before it",
                )
            _require_counts(net, operator.inputs, operator.outputs)
            rule(net, operator)
        except Refused as refusal:
            net.refuse(operator, refusal)
    outputs = _add_outputs(net) if not net.reasons else {}
    if net.reasons:
        raise UnsupportedError(f"{path.name} cannot become an integer graph:", net.reasons)
    return net.model(inputs, outputs, {"arithmetic": arithmetic}), describe_kind(file)


def name_kind(file: File) -> str:
    """What kind of network a file holds: "int8", "float", "dynamic-range", "int16x8", "uint8", or "int4-weight"."""
    kinds, weights = set(), set()
    for operator in file.operators:
        if operator.kind in _SUMS and len(operator.inputs) > 1:
            at = 2 if operator.kind == "TRANSPOSE_CONV" and len(operator.inputs) > 2 else 0
            kinds.add(file.tensors[operator.inputs[at]].kind if operator.inputs[at] >= 0 else "")
            weights.add(file.tensors[operator.inputs[1]].kind if operator.inputs[1] >= 0 else "")
    if not kinds:
        kinds = {file.tensors[number].kind for number in file.inputs}
    if kinds & {"FLOAT32", "FLOAT16"} and "INT8" not in kinds:  # of both, each operator in floats is named
        return "dynamic-range" if weights & {"INT8", "INT4"} else "float"
    if "INT16" in kinds:
        return "int16x8"
    if "UINT8" in kinds:
        return "uint8"
    return "int4-weight" if weights & {"INT4", "INT2"} else "int8"


def describe_kind(file: File) -> str:
    """The kind of a file in words: "an int8 .tflite file"."""
    kind = name_kind(file)
    return f"{'an' if kind.startswith('int') else 'a'} {kind} .tflite file"


def _refuse_kind(file: File) -> Reason | None:
    """Why a whole file is not read: what it computes with."""
    refusals = {
        "float": ("a float network", "an integer graph needs int8 weights and activations", _FULL_INTEGER),
        "dynamic-range": (
            "a dynamic-range network: int8 weights, and activations in float",
            "an integer graph needs int8 activations, with scales that are constant",
            _FULL_INTEGER,
        ),
        "int16x8": (
            "an int16x8 network: activations of 16 bits",
            "an integer graph of a .tflite has int8 activations",
            "convert with TFLITE_BUILTINS_INT8 in place of EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8",
        ),
        "int4-weight": ("weights of 4 bits", "weights are int8", "convert with int8 weights"),
    }
    kind = name_kind(file)
    return Reason(file.name, ReasonKind.UNSUPPORTED_BITS, *refusals[kind]) if kind in refusals else None


def _require_counts(net: Network, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> None:
    if not inputs or len(outputs) != 1:
        raise Refused(
            ReasonKind.MALFORMED,
            f"{len(inputs)} inputs and {len(outputs)} outputs",
            "an operator reads something and writes one tensor",
            "convert it again",
        )
    shape = net.tensor(outputs[0]).shape
    if net.tensor(outputs[0]).is_open:
        raise Refused(
            ReasonKind.DYNAMIC_SHAPE,
            "an output whose size is known at run time alone",
            "a network computes one sample, of a fixed size",
            "convert with a fixed shape",
        )
    if not shape or shape[0] != 1 or min(shape) < 1:
        raise Refused(
            ReasonKind.DYNAMIC_SHAPE,
            f"an output of shape {shape}",
            "a network computes one sample, of a fixed size",
            "convert with a batch of 1",
        )


def _add_inputs(net: Network) -> dict[str, Tensor]:
    """The file's inputs by their names here."""
    inputs = {}
    for number in net.file.inputs:
        tensor = net.tensor(number)
        name = net.unique(tensor.name.partition(":")[0] or "input")
        inputs[name] = tensor
        refused = None
        if not tensor.shape or tensor.shape[0] != 1 or min(tensor.shape) < 1:
            refused = f"input {tensor.name!r} has shape {tensor.shape}"
        elif tensor.kind not in ("INT8", "UINT8", "FLOAT32"):
            refused = f"input {tensor.name!r} is {tensor.kind.lower()}"
        if refused:
            rule, cure = "inputs are one sample of int8, uint8 or float32", "convert with a batch of 1 and int8 inputs"
            net.reasons.append(Reason(name, ReasonKind.UNSUPPORTED_SHAPE, refused, rule, cure))
        if tensor.kind == "FLOAT32":
            net.floats[number] = name
        else:
            try:
                first = net.put_first(name, tensor.shape, f"{name}_first")
                net.put(tensor, net.read_input(tensor, first, name))
            except Refused as refusal:
                net.reasons.append(refusal.at(name))
    return inputs


def _add_outputs(net: Network) -> dict[str, tuple[int, ...]]:
    """The file's outputs by their names here: real numbers, the host's scale * (q - zero) of the last integers."""
    outputs = {}
    for number in net.file.outputs:
        tensor = net.tensor(number)
        try:
            if number not in net.floats:
                net.floats[number] = moves.dequantise(net, tensor, f"output_{number}")
            outputs[net.floats[number]] = tensor.shape
        except Refused as refusal:
            net.reasons.append(refusal.at(tensor.name or f"output_{number}"))
    return outputs
