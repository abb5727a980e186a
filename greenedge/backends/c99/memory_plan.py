"""The integer graph as a list of kernel calls on buffers, with the memory every buffer takes: what the C is written from.

A linear layer, pool or addition and the requantiser that alone reads it become one call, so accumulators are never stored.
A reshape is no call: both edges are the same buffer. Buffers that live at different times share the arena.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from greenedge.errors import Reason, ReasonKind
from greenedge.graph import Add, Conv, ConvTranspose, Dense, Edge, Graph, Input, Op, Requantise, Reshape, SumPool, Table

INT32 = (1 << 31) - 2
_INT16 = (1 << 15) - 1
_ALIGN = 4
_FUSED = (Dense, Conv, ConvTranspose, SumPool, Add)


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
    """The memory of an edge: a parameter of model_run ("x0", "y0") or an offset into the arena, and its length in bytes."""

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
    """One byte wherever the range of levels has at most 256 of them."""
    if -128 <= edge.lo and edge.hi <= 127:
        return Code(False, 0)
    if edge.hi - edge.lo <= 255:
        return Code(False, edge.lo + 128)
    return Code(True, 0)


def reasons_against(graph: Graph) -> list[Reason]:
    """Every reason why the kernels cannot compute `graph` exactly in 32-bit sums and 8-bit operands."""
    reasons = []
    for op in graph.ops:
        edge = graph.edges[op.output]
        if isinstance(op, (Dense, Conv, ConvTranspose)):
            reasons += _against_linear(graph, op)
        elif max(abs(edge.lo), abs(edge.hi)) > INT32:
            reasons.append(_too_wide(op, f"values of {edge.bits} bits"))
        if len(edge.shape) > 4:
            reasons.append(
                Reason(
                    op.name,
                    ReasonKind.UNSUPPORTED_OP,
                    f"a tensor of {len(edge.shape)} axes",
                    "the kernels have up to 4",
                    "use 1-d or 2-d layers",
                )
            )
        if max(edge.shape, default=1) > _INT16 * 2:
            reasons.append(
                Reason(
                    op.name,
                    ReasonKind.TOO_BIG,
                    f"an axis of {max(edge.shape):,}",
                    "sizes are 16 bits wide",
                    "split the layer",
                )
            )
        if isinstance(op, Requantise) and form_of(op) is None:
            reasons.append(
                Reason(
                    op.name,
                    ReasonKind.UNSUPPORTED_OP,
                    "a step function of more than 65,536 entries",
                    "it is stored as a table",
                    "use a monotone activation such as ReLU",
                )
            )
    return reasons


def _too_wide(op: Op, value: str) -> Reason:
    return Reason(
        op.name,
        ReasonKind.TOO_WIDE,
        value,
        "the kernels multiply 8-bit operands and add in 32 bits",
        "quantise to at most 8 bits before this layer",
    )


def _against_linear(graph: Graph, op: Dense | Conv | ConvTranspose) -> list[Reason]:
    reasons, source = [], graph.edges[op.inputs[0]]
    if code_of(source).wide:
        reasons.append(_too_wide(op, f"input of {source.bits} bits"))
    if int(op.weight.min()) < -128 or int(op.weight.max()) > 127:
        reasons.append(
            _too_wide(op, f"weights of {Edge('', (), int(op.weight.min()), int(op.weight.max())).bits} bits")
        )
    largest = _largest_sum(op, source)
    if largest > INT32:
        reasons.append(_too_wide(op, f"sums of up to {largest.bit_length() + 1} bits"))
    return reasons


def _largest_sum(op: Dense | Conv | ConvTranspose, source: Edge) -> int:
    """Bound on every partial sum of weights times stored values, and on what the offset adds to it."""
    offset = code_of(source).offset
    stored = 128 if not isinstance(op, Conv) else max(128, abs(op.pad_value - offset))
    axes = {Dense: 0, Conv: tuple(range(1, op.weight.ndim)), ConvTranspose: (0, *range(2, op.weight.ndim))}[type(op)]
    return (stored + abs(offset)) * int(np.abs(op.weight).sum(axis=axes).max())


def form_of(op: Requantise) -> str | None:
    """ "affine", "thresholds" or "table": the form of fewest bytes that fits the kernel's integers."""
    sizes = {}
    channels, steps = len(op.x_lo), op.hi - op.lo
    if isinstance(op.forms, Table):
        return "table" if op.require_table().levels.shape[1] <= 1 << 16 else None
    if op.affine is not None:
        reach = np.maximum(np.abs(op.x_lo), np.abs(op.x_hi)).astype(object)
        largest = (reach * np.abs(op.affine.m).astype(object) + np.abs(op.affine.b).astype(object)).max()
        if largest < 1 << 62 and int(np.abs(op.affine.m).max()) <= INT32:
            sizes["affine"] = 13 * channels
    if op.steps is not None and int(np.abs(op.require_steps().thresholds).max(initial=0)) <= INT32:
        sizes["thresholds"] = (4 * steps + 1) * channels
    return min(sizes, key=sizes.get) if sizes else None


def program_of(graph: Graph) -> Program:
    """The calls, codes and buffers of a graph against which there is no reason."""
    calls, skip = [], set()
    for op in graph.ops:
        if isinstance(op, (Input, Reshape)) or op.name in skip:
            continue
        step = _fused(graph, op)
        if step is not None:
            skip.add(step.name)
        calls.append(Call(op, step, step.output if step else op.output))
    codes = {name: code_of(edge) for name, edge in graph.edges.items()}
    buffers, copies, arena = _buffers(graph, tuple(calls), codes)
    return Program(graph, tuple(calls), codes, buffers, copies, arena)


def _fused(graph: Graph, op: Op) -> Requantise | None:
    """The requantiser that alone reads what `op` writes."""
    readers = graph.consumers(op.output)
    if (
        isinstance(op, _FUSED)
        and len(readers) == 1
        and isinstance(readers[0], Requantise)
        and op.output not in graph.outputs
    ):
        return readers[0]
    return None


def _roots(graph: Graph) -> dict[str, str]:
    """The edge whose buffer an edge uses: reshapes use their input's."""
    roots: dict[str, str] = {}
    for op in graph.ops:
        roots[op.output] = roots[op.inputs[0]] if isinstance(op, Reshape) else op.output
    return roots


def _buffers(graph: Graph, calls: tuple[Call, ...], codes: dict[str, Code]):
    roots = _roots(graph)
    size = lambda edge: int(np.prod(graph.edges[edge].shape, dtype=np.int64)) * codes[edge].bytes
    held = {edge: Buffer(f"x{k}", 0, size(edge)) for k, edge in enumerate(graph.inputs)}
    copies = []
    for k, edge in enumerate(graph.outputs):
        if roots[edge] in held:
            copies.append((edge, f"y{k}"))
        else:
            held[roots[edge]] = Buffer(f"y{k}", 0, size(edge))
    first, last = {}, {}
    for k, call in enumerate(calls):
        first.setdefault(roots[call.output], k)
        for edge in (*call.op.inputs, call.output):
            last[roots[edge]] = k
    last |= {roots[edge]: len(calls) for edge, _ in copies}
    wanted = [(size(root), root) for root in first if root not in held]
    placed: list[tuple[int, int, str]] = []
    for length, root in sorted(wanted, reverse=True):  # largest first, each at the lowest offset free while it lives
        taken = sorted(
            (begin, end) for begin, end, other in placed if first[other] <= last[root] and first[root] <= last[other]
        )
        offset = 0
        for begin, end in taken:
            if begin - offset >= length:
                break
            offset = max(offset, end)
        end = offset + -(-length // _ALIGN) * _ALIGN
        placed.append((offset, end, root))
        held[root] = Buffer(None, offset, length)
    arena = max((end for _, end, _ in placed), default=0)
    stored = {edge: held[root] for edge, root in roots.items() if root in held}
    return stored, tuple(copies), arena
