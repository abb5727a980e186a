"""Local functions: every call of a function that the file itself defines becomes the nodes of its body.

ONNX's own inliner does it. Beforehand the bodies are checked and what the calls grow to is counted: a few functions
that call each other twice turn a file of a kilobyte into any number of nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from greenedge.errors import GreenedgeError
from greenedge.frontends.domains import QONNX_SPELLINGS, QUANTISERS, STANDARD

if TYPE_CHECKING:
    import onnx

MAX_BYTES = 1 << 28  # of all bodies in their places; exporters write parameters into the graph, not into bodies
MAX_DEPTH = 64  # of calls within calls
Key = tuple[str, str, str]  # domain, name and overload
_CURE = "export the model without functions"


def inline_functions(proto: onnx.ModelProto, max_nodes: int) -> None:
    """The bodies in place of the calls, in place.

    A function with the name and the domain of a quantiser stays a node: exporters describe QONNX's operators by a body
    for runtimes that do not know them. Raises GreenedgeError for functions that call themselves, are given twice or
    nested deeper than MAX_DEPTH, that grow beyond `max_nodes` or MAX_BYTES, that read what is neither a parameter nor
    their own or are written for another opset, and for a call with more values than its function takes or gives.
    """
    if not proto.functions:
        return
    functions = {key: one for key, one in _read_functions(proto).items() if not _is_quantiser(key)}
    _Growth(proto, functions, max_nodes).require_bounded()
    _require_closed(functions.values())
    _inline(proto, list(functions.values()))
    del proto.functions[:]


def _read_functions(proto: onnx.ModelProto) -> dict[Key, onnx.FunctionProto]:
    functions: dict[Key, onnx.FunctionProto] = {}
    for function in proto.functions:
        key = _standard(function.domain), function.name, function.overload
        names = [*key, *function.input, *function.output, *function.attribute]
        names += [name for node in function.node for name in (*node.input, *node.output)]
        if not all(isinstance(name, str) for name in names):
            raise GreenedgeError("the name in one of its functions is not UTF-8 text; export the model again.")
        if key in functions:
            raise GreenedgeError(f"its function {function.name!r} is given twice; export the model again.")
        functions[key] = function
    return functions


def _standard(domain: str) -> str:
    return "" if domain in STANDARD else domain


def _is_quantiser(key: Key) -> bool:
    return key[1] in QUANTISERS and key[0] in QONNX_SPELLINGS


def _list_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes and those of the graphs inside their attributes."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _list_nodes(inner.node)


@dataclass(frozen=True)
class _Size:
    """What nodes come to when every call in them is a body: their number, their bytes and the depth of the calls."""

    nodes: int
    bytes: int
    depth: int


class _Growth:
    """The sizes of a model's graph and functions, from the file alone: nothing is expanded."""

    def __init__(self, proto: onnx.ModelProto, functions: dict[Key, onnx.FunctionProto], max_nodes: int) -> None:
        self._graph, self._functions, self._max_nodes = proto.graph, functions, max_nodes
        self._sizes: dict[Key, _Size] = {}
        bodies = [proto.graph.node, *(function.node for function in functions.values())]
        calls = [node for body in bodies for node in _list_nodes(body) if self._callee(node) is not None]
        # a body holds the names and the attributes of its call wherever it has a parameter
        self._longest_name = max((len(name) for n in calls for name in (*n.input, *n.output)), default=0)
        attributes = [a for n in calls for a in n.attribute]
        attributes += [a for function in functions.values() for a in function.attribute_proto]
        self._largest_attribute = max((a.ByteSize() for a in attributes), default=0)

    def require_bounded(self) -> None:
        """Raises GreenedgeError where the model with all bodies in it is too large."""
        self._measure(self._graph.node, ())

    def _callee(self, node: onnx.NodeProto) -> Key | None:
        key = _standard(node.domain), node.op_type, node.overload
        return key if key in self._functions else None

    def _measure(self, nodes: Iterable[onnx.NodeProto], path: tuple[Key, ...]) -> _Size:
        """The size of nodes inside the calls of `path`."""
        count = size = depth = 0
        for node in _list_nodes(nodes):
            key = self._callee(node)
            if key is None:
                parameters = sum(bool(attribute.ref_attr_name) for attribute in node.attribute)
                names = (len(node.input) + len(node.output)) * self._longest_name
                inner = _Size(1, node.ByteSize() + names + parameters * self._largest_attribute, 0)
            else:
                self._require_fitting(node, self._functions[key])
                inner = self._measure_call(key, path)
            count, size, depth = count + inner.nodes, size + inner.bytes, max(depth, inner.depth)
            if count > self._max_nodes or size > MAX_BYTES:
                raise GreenedgeError(
                    f"its functions grow to more than {self._max_nodes:,} nodes or {MAX_BYTES:,} bytes where they are "
                    f"called; {_CURE}, or split it."
                )
        return _Size(count, size, depth)

    def _measure_call(self, key: Key, path: tuple[Key, ...]) -> _Size:
        if key in path:
            raise GreenedgeError(f"its function {key[1]!r} calls itself; a network has no end then: {_CURE}.")
        if key not in self._sizes:
            if len(path) < MAX_DEPTH:
                body = self._measure(self._functions[key].node, (*path, key))
                self._sizes[key] = _Size(body.nodes, body.bytes, body.depth + 1)
            if len(path) >= MAX_DEPTH or self._sizes[key].depth > MAX_DEPTH:
                raise GreenedgeError(
                    f"its functions call each other more than {MAX_DEPTH} deep at {key[1]!r}; {_CURE}."
                )
        return self._sizes[key]

    @staticmethod
    def _require_fitting(node: onnx.NodeProto, function: onnx.FunctionProto) -> None:
        if len(node.input) > len(function.input) or len(node.output) > len(function.output):
            raise GreenedgeError(
                f"node {node.name or node.op_type!r} has {len(node.input)} inputs and {len(node.output)} outputs, its "
                f"function {function.name!r} {len(function.input)} and {len(function.output)}; export the model again."
            )


def _require_closed(functions: Iterable[onnx.FunctionProto]) -> None:
    """Raises GreenedgeError for a body that reads a tensor from outside, which would be the caller's by chance."""
    for function in functions:
        known = {"", *function.input, *(name for node in function.node for name in node.output)}
        stranger = next((name for node in function.node for name in node.input if name not in known), None)
        if stranger is not None:
            raise GreenedgeError(
                f"its function {function.name!r} reads tensor {stranger!r}, which is neither a parameter nor written "
                "in it; export the model again."
            )


def _inline(proto: onnx.ModelProto, functions: Iterable[onnx.FunctionProto]) -> None:
    import onnx
    import onnx.inliner

    stated = next((o.version for o in proto.opset_import if o.domain in STANDARD), None)
    for function in functions:
        version = next((o.version for o in function.opset_import if o.domain in STANDARD), stated)
        if stated is None and version is not None:  # a graph of calls alone need not import the standard operators
            stated = version
            proto.opset_import.append(onnx.helper.make_opsetid("", stated))
        if version != stated:
            raise GreenedgeError(
                f"its function {function.name!r} is written for opset {version}, the model for {stated}; write it for "
                "one with onnx.inliner.inline_local_functions(model, convert_version=True)."
            )
    del proto.functions[:]
    proto.functions.extend(functions)
    try:
        inlined = onnx.inliner.inline_local_functions(proto)
    except (RuntimeError, ValueError, TypeError, onnx.checker.ValidationError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise GreenedgeError(f"its functions are not what ONNX allows ({reason}); {_CURE}.") from None
    proto.graph.CopyFrom(inlined.graph)
