"""The exact integer graph: its operations, their execution, and how it is stored.

graph = load_graph(folder)                 # RunFolder.lower of a run
y = run_graph(graph, x)                    # {output edge: int64 array}; x is an int array with the batch first
"""

from greenedge.graph.execute import run_graph
from greenedge.graph.graph import Graph
from greenedge.graph.ops import (
    OPS,
    Add,
    Affine,
    ArgMax,
    ChannelAdd,
    Concat,
    Conv,
    ConvTranspose,
    Dense,
    DepthToSpace,
    Edge,
    Gather,
    Input,
    Linear,
    MatMul,
    MaxPool,
    Multiply,
    Normalise,
    Op,
    Pad,
    Requantise,
    Reshape,
    Softmax,
    Steps,
    SumPool,
    Table,
    Transpose,
    Upsample,
    freeze,
)
from greenedge.graph.store import graph_digest, load_graph, save_graph
from greenedge.graph.verifier import verify_graph

__all__ = [
    "OPS",
    "Add",
    "Affine",
    "ArgMax",
    "ChannelAdd",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Dense",
    "DepthToSpace",
    "Edge",
    "Graph",
    "Input",
    "Linear",
    "MatMul",
    "MaxPool",
    "Multiply",
    "Normalise",
    "Op",
    "Pad",
    "Requantise",
    "Reshape",
    "Gather",
    "Softmax",
    "Steps",
    "SumPool",
    "Table",
    "Transpose",
    "Upsample",
    "freeze",
    "graph_digest",
    "load_graph",
    "run_graph",
    "save_graph",
    "verify_graph",
]
