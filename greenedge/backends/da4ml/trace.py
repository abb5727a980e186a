"""One piece of the graph traced by da4ml: its stages in Verilog, and the widths by which pipeline.py joins them."""

from __future__ import annotations

import decimal
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from greenedge.backends.da4ml.partition import Piece
from greenedge.backends.da4ml.pipeline import Circuit, Wire
from greenedge.backends.da4ml.unroll import unroll
from greenedge.backends.da4ml.wires import Span, bits_of
from greenedge.files.scratch import scratch_folder
from greenedge.graph import Edge, Graph

_SUM, _DIFFERENCE = 0, 1  # da4ml's opcodes of its adders
# da4ml keeps a requantiser's shift as a decimal power of two, which Python rounds to 28 digits: 2**-s has up to s + 1
_DIGITS = 256


@dataclass(frozen=True)
class TracedPiece:
    """A piece's circuit, the ranges of its output, its Verilog by name, and cost, adders, stages and seconds."""

    circuit: Circuit
    span: Span
    files: Mapping[str, bytes]
    counts: Mapping[str, float]


def full_span(edge: Edge) -> Span:
    """Every element may have every value of the edge."""
    return Span(*(np.full(edge.shape, float(value)) for value in (edge.lo, edge.hi, 1)))


def trace(name: str, graph: Graph, piece: Piece, spans: Mapping[str, Span], cutoff: float) -> TracedPiece:
    """The piece as modules `name`_stage0… for at most `cutoff` adders in a row between two registers."""
    from da4ml.trace import comb_trace, to_pipeline

    started, edge = time.monotonic(), graph.edges[piece.output]
    with decimal.localcontext() as context:
        context.prec = _DIGITS
        sources, outputs = unroll(graph, piece, spans)
        constants = [value for output in outputs if (value := _constant(output)) is not None]
        if len(constants) == len(outputs):
            return _constant_piece(piece, constants, edge)
        comb = comb_trace(np.concatenate(sources), outputs)
        pipeline = to_pipeline(comb, cutoff, verbose=False)
    wires = [Wire(*bits_of(*map(float, q))) for q in pipeline.inp_qint]
    starts = np.cumsum([0, *(len(values) for values in sources)])
    taken = {source: tuple(wires[a:b]) for source, a, b in zip(piece.sources, starts[:-1], starts[1:], strict=True)}
    given = tuple(Wire(*bits_of(*map(float, q))) for q in pipeline.out_qint)
    stages = tuple(
        (f"{name}_stage{k}", sum(bits_of(*map(float, q))[0] for q in stage.inp_qint))
        for k, stage in enumerate(pipeline.solutions)
    )
    registered = any(latency > 0 for latency in comb.out_latency)
    circuit = Circuit(taken, piece.output, given, stages, sum(wire.width for wire in given), registered)
    span = _narrow_span(pipeline.out_qint, edge)
    counts = {
        "cost": float(comb.cost),
        "adders": sum(op.opcode in (_SUM, _DIFFERENCE) for op in comb.ops),
        "stages": len(stages) if registered else 0,
        "seconds": round(time.monotonic() - started, 2),
    }
    return TracedPiece(circuit, span, _verilog(name, pipeline), counts)


def _narrow_span(intervals: Sequence[Any], edge: Edge) -> Span:
    """da4ml's ranges, clipped to the proved range of the edge, which its bits are made for."""
    low, high, step = (np.array([float(q[k]) for q in intervals]).reshape(edge.shape) for k in range(3))
    least, most = np.ceil(edge.lo / step) * step, np.floor(edge.hi / step) * step
    return Span(np.maximum(low, least), np.minimum(high, most), step)


def _constant(value: Any) -> int | None:
    """The integer that an output is for every input; None for a wire that changes."""
    if isinstance(value, (int, float)):
        return int(value)
    return int(value.low) if value.low == value.high else None


def _constant_piece(piece: Piece, constants: list[int], edge: Edge) -> TracedPiece:
    """The record of a piece whose output is constant: no stages."""
    values = np.array(constants, float).reshape(edge.shape)
    circuit = Circuit({}, piece.output, (), (), 0, False, tuple(constants))
    return TracedPiece(
        circuit, Span(values, values, np.ones(edge.shape)), {}, {"cost": 0.0, "adders": 0, "stages": 0, "seconds": 0.0}
    )


def _verilog(name: str, pipeline: Any) -> dict[str, bytes]:
    """da4ml's operators and stages, without the module that joins the stages: pipeline.py writes the registers."""
    from da4ml.codegen import RTLModel

    with scratch_folder("da4ml") as scratch:
        RTLModel(pipeline, name, scratch, "verilog", print_latency=False).write()
        source = Path(scratch) / "src"
        # lookup_table.v is left out: nothing instantiates it, and it reads a file that is not written
        static = [path for path in sorted((source / "static").glob("*.v")) if path.name != "lookup_table.v"]
        paths = [*static, *(source / f"{name}_stage{k}.v" for k in range(len(pipeline.solutions)))]
        return {path.name: _repair_verilog(path.read_text()).encode() for path in paths}


def _repair_verilog(text: str) -> str:
    """da4ml's Verilog without time scales, and with widths on constants: a literal without a width has 32 bits."""
    text = re.sub(r"(?m)^`timescale.*\n", "", text)
    return re.sub(
        r"assign (v\d+)\[(\d+):0\] = '(b[01]+);",
        lambda found: f"assign {found[1]}[{found[2]}:0] = {int(found[2]) + 1}'{found[3]};",
        text,
    )
