"""The operations of the integer graph, one file each. This list is all there are."""

from greenedge.graph.ops.add import Add
from greenedge.graph.ops.arg_max import ArgMax
from greenedge.graph.ops.base import Edge, Op, freeze
from greenedge.graph.ops.channel_add import ChannelAdd
from greenedge.graph.ops.concat import Concat
from greenedge.graph.ops.conv import Conv
from greenedge.graph.ops.conv_transpose import ConvTranspose
from greenedge.graph.ops.dense import Dense
from greenedge.graph.ops.depth_to_space import DepthToSpace
from greenedge.graph.ops.gather import Gather
from greenedge.graph.ops.input import Input
from greenedge.graph.ops.linear import Linear
from greenedge.graph.ops.matmul import MatMul
from greenedge.graph.ops.max_pool import MaxPool
from greenedge.graph.ops.multiply import Multiply
from greenedge.graph.ops.normalise import Normalise
from greenedge.graph.ops.pad import Pad
from greenedge.graph.ops.requantise import Affine, Requantise, Steps, Table
from greenedge.graph.ops.reshape import Reshape
from greenedge.graph.ops.softmax import Softmax
from greenedge.graph.ops.sum_pool import SumPool
from greenedge.graph.ops.transpose import Transpose
from greenedge.graph.ops.upsample import Upsample

_ALL: tuple[type[Op], ...] = (
    Input,
    Dense,
    Conv,
    ConvTranspose,
    MaxPool,
    SumPool,
    Add,
    ChannelAdd,
    Multiply,
    MatMul,
    Softmax,
    Normalise,
    Concat,
    Requantise,
    Pad,
    Reshape,
    Transpose,
    Upsample,
    DepthToSpace,
    Gather,
    ArgMax,
)
OPS: dict[str, type[Op]] = {op.__name__: op for op in _ALL}

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
]
