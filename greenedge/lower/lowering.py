"""Walks a model once, in topological order, and turns it into the integer graph; collects every reason why it cannot.

The order of things is two lists: FAMILIES, the families of node rules, and PASSES, what is done to the whole graph
after.
"""

from __future__ import annotations

import numpy as np

from greenedge.errors import ReasonKind, Refused
from greenedge.frontends.source import Node
from greenedge.graph import Graph
from greenedge.lower import elementwise, linear, pooling, quantisers, reductions, rows, structure
from greenedge.lower.builder import Birth
from greenedge.lower.expr import affine_of
from greenedge.lower.passes import absorb_signs, remove_dead
from greenedge.lower.values import Broken, Constant, Grid, Host, Live, Masked, Value
from greenedge.lower.walk import Args, Rule, Silent, Walk

FAMILIES = [quantisers, linear, elementwise, structure, pooling, reductions, rows]
PASSES = [absorb_signs, remove_dead]

RULES: dict[str, Rule] = {op: rule for family in FAMILIES for op, rule in family.RULES.items()}
MAX_DEPTH, MAX_EVALUATIONS = 120, 5_000
_UNRESUMED = ("Trunc", "DequantizeLinear")  # their own parameters repeat those of the quantiser that was refused
_READS_MASKED = ("Softmax", "Add", "Where", "Identity", "Cast")
_RECURRENT = ("networks are feed-forward", "unroll the loop or keep it on the host")
_NETWORKS = {  # operators that are a network of their own, or take one: why they have no place here, and what to do
    **dict.fromkeys(("LSTM", "GRU", "RNN", "Loop", "Scan"), _RECURRENT),
    "If": (
        "one network computes every sample, whatever it holds",
        "export each branch as a file of its own",
    ),
}
_DYNAMIC = {  # operators of dynamic quantisation, and what they do
    "DynamicQuantizeLinear": "its scale is computed from every input anew",
    "MatMulInteger": "it gives integers whose scale other operators compute",
    "ConvInteger": "it gives integers whose scale other operators compute",
}
_STATIC = "use quantize_static of onnxruntime.quantization with calibration data, in the format QDQ"


def lower_nodes(walk: Walk) -> None:
    """Applies the rules to every node; afterwards the walk's `values` and `reasons` are complete."""
    for node in walk.source.nodes:
        args = [walk.values.get(name) if name else None for name in node.inputs]
        # a node may have more outputs than its rule gives values: they are optional, or the rule was refused
        for name, value in zip(node.outputs, _apply_rule(walk, node, args), strict=False):
            if not name:
                continue
            walk.values[name] = value
            if isinstance(value, Live) and value.edge not in walk.builder.trace.births:
                walk.builder.trace.births[value.edge] = Birth(name, value.expr)


def _apply_rule(walk: Walk, node: Node, args: Args) -> list[Value]:
    """What the outputs of the node are; a refusal is noted, and its outputs are Broken."""
    count = len(node.outputs)
    try:
        if node.op in _NETWORKS:
            raise Refused(ReasonKind.UNSUPPORTED_OP, node.op, *_NETWORKS[node.op])
        if node.op in _DYNAMIC:
            if any(reason.kind is ReasonKind.DYNAMIC_QUANTISER for reason in walk.reasons):
                return [Broken()] * count  # said once: every layer has the same
            what = f"{node.op}, dynamic quantisation: {_DYNAMIC[node.op]}"
            raise Refused(ReasonKind.DYNAMIC_QUANTISER, what, "scales are constant in an integer network", _STATIC)
        if walk.is_inside(node):
            return [Broken()] * count
        if (spelled := walk.spelled.get(node.name)) is not None:
            whole = walk.values.get(spelled.tensor)
            if isinstance(whole, (Live, Masked)):
                return [RULES[spelled.node.op](walk, spelled.node, [whole])] + [Broken()] * (count - 1)
        args = _resume(walk, node, args)
        if any(isinstance(arg, Broken) for arg in args) and node.op not in linear.RULES:
            return [Broken()] * count
        if node.op in ("Shape", "Size"):
            return [_read_shape(walk, node, args)]
        if any(isinstance(arg, Masked) for arg in args) and node.op not in _READS_MASKED:
            raise Refused(
                ReasonKind.UNSUPPORTED_ORDER,
                f"{node.op} of logits that a mask has left",
                "a softmax alone reads what a mask has left",
                "quantise and scale the logits before the mask",
            )
        rule, splitting = RULES.get(node.op), structure.SPLITTING_RULES.get(node.op)
        if rule is None and splitting is None:
            return walk.fold_all(node, args, has_form=False)
        _require_first_input(node, args)
        if (
            all(arg is None or isinstance(arg, (Constant, Host)) for arg in args)
            and node.op not in quantisers.RULES
            and node.op not in linear.RULES
        ):
            return walk.fold_all(node, args)
        if splitting is not None:
            return splitting(walk, node, args)
        assert rule is not None
        value = rule(walk, node, args)
        _require_shallow(value)
        return [value] + [Broken()] * (count - 1)
    except Refused as refusal:
        walk.refuse(node.name, refusal, node.module)
    except Silent:
        pass
    return [Broken()] * count


def _resume(walk: Walk, node: Node, args: Args) -> Args:
    """The inputs of a node behind one that was refused: integers stand in for the one that is not constant, so that
    what lies behind the first reason is judged as well. Two that meet have a ratio of scales, which nobody knows."""
    moving = [k for k, arg in enumerate(args) if isinstance(arg, (Live, Host, Broken))]
    if len(moving) != 1 or not isinstance(args[moving[0]], Broken) or node.op in _UNRESUMED:
        return args
    (k,) = moving
    return [*args[:k], walk.stand_in(node.inputs[k]), *args[k + 1 :]]


def _require_shallow(value: Value) -> None:
    """Raises Refused for a function that takes too long to work out at the integers that can occur."""
    depth, count = value.expr.extent if isinstance(value, Live) else (0, 0)
    if depth > MAX_DEPTH or count > MAX_EVALUATIONS:
        raise Refused(
            ReasonKind.TOO_DEEP,
            f"functions nested {depth} deep with {count:,} evaluations since the last quantiser",
            f"at most {MAX_DEPTH} and {MAX_EVALUATIONS:,} are worked out",
            "put a quantiser between them",
        )


def _require_first_input(node: Node, args: Args) -> None:
    if not args or args[0] is None:
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"{node.op} without its first input",
            "every layer reads something",
            "export the model again",
        )


def _read_shape(walk: Walk, node: Node, args: Args) -> Value:
    """Shape(x) or Size(x): known when the model is lowered, since all shapes are static."""
    _require_first_input(node, args)
    assert args[0] is not None
    shape = np.array(walk.shape_of(args[0]), np.int64)
    if node.op == "Size":
        return Constant(np.array(shape.prod()))
    return Constant(shape[node.attrs.get("start", 0) : node.attrs.get("end", len(shape))])


def find_boundaries(walk: Walk, until: str | None = None) -> dict[str, str]:
    """{tensor: edge} where integers end: walking back from the outputs, the first tensors that are edges themselves, up
    to a scale and a zero point.

    What lies behind the tensor `until` does not count. The output of a quantiser that only renamed the integers of an
    earlier edge counts too. An output that no integer layer computes becomes a reason of the walk.
    """
    producers = {name: node for node in walk.source.nodes for name in node.outputs if name}
    births = walk.builder.trace.births
    boundaries: dict[str, str] = {}
    stack, seen = list(walk.source.outputs), set[str]()
    while stack:
        tensor = stack.pop()
        value = walk.values.get(tensor)
        if tensor in seen or tensor == until or isinstance(value, (Constant, Grid, Broken)) or value is None:
            continue
        seen.add(tensor)
        if (
            isinstance(value, Live)
            and (births[value.edge].tensor == tensor or _is_quantiser_output(tensor, producers))
            and affine_of(value.expr) is not None
        ):
            boundaries[tensor] = value.edge
        elif tensor in producers:
            stack.extend(name for name in producers[tensor].inputs if name)
        else:
            walk.refuse(
                tensor,
                Refused(
                    ReasonKind.UNQUANTISED,
                    "an output that no integer layer computes",
                    "every output must come from a quantised layer",
                    "quantise the model's layers",
                ),
            )
    return boundaries


def _is_quantiser_output(tensor: str, producers: dict[str, Node]) -> bool:
    """Whether a quantiser writes the tensor."""
    return tensor in producers and producers[tensor].op in quantisers.RULES


def build_graph(walk: Walk, boundaries: dict[str, str]) -> Graph:
    """The walk's graph with these outputs, after PASSES; its trace is kept in step."""
    graph = _order_inputs(walk, walk.builder.build(list(dict.fromkeys(boundaries.values()))))
    for apply_pass in PASSES:
        graph = apply_pass(graph, walk.builder.trace)
    return graph


def _order_inputs(walk: Walk, graph: Graph) -> Graph:
    """The graph with its inputs in the order of the model's, before everything else, where the model has several; one
    that nothing reads is left out."""
    if len(walk.source.inputs) == 1:
        return graph
    producers = {name: node for node in walk.source.nodes for name in node.outputs if name}
    origins = dict(walk.direct) | {host.edge: host.tensor for host in walk.host_inputs}
    ranks = {name: k for k, name in enumerate(walk.source.inputs)}
    first = {edge: min(_find_origins(tensor, producers, ranks), default=0) for edge, tensor in origins.items()}
    read = {edge for op in graph.ops for edge in op.inputs} | set(graph.outputs)
    inputs = sorted(
        (op for op in graph.ops if op.output in first and op.output in read), key=lambda op: first[op.output]
    )
    return graph.replace_ops([*inputs, *(op for op in graph.ops if op.output not in first)])


def _find_origins(tensor: str, producers: dict[str, Node], ranks: dict[str, int]) -> set[int]:
    """The numbers of the model's inputs from which a tensor is computed."""
    seen, stack = set(), [tensor]
    while stack:
        name = stack.pop()
        if name not in seen:
            seen.add(name)
            stack += producers[name].inputs if name in producers else ()
    return {ranks[name] for name in seen if name in ranks}
