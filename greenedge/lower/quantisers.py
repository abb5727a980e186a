"""Quantisers: QONNX Quant, IntQuant, BipolarQuant, Trunc, MultiThreshold, and ONNX QuantizeLinear / DequantizeLinear.

Quant(f(q))  →  Requantise(q), whose step function is round(f(q)/scale + zero) clipped, exact on every reachable q
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np

from greenedge.errors import ReasonKind, Refused
from greenedge.frontends.source import Node
from greenedge.graph import Reshape
from greenedge.graph.ops.base import Floats
from greenedge.lower.builder import Birth
from greenedge.lower.expr import Const, Expr, Var, affine_of
from greenedge.lower.moves import Move, count_axes, find_moves
from greenedge.lower.quantiser_parameters import (
    MAX_LEVEL_BITS,
    broadcast_parameter,
    check_level_bits,
    check_scale,
    floats_of,
    quantise_constant,
    read_bits,
    read_linear_parameters,
    read_parameter,
    widens_nothing,
)
from greenedge.lower.rounding import (
    MODES,
    Quantiser,
    bipolar,
    integer_range,
    quantiser,
    quantiser_around_zero,
    round_exact,
    truncation,
)
from greenedge.lower.values import Constant, Grid, Host, Live, Value, single_zero
from greenedge.lower.walk import Args, Rule, Silent, Walk

_ON_HOST = ("Quant", "IntQuant")  # quantisers of QONNX that have a form in standard operators
_MOST_ROWS = 1 << 12  # elements that may have a step function of their own
_MAX_PARTS = 4  # of a MultiThreshold's scale, of which its bias may be a multiple


def quant(walk: Walk, node: Node, args: Args) -> Value:
    """Quant(x, scale, zero, bits): round(x/scale + zero), clipped."""
    mode = _read_mode(node, "ROUND")
    value, scale, zero = args[0], read_parameter(args[1], "scale"), read_parameter(args[2], "zero point")
    check_scale(scale)
    bits = read_bits(args[3])
    signed, narrow = bool(node.attrs.get("signed", 1)), bool(node.attrs.get("narrow", 1))
    binary = bits == 1 and signed  # qonnx's rule: -1 and +1, whatever the rounding mode
    lo, hi = (-1, 1) if binary else integer_range(bits, signed, narrow)
    mode = "SIGN" if binary else mode
    if isinstance(value, (Constant, Grid)):
        return quantise_constant(value, scale, zero, (lo, hi), mode, bits)
    check_level_bits(bits)
    levels = bipolar() if binary else quantiser(mode, lo, hi)
    return _quantise(walk, node, value, scale, zero, levels, mode)


def _read_mode(node: Node, default: str) -> str:
    """The rounding mode in capitals. Raises Refused for one that QONNX does not have."""
    mode = str(node.attrs.get("rounding_mode", default)).upper()
    if mode not in MODES:
        raise Refused(
            ReasonKind.UNSUPPORTED_ROUNDING,
            f"rounding mode {mode[:40]!r}",
            f"the modes are {', '.join(MODES)}",
            "use ROUND",
        )
    return mode


def bipolar_quant(walk: Walk, node: Node, args: Args) -> Value:
    """BipolarQuant(x, scale): +scale where x >= 0, else -scale."""
    value, scale, zero = args[0], read_parameter(args[1], "scale"), np.zeros(())
    check_scale(scale)
    if isinstance(value, (Constant, Grid)):
        ints = np.where(floats_of(value) >= 0, 1, -1)
        return Grid(ints, broadcast_parameter(scale, ints), broadcast_parameter(zero, ints), 1)
    return _quantise(walk, node, value, scale, zero, bipolar(), "BIPOLAR")


def _quantise(
    walk: Walk, node: Node, value: Value | None, scale: Floats, zero: Floats, levels: Quantiser, mode: str
) -> Value:
    """The levels of a float tensor of the host, or of a live tensor; what the host makes of the last integers it also
    quantises, as long as no integer layer reads that (linear.require_activation)."""
    if isinstance(value, Host):
        if value.origin is not None and node.op in _ON_HOST:
            return value
        return _quantise_on_host(walk, node, value, scale, zero, levels, mode)
    return _quantise_edge(walk, node, _require_live(value), scale, zero, levels, is_scaled=mode != "BIPOLAR")


def _require_live(value: Value | None) -> Live:
    """The value, where every other kind has been dealt with."""
    if not isinstance(value, Live):
        raise Silent
    return value


def trunc(walk: Walk, node: Node, args: Args) -> Value:
    """Trunc(x, scale, zero, in bits, [out scale,] out bits): drops low bits of an integer with the given rounding."""
    value = args[0]
    if not isinstance(value, Live):
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            "Trunc of a tensor that is not quantised",
            "Trunc drops bits of integers",
            "put a QuantIdentity before it",
        )
    mode = _read_mode(node, "FLOOR")
    scale, zero = read_parameter(args[1], "scale"), read_parameter(args[2], "zero point")
    check_scale(scale)
    y = _express_levels(walk, value, scale, zero)
    if len(args) == 5:
        shift, (lo, hi) = _read_first_trunc(walk, node, args, value, y)
        out_scale, out_zero = scale, zero
    else:
        out_scale = read_parameter(args[4], "output scale")
        shift, (lo, hi) = _read_second_trunc(node, args, scale, out_scale)
        out_zero = zero / 2.0**shift
    if not 0 <= shift <= 32 or hi - lo > 1 << MAX_LEVEL_BITS:
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            f"Trunc by {shift} bits to {hi - lo + 1:,} levels",
            "0 to 32 bits, at most 65,536 levels",
            "quantise with QuantIdentity instead",
        )
    s, z = _express_parameters(walk, value, out_scale, out_zero, "a Trunc parameter")
    return walk.builder.requantise(node, value, y, truncation(mode, shift, lo, hi), lambda q: (q - z) * s)


def _read_first_trunc(walk: Walk, node: Node, args: Args, value: Live, y: Expr) -> tuple[int, tuple[int, int]]:
    """(bits dropped, range) of Trunc in its first version: nothing is clipped, the output has the input's scale."""
    mode = _read_mode(node, "FLOOR")
    shift = read_bits(args[3]) - read_bits(args[4])
    if shift < 0:
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            f"Trunc from {read_bits(args[3])} to {read_bits(args[4])} bits",
            "Trunc drops bits, it adds none",
            "quantise with QuantIdentity instead",
        )
    low, high = _bound_values(walk, value, y)
    return shift, (round_exact(mode, low / (1 << shift)) - 1, round_exact(mode, high / (1 << shift)) + 1)


def _read_second_trunc(node: Node, args: Args, scale: Floats, out_scale: Floats) -> tuple[int, tuple[int, int]]:
    """(bits dropped, range) of Trunc in its second version: out_scale/scale is 2**bits, the output is clipped."""
    check_scale(out_scale)
    shifts = np.unique(np.round(np.log2(out_scale / scale)))
    if shifts.size != 1:
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            f"Trunc by {shifts.size} different numbers of bits",
            "all channels drop as many",
            "quantise with QuantIdentity instead",
        )
    signed, narrow = bool(node.attrs.get("signed", 1)), bool(node.attrs.get("narrow", 0))
    return int(shifts[0]), integer_range(read_bits(args[5]), signed, narrow)


def multi_threshold(walk: Walk, node: Node, args: Args) -> Value:
    """MultiThreshold(x, T): out_scale * count(x >= T[c, k]) + out_bias."""
    value, thresholds = args[0], args[1]
    if isinstance(thresholds, Constant) and not np.ndim(thresholds.array):
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            "one threshold",
            "thresholds are a table of channels",
            "export the model again",
        )
    if not isinstance(thresholds, Constant) or not isinstance(value, Live):
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            "MultiThreshold of a float tensor",
            "its input must be integers",
            "annotate the input (--input-type uint8:1)",
        )
    rank = len(walk.edge_shape(value))
    layout = node.attrs.get("data_layout") or {2: "NC", 3: "NWC", 4: "NCHW"}.get(rank + 1, "NC")
    axis = layout.index("C") - 1
    table = np.sort(np.asarray(thresholds.array, np.float64), axis=-1)  # counting them does not depend on their order
    scale, bias = float(node.attrs.get("out_scale", 1.0)), float(node.attrs.get("out_bias", 0.0))
    if not scale:
        raise Refused(ReasonKind.BAD_SCALE, "out_scale 0", "scales must not be zero", "export the model again")
    channels = walk.edge_shape(value)[axis]
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
    # Levels are whole multiples of a part of the scale where the bias is one, each threshold being several steps of it:
    # FINN's bipolar form 2*count - 1 is -1 and +1.
    ratio = Fraction(bias) / Fraction(scale)
    parts, lowest = (ratio.denominator, ratio.numerator) if ratio.denominator <= _MAX_PARTS else (1, 0)
    rest = Const.of(0.0 if ratio.denominator <= _MAX_PARTS else bias)
    if np.asarray(thresholds.array).dtype.kind in "iu" and _is_whole(value.expr):
        table = table - 0.5  # an integer reaches T where it exceeds T - 1/2, which float64 decides without a tie
    table, scale = np.repeat(table, parts, axis=1), scale / parts
    levels = Quantiser(lowest, lowest + table.shape[1], table, np.ones(table.shape[1], bool))
    return walk.builder.requantise(
        node,
        value,
        value.expr * marker,
        levels,
        lambda q: q * Const.of(scale) + rest if np.any(rest.values) else q * Const.of(scale),
        int(node.attrs.get("zero_point", 0)),
    )


def _is_whole(y: Expr) -> bool:
    """Whether y is an integer for every integer: its slope and constant are."""
    parts = affine_of(y)
    return parts is not None and all(v == int(v) for part in parts for v in np.ravel(np.asarray(part, object)).tolist())


def quantize_linear(walk: Walk, node: Node, args: Args) -> Value:
    """QuantizeLinear(x, scale, zero) = saturate(round_half_even(x/scale) + zero): the integers themselves."""
    value, (scale, zero, (signed, bits)) = args[0], read_linear_parameters(walk, node, args)
    check_scale(scale)
    lo, hi = integer_range(bits, signed, False)
    if isinstance(value, (Constant, Grid)):
        return Constant(quantise_constant(value, scale, zero, (lo, hi), "LINEAR", bits).ints)
    check_level_bits(bits)
    levels = quantiser_around_zero(zero.reshape(-1), lo, hi)
    if isinstance(value, Host):
        if value.origin is not None:
            kind = np.dtype(f"{'int' if signed else 'uint'}{8 if bits <= 8 else 16}")
            return value.replace_example(np.zeros(value.example.shape, kind))
        return Live(_quantise_on_host(walk, node, value, scale, zero, levels, "LINEAR").edge, Var())
    value = _require_live(value)
    y = _express_levels(walk, value, scale, zero)
    one_scale = np.size(scale) == 1 and np.size(zero) == 1
    return _place_step(walk, node, value, y, levels, lambda q: q, single_zero(zero), one_scale)


def dequantize_linear(walk: Walk, node: Node, args: Args) -> Value:
    """DequantizeLinear(q, scale, zero): scale * (q - zero)."""
    value, (scale, zero, _) = args[0], read_linear_parameters(walk, node, args)
    check_scale(scale)
    if isinstance(value, Constant):
        ints = value.array.astype(np.int64)
        bits = max(int(np.abs(ints).max(initial=1)).bit_length() + 1, 8)
        return Grid(ints, broadcast_parameter(scale, ints), broadcast_parameter(zero, ints), bits)
    if isinstance(value, Host) and value.origin is not None:
        return value.replace_example(np.zeros(value.example.shape, np.float32))
    if not isinstance(value, Live):
        raise Refused(
            ReasonKind.UNQUANTISED,
            "DequantizeLinear of a tensor that no quantiser made",
            "integers must come from a quantiser",
            "declare the input, for example --input-type int8:1",
        )
    s, z = _express_parameters(walk, value, scale, zero)
    return Live(value.edge, (value.expr - z) * s)


def float_quant(walk: Walk, node: Node, args: Args) -> Value:
    """FloatQuant is refused: its levels are floats."""
    raise Refused(
        ReasonKind.FLOAT_QUANTISER,
        f"{node.op} quantises to floating point",
        "the integer graph holds integers only",
        "use an integer quantiser such as Int8ActPerTensorFloat",
    )


def _express_levels(walk: Walk, value: Live, scale: Floats, zero: Floats) -> Expr:
    """value / scale + zero as an expression of the edge's integer. Raises Refused for a scale that widens the
    tensor."""
    s, z = _express_parameters(walk, value, scale, zero)
    y = value.expr / s
    return y + z if np.any(zero) else y


def _express_parameters(
    walk: Walk, value: Live, scale: Floats, zero: Floats, what: str = "a scale"
) -> tuple[Const, Const]:
    """(scale, zero) as constants that broadcast against the tensor without its batch; `what` names them in a reason."""
    shape = walk.edge_shape(value)
    s, z = (Const.of(walk.builder.param(part, shape, what)) for part in (scale, zero))
    return s, z


def _quantise_edge(
    walk: Walk, node: Node, value: Live, scale: Floats, zero: Floats, levels: Quantiser, is_scaled: bool
) -> Live:
    """scale * (Requantise(q) - zero); the levels are those of value/scale + zero, or of the value alone."""
    s, z = _express_parameters(walk, value, scale, zero)
    y = _express_levels(walk, value, scale, zero) if is_scaled else value.expr

    def dequantise(q: Expr) -> Expr:
        return (q - z) * s if np.any(zero) else q * s

    one_scale = scale.size == 1 and zero.size == 1
    return _place_step(walk, node, value, y, levels, dequantise, single_zero(zero), one_scale)


def _place_step(
    walk: Walk,
    node: Node,
    value: Live,
    y: Expr,
    levels: Quantiser,
    dequantise: Callable[[Expr], Expr],
    zero: int,
    one_scale: bool,
) -> Live:
    """The step where its function varies along one axis: here, before the moves that spread it over several, or on the
    tensor as a line."""
    builder = walk.builder
    moves = find_moves(y, value.edge, builder.producer, lambda edge: builder.edges[edge].shape) if one_scale else []
    if not moves and one_scale and count_axes(y) > 1:
        return _quantise_flat(walk, node, value, y, levels, dequantise, zero)
    if not moves:
        return builder.requantise(node, value, y, levels, dequantise, zero)
    source = Live(moves[0].op.inputs[0], _undo(value.expr, moves))
    found = builder.requantise(node, source, _undo(y, moves), levels, dequantise, zero)
    found = Live(found.edge, found.expr.map_constants(lambda part: part.reshape(())))  # whatever the rank
    builder.trace.births.setdefault(found.edge, Birth(node.outputs[0], found.expr, tuple(moves)))
    for move in moves:
        name = builder.unique(move.op.name)
        found = Live(builder.emit(replace(move.op, name=name, inputs=(found.edge,), output=name)), found.expr)
    return found


def _quantise_flat(
    walk: Walk, node: Node, value: Live, y: Expr, levels: Quantiser, dequantise: Callable[[Expr], Expr], zero: int
) -> Live:
    """Reshape(Requantise(Reshape(q))): a function of its own for every element, as behind a position embedding. Raises
    Refused for more elements than have rows of their own."""
    builder, shape = walk.builder, walk.edge_shape(value)
    count = int(np.prod(shape))
    if count > _MOST_ROWS:
        return builder.requantise(node, value, y, levels, dequantise, zero)  # which says why not
    flat = Move(Reshape("", (), "", (count,)), shape, (count,))
    back = Move(Reshape("", (), "", shape), (count,), shape)
    name = builder.unique(node)
    line = builder.emit(replace(flat.op, name=name, inputs=(value.edge,), output=name))
    source, y = (expr.map_constants(back.undo_constant) for expr in (value.expr, y))
    found = builder.requantise(node, Live(line, source), y, levels, dequantise, zero)
    found = Live(found.edge, found.expr.map_constants(lambda part: part.reshape(())))
    builder.trace.births.setdefault(found.edge, Birth(node.outputs[0], found.expr, (back,)))
    name = builder.unique(node)
    return Live(builder.emit(replace(back.op, name=name, inputs=(found.edge,), output=name)), found.expr)


def _undo(expr: Expr, moves: list[Move]) -> Expr:
    """The function with its constants where they are before the moves."""
    for move in reversed(moves):
        expr = expr.map_constants(move.undo_constant)
    return expr


def _quantise_on_host(
    walk: Walk, node: Node, value: Host, scale: Floats, zero: Floats, levels: Quantiser, mode: str
) -> Live:
    """scale * (input edge - zero): the first quantiser on a float input runs on the host and makes an input of the
    graph."""
    if value.origin is not None:
        raise Refused(
            ReasonKind.FLOAT_ISLAND,
            f"its input passed through {value.history}",
            "float arithmetic is possible before the first and after the last integer layer only",
            value.cure,
        )
    for part in (scale, zero):
        if not widens_nothing(part.shape, value.example.shape):
            raise Refused(
                ReasonKind.UNSUPPORTED_SHAPE,
                f"a scale of shape {part.shape} against a tensor of shape {value.example.shape}",
                "quantisers may not widen the tensor",
                "export the model again",
            )
    levels_of_input = Live(walk.host_input(node, value, scale, zero, levels, mode), Var())
    s, z = _express_parameters(walk, levels_of_input, scale, zero)
    return Live(levels_of_input.edge, (Var() - z) * s if np.any(zero) else Var() * s)


def _bound_values(walk: Walk, value: Live, y: Expr) -> tuple[Fraction, Fraction]:
    """Bounds on y over the edge's range, from its ends. Raises Refused for a y that is not monotone or varies by
    channel."""
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


RULES: dict[str, Rule] = {
    "Quant": quant,
    "IntQuant": quant,
    "BipolarQuant": bipolar_quant,
    "Trunc": trunc,
    "MultiThreshold": multi_threshold,
    "QuantizeLinear": quantize_linear,
    "DequantizeLinear": dequantize_linear,
    "FloatQuant": float_quant,
}
