"""The integer graph as one .tflite file: every sum with the quantiser behind it becomes one operator, the rest moves values.

The graph has no scales, so they are chosen here: activations take theirs from their encoding, and each channel's weight
scale, bias and whole factor are those with which LiteRT's arithmetic hits every threshold (search.py). What was proved
about each channel goes with the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from greenedge.backends.int8.arithmetic import MOST
from greenedge.backends.int8.layers import Layer, Scaled, added, averaged, multiplied, scaled
from greenedge.backends.int8.legalise import SUMS, identity, prepared
from greenedge.backends.int8.quant_params import Encoding, encode, encode_input
from greenedge.backends.int8.tflite.data_movement import MOVES, Emission, Placed, as_image, emit_concat, moved, renamed
from greenedge.backends.int8.tflite.flatbuffer import Quantisation, Writer
from greenedge.backends.int8.tflite.float_outputs import finish
from greenedge.backends.int8.tflite.layout import image, plain
from greenedge.backends.int8.tflite.linear import FORMS, Form, addition, alone, by_row, form_of
from greenedge.graph import Add, Concat, Conv, Dense, Edge, Graph, Input, Op, Requantise, SumPool
from greenedge.lower.dequantise import Dequantise

MOST_INT4 = 7
_INT4_VERSION = 12  # of FULLY_CONNECTED: the first whose weights may be int4


@dataclass(frozen=True, eq=False)
class Emitted:
    """A file, the proofs of its layers, where each stored edge of the graph is in it, and its float outputs: {name: tensor}."""

    content: bytes
    layers: tuple[Layer, ...]
    placed: dict[str, Placed]
    floats: dict[str, int] = field(default_factory=dict)


def write_file(graph: Graph, int4: bool = False, all_sets: bool = False, ends: Sequence[Dequantise] = ()) -> Emitted:
    """The file for a graph against which there is no reason (rules.py); the same graph gives the same bytes.

    With `int4` the weights of dense layers that have at most 4 bits, and an even number for each output, take half a byte each; there is
    then no factor left with which a channel could be made finer. With `all_sets` operators that are exact on XNNPACK alone are avoided.
    `ends` (finish.py) become further outputs behind the graph's own.
    """
    em = Emission(prepared(graph), Writer(graph.name), int4, all_sets)
    for op in em.graph.ops:
        _emit(em, op)
    inputs = [em.placed[edge].tensor for edge in graph.inputs]
    for edge in graph.outputs:
        em.placed[edge] = _as_output(em, edge, inputs)
    outputs = list(dict.fromkeys(em.placed[edge].tensor for edge in graph.outputs))
    floats = {end.output: finish(em, end) for end in ends}
    own = {edge: placed for edge, placed in em.placed.items() if edge in graph.edges}
    return Emitted(em.writer.finish(inputs, [*outputs, *floats.values()]), tuple(em.layers), own, floats)


def _as_output(em: Emission, edge: str, inputs: list[int]) -> Placed:
    """Outputs lie as users of TFLite expect: images with channels last, the rest in the graph's own order."""
    placed = em.placed[edge]
    shape = placed.layout.shape
    placed = moved(em, placed, image(shape) if len(shape) == 3 else plain(shape), f"{edge}/output")
    return renamed(em, placed, placed.layout, f"{edge}/output") if placed.tensor in inputs else placed


def _emit(em: Emission, op: Op) -> None:
    if isinstance(op, Input):
        em.placed[op.output] = _input(em, op.output)
    elif isinstance(op, Requantise):
        _emit_step(em, op)
    elif isinstance(op, Concat):
        emit_concat(em, op, in_one_code(em, [em.placed[edge] for edge in op.inputs], op))
    elif isinstance(op, SUMS):
        if stored_unquantised(em.graph, op):
            _emit_sum(em, op, identity(em.graph.edges[op.output], op.output))
    else:
        MOVES[type(op)](em, op)


def stored_unquantised(graph: Graph, op: Op) -> bool:
    """Whether something other than a quantiser reads the accumulators of `op`: they are then stored as they are."""
    return op.output in graph.outputs or any(
        not isinstance(reader, Requantise) for reader in graph.consumers(op.output)
    )


def _input(em: Emission, edge: str) -> Placed:
    about = em.graph.edges[edge]
    reader = next(iter(em.graph.consumers(edge)), None)
    channels_last = len(about.shape) == 3 or (
        len(about.shape) == 2 and reader is not None and not isinstance(reader, Dense) and type(reader) in FORMS
    )
    code = encode_input(about.lo, about.hi, padding_level(em.graph, edge, about.lo, about.hi))
    return em.tensor(edge, image(about.shape) if channels_last else plain(about.shape), code)


def padding_level(graph: Graph, edge: str, lo: int, hi: int) -> int | None:
    """The level with which the readers of an edge pad it, where they agree on one: the best zero level."""
    levels = {reader.pad_value for reader in graph.consumers(edge) if isinstance(reader, Conv) and any(reader.pads)}
    return levels.pop() if len(levels) == 1 and lo <= min(levels) <= hi else None


def _emit_step(em: Emission, step: Requantise) -> None:
    op = em.graph.producer(step.inputs[0])
    if isinstance(op, SUMS) and not stored_unquantised(em.graph, op):
        _emit_sum(em, op, step)
    else:
        em.placed[step.output] = _write(
            em, alone(em, by_row(em, step.inputs[0], step), step.name), step, _code(em, step), step.name
        )


def _code(em: Emission, step: Requantise) -> Encoding:
    return encode(step.lo, step.hi, padding_level(em.graph, step.output, step.lo, step.hi))


def _emit_sum(em: Emission, op: Op, step: Requantise) -> None:
    """By LiteRT's own operator without weights where that is exact, else as a form of convolution."""
    if isinstance(op, Add):
        first = by_row(em, op.inputs[0], step)
        parts = in_one_code(em, [moved(em, em.placed[edge], first.layout, edge) for edge in op.inputs], op)
        direct = _write_add(em, op, step, parts)
    else:
        direct = _write_mean(em, op, step) if isinstance(op, SumPool) else None
    if direct is None:
        form = addition(em, op, parts) if isinstance(op, Add) else form_of(em, op, step.output)
        direct = _write(em, form, step, _code(em, step), op.name)
    em.placed[step.output] = direct


def _write_add(em: Emission, op: Add, step: Requantise, parts: Sequence[Placed]) -> Placed | None:
    """ADD: smaller and faster than a convolution across the stacked parts."""
    found = added(op.name, step, parts[0].code, _code(em, step)) if op.multipliers == (1, 1) else None
    if found is None:
        return None
    code, layer = found
    result = em.tensor(step.output, parts[0].layout, code)
    em.writer.operator(
        "ADD", [part.tensor for part in parts], [result.tensor], 2, fusedActivationFunction=code.activation
    )
    em.layers.append(layer)
    return result


def _write_mean(em: Emission, op: SumPool, step: Requantise) -> Placed | None:
    """MEAN over whole images: without a kernel full of ones."""
    source, code = as_image(em, op.inputs[0]), _code(em, step)
    whole = tuple(op.kernel) == tuple(source.layout.shape[1:]) and not any(op.pads)
    found = averaged(op.name, step, source.code, code, int(np.prod(op.kernel)), em.all_sets) if whole else None
    if found is None:
        return None
    code, layer = found
    result = em.tensor(step.output, image(em.graph.edges[op.output].shape), code)
    em.writer.operator(
        "MEAN", [source.tensor, em.constant(f"{step.output}/axes", [1, 2])], [result.tensor], 2, keepDims=True
    )
    em.layers.append(layer)
    return result


def in_one_code(em: Emission, parts: Sequence[Placed], op: Op) -> list[Placed]:
    """The parts in one encoding: where theirs differ, those that do not have the common one are written again."""
    if all(part.code.alike(parts[0].code) for part in parts):
        lowest = min(part.code.lo for part in parts)  # alike says nothing of it: the tops are the same
        return [replace(part, code=replace(part.code, lo=lowest)) for part in parts]
    common = encode(*common_range([part.code for part in parts]))
    result = []
    for part, edge in zip(parts, op.inputs):
        if not part.code.alike(common):
            name = f"{op.name}/{edge}"
            about = Edge(edge, part.layout.shape, part.code.lo, part.code.hi)
            part = _write(em, alone(em, part, name), identity(about, name), common, name)
        result.append(part)
    return result


def common_range(codes: Sequence[Encoding]) -> tuple[int, int]:
    """The levels that hold those of all these encodings."""
    return min(code.lo for code in codes), max(code.hi for code in codes)


def _write(em: Emission, form: Form, step: Requantise, code: Encoding, name: str) -> Placed:
    """Chooses scales and writes the operator; says where its result is."""
    weight = np.moveaxis(form.weight, form.axis, 0)
    # XNNPACK (in LiteRT 2.3) is a level off now and then where rows of int4 end in the middle of a byte.
    narrow = (
        em.int4
        and form.operator == "FULLY_CONNECTED"
        and form.weight.shape[1] % 2 == 0
        and np.abs(form.weight).max(initial=0) <= MOST_INT4
    )
    largest = MOST_INT4 if narrow else MOST
    chosen = scaled(
        form.operator, name, step, weight.reshape(len(weight), -1), form.source.code, code, largest, em.all_sets
    )
    if chosen.lift > 1:
        form = replace(form, source=_lifted(em, form.source, chosen))
    em.layers.append(chosen.layer)
    stored = np.moveaxis(chosen.weight.reshape(weight.shape), 0, form.axis)
    quantisation = Quantisation(_floats(chosen.scale), 0, form.axis)
    if narrow:
        w = em.writer.packed(f"{step.output}/weight", stored, quantisation)
        form = replace(form, version=max(form.version, _INT4_VERSION))
    else:
        w = em.writer.constant(f"{step.output}/weight", stored.astype(np.int8), quantisation)
    return _operator(em, form, code, w, chosen.bias, chosen.scale, step.output)


def _lifted(em: Emission, placed: Placed, chosen: Scaled) -> Placed:
    """The tensor with its levels multiplied, for an operator that needs finer accumulators; written once for all that do."""
    if placed.tensor not in em.lifted:
        name = f"{chosen.layer.edge}/input"
        about = Edge(name, placed.layout.shape, placed.code.lo, placed.code.hi)
        layer = multiplied(name, about, placed.code, chosen.lift, chosen.source)
        assert layer is not None, "whole multiples within int8 are exact in both arithmetics"
        em.layers.append(layer)
        em.lifted[placed.tensor] = em.tensor(name, placed.layout, chosen.source)
        em.writer.operator("QUANTIZE", [placed.tensor], [em.lifted[placed.tensor].tensor], 2)
    return em.lifted[placed.tensor]


def _operator(
    em: Emission, form: Form, code: Encoding, w: int, bias: np.ndarray, scales: np.ndarray, edge: str
) -> Placed:
    si = np.float32(form.source.code.scale)
    direct = form.written is None
    target = em.tensor(edge if direct else f"{edge}/written", form.layout if direct else form.written, code)
    b = em.writer.constant(f"{edge}/bias", bias.astype(np.int32), Quantisation(_floats(scales * si)))
    inputs, version, options = [form.source.tensor, w, b], form.version, dict(form.options)
    if form.operator == "TRANSPOSE_CONV":
        inputs = [em.constant(f"{edge}/shape", target.layout.file), w, form.source.tensor, b]
    if form.operator != "TRANSPOSE_CONV" or code.activation != "NONE":
        options["fusedActivationFunction"] = code.activation
        version = max(version, 4) if form.operator == "TRANSPOSE_CONV" else version
    em.writer.operator(form.operator, inputs, [target.tensor], version, **options)
    if direct:
        return target
    if form.crop is None:
        return renamed(em, target, form.layout, edge)
    result = em.tensor(edge, form.layout, code)
    begin = em.constant(f"{edge}/begin", [0, *form.crop, 0])
    em.writer.operator(
        "SLICE", [target.tensor, begin, em.constant(f"{edge}/size", form.layout.file)], [result.tensor], 2
    )
    return result


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(v) for v in values)
