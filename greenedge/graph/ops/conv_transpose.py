"""A transposed convolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from greenedge.errors import ReasonKind, Refused
from greenedge.graph.ops.arithmetic import channel_range, pad_array, product_range
from greenedge.graph.ops.base import Array, Edge, Ints, Range, Shape
from greenedge.graph.ops.conv import Conv, correlate
from greenedge.graph.ops.linear import Linear
from greenedge.graph.ops.onnx_writer import OnnxWriter


@dataclass(frozen=True, eq=False)
class ConvTranspose(Linear):
    """Transposed convolution as in ONNX; weight is (I, O/groups, *kernel)."""

    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    output_padding: tuple[int, ...]
    groups: int = 1

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.weight.shape[2:]

    def channel_axis(self, rank: int) -> int:
        return 0

    @property
    def summed_axes(self) -> tuple[int, ...]:
        return (0, *range(2, self.weight.ndim))

    @property
    def channels(self) -> int:
        return int(self.weight.shape[1]) * self.groups

    def scale_channels(self, factor: Array) -> Array:
        per_group = factor.reshape(self.groups, 1, -1)
        blocks = self.weight.reshape(self.groups, self.weight.shape[0] // self.groups, *self.weight.shape[1:])
        ones = (1,) * len(self.kernel)
        return (blocks * per_group.reshape(*per_group.shape, *ones)).reshape(self.weight.shape)

    def infer(self, edges: Sequence[Edge], ranges: Sequence[Range]) -> tuple[Shape, Range]:
        edge, n = edges[0], len(self.kernel)
        if len(edge.shape) != n + 1 or edge.shape[0] != len(self.weight):
            raise Refused(
                ReasonKind.UNSUPPORTED_SHAPE,
                f"its input has shape {edge.shape} and its weights {self.weight.shape} in {self.groups} groups",
                "channels must match",
                "export the model again",
            )
        low, high = channel_range(edge, ranges[0], 0)  # some taps meet no sample: zero is always among the terms
        ones = (1,) * (n + 1)
        small, large = product_range(self.weight, low.reshape(-1, *ones), high.reshape(-1, *ones))
        total = (self._sum_per_channel(small), self._sum_per_channel(large))
        size = tuple(
            (edge.shape[1 + i] - 1) * self.strides[i]
            - self.pads[i]
            - self.pads[n + i]
            + self.dilations[i] * (self.kernel[i] - 1)
            + self.output_padding[i]
            + 1
            for i in range(n)
        )
        if min(size) < 1:
            raise Refused(
                ReasonKind.UNSUPPORTED_SHAPE,
                f"pads {self.pads} leave nothing of {edge.shape[1:]}",
                "an output has one element or more along every axis",
                "use less padding",
            )
        return (self.channels, *size), total

    def _sum_per_channel(self, products: Ints) -> Ints:
        """(I, O/groups, *kernel) products summed for every output channel: (O, 1...)."""
        blocks = products.reshape(self.groups, -1, *products.shape[1:])
        total: Ints = np.moveaxis(blocks, 2, 1).reshape(self.channels, -1).sum(1)
        return total.reshape(-1, *(1,) * len(self.kernel))

    def execute(self, xs: Sequence[Array], edges: Sequence[Edge] | None) -> Array:
        """Zeros between the samples, then a convolution with the kernel reversed along every axis."""
        x, n = xs[0], len(self.strides)
        space = tuple((d - 1) * s + 1 for d, s in zip(x.shape[2:], self.strides, strict=True))
        spread = np.zeros((*x.shape[:2], *space), x.dtype)
        spread[(slice(None), slice(None), *(slice(None, None, s) for s in self.strides))] = x
        reach = [(k - 1) * d for k, d in zip(self.kernel, self.dilations, strict=True)]
        begin = [r - p for r, p in zip(reach, self.pads[:n], strict=True)]
        end = [r - p + o for r, p, o in zip(reach, self.pads[n:], self.output_padding, strict=True)]
        spread = pad_array(spread, tuple(max(0, v) for v in (*begin, *end)), 0)
        crop = tuple(
            slice(max(0, -b), spread.shape[2 + i] - max(0, -e)) for i, (b, e) in enumerate(zip(begin, end, strict=True))
        )
        conv = Conv(
            self.name,
            self.inputs,
            self.output,
            self._reverse_weight(),
            (1,) * n,
            (0,) * (2 * n),
            self.dilations,
            self.groups,
        )
        return correlate(conv, spread[(slice(None), slice(None), *crop)], None if edges is None else edges[0].magnitude)

    def _reverse_weight(self) -> Ints:
        """The weights as those of a convolution: (O, I/groups, *kernel), reversed along the kernel's axes."""
        g, per_in = self.groups, self.weight.shape[0] // self.groups
        reverse = self.weight[(slice(None), slice(None), *(slice(None, None, -1) for _ in self.kernel))]
        return reverse.reshape(g, per_in, -1, *self.kernel).swapaxes(1, 2).reshape(-1, per_in, *self.kernel)

    def batch_elements(self, edges: Sequence[Edge], output: Edge) -> int:
        return int(np.prod(output.shape)) * int(np.prod(self.strides)) * int(np.prod(self.kernel))

    def write_onnx(self, writer: OnnxWriter) -> None:
        writer.node(
            "ConvTranspose",
            [self.inputs[0], writer.weight(self.name, self.weight)],
            self.output,
            kernel_shape=self.kernel,
            strides=self.strides,
            pads=self.pads,
            dilations=self.dilations,
            output_padding=self.output_padding,
            group=self.groups,
        )

    @property
    def terms(self) -> int:
        return int(np.prod(self.kernel)) * int(self.weight.shape[0])
