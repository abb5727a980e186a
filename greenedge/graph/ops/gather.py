"""Elements at constant places along every axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from greenedge.errors import ReasonKind, Refused
from greenedge.graph.ops.base import Array, Edge, Ints, Op, Range, Shape
from greenedge.graph.ops.onnx_writer import OnnxWriter


class Run(NamedTuple):
    """The places start, start + step, … along an axis, `size` of them; a step of 0 takes one place again and again."""

    start: int
    size: int
    step: int

    @property
    def last(self) -> int:
        return self.start + (self.size - 1) * self.step

    @property
    def end(self) -> int:
        """Behind the last place, as ONNX's Slice has it: the smallest of all numbers where a negative step takes place
        0."""
        end = self.last + (1 if self.step > 0 else -1)
        return end if end >= 0 else int(np.iinfo(np.int64).min)


class Stage(NamedTuple):
    """What a runtime does at a time: one slice along several axes, a run each; else a gather along one axis. `shape` is
    that of its result."""

    axes: tuple[int, ...]
    runs: tuple[Run, ...] | None
    shape: Shape


@dataclass(frozen=True, eq=False)
class Gather(Op):
    """y = x[np.ix_(*indices)]: along every axis (the batch not counted) the elements at these places, in this order.

    That is ONNX's Slice, Split and Gather where their indices are constant: a crop, a stride, a flip, a permutation.
    """

    indices: tuple[tuple[int, ...], ...]

    rearranges: ClassVar[bool] = True
    selects: ClassVar[bool] = True

    @property
    def sizes(self) -> Shape:
        """The shape of what it gives."""
        return tuple(map(len, self.indices))

    def find_cut_axes(self, shape: Shape) -> tuple[int, ...]:
        """The axes along which something is left out, repeated or moved."""
        every = enumerate(zip(self.indices, shape, strict=True))
        return tuple(axis for axis, (places, size) in every if places != tuple(range(size)))

    def split_runs(self, axis: int) -> list[Run]:
        """The places along an axis in order, as few runs as taking each as far as it goes gives."""
        places, runs = self.indices[axis], list[Run]()
        first = 0
        while first < len(places):
            step = places[first + 1] - places[first] if first + 1 < len(places) else 1
            size = 1
            while first + size < len(places) and places[first + size] - places[first + size - 1] == step:
                size += 1
            runs.append(Run(places[first], size, step))
            first += size
        return runs

    def split_stages(self, shape: Shape, has_steps: bool = True) -> list[Stage]:
        """The stages of a runtime that slices and gathers, for an input of this shape; `has_steps`: whether its slices
        have other steps than 1, backwards too."""
        cut = {axis: self.split_runs(axis) for axis in self.find_cut_axes(shape)}
        even = tuple(
            axis for axis, (run, *more) in cut.items() if not more and (run.step == 1 or (has_steps and run.step != 0))
        )
        groups = [(even, tuple(cut[axis][0] for axis in even))] if even else []
        stages = list[Stage]()
        for axes, runs in (*groups, *(((axis,), None) for axis in cut if axis not in even)):
            shape = tuple(len(self.indices[a]) if a in axes else size for a, size in enumerate(shape))
            stages.append(Stage(axes, runs, shape))
        return stages

    def infer(self, edges: Sequence[Edge], ranges: Sequence[Range]) -> tuple[Shape, Range]:
        shape = edges[0].shape
        fits = len(self.indices) == len(shape) and all(
            places and 0 <= min(places) and max(places) < size for places, size in zip(self.indices, shape, strict=True)
        )
        if not fits:
            ends = tuple((min(places), max(places)) if places else () for places in self.indices)
            raise Refused(
                ReasonKind.UNSUPPORTED_SHAPE,
                f"it takes elements {', '.join(f'{e[0]}…{e[1]}' if e else 'none' for e in ends)} of {shape}",
                "they must lie inside its input",
                "export the model again",
            )
        low, high = (self._take(part, 0) for part in ranges[0])
        return self.sizes, (low, high)

    def _take(self, x: Ints, first: int) -> Ints:
        """The elements of an array whose axes from `first` on are the edge's; an axis of size 1 stands for all."""
        for axis, places in enumerate(self.indices, first):
            if x.shape[axis] > 1:
                x = np.take(x, places, axis=axis)
        return x

    def execute(self, xs: Sequence[Array], edges: Sequence[Edge] | None) -> Array:
        """An axis of one element is taken as often as it has places."""
        x = self._take(xs[0], 1)
        return np.broadcast_to(x, (len(x), *self.sizes))

    def input_axis(self, axis: int, edges: Sequence[Edge], output: Edge) -> int | None:
        return None if axis in self.find_cut_axes(edges[0].shape) else axis

    def write_onnx(self, writer: OnnxWriter) -> None:
        """A Slice of the axes with a constant step, a Gather of each other; an Identity where all is taken."""
        source, stages = self.inputs[0], self.split_stages(writer.shape(self.inputs[0]))
        if not stages:
            writer.node("Identity", [source], self.output)
        for k, stage in enumerate(stages, 1):
            name = self.output if k == len(stages) else f"{self.name}_part{k}"
            if k < len(stages):
                writer.declare(name, stage.shape)
            kind, inputs, attributes = describe_stage(self, stage)
            constants = [writer.constant(f"{name}_{key}", values, kind=np.int64) for key, values in inputs.items()]
            source = writer.node(kind, [source, *constants], name, **attributes)

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> Self:
        return cls(**{**values, "indices": tuple(tuple(map(int, places)) for places in values["indices"])})


def describe_stage(op: Gather, stage: Stage) -> tuple[str, dict[str, list[int]], dict[str, Any]]:
    """(operator, its constant inputs by name and in order, its attributes) of a stage in ONNX, the batch counted."""
    if stage.runs is None:
        (axis,) = stage.axes
        return "Gather", {"indices": list(op.indices[axis])}, {"axis": axis + 1}
    bounds = {
        "starts": [run.start for run in stage.runs],
        "ends": [run.end for run in stage.runs],
        "axes": [axis + 1 for axis in stage.axes],
        "steps": [run.step for run in stage.runs],
    }
    return "Slice", bounds, {}
