"""The integer graph as a network of hardware layers (ops.py), or every reason why it is none.

Tensors travel channels-last, so a Reshape or Transpose that only renames what comes when is no hardware: `Wire.order`
says which element of the edge each integer is, and a dense layer behind a Flatten takes its rows in that order.
"""

from __future__ import annotations

from functools import lru_cache

from greenedge.backends.finn.dialect import lower_mvu, lower_stream  # noqa: F401  # they fill RULES
from greenedge.backends.finn.dialect.builder import Builder
from greenedge.backends.finn.dialect.ops import Network
from greenedge.backends.finn.dialect.supported import RULES
from greenedge.errors import Reason, ReasonKind
from greenedge.graph import Graph

__all__ = ["RULES", "lower_graph", "require_network"]


def require_network(graph: Graph) -> Network:
    """The layers of a graph against which there is no reason."""
    network, reasons = lower_graph(graph)
    assert network is not None, reasons
    return network


@lru_cache(maxsize=2)
def lower_graph(graph: Graph) -> tuple[Network | None, tuple[Reason, ...]]:
    """(the network, no reasons), or (None, every reason)."""
    builder = Builder(graph)
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        builder.refuse(
            graph.name,
            ReasonKind.UNSUPPORTED_GRAPH,
            f"{len(graph.inputs)} inputs and {len(graph.outputs)} outputs",
            "finn streams one input to one output",
            "cut the model in two",
        )
        return None, tuple(builder.reasons)
    network = RULES.run(builder, builder.live_ops).finish()
    return (None, tuple(builder.reasons)) if builder.reasons else (network, ())
