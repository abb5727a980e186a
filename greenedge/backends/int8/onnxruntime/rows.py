"""Products of two activations and functions of a row: the definitions in integers, as the operations themselves write
them, in float64 and int64, which ONNX Runtime computes exactly; the quantisers behind them likewise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from greenedge.backends.int8.builder import find_levels
from greenedge.backends.int8.layers import exact_layer
from greenedge.backends.int8.onnxruntime.accumulators import KERNELS
from greenedge.backends.int8.onnxruntime.onnx_builder import RULES, RUNTIME, OnnxBuilder, find_stored_offset
from greenedge.backends.int8.quant_params import encode_wide
from greenedge.backends.int8.requirements import require_int32_sums, require_levels, require_readers
from greenedge.errors import ReasonKind
from greenedge.graph import Affine, MatMul, Normalise, Op, Requantise, Softmax, Steps
from greenedge.graph.lines import identity_step
from greenedge.graph.ops.onnx_writer import OnnxWriter

_EXACT = 1 << 52  # integers up to here, and a half more, are exact in float64
_MOST_ENTRIES = 1 << 20  # of a table of levels


@RULES.lowers(MatMul, Normalise)
def write_row_sum(b: OnnxBuilder, op: Op) -> None:
    """A product of matrices or a norm; quantisers and a softmax read its integers, the outputs int32."""
    readers = b.graph.consumers(op.output)
    if not any(isinstance(reader, Softmax) for reader in readers):
        require_readers(b, op)
        require_int32_sums(b, op, op.inner_magnitude(b.graph.input_edges(op)), RUNTIME)
    others = [reader.name for reader in readers if not isinstance(reader, (Requantise, Softmax)) and not reader.selects]
    b.require(
        not others,
        f"its integers are read by {', '.join(others)}",
        "a quantiser must follow every product and every norm",
        "put a QuantIdentity(bit_width=8) after it",
        ReasonKind.UNSUPPORTED_GRAPH,
    )
    b.exact.add(op.output)
    b.begin_emission()
    op.write_onnx(_EdgeWriter(b))
    if op.output in b.wide:
        _store(b, op)
    elif not readers:
        write_step(b, identity_step(b.graph.edges[op.output], op.output))


@RULES.lowers(Softmax)
def softmax(b: OnnxBuilder, op: Softmax) -> None:
    """Shares of 8 bits, as they are defined."""
    edge = b.graph.edges[op.output]
    require_levels(b, edge.lo, edge.hi)
    b.begin_emission()
    op.write_onnx(_EdgeWriter(b))
    _encode(b, op.output, _result(op.output))
    b.layers.append(exact_layer(op.name, edge, "Div", 1, KERNELS))


def require_exact_step(b: OnnxBuilder, step: Requantise) -> None:
    """A step function that float64 computes, a table that a file can hold, or thresholds that are counted."""
    entries = _count_entries(step)
    b.require(
        _is_exact(step) or step.steps is not None or entries <= _MOST_ENTRIES,
        f"a function of {entries:,} values that rises and falls",
        f"a table has at most {_MOST_ENTRIES:,} entries",
        "use a monotone activation such as ReLU, or fewer bits before it",
        ReasonKind.NOT_MONOTONE,
    )


def _count_entries(step: Requantise) -> int:
    """Of a table of all that may arrive."""
    return step.channels * int((step.x_hi - step.x_lo).max() + 1)


def _is_exact(step: Requantise) -> bool:
    """Whether m * x + b stays exact in float64."""
    if step.affine is None:
        return False
    reach = np.maximum(np.abs(step.x_lo), np.abs(step.x_hi)).astype(object)
    return int((reach * np.abs(step.affine.m).astype(object) + np.abs(step.affine.b).astype(object)).max()) < _EXACT


def is_wide(b: OnnxBuilder, step: Requantise) -> bool:
    """Whether it reads sums that are stored as int32, not together with what makes them."""
    return step.inputs[0] in b.wide and b.graph.producer(step.inputs[0]).selects


def write_step(b: OnnxBuilder, step: Requantise) -> None:
    """floor((m * x + b) / 2^s), clipped, or a Gather from a table of all that may arrive."""
    x, name = step.inputs[0], step.output
    x = _result(x) if x in b.exact else b.node("Cast", [x], f"{name}/wide", to=11)
    shape = [1] * (len(b.graph.edges[name].shape) + 1)
    shape[step.axis + 1] = -1

    def constant(part: str, values: ArrayLike, kind: DTypeLike = np.float64) -> str:
        return b.constant(f"{name}/{part}", np.asarray(values).reshape(shape), kind)

    if _is_exact(step) and isinstance(step.affine, Affine):
        affine = step.affine
        x = b.node("Mul", [x, constant("m", affine.m)], f"{name}/product")
        x = b.node("Add", [x, constant("b", affine.b)], f"{name}/sum")
        x = b.node("Mul", [x, constant("s", np.ldexp(1.0, -affine.s))], f"{name}/shifted")
        x = b.node("Floor", [x], f"{name}/whole")
        ends = [b.constant(f"{name}/{part}", value, np.float64) for part, value in (("lo", step.lo), ("hi", step.hi))]
        x = b.node("Clip", [x, *ends], _result(name))
    elif step.steps is not None and _count_entries(step) > _MOST_ENTRIES:
        x = _count_thresholds(b, step, step.steps, x, constant)
    else:
        width = int((step.x_hi - step.x_lo).max() + 1)
        table = find_levels(step, step.x_lo[:, None] + np.arange(width))
        x = b.node("Cast", [x], f"{name}/index", to=7)
        begin = width * np.arange(step.channels) - step.x_lo
        x = b.node("Add", [x, constant("begin", begin, np.int64)], f"{name}/place")
        x = b.node("Gather", [b.constant(f"{name}/table", table.reshape(-1), np.float64), x], _result(name))
    _encode(b, name, x, (step.lo, step.hi))
    b.layers.append(exact_layer(step.name, b.graph.edges[name], "Floor", step.channels, KERNELS))


def _count_thresholds(b: OnnxBuilder, step: Requantise, steps: Steps, x: str, constant: Callable[..., str]) -> str:
    """hi less the thresholds that sign * x has not reached: compared with each, along an axis of their own."""
    name, rank = step.output, len(b.graph.edges[step.output].shape) + 1
    x = b.node("Mul", [x, constant("sign", np.broadcast_to(steps.sign, (step.channels,)))], f"{name}/signed")
    last = b.constant(f"{name}/last", [rank], np.int64)
    x = b.node("Unsqueeze", [x, last], f"{name}/wide_axis")
    shape = [1] * rank + [steps.thresholds.shape[1]]
    shape[step.axis + 1] = step.channels
    thresholds = b.constant(f"{name}/thresholds", steps.thresholds.reshape(shape), np.float64)
    below = b.node("Less", [x, thresholds], f"{name}/below")
    below = b.node("Cast", [below], f"{name}/below_ones", to=11)
    missed = b.node("ReduceSum", [below, last], f"{name}/missed", keepdims=0)
    return b.node("Sub", [b.constant(f"{name}/top", step.hi, np.float64), missed], _result(name))


def _store(b: OnnxBuilder, op: Op) -> None:
    """The sums as int32."""
    edge = b.graph.edges[op.output]
    b.node("Cast", [_result(op.output)], op.output, to=6)
    b.codes[op.output] = encode_wide(edge.lo, edge.hi)
    b.layers.append(exact_layer(op.name, edge, op.kind, 1, KERNELS))


def _result(edge: str) -> str:
    """The tensor of an edge's integers in float64."""
    return f"{edge}/integers"


def _encode(b: OnnxBuilder, edge: str, tensor: str, levels: tuple[int, int] | None = None) -> None:
    """Levels in float64 as the file stores the edge."""
    lo, hi = levels or (b.graph.edges[edge].lo, b.graph.edges[edge].hi)
    code = b.encode(edge, lo, hi)
    stored = b.node(
        "Add", [tensor, b.constant(f"{edge}/offset", find_stored_offset(code), np.float64)], f"{edge}/moved"
    )
    b.node("Cast", [stored], edge, to=2)
    b.codes[edge] = code


class _EdgeWriter(OnnxWriter):
    """What an operation's `write_onnx` is given: its edges are read from what is stored and written in float64."""

    def __init__(self, b: OnnxBuilder) -> None:
        self.b, self.graph, self.kind = b, b.graph, np.float64
        self._levels: dict[str, str] = {}  # edges that are decoded: an operation may read one twice

    def constant(self, name: str, values: ArrayLike, dtype: str | None = None, kind: DTypeLike | None = None) -> str:
        return self.b.constant(name, np.asarray(values), kind or self.kind)

    def declare(self, tensor: str, shape: Sequence[int], element: int | None = None) -> None:
        """Nothing: the runtime works out the shapes of inner tensors."""

    def nodes_of(self, op: str, inputs: Sequence[str], outputs: Sequence[str], name: str, **attributes: Any) -> None:
        (output,) = outputs
        read = [self._read(tensor, output) for tensor in inputs]
        self.b.node(op, read, _result(output) if output in self.graph.edges else output, **attributes)

    def _read(self, tensor: str, reader: str) -> str:
        """The integers of an edge in float64; any other tensor as it is."""
        if tensor not in self.graph.edges:
            return tensor
        if tensor in self.b.exact:
            return _result(tensor)
        if tensor not in self._levels:
            wide = self.b.node("Cast", [tensor], f"{reader}/{tensor}/wide", to=11)
            offset = self.b.constant(f"{reader}/{tensor}/zero", find_stored_offset(self.b.codes[tensor]), np.float64)
            self._levels[tensor] = self.b.node("Sub", [wide, offset], f"{reader}/{tensor}/level")
        return self._levels[tensor]
