"""The integer graph as a list of kernel calls on buffers, with the memory that every buffer takes.

A layer of sums and the requantiser that alone reads it become one call, so accumulators are never stored. A reshape is
no call: both edges are the same buffer. Buffers that live at different times share the arena, and a kernel that reads
every element before it writes there puts its result in the place of its input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from greenedge.backends.c99.fast_forms import FastForm, find_form
from greenedge.backends.c99.tensor_code import Code, code_of
from greenedge.graph import Graph, Op, Requantise, Reshape

_ALIGN = 4


@dataclass(frozen=True)
class Buffer:
    """The memory of an edge: a parameter of model_run ("x0", "y0") or an offset into the arena, and its bytes."""

    parameter: str | None
    offset: int
    bytes: int


@dataclass(frozen=True, eq=False)
class Call:
    """One kernel call: the operation, the requantiser that follows in it (or None), the edge that it writes, and the
    form of the fast kernel (or None: the general one)."""

    op: Op
    step: Requantise | None
    output: str
    fast: FastForm | None = None


@dataclass(frozen=True)
class Program:
    """Everything the C text says. `buffers` has every stored edge, reshaped ones included; `scratch` the offset in the
    arena of each call that needs some."""

    graph: Graph
    calls: tuple[Call, ...]
    codes: dict[str, Code]
    buffers: dict[str, Buffer]
    copies: tuple[tuple[str, str], ...]  # (edge, output parameter) of outputs whose buffer is not a parameter
    arena_bytes: int
    scratch: dict[int, int] = field(default_factory=dict)


def plan_memory(graph: Graph) -> Program:
    """The calls, codes and buffers of a graph that the rules take."""
    roots = _buffer_roots(graph)
    calls: list[Call] = []
    fused: set[str] = set()
    for op in graph.layers:
        if roots[op.output] != op.output or op.name in fused:
            continue
        step = _fusible_step(graph, op)
        if step is not None:
            fused.add(step.name)
        calls.append(Call(op, step, step.output if step else op.output, find_form(graph, op, step)))
    codes = {name: code_of(edge) for name, edge in graph.edges.items()}
    return _allocate(graph, tuple(calls), codes, roots)


def _fusible_step(graph: Graph, op: Op) -> Requantise | None:
    """The requantiser that alone reads the sums which `op` writes."""
    readers = graph.consumers(op.output)
    if (op.accumulates or op.needs_step) and len(readers) == 1 and not graph.needs_storage(op.output):
        return next(step for step in graph.requantisers if step is readers[0])
    return None


def _buffer_roots(graph: Graph) -> dict[str, str]:
    """The edge whose buffer an edge uses: reshapes use their input's."""
    roots: dict[str, str] = {}
    for op in graph.ops:
        roots[op.output] = roots[op.inputs[0]] if isinstance(op, Reshape) else op.output
    return roots


def _allocate(graph: Graph, calls: tuple[Call, ...], codes: dict[str, Code], roots: dict[str, str]) -> Program:
    """The buffer of every stored edge: parameters for inputs and outputs, places in the arena for the rest."""
    sizes = {name: int(np.prod(edge.shape, dtype=np.int64)) * codes[name].bytes for name, edge in graph.edges.items()}
    buffers = {edge: Buffer(f"x{k}", 0, sizes[edge]) for k, edge in enumerate(graph.inputs)}
    copies: list[tuple[str, str]] = []
    for k, edge in enumerate(graph.outputs):
        if roots[edge] in buffers:
            copies.append((edge, f"y{k}"))
        else:
            buffers[roots[edge]] = Buffer(f"y{k}", 0, sizes[edge])
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for k, call in enumerate(calls):
        first.setdefault(roots[call.output], k)
        for edge in (*call.op.inputs, call.output):
            last[roots[edge]] = k
    last |= {roots[edge]: len(calls) for edge, _ in copies}
    lives = {root: Lifetime(root, sizes[root], first[root], last[root]) for root in first if root not in buffers}
    scratch = {k: (f"scratch {k}", call.fast) for k, call in enumerate(calls) if call.fast and call.fast.scratch_bytes}
    extra = [Lifetime(name, form.scratch_bytes, k, k) for k, (name, form) in scratch.items()]
    owners = _share_places(calls, roots, lives)
    shared = place_in_arena([*_join_lives(lives, owners), *extra])
    apart = place_in_arena([*lives.values(), *extra])
    if shared[1] <= apart[1]:
        offsets, arena = {**{root: shared[0][owners[root]] for root in lives}, **shared[0]}, shared[1]
    else:
        offsets, arena = apart
    buffers |= {root: Buffer(None, offsets[root], sizes[root]) for root in lives}
    stored = {edge: buffers[root] for edge, root in roots.items() if root in buffers}
    places = {k: offsets[name] for k, (name, _) in scratch.items()}
    return Program(graph, calls, codes, stored, tuple(copies), arena, places)


def _share_places(calls: tuple[Call, ...], roots: dict[str, str], lives: dict[str, Lifetime]) -> dict[str, str]:
    """{buffer: the buffer whose place it has}: the result of a kernel that may write over its input, where nobody reads
    that input later and the result is no larger."""
    owners = {root: root for root in lives}
    for k, call in enumerate(calls):
        result = lives.get(roots[call.output])
        if result is None or result.first != k or call.fast is None or not call.fast.in_place:
            continue
        for edge in call.op.inputs:
            source = lives.get(roots[edge])
            if source is not None and source.last == k and result.bytes <= source.bytes:
                owners[result.edge] = owners[source.edge]
                break
    return owners


def _join_lives(lives: dict[str, Lifetime], owners: dict[str, str]) -> list[Lifetime]:
    """The lifetimes of places: from the first call to the last of all buffers that have one after another."""
    return [
        Lifetime(
            owner,
            max(lives[root].bytes for root in members),
            min(lives[root].first for root in members),
            max(lives[root].last for root in members),
        )
        for owner in dict.fromkeys(owners.values())
        if (members := [root for root, other in owners.items() if other == owner])
    ]


@dataclass(frozen=True)
class Lifetime:
    """A buffer of the arena: its bytes, and the first and the last call (inclusive) that need its content."""

    edge: str
    bytes: int
    first: int
    last: int


def place_in_arena(lives: Sequence[Lifetime]) -> tuple[dict[str, int], int]:
    """({edge: offset}, bytes of the arena): the largest first, each at the lowest offset that is free while it lives.

    Offsets are multiples of 4 bytes, the alignment that int32_t needs.
    """
    placed: list[tuple[int, int, Lifetime]] = []
    for life in sorted(lives, key=lambda life: (life.bytes, life.edge), reverse=True):
        occupied = sorted(
            (begin, end) for begin, end, other in placed if other.first <= life.last and life.first <= other.last
        )
        offset = 0
        for begin, end in occupied:
            if begin - offset >= life.bytes:
                break
            offset = max(offset, end)
        placed.append((offset, offset + -(-life.bytes // _ALIGN) * _ALIGN, life))
    return {life.edge: offset for offset, _, life in placed}, max((end for _, end, _ in placed), default=0)
