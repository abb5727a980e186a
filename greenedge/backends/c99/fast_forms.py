"""Which calls have a fast kernel (ge_fast.c), what scratch it takes, and where it may write over its input.

One function for the memory plan and the emission, so that they cannot differ. A call without a fast form takes the
general kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from greenedge.backends.c99.scaling import Scaling, find_scaling
from greenedge.backends.c99.tensor_code import Code, code_of
from greenedge.graph import Add, Conv, Dense, Edge, Graph, MaxPool, Op, Requantise, SumPool
from greenedge.graph.ops.base import Ints

_STORED = 128  # the largest magnitude of a code
_MAP_SIZE = 256  # elements from which a table of 256 codes is worth its flash
_MOST_PLANE = (1 << 16) - 4


@dataclass(frozen=True)
class FastForm:
    """kernel: the part of its name behind ge_fast_; plane: rows and bytes of a depthwise layer's scratch."""

    kernel: str
    scaling: Scaling | None
    scratch_bytes: int = 0
    in_place: bool = False
    plane: tuple[int, int] = (0, 0)


def find_form(graph: Graph, op: Op, step: Requantise | None) -> FastForm | None:
    """The fast form of a call, or None."""
    edges = [graph.edges[name] for name in op.inputs]
    result = graph.edges[step.output if step else op.output]
    if any(code_of(edge).wide for edge in edges) or (step and code_of(result).wide):
        return None
    if step:
        with_step = _WITH_STEP.get(type(op))
        return with_step(op, step, edges, result) if with_step else None
    alone = _ALONE.get(type(op))
    return alone(op, edges[0], result) if alone else None


def plane_sizes(values: Sequence[int], missing: int) -> tuple[int, int]:
    """Two spatial values; a 1-d layer is an image of one row."""
    first, second = values if len(values) == 2 else (missing, *values)
    return int(first), int(second)


def conv_bias(weight: Ints, code: Code) -> list[int]:
    """What the offset of the stored input adds to the sum of each output channel (weight: outputs first)."""
    return [code.offset * int(v) for v in weight.reshape(len(weight), -1).sum(axis=1)]


def _scale_products(weight: Ints, step: Requantise, source: Code, result: Code) -> Scaling | None:
    """`weight` has its output channels first."""
    flat = np.abs(weight.reshape(len(weight), -1)).astype(np.int64)
    if int(flat.max(initial=0)) > _STORED or step.channels not in (1, len(weight)):
        return None
    room = [(127 // max(1, int(v))).bit_length() - 1 for v in flat.max(axis=1, initial=1)]
    reach = [_STORED * int(v) for v in flat.sum(axis=1)]
    return find_scaling(step, result.offset, conv_bias(weight, source), reach, [max(0, r) for r in room])


def _find_conv(op: Conv, step: Requantise, edges: list[Edge], result: Edge) -> FastForm | None:
    edge = edges[0]
    source = code_of(edge)
    scaling = _scale_products(op.weight, step, source, code_of(result))
    if scaling is None or step.axis != 0 or not -128 <= op.pad_value - source.offset <= 127:
        return None
    kernel, strides = plane_sizes(op.kernel, 1), plane_sizes(op.strides, 1)
    dilations = plane_sizes(op.dilations, 1)
    n = len(op.kernel)
    pads = plane_sizes(op.pads[:n], 0)
    size, out = plane_sizes(edge.shape[1:], 1), plane_sizes(result.shape[1:], 1)
    if min(pads) < 0:
        return None
    if op.is_depthwise and op.channels == op.groups and kernel == (3, 3) and dilations == (1, 1):
        if strides in ((1, 1), (2, 2)):
            plane = _plane(size, out, strides, pads)
            if plane[0] * plane[1] <= _MOST_PLANE:
                fits = out[0] * out[1] <= size[0] * size[1]
                return FastForm("depthwise", scaling, plane[0] * plane[1], fits, plane=plane)
    per_in = op.weight.shape[1]
    taps = per_in * kernel[0] * kernel[1]
    if kernel == strides == (1, 1) and not any(op.pads):
        return FastForm("conv_1x1", scaling, 16 * -(-taps // 4), True)
    if _suits_3x3(kernel, strides, dilations, pads, size, out):
        return FastForm("conv_3x3", scaling, 16 * -(-(taps + 3 * (taps % 2)) // 4))
    return FastForm("conv", scaling, 24 * -(-taps // 4), in_place=False)


def _plane(
    size: tuple[int, int], out: tuple[int, int], strides: tuple[int, int], pads: tuple[int, int]
) -> tuple[int, int]:
    """Rows and bytes of a padded plane: the kernel reads four bytes at a time, and two sums at once."""
    height = max(pads[0] + size[0], (out[0] - 1) * strides[0] + 3)
    width = max(pads[1] + size[1], (out[1] - 1) * strides[1] + 4)
    return height, -(-width // 4) * 4


def _suits_3x3(
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    pads: tuple[int, int],
    size: tuple[int, int],
    out: tuple[int, int],
) -> bool:
    """Whether pairs of neighbours have at most one column of padding, on one side."""
    if kernel != (3, 3) or dilations != (1, 1) or strides[1] not in (1, 2) or out[1] % 2 or size[1] < 4:
        return False
    last = (out[1] - 2) * strides[1] - pads[1] + strides[1] + 2  # the farthest column that a pair reads
    return pads[1] <= 1 and last <= size[1]


def _find_dense(op: Dense, step: Requantise, edges: list[Edge], result: Edge) -> FastForm | None:
    edge = edges[0]
    scaling = _scale_products(op.weight.T, step, code_of(edge), code_of(result))
    if scaling is None or (step.channels > 1 and step.axis != len(result.shape) - 1):
        return None
    column = 8 if edge.shape[:-1] in ((), (1,)) else 16
    return FastForm("dense", scaling, column * -(-op.weight.shape[0] // 4))


def _find_mean(op: SumPool, step: Requantise, edges: list[Edge], result: Edge) -> FastForm | None:
    edge = edges[0]
    if tuple(op.kernel) != edge.shape[1:] or any(op.pads) or step.axis != 0 or step.channels not in (1, edge.shape[0]):
        return None
    area, channels = int(np.prod(op.kernel)), edge.shape[0]
    bias, reach = [area * code_of(edge).offset] * channels, [area * _STORED] * channels
    scaling = find_scaling(step, code_of(result).offset, bias, reach, [0] * channels)
    return FastForm("mean", scaling, in_place=True) if scaling else None


def _find_sum(op: SumPool, edge: Edge, result: Edge) -> FastForm | None:
    """Sums that are stored as they are, for a step behind a reshape."""
    is_global = tuple(op.kernel) == edge.shape[1:] and not any(op.pads)
    return FastForm("sum", None) if is_global and code_of(result).wide else None


def _find_max(op: MaxPool, edge: Edge, result: Edge) -> FastForm | None:
    return FastForm("max", None) if code_of(edge) == code_of(result) else None


def _find_add(op: Add, step: Requantise, edges: list[Edge], result: Edge) -> FastForm | None:
    if len(edges) != 2 or step.channels != 1:
        return None
    factors = [int(v) for v in op.multipliers]
    bias = sum(f * code_of(edge).offset for f, edge in zip(factors, edges, strict=True))
    reach = _STORED * sum(map(abs, factors))
    room = max(0, ((1 << 31) - 1).bit_length() - max(1, reach).bit_length())
    scaling = find_scaling(step, code_of(result).offset, [bias], [reach], [room])
    return FastForm("add", scaling, in_place=True) if scaling else None


def _find_map(op: Requantise, edge: Edge, result: Edge) -> FastForm | None:
    """One function of one code: a table of its 256 values."""
    size = int(np.prod(edge.shape, dtype=np.int64))
    if op.channels != 1 or code_of(result).wide or size < _MAP_SIZE:
        return None
    return FastForm("map", None, in_place=True)


_WITH_STEP: dict[type[Op], Callable[[Any, Requantise, list[Edge], Edge], FastForm | None]] = {
    Conv: _find_conv,
    Dense: _find_dense,
    SumPool: _find_mean,
    Add: _find_add,
}
_ALONE: dict[type[Op], Callable[[Any, Edge, Edge], FastForm | None]] = {
    SumPool: _find_sum,
    MaxPool: _find_max,
    Requantise: _find_map,
}


def tabulate_codes(op: Requantise, source: Code, result: Code) -> Ints:
    """The code of the step for each of the 256 codes of its input; codes that do not occur take their neighbour's."""
    levels = np.clip(np.arange(-128, 128) + source.offset, int(op.x_lo[0]), int(op.x_hi[0]))
    if (steps := op.steps) is not None:
        values = steps.count(op.lo, levels[:, None]).reshape(-1)
    else:
        values = op.require_table().levels[0][levels - int(op.x_lo[0])]
    return np.asarray(values, np.int64) - result.offset


def order_of_taps(form: FastForm, channels: int, kernel: tuple[int, int]) -> list[int]:
    """Which weight of (channel, row, column) stands at each place of the stream; -1: a zero.

    conv_3x3: two rows of the kernel at a time (of one channel or of neighbours) are three pairs: the outer taps of
    the one, those of the other, and both middles. Two pairs are four places: 0 and 2, then 1 and 3.
    """
    taps = channels * kernel[0] * kernel[1]
    if form.kernel != "conv_3x3":
        return [*range(taps), *[-1] * (-taps % 4)]
    pairs: list[tuple[int, int]] = []
    for row in range(0, 3 * channels, 2):
        first, second = 3 * row, 3 * row + 3
        is_last = second >= taps
        pairs.append((first, first + 2))
        pairs.append((-1, -1) if is_last else (second, second + 2))
        pairs.append((first + 1, -1 if is_last else second + 1))
    if len(pairs) % 2:
        pairs.append((-1, -1))
    return [tap for p, q in zip(pairs[::2], pairs[1::2], strict=True) for tap in (p[0], q[0], p[1], q[1])]


def pack_stream(weight: Ints, order: list[int], scaling: Scaling) -> Ints:
    """The words of one group's stream; `weight` is (outputs, taps)."""
    outputs = len(weight)
    factors = np.array([1 << times for times in scaling.doublings], np.int64)
    padded = np.concatenate([weight * factors[:, None], np.zeros((outputs, 1), np.int64)], axis=1)[:, order]
    words: list[Ints] = []
    for first in range(0, outputs, 2):
        pair = [first, first + 1] if first + 1 < outputs else [first]
        heads = [scaling.words(c) for c in pair] + [(0, 0, 0)] * (2 - len(pair))
        rows = [pack_words(padded[c]) for c in pair] + [np.zeros(len(order) // 4, np.int64)] * (2 - len(pair))
        words.append(np.array([heads[0][0], heads[1][0], *heads[0][1:], *heads[1][1:]], np.int64))
        words.append(np.stack(rows, axis=1).reshape(-1))
    return np.concatenate(words)


def pack_words(values: Ints) -> Ints:
    """Four codes of 8 bits to a word, the first in its low byte."""
    return np.ascontiguousarray(values, np.int8).view("<i4").astype(np.int64)
