"""Applies the rules to a graph: every reason against it, or its layers."""

from __future__ import annotations

from greenedge.backends.hls4ml.layers import Handover, LayerBuilder
from greenedge.backends.hls4ml.lower_moves import RULES
from greenedge.errors import Reason
from greenedge.graph import Graph
from greenedge.legalise.capabilities import check_ends

__all__ = ["RULES", "find_reasons", "hand_over"]


def find_reasons(graph: Graph, is_streamed: bool) -> list[Reason]:
    """Every reason why the graph has no exact hls4ml layers."""
    return (
        check_ends(graph, RULES.ends)
        + RULES.run(LayerBuilder(graph, is_streamed=is_streamed, is_checking=True)).reasons
    )


def hand_over(graph: Graph, has_depthwise: bool = True) -> Handover:
    """The layers of a graph against which there is no reason. `has_depthwise`: the toolchain has such a layer."""
    b = RULES.run(LayerBuilder(graph, has_depthwise))
    assert not b.reasons, b.reasons
    return Handover(tuple(b.layers), b.layouts)
