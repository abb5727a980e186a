"""Which back end builds a graph for a target when nobody has named one, and why: a sentence for manifest and report."""

from __future__ import annotations

from collections.abc import Mapping

from greenedge.backends import load_backend
from greenedge.graph import Graph
from greenedge.target import Target

MOST_SHARE = 0.2  # of a device's LUTs that an unrolled network may be estimated to take before folding is preferred


def choose(graph: Graph, target: Target, options: Mapping[str, object]) -> tuple[str, str | None]:
    """(back end, reason). The reason is None where the target has one back end, or none but its first was asked.

    Between `finn` and `da4ml` on an open board: unrolled where that is small, for it is the fastest there is; folded else. A
    back end that refuses the graph gives way to one that takes it.
    """
    first = target.backends[0]
    if not {"finn", "da4ml"} <= set(target.backends):
        return first, None
    refusals = {name: load_backend(name).check(graph, target, _own(name, options)) for name in ("finn", "da4ml")}
    if refusals["da4ml"] or refusals["finn"]:
        taker = "finn" if refusals["da4ml"] and not refusals["finn"] else "da4ml" if not refusals["da4ml"] else first
        other = "da4ml" if taker == "finn" else "finn"
        return taker, f"{taker} was chosen because {other} refuses the model: {str(refusals[other][0]).rstrip('.')}"
    if options.get("fps"):
        return "finn", "finn was chosen because a number of inferences per second was asked for: it folds to that"
    share, told = _unrolled(graph, target)
    if share <= MOST_SHARE:
        return "da4ml", f"da4ml was chosen because {told}: small enough for a sample in every clock cycle (at most {MOST_SHARE:.0%})"
    return "finn", f"finn was chosen because {told}: more than the {MOST_SHARE:.0%} up to which a network is unrolled by da4ml"


def _own(name: str, options: Mapping[str, object]) -> dict[str, object]:
    """The options without those that only the other back end knows."""
    theirs = {"finn": ("cutoff",), "da4ml": ()}[name]
    return {key: value for key, value in options.items() if key not in theirs}


def _unrolled(graph: Graph, target: Target) -> tuple[float, str]:
    from greenedge.backends.da4ml.estimate import LUTS_PER_BIT, adder_bits

    luts, held = LUTS_PER_BIT * sum(adder_bits(graph).values()), target.device.resources["lut4"]
    return luts / held, f"unrolled it is estimated at {luts:,.0f} LUT4, {luts / held:.0%} of {target.device.title}"
