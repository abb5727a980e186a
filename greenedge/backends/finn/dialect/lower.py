"""The integer graph as a network of hardware layers (layers.py), or every reason why it is none.

Tensors travel channels-last, so a Reshape or Transpose that only renames what comes when is no hardware: `Wire.order` says
which element of the edge each integer is, and a dense layer behind a Flatten takes its rows in that order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from greenedge.backends.finn.dialect import lower_mvu, lower_stream
from greenedge.backends.finn.dialect import ops as hw
from greenedge.backends.finn.dialect.builder import Builder
from greenedge.errors import Reason, ReasonKind
from greenedge.graph import (
    Add,
    ArgMax,
    Concat,
    Conv,
    ConvTranspose,
    Dense,
    DepthToSpace,
    Graph,
    Input,
    MaxPool,
    Op,
    Pad,
    Requantise,
    Reshape,
    SumPool,
    Transpose,
    Upsample,
)

RULES: dict[type[Op], Callable[[Builder, Op], None]] = {
    Input: lower_stream.source,
    Reshape: lower_stream.view,
    Transpose: lower_stream.view,
    Dense: lower_mvu.dense,
    Conv: lower_mvu.conv,
    MaxPool: lower_stream.pool,
    SumPool: lower_stream.pool,
    Pad: lower_stream.pad,
    Requantise: lower_stream.requantise,
    Add: lower_stream.add,
    Concat: lower_stream.concat,
    Upsample: lower_stream.upsample,
    ArgMax: lower_stream.arg_max,
    ConvTranspose: lower_stream.unbuilt(
        "a transposed convolution", "use nearest-neighbour upsampling and a convolution"
    ),
    DepthToSpace: lower_stream.unbuilt("DepthToSpace", "use nearest-neighbour upsampling and a convolution"),
}


def network_of(graph: Graph) -> hw.Network:
    """The layers of a graph against which there is no reason."""
    network, reasons = translate(graph)
    assert network is not None, reasons
    return network


@lru_cache(maxsize=2)
def translate(graph: Graph) -> tuple[hw.Network | None, tuple[Reason, ...]]:
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
    for op in graph.ops:
        builder.add(op, RULES)
    network = builder.finished()
    return (None, tuple(builder.reasons)) if builder.reasons else (network, ())
