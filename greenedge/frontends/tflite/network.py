"""The ONNX network under construction while a .tflite file is read: stored integers on every tensor, as floats.

A tensor of four axes has its channels first here (N, C, H, W), where the file has them last; all others keep the
file's order. Sums are integers, and a MultiThreshold makes the kernel's own step function of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from greenedge.backends.int8.arithmetic import REAL_BOUNDS
from greenedge.errors import Reason, ReasonKind, Refused
from greenedge.frontends.domains import QONNX
from greenedge.frontends.names import take_name
from greenedge.frontends.tflite.file import File, Operator, Tensor
from greenedge.frontends.tflite.kernels import STORED, Bounds, Code
from greenedge.graph.ops.base import Array, Ints

if TYPE_CHECKING:
    from onnx import AttributeProto, ModelProto, NodeProto

METADATA = "greenedge.tflite"  # the key under which a model says of which file, and in whose arithmetic, it is
REAL = "real"  # the arithmetic of the file's real numbers, which is no kernel set's
OPSET = 14
INT8 = (-128, 127)
OFFSETS = {"INT8": 0, "UINT8": 128}  # what a stored integer is above the one that stands for it here
_FIRST, _LAST = (0, 3, 1, 2), (0, 2, 3, 1)  # from the file's axes to channels first, and back
_MAX_CONSTANTS = 1 << 27  # numbers in all constants together
_NEVER = 1 << 40  # beyond every 32-bit sum
_LAYOUTS = {2: "NC", 3: "NWC", 4: "NCHW", 5: "NDHWC"}


def order_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape of the file as it is here."""
    return tuple(shape[axis] for axis in _FIRST) if len(shape) == 4 else tuple(shape)


def order_axis(axis: int, rank: int) -> int:
    """Where an axis of the file is here."""
    axis = axis % rank
    return _FIRST.index(axis) if rank == 4 else axis


def order_permutation(permutation: Sequence[int]) -> tuple[int, ...]:
    """A transposition of the file's axes as one of the axes here."""
    rank = len(permutation)
    inner = _FIRST if rank == 4 else tuple(range(rank))
    return tuple(order_axis(permutation[inner[axis]], rank) for axis in range(rank))


class Network:
    """Nodes, constants and the value of every tensor of one file; the reasons why an operator cannot be read."""

    def __init__(self, file: File, kernels: str) -> None:
        self.file, self.kernels = file, kernels
        self.is_real = kernels == REAL  # values are then real numbers, each behind a quantiser
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, Array] = {}
        self.values: dict[int, str] = {}  # tensor of the file → its integers
        self.floats: dict[int, str] = {}  # tensor of the file → real numbers, at both ends
        self.tensors: dict[str, int] = {}  # integers here → the tensor of the file that holds them
        self.reasons: list[Reason] = []
        self._taken: set[str] = set()
        self._elements = 0

    # -- the file's tensors ------------------------------------------------------------------------------------------

    def tensor(self, number: int) -> Tensor:
        """A tensor of the file. Raises Refused for one that is left out."""
        if number < 0:
            raise Refused(ReasonKind.MALFORMED, "an input that it needs is left out", "all are there", "convert again")
        return self.file.tensors[number]

    def code(self, tensor: Tensor) -> Code:
        """What the integers of an int8 or uint8 tensor mean, as they are here: those of uint8 lie 128 lower. Raises
        Refused for any other tensor."""
        if tensor.kind not in OFFSETS:
            raise Refused(
                ReasonKind.UNQUANTISED if "FLOAT" in tensor.kind else ReasonKind.UNSUPPORTED_BITS,
                f"tensor {tensor.name!r} is {tensor.kind.lower()}",
                "integer layers compute with int8 or uint8",
                "convert with full-integer quantisation and a representative dataset",
            )
        offset = OFFSETS[tensor.kind]
        if len(tensor.scales) != 1 or not INT8[0] <= tensor.zeros[0] - offset <= INT8[1]:
            raise Refused(
                ReasonKind.UNSUPPORTED_SCALE,
                f"tensor {tensor.name!r} has {len(tensor.scales)} scales and zero points {tensor.zeros[:3].tolist()}",
                f"an activation has one scale and one zero point within {tensor.kind.lower()}",
                "quantise activations per tensor",
            )
        return Code(np.float32(tensor.scales[0]), int(tensor.zeros[0]) - offset)

    def read_stored(self, tensor: Tensor) -> Ints:
        """The integers of a constant as they are here."""
        return np.asarray(tensor.values).astype(np.int64) - OFFSETS[tensor.kind]

    def require_constant(self, number: int, what: str) -> Tensor:
        """A constant tensor. Raises Refused for one that is computed; `what` names it."""
        tensor = self.tensor(number)
        if tensor.values is None:
            raise Refused(
                ReasonKind.TWO_ACTIVATIONS, f"its {what} is computed at run time", "it must be constant", "freeze it"
            )
        self._elements += tensor.elements
        if self._elements > _MAX_CONSTANTS:
            raise Refused(
                ReasonKind.TOO_BIG,
                "its constants",
                f"all constants together have at most {_MAX_CONSTANTS:,} numbers",
                "make the model smaller",
            )
        return tensor

    def read_integers(self, number: int, what: str) -> Ints:
        """A constant's integers, such as axes or paddings."""
        tensor = self.require_constant(number, what)
        if tensor.kind not in ("INT32", "INT64", "INT8"):
            raise Refused(ReasonKind.MALFORMED, f"its {what} is {tensor.kind.lower()}", "integers", "convert again")
        return np.asarray(tensor.values).astype(np.int64)

    def value(self, number: int) -> str:
        """The integers of an activation. Raises Refused for a tensor that has none."""
        if number not in self.values:
            raise Refused(
                ReasonKind.FLOAT_ISLAND,
                f"tensor {self.tensor(number).name!r} is no integer that the network computes",
                "integer layers read int8 that the layers before them give",
                "convert with full-integer quantisation",
            )
        return self.values[number]

    # -- nodes -------------------------------------------------------------------------------------------------------

    def unique(self, wanted: str) -> str:
        base = re.sub(r"\W+", "_", wanted).strip("_") or "tensor"
        return take_name(base, self._taken)

    def node(self, op: str, inputs: Sequence[str], name: str, domain: str = "", **attributes: Any) -> str:
        """Adds a node; the name of its output, which is its own."""
        import onnx

        name = self.unique(name)
        self.nodes.append(onnx.helper.make_node(op, list(inputs), [name], name=name, domain=domain, **attributes))
        return name

    def constant(self, values: Array, name: str) -> str:
        """Adds a constant as it is; the name of it."""
        name = self.unique(name)
        self.constants[name] = np.asarray(values)
        return name

    def number(self, values: Any, name: str) -> str:
        """Adds real numbers, float32."""
        return self.constant(np.asarray(values, np.float32), name)

    def reshape(self, source: str, shape: Sequence[int], name: str) -> str:
        return self.node("Reshape", [source, self.constant(np.array(shape, np.int64), f"{name}_shape")], name)

    def put_first(self, source: str, shape: Sequence[int], name: str) -> str:
        """Integers in the file's order as they are here; `shape` is the file's."""
        return self._move(source, shape, order_shape(shape), _FIRST, name)

    def put_last(self, source: str, shape: Sequence[int], name: str) -> str:
        """Integers as they are here in the file's order; `shape` is the file's."""
        return self._move(source, shape, tuple(shape), _LAST, name)

    def move_shape(self, source: str, before: Sequence[int], after: Sequence[int], name: str) -> str:
        """A tensor of the file's shape `before` as one of `after`, in the file's order."""
        if tuple(before) == tuple(after):
            return source
        source = self.put_last(source, before, f"{name}_last")
        return self.put_first(self.reshape(source, after, f"{name}_reshaped"), after, name)

    def _move(
        self, source: str, shape: Sequence[int], result: Sequence[int], permutation: Sequence[int], name: str
    ) -> str:
        if len(shape) != 4:
            return source
        if shape[3] == 1 or shape[1] == shape[2] == 1:
            return self.reshape(source, result, name)
        return self.node("Transpose", [source], name, perm=list(permutation))

    def centre(self, source: str, code: Code, name: str) -> str:
        """Stored integers counted from their zero point; real numbers are as they are."""
        if self.is_real or not code.zero:
            return source
        return self.node("Sub", [source, self.number(code.zero, f"{name}_zero")], name)

    def centred_levels(self, number: int, code: Code, name: str) -> str:
        """The levels of an activation counted from its zero point, as levels of their own: those of the step function
        or the quantiser that made them, from another lowest one. Raises Refused for a tensor that neither made."""
        value = self.value(number)
        if code.zero == 0:
            return value
        makers = {node.output[0]: node for node in self.nodes}
        maker = makers.get(value)
        if self.is_real and maker is not None and maker.op_type == "DequantizeLinear":
            maker = makers.get(maker.input[0])
        if maker is None or maker.op_type not in ("MultiThreshold", "QuantizeLinear"):
            raise Refused(
                ReasonKind.UNSUPPORTED_ZERO_POINT,
                f"an input with the zero point {code.zero} that no layer computes",
                "the border of a transposed convolution sees fewer samples, so 0 must stand for real 0",
                "let another layer come before it, or quantise it symmetrically",
            )
        if self.is_real:
            return self._quantise_around_zero(maker.input[0], code, f"{name}_levels")
        attributes = {a.name: _read_attribute(a) for a in maker.attribute}
        attributes |= {"out_bias": attributes["out_bias"] - code.zero, "zero_point": 0, "out_dtype": "INT9"}
        return self.node("MultiThreshold", list(maker.input), f"{name}_levels", QONNX, **attributes)

    def _quantise_around_zero(self, source: str, code: Code, name: str) -> str:
        """Real numbers at the levels of `code`, whose integers count from real 0."""
        ends = [self.number(np.float64(code.scale) * (end - code.zero), f"{name}_end") for end in INT8]
        clipped = self.node("Clip", [source, *ends], f"{name}_clip")
        parameters = [self.number(value, f"{name}_parameter") for value in (code.scale, 0, 9)]
        return self.node("Quant", [clipped, *parameters], name, QONNX, signed=1, narrow=0, rounding_mode="ROUND")

    def put(self, tensor: Tensor, source: str) -> None:
        """Notes that `source` holds the integers of a tensor."""
        self.values[tensor.number] = source
        self.tensors.setdefault(source, tensor.number)

    # -- real numbers ------------------------------------------------------------------------------------------------

    def dequantise(self, values: Ints, kind: type[np.generic], scales: Array, name: str, axis: int = 0) -> str:
        """A constant's real numbers: scales * values, one scale for all or one for each index along `axis`."""
        parts = [
            self.constant(values.astype(kind), f"{name}_stored"),
            self.number(scales if len(scales) > 1 else scales[0], f"{name}_scale"),
        ]
        options: dict[str, Any] = {"axis": axis} if len(scales) > 1 else {}
        return self.node("DequantizeLinear", parts, name, **options)

    def quantise(self, tensor: Tensor, source: str, name: str) -> None:
        """Notes a tensor's real numbers: `source` rounded to its levels, halves to even."""
        code = self.code(tensor)
        parameters = self.put_code(code, name)
        levels = self.node("QuantizeLinear", [source, *parameters], name)
        self.put(tensor, self.node("DequantizeLinear", [levels, *parameters], f"{name}_real"))

    def read_input(self, tensor: Tensor, source: str, name: str) -> str:
        """The value of an input whose stored integers, as floats, are `source`."""
        if tensor.kind not in OFFSETS:
            return source  # refused where it is read
        if offset := OFFSETS[tensor.kind]:
            source = self.node("Sub", [source, self.number(offset, f"{name}_offset")], f"{name}_int8")
        if not self.is_real:
            return source
        code = self.code(tensor)
        centred = self.node("Sub", [source, self.number(code.zero, f"{name}_zero")], f"{name}_centred")
        return self.node("Mul", [centred, self.number(code.scale, f"{name}_scale")], f"{name}_real")

    def put_code(self, code: Code, name: str) -> tuple[str, str]:
        """(scale, zero point) as constants that ONNX's quantisers take."""
        zero = np.array(code.zero, np.int8)
        return self.number(code.scale, f"{name}_scale"), self.constant(zero, f"{name}_zero_point")

    def store(self, operator: Operator, source: str, activation: str = "NONE") -> None:
        """The output of an operator is `source` behind a fused activation, quantised."""
        limits = REAL_BOUNDS[activation]
        if limits == (0.0, None):
            source = self.node("Relu", [source], f"{operator.name}_relu")
        elif limits != (None, None):
            bounds = [self.number(limit, f"{operator.name}_limit") for limit in limits]
            source = self.node("Clip", [source, *bounds], f"{operator.name}_clip")
        self.quantise(self.tensor(operator.outputs[0]), source, operator.name)

    # -- step functions ----------------------------------------------------------------------------------------------

    def step(self, operator: Operator, source: str, thresholds: Ints, lowest: int, name: str | None = None) -> str:
        """lowest + count(source >= thresholds[c]): the output of an operator; (1, L) for one function of all
        channels."""
        out = self.tensor(operator.outputs[0])
        if not thresholds.shape[1]:  # one level alone: a second one that no sum reaches
            thresholds = np.full((1, 1), _NEVER)
        return self.node(
            "MultiThreshold",
            [source, self.constant(thresholds.astype(np.int64), f"{operator.name}_thresholds")],
            name or operator.name,
            QONNX,
            out_bias=float(lowest),
            out_scale=1.0,
            out_dtype="INT8",
            data_layout=_LAYOUTS.get(len(out.shape), "NC"),
            zero_point=self.code(out).zero,
        )

    def finish(self, operator: Operator, source: str, thresholds: Ints, bounds: Bounds) -> None:
        """The stored values of an operator's output are those of `step`."""
        self.put(self.tensor(operator.outputs[0]), self.step(operator, source, thresholds, bounds[0]))

    def tabulate(self, operator: Operator, source: str, table: Ints) -> None:
        """The output is table[c, q + 128] of the stored value q; (1, 256) for all channels, or (C, 256)."""
        rises, falls = (np.diff(sign * table, axis=1).min(axis=1) >= 0 for sign in (1, -1))
        bounds = int(table.min()), int(table.max())
        if rises.all():
            return self.finish(operator, source, _count_rising(table, bounds), bounds)
        if (rises | falls).all():
            sign = np.where(rises, 1, -1)
            flipped = np.where(rises[:, None], table, table[:, ::-1])
            thresholds = _count_rising(flipped, bounds)
            thresholds -= np.where(rises, 0, -1)[:, None]  # of -q, which runs from -127 to 128
            return self.finish(operator, self._flip(operator, source, sign), thresholds, bounds)
        return self._tabulate_waves(operator, source, table)

    def _flip(self, operator: Operator, source: str, sign: Ints) -> str:
        rank = len(self.tensor(operator.outputs[0]).shape)
        spread = [1] * rank
        spread[1 if rank == 4 else rank - 1] = len(sign)
        factor = self.number(sign.reshape(spread) if len(sign) > 1 else sign[0], f"{operator.name}_sign")
        return self.node("Mul", [source, factor], f"{operator.name}_signed")

    def _tabulate_waves(self, operator: Operator, source: str, table: Ints) -> None:
        """A function that rises and falls as the difference of two that rise: f(q) = f(-128) + ups(q) - downs(q)."""
        steps = np.diff(table, axis=1)
        parts = []
        for sign, what in ((1, "ups"), (-1, "downs")):
            moves = np.maximum(sign * steps, 0)
            counts = np.concatenate([np.zeros((len(table), 1), np.int64), np.cumsum(moves, axis=1)], axis=1)
            top = max(int(counts.max()), 1)
            parts.append(self.step(operator, source, _count_rising(counts, (0, top)), 0, f"{operator.name}_{what}"))
        difference = self.node("Sub", parts, f"{operator.name}_waves")
        bounds = int(table.min()), int(table.max())
        wanted = np.arange(bounds[0] + 1, bounds[1] + 1)
        self.finish(operator, difference, wanted[None, :] - table[:, :1], bounds)

    # -- the whole ---------------------------------------------------------------------------------------------------

    def refuse(self, operator: Operator, refusal: Refused) -> None:
        """Notes why an operator cannot be read; what reads it is judged all the same."""
        self.reasons.append(refusal.at(operator.name))
        for number in operator.outputs:
            self.values[number] = self.unique(f"{operator.name}_refused")

    def model(
        self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Sequence[int]], about: Mapping[str, Any]
    ) -> ModelProto:
        """The network as an ONNX model; inputs are float tensors in the file's order, `about` goes into its
        metadata."""
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        kind = TensorProto.FLOAT
        used = {name for node in self.nodes for name in node.input}
        graph = helper.make_graph(
            self.nodes,
            self.file.name,
            [helper.make_tensor_value_info(name, kind, list(t.shape)) for name, t in inputs.items()],
            [helper.make_tensor_value_info(name, kind, list(shape)) for name, shape in outputs.items()],
            [numpy_helper.from_array(values, name) for name, values in self.constants.items() if name in used],
        )
        for name, tensor in inputs.items():
            if tensor.kind in ("INT8", "UINT8"):
                entry = onnx.StringStringEntryProto(key="finn_datatype", value=tensor.kind)
                graph.quantization_annotation.append(
                    onnx.TensorAnnotation(tensor_name=name, quant_parameter_tensor_names=[entry])
                )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(QONNX, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="greenedge")
        text = json.dumps({**about, "tensors": self.tensors}, sort_keys=True)
        model.metadata_props.append(onnx.StringStringEntryProto(key=METADATA, value=text))
        return model


def _read_attribute(attribute: AttributeProto) -> Any:
    import onnx

    value = onnx.helper.get_attribute_value(attribute)
    return value.decode() if isinstance(value, bytes) else value


def _count_rising(table: Ints, bounds: Bounds) -> Ints:
    """(C, hi - lo) the stored value from which each level of a rising row (C, 256) is reached; 128 where none."""
    wanted = np.arange(bounds[0] + 1, bounds[1] + 1)
    return np.array([np.searchsorted(row, wanted) for row in table], np.int64) + int(STORED[0])


Rule = Callable[[Network, Operator], None]
