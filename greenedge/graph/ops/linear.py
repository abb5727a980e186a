"""What the three layers with weights have in common."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from greenedge.graph.ops.base import Array, Floats, Ints, Op


@dataclass(frozen=True, eq=False)
class Linear(Op):
    """A sum of products of the inputs with constant integer weights."""

    weight: Ints

    accumulates: ClassVar[bool] = True

    @abstractmethod
    def channel_axis(self, rank: int) -> int:
        """The axis of the output (of `rank` axes, batch not counted) along which the output channels lie."""

    @property
    @abstractmethod
    def summed_axes(self) -> tuple[int, ...]:
        """The axes of `weight` that one output channel sums over."""

    @property
    @abstractmethod
    def channels(self) -> int:
        """How many output channels there are."""

    @abstractmethod
    def scale_channels(self, factor: Array) -> Array:
        """The weights with output channel c multiplied by factor[c]; factor is (channels,), integers or real
        numbers."""

    def without_padding_value(self) -> Self:
        """The same layer with padding that contributes 0."""
        return self

    def with_channel_signs(self, sign: Ints, name: str) -> Self:
        """The same layer under another name, with output channel c multiplied by sign[c] (+1 or -1)."""
        weight = np.array(self.scale_channels(sign), dtype=np.int64)
        weight.setflags(write=False)
        return dataclasses.replace(self, name=name, output=name, weight=weight)

    @property
    def largest_weight_sum(self) -> int:
        """The largest sum of absolute weights that goes into one output."""
        return int(np.abs(self.weight).sum(axis=self.summed_axes).max(initial=0))

    def execute_magnitudes(self, xs: Sequence[Floats]) -> Floats:
        absolute = dataclasses.replace(self.without_padding_value(), weight=np.abs(self.weight))
        return absolute.execute(xs, None)
