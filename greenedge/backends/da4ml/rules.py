"""Why a graph cannot be unrolled: every reason, from the graph and the device alone, before anything is traced."""

from __future__ import annotations

from collections.abc import Mapping

from greenedge.backends.da4ml.estimate import LUTS_PER_BIT, TRACEABLE, adder_bits
from greenedge.backends.da4ml.wrapper import streams_of
from greenedge.errors import Reason, ReasonKind
from greenedge.graph import Affine, Graph, Requantise
from greenedge.graph.half_even import half_even
from greenedge.target import Target

_MOST_BITS = 48  # of a product with a multiplier: da4ml takes widths from log2 in doubles, exact up to 2**48
# da4ml looks for no more zeros than these below a constant; where one is shifted further, the multiplexer of its clip
# takes the wrong bits (0.5.2: single requantisers were right up to 32 and wrong from 33 on)
_MOST_ZEROS = 31


def reasons_against(graph: Graph) -> list[Reason]:
    """Every reason why the graph has no exact expression of constants and adders."""
    found = []
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        found.append(
            Reason(
                graph.name,
                ReasonKind.UNSUPPORTED_GRAPH,
                f"{len(graph.inputs)} inputs and {len(graph.outputs)} outputs",
                "one input streams to one output",
                "cut the model in two",
            )
        )
    for op in graph.ops:
        if not isinstance(op, Requantise):
            continue
        affine = op.affine or half_even(op)
        if affine is None:
            found.append(
                Reason(
                    op.name,
                    ReasonKind.NO_AFFINE_FORM,
                    "a step function that is no multiply, add and shift",
                    "adders compute clip((m*x + b) >> s)",
                    "use batch norm and ReLU before the quantiser",
                )
            )
        elif (bits := _product_bits(op, affine)) > _MOST_BITS:
            found.append(
                Reason(
                    op.name,
                    ReasonKind.TOO_WIDE,
                    f"products of {bits} bits",
                    f"da4ml reckons in {_MOST_BITS}",
                    "use `greenedge snap` to narrow it",
                )
            )
        elif (zeros := _zeros_below(op, affine)) > _MOST_ZEROS:
            found.append(
                Reason(
                    op.name,
                    ReasonKind.TOO_DEEP,
                    f"constants with {zeros} zeros behind a shift of {affine.s.max()}",
                    f"da4ml 0.5 finds {_MOST_ZEROS}, and its Verilog is wrong beyond",
                    "use `greenedge snap` for shorter multipliers, or choose --backend finn",
                )
            )
    return found


def _product_bits(op: Requantise, affine: Affine) -> int:
    reach = max(abs(int(op.x_lo.min())), abs(int(op.x_hi.max())))
    return max((abs(int(m)) * reach + abs(int(b))).bit_length() for m, b in zip(affine.m, affine.b))


def _zeros_below(op: Requantise, affine: Affine) -> int:
    """Zeros at the low end of the constants that clip and offset a result, counted where it still has its fraction."""
    zeros = [(value & -value).bit_length() - 1 for value in (op.lo, op.hi - op.lo) if value]
    return int(affine.s.max()) + max(zeros, default=0)


def too_slow(graph: Graph, options: Mapping[str, object], clock_hz: int) -> list[Reason]:
    """More inferences per second than samples enter; a latency is known only when the network has been traced
    (measure.py).
    """
    wanted = options.get("fps")
    beats = max(stream.beats for stream in streams_of(graph.edges[graph.inputs[0]], graph.edges[graph.outputs[0]]))
    if not isinstance(wanted, (int, float)) or wanted * beats <= clock_hz:
        return []
    return [
        Reason(
            graph.name,
            ReasonKind.TOO_SLOW,
            f"{wanted:,.0f} inferences per second",
            f"a sample enters every {beats} cycles of {clock_hz / 1e6:g} MHz",
            "ask for fewer, or a faster clock",
        )
    ]


def too_large(graph: Graph, target: Target) -> list[Reason]:
    """The largest layers where the estimate is above what the device has, or above what can be traced in hours."""
    bits = adder_bits(graph)
    total, held = sum(bits.values()), target.device.resources.get("lut4")
    luts = LUTS_PER_BIT * total
    largest = max(bits, key=bits.get, default=graph.name)
    cure = "choose --backend finn, which folds layers, or use fewer bits or neurons"
    if held is not None and luts > held:
        return [
            Reason(
                largest,
                ReasonKind.TOO_BIG,
                f"the network unrolls to an estimated {luts:,.0f} LUT4, this layer to "
                f"{LUTS_PER_BIT * bits[largest]:,.0f} of them",
                f"{target.device.title} has {held:,}",
                cure,
            )
        ]
    if total > TRACEABLE:
        return [
            Reason(
                largest,
                ReasonKind.TOO_BIG,
                f"the network unrolls to an estimated {total:,.0f} adder bits",
                f"da4ml traces {TRACEABLE:,} in hours",
                cure,
            )
        ]
    return []
