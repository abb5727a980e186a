"""What a model does behind its last integers, where that is scale * (integer - zero) and perhaps a softmax.

The host does it for every back end (float_io.py). A format that has the operators may carry it too, so that whoever loads the file gets
what the model gives: it is read here from the host's own model, and nothing is interpreted twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from greenedge.lower import Lowered


@dataclass(frozen=True, eq=False)
class Dequantise:
    """The model's `output` from the integers of `edge`: scale * (q - zero) in float32, each operation rounded once, as the host does it;
    scale and zero are float32 and broadcast to (1, *the edge's shape). `softmax`: the axis of the edge (batch not counted), None without."""

    output: str
    edge: str
    scale: np.ndarray
    zero: np.ndarray
    softmax: int | None = None

    def apply(self, levels: np.ndarray) -> np.ndarray:
        """(N, *shape) integers as the model's floats; the softmax in float64, rounded at its end."""
        real = (np.asarray(levels).astype(np.float32) - self.zero) * self.scale
        if self.softmax is None:
            return real
        axis = self.softmax + 1
        powers = np.exp(real.astype(np.float64) - real.max(axis=axis, keepdims=True, initial=-np.inf))
        return (powers / powers.sum(axis=axis, keepdims=True)).astype(np.float32)


def read_epilogue(lowered: Lowered) -> tuple[tuple[Dequantise, ...], dict[str, str]]:
    """(the outputs that end so, {any other output: the operators that the host runs for it}), in the model's order."""
    made = {name: node for node in lowered.epilogue.graph.node for name in node.output}
    bounds = {output.tensor: output for output in lowered.outputs}
    found, left = [], {}
    for name in (value.name for value in lowered.epilogue.graph.output):
        node = made.get(name)
        if name in bounds:
            found.append(_dequantise(name, bounds[name], None))
        elif node is not None and node.op_type == "Softmax" and node.input[0] in bounds:
            bound = bounds[node.input[0]]
            axis = next((a.i for a in node.attribute if a.name == "axis"), -1)
            rank = len(lowered.graph.edges[bound.edge].shape)
            found.append(_dequantise(name, bound, axis + rank if axis < 0 else axis - 1))
        else:
            left[name] = ", ".join(dict.fromkeys(_operators(made, name, set(bounds)))) or "dequantisation"
    return tuple(found), left


def _operators(made: dict, name: str, stop: set[str]) -> list[str]:
    """The operators on the way to a tensor, the first first; a tensor is reached once."""
    found, seen, stack = [], set(), [name]
    while stack:
        tensor = stack.pop()
        if tensor in made and tensor not in stop | seen:
            found.insert(0, made[tensor].op_type)
            stack += made[tensor].input
        seen.add(tensor)
    return found


def _dequantise(name: str, bound, softmax: int | None) -> Dequantise:
    return Dequantise(name, bound.edge, np.asarray(bound.scale, np.float32), np.asarray(bound.zero, np.float32), softmax)
