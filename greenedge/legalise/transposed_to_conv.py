"""Transposed convolutions as convolutions whose channels then become pixels, for back ends without the former.

With stride s, output pixel s*q + f (phase f < s) is the sum over i of x[i] * weight[f + pad - s*i + s*q], along one
axis: the taps of every phase lie in one window of x that begins at q + first. So a convolution of stride 1 gives all
phases of q as channels, and a reshape, a transposition and a reshape put them side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from greenedge.graph import Conv, ConvTranspose, Edge, Gather, Graph, Op, Reshape, Transpose, freeze
from greenedge.graph.ops.base import Ints
from greenedge.legalise.edge_names import choose_name


def replace_transposed_conv(graph: Graph) -> Graph:
    """ConvTranspose(w, x) → pixels(Conv(w', x)): the convolution keeps the name; its edge is called EDGE/phases. What
    it gives beyond the output is cut off at the end."""
    if not any(isinstance(op, ConvTranspose) for op in graph.ops):
        return graph
    ops: list[Op] = []
    edges = dict(graph.edges)
    for op in graph.ops:
        ops += _rewrite(op, edges) if isinstance(op, ConvTranspose) else [op]
    return replace(graph, ops=tuple(ops), edges=edges)


@dataclass(frozen=True)
class _Axis:
    """One spatial axis: `size` pixels in, `out` pixels out."""

    size: int
    out: int
    kernel: int
    stride: int
    dilation: int
    pad: int

    @property
    def first(self) -> int:
        """Where the window begins, counted from pixel q of the input; at most 0."""
        return min(0, -((self.dilation * (self.kernel - 1) - self.pad) // self.stride))

    @property
    def last(self) -> int:
        """Where it ends (inclusive)."""
        return -(-self.pad // self.stride)

    @property
    def end_pad(self) -> int:
        """Padding behind the input with which every output pixel has its window."""
        return max(0, -(-self.out // self.stride) + self.last - self.size)

    @property
    def steps(self) -> int:
        """Positions of the window: pixels out by phases, or more where the output is cut short."""
        return self.size + self.end_pad - self.last

    def taps(self) -> Ints:
        """(stride, window): the tap of each phase under each pixel of the window; `kernel` where there is none."""
        phase, place = np.arange(self.stride)[:, None], np.arange(self.first, self.last + 1)
        tap, rest = np.divmod(phase + self.pad - self.stride * place, self.dilation)
        return np.where((rest == 0) & (tap >= 0) & (tap < self.kernel), tap, self.kernel)


def _rewrite(op: ConvTranspose, edges: dict[str, Edge]) -> list[Op]:
    """The convolution and what puts its channels in place; their edges are added to `edges`."""
    source, result, n = edges[op.inputs[0]], edges[op.output], len(op.kernel)
    axes = [
        _Axis(*numbers)
        for numbers in zip(
            source.shape[1:], result.shape[1:], op.kernel, op.strides, op.dilations, op.pads[:n], strict=True
        )
    ]
    weight = _spread_taps(op, axes)
    pads = (*(-axis.first for axis in axes), *(axis.end_pad for axis in axes))
    ones = (1,) * n
    conv = Conv(op.name, op.inputs, op.output, freeze(weight), ones, pads, ones, op.groups)
    steps, strides = tuple(axis.steps for axis in axes), op.strides
    whole = tuple(count * stride for count, stride in zip(steps, strides, strict=True))
    pairs = tuple(axis for k in range(n) for axis in (1 + n + k, 1 + k))  # pixel q, then its phase, axis by axis
    moves: list[Op] = []
    if any(stride > 1 for stride in strides):
        moves += [
            Reshape("split", (), "", (op.channels, *strides, *steps)),
            Transpose("turned", (), "", (0, *pairs)),
            Reshape("joined", (), "", (op.channels, *whole)),
        ]
    if whole != result.shape[1:]:
        moves.append(Gather("cut", (), "", tuple(tuple(range(size)) for size in result.shape)))
    return _chain(conv, moves, edges)


def _spread_taps(op: ConvTranspose, axes: list[_Axis]) -> Ints:
    """(O * phases, I/groups, *window): the weights of every phase of every output channel, zero where it has no tap."""
    n, per_in = len(axes), len(op.weight) // op.groups
    weight = op.weight.reshape(op.groups, per_in, -1, *op.kernel).swapaxes(1, 2).reshape(-1, per_in, *op.kernel)
    for k, axis in enumerate(axes):  # every kernel axis becomes (phase, window)
        place = 2 + 2 * k
        none = np.zeros_like(np.take(weight, [0], axis=place))
        weight = np.take(np.concatenate([weight, none], axis=place), axis.taps(), axis=place)
    order = (0, *(2 + 2 * k for k in range(n)), 1, *(3 + 2 * k for k in range(n)))
    spread: Ints = weight.transpose(order).reshape(-1, per_in, *(axis.last - axis.first + 1 for axis in axes))
    return spread


def _chain(conv: Conv, moves: list[Op], edges: dict[str, Edge]) -> list[Op]:
    """The convolution and the moves behind it, each named after its edge; the last one writes the output's."""
    source, output = edges[conv.inputs[0]], conv.output
    if not moves:
        return [conv]
    ones = (1,) * len(source.shape)
    name = choose_name(f"{output}/phases", edges)
    shape, (low, high) = conv.infer([source], [(np.full(ones, source.lo), np.full(ones, source.hi))])
    edges[name] = Edge(name, shape, int(low.min()), int(high.max()))
    ops: list[Op] = [replace(conv, output=name)]
    for k, move in enumerate(moves, 1):
        before, name = edges[ops[-1].output], choose_name(f"{output}/{move.name}", edges)
        target = output if k == len(moves) else name
        move = replace(move, name=name, inputs=(before.name,), output=target)
        if target != output:
            ones = (1,) * len(before.shape)
            shape, _ = move.infer([before], [(np.full(ones, before.lo), np.full(ones, before.hi))])
            edges[target] = Edge(target, shape, before.lo, before.hi)
        ops.append(move)
    return ops
