"""From layer to unit: one function per kind of layer says which module computes it, its parameters and memory files."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import singledispatch

import numpy as np

from greenedge.backends.finn.dialect import ops as hw
from greenedge.backends.finn.dialect.layer import Fold, Layer, Wire
from greenedge.backends.finn.dialect.ring import WindowGeometry
from greenedge.graph.ops.base import Ints

FOLDER = "rtl"  # memory files are named as seen from the build folder


Memories = dict[str, tuple[Ints, int]]  # file name -> (rows of integers, bits of each)


@dataclass(frozen=True)
class Unit:
    """A module with its parameters. `memories` makes its memory files, which the parameters in `files` name."""

    module: str
    parameters: Mapping[str, int]
    memories: Callable[[], Memories] = field(default=dict, compare=False)
    files: Mapping[str, str] = field(default_factory=dict)


@singledispatch
def unit_of(layer: Layer, fold: Fold) -> Unit:
    """The unit that computes `layer`, so folded. For layers that pass beats on, `fold.pe` integers are in one beat."""
    raise AssertionError(f"no unit computes {layer}")


def ring_pixels(p: Mapping[str, int]) -> int:
    """Pixels that ge_window stores with these parameters."""
    return WindowGeometry(
        p["H"],
        p["W"],
        (p["KH"], p["KW"]),
        (p["SH"], p["SW"]),
        (p["DH"], p["DW"]),
        (p["PT"], p["PL"], p["PB"], p["PR"]),
    ).ring_pixels(p["C"], p["PE"])


def memory_file(rows: Ints, bits: int) -> bytes:
    """One hexadecimal word a line; element 0 of a row in the low bits."""
    mask = (1 << bits) - 1
    digits = (rows.shape[1] * bits + 3) // 4
    lines = (f"{sum((int(v) & mask) << (i * bits) for i, v in enumerate(row)):0{digits}x}" for row in rows)
    return ("\n".join(lines) + "\n").encode()


def _file(layer: Layer, what: str) -> str:
    return f"{FOLDER}/{layer.name}_{what}.mem"


def _linear(layer: hw.Linear, words: Callable[[], Ints], pe: int, parameters: Mapping[str, int], module: str) -> Unit:
    def memories() -> Memories:
        rows = (words() < 0).astype(np.int64) if layer.weight_bits == 1 else words()
        contents = {f"{layer.name}_weights.mem": (rows, layer.weight_bits)}
        if layer.correct:  # the unit starts each accumulator at this constant
            contents[f"{layer.name}_correction.mem"] = (layer.correction.reshape(-1, pe), layer.result.bits)
        return contents

    source = layer.source
    common = {
        "W_BITS": layer.weight_bits,
        "A_BITS": source.bits,
        "ASGN": int(source.signed),
        "OUT_BITS": layer.result.bits,
        "CORRECT": int(layer.correct),
    }
    files = {"WEIGHTS_FILE": _file(layer, "weights")}
    files |= {"CORRECTION_FILE": _file(layer, "correction")} if layer.correct else {}
    return Unit(module, {**parameters, **common}, memories, files)


def matvec_words(values: Ints, fold: Fold) -> Ints:
    """A value per weight, (K, M), in the order of ge_mvu's memory: (words, elements of a word)."""
    k, m = values.shape
    tiles = values.T.reshape(m // fold.pe, fold.pe, k // fold.simd, fold.simd)
    return tiles.transpose(0, 2, 1, 3).reshape(-1, fold.pe * fold.simd)


def depthwise_words(values: Ints, fold: Fold) -> Ints:
    """A value per weight, (C, taps), in the order of ge_depthwise's memory: (words, elements of a word)."""
    channels, taps = values.shape
    return values.reshape(channels // fold.pe, fold.pe, taps).transpose(0, 2, 1).reshape(-1, fold.pe)


def table_words(values: Ints, fold: Fold) -> Ints:
    """A value per entry, (channels as the unit counts them, size), in the order of ge_table's memory."""
    size = values.shape[1]
    return values.reshape(-1, fold.pe, size).transpose(0, 2, 1).reshape(-1, fold.pe)


@unit_of.register
def _matvec(layer: hw.MatVec, fold: Fold) -> Unit:
    k, m = layer.weight.shape

    def words() -> Ints:
        return matvec_words(layer.weight, fold)

    return _linear(layer, words, fold.pe, {"K": k, "M": m, "PE": fold.pe, "SIMD": fold.simd}, "ge_mvu")


@unit_of.register
def _depthwise(layer: hw.Depthwise, fold: Fold) -> Unit:
    channels, taps = layer.weight.shape

    def words() -> Ints:
        return depthwise_words(layer.weight, fold)

    return _linear(layer, words, fold.pe, {"C": channels, "TAPS": taps, "PE": fold.pe}, "ge_depthwise")


@unit_of.register
def _window(layer: hw.Window, fold: Fold) -> Unit:
    top, left, bottom, right = layer.pads
    return Unit(
        "ge_window",
        {
            "C": layer.source.channels,
            "H": layer.height,
            "W": layer.width,
            "KH": layer.kernel[0],
            "KW": layer.kernel[1],
            "SH": layer.strides[0],
            "SW": layer.strides[1],
            "DH": layer.dilations[0],
            "DW": layer.dilations[1],
            "PT": top,
            "PL": left,
            "PB": bottom,
            "PR": right,
            "PE": fold.pe,
            "BITS": layer.source.bits,
            "PAD": layer.pad,
            "DEPTHWISE": int(layer.grouped),
        },
    )


@unit_of.register
def _pad(layer: hw.Pad, fold: Fold) -> Unit:
    top, left, bottom, right = layer.pads
    return Unit(
        "ge_pad",
        {
            "C": layer.source.channels,
            "H": layer.height,
            "W": layer.width,
            "PT": top,
            "PL": left,
            "PB": bottom,
            "PR": right,
            "PE": fold.pe,
            "BITS": layer.source.bits,
            "PAD": layer.pad,
        },
    )


@unit_of.register
def _pool(layer: hw.Pool, fold: Fold) -> Unit:
    source = layer.source
    return Unit(
        "ge_pool",
        {
            "C": layer.result.channels,
            "TAPS": layer.taps,
            "PE": fold.pe,
            "BITS": source.bits,
            "SGN": int(source.signed),
            "OUT_BITS": layer.result.bits,
            "MAX": int(layer.largest),
        },
    )


@unit_of.register
def _pool_global(layer: hw.GlobalPool, fold: Fold) -> Unit:
    source = layer.source
    return Unit(
        "ge_pool_global",
        {
            "C": source.channels,
            "PIXELS": source.pixels,
            "PE": fold.pe,
            "BITS": source.bits,
            "SGN": int(source.signed),
            "OUT_BITS": layer.result.bits,
            "MAX": int(layer.largest),
        },
    )


@unit_of.register
def _step(layer: hw.Step, fold: Fold) -> Unit:
    return {"affine": _affine, "thresholds": _thresholds, "table": _table, "search": _search}[fold.form](layer, fold)


def repeat_rows(layer: hw.Step, fold: Fold) -> tuple[int, Ints]:
    """(channels as the unit counts them, which row of the layer each has)."""
    channels = math.lcm(layer.period, fold.pe)
    return channels, np.arange(channels) % layer.period


def affine_bits(layer: hw.Step) -> tuple[int, int]:
    """(bits of m, bits of b) in the parameter memory; m*x + b is computed in the latter."""
    m, b, shift = layer.require_affine()
    ends = np.concatenate([m * layer.source.lo + b, m * layer.source.hi + b, b])
    widest = max(int(np.abs(ends).max()).bit_length() + 1, shift + layer.result.bits + 1)
    return max(1, int(m.max()).bit_length()), widest


def threshold_words(layer: hw.Step) -> Ints:
    """(period, steps): the thresholds as the memory holds them, one beyond the type of x where none reaches it."""
    least = -(1 << (layer.source.bits - 1)) if layer.source.signed else 0
    return np.clip(layer.require_thresholds(), least, least + (1 << layer.source.bits))


def _affine(layer: hw.Step, fold: Fold) -> Unit:
    m, b, shift = layer.require_affine()
    source, edge = layer.source, layer.result
    mb, bb = affine_bits(layer)
    channels, row = repeat_rows(layer, fold)

    def memories() -> Memories:
        fields = (m.astype(object) << bb) | (b.astype(object) & ((1 << bb) - 1))
        return {f"{layer.name}_parameters.mem": (fields[row].reshape(-1, fold.pe), mb + bb)}

    return Unit(
        "ge_requantise",
        {
            "C": channels,
            "PE": fold.pe,
            "X_BITS": source.bits,
            "XSGN": int(source.signed),
            "M_BITS": mb,
            "B_BITS": bb,
            "SHIFT": shift,
            "LO": layer.lo,
            "HI": layer.hi,
            "OUT_BITS": edge.bits,
            "CYCLES": fold.cycles,
        },
        memories,
        {"PARAMETERS_FILE": _file(layer, "parameters")},
    )


def _thresholds(layer: hw.Step, fold: Fold) -> Unit:
    source, thresholds = layer.source, layer.require_thresholds()
    steps = thresholds.shape[1]
    channels, row = repeat_rows(layer, fold)
    bits, falls = source.bits + 1, layer.fall_bits  # one bit more: the largest x plus one is never reached

    def memories() -> Memories:
        inside = threshold_words(layer)[row].astype(object) & ((1 << bits) - 1)
        above = layer.falls[row].astype(object)
        lanes = sum(inside[:, k] << (k * bits) for k in range(steps))
        lanes = lanes + sum(above[:, k] << (steps * bits + k) for k in range(falls))
        return {f"{layer.name}_thresholds.mem": (lanes.reshape(-1, fold.pe), steps * bits + falls)}

    return Unit(
        "ge_threshold",
        {
            "C": channels,
            "PE": fold.pe,
            "X_BITS": source.bits,
            "XSGN": int(source.signed),
            "LO": layer.start,
            "STEPS": steps,
            "OUT_BITS": layer.result.bits,
            "FALLS": falls,
        },
        memories,
        {"THRESHOLDS_FILE": _file(layer, "thresholds")},
    )


def _search(layer: hw.Step, fold: Fold) -> Unit:
    source, tree = layer.source, layer.tree
    channels, row = repeat_rows(layer, fold)

    def memories() -> Memories:
        stages = {
            f"{layer.name}_search_{s}.mem": (table_words(tree.thresholds[row][:, tree.places(s)], fold), source.bits)
            for s in range(tree.stages)
        }
        return stages | {f"{layer.name}_search_levels.mem": (table_words(tree.levels[row], fold), layer.result.bits)}

    return Unit(
        "ge_search",
        {
            "C": channels,
            "PE": fold.pe,
            "X_BITS": source.bits,
            "XSGN": int(source.signed),
            "N": tree.stages,
            "OUT_BITS": layer.result.bits,
        },
        memories,
        {"FILES": f"{FOLDER}/{layer.name}_search"},
    )


def _table(layer: hw.Step, fold: Fold) -> Unit:
    source, table = layer.source, layer.require_table()
    channels, row = (1, np.zeros(fold.pe, np.int64)) if layer.period == 1 else repeat_rows(layer, fold)
    size = table.shape[1]

    def memories() -> Memories:
        return {f"{layer.name}_table.mem": (table_words(table[row], fold), layer.result.bits)}

    return Unit(
        "ge_table",
        {
            "C": channels,
            "PE": fold.pe,
            "X_BITS": source.bits,
            "XSGN": int(source.signed),
            "XLO": layer.table_lo,
            "SIZE": size,
            "OUT_BITS": layer.result.bits,
        },
        memories,
        {"TABLE_FILE": _file(layer, "table")},
    )


@unit_of.register
def _add(layer: hw.Add, fold: Fold) -> Unit:
    a, b = layer.sources
    return Unit(
        "ge_add",
        {
            "PE": fold.pe,
            "A_BITS": a.bits,
            "ASGN": int(a.signed),
            "B_BITS": b.bits,
            "BSGN": int(b.signed),
            "AM": layer.multipliers[0],
            "BM": layer.multipliers[1],
            "OUT_BITS": layer.result.bits,
        },
    )


@unit_of.register
def _multiply(layer: hw.Multiply, fold: Fold) -> Unit:
    a, b = layer.sources
    return Unit(
        "ge_multiply",
        {
            "PE": fold.pe,
            "A_BITS": a.bits,
            "ASGN": int(a.signed),
            "AZERO": layer.zeros[0],
            "B_BITS": b.bits,
            "BSGN": int(b.signed),
            "BZERO": layer.zeros[1],
            "OUT_BITS": layer.result.bits,
        },
    )


def _width(wire: Wire, fold: Fold) -> int:
    return (wire.bits * fold.pe + 7) // 8 * 8


@unit_of.register
def _fork(layer: hw.Fork, fold: Fold) -> Unit:
    return Unit("ge_fork", {"WIDTH": _width(layer.source, fold)})


@unit_of.register
def _concat(layer: hw.Concat, fold: Fold) -> Unit:
    return Unit(
        "ge_concat",
        {"A": layer.chunks[0] // fold.pe, "B": layer.chunks[1] // fold.pe, "WIDTH": _width(layer.source, fold)},
    )


@unit_of.register
def _upsample(layer: hw.Upsample, fold: Fold) -> Unit:
    return Unit(
        "ge_upsample",
        {
            "C": layer.source.channels,
            "H": layer.height,
            "W": layer.width,
            "FH": layer.factors[0],
            "FW": layer.factors[1],
            "PE": fold.pe,
            "BITS": layer.source.bits,
        },
    )


def place_words(layer: hw.Reorder, fold: Fold) -> tuple[Ints, int]:
    """(words (M, 1), their bits) of ge_reorder's table of places."""
    turn = layer.turn_of(fold)
    place_bits, slot_bits = max(1, (turn.size - 1).bit_length()), (turn.depth - 1).bit_length()
    words = (turn.free << (place_bits + slot_bits)) | (turn.places % turn.depth << place_bits) | turn.places
    return words[:, None], place_bits + slot_bits + turn.size.bit_length()


@unit_of.register
def _reorder(layer: hw.Reorder, fold: Fold) -> Unit:
    turn = layer.turn_of(fold)
    return Unit(
        "ge_reorder",
        {"N": turn.size, "M": len(turn.places), "DEPTH": turn.depth, "WIDTH": _width(layer.source, fold)},
        lambda: {f"{layer.name}_places.mem": place_words(layer, fold)},
        {"PLACES_FILE": _file(layer, "places")},
    )


@unit_of.register
def _arg_max(layer: hw.ArgMax, fold: Fold) -> Unit:
    source = layer.source
    return Unit(
        "ge_argmax",
        {"N": source.channels, "BITS": source.bits, "SGN": int(source.signed), "OUT_BITS": layer.result.bits},
    )


@unit_of.register
def _queue(layer: hw.Queue, fold: Fold) -> Unit:
    return Unit("ge_queue", {"WIDTH": _width(layer.source, fold), "DEPTH": -(-layer.depth // fold.pe)})
