"""The operations of the integer graph and the integers each of them computes.

Shapes never include the batch axis. Images are channels-first (C, H, W), sequences (C, L), vectors (F,), as in ONNX.
All arrays are int64 and read-only. An operation is data: how it executes is in `execute.py`, how it is saved in
`store.py` and `qonnx.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Edge:
    """One integer tensor: its shape without the batch, and the proved range of its values (inclusive)."""

    name: str
    shape: tuple[int, ...]
    lo: int
    hi: int

    @property
    def signed(self) -> bool:
        return self.lo < 0

    @property
    def bits(self) -> int:
        """Width of the narrowest two's complement (or, where lo >= 0, unsigned) type that holds the range; at least 1."""
        if self.signed:
            return max((-self.lo - 1).bit_length(), self.hi.bit_length() if self.hi > 0 else 0) + 1
        return max(1, self.hi.bit_length())

    @property
    def dtype(self) -> str:
        """The QONNX name of that type, such as 'UINT4' or 'INT13'."""
        return f"{'INT' if self.signed else 'UINT'}{self.bits}"


@dataclass(frozen=True)
class Affine:
    """clip((m*x + b) >> s, lo, hi): per channel integers m, b and s (each of shape (C,)); s >= 0."""

    m: np.ndarray
    b: np.ndarray
    s: np.ndarray


@dataclass(frozen=True, eq=False)
class Op:
    """What every operation has: a name unique in its graph, the edges it reads and the one it writes."""

    name: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True, eq=False)
class Input(Op):
    """Where integers come in. `inputs` is empty."""


@dataclass(frozen=True, eq=False)
class Dense(Op):
    """y[..., m] = sum over k of x[..., k] * weight[k, m]; weight is (K, M)."""

    weight: np.ndarray


@dataclass(frozen=True, eq=False)
class Conv(Op):
    """Cross-correlation as in ONNX; weight is (O, I/groups, *kernel), pads (begin..., end...) filled with `pad_value`."""

    weight: np.ndarray
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    groups: int = 1
    pad_value: int = 0


@dataclass(frozen=True, eq=False)
class ConvTranspose(Op):
    """Transposed convolution as in ONNX; weight is (I, O/groups, *kernel)."""

    weight: np.ndarray
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    output_padding: tuple[int, ...]
    groups: int = 1


@dataclass(frozen=True, eq=False)
class MaxPool(Op):
    """Largest value under the window; padding never wins."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class SumPool(Op):
    """Sum under the window (an average pool before its division); padding counts as `pad_value`."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    pad_value: int = 0


@dataclass(frozen=True, eq=False)
class Add(Op):
    """sum over i of multipliers[i] * x_i; all inputs have the output's shape."""

    multipliers: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Concat(Op):
    """Inputs joined along `axis` (counted without the batch)."""

    axis: int


@dataclass(frozen=True, eq=False)
class Requantise(Op):
    """A step function from accumulator to level, per channel along `axis`, in up to three forms that agree on every reachable value.

    lo, hi          the range of levels
    sign            (C,) of +1/-1; the thresholds compare sign*x
    thresholds      (C, hi-lo) ascending: level = lo + count over k of (sign*x >= thresholds[c, k]); None for a function
                    that is not monotone
    affine          level = clip((m*x + b) >> s, lo, hi), or None where no such integers exist (the sign lives in m)
    table           (C, max range) of levels: table[c, x - x_lo[c]]; only for a function that is not monotone
    x_lo, x_hi      (C,) the reachable range of x, on which all forms were proved equal

    C is 1 where one function serves every channel.
    """

    axis: int
    lo: int
    hi: int
    sign: np.ndarray
    thresholds: np.ndarray | None
    affine: Affine | None
    table: np.ndarray | None
    x_lo: np.ndarray
    x_hi: np.ndarray


@dataclass(frozen=True, eq=False)
class Pad(Op):
    """Constant padding; pads is (begin..., end...) over the axes without the batch."""

    pads: tuple[int, ...]
    value: int = 0


@dataclass(frozen=True, eq=False)
class Reshape(Op):
    """Same values in row-major order, another shape (without the batch)."""

    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Transpose(Op):
    """perm is over the axes without the batch: output axis i is input axis perm[i]."""

    perm: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Upsample(Op):
    """Nearest neighbour by whole factors, one per axis without the batch."""

    factors: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class DepthToSpace(Op):
    """ONNX DepthToSpace; mode is 'DCR' or 'CRD'."""

    block: int
    mode: str = "DCR"


@dataclass(frozen=True, eq=False)
class ArgMax(Op):
    """Where along `axis` (counted without the batch) the largest value is, the first of them where several are equal.

    The axis stays, with size 1.
    """

    axis: int


OPS: dict[str, type[Op]] = {
    op.__name__: op
    for op in (
        Input,
        Dense,
        Conv,
        ConvTranspose,
        MaxPool,
        SumPool,
        Add,
        Concat,
        Requantise,
        Pad,
        Reshape,
        Transpose,
        Upsample,
        DepthToSpace,
        ArgMax,
    )
}


@dataclass(frozen=True, eq=False)
class Graph:
    """A network of integers only. `ops` are in topological order; every edge is written once; outputs are edges."""

    name: str
    ops: tuple[Op, ...]
    edges: dict[str, Edge]
    outputs: tuple[str, ...]
    _by_output: dict[str, Op] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._by_output.update({op.output: op for op in self.ops})

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(op.output for op in self.ops if isinstance(op, Input))

    def producer(self, edge: str) -> Op:
        """The operation that writes `edge`."""
        return self._by_output[edge]

    def consumers(self, edge: str) -> list[Op]:
        """The operations that read `edge`, in order."""
        return [op for op in self.ops if edge in op.inputs]


def frozen(values) -> np.ndarray:
    """A read-only int64 array with these values."""
    array = np.array(values, dtype=np.int64)
    array.setflags(write=False)
    return array
