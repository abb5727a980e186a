"""Why an integer graph has no exact int8 file: every reason, from the graph alone."""

from __future__ import annotations

from collections.abc import Mapping

from greenedge.backends.int8.arithmetic import MOST
from greenedge.backends.int8.legalise import SUMS, prepared
from greenedge.backends.int8.quant_params import LEVELS, encode, encode_input
from greenedge.backends.int8.rules import pad_level, steps, storage, weights
from greenedge.backends.int8.tflite.emit import common_range, padding_level
from greenedge.backends.int8.tflite.float_outputs import OUTPUTS
from greenedge.errors import Reason, ReasonKind
from greenedge.graph import (
    Add,
    Concat,
    Conv,
    ConvTranspose,
    Dense,
    Graph,
    Input,
    MaxPool,
    Op,
    Pad,
    Requantise,
    SumPool,
    Upsample,
)

KERNELS = ("xnnpack", "all")
STORAGES = ("int8", "int4-dense")
_REFUSED = {
    "int4": "LiteRT 2.3 keeps int4 convolutions from XNNPACK, three times slower than int8",
    "int2": "LiteRT 2.3 has no int2 convolutions",
}


def reasons_against(graph: Graph) -> list[Reason]:
    """Every reason why the graph has no exact int8 file."""
    graph = prepared(graph)
    return [reason for op in graph.ops for reason in (*storage(graph, op), *_of_kind(graph, op))]


def option_reasons(graph: Graph, options: Mapping[str, object], compiled: bool) -> list[Reason]:
    """Why the file cannot be what build.storage, build.kernels and build.outputs say; `compiled`: whether an accelerator's compiler reads it."""
    found = [
        Reason(
            graph.name,
            ReasonKind.OPTION,
            f"build.{option} is {options[option]!r}",
            f"it is one of {', '.join(known)}",
            f"leave it out for {known[0]}",
        )
        for option, known in (("kernels", KERNELS), ("outputs", OUTPUTS))
        if options.get(option, known[0]) not in known
    ]
    return found + _storage_reasons(graph, options, compiled)


def _storage_reasons(graph: Graph, options: Mapping[str, object], compiled: bool) -> list[Reason]:
    wanted = options.get("storage", STORAGES[0])
    if wanted == STORAGES[1] and compiled:
        return [
            Reason(
                graph.name,
                ReasonKind.OPTION,
                f"build.storage is {wanted!r}",
                "compilers of accelerators take int8 (Vela 5.2 dies on int4) and pack it themselves",
                "leave it out for int8",
            )
        ]
    if wanted in STORAGES:
        return []
    if wanted not in _REFUSED:
        return [
            Reason(
                graph.name,
                ReasonKind.OPTION,
                f"build.storage is {wanted!r}",
                f"it is one of {', '.join(STORAGES)}",
                "leave it out for int8",
            )
        ]
    return [
        Reason(
            op.name,
            ReasonKind.OPTION,
            f"{wanted} weights",
            _REFUSED[wanted],
            f"build.storage={STORAGES[1]}, or int8 (which is the default)",
        )
        for op in graph.ops
        if isinstance(op, (Conv, ConvTranspose))
    ] or [
        Reason(
            graph.name,
            ReasonKind.OPTION,
            f"build.storage is {wanted!r}",
            "dense layers alone may be narrower than int8",
            f"build.storage={STORAGES[1]}",
        )
    ]


def _of_kind(graph: Graph, op: Op) -> list[Reason]:
    check = _CHECKS.get(type(op))
    return check(graph, op) if check else []


def _weights(graph: Graph, op) -> list[Reason]:
    found = weights(graph, op, "LiteRT")
    if isinstance(op, (Conv, ConvTranspose)) and op.weight.ndim > 4:
        found.append(_rank(op, op.weight.ndim - 2))
    return found


def _rank(op: Op, axes: int) -> Reason:
    return Reason(
        op.name,
        ReasonKind.UNSUPPORTED_OP,
        f"a window over {axes} axes",
        "LiteRT's int8 kernels have one or two",
        "use 1-D or 2-D layers",
    )


def _conv(graph: Graph, op: Conv) -> list[Reason]:
    found = _weights(graph, op)
    if any(op.pads):
        found += pad_level(graph, op, op.pad_value)
    return found


def _conv_transpose(graph: Graph, op: ConvTranspose) -> list[Reason]:
    """What lies between the samples adds nothing, as the zero point does; so that has to stand for level 0."""
    found, edge = _weights(graph, op), graph.edges[op.inputs[0]]
    zero = _zero_level(graph, edge.name) if edge.hi - edge.lo <= LEVELS else 0
    if zero != 0:
        found.append(
            Reason(
                op.name,
                ReasonKind.UNSUPPORTED_OP,
                f"an input of {edge.lo}…{edge.hi}, whose zero point stands for {zero}",
                "LiteRT's transposed convolution takes the zero point for 0",
                "let the quantiser begin at 0, or be symmetric",
            )
        )
    return found


def _zero_level(graph: Graph, edge: str) -> int:
    """The level that the zero point of a stored edge will stand for."""
    op = graph.producer(edge)
    lo, hi = _written(graph, edge)
    if hi - lo > LEVELS:
        return 0  # refused for another reason
    if isinstance(op, (Input, Requantise, *SUMS)):
        encoding = encode_input if isinstance(op, Input) else encode
        return encoding(lo, hi, padding_level(graph, edge, lo, hi)).zero_level
    return encode(lo, hi).zero_level if isinstance(op, Concat) else _zero_level(graph, op.inputs[0])


def _pool(graph: Graph, op: MaxPool | SumPool) -> list[Reason]:
    found = [_rank(op, len(op.kernel))] if len(op.kernel) > 2 else []
    if isinstance(op, MaxPool) and any(d != 1 for d in op.dilations):
        found.append(
            Reason(
                op.name,
                ReasonKind.UNSUPPORTED_OP,
                f"dilations {tuple(op.dilations)}",
                "LiteRT's pools have none",
                "use dilation 1",
            )
        )
    if isinstance(op, SumPool) and any(op.pads):
        found += pad_level(graph, op, op.pad_value)
    return found


def _add(graph: Graph, op: Add) -> list[Reason]:
    found = []
    if max(abs(m) for m in op.multipliers) > MOST:
        found.append(
            Reason(
                op.name,
                ReasonKind.TOO_WIDE,
                f"branches weighted {tuple(op.multipliers)}",
                f"the weights of an addition lie in -{MOST}…{MOST}",
                "let both branches share one quantiser",
            )
        )
    return found + _common(graph, op)


def _common(graph: Graph, op: Op) -> list[Reason]:
    """The inputs must fit one encoding."""
    edges = [graph.edges[edge] for edge in op.inputs]
    if any(edge.hi - edge.lo > LEVELS for edge in edges):
        return []
    lo, hi = common_range([encode(*_written(graph, edge.name)) for edge in edges])
    if hi - lo <= LEVELS:
        return []
    ranges = " and ".join(f"{edge.name} {edge.lo}…{edge.hi}" for edge in edges)
    return [
        Reason(
            op.name,
            ReasonKind.TOO_WIDE,
            f"inputs {ranges}",
            "together they must fit 256 levels",
            "let both branches share one quantiser",
        )
    ]


def _written(graph: Graph, edge: str) -> tuple[int, int]:
    """The levels for which the tensor of a stored edge is encoded."""
    op = graph.producer(edge)
    if isinstance(op, Requantise):
        return op.lo, op.hi
    if isinstance(op, (Input, *SUMS)):
        return graph.edges[edge].lo, graph.edges[edge].hi
    ranges = [_written(graph, source) for source in op.inputs]
    return min(lo for lo, _ in ranges), max(hi for _, hi in ranges)


def _step(graph: Graph, op: Requantise) -> list[Reason]:
    found = steps(op, "LiteRT")
    if op.steps is None:
        return found
    rank = len(graph.edges[op.output].shape)
    source = graph.producer(op.inputs[0])
    wanted = {Dense: (rank - 1,), Add: (0, rank - 1)}.get(
        type(source), (0,) if isinstance(source, SUMS) else (0, rank - 1)
    )
    if op.channels > 1 and op.axis not in wanted:
        found.append(
            Reason(
                op.name,
                ReasonKind.UNSUPPORTED_OP,
                f"a step function per index of axis {op.axis}",
                "LiteRT has one per output channel",
                "quantise per channel or per tensor",
            )
        )
    return found


def _pad(graph: Graph, op: Pad) -> list[Reason]:
    return pad_level(graph, op, op.value)


def _upsample(graph: Graph, op: Upsample) -> list[Reason]:
    if len(op.factors) in (2, 3) and op.factors[0] == 1:
        return []
    return [
        Reason(
            op.name,
            ReasonKind.UNSUPPORTED_OP,
            f"factors {tuple(op.factors)}",
            "LiteRT resizes one or two image axes",
            "upsample height and width",
        )
    ]


def _concat(graph: Graph, op: Concat) -> list[Reason]:
    return _common(graph, op)


_CHECKS = {
    Dense: _weights,
    Conv: _conv,
    ConvTranspose: _conv_transpose,
    SumPool: _pool,
    MaxPool: _pool,
    Add: _add,
    Requantise: _step,
    Pad: _pad,
    Upsample: _upsample,
    Concat: _concat,
}
