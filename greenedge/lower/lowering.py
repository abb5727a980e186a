"""Walks a model once, in topological order, and turns it into the integer graph; collects every reason why it cannot.

The order of things is two lists: RULES, the families of node rules, and FINISH, what is done to the whole graph after.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from greenedge.errors import Reason, ReasonKind, Refused
from greenedge.frontends.source import Node, Source
from greenedge.graph import Graph
from greenedge.lower import elementwise, linear, pooling, quantisers, structure
from greenedge.lower.builder import Birth, Builder
from greenedge.lower.expr import Const, Var
from greenedge.lower.passes import absorb_signs, fuse_requantisers, remove_dead
from greenedge.lower.values import Broken, Constant, Grid, Host, Live, Value, compressed

FAMILIES = [quantisers, linear, elementwise, structure, pooling]
FINISH = [fuse_requantisers, absorb_signs, remove_dead]

RULES = {op: rule for family in FAMILIES for op, rule in family.RULES.items()}
_RECURRENT = {"LSTM", "GRU", "RNN", "Loop", "Scan", "If"}


class Silent(Exception):
    """Ends a rule whose input was refused before: nothing new to say."""


@dataclass(frozen=True)
class InputType:
    """Integers lo..hi that stand for scale * integer."""

    lo: int
    hi: int
    scale: Fraction = Fraction(1)


@dataclass(frozen=True)
class HostInput:
    """One quantiser that runs on the host: float tensor → levels on an input edge."""

    edge: str
    tensor: str
    scale: np.ndarray
    zero: np.ndarray
    lo: int
    hi: int
    mode: str


class Walk:
    """One model on its way through the rules."""

    def __init__(self, source: Source, declared: dict[str, InputType]):
        self.source = source
        self.builder = Builder(source.name)
        self.values: dict[str, Value] = {name: Constant(array) for name, array in source.constants.items()}
        self.reasons: list[Reason] = []
        self.host_inputs: list[HostInput] = []
        self.float_inputs: list[str] = []
        self._node: Node | None = None
        sizes = {shape[0] for shape in source.inputs.values() if shape}
        self.batch = next((size for size in sizes if size), 1)
        for name, shape in source.inputs.items():
            self.values[name] = self._input(name, shape, declared.get(name))

    # -- inputs -----------------------------------------------------------------------------------------------------

    def _input(self, name: str, shape, declared: InputType | None) -> Value:
        full = tuple(size or (self.batch if axis == 0 else 1) for axis, size in enumerate(shape))
        if any(size is None for size in shape[1:]) or not shape:
            self._refuse(
                name,
                Refused(
                    ReasonKind.DYNAMIC_SHAPE,
                    f"input of shape {shape}",
                    "only the batch axis may be open",
                    "export with a fixed input shape",
                ),
            )
            return Broken()
        kind = declared or _annotated(self.source.annotations.get(name))
        if kind is None:
            self.float_inputs.append(name)
            return Host(np.zeros(full, np.float32))
        edge = self.builder.input(name, full[1:], kind.lo, kind.hi)
        expr = Var() if kind.scale == 1 else Var() * Const.of(np.array(kind.scale, dtype=object))
        self.builder.trace.births[edge] = Birth(name, expr)
        return Live(edge, expr)

    def host_input(self, node: Node, value: Host, scale, zero, levels, mode: str) -> str:
        """The input edge made by quantising a host tensor; one edge for equal quantisers of one tensor."""
        tensor = node.inputs[0]
        for known in self.host_inputs:
            if (
                (known.tensor, known.lo, known.hi, known.mode) == (tensor, levels.lo, levels.hi, mode)
                and np.array_equal(known.scale, scale)
                and np.array_equal(known.zero, zero)
            ):
                return known.edge
        name = next(iter(self.source.inputs)) if not self.host_inputs else node.module or node.name
        edge = self.builder.input(name, value.example.shape[1:], levels.lo, levels.hi)
        self.host_inputs.append(
            HostInput(edge, tensor, np.asarray(scale), np.asarray(zero), levels.lo, levels.hi, mode)
        )
        return edge

    # -- walking ----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Applies the rules to every node; afterwards `values` and `reasons` are complete."""
        for node in self.source.nodes:
            self._node = node
            args = [self.values.get(name) if name else None for name in node.inputs]
            results = self._apply(node, args)
            for name, value in zip(node.outputs, results):
                if not name:
                    continue
                self.values[name] = value
                if isinstance(value, Live) and value.edge not in self.builder.trace.births:
                    self.builder.trace.births[value.edge] = Birth(name, value.expr)

    def _apply(self, node: Node, args) -> list[Value]:
        count = len(node.outputs)
        try:
            if node.op in _RECURRENT:
                raise Refused(
                    ReasonKind.UNSUPPORTED_OP,
                    f"{node.op}",
                    "networks are feed-forward",
                    "unroll the loop or keep it on the host",
                )
            if any(isinstance(arg, Broken) for arg in args) and node.op not in linear.RULES:
                return [Broken()] * count
            if node.op in ("Shape", "Size"):
                return [self._shape(node, args[0])]
            rule = RULES.get(node.op)
            if rule is None or not self._has_arity(node, args):
                return self._elsewhere(node, args)
            if (
                all(arg is None or isinstance(arg, (Constant, Host)) for arg in args)
                and node.op not in quantisers.RULES
                and node.op not in linear.RULES
            ):
                return self._elsewhere(node, args)
            result = rule(self, node, args)
            return (list(result) if isinstance(result, (list, tuple)) else [result]) + [Broken()] * (count - 1)
        except Refused as refusal:
            self._refuse(node.name, refusal, node.module)
        except Silent:
            return [Broken()] * count
        return [Broken()] * count

    def _has_arity(self, node: Node, args) -> bool:
        if args and args[0] is not None:
            return True
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"{node.op} without its first input",
            "every layer reads something",
            "export the model again",
        )

    def _refuse(self, name: str, refusal: Refused, module: str | None = None) -> None:
        reason = Reason(name, refusal.kind, refusal.value, refusal.rule, refusal.cure, module)
        if reason not in self.reasons:
            self.reasons.append(reason)

    def silent(self) -> Silent:
        return Silent()

    # -- services for the rules -------------------------------------------------------------------------------------

    def shape_of(self, value: Value) -> tuple[int, ...]:
        """A tensor's shape with its batch axis."""
        if isinstance(value, Live):
            return (self.batch, *self.builder.edges[value.edge].shape)
        return np.shape(
            value.example if isinstance(value, Host) else value.ints if isinstance(value, Grid) else value.array
        )

    def _shape(self, node: Node, value: Value) -> Value:
        shape = np.array(self.shape_of(value), np.int64)
        if node.op == "Size":
            return Constant(np.array(shape.prod()))
        return Constant(shape[node.attrs.get("start", 0) : node.attrs.get("end", len(shape))])

    def transform(self, node: Node, value: Live, make, change) -> Live:
        """Emits the operation make(name) and carries every constant of the expression through `change`."""
        old = self.builder.edges[value.edge].shape
        name = self.builder.unique(node)
        edge = self.builder.emit(make(name))

        def moved(part: np.ndarray) -> np.ndarray:
            return part.reshape(()) if part.size == 1 else compressed(np.asarray(change(np.broadcast_to(part, old))))

        return Live(edge, value.expr.map_constants(moved))

    def fold(self, node: Node, args) -> Value:
        """A node off the integer path: computed now where constant, a host tensor otherwise."""
        return self._elsewhere(node, args)[0]

    def _elsewhere(self, node: Node, args) -> list[Value]:
        arrays = [None if arg is None else self._example(arg) for arg in args]
        live = [arg for arg in args if isinstance(arg, Live)]
        hosts = [arg for arg in args if isinstance(arg, Host)]
        results = evaluate(node, arrays, self.source.opset)
        if not live and not hosts:
            return [Constant(result) for result in results]
        after = next((host for host in hosts if host.origin is not None), None)
        if live and any(host.origin is None for host in hosts):
            raise Refused(
                "float-island",
                f"{node.op} joins integers with the float input",
                "a skip from the float input needs the same quantiser",
                "quantise the input once and use the quantised tensor on both paths",
            )
        if live or after:
            origin, why = (
                (after.origin, after.why)
                if after
                else (node, f"{node.op} ({node.name}), which has no integer form here")
            )
            return [Host(result, origin, why) for result in results]
        return [Host(result) for result in results]

    def _example(self, value: Value) -> np.ndarray:
        if isinstance(value, Live):
            return np.zeros(self.shape_of(value), np.float32)
        if isinstance(value, Host):
            return value.example
        return value.real().astype(np.float32) if isinstance(value, Grid) else value.array

    # -- the end ----------------------------------------------------------------------------------------------------

    def boundaries(self, until: str | None = None) -> dict[str, str]:
        """{tensor: edge} where integers end: walking back from the outputs, the first tensors that are edges themselves.

        What lies behind the tensor `until` does not count. The output of a quantiser that only renamed the integers of an
        earlier edge counts too.
        """
        producers = {name: node for node in self.source.nodes for name in node.outputs if name}
        found: dict[str, str] = {}
        stack, seen = list(self.source.outputs), set()
        while stack:
            tensor = stack.pop()
            value = self.values.get(tensor)
            if tensor in seen or tensor == until or isinstance(value, (Constant, Grid, Broken)) or value is None:
                continue
            seen.add(tensor)
            if isinstance(value, Live) and (
                self.builder.trace.births[value.edge].tensor == tensor or self._renamed(tensor, producers)
            ):
                found[tensor] = value.edge
            elif tensor in producers:
                stack.extend(name for name in producers[tensor].inputs if name)
            else:
                self._refuse(
                    tensor,
                    Refused(
                        ReasonKind.UNQUANTISED,
                        "an output that no integer layer computes",
                        "every output must come from a quantised layer",
                        "quantise the model's layers",
                    ),
                )
        return found

    def _renamed(self, tensor: str, producers: dict[str, Node]) -> bool:
        return tensor in producers and producers[tensor].op in quantisers.RULES


def evaluate(node: Node, arrays, opset: int) -> list[np.ndarray]:
    """One standard ONNX node on arrays, by the reference evaluator. Raises Refused where it has no such operator."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    proto = onnx.NodeProto()
    proto.CopyFrom(node.proto)
    if proto.domain not in ("", "ai.onnx"):
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            f"operator {proto.domain}.{node.op}",
            "it is no standard ONNX or QONNX operator",
            "replace the layer",
        )
    names = [name for name, array in zip(node.inputs, arrays) if array is not None]
    untyped = lambda name: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UNDEFINED, None)
    graph = onnx.helper.make_graph(
        [proto], "one", [untyped(n) for n in dict.fromkeys(names)], [untyped(o) for o in node.outputs if o]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    try:
        feeds = {name: array for name, array in zip(node.inputs, arrays) if array is not None}
        return [np.asarray(part) for part in ReferenceEvaluator(model).run(None, feeds)]
    except (NotImplementedError, RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
        first = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            f"{node.op} could not be evaluated ({first})",
            "it is outside what this converter knows",
            "replace the layer or export with another opset",
        ) from None


def _annotated(name: str | None) -> InputType | None:
    """QONNX's tensor annotation as an input type: 'UINT8', 'INT4', 'BIPOLAR', 'TERNARY'; floats say nothing."""
    from greenedge.lower.quantisers import integer_range

    if name in ("BIPOLAR", "TERNARY"):
        return InputType(-1, 1)
    if name == "BINARY":
        return InputType(0, 1)
    if name and name.lstrip("U").startswith("INT") and name.lstrip("U")[3:].isdigit():
        lo, hi = integer_range(int(name.lstrip("U")[3:]), not name.startswith("U"), False)
        return InputType(lo, hi)
    return None


def finished(walk: Walk, boundaries: dict[str, str]) -> Graph:
    """The walk's graph after the passes of FINISH; the trace follows along."""
    graph = walk.builder.finish(list(dict.fromkeys(boundaries.values())))
    for finish in FINISH:
        graph = finish(graph, walk.builder.trace)
    return graph
