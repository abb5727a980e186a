"""Quantisers: QONNX Quant, IntQuant, BipolarQuant, Trunc, MultiThreshold, and ONNX QuantizeLinear / DequantizeLinear.

Quant(f(q))  →  Requantise(q), whose step function is round(f(q)/scale + zero) clipped, exact on every reachable q
"""

from __future__ import annotations

import re
from fractions import Fraction

import numpy as np

from greenedge.errors import ReasonKind, Refused
from greenedge.lower.expr import Const, Var
from greenedge.lower.rounding import (
    MODES,
    Quantiser,
    bipolar,
    quantiser,
    round_exact,
    round_floats,
    shifted,
    truncation,
)
from greenedge.lower.values import Constant, Grid, Host, Live, Value

MAX_LEVEL_BITS = 16  # thresholds are listed one by one; wider integers exist as biases and accumulators


def integer_range(bits: int, signed: bool, narrow: bool) -> tuple[int, int]:
    """Smallest and largest integer of a QONNX quantiser."""
    if signed:
        return -(1 << (bits - 1)) + bool(narrow), (1 << (bits - 1)) - 1
    return 0, (1 << bits) - 1 - bool(narrow)


def quant(walk, node, args) -> Value:
    """Quant(x, scale, zero, bits): round(x/scale + zero), clipped."""
    mode = str(node.attrs.get("rounding_mode", "ROUND")).upper()
    if mode not in MODES:
        raise Refused(
            ReasonKind.UNSUPPORTED_ROUNDING, f"rounding mode {mode!r}", f"the modes are {', '.join(MODES)}", "use ROUND"
        )
    scale, zero = _parameter(args[1], "scale"), _parameter(args[2], "zero point")
    _check_scale(scale)
    bits = _bits(args[3])
    signed, narrow = bool(node.attrs.get("signed", 1)), bool(node.attrs.get("narrow", 1))
    binary = bits == 1 and signed  # qonnx's rule: -1 and +1, whatever the rounding mode
    lo, hi = (-1, 1) if binary else integer_range(bits, signed, narrow)
    mode = "SIGN" if binary else mode
    if isinstance(args[0], (Constant, Grid)):
        return _quantised_constant(args[0], scale, zero, lo, hi, mode, bits)
    _check_level_bits(bits)
    levels = bipolar() if binary else quantiser(mode, lo, hi)
    if isinstance(args[0], Host):
        return _on_host(walk, node, args[0], scale, zero, levels, mode)
    return _on_edge(walk, node, args[0], scale, zero, levels)


def bipolar_quant(walk, node, args) -> Value:
    """BipolarQuant(x, scale): +scale where x >= 0, else -scale."""
    scale, zero = _parameter(args[1], "scale"), np.zeros(())
    _check_scale(scale)
    if isinstance(args[0], (Constant, Grid)):
        ints = np.where(_floats(args[0]) >= 0, 1, -1)
        return Grid(ints, _broadcast(scale, ints), _broadcast(zero, ints), 1)
    if isinstance(args[0], Host):
        return _on_host(walk, node, args[0], scale, zero, bipolar(), "BIPOLAR")
    return _on_edge(walk, node, args[0], scale, zero, bipolar(), scaled=False)


def trunc(walk, node, args) -> Value:
    """Trunc(x, scale, zero, in bits, [out scale,] out bits): drops low bits of an integer with the given rounding."""
    value = args[0]
    if not isinstance(value, Live):
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            "Trunc of a tensor that is not quantised",
            "Trunc drops bits of integers",
            "put a QuantIdentity before it",
        )
    scale, zero = _parameter(args[1], "scale"), _parameter(args[2], "zero point")
    _check_scale(scale)
    mode = str(node.attrs.get("rounding_mode", "FLOOR")).upper()
    rank = len(walk.builder.edges[value.edge].shape)
    y = _levels_expr(walk, value, scale, zero)
    if len(args) == 5:  # version 1: no clipping, output at the input's scale
        shift = _bits(args[3]) - _bits(args[4])
        if shift < 0:
            raise Refused(
                ReasonKind.UNSUPPORTED_OP,
                f"Trunc from {_bits(args[3])} to {_bits(args[4])} bits",
                "Trunc drops bits, it adds none",
                "quantise with QuantIdentity instead",
            )
        low, high = _value_range(walk, value, y)
        lo, hi = round_exact(mode, low / (1 << shift)) - 1, round_exact(mode, high / (1 << shift)) + 1
        out_scale, out_zero = scale, zero
    else:
        out_scale = _parameter(args[4], "output scale")
        _check_scale(out_scale)
        shifts = np.unique(np.round(np.log2(out_scale / scale)))
        if shifts.size != 1:
            raise Refused(
                ReasonKind.UNSUPPORTED_OP,
                f"Trunc by {shifts.size} different numbers of bits",
                "all channels drop as many",
                "quantise with QuantIdentity instead",
            )
        shift = int(shifts[0])
        lo, hi = integer_range(_bits(args[5]), bool(node.attrs.get("signed", 1)), bool(node.attrs.get("narrow", 0)))
        out_zero = zero / 2.0**shift
    if not 0 <= shift <= 32 or hi - lo > 1 << MAX_LEVEL_BITS:
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            f"Trunc by {shift} bits to {hi - lo + 1:,} levels",
            "0 to 32 bits, at most 65,536 levels",
            "quantise with QuantIdentity instead",
        )
    s, z = (Const.of(walk.builder.param(part, rank, "a Trunc parameter")) for part in (out_scale, out_zero))
    return walk.builder.requantise(node, value, y, truncation(mode, shift, lo, hi), lambda q: (q - z) * s)


def multi_threshold(walk, node, args) -> Value:
    """MultiThreshold(x, T): out_scale * count(x >= T[c, k]) + out_bias."""
    value, thresholds = args[0], args[1]
    if not isinstance(thresholds, Constant) or not isinstance(value, Live):
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            "MultiThreshold of a float tensor",
            "its input must be integers",
            "annotate the input (--input-type uint8:1)",
        )
    rank = len(walk.builder.edges[value.edge].shape)
    layout = node.attrs.get("data_layout") or {2: "NC", 3: "NWC", 4: "NCHW"}.get(rank + 1, "NC")
    axis = layout.index("C") - 1
    table = np.sort(np.asarray(thresholds.array, np.float64), axis=-1)  # counting them does not depend on their order
    scale, bias = float(node.attrs.get("out_scale", 1.0)), float(node.attrs.get("out_bias", 0.0))
    if not scale:
        raise Refused(ReasonKind.BAD_SCALE, "out_scale 0", "scales must not be zero", "export the model again")
    channels = walk.builder.edges[value.edge].shape[axis]
    if table.ndim != 2 or len(table) not in (1, channels) or not table.shape[1]:
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"thresholds of shape {table.shape} for {channels} channels",
            "one row, or one row per channel",
            "export the model again",
        )
    spread = [1] * rank
    spread[axis] = len(table)
    # A zero that varies along the channel axis makes the step function per channel, as the thresholds are.
    marker = Const.of(np.arange(len(table), dtype=float).reshape(spread) * 0 + 1) if len(table) > 1 else Const.of(1.0)
    lowest = int(bias / scale) if bias / scale == int(bias / scale) else 0  # then levels are multiples of the scale
    levels = Quantiser(lowest, lowest + table.shape[1], table, np.ones(table.shape[1], bool))
    rest = Const.of(bias - lowest * scale)
    return walk.builder.requantise(
        node,
        value,
        value.expr * marker,
        levels,
        lambda q: q * Const.of(scale) + rest if np.any(rest.values) else q * Const.of(scale),
    )


def quantize_linear(walk, node, args) -> Value:
    """QuantizeLinear(x, scale, zero) = saturate(round_half_even(x/scale) + zero): the integers themselves."""
    scale, zero, (signed, bits) = _linear_parameters(walk, node, args)
    _check_scale(scale)
    lo, hi = integer_range(bits, signed, False)
    if isinstance(args[0], (Constant, Grid)):
        return Constant(_quantised_constant(args[0], scale, zero, lo, hi, "LINEAR", bits).ints)
    _check_level_bits(bits)
    levels = shifted(zero.reshape(-1), lo, hi)
    if isinstance(args[0], Host):
        return _on_host(walk, node, args[0], scale, zero, levels, "LINEAR", integers=True)
    y = _levels_expr(walk, args[0], scale, zero)
    return walk.builder.requantise(node, args[0], y, levels, lambda q: q)


def dequantize_linear(walk, node, args) -> Value:
    """DequantizeLinear(q, scale, zero): scale * (q - zero)."""
    scale, zero, _ = _linear_parameters(walk, node, args)
    _check_scale(scale)
    if isinstance(args[0], Constant):
        ints = args[0].array.astype(np.int64)
        return Grid(
            ints,
            _broadcast(scale, ints),
            _broadcast(zero, ints),
            max(int(np.abs(ints).max(initial=1)).bit_length() + 1, 8),
        )
    if not isinstance(args[0], Live):
        raise Refused(
            ReasonKind.UNQUANTISED,
            "DequantizeLinear of a tensor that no quantiser made",
            "integers must come from a quantiser",
            "declare the input, for example --input-type int8:1",
        )
    rank = len(walk.builder.edges[args[0].edge].shape)
    s, z = (Const.of(walk.builder.param(part, rank, "a scale")) for part in (scale, zero))
    return Live(args[0].edge, (args[0].expr - z) * s)


def float_quant(walk, node, args) -> Value:
    raise Refused(
        "float-quantiser",
        f"{node.op} quantises to floating point",
        "the integer graph holds integers only",
        "use an integer quantiser such as Int8ActPerTensorFloat",
    )


def _parameter(value: Value, what: str) -> np.ndarray:
    if isinstance(value, Grid):
        return value.real().astype(np.float64)
    if not isinstance(value, Constant):
        raise Refused(
            ReasonKind.DYNAMIC_QUANTISER,
            f"its {what} is computed at run time",
            "quantisers must have constant parameters",
            "call model.eval() before the export and use a static quantiser",
        )
    return np.asarray(value.array, np.float64)


def _bits(value: Value) -> int:
    widths = set(np.ravel(_parameter(value, "bit width")).tolist())
    if len(widths) != 1:
        raise Refused(
            ReasonKind.UNSUPPORTED_BITS,
            f"{len(widths)} bit widths in one quantiser",
            "one bit width per tensor",
            "use one bit_width for all channels",
        )
    width = widths.pop()
    if width != int(width) or not 1 <= width <= 32:
        raise Refused(
            ReasonKind.UNSUPPORTED_BITS,
            f"bit width {width:g}",
            "whole widths from 1 to 32 bits",
            "set bit_width to a whole number",
        )
    return int(width)


def _check_scale(scale: np.ndarray) -> None:
    if not (scale > 0).all():
        worst = float(scale.min())
        raise Refused(
            ReasonKind.BAD_SCALE,
            f"scale {worst:g}",
            "scales must be positive",
            "train a few steps before the export, or remove the dead channel",
        )


def _check_level_bits(bits: int) -> None:
    if bits > MAX_LEVEL_BITS:
        raise Refused(
            ReasonKind.UNSUPPORTED_BITS,
            f"{bits}-bit activations",
            f"activations have at most {MAX_LEVEL_BITS} bits",
            "use 8 bits or fewer",
        )


def _broadcast(part: np.ndarray, ints: np.ndarray) -> np.ndarray:
    """A scale or zero point at the rank of the constant it belongs to."""
    part = np.asarray(part, np.float64)
    if part.size == 1:
        return part.reshape((1,) * ints.ndim)
    if part.ndim < ints.ndim:
        part = part.reshape((1,) * (ints.ndim - part.ndim) + part.shape)
    try:
        np.broadcast_shapes(part.shape, ints.shape)
    except ValueError:
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"scale of shape {part.shape} for a constant of shape {ints.shape}",
            "they must broadcast",
            "export the model again",
        ) from None
    return part


def _quantised_constant(value, scale, zero, lo, hi, mode, bits) -> Grid:
    """A constant's integers as the standard computes them, in the constant's own precision.

    A division, an addition and a rounding of single numbers give the same bits on every runtime, so here its result is the
    model's meaning; in real arithmetic a weight within rounding error of a tie would be another integer than everywhere else.
    """
    real = _floats(value)
    scale, zero = _broadcast(scale, real), _broadcast(zero, real)
    with np.errstate(over="ignore"):
        y = real / scale.astype(real.dtype)
    offset = zero.astype(real.dtype)
    if mode == "SIGN":
        ints = np.where(y + offset >= 0, 1, -1)
    elif mode == "LINEAR":
        ints = np.clip(np.rint(y) + offset, lo, hi).astype(np.int64)
    else:
        ints = round_floats(mode, np.clip(y + offset, lo, hi))
    return Grid(np.clip(ints, lo, hi), scale, zero, bits)


def _floats(value: Constant | Grid) -> np.ndarray:
    """A constant as a runtime holds it: float64 where the model says so, else float32."""
    if isinstance(value, Grid):
        return value.real().astype(np.float32)
    array = np.asarray(value.array)
    return array if array.dtype == np.float64 else array.astype(np.float32)


def _levels_expr(walk, value: Live, scale, zero):
    """value / scale + zero as an expression of the edge's integer."""
    rank = len(walk.builder.edges[value.edge].shape)
    s, z = (walk.builder.param(part, rank, "a scale") for part in (scale, zero))
    shape = walk.builder.edges[value.edge].shape
    for part in (s, z):
        if any(d not in (1, full) for d, full in zip(part.shape, shape)):
            raise Refused(
                ReasonKind.UNSUPPORTED_SHAPE,
                f"a scale of shape {part.shape} against a tensor of shape {shape}",
                "quantisers may not widen the tensor",
                "export the model again",
            )
    y = value.expr / Const.of(s)
    return y + Const.of(z) if np.any(z) else y


def _on_edge(walk, node, value: Live, scale, zero, levels: Quantiser, scaled: bool = True) -> Live:
    rank = len(walk.builder.edges[value.edge].shape)
    s, z = (Const.of(walk.builder.param(part, rank, "a scale")) for part in (scale, zero))
    y = _levels_expr(walk, value, scale, zero) if scaled else value.expr
    return walk.builder.requantise(node, value, y, levels, lambda q: (q - z) * s if np.any(zero) else q * s)


def _on_host(walk, node, value: Host, scale, zero, levels: Quantiser, mode: str, integers: bool = False) -> Live:
    """The first quantiser on a float input: it runs on the host and makes an input edge of the graph."""
    if value.origin is not None:
        raise Refused(
            "float-island",
            f"its input passed through {value.why}",
            "float arithmetic is possible before the first and after the last integer layer only",
            f"remove {value.origin.op} or move it behind the last layer",
        )
    edge = walk.host_input(node, value, scale, zero, levels, mode)
    rank = len(walk.builder.edges[edge].shape)
    s, z = (Const.of(walk.builder.param(part, rank, "a scale")) for part in (scale, zero))
    if integers:
        return Live(edge, Var())
    return Live(edge, (Var() - z) * s if np.any(zero) else Var() * s)


def _value_range(walk, value: Live, y) -> tuple[Fraction, Fraction]:
    """Bounds on y over the edge's range, from its ends (y must be monotone)."""
    edge = walk.builder.edges[value.edge]
    if np.isnan(y.direction()).any() or any(array.size > 1 for array in y.constants()):
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            "Trunc of a per-channel or non-monotone function",
            "one rising function per tensor",
            "quantise with QuantIdentity instead",
        )
    ends = [bound for x in (edge.lo, edge.hi) for bound in y.exactly(x, 0, 96)]
    return min(ends), max(ends)


def _linear_parameters(walk, node, args) -> tuple[np.ndarray, np.ndarray, np.dtype]:
    """(scale, zero, (signed, bits)) of a QuantizeLinear or DequantizeLinear, shaped along its axis."""
    scale = _parameter(args[1], "scale")
    given = args[2] if len(args) > 2 else None
    kind = _element_type(node, given)
    zero = _parameter(given, "zero point") if given is not None else np.zeros_like(scale)
    shape = walk.shape_of(args[0])
    if scale.ndim == 1 and scale.size > 1:
        axis = int(node.attrs.get("axis", 1)) % len(shape)
        spread = [1] * len(shape)
        spread[axis] = -1
        scale, zero = scale.reshape(spread), np.broadcast_to(zero, scale.shape).reshape(spread)
    return scale.reshape(scale.shape or ()), zero, kind


_INTEGER = re.compile(r"(u?)int(\d+)")


def _element_type(node, zero: Value | None) -> tuple[bool, int]:
    """(signed, bits) of the integers of a QuantizeLinear: the zero point's type, else the attribute's, else uint8."""
    import onnx

    name = "uint8"
    if isinstance(zero, Constant):
        name = zero.array.dtype.name
    elif node.attrs.get("output_dtype"):
        name = onnx.TensorProto.DataType.Name(node.attrs["output_dtype"]).lower()
    match = _INTEGER.fullmatch(name)
    if not match:
        raise Refused(
            "float-quantiser",
            f"{node.op} with zero point of type {name}",
            "the integer graph holds integers only",
            "use int8",
        )
    return not match.group(1), int(match.group(2))


RULES = {
    "Quant": quant,
    "IntQuant": quant,
    "BipolarQuant": bipolar_quant,
    "Trunc": trunc,
    "MultiThreshold": multi_threshold,
    "QuantizeLinear": quantize_linear,
    "DequantizeLinear": dequantize_linear,
    "FloatQuant": float_quant,
}
