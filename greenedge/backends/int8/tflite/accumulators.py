"""Sums of more than 8 bits as they are, int32 in the file: LiteRT's int8 operators round behind every sum, so they are
added up in float32, which is exact on integers up to 2**24, and cast.

    sum of w * level = sum of w * (level - zero) + zero * sum of w        zero: the level of the input's zero point

Whatever the order in which a kernel adds, fused or not, every product and every partial sum is an integer of at most
sum of |w| * max |level - zero| + |zero * sum of w|; below 2**24 each of them is a float32. Wider sums are made of two,
w = 16 * high + low, cast to int32 each. What is padded with is the zero point, so it adds w * zero as in the graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from greenedge.backends.int8.arithmetic import EXACT_FLOAT, FLOAT_SUM, LITERT
from greenedge.backends.int8.layers import exact_layer
from greenedge.backends.int8.quant_params import LEVELS, Encoding
from greenedge.backends.int8.requirements import require_readers
from greenedge.backends.int8.tflite.builder import Placed, TfliteBuilder
from greenedge.backends.int8.tflite.flatbuffer import Quantisation
from greenedge.backends.int8.tflite.quantise import Form, place_result, write_sum_operator
from greenedge.errors import Reason, ReasonKind
from greenedge.graph import Graph, Op
from greenedge.graph.ops.base import Ints
from greenedge.legalise.capabilities import QUANTISE_OUTPUT

_DIGIT = 16  # what the high part of a weight counts


def require_exact_sums(b: TfliteBuilder, op: Op, weight: Ints, summed: Sequence[int]) -> None:
    """Notes who may read the sum. Where it is stored as int32 float32 adds it up exactly; `summed` are the axes of
    `weight` that one sum runs over."""
    require_readers(b, op)
    source = b.encodings.get(op.inputs[0])
    if op.output not in b.wide or source is None or source.is_wide:  # None: refused where it is made
        return
    *_, last = _splittings(weight)
    b.require(
        _choose_parts(weight, summed, source) is not None,
        f"an output of accumulators whose halves add up to {max(_bound(part, summed, source) for _, part in last):,}",
        f"float32, in which LiteRT adds them up exactly, holds every integer below {EXACT_FLOAT:,}",
        QUANTISE_OUTPUT,
        ReasonKind.TOO_WIDE,
    )


def refuse_accumulators(graph: Graph) -> list[Reason]:
    """Why an accelerator's compiler cannot have the file: its outputs of accumulators are added up in floats."""
    return [
        Reason(
            graph.producer(edge).name,
            ReasonKind.TOO_WIDE,
            f"an output of {graph.edges[edge].bits}-bit accumulators",
            "an accelerator's outputs have 8 bits",
            QUANTISE_OUTPUT,
        )
        for edge in dict.fromkeys(graph.outputs)
        if graph.edges[edge].levels > LEVELS + 1
    ]


def _splittings(weight: Ints) -> list[list[tuple[int, Ints]]]:
    """The weights as one part and as two, each (factor, part); together they are the weights."""
    low = (weight + _DIGIT // 2) % _DIGIT - _DIGIT // 2
    return [[(1, weight)], [(_DIGIT, (weight - low) // _DIGIT), (1, low)]]


def _choose_parts(weight: Ints, summed: Sequence[int], source: Encoding) -> list[tuple[int, Ints]] | None:
    """The fewest (factor, part) with which float32 is exact; None where it is not."""
    for parts in _splittings(weight):
        if all(_bound(part, summed, source) < EXACT_FLOAT for _, part in parts):
            return parts
    return None


def _bound(weight: Ints, summed: Sequence[int], source: Encoding) -> int:
    """The largest magnitude of any partial sum, bias included."""
    reach = max(abs(source.lo - source.zero_level), abs(source.hi - source.zero_level))
    axes = tuple(summed)
    total = np.abs(weight).sum(axis=axes) * reach + np.abs(weight.sum(axis=axes) * source.zero_level)
    return int(total.max(initial=0))


def accumulate(b: TfliteBuilder, form: Form, op: Op) -> None:
    """Writes the sums of `form` as the int32 tensor of the edge that `op` writes."""
    edge = b.graph.edges[op.output]
    summed = [axis for axis in range(form.weight.ndim) if axis != form.axis]
    parts = _choose_parts(form.weight, summed, form.source.code)
    assert parts is not None, "the check requires it"
    source = cast_to_float(b, form.source, op.name)
    terms: list[tuple[int | Ints, int]] = []
    for k, (factor, part) in enumerate(parts):
        name = f"{edge.name}/part{k}" if len(parts) > 1 else edge.name
        bias = part.sum(axis=tuple(summed)) * form.source.code.zero_level
        terms.append((factor, _write_part(b, form, source, part, bias, name)))
    layout, name = (form.layout, edge.name) if form.written is None else (form.written, f"{edge.name}/written")
    total = Placed(_add_terms(b, layout.file, terms, name), layout, b.wide_encoding(edge.name))
    b.placed[op.output] = place_result(b, form, total, edge.name)
    channels = form.weight.shape[form.axis]
    b.layers.append(exact_layer(op.name, edge, FLOAT_SUM + form.operator, channels, LITERT))


def cast_to_float(b: TfliteBuilder, placed: Placed, name: str) -> int:
    """The tensor's levels as float32, counted from its zero level."""
    shape, zero = placed.layout.file, placed.code.zero_point
    tensor = b.writer.tensor(f"{name}/float", shape, "FLOAT32")
    b.writer.operator("CAST", [placed.tensor], [tensor])
    if zero == 0:
        return tensor
    shifted = b.writer.tensor(f"{name}/levels", shape, "FLOAT32")
    constant = b.writer.constant(f"{name}/zero", np.array([zero], np.float32))
    b.writer.operator("SUB", [tensor, constant], [shifted], fusedActivationFunction="NONE")
    return shifted


def _write_part(b: TfliteBuilder, form: Form, source: int, part: Ints, bias: Ints, name: str) -> int:
    """One sum in float32, cast to int32. The weights are stored as int8: DEQUANTIZE with the scale 1 gives them as they
    are."""
    weight = b.writer.constant(f"{name}/weight", part.astype(np.int8), Quantisation((1.0,)))
    real = b.writer.tensor(f"{name}/real_weight", part.shape, "FLOAT32")
    b.writer.operator("DEQUANTIZE", [weight], [real], 2)
    shape = form.layout.file if form.written is None else form.written.file
    total = b.writer.tensor(f"{name}/real", shape, "FLOAT32")
    constant = b.writer.constant(f"{name}/bias", bias.astype(np.float32))
    write_sum_operator(b, form, (source, real, constant), total, shape, name)
    return int32_operator(b, "CAST", [total], shape, f"{name}/acc")


def _add_terms(b: TfliteBuilder, shape: tuple[int, ...], terms: Sequence[tuple[int | Ints, int]], name: str) -> int:
    """The int32 tensor `name`, the sum of factor * tensor; factors are numbers, or one for each index of the last
    axis."""
    tensors = []
    for k, (factor, tensor) in enumerate(terms):
        if np.any(factor != 1):
            constant = b.constant(f"{name}/factor{k}", np.atleast_1d(factor))
            tensor = int32_operator(b, "MUL", [tensor, constant], shape, f"{name}/scaled{k}")
        tensors.append(tensor)
    total = tensors[0]
    for k, tensor in enumerate(tensors[1:]):
        total = int32_operator(b, "ADD", [total, tensor], shape, f"{name}/total{k}")
    b.writer.rename(total, name)
    return total


def int32_operator(b: TfliteBuilder, operator: str, inputs: Sequence[int], shape: tuple[int, ...], name: str) -> int:
    """An int32 tensor that an operator on whole numbers writes."""
    result = b.writer.tensor(name, shape, "INT32")
    options: dict[str, object] = {} if operator == "CAST" else {"fusedActivationFunction": "NONE"}
    b.writer.operator(operator, inputs, [result], 1, **options)
    return result


def accumulate_terms(
    b: TfliteBuilder, op: Op, parts: Sequence[Placed], multipliers: Ints, offsets: Sequence[int]
) -> None:
    """Writes the sum of multiplier * (stored - offset) of parts in one layout as int32; `multipliers` is (parts, 1), or
    (parts, C) for what is stored channels-last."""
    edge, layout = b.graph.edges[op.output], parts[0].layout
    terms: list[tuple[int | Ints, int]] = []
    for k, (part, factor, offset) in enumerate(zip(parts, multipliers, offsets, strict=True)):
        terms.append((factor, cast_to_int32(b, part, offset, f"{edge.name}/part{k}")))
    total = _add_terms(b, layout.file, terms, edge.name)
    b.placed[op.output] = Placed(total, layout, b.wide_encoding(edge.name))
    b.layers.append(exact_layer(op.name, edge, "int32 ADD", 1, LITERT))


def cast_to_int32(b: TfliteBuilder, placed: Placed, offset: int, name: str) -> int:
    """stored - offset as int32."""
    shape = placed.layout.file
    tensor = int32_operator(b, "CAST", [placed.tensor], shape, f"{name}/wide")
    if offset == 0:
        return tensor
    return int32_operator(b, "ADD", [tensor, b.constant(f"{name}/offset", [-offset])], shape, f"{name}/level")
