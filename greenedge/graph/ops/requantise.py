"""A step function from accumulator to level."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from greenedge.errors import ReasonKind, Refused
from greenedge.graph.ops.base import Array, Edge, Floats, Ints, Op, Range, Shape, freeze
from greenedge.graph.ops.onnx_writer import THRESHOLD_DOMAIN, OnnxWriter

_FEW = 16  # thresholds up to which comparing with each is faster than a search
_SAFE_PRODUCT = 1 << 62  # products below it leave int64 room for one more bit


@dataclass(frozen=True)
class Affine:
    """clip((m*x + b) >> s, lo, hi): per channel integers m, b and s (each of shape (C,)); s >= 0."""

    m: Ints
    b: Ints
    s: Ints


@dataclass(frozen=True, eq=False)
class Steps:
    """A monotone step function: level = lo + count over k of (sign*x >= thresholds[c, k]).

    sign          (C,) of +1/-1
    thresholds    (C, hi-lo), ascending
    affine        the same as clip((m*x + b) >> s, lo, hi), or None where no such integers exist (the sign lives in m)
    """

    sign: Ints
    thresholds: Ints
    affine: Affine | None

    @property
    def rises(self) -> bool:
        """Whether no channel falls."""
        return bool((self.sign > 0).all())

    def count(self, lo: int, x: Ints) -> Ints:
        """lo + how many thresholds sign*x has reached; x has its channels last."""
        x = self.sign * x
        if self.thresholds.shape[1] <= _FEW:
            y = np.full(x.shape, lo, np.int64)
            for k in range(self.thresholds.shape[1]):
                y += x >= self.thresholds[:, k]
            return y
        if len(self.thresholds) == 1:
            return lo + np.searchsorted(self.thresholds[0], x, side="right")
        y = np.empty(x.shape, np.int64)
        for c, row in enumerate(self.thresholds):
            y[..., c] = lo + np.searchsorted(row, x[..., c], side="right")
        return y


@dataclass(frozen=True, eq=False)
class Table:
    """A function that is not monotone: level = levels[c, x - x_lo[c]]; levels is (C, widest reachable range)."""

    levels: Ints


@dataclass(frozen=True, eq=False)
class Requantise(Op):
    """A step function from accumulator to level, per channel along `axis`; its forms agree on every reachable value.

    lo, hi          the range of levels
    forms           Steps (thresholds and, where it exists, the affine form), or a Table
    x_lo, x_hi      (C,) the reachable range of x, on which all forms were proved equal

    C is 1 where one function serves every channel.
    """

    axis: int
    lo: int
    hi: int
    forms: Steps | Table
    x_lo: Ints
    x_hi: Ints

    @property
    def channels(self) -> int:
        """C: how many functions there are."""
        return len(self.x_lo)

    @property
    def steps(self) -> Steps | None:
        """The monotone forms; None for a table."""
        return self.forms if isinstance(self.forms, Steps) else None

    @property
    def affine(self) -> Affine | None:
        """The affine form, where there is one."""
        return self.forms.affine if isinstance(self.forms, Steps) else None

    def require_steps(self) -> Steps:
        """The monotone forms. Raises Refused for a table."""
        if isinstance(self.forms, Steps):
            return self.forms
        raise Refused(
            ReasonKind.NOT_MONOTONE,
            "a function that rises and falls",
            "a monotone step function is needed",
            "use a ReLU",
        )

    def require_table(self) -> Table:
        """The table. Raises AssertionError for a monotone function."""
        assert isinstance(self.forms, Table), f"{self.name} is monotone"
        return self.forms

    def with_steps(
        self, sign: Ints | None = None, thresholds: Ints | None = None, affine: Affine | None = None
    ) -> Self:
        """The operation with other monotone forms; what is not given stays, but for the affine form, which goes with
        the rest."""
        steps = self.require_steps()
        new = Steps(
            steps.sign if sign is None else sign, steps.thresholds if thresholds is None else thresholds, affine
        )
        return dataclasses.replace(self, forms=new)

    def select_channels(self, rows: Ints) -> Self:
        """The thresholds of these channels alone, without an affine form; one function for all stays one."""
        steps, rows = self.require_steps(), rows if self.channels > 1 else np.zeros(1, np.int64)
        forms = Steps(freeze(steps.sign[rows]), freeze(steps.thresholds[rows]), None)
        return dataclasses.replace(self, forms=forms, x_lo=freeze(self.x_lo[rows]), x_hi=freeze(self.x_hi[rows]))

    @property
    def reach(self) -> Range:
        """(C,) ends of sign*x, which is what thresholds are compared with; x itself for a table."""
        if isinstance(self.forms, Table):
            return self.x_lo, self.x_hi
        falls = self.forms.sign < 0
        return np.where(falls, -self.x_hi, self.x_lo), np.where(falls, -self.x_lo, self.x_hi)

    def infer(self, edges: Sequence[Edge], ranges: Sequence[Range]) -> tuple[Shape, Range]:
        if isinstance(self.forms, Table):
            low, high = self.forms.levels.min(axis=1), self.forms.levels.max(axis=1)
        else:
            ends = np.stack([self.forms.count(self.lo, self.x_lo), self.forms.count(self.lo, self.x_hi)])
            low, high = ends.min(axis=0), ends.max(axis=0)
        shape = [1] * len(edges[0].shape)
        shape[self.axis] = len(low)
        return edges[0].shape, (low.reshape(shape), high.reshape(shape))

    def execute(self, xs: Sequence[Array], edges: Sequence[Edge] | None) -> Array:
        x = np.moveaxis(xs[0], self.axis + 1, -1)
        if isinstance(self.forms, Table):
            rows = np.arange(len(self.forms.levels)) if len(self.forms.levels) > 1 else 0
            y = self.forms.levels[rows, x - self.x_lo]
        elif (affine := self.forms.affine) is not None and self._fits_int64(affine):
            y = np.clip((affine.m * x + affine.b) >> affine.s, self.lo, self.hi)
        else:
            y = self.forms.count(self.lo, x)
        return np.moveaxis(y, -1, self.axis + 1)

    def _fits_int64(self, affine: Affine) -> bool:
        """Whether m*x + b stays within 64 bits for every reachable x."""
        reach = np.maximum(np.abs(self.x_lo), np.abs(self.x_hi)).astype(object) * np.abs(affine.m).astype(object)
        return bool((reach + np.abs(affine.b).astype(object)).max() < _SAFE_PRODUCT)

    def execute_magnitudes(self, xs: Sequence[Floats]) -> Floats:
        """A level is exact: it has no error."""
        return np.zeros_like(xs[0])

    def write_onnx(self, writer: OnnxWriter) -> None:
        if isinstance(self.forms, Table):
            return self._write_table(writer, self.forms)
        source, shape = self.inputs[0], writer.shape(self.inputs[0])
        if not self.forms.rises:
            sign = writer.constant(f"{self.name}_sign", self.forms.sign.reshape(self._spread(len(shape))))
            source = writer.inner_node("Mul", [source, sign], f"{self.name}_signed", shape)
        thresholds = self.forms.thresholds
        low, high = (int(thresholds.min()), int(thresholds.max())) if thresholds.size else (0, 1)
        name = writer.constant(f"{self.name}_thresholds", thresholds, Edge("t", (), min(low, 0), max(high, 1)).dtype)
        layout = "".join("C" if axis == self.axis else "HWDE"[axis] for axis in range(len(shape)))
        writer.node(
            "MultiThreshold",
            [source, name],
            self.output,
            domain=THRESHOLD_DOMAIN,
            out_dtype=writer.graph.edges[self.output].dtype,
            out_bias=float(self.lo),
            data_layout="N" + layout,
        )
        return None

    def _write_table(self, writer: OnnxWriter, table: Table) -> None:
        """levels[c, x - x_lo[c]] as a Gather from the flattened table."""
        from onnx import TensorProto

        shape = writer.shape(self.inputs[0])
        start = np.arange(len(table.levels)) * table.levels.shape[1] - self.x_lo
        offset = writer.constant(f"{self.name}_offset", start.reshape(self._spread(len(shape))))
        index = writer.inner_node("Add", [self.inputs[0], offset], f"{self.name}_float_index", shape)
        index = writer.inner_node("Cast", [index], f"{self.name}_index", shape, TensorProto.INT64, to=TensorProto.INT64)
        writer.node("Gather", [writer.constant(f"{self.name}_table", table.levels.reshape(-1)), index], self.output)

    def _spread(self, rank: int) -> list[int]:
        """The shape under which a value per channel broadcasts against a batched tensor of `rank` axes."""
        shape = [1] * (rank + 1)
        shape[self.axis + 1] = self.channels
        return shape

    def list_fields(self) -> dict[str, Any]:
        """The forms side by side, absent ones as None: the layout of format greenedge-graph/1."""
        steps, table = self.steps, self.forms if isinstance(self.forms, Table) else None
        return {
            "name": self.name,
            "inputs": self.inputs,
            "output": self.output,
            "axis": self.axis,
            "lo": self.lo,
            "hi": self.hi,
            "sign": steps.sign if steps else np.ones(self.channels, np.int64),
            "thresholds": steps.thresholds if steps else None,
            "affine": None if steps is None or steps.affine is None else vars(steps.affine),
            "table": table.levels if table else None,
            "x_lo": self.x_lo,
            "x_hi": self.x_hi,
        }

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> Self:
        rest = dict(values)
        sign, thresholds, affine, table = (rest.pop(key) for key in ("sign", "thresholds", "affine", "table"))
        if (thresholds is None) == (table is None):
            raise TypeError(f"{rest.get('name')} needs thresholds or a table")
        forms = Table(table) if thresholds is None else Steps(sign, thresholds, Affine(**affine) if affine else None)
        return cls(forms=forms, **rest)
