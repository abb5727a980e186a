"""Changes of layout one behind another as one, and none where they undo each other.

Exporters wrap what works channels-last in pairs of transpositions, with quantisers between them; a reshape behind a
reshape is the last one.
"""

from __future__ import annotations

from dataclasses import replace

from greenedge.graph import Graph, Op, Reshape, Transpose
from greenedge.legalise.early_requantise import move_before


def fold_layouts(graph: Graph) -> Graph:
    """Transpose(q, Transpose(p, x)) → Transpose(p[q], x); Reshape(t, Reshape(s, x)) → Reshape(t, x); x where that
    changes nothing; Transpose(q, step(Transpose(p, x))) → Transpose(q, Transpose(p, step(x))).

    The first of two goes when nothing else reads it. An output keeps its own operation.
    """
    folded = _pass_steps(_skip_identities(_compose(graph)))
    return graph if folded is graph else fold_layouts(folded)


def _pass_steps(graph: Graph) -> Graph:
    """The graph with one step function before the transposition that it alone reads, where a transposition alone reads
    it."""
    for step in graph.requantisers:
        move = graph.producer(step.inputs[0])
        if not isinstance(move, Transpose) or {move.output, step.output} & set(graph.outputs):
            continue
        readers = graph.consumers(step.output)
        if graph.consumers(move.output) == [step] and len(readers) == 1 and isinstance(readers[0], Transpose):
            return move_before(graph, step, move.perm[step.axis])
    return graph


def _compose(graph: Graph) -> Graph:
    """The graph in which no transposition reads a transposition, nor a reshape a reshape; those without a reader go."""
    ops = {op.output: op for op in graph.ops}
    changed = False
    for op in graph.layers:
        before = ops[op.inputs[0]]
        if isinstance(op, Transpose) and isinstance(before, Transpose):
            perm = tuple(before.perm[axis] for axis in op.perm)
            ops[op.output] = replace(op, inputs=before.inputs, perm=perm)
            changed = True
        elif isinstance(op, Reshape) and isinstance(before, Reshape):
            ops[op.output] = replace(op, inputs=before.inputs)
            changed = True
    return _drop_unread(graph.replace_ops(list(ops.values()))) if changed else graph


def _skip_identities(graph: Graph) -> Graph:
    """The graph in which nothing reads a change of layout that changes nothing."""
    same = {op.output: op.inputs[0] for op in graph.layers if _is_identity(graph, op)}
    read = {edge for op in graph.ops for edge in op.inputs}
    if not any(edge in read for edge in same):
        return graph

    def source(edge: str) -> str:
        return source(same[edge]) if edge in same else edge

    ops = [replace(op, inputs=tuple(map(source, op.inputs))) if op.inputs else op for op in graph.ops]
    return _drop_unread(graph.replace_ops(ops))


def _is_identity(graph: Graph, op: Op) -> bool:
    if isinstance(op, Transpose):
        return op.perm == tuple(range(len(op.perm)))
    return isinstance(op, Reshape) and op.shape == graph.edges[op.inputs[0]].shape


def _drop_unread(graph: Graph) -> Graph:
    """The graph without changes of layout that nothing reads."""
    read = {edge for op in graph.ops for edge in op.inputs} | set(graph.outputs)
    kept = [op for op in graph.ops if op.output in read or not isinstance(op, (Transpose, Reshape))]
    return graph if len(kept) == len(graph.ops) else _drop_unread(graph.replace_ops(kept))
