"""The integer graph as a chain of hardware layers: what each is called, computes and needs, in plain numbers.

Also every reason why a graph is not such a chain.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from greenedge.errors import Reason
from greenedge.graph import Dense, Edge, Graph, Input, Op, Requantise, Reshape

MAX_BITS = 8  # of weights and activations
MAX_MULTIPLIER_BITS = 32
_RESERVED = {"top", "clk", "rst", "reset", "restart", "input", "output", "s", "m", "module", "logic", "wire", "reg", "begin", "end"}


@dataclass(frozen=True, eq=False)
class MatVec:
    """y = x @ weight for `vectors` vectors per sample; the hardware leaves out `correction` (M,) (see ge_mvu.sv).

    `bits` holds every accumulator as the hardware has it (signed). `correct`: the unit itself adds the correction.
    """

    name: str
    edge: Edge
    weight: np.ndarray
    weight_bits: int
    in_bits: int
    in_signed: bool
    bits: int
    vectors: int
    correction: np.ndarray
    correct: bool

    @property
    def channels(self) -> int:
        return self.weight.shape[1]


@dataclass(frozen=True, eq=False)
class Step:
    """A requantisation of `channels` interleaved channels; its functions take what the hardware has (correction left out).

    `affine` is (m, b, shift) with one shift for all channels, or None; `thresholds` is (C, levels - 1) or None.
    """

    name: str
    edge: Edge
    channels: int
    vectors: int
    in_bits: int
    in_signed: bool
    affine: tuple[np.ndarray, np.ndarray, int] | None
    thresholds: np.ndarray | None
    x_lo: int
    x_hi: int

    @property
    def bits(self) -> int:
        return self.edge.bits


@dataclass(frozen=True, eq=False)
class Chain:
    """The layers in order. `aliases` maps an edge that is only another shape of a stream to the edge it equals."""

    name: str
    source: Edge
    layers: tuple[MatVec | Step, ...]
    aliases: dict[str, str]

    @property
    def weight_bits(self) -> int:
        """Bits of weight memory, without any waste."""
        return sum(layer.weight.size * layer.weight_bits for layer in self.layers if isinstance(layer, MatVec))

    @property
    def macs(self) -> int:
        """Multiplications per inference."""
        return sum(layer.weight.size * layer.vectors for layer in self.layers if isinstance(layer, MatVec))


def reasons_against(graph: Graph) -> list[Reason]:
    """Every reason why `graph` is not a chain of layers that the units here compute."""
    reasons = []
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        reasons.append(Reason(graph.name, "unsupported-graph", f"{len(graph.inputs)} inputs and {len(graph.outputs)} outputs",
                              "finn streams one input to one output", "cut the model in two"))
    for op in graph.ops:
        if len(graph.consumers(op.output)) > 1:
            readers = ", ".join(reader.name for reader in graph.consumers(op.output))
            reasons.append(Reason(op.name, "unsupported-graph", f"its output is read by {readers}",
                                  "finn builds chains without branches", "remove the branch, or choose another back end"))
        reasons += _against(graph, op)
    return reasons


def _against(graph: Graph, op: Op) -> list[Reason]:
    if isinstance(op, (Input, Reshape)):
        edge = graph.edges[op.output]
        if isinstance(op, Input) and edge.bits > MAX_BITS:
            return [_too_wide(op, f"input of {edge.bits} bits")]
        return []
    if isinstance(op, Dense):
        reasons = []
        if graph.edges[op.inputs[0]].bits > MAX_BITS:
            reasons.append(_too_wide(op, f"input of {graph.edges[op.inputs[0]].bits} bits"))
        if _weight_bits(op.weight) > MAX_BITS:
            reasons.append(_too_wide(op, f"weights of {_weight_bits(op.weight)} bits"))
        return reasons
    if isinstance(op, Requantise):
        return _against_requantise(graph, op)
    return [Reason(op.name, "unsupported-op", f"operation {type(op).__name__}",
                   "finn builds Dense, Requantise and Reshape", "use layers of these kinds, or choose another back end")]


def _too_wide(op: Op, value: str) -> Reason:
    return Reason(op.name, "too-wide", value, f"finn computes with 1 to {MAX_BITS} bits",
                  f"quantise to at most {MAX_BITS} bits")


def _against_requantise(graph: Graph, op: Requantise) -> list[Reason]:
    shape = graph.edges[op.inputs[0]].shape
    reasons = []
    if op.axis != len(shape) - 1 and len(op.x_lo) > 1:
        reasons.append(Reason(op.name, "unsupported-op", f"channels along axis {op.axis} of {shape}",
                              "finn streams the channels innermost", "quantise per tensor, or along the last axis"))
    if np.any(op.sign != 1) and not isinstance(graph.producer(op.inputs[0]), Dense):
        reasons.append(Reason(op.name, "unsupported-op", "a falling function", "finn counts rising thresholds",
                              "put it after a layer with weights, whose signs then turn"))
    elif np.any(op.sign != 1):
        reasons.append(Reason(op.name, "unsupported-op", "a falling function", "finn counts rising thresholds",
                              "lower the model again: its weights take the sign"))
    if op.thresholds is None and _common_shift(op) is None:
        reasons.append(Reason(op.name, "unsupported-op", "a function that is not monotone",
                              "finn counts thresholds or scales and shifts", "use a monotone activation such as ReLU"))
    if graph.edges[op.output].bits > MAX_BITS:
        reasons.append(_too_wide(op, f"output of {graph.edges[op.output].bits} bits"))
    return reasons


def chain_of(graph: Graph) -> Chain:
    """The layers of a graph against which there is no reason."""
    layers: list[MatVec | Step] = []
    aliases: dict[str, str] = {}
    names = _Names()
    correction = np.zeros(1, np.int64)
    source = graph.edges[graph.inputs[0]]
    width = (source.bits, source.signed)
    for op in graph.ops:
        if isinstance(op, Reshape):
            aliases[op.output] = aliases.get(op.inputs[0], op.inputs[0])
        elif isinstance(op, Dense):
            last = not any(isinstance(reader, Requantise) for reader in _readers(graph, op))
            layer = _matvec(graph, op, names.take(op.name), *width, last)
            correction, width = (np.zeros(1, np.int64) if last else layer.correction), (layer.bits, True)
            layers.append(layer)
        elif isinstance(op, Requantise):
            layers.append(_step(graph, op, names.take(op.name), correction, *width))
            correction, width = np.zeros(1, np.int64), (layers[-1].bits, layers[-1].edge.signed)
    return Chain(graph.name, source, tuple(layers), aliases)


def _readers(graph: Graph, op: Op) -> list[Op]:
    """Who reads the values of `op`, seen through reshapes."""
    readers = []
    for reader in graph.consumers(op.output):
        readers += _readers(graph, reader) if isinstance(reader, Reshape) else [reader]
    return readers


class _Names:
    """Hands out identifiers for hardware, each once, near the names in the model."""

    def __init__(self) -> None:
        self._taken = set(_RESERVED)

    def take(self, wanted: str) -> str:
        base = re.sub(r"\W+", "_", wanted).strip("_") or "layer"
        base = f"n{base}" if base[0].isdigit() else base
        name, k = base, 2
        while name.lower() in self._taken:
            name, k = f"{base}_{k}", k + 1
        self._taken.add(name.lower())
        return name


def _weight_bits(weight: np.ndarray) -> int:
    """1 for signs alone (every weight +1 or -1), else the two's-complement width, at least 2."""
    if np.all(np.abs(weight) == 1):
        return 1
    return max(2, Edge("w", (), min(int(weight.min()), -1), int(weight.max())).bits)


def _matvec(graph: Graph, op: Dense, name: str, in_bits: int, in_signed: bool, last: bool) -> MatVec:
    source, edge = graph.edges[op.inputs[0]], graph.edges[op.output]
    bits = _weight_bits(op.weight)
    correction = (op.weight < 0).sum(axis=0) * (1 << max(bits - 2, 0))
    products = np.stack([op.weight * source.lo, op.weight * source.hi])
    left_out = 0 if last else correction
    lowest = int((products.min(axis=0).sum(axis=0) - left_out).min())
    highest = int((products.max(axis=0).sum(axis=0) - left_out).max())
    return MatVec(name, edge, op.weight, bits, in_bits, in_signed, Edge("", (), min(lowest, -1), highest).bits,
                  int(np.prod(edge.shape[:-1])), correction, last)


def _common_shift(op: Requantise) -> tuple[np.ndarray, np.ndarray, int] | None:
    """The affine form with one shift for all channels: (m, b, s) -> (m*2**d, b*2**d, s + d) computes the same integers."""
    if op.affine is None or np.any(op.affine.m < 0):
        return None
    shift = int(op.affine.s.max())
    wider = [1 << (shift - int(s)) for s in op.affine.s]
    m = [int(v) * w for v, w in zip(op.affine.m, wider)]
    b = [int(v) * w for v, w in zip(op.affine.b, wider)]
    if max(m).bit_length() > MAX_MULTIPLIER_BITS or max(abs(v) for v in b).bit_length() > 60:
        return None
    return np.array(m, np.int64), np.array(b, np.int64), shift


def _step(graph: Graph, op: Requantise, name: str, correction: np.ndarray, in_bits: int, in_signed: bool) -> Step:
    """f(x) with x = h + c, for the h that the hardware has: b grows by m*c, thresholds fall by c."""
    edge, source = graph.edges[op.output], graph.edges[op.inputs[0]]
    channels = edge.shape[-1] if edge.shape else 1
    thresholds = None if op.thresholds is None else op.thresholds - correction[:, None]
    affine = _common_shift(op)
    if affine is not None:
        m, b, shift = affine
        affine = (np.broadcast_to(m, (channels,)), np.broadcast_to(b + m * correction, (channels,)), shift)
    return Step(name, replace(edge), channels, int(np.prod(edge.shape)) // channels, in_bits, in_signed, affine, thresholds,
                source.lo - int(correction.max()), source.hi - int(correction.min()))
