"""The integer graph as a list of kernel calls on buffers, with the memory that every buffer takes.

A layer of sums and the requantiser that alone reads it become one call, so accumulators are never stored. A reshape is
no call: both edges are the same buffer. Buffers that live at different times share the arena.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from greenedge.graph import Edge, Graph, Op, Requantise, Reshape

_ALIGN = 4
_FARTHEST = (1 << 15) - 1  # an offset is an int16_t


@dataclass(frozen=True)
class Code:
    """How a tensor is stored: int32 values, or int8 holding level - offset."""

    wide: bool
    offset: int

    @property
    def bytes(self) -> int:
        return 4 if self.wide else 1

    @property
    def c_type(self) -> str:
        return "int32_t" if self.wide else "int8_t"


@dataclass(frozen=True)
class Buffer:
    """The memory of an edge: a parameter of model_run ("x0", "y0") or an offset into the arena, and its bytes."""

    parameter: str | None
    offset: int
    bytes: int


@dataclass(frozen=True, eq=False)
class Call:
    """One kernel call: the operation, the requantiser that follows in it (or None), and the edge that it writes."""

    op: Op
    step: Requantise | None
    output: str


@dataclass(frozen=True)
class Program:
    """Everything the C text says. `buffers` has every stored edge, reshaped ones included."""

    graph: Graph
    calls: tuple[Call, ...]
    codes: dict[str, Code]
    buffers: dict[str, Buffer]
    copies: tuple[tuple[str, str], ...]  # (edge, output parameter) of outputs whose buffer is not a parameter
    arena_bytes: int


def code_of(edge: Edge) -> Code:
    """One byte wherever the range of levels has at most 256 of them, not farther from 0 than an offset reaches."""
    if -128 <= edge.lo and edge.hi <= 127:
        return Code(False, 0)
    if edge.hi - edge.lo <= 255 and abs(edge.lo + 128) <= _FARTHEST:
        return Code(False, edge.lo + 128)
    return Code(True, 0)


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
        calls.append(Call(op, step, step.output if step else op.output))
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
    lives = [Lifetime(root, sizes[root], first[root], last[root]) for root in first if root not in buffers]
    offsets, arena = place_in_arena(lives)
    buffers |= {root: Buffer(None, offset, sizes[root]) for root, offset in offsets.items()}
    stored = {edge: buffers[root] for edge, root in roots.items() if root in buffers}
    return Program(graph, calls, codes, stored, tuple(copies), arena)


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
