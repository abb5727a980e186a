"""Requantise: an output quantiser behind every output of a model that ends in accumulators, written into its file.

    y  →  Quant(y)      at the scores: in front of a softmax or an ArgMax, behind everything else

The scale covers what samples give. Where all accumulators of an output share one scale, it is an odd multiple n of
that: the steps are then n accumulators apart, everywhere, and no step falls between two accumulators unless the model
has a bias there. A QONNX file gets a Quant node; one of ONNX's own quantisers, at 8 bits, a QuantizeLinear and a
DequantizeLinear.

    results = quantise_outputs(source, target, samples_of, bits=8)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from greenedge.errors import GreenedgeError
from greenedge.files.atomic_write import atomic_write
from greenedge.frontends.domains import QONNX, import_domains
from greenedge.frontends.input_type import InputType
from greenedge.frontends.normalise import Normal
from greenedge.frontends.samples import Samples
from greenedge.frontends.source import parse_normal, read_normal
from greenedge.graph import Graph, run_graph
from greenedge.graph.ops.base import Array
from greenedge.lower import Lowered, Output, lower_source
from greenedge.lower.float_io import run_epilogue, run_prologue

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

BITS = range(2, 9)
_SCORED = ("Softmax", "LogSoftmax", "Sigmoid", "ArgMax", "TopK")  # what is made of scores, which are quantised before
_MOVES = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose")


@dataclass(frozen=True)
class QuantisedOutput:
    """One quantiser that was added behind `tensor`: real = scale * integer, of `bits` bits, for real values of
    `low` … `high` on the samples."""

    tensor: str
    bits: int
    signed: bool
    scale: float
    low: float
    high: float


def quantise_outputs(
    source: Path,
    target: Path,
    read: Callable[[Lowered], Samples],
    bits: int = 8,
    power_of_two: bool = False,
    declared: Mapping[str | None, InputType] | None = None,
) -> tuple[QuantisedOutput, ...]:
    """Writes the model of `source` with output quantisers to `target`; returns those. `read` gives the samples for a
    lowered model.

    Raises UnsupportedError where the model does not lower; GreenedgeError for another number of bits than 2 to 8, for
    outputs that are quantised already and for samples that give zeros alone.
    """
    if bits not in BITS:
        raise GreenedgeError(f"{bits} bits; an output quantiser has {BITS[0]} to {BITS[-1]}.")
    normal = read_normal(source)
    path = {name: _find_end(normal.proto, name) for name in (value.name for value in normal.proto.graph.output)}
    ends = list(dict.fromkeys(tensor for tensor, _ in path.values()))
    lowered = lower_source(parse_normal(Normal(_cut_at(normal.proto, ends)), source.stem), declared)
    wanted = [tensor for tensor in ends if not _is_quantised(lowered, tensor)]
    if not wanted:
        which = f"output {ends[0]!r} is" if len(ends) == 1 else f"outputs {', '.join(map(repr, ends))} are"
        raise GreenedgeError(f"{source}: its {which} quantised already; build the file as it is.")
    samples = read(lowered)
    values = run_epilogue(lowered, run_graph(lowered.graph, run_prologue(lowered, samples)))
    chosen = tuple(_choose(lowered, tensor, values[tensor], bits, power_of_two) for tensor in wanted)
    is_qonnx = bits != 8 or any(node.domain == QONNX for node in normal.proto.graph.node)
    users = {name for _, names in path.values() for name in names}
    for one in chosen:
        _insert(normal.proto, one, users, is_qonnx)
    import_domains(normal.proto)
    lower_source(parse_normal(Normal(normal.proto), source.stem), declared)  # what is written lowers
    with atomic_write(target) as written:
        written.write_bytes(normal.proto.SerializeToString())
    return chosen


def _find_end(proto: ModelProto, output: str) -> tuple[str, tuple[str, ...]]:
    """(the tensor that is to be quantised, the names of the nodes between it and the output): the scores of which a
    function of them is made, otherwise the output itself."""
    writers = {name: node for node in proto.graph.node for name in node.output}
    names: list[str] = []
    tensor, found = output, (output, tuple(names))
    while (node := writers.get(tensor)) is not None and node.op_type in (*_SCORED, *_MOVES):
        names.append(node.name)
        tensor = node.input[0]
        if node.op_type in _SCORED:
            found = tensor, tuple(names)
    return found


def _cut_at(proto: ModelProto, tensors: Iterable[str]) -> ModelProto:
    """The model with these tensors as its outputs."""
    import onnx

    cut = onnx.ModelProto()
    cut.CopyFrom(proto)
    known = {value.name: value for value in (*proto.graph.value_info, *proto.graph.output)}
    del cut.graph.output[:]
    for name in tensors:
        cut.graph.output.append(known.get(name) or onnx.helper.make_tensor_value_info(name, 1, None))
    return cut


def _is_quantised(lowered: Lowered, tensor: str) -> bool:
    """Whether the integers of an output are levels and no sums."""
    end = _find_output(lowered, tensor)
    return end is not None and _is_level(lowered.graph, end.edge)


def _is_level(graph: Graph, edge: str) -> bool:
    op = graph.producer(edge)
    if op.accumulates:
        return False
    return op in graph.requantisers or all(_is_level(graph, source) for source in op.inputs)


def _find_output(lowered: Lowered, tensor: str) -> Output | None:
    """Where the integers of an output end, as far as that is one place."""
    named = [output for output in lowered.outputs if output.tensor == tensor]
    return named[0] if named else lowered.outputs[0] if len(lowered.outputs) == 1 else None


def _choose(lowered: Lowered, tensor: str, values: Array, bits: int, power_of_two: bool) -> QuantisedOutput:
    """The scale at which the levels hold all these values."""
    low, high = float(values.min()), float(values.max())
    signed = low < 0
    top = (1 << (bits - signed)) - 1
    need = max(high / top, -low / (top + 1) if signed else 0.0)
    if np.float32(need) == 0:
        raise GreenedgeError(f"output {tensor!r} is 0 on every sample; give samples on which it is not.")
    if power_of_two:
        scale = 2.0 ** math.ceil(math.log2(need))
    else:
        end = _find_output(lowered, tensor)
        steps = np.unique(np.abs(end.scale)) if end is not None else np.zeros(0)
        scale = need if len(steps) != 1 else float(steps[0]) * (math.ceil(need / float(steps[0])) | 1)
    return QuantisedOutput(tensor, bits, signed, float(np.float32(scale)), low, high)


def _insert(proto: ModelProto, one: QuantisedOutput, users: set[str], is_qonnx: bool) -> None:
    """Puts the quantiser behind its tensor. Only outputs and the nodes named in `users` read what it gives; a tensor
    that is an output keeps its name for that."""
    graph = proto.graph
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    taken |= {tensor.name for tensor in graph.initializer}
    is_output = any(value.name == one.tensor for value in graph.output)
    before = _free_name(f"{one.tensor}_unquantised", taken) if is_output else one.tensor
    after = one.tensor if is_output else _free_name(f"{one.tensor}_quantised", taken)
    place = 0
    for k, node in enumerate(graph.node):
        if one.tensor in node.output:
            place = k + 1
            node.output[list(node.output).index(one.tensor)] = before
        for at, name in enumerate(node.input):
            if name == one.tensor:
                node.input[at] = after if node.name in users else before
    nodes = _quantiser(proto, one, before, after, taken) if is_qonnx else _linear(proto, one, before, after, taken)
    for node in reversed(nodes):
        graph.node.insert(place, node)


def _free_name(wanted: str, taken: set[str]) -> str:
    name, count = wanted, 1
    while name in taken:
        count += 1
        name = f"{wanted}_{count}"
    taken.add(name)
    return name


def _constant(proto: ModelProto, name: str, values: Array, taken: set[str]) -> str:
    from onnx import numpy_helper

    name = _free_name(name, taken)
    proto.graph.initializer.append(numpy_helper.from_array(values, name))
    return name


def _quantiser(proto: ModelProto, one: QuantisedOutput, before: str, after: str, taken: set[str]) -> list[NodeProto]:
    """QONNX's Quant."""
    from onnx import helper

    values = {"scale": one.scale, "zero_point": 0, "bits": one.bits}
    constants = [
        _constant(proto, f"{after}_{key}", np.array(value, np.float32), taken) for key, value in values.items()
    ]
    more: dict[str, Any] = {"signed": int(one.signed), "narrow": 0, "rounding_mode": "ROUND"}
    return [helper.make_node("Quant", [before, *constants], [after], name=f"{after}_quant", domain=QONNX, **more)]


def _linear(proto: ModelProto, one: QuantisedOutput, before: str, after: str, taken: set[str]) -> list[NodeProto]:
    """QuantizeLinear and DequantizeLinear."""
    from onnx import helper

    scale = _constant(proto, f"{after}_scale", np.array(one.scale, np.float32), taken)
    zero = _constant(proto, f"{after}_zero_point", np.array(0, np.int8 if one.signed else np.uint8), taken)
    levels = _free_name(f"{after}_levels", taken)
    return [
        helper.make_node("QuantizeLinear", [before, scale, zero], [levels], name=f"{after}_quantize"),
        helper.make_node("DequantizeLinear", [levels, scale, zero], [after], name=f"{after}_dequantize"),
    ]
