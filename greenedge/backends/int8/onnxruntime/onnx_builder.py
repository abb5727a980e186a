"""One ONNX file in the making: nodes, constants, and how each edge's levels are stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from greenedge.backends.int8.layers import Layer
from greenedge.backends.int8.quant_params import LEVELS, Encoding
from greenedge.graph import Graph

OPSET, IR = 13, 8  # the oldest with per-channel QuantizeLinear: ONNX Runtime 1.8 and later read the file
CONTRIB = "com.microsoft"
SHIFT = 128  # activations are stored as uint8 = int8 + 128: x86's 8-bit products take an unsigned input


@dataclass
class File:
    """One file in the making."""

    graph: Graph
    nodes: list = field(default_factory=list)
    constants: list = field(default_factory=list)
    codes: dict[str, Encoding] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    lifted: set[str] = field(default_factory=set)  # tensors whose levels are there multiplied too

    def constant(self, name: str, values, kind=np.float32) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values, kind), name))
        return name

    def node(self, kind: str, inputs: Sequence[str], output: str, domain: str = "", **attributes) -> str:
        from onnx import helper

        self.nodes.append(
            helper.make_node(kind, list(inputs), [output], name=f"{output}/{kind}", domain=domain, **attributes)
        )
        return output


def code_of(lo: int, hi: int, zero_level: int | None = None) -> Encoding:
    """Levels lo … hi at the top of int8, which saturates there; a Clip bounds the bottom, so the zero point is free."""
    assert hi - lo <= LEVELS, "more levels than int8 holds"
    return Encoding(lo, hi, min(max(0, lo), hi) if zero_level is None else zero_level, 1.0, "NONE")


def padded(file: File, tensor: str, pads: Sequence[int], stored: int, output: str, rank: int | None = None) -> str:
    """Pads the last axes (begin…, end…); negative numbers cut."""
    n = len(pads) // 2
    rank = rank or n + 2
    whole = [*[0] * (rank - n), *pads[:n], *[0] * (rank - n), *pads[n:]]
    return file.node(
        "Pad",
        [
            tensor,
            file.constant(f"{output}/pads", whole, np.int64),
            file.constant(f"{output}/level", stored + SHIFT, np.uint8),
        ],
        output,
        mode="constant",
    )
