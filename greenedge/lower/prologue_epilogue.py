"""The float arithmetic at both ends, as small ONNX models that the host runs: prologue (inputs → integers) and epilogue
(integers → outputs). Both hold standard operators only: a QONNX quantiser becomes the operators of its definition."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from greenedge.frontends.source import QONNX_DOMAINS, Node
from greenedge.graph.ops.base import Array, Floats
from greenedge.lower.expr import Expr, Var, affine_of
from greenedge.lower.quantiser_parameters import read_linear_parameters
from greenedge.lower.rounding import integer_range
from greenedge.lower.values import Constant, Grid, Host, Live, Value
from greenedge.lower.walk import Walk

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_OPSET = 13  # the oldest in which every operator written here has the form used

# Operators that compute every number of their output from one number of each input: their float32 result is the same
# on every runtime.
_ELEMENTWISE = {
    "Abs",
    "Add",
    "Cast",
    "Ceil",
    "Clip",
    "Concat",
    "Div",
    "Flatten",
    "Floor",
    "Gather",
    "GreaterOrEqual",
    "Identity",
    "Max",
    "Min",
    "Mul",
    "Neg",
    "Pad",
    "Relu",
    "Reshape",
    "Round",
    "Sign",
    "Slice",
    "Squeeze",
    "Sub",
    "Transpose",
    "Unsqueeze",
    "Where",
}


def is_elementwise(model: ModelProto | None) -> bool:
    """Whether a host model (or None) is free of sums and transcendental functions, whose float32 result depends on the
    runtime."""
    return model is None or all(node.op_type in _ELEMENTWISE for node in model.graph.node)


_TensorType = tuple[str, int, tuple[str | int, ...]]  # name, ONNX element type, shape with its batch axis


class _Model:
    """Nodes and initialisers of one host model while they are collected."""

    def __init__(self, name: str, opset: int) -> None:
        self.name, self.opset = name, opset
        self.nodes: list[NodeProto] = []
        self.initialisers: dict[str, Array] = {}
        self.count = 0

    def constant(self, values: ArrayLike) -> str:
        """Adds an initialiser; returns its name."""
        self.count += 1
        name = f"constant_{self.count}"
        self.initialisers[name] = np.asarray(values)
        return name

    def float_constant(self, values: ArrayLike) -> str:
        """As `constant`, in float32."""
        return self.constant(np.asarray(values, np.float32))

    def node(self, op: str, inputs: Sequence[str], output: str | None = None, **attrs: Any) -> str:
        """Adds a node; returns the name of its output."""
        import onnx

        self.count += 1
        output = output or f"value_{self.count}"
        self.nodes.append(onnx.helper.make_node(op, inputs, [output], name=f"{op}_{self.count}", **attrs))
        return output

    def build(self, inputs: Iterable[_TensorType], outputs: Iterable[_TensorType]) -> ModelProto:
        """The model with these inputs and outputs."""
        import onnx
        from onnx import numpy_helper

        used = {name for node in self.nodes for name in node.input}
        graph = onnx.helper.make_graph(
            self.nodes,
            self.name,
            [onnx.helper.make_tensor_value_info(name, kind, list(shape)) for name, kind, shape in inputs],
            [onnx.helper.make_tensor_value_info(name, kind, list(shape)) for name, kind, shape in outputs],
            [numpy_helper.from_array(array, name) for name, array in self.initialisers.items() if name in used],
        )
        return onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", self.opset)], ir_version=8, producer_name="greenedge"
        )


def write_prologue(walk: Walk) -> ModelProto | None:
    """The model's float inputs → one int64 tensor per input edge that the host quantises; None where there is none."""
    import onnx

    if not walk.host_inputs:
        return None
    model = _Model("prologue", max(walk.source.opset, _OPSET))
    _copy(walk, model, [host.tensor for host in walk.host_inputs], set())
    outputs: list[_TensorType] = []
    # An edge may have the name of the tensor that it quantises: every tensor is read before an edge is written.
    written = [
        (host, _write_levels(model, host.tensor, host.scale, host.zero, (host.lo, host.hi), host.mode))
        for host in walk.host_inputs
    ]
    for host, levels in written:
        model.node("Cast", [levels], host.edge, to=onnx.TensorProto.INT64)
        outputs.append((host.edge, onnx.TensorProto.INT64, ("batch", *walk.builder.edges[host.edge].shape)))
    inputs: list[_TensorType] = [
        (name, onnx.TensorProto.FLOAT, ("batch", *[d or 1 for d in walk.source.inputs[name][1:]]))
        for name in walk.float_inputs
    ]
    return model.build(inputs, outputs)


def write_epilogue(walk: Walk, boundaries: dict[str, str]) -> ModelProto:
    """One int64 tensor per output edge → the model's outputs."""
    import onnx

    model = _Model("epilogue", max(walk.source.opset, _OPSET))
    for tensor, edge in boundaries.items():
        value = walk.values[tensor]
        if isinstance(value, Host):
            _write_index(model, edge, len(walk.builder.edges[edge].shape) + 1, np.ndim(value.example), tensor)
        else:
            _write_dequantise(model, edge, expr_of(walk, tensor), tensor)
    _copy(walk, model, list(walk.source.outputs), set(boundaries))
    inputs: list[_TensorType] = [
        (edge, onnx.TensorProto.INT64, ("batch", *walk.builder.edges[edge].shape))
        for edge in dict.fromkeys(boundaries.values())
    ]
    outputs: list[_TensorType] = [
        (name, _element_type(walk.values[name]), ("batch", *walk.shape_of(walk.values[name])[1:]))
        for name in walk.source.outputs
    ]
    return model.build(inputs, outputs)


def _element_type(value: Value) -> int:
    """ONNX's number of the type of a model's output: floats, but for indices and what QuantizeLinear gives."""
    import onnx

    is_integer = isinstance(value, Host) and value.example.dtype.kind in "iu"
    kind = value.example.dtype if isinstance(value, Host) and is_integer else np.dtype(np.float32)
    return int(onnx.helper.np_dtype_to_tensor_dtype(kind))


def expr_of(walk: Walk, tensor: str) -> Expr:
    """The real function of the integers at a tensor where they end; of an index, which stands for itself, the
    variable."""
    value = walk.values[tensor]
    return value.expr if isinstance(value, Live) else Var()


def _write_index(model: _Model, edge: str, edge_rank: int, rank: int, tensor: str) -> None:
    """The index with the rank that the model gives it: without the axis of the channels where it keeps no
    dimensions."""
    if edge_rank == rank:
        model.node("Identity", [edge], tensor)
    else:
        model.node("Squeeze", [edge, model.constant(np.array([1], np.int64))], tensor)


def dequantiser(expr: Expr) -> tuple[Floats, Floats] | None:
    """(scale, zero) in float64 with real = scale*(q - zero), or None where the function is not affine."""
    parts = affine_of(expr)
    if parts is None:
        return None
    alpha, beta = (np.asarray(part, dtype=object) for part in parts)
    return alpha.astype(np.float64), np.asarray(-beta / alpha, dtype=object).astype(np.float64)


def require_dequantiser(expr: Expr) -> tuple[Floats, Floats]:
    """As `dequantiser`. Raises AssertionError for a function that is not affine."""
    parts = dequantiser(expr)
    assert parts is not None, "a function that is not affine has no scale"
    return parts


def _write_dequantise(model: _Model, edge: str, expr: Expr, tensor: str) -> None:
    """tensor = scale * (edge - zero), each operation rounded to float32."""
    import onnx

    scale, zero = (part.astype(np.float32) for part in require_dequantiser(expr))
    value = model.node("Cast", [edge], to=onnx.TensorProto.FLOAT)
    if np.any(zero):
        value = model.node("Sub", [value, model.constant(zero)])
    model.node("Mul", [value, model.constant(scale)], tensor)


def _copy(walk: Walk, model: _Model, wanted: list[str], known: set[str]) -> None:
    """Copies the source nodes that compute `wanted`, up to `known` tensors, constants and the model's inputs."""
    producers = {name: node for node in walk.source.nodes for name in node.outputs if name}
    needed: set[str] = set()
    stack = list(wanted)
    while stack:
        tensor = stack.pop()
        if tensor in known or tensor in needed or not tensor:
            continue
        needed.add(tensor)
        value = walk.values[tensor]
        if not isinstance(value, (Constant, Grid)) and tensor in producers:
            stack.extend(producers[tensor].inputs)
    for tensor in sorted(needed):
        value = walk.values[tensor]
        if isinstance(value, (Constant, Grid)):
            model.initialisers[tensor] = value.array if isinstance(value, Constant) else value.real().astype(np.float32)
    for node in walk.source.nodes:
        if any(name in needed and name not in model.initialisers for name in node.outputs):
            _copy_node(walk, model, node)


def _copy_node(walk: Walk, model: _Model, node: Node) -> None:
    """Copies one node; a quantiser becomes the operators of its definition."""
    import onnx

    if node.op in ("QuantizeLinear", "DequantizeLinear"):
        _write_linear(walk, model, node)
        return

    if node.op in ("Quant", "IntQuant"):
        scale, zero, bits = (np.asarray(walk.source.constants[name], np.float64) for name in node.inputs[1:4])
        lo, hi = integer_range(int(bits.flat[0]), bool(node.attrs.get("signed", 1)), bool(node.attrs.get("narrow", 1)))
        mode = str(node.attrs.get("rounding_mode", "ROUND")).upper()
        levels = _write_levels(model, node.inputs[0], scale, zero, (lo, hi), mode)
        centred = model.node("Sub", [levels, model.float_constant(zero)]) if np.any(zero) else levels
        model.node("Mul", [centred, model.float_constant(scale)], node.outputs[0])
        return
    assert node.proto.domain not in QONNX_DOMAINS, f"{node.op} has no place on the host"
    proto = onnx.NodeProto()
    proto.CopyFrom(node.proto)
    del proto.metadata_props[:]
    model.nodes.append(proto)


def _write_linear(walk: Walk, model: _Model, node: Node) -> None:
    """QuantizeLinear or DequantizeLinear in operators that every opset here has."""
    import onnx

    args = [walk.values[name] if name else None for name in node.inputs]
    scale, zero, (signed, bits) = read_linear_parameters(walk, node, args)
    if node.op == "QuantizeLinear":
        levels = _write_levels(model, node.inputs[0], scale, zero, integer_range(bits, signed, False), "LINEAR")
        kind = _element_type(walk.values[node.outputs[0]])
        model.node("Cast", [levels], node.outputs[0], to=kind)
        return
    value = model.node("Cast", [node.inputs[0]], to=onnx.TensorProto.FLOAT)
    centred = model.node("Sub", [value, model.float_constant(zero)]) if np.any(zero) else value
    model.node("Mul", [centred, model.float_constant(scale)], node.outputs[0])


def _write_levels(model: _Model, tensor: str, scale: Floats, zero: Floats, ends: tuple[int, int], mode: str) -> str:
    """round(tensor/scale + zero) clipped to `ends`, in float32 as QONNX defines it; the name of the levels.

    Beside QONNX's rounding modes: BIPOLAR is the sign of the tensor, SIGN that of tensor/scale + zero, and LINEAR
    rounds before it adds the zero point, as ONNX's QuantizeLinear does.
    """
    if mode == "BIPOLAR":
        return _write_signs(model, tensor)
    y = model.node("Div", [tensor, model.float_constant(scale)])
    if mode == "LINEAR":
        y = model.node("Round", [y])
    if np.any(zero):
        y = model.node("Add", [y, model.float_constant(zero)])
    if mode == "SIGN":
        return _write_signs(model, y)
    y = model.node("Clip", [y, *(model.float_constant(end) for end in ends)])
    return y if mode == "LINEAR" else _write_rounding(model, y, mode)


def _write_rounding(model: _Model, y: str, mode: str) -> str:
    """y rounded in one of QONNX's modes; those that ONNX lacks work on the magnitude."""
    direct = {"ROUND": "Round", "HALF_EVEN": "Round", "CEIL": "Ceil", "FLOOR": "Floor"}
    if mode in direct:
        return model.node(direct[mode], [y])
    sign, size = model.node("Sign", [y]), model.node("Abs", [y])
    half = model.float_constant(0.5)
    if mode in ("HALF_UP", "HALF_DOWN"):
        size = model.node("Add" if mode == "HALF_UP" else "Sub", [size, half])
    return model.node("Mul", [sign, model.node("Ceil" if mode in ("UP", "HALF_DOWN") else "Floor", [size])])


def _write_signs(model: _Model, tensor: str) -> str:
    """+1 where the tensor is at least 0, else -1."""
    condition = model.node("GreaterOrEqual", [tensor, model.float_constant(0)])
    return model.node("Where", [condition, model.float_constant(1), model.float_constant(-1)])
