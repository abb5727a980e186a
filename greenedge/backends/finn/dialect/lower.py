"""The integer graph as a network of hardware layers (ops.py), or every reason why it is none.

Tensors travel channels-last, so a Reshape or Transpose that only renames what comes when is no hardware: `Wire.order`
says which element of the edge each integer is, and a dense layer behind a Flatten takes its rows in that order.
"""

from __future__ import annotations

from functools import lru_cache

from greenedge.backends.finn.dialect import lower_channel_sum, lower_mvu, lower_stream  # noqa: F401  # they fill RULES
from greenedge.backends.finn.dialect.builder import Builder
from greenedge.backends.finn.dialect.ends import join_results
from greenedge.backends.finn.dialect.ops import Network
from greenedge.backends.finn.dialect.supported import RULES
from greenedge.errors import Reason
from greenedge.graph import Graph
from greenedge.legalise.rules import NotEmitting

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
    RULES.run(builder, builder.live_ops)
    try:
        wires = builder.take_outputs()
        network = builder.finish(join_results(builder, wires) if len(wires) > 1 else builder.put_last(wires[0]))
    except NotEmitting:
        network = None
    return (None, tuple(builder.reasons)) if builder.reasons else (network, ())
