"""What a model does after its last integers, where that is scale * (integer - zero) and perhaps a softmax.

The host computes it for every back end (float_io.py). A format that has the operators may include it, so that its
runtime gives what the model gives. It is read from the host's own epilogue, so the source model is interpreted once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from greenedge.graph.ops.base import Array, Ints
from greenedge.lower import Lowered, Output

if TYPE_CHECKING:
    from onnx import NodeProto


@dataclass(frozen=True, eq=False)
class Dequantise:
    """The model's `output` from the integers of `edge`: scale * (q - zero) in float32, each operation rounded once, as
    the host does it; scale and zero are float32 and broadcast to (1, *the edge's shape). `softmax`: the axis of the
    edge (batch not counted) over which a softmax follows, None without."""

    output: str
    edge: str
    scale: Array
    zero: Array
    softmax: int | None = None

    def apply(self, levels: Ints) -> Array:
        """(N, *shape) integers as the model's floats; the softmax in float64, rounded at its end."""
        real: Array = (np.asarray(levels).astype(np.float32) - self.zero) * self.scale
        if self.softmax is None:
            return real
        axis = self.softmax + 1
        powers = np.exp(real.astype(np.float64) - real.max(axis=axis, keepdims=True, initial=-np.inf))
        shares: Array = powers / powers.sum(axis=axis, keepdims=True)
        return shares.astype(np.float32)


def read_epilogue(lowered: Lowered) -> tuple[tuple[Dequantise, ...], dict[str, str]]:
    """(the outputs of this form, {any other output: the operators that the host runs for it}), in the model's order."""
    writers = {name: node for node in lowered.epilogue.graph.node for name in node.output}
    ends = {output.tensor: output for output in lowered.outputs}
    dequantised: list[Dequantise] = []
    others: dict[str, str] = {}
    for name in (value.name for value in lowered.epilogue.graph.output):
        node = writers.get(name)
        if name in ends:
            dequantised.append(_dequantise(name, ends[name], None))
        elif node is not None and node.op_type == "Softmax" and node.input[0] in ends:
            end = ends[node.input[0]]
            axis = next((a.i for a in node.attribute if a.name == "axis"), -1)
            rank = len(lowered.graph.edges[end.edge].shape)
            dequantised.append(_dequantise(name, end, axis + rank if axis < 0 else axis - 1))
        else:
            operators = dict.fromkeys(_list_operators(writers, name, set(ends)))
            others[name] = ", ".join(operators) or "dequantisation"
    return tuple(dequantised), others


def _list_operators(writers: Mapping[str, NodeProto], name: str, stop: set[str]) -> list[str]:
    """The operators that compute a tensor from those in `stop`, in order of execution; each tensor counts once."""
    operators: list[str] = []
    seen: set[str] = set()
    stack = [name]
    while stack:
        tensor = stack.pop()
        if tensor in writers and tensor not in stop | seen:
            operators.insert(0, writers[tensor].op_type)
            stack += writers[tensor].input
        seen.add(tensor)
    return operators


def _dequantise(name: str, end: Output, softmax: int | None) -> Dequantise:
    scale, zero = (np.asarray(part, np.float32) for part in (end.scale, end.zero))
    return Dequantise(name, end.edge, scale, zero, softmax)
