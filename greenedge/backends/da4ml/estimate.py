"""How large an unrolled graph will be, before it is traced, and what follows for a device.

The rules estimate the bits of adders, operation by operation (adders.py). On nine traced networks of 690 to 20,300 bits
the estimate was 4 % too low to 19 % too high; larger matrices share more. In logic cells it was 33 to 59 % above what
yosys counts, which placement adds 25 to 29 % to (benchmarks/da4ml_estimate.py prints all but the last).
"""

from __future__ import annotations

from collections.abc import Mapping

from greenedge.backends.da4ml.unroll import RULES
from greenedge.backends.da4ml.wires import WireBuilder
from greenedge.backends.da4ml.wrapper import streams_of
from greenedge.backends.interface import Fitness, Options
from greenedge.errors import Reason, ReasonKind
from greenedge.graph import Graph
from greenedge.graph.joined_inputs import join_input_edges
from greenedge.graph.joined_outputs import join_output_edges
from greenedge.target import Target

LUTS_PER_BIT = 1.9  # placed logic cells of an ECP5 per bit: 1.88 to 1.96 on three routed networks
TRACEABLE = 400_000  # adder bits beyond which tracing takes hours
MOST_SHARE = 0.2  # of a device's LUTs that an unrolled network may be estimated to take before folding is preferred
_GOALS = ("fps", "latency")  # what a folding is searched for


def adder_bits(graph: Graph) -> dict[str, float]:
    """Estimated bits of adders per operation of the graph; operations without adders are left out."""
    return RULES.run(WireBuilder(graph)).adder_bits


def rank_unrolling(graph: Graph, target: Target, options: Options) -> Fitness:
    """Above folding for a small network (unrolled is the fastest there is) without a goal that was set, else below."""
    available = target.device.resources.get("lut4")
    if available is None or any(options.get(key) for key in _GOALS):
        return Fitness(0, "")
    luts = LUTS_PER_BIT * sum(adder_bits(graph).values())
    share = luts / available
    estimate = f"unrolled it is estimated at {luts:,.0f} LUT4, {share:.0%} of {target.device.title}"
    if share <= MOST_SHARE:
        return Fitness(2, f"{estimate}: small enough for a sample in every clock cycle (at most {MOST_SHARE:.0%})")
    return Fitness(0, f"{estimate}: more than the {MOST_SHARE:.0%} up to which a network is unrolled by da4ml")


def check_rate(graph: Graph, options: Options, clock_hz: int) -> list[Reason]:
    """More inferences per second than samples enter. A latency is known when the network has been traced
    (initial_simulation.py), not before.
    """
    wanted = options.get("fps")
    beats = max(stream.beats for stream in streams_of(join_input_edges(graph), join_output_edges(graph)))
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


def check_size(graph: Graph, target: Target, bits: Mapping[str, float]) -> list[Reason]:
    """The largest layer where `bits` (of adders, per operation) are more than the device has, or than can be traced in
    hours.
    """
    total, available = sum(bits.values()), target.device.resources.get("lut4")
    luts = LUTS_PER_BIT * total
    largest = max(bits, key=lambda name: bits[name], default=graph.name)
    cure = "choose --backend finn, which folds layers, or use fewer bits or neurons"
    if available is not None and luts > available:
        return [
            Reason(
                largest,
                ReasonKind.TOO_BIG,
                f"the network unrolls to an estimated {luts:,.0f} LUT4, this layer to "
                f"{LUTS_PER_BIT * bits[largest]:,.0f} of them",
                f"{target.device.title} has {available:,}",
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
