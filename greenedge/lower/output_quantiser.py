"""Requantise: an output quantiser behind every output of a model that ends in accumulators, written into its file.

    y  →  Quant(y)      at the scores: in front of a softmax or an ArgMax, behind everything else

A model that does not lower for want of quantisers inside gets those first (branch_quantiser.py).

The scale covers what samples give. Where all accumulators of an output share one scale, it is an odd multiple n of
that: the steps are then n accumulators apart, everywhere, and no step falls between two accumulators unless the model
has a bias there. A QONNX file gets a Quant node; one of ONNX's own quantisers, at 8 bits, a QuantizeLinear and a
DequantizeLinear.

    results = quantise_outputs(source, target, samples_of, bits=8)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from greenedge.errors import GreenedgeError
from greenedge.files.atomic_write import atomic_write
from greenedge.frontends.domains import import_domains
from greenedge.frontends.input_type import InputType
from greenedge.frontends.normalise import Normal
from greenedge.frontends.samples import Samples
from greenedge.frontends.source import parse_normal, read_normal
from greenedge.graph import Graph, run_graph
from greenedge.graph.ops.base import Array
from greenedge.lower import Lowered, Output, lower_source
from greenedge.lower.branch_quantiser import quantise_branches
from greenedge.lower.float_io import run_epilogue, run_prologue
from greenedge.lower.quantiser_nodes import QuantisedTensor, cut_at, insert_quantiser, least_scale, uses_qonnx

if TYPE_CHECKING:
    from onnx import ModelProto

BITS = range(2, 9)
_SCORED = ("Softmax", "LogSoftmax", "Sigmoid", "ArgMax", "TopK")  # what is made of scores, which are quantised before
_MOVES = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose")


def quantise_outputs(
    source: Path,
    target: Path,
    read: Callable[[Lowered], Samples],
    bits: int = 8,
    power_of_two: bool = False,
    declared: Mapping[str | None, InputType] | None = None,
    keep_outputs: bool = False,
) -> tuple[QuantisedTensor, ...]:
    """Writes the model of `source` with output quantisers to `target`; returns those. `read` gives the samples for a
    lowered model. Quantisers that the model lacks inside come first; with `keep_outputs` they are all.

    Raises UnsupportedError where no quantiser makes the model lower; GreenedgeError for another number of bits than 2
    to 8, for a model that has all of them and for samples that give zeros alone.
    """
    if bits not in BITS:
        raise GreenedgeError(f"{bits} bits; a quantiser has {BITS[0]} to {BITS[-1]}.")
    normal = read_normal(source)
    inner = quantise_branches(normal.proto, source.stem, read, bits, declared)
    outer = () if keep_outputs else _quantise_ends(normal.proto, source.stem, read, bits, power_of_two, declared)
    if not inner and not outer:
        ends = [repr(value.name) for value in normal.proto.graph.output]
        which = f"output {ends[0]} is" if len(ends) == 1 else f"outputs {', '.join(ends)} are"
        rest = "no layer lacks a quantiser" if keep_outputs else f"its {which} quantised already"
        raise GreenedgeError(f"{source}: {rest}; build the file as it is.")
    import_domains(normal.proto)
    lower_source(parse_normal(Normal(normal.proto), source.stem), declared)  # what is written lowers
    with atomic_write(target) as written:
        written.write_bytes(normal.proto.SerializeToString())
    return (*inner, *outer)


def _quantise_ends(
    proto: ModelProto,
    name: str,
    read: Callable[[Lowered], Samples],
    bits: int,
    power_of_two: bool,
    declared: Mapping[str | None, InputType] | None,
) -> tuple[QuantisedTensor, ...]:
    """Puts a quantiser behind every output that ends in accumulators, in place; returns them."""
    path = {value.name: _find_end(proto, value.name) for value in proto.graph.output}
    ends = list(dict.fromkeys(tensor for tensor, _ in path.values()))
    lowered = lower_source(parse_normal(Normal(cut_at(proto, ends)), name), declared)
    wanted = [tensor for tensor in ends if not _is_quantised(lowered, tensor)]
    if not wanted:
        return ()
    values = run_epilogue(lowered, run_graph(lowered.graph, run_prologue(lowered, read(lowered))))
    chosen = tuple(_choose(lowered, tensor, values[tensor], bits, power_of_two) for tensor in wanted)
    users = {name for _, names in path.values() for name in names}
    for one in chosen:
        insert_quantiser(proto, one, users, uses_qonnx(proto, bits))
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


def _choose(lowered: Lowered, tensor: str, values: Array, bits: int, power_of_two: bool) -> QuantisedTensor:
    """The scale at which the levels hold all these values."""
    low, high = float(values.min()), float(values.max())
    need = least_scale(bits, low, high)
    if np.float32(need) == 0:
        raise GreenedgeError(f"output {tensor!r} is 0 on every sample; give samples on which it is not.")
    if power_of_two:
        scale = 2.0 ** math.ceil(math.log2(need))
    else:
        end = _find_output(lowered, tensor)
        steps = np.unique(np.abs(end.scale)) if end is not None else np.zeros(0)
        scale = need if len(steps) != 1 else float(steps[0]) * (math.ceil(need / float(steps[0])) | 1)
    return QuantisedTensor(tensor, bits, low < 0, float(np.float32(scale)), low, high)
