"""Exact graph → graph passes, and the order in which a back end has them run.

A pass rewrites a graph so that a back end has fewer operations, or simpler ones, to lower. It keeps every output edge,
name and integer; `tests/legalise` proves that with == on random networks, and the graph verifier looks at what comes
out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from greenedge.graph import Graph, Op, verify_graph
from greenedge.lower import Lowered


@dataclass(frozen=True)
class Pass:
    """One equation. `removes` are the operations of which none is left afterwards (for the support matrix)."""

    name: str
    run: Callable[[Graph], Graph]
    removes: tuple[type[Op], ...] = ()


@dataclass(frozen=True)
class HostPass:
    """One equation between graph and host: work at the graph's end moves into the epilogue. `keep` is what stays of
    the graph, `gives` what a back end gives instead (the predicate of a sentence for people)."""

    name: str
    run: Callable[[Lowered], Lowered]
    keep: Callable[[Graph], Graph]
    gives: str
    removes: tuple[type[Op], ...] = ()


Passes = Sequence[Pass | HostPass]


def legalise(lowered: Lowered, passes: Passes) -> Lowered:
    """The model after these passes, in order. Raises AssertionError where one breaks the graph (a defect of ours)."""
    for one in passes:
        changed = one.run(lowered) if isinstance(one, HostPass) else _run_on_graph(lowered, one)
        if changed.graph is not lowered.graph:
            verify_graph(changed.graph)
        lowered = changed
    return lowered


def legalise_graph(graph: Graph, passes: Passes) -> Graph:
    """The graph alone after these passes, in order; what goes to the host is dropped."""
    for one in passes:
        graph = one.keep(graph) if isinstance(one, HostPass) else one.run(graph)
    return graph


def _run_on_graph(lowered: Lowered, one: Pass) -> Lowered:
    graph = one.run(lowered.graph)
    return lowered if graph is lowered.graph else replace(lowered, graph=graph)
