"""The float arithmetic at both ends, as small ONNX models that the host runs: prologue (inputs → integers) and epilogue
(integers → outputs). Both hold standard operators only; a QONNX quantiser in them is spelled out."""

from __future__ import annotations

import numpy as np

from greenedge.frontends.source import QONNX_DOMAINS, Node
from greenedge.lower.expr import Expr, Var, affine_of
from greenedge.lower.lowering import Walk
from greenedge.lower.quantisers import integer_range
from greenedge.lower.values import Constant, Grid, Host

OPSET = 20


# What computes every number of its output from one number of each input, in float32 alike everywhere.
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


def elementwise(model) -> bool:
    """Whether a host model (or None) is free of sums and transcendental functions, whose float32 result depends on who computes it."""
    return model is None or all(node.op_type in _ELEMENTWISE for node in model.graph.node)


class _Model:
    """Nodes and initialisers of one host model while they are collected."""

    def __init__(self, name: str, opset: int):
        self.name, self.opset = name, opset
        self.nodes, self.initialisers, self.count = [], {}, 0

    def constant(self, array: np.ndarray) -> str:
        self.count += 1
        name = f"constant_{self.count}"
        self.initialisers[name] = np.asarray(array)
        return name

    def node(self, op: str, inputs: list[str], output: str | None = None, **attrs) -> str:
        import onnx

        self.count += 1
        output = output or f"value_{self.count}"
        self.nodes.append(onnx.helper.make_node(op, inputs, [output], name=f"{op}_{self.count}", **attrs))
        return output

    def build(self, inputs, outputs):
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


def prologue(walk: Walk):
    """The model's float inputs → one int64 tensor per input edge made on the host; None where there is none."""
    import onnx

    if not walk.host_inputs:
        return None
    model = _Model("prologue", max(walk.source.opset, 13))
    _copy(walk, model, [host.tensor for host in walk.host_inputs], set())
    outputs = []
    for host in walk.host_inputs:
        levels = _levels(model, host.tensor, host.scale, host.zero, host.lo, host.hi, host.mode)
        model.node("Cast", [levels], host.edge, to=onnx.TensorProto.INT64)
        outputs.append((host.edge, onnx.TensorProto.INT64, ("batch", *walk.builder.edges[host.edge].shape)))
    inputs = [
        (name, onnx.TensorProto.FLOAT, ("batch", *[d or 1 for d in walk.source.inputs[name][1:]]))
        for name in walk.float_inputs
    ]
    return model.build(inputs, outputs)


def epilogue(walk: Walk, boundaries: dict[str, str]):
    """One int64 tensor per output edge → the model's outputs."""
    import onnx

    model = _Model("epilogue", max(walk.source.opset, 13))
    for tensor, edge in boundaries.items():
        if isinstance(walk.values[tensor], Host):
            _index(model, edge, len(walk.builder.edges[edge].shape) + 1, np.ndim(walk.values[tensor].example), tensor)
        else:
            _dequantise(model, edge, walk.values[tensor].expr, tensor)
    _copy(walk, model, list(walk.source.outputs), set(boundaries))
    inputs = [
        (edge, onnx.TensorProto.INT64, ("batch", *walk.builder.edges[edge].shape))
        for edge in dict.fromkeys(boundaries.values())
    ]
    outputs = [
        (name, _element(walk.values[name]), ("batch", *walk.shape_of(walk.values[name])[1:]))
        for name in walk.source.outputs
    ]
    return model.build(inputs, outputs)


def _element(value) -> int:
    """ONNX's name of the type of a model's output: integers are indices."""
    import onnx

    whole = isinstance(value, Host) and value.example.dtype.kind in "iu"
    return onnx.TensorProto.INT64 if whole else onnx.TensorProto.FLOAT


def expr_of(walk: Walk, tensor: str) -> Expr:
    """The real function of the integers at a tensor where they end. An index, which is no tensor of reals, is itself."""
    value = walk.values[tensor]
    return Var() if isinstance(value, Host) else value.expr


def _index(model: _Model, edge: str, rank: int, wanted: int, tensor: str) -> None:
    """The index as the model has it, of rank `wanted`: without the axis of the channels where it keeps no dimensions."""
    if rank == wanted:
        model.node("Identity", [edge], tensor)
    else:
        model.node("Squeeze", [edge, model.constant(np.array([1], np.int64))], tensor)


def dequantiser(expr: Expr) -> tuple[np.ndarray, np.ndarray] | None:
    """(scale, zero) in float64 with real = scale*(q - zero), or None where the function is not affine."""
    parts = affine_of(expr)
    if parts is None:
        return None
    alpha, beta = (np.asarray(part, dtype=object) for part in parts)
    return alpha.astype(np.float64), np.asarray(-beta / alpha, dtype=object).astype(np.float64)


def _dequantise(model: _Model, edge: str, expr: Expr, tensor: str) -> None:
    import onnx

    parts = dequantiser(expr)
    assert parts is not None, f"edge {edge} was born from a function that is not affine"
    scale, zero = (part.astype(np.float32) for part in parts)
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
    import onnx

    if node.op in ("Quant", "IntQuant"):
        scale, zero, bits = (np.asarray(walk.source.constants[name], np.float64) for name in node.inputs[1:4])
        lo, hi = integer_range(int(bits.flat[0]), bool(node.attrs.get("signed", 1)), bool(node.attrs.get("narrow", 1)))
        mode = str(node.attrs.get("rounding_mode", "ROUND")).upper()
        levels = _levels(model, node.inputs[0], scale, zero, lo, hi, mode)
        centred = model.node("Sub", [levels, model.constant(np.float32(zero))]) if np.any(zero) else levels
        model.node("Mul", [centred, model.constant(np.float32(scale))], node.outputs[0])
        return
    assert node.proto.domain not in QONNX_DOMAINS, f"{node.op} has no place on the host"
    proto = onnx.NodeProto()
    proto.CopyFrom(node.proto)
    del proto.metadata_props[:]
    model.nodes.append(proto)


def _levels(model: _Model, tensor: str, scale, zero, lo: int, hi: int, mode: str) -> str:
    """round(tensor/scale + zero) clipped, in float32 as QONNX defines it; see `quantisers` for the modes SIGN and LINEAR."""
    if mode == "BIPOLAR":
        return _signs(model, tensor)
    y = model.node("Div", [tensor, model.constant(np.float32(scale))])
    if mode == "LINEAR":
        y = model.node("Round", [y])
    if np.any(zero):
        y = model.node("Add", [y, model.constant(np.float32(zero))])
    if mode == "SIGN":
        return _signs(model, y)
    y = model.node("Clip", [y, model.constant(np.float32(lo)), model.constant(np.float32(hi))])
    if mode == "LINEAR":
        return y
    simple = {"ROUND": "Round", "HALF_EVEN": "Round", "CEIL": "Ceil", "FLOOR": "Floor"}
    if mode in simple:
        return model.node(simple[mode], [y])
    sign, size = model.node("Sign", [y]), model.node("Abs", [y])
    half = model.constant(np.float32(0.5))
    rounded = {
        "UP": lambda: model.node("Ceil", [size]),
        "DOWN": lambda: model.node("Floor", [size]),
        "HALF_UP": lambda: model.node("Floor", [model.node("Add", [size, half])]),
        "HALF_DOWN": lambda: model.node("Ceil", [model.node("Sub", [size, half])]),
    }[mode]()
    return model.node("Mul", [sign, rounded])


def _signs(model: _Model, tensor: str) -> str:
    condition = model.node("GreaterOrEqual", [tensor, model.constant(np.float32(0))])
    return model.node("Where", [condition, model.constant(np.float32(1)), model.constant(np.float32(-1))])
