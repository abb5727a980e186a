"""The integer graph as LiteRT operators, for chains of fully connected layers: Dense + Requantise → FULLY_CONNECTED.

The graph has no scales, so they are chosen here: activations take theirs from their encoding, and each channel's weight
scale, bias and whole factor are those with which LiteRT's arithmetic hits every threshold (search.py). What was proved
about each channel goes with the file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from greenedge.backends.tflite.arithmetic import KERNEL_SETS, MOST
from greenedge.backends.tflite.certificate import Problem, Solution
from greenedge.backends.tflite.flatbuffer import Quantisation, Writer
from greenedge.backends.tflite.layout import LEVELS, Encoding, encode
from greenedge.backends.tflite.search import solve
from greenedge.errors import Reason
from greenedge.graph import Dense, Graph, Input, Op, Requantise, Reshape

FULLY_CONNECTED_VERSION = 5  # per-channel scales in int8; the oldest that says so, and LiteRT 2.14 knows it


@dataclass(frozen=True, eq=False)
class Layer:
    """One operator and the proof of its requantisation."""

    name: str
    channels: int
    solution: Solution
    accumulators: int


def reasons_against(graph: Graph) -> list[Reason]:
    """Every reason why a graph is no chain of fully connected layers with at most 8 bits."""
    reasons = []
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        reasons.append(Reason(graph.name, "unsupported-graph", f"{len(graph.inputs)} inputs and {len(graph.outputs)} outputs",
                              "a file has one input and one output here", "cut the model in two"))
    for op in graph.ops:
        reasons += _against(graph, op)
    return reasons


def _against(graph: Graph, op: Op) -> list[Reason]:
    edge = graph.edges[op.output]
    wide = [Reason(op.name, "too-wide", f"{edge.hi - edge.lo + 1:,} levels", "int8 holds 256", "quantise to at most 8 bits")]
    readers = graph.consumers(op.output)
    if isinstance(op, Dense):
        if not readers:
            return [Reason(op.name, "too-wide", f"an output of {edge.bits}-bit accumulators", "the output of an int8 file has 8 bits",
                           "put a QuantIdentity(bit_width=8) on the model's output")]
        if len(readers) > 1 or not isinstance(readers[0], Requantise):
            return [Reason(op.name, "unsupported-graph", "its accumulators are read by " + ", ".join(r.name for r in readers),
                           "a quantiser must follow every layer", "put a QuantIdentity(bit_width=8) after it")]
        if np.abs(op.weight).max(initial=0) > MOST:
            return [Reason(op.name, "too-wide", f"a weight of {int(np.abs(op.weight).max())}", "int8 weights lie in -127…127",
                           "use narrow-range weights of at most 8 bits")]
        return []
    if isinstance(op, Requantise):
        if not isinstance(graph.producer(op.inputs[0]), Dense):
            return [Reason(op.name, "unsupported-op", "a quantiser that follows no layer with weights", "it belongs to the layer before it",
                           "remove it, or share one quantiser")]
        if op.thresholds is None or (op.sign != 1).any():
            return [Reason(op.name, "unsupported-op", "a function that does not rise", "LiteRT multiplies and rounds", "use a ReLU")]
        return wide if op.hi - op.lo > LEVELS else []
    if isinstance(op, (Input, Reshape)):
        return wide if edge.hi - edge.lo > LEVELS else []
    return [Reason(op.name, "unsupported-op", f"operation {type(op).__name__}", "this version writes fully connected networks",
                   "choose another back end")]


def encodings(graph: Graph) -> dict[str, Encoding]:
    """How the integers of every edge but the accumulators are stored."""
    found: dict[str, Encoding] = {}
    for op in graph.ops:
        edge = graph.edges[op.output]
        if isinstance(op, Input):
            found[op.output] = encode(edge.lo, edge.hi, min(max(0, edge.lo), edge.hi))
        elif isinstance(op, Requantise):
            found[op.output] = encode(op.lo, op.hi)
        elif isinstance(op, Reshape):
            found[op.output] = found[op.inputs[0]]
    return found


def write_chain(graph: Graph) -> tuple[bytes, tuple[Layer, ...]]:
    """The file's bytes and the proof of every layer, for a graph against which there is no reason."""
    writer, codes, layers = Writer(graph.name), encodings(graph), []
    tensors: dict[str, int] = {}
    for op in graph.ops:
        if isinstance(op, Input):
            tensors[op.output] = _activation(writer, graph, op.output, codes[op.output])
        elif isinstance(op, Reshape):
            tensors[op.output] = _activation(writer, graph, op.output, codes[op.output])
            shape = writer.constant(f"{op.name}_shape", np.array([1, *op.shape], np.int32))
            writer.operator("RESHAPE", [tensors[op.inputs[0]], shape], [tensors[op.output]], newShape=[1, *op.shape])
        elif isinstance(op, Requantise):
            dense = graph.producer(op.inputs[0])
            tensors[op.output] = _activation(writer, graph, op.output, codes[op.output])
            layers.append(_dense(writer, dense, op, codes[dense.inputs[0]], codes[op.output], tensors[dense.inputs[0]], tensors[op.output]))
    return writer.finish([tensors[graph.inputs[0]]], [tensors[graph.outputs[0]]]), tuple(layers)


def _activation(writer: Writer, graph: Graph, name: str, code: Encoding) -> int:
    return writer.tensor(name, (1, *graph.edges[name].shape), "INT8", Quantisation((code.scale,), code.zero_point))


def _dense(writer: Writer, dense: Dense, op: Requantise, source: Encoding, target: Encoding, x: int, y: int) -> Layer:
    channels = dense.weight.shape[1]
    full = lambda part: np.ascontiguousarray(np.broadcast_to(part, (channels, *np.shape(part)[1:])))
    largest = np.abs(dense.weight).max(axis=0, initial=0)
    x_lo, x_hi, thresholds = full(op.x_lo), full(op.x_hi), full(op.thresholds)
    varies = ((thresholds > x_lo[:, None]) & (thresholds <= x_hi[:, None])).any(axis=1)
    factor = np.where(varies & (largest > 0), MOST // np.maximum(largest, 1), 0)
    problem = Problem("FULLY_CONNECTED", thresholds, x_lo, x_hi, factor, op.lo, target.zero_level, target.zero_point, target.bounds,
                      source.scale, target.scale)
    solution = solve(problem)
    weights = (dense.weight * solution.factor).T.astype(np.int64)
    assert np.abs(weights).max(initial=0) <= MOST, "a factor leaves int8"
    # The file sums w*(stored - zero_point) = w*(level - zero_level): what the zero level takes away, the bias gives back.
    bias = solution.constant + weights.sum(axis=1) * source.zero_level
    scales = tuple(float(s) for s in solution.weight_scale)
    w = writer.constant(f"{dense.name}_weight", weights.astype(np.int8), Quantisation(scales))
    b = writer.constant(f"{dense.name}_bias", bias.astype(np.int32), Quantisation(tuple(s * source.scale for s in scales)))
    writer.operator("FULLY_CONNECTED", [x, w, b], [y], FULLY_CONNECTED_VERSION, fusedActivationFunction=target.activation)
    return Layer(op.name, channels, solution, int((x_hi - x_lo + 1).sum()))


def certificate(layers: tuple[Layer, ...]) -> dict:
    """What was proved, as JSON holds it: per layer and kernel set the channels that are exact on every accumulator."""
    entries = []
    for layer in layers:
        kernels = {}
        for name in KERNEL_SETS:
            verdict = layer.solution.verdicts[name]
            differing = int(verdict.differing.sum())
            kernels[name] = {"certified": int((verdict.differing == 0).sum()), "differing_accumulators": differing,
                             "share": differing / layer.accumulators, "largest_difference": int(verdict.largest.max(initial=0))}
        entries.append({"layer": layer.name, "channels": layer.channels, "accumulators": layer.accumulators, "kernels": kernels})
    return {"format": "greenedge-certificate/1", "layers": entries}


