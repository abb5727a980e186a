"""The float network behind an integer graph, as plain ONNX: the baseline of every comparison.

Each sum and the quantiser behind it become one layer with a bias (batch norm folded in, as a float deployment has
it), a ReLU where the levels begin at 0, and no rounding. Values are levels times a scale of each edge, chosen so that
additions and pools need no factor of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from greenedge.backends.int8.search import fit_line
from greenedge.errors import UnsupportedError
from greenedge.graph import (
    Add,
    ChannelAdd,
    Concat,
    Conv,
    ConvTranspose,
    Dense,
    DepthToSpace,
    Gather,
    Graph,
    Input,
    MaxPool,
    Multiply,
    Op,
    Pad,
    Requantise,
    Reshape,
    SumPool,
    Transpose,
    Upsample,
)
from greenedge.graph.lines import identity_step
from greenedge.graph.ops.base import Floats
from greenedge.graph.ops.gather import describe_stage
from greenedge.legalise import CLAMP_AT_REACH, FOLD_LAYOUTS, FUSE_STEPS, REQUANTISE_EARLY, legalise_graph
from greenedge.legalise.rules import RuleBuilder, Rules

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

PASSES = (FUSE_STEPS, FOLD_LAYOUTS, REQUANTISE_EARLY, CLAMP_AT_REACH)
_OPSET = 13
_CLOSE = 1e-12
_FEW_LEVELS = 1 << 12  # up to which stored sums are read off the steps of the identity


@dataclass(frozen=True, eq=False)
class _Line:
    """level = slope*x + offset behind a sum, written to `edge`; `step` is the quantiser that it stands for, if any."""

    edge: str
    slope: Floats
    offset: Floats
    step: Requantise | None = None

    @property
    def has_relu(self) -> bool:
        return self.step is not None and self.step.lo == 0 and not self.step.name.endswith("/stored")


WriteSum = Callable[[_Line, str], None]  # writes a sum on a line to a tensor


class FloatBuilder(RuleBuilder):
    """The model in the making; scale[edge] is the value of one level there. The tensor of an edge is called
    EDGE/value."""

    def __init__(self, graph: Graph, is_checking: bool = False) -> None:
        super().__init__(graph, is_checking)
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.scale: dict[str, float] = {}
        self._sums: dict[str, WriteSum] = {}

    def constant(self, name: str, values: ArrayLike, kind: DTypeLike = np.float32) -> str:
        """A constant tensor; returns its name."""
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values, kind), name))
        return name

    def node(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """A node with one output; returns the output's name."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=f"{output}/{kind}", **attributes))
        return output

    def reshape(self, tensor: str, shape: Sequence[int], name: str, output: str) -> str:
        """`tensor` under another shape (0: as it is, for the batch); `name` is that of the shape."""
        return self.node("Reshape", [tensor, self.constant(name, shape, np.int64)], output)

    def pad(self, source: str, pads: Sequence[int], value: float, output: str, rank: int | None = None) -> str:
        """Pads the last axes (begin…, end…)."""
        n = len(pads) // 2
        rank = rank or n + 2
        whole = [*[0] * (rank - n), *pads[:n], *[0] * (rank - n), *pads[n:]]
        inputs = [source, self.constant(f"{output}/pads", whole, np.int64), self.constant(f"{output}/level", value)]
        return self.node("Pad", inputs, output)

    def pad_input(self, op: Conv | SumPool, output: str) -> tuple[str, tuple[int, ...]]:
        """(input, pads left) of an operator that pads with 0: another level is padded first."""
        source = value_of(op.inputs[0])
        if not any(op.pads) or not op.pad_value:
            return source, op.pads
        level = op.pad_value * self.scale[op.inputs[0]]
        return self.pad(source, op.pads, level, output), (0,) * len(op.pads)

    def weigh(self, edge: str, factor: float | Floats, output: str) -> str:
        """The edge's value times `factor`, a number or what broadcasts against it without its batch."""
        if np.all(np.abs(factor - 1) <= _CLOSE):
            return value_of(edge)
        return self.node("Mul", [value_of(edge), self.constant(f"{output}/factor", factor)], output)

    def announce_sum(self, op: Op, write: WriteSum) -> None:
        """Has `write` called with the line of every quantiser behind the sum, and the tensor to write; at once where
        something else reads it too."""
        if not self.graph.needs_storage(op.output):
            self._sums[op.output] = write
            return
        edge = self.graph.edges[op.output]
        if edge.hi - edge.lo < _FEW_LEVELS:
            self.write_layer(write, _line_of(identity_step(edge, op.output)))
        else:
            self.write_layer(write, _Line(op.output, np.ones(1), np.zeros(1)))

    def sum_before(self, step: Requantise) -> WriteSum | None:
        """What writes the sum that `step` reads; None where it reads levels."""
        return self._sums.get(step.inputs[0])

    def write_layer(self, write: WriteSum, line: _Line) -> None:
        """A sum, the line behind it, and the ReLU where its levels begin at 0."""
        written = f"{line.edge}/linear" if line.has_relu else value_of(line.edge)
        write(line, written)
        self.scale.setdefault(line.edge, 1.0)
        if line.has_relu:
            self.node("Relu", [written], value_of(line.edge))

    def write_line(self, total: str, scale: float, rank: int, line: _Line, written: str) -> None:
        """`total` (levels times `scale`) on its line: the slope goes into the scale of what is written, unless
        channels have their own."""
        axis, levels = (0, 1) if line.step is None else (line.step.axis, line.step.hi - line.step.lo)
        shape = [1] * (rank + 1)
        shape[axis + 1] = -1
        slope, offset = line.slope, line.offset
        is_shared = np.ptp(slope) <= _CLOSE * np.abs(slope).max() and slope[0] > 0
        if not is_shared:
            factor = self.constant(f"{written}/slope", (slope / scale).reshape(shape))
            total = self.node("Mul", [total, factor], f"{written}/scaled")
        self.scale[line.edge] = scale / float(slope[0]) if is_shared else 1.0
        if np.abs(offset).max() < 1e-6 * max(1, levels):
            self.node("Identity", [total], written)
        else:
            shift = self.constant(f"{written}/offset", (offset * self.scale[line.edge]).reshape(shape))
            self.node("Add", [total, shift], written)


RULES: Rules[FloatBuilder] = Rules("float", "the float baseline")


def value_of(edge: str) -> str:
    """The name of the tensor that holds an edge's value."""
    return f"{edge}/value"


def _line_of(step: Requantise) -> _Line:
    return _Line(step.output, *fit_line(step), step)


def float_model(graph: Graph) -> ModelProto:
    """An ONNX ModelProto from float levels (N, *shape) to float levels, its tensors named as the graph's edges.

    A step function that is no straight line is taken as the line nearest to it. Raises UnsupportedError for a graph
    with one that rises and falls, or an operation without a rule.
    """
    from onnx import TensorProto, helper

    b = RULES.run(FloatBuilder(legalise_graph(graph, PASSES)))
    if b.reasons:
        raise UnsupportedError(f"{graph.name} has no float baseline:", b.reasons)
    outputs = list(dict.fromkeys(graph.outputs))
    for edge in outputs:
        b.node("Mul", [value_of(edge), b.constant(f"{edge}/step", 1 / b.scale[edge])], edge)

    def declare(edge: str) -> ValueInfoProto:
        return helper.make_tensor_value_info(edge, TensorProto.FLOAT, ["N", *graph.edges[edge].shape])

    ends = [declare(edge) for edge in graph.inputs], [declare(edge) for edge in outputs]
    body = helper.make_graph(b.nodes, graph.name, *ends, b.constants)
    opsets = [helper.make_opsetid("", _OPSET)]
    return helper.make_model(body, opset_imports=opsets, ir_version=8, producer_name="greenedge")


@RULES.lowers(Input)
def read_input(b: FloatBuilder, op: Input) -> None:
    """The model's input: float levels."""
    b.begin_emission()
    b.scale[op.output] = 1.0
    b.node("Identity", [op.output], value_of(op.output))


@RULES.lowers(Requantise)
def requantise(b: FloatBuilder, op: Requantise) -> None:
    """The line of the quantiser, written with the sum before it or on stored levels."""
    line = _line_of(op)  # raises Refused for a table
    b.begin_emission()
    write = b.sum_before(op)
    if write is not None:
        b.write_layer(write, line)
        return
    source = op.inputs[0]
    rank = len(b.graph.edges[source].shape)
    b.write_layer(lambda line, written: b.write_line(value_of(source), b.scale[source], rank, line, written), line)


@RULES.lowers(Dense)
def dense(b: FloatBuilder, op: Dense) -> None:
    """Gemm; MatMul and Add where there are several rows."""
    b.begin_emission()

    def write(line: _Line, written: str) -> None:
        weight = op.weight * line.slope / b.scale[op.inputs[0]]
        inputs = [value_of(op.inputs[0]), b.constant(f"{written}/weight", weight)]
        bias = b.constant(f"{written}/bias", np.broadcast_to(line.offset, weight.shape[1:]))
        if len(b.graph.edges[op.output].shape) == 1:
            b.node("Gemm", [*inputs, bias], written)
        else:
            b.node("Add", [b.node("MatMul", inputs, f"{written}/products"), bias], written)

    b.announce_sum(op, write)


@RULES.lowers(Conv)
def conv(b: FloatBuilder, op: Conv) -> None:
    """Conv; another padding than 0 is written out."""
    b.begin_emission()

    def write(line: _Line, written: str) -> None:
        source, pads = b.pad_input(op, f"{written}/padded")
        _write_window(b, "Conv", op, line, written, source, pads)

    b.announce_sum(op, write)


@RULES.lowers(ConvTranspose)
def conv_transpose(b: FloatBuilder, op: ConvTranspose) -> None:
    """ConvTranspose."""
    b.begin_emission()

    def write(line: _Line, written: str) -> None:
        more = {"output_padding": list(op.output_padding)}
        _write_window(b, "ConvTranspose", op, line, written, value_of(op.inputs[0]), op.pads, **more)

    b.announce_sum(op, write)


def _write_window(
    b: FloatBuilder,
    kind: str,
    op: Conv | ConvTranspose,
    line: _Line,
    written: str,
    source: str,
    pads: Sequence[int],
    **more: Any,
) -> None:
    """A convolution whose weights are those of the graph times the slope of their channel, per unit of the input."""
    bias = b.constant(f"{written}/bias", np.broadcast_to(line.offset, (op.channels,)))
    slope = np.broadcast_to(line.slope, (op.channels,)) / b.scale[op.inputs[0]]
    weight = b.constant(f"{written}/weight", op.scale_channels(slope))
    b.node(
        kind,
        [source, weight, bias],
        written,
        strides=list(op.strides),
        pads=list(pads),
        dilations=list(op.dilations),
        group=op.groups,
        kernel_shape=list(op.kernel),
        **more,
    )


@RULES.lowers(Multiply)
def multiply(b: FloatBuilder, op: Multiply) -> None:
    """The product of both factors, counted from their zeros."""
    b.begin_emission()

    def write(line: _Line, written: str) -> None:
        factors = [
            b.node(
                "Add", [value_of(edge), b.constant(f"{written}/zero{k}", -zero * b.scale[edge])], f"{written}/factor{k}"
            )
            for k, (edge, zero) in enumerate(zip(op.inputs, op.zeros, strict=True))
        ]
        scale = b.scale[op.inputs[0]] * b.scale[op.inputs[1]]
        product = b.node("Mul", factors, f"{written}/product")
        b.write_line(product, scale, len(b.graph.edges[op.output].shape), line, written)

    b.announce_sum(op, write)


@RULES.lowers(Add)
def add(b: FloatBuilder, op: Add) -> None:
    """Branches weighted relative to the first one's scale, and added."""
    b.begin_emission()
    _announce_addition(b, op, [float(m) for m in op.multipliers])


@RULES.lowers(ChannelAdd)
def channel_add(b: FloatBuilder, op: ChannelAdd) -> None:
    """As Add, with weights for each channel."""
    b.begin_emission()
    _announce_addition(b, op, list(op.spread(len(b.graph.edges[op.output].shape)).astype(float)))


def _announce_addition(b: FloatBuilder, op: Op, multipliers: Sequence[float | Floats]) -> None:
    def write(line: _Line, written: str) -> None:
        scale = b.scale[op.inputs[0]]
        parts = [
            b.weigh(edge, m * scale / b.scale[edge], f"{written}/part{k}")
            for k, (edge, m) in enumerate(zip(op.inputs, multipliers, strict=True))
        ]
        total = parts[0]
        for k, part in enumerate(parts[1:]):
            total = b.node("Add", [total, part], f"{written}/sum{k}")
        b.write_line(total, scale, len(b.graph.edges[op.output].shape), line, written)

    b.announce_sum(op, write)


@RULES.lowers(SumPool)
def sum_pool(b: FloatBuilder, op: SumPool) -> None:
    """GlobalAveragePool or AveragePool; the area goes into the scale."""
    b.begin_emission()

    def write(line: _Line, written: str) -> None:
        shape, total = b.graph.edges[op.inputs[0]].shape, f"{written}/mean"
        if tuple(op.kernel) == tuple(shape[1:]) and not any(op.pads):
            b.node("GlobalAveragePool", [value_of(op.inputs[0])], total)
        else:
            source, pads = b.pad_input(op, f"{written}/padded")
            window = {"kernel_shape": list(op.kernel), "strides": list(op.strides), "pads": list(pads)}
            b.node("AveragePool", [source], total, **window, count_include_pad=1)
        b.write_line(total, b.scale[op.inputs[0]] / op.terms, len(shape), line, written)

    b.announce_sum(op, write)


@RULES.lowers(MaxPool)
def max_pool(b: FloatBuilder, op: MaxPool) -> None:
    """MaxPool."""
    source, output = _begin_move(b, op)
    more = {"dilations": list(op.dilations)} if op.dilations else {}
    window = {"kernel_shape": list(op.kernel), "strides": list(op.strides), "pads": list(op.pads), **more}
    b.node("MaxPool", [source], output, **window)


@RULES.lowers(Reshape)
def reshape(b: FloatBuilder, op: Reshape) -> None:
    """Reshape."""
    source, output = _begin_move(b, op)
    b.reshape(source, [0, *op.shape], f"{output}/shape", output)


@RULES.lowers(Transpose)
def transpose(b: FloatBuilder, op: Transpose) -> None:
    """Transpose."""
    source, output = _begin_move(b, op)
    b.node("Transpose", [source], output, perm=[0, *(axis + 1 for axis in op.perm)])


@RULES.lowers(Gather)
def gather(b: FloatBuilder, op: Gather) -> None:
    """Slice along the axes with a constant step, Gather along each other."""
    source, output = _begin_move(b, op)
    stages = op.split_stages(b.graph.edges[op.inputs[0]].shape)
    for k, stage in enumerate(stages, 1):
        kind, inputs, attributes = describe_stage(op, stage)
        name = output if k == len(stages) else f"{output}/part{k}"
        constants = [b.constant(f"{name}/{key}", values, np.int64) for key, values in inputs.items()]
        source = b.node(kind, [source, *constants], name, **attributes)


@RULES.lowers(Pad)
def pad(b: FloatBuilder, op: Pad) -> None:
    """Pad."""
    source, output = _begin_move(b, op)
    level = op.value * b.scale[op.inputs[0]]
    b.pad(source, op.pads, level, output, len(b.graph.edges[op.output].shape) + 1)


@RULES.lowers(Upsample)
def upsample(b: FloatBuilder, op: Upsample) -> None:
    """Repeats along each axis: a new axis of length 1, widened, and folded in."""
    source, output = _begin_move(b, op)
    shape = b.graph.edges[op.inputs[0]].shape
    apart = [v for size in shape for v in (size, 1)]
    wide = [v for size, factor in zip(shape, op.factors, strict=True) for v in (size, factor)]
    tensor = b.reshape(source, [0, *apart], f"{output}/apart", f"{output}/apart_")
    widths = b.constant(f"{output}/wide", [1, *wide], np.int64)
    tensor = b.node("Expand", [tensor, widths], f"{output}/wide_")
    b.reshape(tensor, [0, *b.graph.edges[op.output].shape], f"{output}/shape", output)


@RULES.lowers(DepthToSpace)
def depth_to_space(b: FloatBuilder, op: DepthToSpace) -> None:
    """DepthToSpace."""
    source, output = _begin_move(b, op)
    b.node("DepthToSpace", [source], output, blocksize=op.block, mode=op.mode)


@RULES.lowers(Concat)
def concat(b: FloatBuilder, op: Concat) -> None:
    """Concat of branches on the first one's scale."""
    _, output = _begin_move(b, op)
    scale = b.scale[op.inputs[0]]
    parts = [b.weigh(edge, scale / b.scale[edge], f"{output}/part{k}") for k, edge in enumerate(op.inputs)]
    b.node("Concat", parts, output, axis=op.axis + 1)


def _begin_move(b: FloatBuilder, op: Op) -> tuple[str, str]:
    """(input, output) tensors of an operation that moves values and computes nothing; the scale stays."""
    b.begin_emission()
    b.scale[op.output] = b.scale[op.inputs[0]]
    return value_of(op.inputs[0]), value_of(op.output)
