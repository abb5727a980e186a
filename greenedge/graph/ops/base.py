"""What every operation of the integer graph has, and the rules it must state.

Shapes never include the batch axis. Images are channels-first (C, H, W), sequences (C, L), vectors (F,), as in ONNX.
Arrays of integers are int64 and read-only. An operation is one file beside this one: its record, its shape and range
rule, its execution, its ONNX form and its float error bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from greenedge.graph.ops.onnx_writer import OnnxWriter

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Array = NDArray[Any]  # integers or real numbers, as the caller has them
Shape = tuple[int, ...]
Range = tuple[Ints, Ints]  # lowest and highest value; each broadcasts against the edge's shape


@dataclass(frozen=True)
class Edge:
    """One integer tensor: its shape without the batch, and the proved range of its values (inclusive).

    `zero` is the integer that stands for the real number 0: a hint for files whose tensors have a zero point. Nothing
    is computed with it.
    """

    name: str
    shape: Shape
    lo: int
    hi: int
    zero: int = 0

    @property
    def has_sign(self) -> bool:
        return self.lo < 0

    @property
    def bits(self) -> int:
        """Width of the narrowest two's complement (or, where lo >= 0, unsigned) type that holds the range; at least
        1."""
        if self.has_sign:
            return max((-self.lo - 1).bit_length(), self.hi.bit_length() if self.hi > 0 else 0) + 1
        return max(1, self.hi.bit_length())

    @property
    def dtype(self) -> str:
        """The QONNX name of that type, such as 'UINT4' or 'INT13'."""
        return f"{'INT' if self.has_sign else 'UINT'}{self.bits}"

    @property
    def magnitude(self) -> int:
        """Largest absolute value, at least 1."""
        return max(abs(self.lo), abs(self.hi), 1)

    @property
    def levels(self) -> int:
        """How many integers the range holds."""
        return self.hi - self.lo + 1


@dataclass(frozen=True, eq=False)
class Op:
    """What every operation has: a name unique in its graph, the edges it reads and the one it writes.

    The class variables state what passes and back ends may rely on without knowing the operation:

    accumulates   its outputs are sums, to be requantised (they are accumulators)
    rearranges    every output element is one element of an input or a constant, chosen by position alone
    selects       as `rearranges`, without constants: an elementwise function may be applied before it as well as after
    permutes      as `selects`, every element of its input once: `undo` gives them back
    needs_step    its outputs are neither sums nor levels; a requantiser follows
    """

    name: str
    inputs: tuple[str, ...]
    output: str

    accumulates: ClassVar[bool] = False
    rearranges: ClassVar[bool] = False
    selects: ClassVar[bool] = False
    permutes: ClassVar[bool] = False
    needs_step: ClassVar[bool] = False

    @property
    def kind(self) -> str:
        """The operation's name: 'Conv', 'Gather'."""
        return type(self).__name__

    def infer(self, edges: Sequence[Edge], ranges: Sequence[Range]) -> tuple[Shape, Range]:
        """(shape, range) of the output from the inputs' edges and ranges. Raises Refused for inputs that do not fit."""
        raise NotImplementedError(self.kind)

    def execute(self, xs: Sequence[Array], edges: Sequence[Edge] | None) -> Array:
        """The output for inputs with the batch axis first.

        With `edges` (of the inputs) the arrays are integers within those ranges and the result is exact; with None
        they are real numbers and the result is float64, rounded.
        """
        raise NotImplementedError(self.kind)

    def write_onnx(self, writer: OnnxWriter) -> None:
        """Appends the ONNX nodes that compute the same integers in float arithmetic."""
        raise NotImplementedError(self.kind)

    @property
    def terms(self) -> int:
        """Products that go into one output; 0 for an operation that adds nothing up."""
        return 0

    def execute_magnitudes(self, xs: Sequence[Floats]) -> Floats:
        """The operation with absolute weights on non-negative inputs, batch first: what bounds the rounding of its
        sums.

        Padding contributes nothing (it stands for real zero). An operation without sums passes values on as they are.
        """
        return self.execute(xs, None)

    def undo(self, values: Array, shape: Shape) -> Array:
        """The input, of this shape, from the output (batch first). Only asked of operations that permute."""
        raise NotImplementedError(self.kind)

    def bound_deviation(self, xs: Sequence[Array]) -> Floats | float:
        """Bound on how far the output is from the real function of the model that it stands for, in units of it: 0
        unless the operation is defined by integers of its own. `xs` are integers, batch first."""
        return 0.0

    def bound_levels(self, xs: Sequence[Array]) -> Range:
        """(lowest, highest) level to which a float32 execution of that real function may round; asked of operations
        whose output has levels of the model."""
        raise NotImplementedError(self.kind)

    def inner_magnitude(self, edges: Sequence[Edge]) -> int:
        """Largest absolute integer on the way to the output of `write_onnx`, where it may be larger than the output's;
        `edges` are the inputs'."""
        return 0

    def inherit_errors(self, magnitudes: Sequence[Floats], errors: Sequence[Floats]) -> Floats:
        """Bound on the error of a sum whose inputs, of these absolute values, are known to within `errors`."""
        return self.execute_magnitudes(errors)

    def batch_elements(self, edges: Sequence[Edge], output: Edge) -> int:
        """Elements per sample of the largest array that `execute` makes: what bounds a batch."""
        return int(np.prod(output.shape))

    def input_axis(self, axis: int, edges: Sequence[Edge], output: Edge) -> int | None:
        """The axis of the input that runs along `axis` of the output, so that a function per index of one may be
        applied to the other; None where there is none. Only asked of operations that rearrange."""
        return None

    def list_fields(self) -> dict[str, Any]:
        """What is stored of the operation, by name: arrays, tuples and plain values."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> Self:
        """The operation with these stored fields. Raises TypeError or KeyError for others."""
        return cls(**values)


def freeze(values: ArrayLike) -> Ints:
    """A read-only int64 array with these values."""
    array = np.array(values, dtype=np.int64)
    array.setflags(write=False)
    return array
