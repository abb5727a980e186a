"""Functions of a row, which are defined in integers: attention's softmax, RMS and layer norm; and the product of two
activations, which attention is made of.

scale_a*(a - zero_a) @ scale_b*(b - zero_b)  →  scale_a*scale_b * MatMul(a, b)
Softmax(scale*(q - zero))                    →  Softmax(q) / unit
LayerNormalization(scale*(q - zero))         →  gamma * Normalise(q) / 2^16 + beta
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from greenedge.errors import ReasonKind, Refused
from greenedge.frontends.source import Node
from greenedge.graph import MatMul, freeze
from greenedge.graph.ops.base import Array, Shape
from greenedge.graph.ops.normalise import NORM_BITS, define_norm
from greenedge.graph.ops.softmax import define_softmax
from greenedge.lower.builder import QUANTISE_IN_FILE, Birth
from greenedge.lower.expr import Const, Var
from greenedge.lower.rounding import integer_range
from greenedge.lower.values import Broken, Constant, Grid, Live, Masked, Value
from greenedge.lower.walk import Args, Rule, Silent, Walk

_FINE_UNIT = 1 << 12  # of a softmax that no quantiser reads
_PARTS = 1 << 6  # of a level, to which the unit of a softmax is rounded
_SAME_UNIT = 2.0**-20  # how far a scale may be from 1 / unit where float32 wrote it
_MASKED = -1e4  # what exporters add to a logit that must not count, or less
_LAYERS = ("MatMul", "Gemm", "Conv", "ConvTranspose")


def multiply_matrices(walk: Walk, node: Node, a: Value | None, b: Value | None) -> Live:
    """scale_a*(a - zero_a) @ scale_b*(b - zero_b) → scale_a*scale_b * MatMul(a, b). Raises Refused for factors without
    a level that stands for 0, or of several scales."""
    factors = [_require_levels(walk, node, value, what) for value, what in ((a, "first"), (b, "second"))]
    scales, zeros = zip(*(_require_one_grid(walk, value) for value in factors), strict=True)
    shape = walk.edge_shape(factors[0])
    name = walk.builder.unique(node)
    op = MatMul(name, (factors[0].edge, factors[1].edge), name, (zeros[0], zeros[1]), shape[-1] if shape else 0)
    edge = walk.builder.emit_sum(op, *factors)
    return Live(edge, Var() * Const.of(np.array(scales[0] * scales[1], dtype=object)))


def _require_levels(walk: Walk, node: Node, value: Value | None, what: str) -> Live:
    """A factor of a product as levels. Raises Refused for one that is not quantised."""
    if isinstance(value, (Broken, type(None))):
        raise Silent
    if not isinstance(value, Live):
        raise Refused(
            ReasonKind.UNQUANTISED,
            f"its {what} factor is no quantised tensor of the network",
            "a product of two activations needs both quantised",
            f"put a QuantIdentity(bit_width=8) before it, {QUANTISE_IN_FILE}",
        )
    return walk.builder.materialise(node, value)


def _require_one_grid(walk: Walk, value: Live) -> tuple[Fraction, int]:
    """(scale, zero) of a tensor that has one of each."""
    scale, zero = walk.builder.require_grid(value)
    if scale.size > 1 or zero.size > 1 or zero.item().denominator != 1:
        raise Refused(
            ReasonKind.UNSUPPORTED_SCALE,
            "a tensor whose scale or zero differs by channel, or that has no level for 0",
            "products of activations and rows have one scale and one whole zero",
            "use a per-tensor quantiser before it",
        )
    return scale.item(), int(zero.item())


def mask_logits(walk: Walk, node: Node, value: Live | Masked, added: Array) -> Masked | None:
    """What adding a constant to logits means, where it holds nothing but 0 and numbers that must not count; None for
    any other constant, and where no layer reads what a softmax makes of it."""
    if not np.all((added == 0) | (added <= _MASKED)) or not np.any(added <= _MASKED) or not _reaches_layer(walk, node):
        return None
    shape = walk.edge_shape(value.live if isinstance(value, Masked) else value)
    seen = walk.builder.param((added == 0).astype(np.int64), shape, "a mask")
    if isinstance(value, Masked):
        return Masked(value.live, value.seen * seen)
    return Masked(value, seen)


def where(walk: Walk, node: Node, args: Args) -> Value:
    """Where(condition, x, low) with a constant condition and a low constant → x, masked."""
    condition, first, second = args
    if isinstance(condition, Constant):
        kept = first if np.all(condition.array) else second if not np.any(condition.array) else None
        if isinstance(kept, (Live, Masked)) and _widens_nothing(walk, kept, args):
            return kept
        for value, other, seen in ((first, second, condition.array != 0), (second, first, condition.array == 0)):
            if isinstance(value, (Live, Masked)) and isinstance(other, Constant) and np.all(other.array <= _MASKED):
                masked = mask_logits(walk, node, value, np.where(seen, 0.0, -np.inf))
                if masked is not None:
                    return masked
    return walk.fold_all(node, args, has_form=False)[0]


def _widens_nothing(walk: Walk, kept: Value, args: Args) -> bool:
    """Whether a choice has the shape of the tensor that it takes."""
    shapes = [walk.shape_of(value) for value in args if value is not None]
    return np.broadcast_shapes(*shapes) == walk.shape_of(kept)


def softmax(walk: Walk, node: Node, args: Args) -> Value:
    """Softmax(scale*(q - zero)) along the last axis → Softmax(q) / unit; what no layer reads afterwards is the
    host's."""
    value = args[0]
    live, seen = (value.live, freeze(value.seen)) if isinstance(value, Masked) else (value, None)
    if not isinstance(live, Live) or not _reaches_layer(walk, node):
        return walk.fold_all(node, args, has_form=False)[0]
    shape = walk.edge_shape(live)
    _require_last_axis(node, shape, -1)
    live = walk.builder.materialise(node, live)
    scale, _ = _require_one_grid(walk, live)
    edge = walk.builder.edges[live.edge]
    if scale < 0:
        raise Refused(
            ReasonKind.UNSUPPORTED_SCALE, "a negative scale", "logits rise with their levels", "turn the weights round"
        )
    unit = _choose_unit(walk, node)
    name, parts = walk.builder.unique(node), (unit.unit, unit.per, unit.most)
    out = walk.builder.emit(define_softmax(name, live.edge, float(scale), edge.levels, shape[-1], *parts, seen))
    expr = Var() * Const.of(np.array(unit.scale, dtype=object))
    if unit.quantiser is not None:
        walk.builder.trace.births[out] = Birth(unit.quantiser.outputs[0], expr)
        walk.builder.trace.defined.add(out)
    return Live(out, expr)


@dataclass(frozen=True)
class _Unit:
    """A softmax gives levels that are worth `scale`, about per / unit, up to `most`: those of `quantiser`, or fine
    ones."""

    unit: int
    per: int
    most: int
    scale: Fraction
    quantiser: Node | None


def _choose_unit(walk: Walk, node: Node) -> _Unit:
    """The levels of the only quantiser behind a softmax, where it rounds to the nearest and 0 is level 0; else fine
    ones, from which that quantiser is an ordinary step."""
    fine = _Unit(_FINE_UNIT, 1, _FINE_UNIT, Fraction(1, _FINE_UNIT), None)
    readers = _find_readers(walk, node)
    if len(readers) != 1 or readers[0].op not in ("Quant", "IntQuant") or len(readers[0].inputs) < 4:
        return fine
    (quantiser,) = readers
    parts = [walk.values.get(name) for name in quantiser.inputs[1:4]]
    if not all(isinstance(part, Constant) and part.array.size == 1 for part in parts):
        return fine
    scale, zero, bits = (float(part.array.item()) for part in parts if isinstance(part, Constant))
    mode = str(quantiser.attrs.get("rounding_mode", "ROUND")).upper()
    if not (scale > 2.0**-16 and zero == 0 and 2 <= bits <= 16 and mode == "ROUND"):
        return fine
    _, most = integer_range(int(bits), bool(quantiser.attrs.get("signed", 1)), bool(quantiser.attrs.get("narrow", 1)))
    whole = round(1 / scale)
    per = 1 if whole and abs(1 / scale / whole - 1) < _SAME_UNIT else _PARTS
    return _Unit(max(1, round(per / scale)), per, most, Fraction(scale), quantiser)


def _find_readers(walk: Walk, node: Node) -> list[Node]:
    """Who reads a node's output, behind choices that always take it."""
    readers = walk.readers(node.outputs[0])
    while len(readers) == 1 and readers[0].op in ("Where", "Identity", "Dropout"):
        (reader,) = readers
        if reader.op == "Where":
            condition = walk.values.get(reader.inputs[0])
            taken = reader.inputs.index(node.outputs[0]) if node.outputs[0] in reader.inputs else 0
            if not isinstance(condition, Constant) or not np.all((condition.array != 0) == (taken == 1)):
                return readers
        node = reader
        readers = walk.readers(node.outputs[0])
    return readers


def _reaches_layer(walk: Walk, node: Node) -> bool:
    """Whether a layer of multiplications reads what becomes of the node's output."""
    stack, seen = list(node.outputs), set[str]()
    while stack:
        tensor = stack.pop()
        if tensor in seen:
            continue
        seen.add(tensor)
        for reader in walk.readers(tensor):
            if reader.op in _LAYERS:
                return True
            stack += reader.outputs
    return False


def _require_last_axis(node: Node, shape: Shape, default: int) -> None:
    axis = int(node.attrs.get("axis", default))
    if axis not in (-1, len(shape)) or not shape:
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"{node.op} along axis {axis} of a tensor of {len(shape) + 1}",
            "rows lie along the last axis",
            "transpose the tensor before it",
        )


def layer_norm(walk: Walk, node: Node, args: Args) -> Value:
    """LayerNormalization(x, gamma, beta) = gamma * (x - mean) / sqrt(variance + epsilon) + beta."""
    return _normalise(walk, node, args, "layer")


def rms_norm(walk: Walk, node: Node, args: Args) -> Value:
    """RMSNormalization(x, gamma) = gamma * x / sqrt(mean of x^2 + epsilon)."""
    return _normalise(walk, node, args, "rms")


def _normalise(walk: Walk, node: Node, args: Args, norm: str) -> Value:
    value = args[0]
    if not isinstance(value, Live):
        return walk.fold_all(node, args, has_form=False)[0]
    shape = walk.edge_shape(value)
    _require_last_axis(node, shape, -1)
    value = walk.builder.materialise(node, value)
    scale, zero = _require_one_grid(walk, value)
    name = walk.builder.unique(node)
    epsilon = node.attrs.get("epsilon", 1e-5)
    edge = walk.builder.emit(define_norm(name, value.edge, norm, shape[-1], scale, zero, epsilon))
    sign = 1 if scale > 0 else -1
    expr = Var() * Const.of(np.array(Fraction(sign, 1 << NORM_BITS), dtype=object))
    gamma, beta = (_read_gain(walk, args[k], shape) if len(args) > k else None for k in (1, 2))
    if gamma is not None:
        expr = expr * gamma
    return Live(edge, expr if beta is None else expr + beta)


def _read_gain(walk: Walk, value: Value | None, shape: Shape) -> Const | None:
    """A gain or bias of a norm, constant or quantised."""
    if value is None:
        return None
    if isinstance(value, Constant):
        array = np.asarray(value.array, np.float64)
    elif isinstance(value, Grid):
        array = value.real()
    else:
        raise Refused(
            ReasonKind.TWO_ACTIVATIONS,
            "its gain is computed at run time",
            "gains and biases of a norm are constant",
            "call model.eval() before the export",
        )
    return Const.of(walk.builder.param(array, shape, "a gain"))


RULES: dict[str, Rule] = {
    "Softmax": softmax,
    "Where": where,
    "LayerNormalization": layer_norm,
    "RMSNormalization": rms_norm,
}
