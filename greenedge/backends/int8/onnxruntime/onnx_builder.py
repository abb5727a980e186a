"""One ONNX file in the making: nodes, constants, how each edge's levels are stored; and the back end's table of
rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from greenedge.backends.int8.arithmetic import INT8_MAX, INT8_MIN
from greenedge.backends.int8.builder import FusingBuilder, choose_zero_level
from greenedge.backends.int8.layers import FittedLayer, fit_layer
from greenedge.backends.int8.quant_params import LEVELS, Encoding
from greenedge.graph import Conv, Graph, Requantise, SumPool
from greenedge.graph.ops.base import Ints
from greenedge.legalise.rules import Rules

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

OPSET, IR = 13, 8  # the oldest with per-channel QuantizeLinear: ONNX Runtime 1.8 and later read the file
CONTRIB = "com.microsoft"
SHIFT = 128  # activations are stored as uint8 = int8 + 128: x86's 8-bit products take an unsigned input
RUNTIME = "ONNX Runtime"
RULES: Rules[OnnxBuilder] = Rules("onnxruntime", RUNTIME)


class OnnxBuilder(FusingBuilder):
    """One file in the making. Tensors are named as the graph's edges; `codes` says how each that is stored is
    encoded."""

    def __init__(self, graph: Graph, is_checking: bool = False) -> None:
        super().__init__(graph, is_checking)
        self.requantises_wide = True
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.codes: dict[str, Encoding] = {}
        self._lifted: set[str] = set()  # tensors that are there multiplied too

    def constant(self, name: str, values: ArrayLike, kind: DTypeLike = np.float32) -> str:
        """A constant tensor; returns its name."""
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values, kind), name))
        return name

    def node(self, kind: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: Any) -> str:
        """A node with one output; returns the output's name."""
        from onnx import helper

        name = f"{output}/{kind}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=name, domain=domain, **attributes))
        return output

    def reshape(self, tensor: str, shape: Sequence[int], name: str, output: str) -> str:
        """`tensor` under another shape (0: as it is, for the batch); `name` is that of the shape."""
        return self.node("Reshape", [tensor, self.constant(name, shape, np.int64)], output)

    def pad(self, tensor: str, pads: Sequence[int], stored: int, output: str, rank: int | None = None) -> str:
        """Pads the last axes (begin…, end…) with the int8 `stored`; negative numbers cut."""
        n = len(pads) // 2
        rank = rank or n + 2
        whole = [*[0] * (rank - n), *pads[:n], *[0] * (rank - n), *pads[n:]]
        inputs = [
            tensor,
            self.constant(f"{output}/pads", whole, np.int64),
            self.constant(f"{output}/level", stored + SHIFT, np.uint8),
        ]
        return self.node("Pad", inputs, output, mode="constant")

    def encode(self, edge: str, lo: int, hi: int) -> Encoding:
        """The encoding of an edge's levels lo … hi."""
        return encode_levels(lo, hi, choose_zero_level(self.graph, edge, lo, hi, (Conv, SumPool)))

    def quantise(self, step: Requantise, write: Callable[[Encoding, str], None]) -> None:
        """One operator, which `write` makes, into the encoding of the step's output, and the clip of its bottom."""
        code = self.encode(step.output, step.lo, step.hi)
        self.quantise_as(step.output, code, write)

    def quantise_as(self, edge: str, code: Encoding, write: Callable[[Encoding, str], None]) -> None:
        """As `quantise`, into the encoding `code`."""
        low = code.bounds[0]
        if low == INT8_MIN:
            write(code, edge)
        else:
            unclipped = f"{edge}/whole"
            write(code, unclipped)
            bounds = [
                self.constant(f"{edge}/{name}", value + SHIFT, np.uint8)
                for name, value in (("low", low), ("high", INT8_MAX))
            ]
            self.node("Clip", [unclipped, *bounds], edge)
        self.codes[edge] = code

    def fit(
        self,
        operator: str,
        name: str,
        step: Requantise,
        weight: Ints,
        source: Encoding,
        code: Encoding,
        liftable: bool = True,
    ) -> FittedLayer:
        """Chooses the operator's weights (C, fan-in), biases and scales, and keeps the proof."""
        largest = _bound_weights(weight)
        fitted = fit_layer(operator, name, step, weight, source, code, largest, liftable=liftable)
        self.layers.append(fitted.layer)
        return fitted

    def lift(self, tensor: str, source: Encoding, fitted: FittedLayer) -> str:
        """The tensor with its levels multiplied, as `fitted` takes them: in int32, where nothing is rounded. Written
        once."""
        if fitted.lift == 1:
            return tensor
        name = f"{tensor}/lifted"
        if name not in self._lifted:
            self._lifted.add(name)
            more = fitted.source.offset + SHIFT - fitted.lift * (source.offset + SHIFT)
            wide = self.node("Cast", [tensor], f"{name}/wide", to=6)
            wide = self.node("Mul", [wide, self.constant(f"{name}/factor", fitted.lift, np.int32)], f"{name}/product")
            wide = self.node("Add", [wide, self.constant(f"{name}/more", more, np.int32)], f"{name}/sum")
            self.node("Cast", [wide], name, to=2)
        return name

    def scale_and_zero(self, edge: str, name: str, code: Encoding) -> list[str]:
        """The two constants that say how a tensor is stored; `name` is x for an operator's input, y for its output."""
        return [
            self.constant(f"{edge}/{name}_scale", code.scale),
            self.constant(f"{edge}/{name}_zero", code.zero_point + SHIFT, np.uint8),
        ]


def _bound_weights(weight: Ints) -> int:
    """The largest magnitude that a channel's factor may give its weights. Those beyond int8 are stored as uint8 with
    one zero point for all channels, which holds low … low + 255."""
    low, high = int(weight.min(initial=0)), int(weight.max(initial=0))
    return INT8_MAX if INT8_MIN <= low and high <= INT8_MAX else min(INT8_MAX, -low, LEVELS + low)


def find_stored_offset(code: Encoding) -> int:
    """What is added to a level: uint8 holds int8 + SHIFT; int32 the level itself."""
    return code.offset if code.is_wide else code.offset + SHIFT


def encode_levels(lo: int, hi: int, zero_level: int | None = None) -> Encoding:
    """Levels lo … hi at the top of int8, which saturates there; a Clip bounds the bottom, so the zero point is free."""
    assert hi - lo <= LEVELS, "more levels than int8 holds"
    return Encoding(lo, hi, min(max(0, lo), hi) if zero_level is None else zero_level, 1.0, "NONE")
