"""Which back end builds a graph for a target when nobody has named one, and why: a sentence for manifest and report."""

from __future__ import annotations

from collections.abc import Mapping

from greenedge.backends import graph_for, load_backend
from greenedge.graph import Graph
from greenedge.target import Target

_GOALS = ("fps", "latency")  # both back ends know them; folding is what they steer
MOST_SHARE = 0.2  # of a device's LUTs that an unrolled network may be estimated to take before folding is preferred


def choose(graph: Graph, target: Target, options: Mapping[str, object]) -> tuple[str, str | None]:
    """(back end, reason). The reason is None where the target has one back end, or none but its first was asked.

    Between `finn` and `da4ml` on an open board: unrolled where that is small, for it is the fastest there is; folded
    else. A back end that refuses the graph gives way to one that takes it.
    """
    first = target.backends[0]
    if not {"finn", "da4ml"} <= set(target.backends):
        return first, None
    modules = {name: load_backend(name) for name in ("finn", "da4ml")}
    for name, other in (("finn", "da4ml"), ("da4ml", "finn")):
        if own := [key for key in options if key in modules[name].OPTIONS and key not in modules[other].OPTIONS]:
            return name, f"{name} was chosen because build.{own[0]} was set, which {other} does not have"
    refusals = {name: module.check(graph_for(module, graph), target, options) for name, module in modules.items()}
    if refusals["da4ml"] or refusals["finn"]:
        taker = "finn" if refusals["da4ml"] and not refusals["finn"] else "da4ml" if not refusals["da4ml"] else first
        other = "da4ml" if taker == "finn" else "finn"
        why = refusals[other][0]
        return taker, f"{taker} was chosen because {other} refuses the model ({why.node}: {why.value}; {why.rule})"
    if asked := [key for key in _GOALS if options.get(key)]:
        return "finn", f"finn was chosen because build.{asked[0]} was asked for, which it takes as its goal"
    share, told = _unrolled(graph_for(modules["da4ml"], graph), target)
    if share <= MOST_SHARE:
        return "da4ml", (
            f"da4ml was chosen because {told}: small enough for a sample in every clock cycle "
            f"(at most {MOST_SHARE:.0%})"
        )
    return "finn", (
        f"finn was chosen because {told}: more than the {MOST_SHARE:.0%} up to which a network is unrolled by da4ml"
    )


def _unrolled(graph: Graph, target: Target) -> tuple[float, str]:
    from greenedge.backends.da4ml.estimate import LUTS_PER_BIT, adder_bits

    luts, held = LUTS_PER_BIT * sum(adder_bits(graph).values()), target.device.resources["lut4"]
    return luts / held, f"unrolled it is estimated at {luts:,.0f} LUT4, {luts / held:.0%} of {target.device.title}"
