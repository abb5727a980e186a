"""Arithmetic between quantisers: it only extends the real function that the next quantiser turns into steps.

f(q) then BatchNormalization / Add / Mul / ReLU / Sigmoid / …  →  g(q) = that of f(q); no operation is emitted
scale_a*a + scale_b*b  →  unit * (p*a + r*b), where scale_a/scale_b = p/r, the exact ratio of whole numbers
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np

from greenedge.errors import ReasonKind, Refused
from greenedge.frontends.source import Node
from greenedge.graph.ops import Add, ChannelAdd, Multiply, freeze
from greenedge.graph.ops.base import Array
from greenedge.lower.builder import MAX_ACCUMULATOR, QUANTISE_IN_FILE
from greenedge.lower.expr import Const, Expr, Var, to_fractions
from greenedge.lower.expr_functions import BatchNorm, Clip, Magnitude, Slope, Smooth
from greenedge.lower.rows import mask_logits
from greenedge.lower.values import Constant, Grid, Live, Masked, Value, cut_constant_axes
from greenedge.lower.walk import Args, Rule, Walk

_BIG = 3.0e38  # an end of a Clip that is not given: beyond every float32


def _apply_to_live(walk: Walk, node: Node, args: Args, apply: Callable[[Expr], Expr]) -> Value:
    """apply(expr) on a live tensor; folded on constants; a host tensor where the input is one."""
    value = args[0]
    if isinstance(value, Live):
        return Live(value.edge, apply(value.expr))
    return walk.fold(node, args)


def make_unary_rule(apply: Callable[[Expr], Expr]) -> Rule:
    """A rule for an activation with no parameters: f(q) → apply(f)(q)."""
    return lambda walk, node, args: _apply_to_live(walk, node, args, apply)


def _read_real(value: Constant | Grid) -> Array:
    """A constant's real values: Fractions of a grid, else as they stand in the model."""
    return value.real() if isinstance(value, Grid) else np.asarray(value.array)


def _read_constant(walk: Walk, value: Constant | Grid, live: Live, what: str) -> Const:
    """A constant that broadcasts against `live` without widening it. Raises Refused for another shape."""
    array = _read_real(value)
    if array.dtype != object:
        array = array.astype(np.float64)
        if not np.isfinite(array).all():
            raise Refused(
                ReasonKind.BAD_SCALE,
                f"{what} of {array[~np.isfinite(array)][0]:g}",
                "no quantiser has a level for infinity",
                "mask with a finite number such as -1e4, or behind the last integer layer",
            )
    return Const.of(walk.builder.param(array, walk.edge_shape(live), what))


def make_binary_rule(combine: Callable[[Expr, Expr], Expr], integer_sign: int | None) -> Rule:
    """A rule for Add, Sub, Mul, Div: f(q) and c, or f(q) and g(q) of one edge → combine(f, c or g)(q).

    Two branches are joined as integers where `integer_sign` is not None: a + sign * b (Add and Sub only).
    """

    def rule(walk: Walk, node: Node, args: Args) -> Value:
        a, b = args[0], args[1]
        if node.op == "Add" and (masked := _mask(walk, node, a, b) or _mask(walk, node, b, a)) is not None:
            return masked
        if isinstance(a, Live) and isinstance(b, (Constant, Grid)):
            c = _read_constant(walk, b, a, "a constant")
            _check_divisor(node, c)
            return Live(a.edge, combine(a.expr, c))
        if isinstance(b, Live) and isinstance(a, (Constant, Grid)):
            if node.op == "Div":
                raise Refused(
                    ReasonKind.UNSUPPORTED_OP,
                    "a constant divided by an activation",
                    "divisors must be constant",
                    "use a multiplication",
                )
            return Live(b.edge, combine(_read_constant(walk, a, b, "a constant"), b.expr))
        if not (isinstance(a, Live) and isinstance(b, Live)):
            return walk.fold(node, args)
        if a.edge == b.edge and node.op != "Div":
            return Live(a.edge, combine(a.expr, b.expr))
        if integer_sign is None:
            return multiply_branches(walk, node, a, b)
        return add_branches(walk, node, a, b, integer_sign)

    return rule


def _mask(walk: Walk, node: Node, value: Value | None, added: Value | None) -> Masked | None:
    """Logits and a constant that says which of them count; None for any other sum. Raises Refused for logits that have
    a mask already and get another constant."""
    if not isinstance(value, (Live, Masked)) or not isinstance(added, Constant) or added.array.dtype.kind != "f":
        return None
    masked = mask_logits(walk, node, value, added.array)
    if masked is None and isinstance(value, Masked):
        raise Refused(
            ReasonKind.UNSUPPORTED_ORDER,
            "a constant added to logits that a mask has left",
            "a softmax alone reads what a mask has left",
            "add it before the mask",
        )
    return masked


def _check_divisor(node: Node, constant: Const) -> None:
    if node.op == "Div" and np.any(constant.values == 0):
        raise Refused(ReasonKind.BAD_SCALE, "a division by zero", "divisors must not be zero", "export the model again")


def add_branches(walk: Walk, node: Node, a: Live, b: Live, sign: int) -> Live:
    """scale_a*(a - zero_a) + sign*scale_b*(b - zero_b) → unit * (Add(p*a, r*b) - offset), scale_a/scale_b =
    p/(sign*r); where the ratio differs by channel, so do p and r, in a ChannelAdd. Where no accumulator holds such a
    sum, or a branch lies on no grid, one that a quantiser alone may read (wide_sum.py)."""
    (a, refused_a), (b, refused_b) = (_find_levels(walk, node, one) for one in (a, b))
    refusal = refused_a or refused_b
    if refusal is None:
        try:
            return _add_on_grid(walk, node, a, b, sign)
        except Refused as too_wide:
            if too_wide.kind is not ReasonKind.TOO_WIDE:
                raise
            refusal = too_wide
    return walk.builder.emit_wide_sum(node, a, b if sign > 0 else Live(b.edge, -b.expr), refusal)


def _find_levels(walk: Walk, node: Node, value: Live) -> tuple[Live, Refused | None]:
    """The tensor as levels of its own, or as it is and why it is not quantised."""
    try:
        return walk.builder.materialise(node, value), None
    except Refused as refusal:
        if refusal.kind is not ReasonKind.UNQUANTISED or value.edge in walk.builder.wide:
            raise
        return value, refusal


def _add_on_grid(walk: Walk, node: Node, a: Live, b: Live, sign: int) -> Live:
    """The sum of branches with units, in a unit of its own. Raises Refused where an accumulator does not hold it."""
    (scale_a, zero_a), (scale_b, zero_b) = walk.builder.require_grid(a), walk.builder.require_grid(b)
    ratio = cut_constant_axes(np.asarray(scale_a / scale_b, dtype=object))
    p, r = (_take_parts(ratio, part) for part in ("numerator", "denominator"))
    r = np.asarray(sign * r, dtype=object)
    name, edges = walk.builder.unique(node), (a.edge, b.edge)
    try:
        op = Add(name, edges, name, (p.item(), r.item())) if ratio.size == 1 else _make_channel_add(name, edges, p, r)
        edge = walk.builder.emit_sum(op, a, b)
    except Refused as refusal:
        if refusal.kind is not ReasonKind.TOO_WIDE:
            raise
        cure = f"quantise each branch before the addition, {QUANTISE_IN_FILE}"
        raise Refused(refusal.kind, refusal.value, refusal.rule, cure) from None
    unit = Const.of(scale_a / p)
    offset = zero_a * p + zero_b * r
    acc: Expr = Var() + Const.of(-offset) if np.any(offset != 0) else Var()
    return Live(edge, acc * unit)


def _take_parts(ratio: Array, part: str) -> Array:
    """The numerators or denominators of Fractions, as Python's integers."""
    parts = np.empty(ratio.shape, dtype=object)
    parts.reshape(-1)[:] = [getattr(value, part) for value in ratio.ravel().tolist()]
    return parts


def _make_channel_add(name: str, edges: tuple[str, str], p: Array, r: Array) -> ChannelAdd:
    """The sum whose factors, which broadcast against the tensor, differ along one axis. Raises Refused for more, or for
    factors that no accumulator holds."""
    varying = [axis for axis, size in enumerate(p.shape) if size > 1]
    if len(varying) > 1:
        raise Refused(
            ReasonKind.UNEQUAL_SCALES,
            f"it adds branches whose scales are in {p.size} different ratios along the axes {varying}",
            "the ratio of scales may differ along one axis",
            f"quantise each branch per tensor before the addition, {QUANTISE_IN_FILE}",
        )
    factors = np.stack([p.reshape(-1), r.reshape(-1)])
    widest = max(abs(value) for value in factors.ravel().tolist())
    if widest >= MAX_ACCUMULATOR:
        raise Refused(
            ReasonKind.TOO_WIDE,
            f"a ratio of scales whose numbers reach {widest:,}",
            "accumulators must stay below 2**47",
            "quantise each branch before the addition",
        )
    return ChannelAdd(name, edges, name, varying[0], freeze(factors.astype(np.int64)))


def multiply_branches(walk: Walk, node: Node, a: Live, b: Live) -> Live:
    """scale_a*(a - zero_a) * scale_b*(b - zero_b) → scale_a*scale_b * Multiply(a, b)."""
    if node.op != "Mul":
        raise Refused(
            ReasonKind.TWO_ACTIVATIONS,
            f"{node.op} of two different activations",
            "branches are joined by Add, Mul or Concat",
            "multiply by the inverse, or divide on the host",
        )
    a, b = walk.builder.materialise(node, a), walk.builder.materialise(node, b)
    (scale_a, zero_a), (scale_b, zero_b) = walk.builder.require_grid(a), walk.builder.require_grid(b)
    name = walk.builder.unique(node)
    op = Multiply(name, (a.edge, b.edge), name, (_require_whole(zero_a), _require_whole(zero_b)))
    edge = walk.builder.emit_sum(op, a, b)
    return Live(edge, Var() * Const.of(np.asarray(scale_a * scale_b, dtype=object)))


def _require_whole(zero: Array) -> int:
    """The one integer that stands for 0. Raises Refused where it is none, or another in each channel."""
    zeros = set(np.ravel(np.asarray(zero, dtype=object)).tolist())
    value = zeros.pop()
    if zeros or value.denominator != 1:
        raise Refused(
            ReasonKind.UNSUPPORTED_SCALE,
            "a factor without a level that stands for 0",
            "each factor of a product is scale * (integer - zero) with one whole zero",
            "quantise it behind its bias or batch norm",
        )
    return int(value)


def add_all(walk: Walk, node: Node, args: Args) -> Value:
    """Sum(a, b, …) → Add(Add(a, b), …): any number of tensors, from left to right."""
    total = args[0]
    assert total is not None
    for value in args[1:]:
        total = RULES["Add"](walk, node, [total, value])
    return total


def batch_norm(walk: Walk, node: Node, args: Args) -> Value:
    """BatchNormalization(f(q)) → gamma * (f(q) - mean) / sqrt(variance + epsilon) + beta, with constant parameters."""
    if not isinstance(args[0], Live):
        return walk.fold(node, args)
    if node.attrs.get("training_mode", 0):
        raise Refused(
            ReasonKind.DYNAMIC_QUANTISER,
            "a batch norm in training mode",
            "its statistics must be constant",
            "call model.eval() before the export",
        )
    constants = [part for part in args[1:5] if isinstance(part, (Constant, Grid))]
    if len(constants) != 4:
        raise Refused(
            ReasonKind.DYNAMIC_QUANTISER,
            "a batch norm with parameters computed at run time",
            "they must be constant",
            "export the model again",
        )
    shape = walk.edge_shape(args[0])
    sizes = {int(np.size(_read_real(part))) for part in constants}
    if sizes != {shape[0] if shape else 1}:
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"a batch norm with {sorted(sizes)} parameters over a tensor of shape {shape}",
            "every channel has one of each",
            "export the model again",
        )
    spread = (-1, *(1,) * (len(shape) - 1))
    gamma, beta, mean, variance = (np.asarray(_read_real(part)).reshape(spread) for part in constants)
    epsilon = Fraction(float(np.float32(node.attrs.get("epsilon", 1e-5))))
    total = to_fractions(variance.astype(np.float64)) + epsilon
    if any(v <= 0 for v in total.ravel().tolist()):
        raise Refused(
            ReasonKind.BAD_SCALE,
            "a batch norm whose variance is not positive",
            "its variance plus epsilon must be positive",
            "train or calibrate the model again",
        )
    parts = [Const.of(part if part.dtype == object else part.astype(np.float64)) for part in (gamma, beta, mean)]
    return Live(args[0].edge, BatchNorm((args[0].expr, *parts, Const.of(total))))


def leaky_relu(walk: Walk, node: Node, args: Args) -> Value:
    """LeakyRelu(f(q)) → f(q) where f(q) >= 0, alpha*f(q) below."""
    slope = float(np.float32(node.attrs.get("alpha", 0.01)))
    return _apply_to_live(walk, node, args, lambda e: Slope((e, Const.of(slope))))


def prelu(walk: Walk, node: Node, args: Args) -> Value:
    """PRelu(f(q), slope) → f(q) where f(q) >= 0, slope*f(q) below, with a slope per channel."""
    value, slope = args[0], args[1]
    if not isinstance(value, Live) or not isinstance(slope, (Constant, Grid)):
        return walk.fold(node, args)
    return Live(value.edge, Slope((value.expr, _read_constant(walk, slope, value, "a slope"))))


def clip(walk: Walk, node: Node, args: Args) -> Value:
    """Clip(f(q), low, high) → min(max(f(q), low), high) with constant ends."""
    if not isinstance(args[0], Live):
        return walk.fold(node, args)
    ends = []
    for k, (attr, default) in enumerate((("min", -_BIG), ("max", _BIG)), start=1):
        end = args[k] if len(args) > k else None
        if end is not None and not isinstance(end, (Constant, Grid)):
            return walk.fold(node, args)
        if end is not None and np.size(_read_real(end)) != 1:
            raise Refused(
                ReasonKind.UNSUPPORTED_SHAPE,
                f"a limit of {np.size(_read_real(end))} numbers",
                "a limit is one number",
                "export the model again",
            )
        value = float(np.ravel(_read_real(end))[0]) if end is not None else float(node.attrs.get(attr, default))
        ends.append(Const.of(float(np.clip(value, -_BIG, _BIG))))
    return Live(args[0].edge, Clip((args[0].expr, *ends)))


def hard_sigmoid(walk: Walk, node: Node, args: Args) -> Value:
    """HardSigmoid(f(q)) → min(max(alpha*f(q) + beta, 0), 1)."""
    alpha, beta = (float(np.float32(node.attrs.get(key, default))) for key, default in (("alpha", 0.2), ("beta", 0.5)))
    return _apply_to_live(
        walk, node, args, lambda e: Clip((e * Const.of(alpha) + Const.of(beta), Const.of(0.0), Const.of(1.0)))
    )


def _hard_swish(e: Expr) -> Expr:
    """x * min(max(x/6 + 1/2, 0), 1)."""
    return e * Clip((e / Const.of(6.0) + Const.of(0.5), Const.of(0.0), Const.of(1.0)))


def gelu(walk: Walk, node: Node, args: Args) -> Value:
    """Gelu(x) → x/2 * (1 + erf(x/√2)), or with tanh(√(2/π) * (x + 0.044715*x³)) in place of the erf."""
    half, one = Const.of(0.5), Const.of(1.0)
    by_tanh = node.attrs.get("approximate", "none") == "tanh"

    def apply(e: Expr) -> Expr:
        if by_tanh:
            curve = Smooth((Const.of(np.sqrt(2 / np.pi)) * (e + Const.of(0.044715) * e * e * e),), "tanh")
        else:
            curve = Smooth((e / Const.of(np.sqrt(2.0)),), "erf")
        return half * e * (one + curve)

    return _apply_to_live(walk, node, args, apply)


def elu(walk: Walk, node: Node, args: Args) -> Value:
    """Elu(x) → max(x, 0) + alpha * (exp(min(x, 0)) - 1)."""
    alpha = Const.of(float(np.float32(node.attrs.get("alpha", 1.0))))
    zero = Const.of(0.0)

    def apply(e: Expr) -> Expr:
        below = -Slope((-e, zero))
        return Slope((e, zero)) + alpha * (Smooth((below,), "exp") - Const.of(1.0))

    return _apply_to_live(walk, node, args, apply)


def power(walk: Walk, node: Node, args: Args) -> Value:
    """Pow(f(q), 1) → f(q); Pow(f(q), 2) → f(q)*f(q)."""
    if isinstance(args[0], Live) and isinstance(args[1], (Constant, Grid)):
        exponents = set(np.ravel(_read_real(args[1])).tolist())
        if len(exponents) != 1:
            raise Refused(
                ReasonKind.UNSUPPORTED_OP,
                f"{len(exponents)} different powers in one node",
                "one power for all channels",
                "split it by channel",
            )
        exponent = float(exponents.pop())
        if exponent == 2:
            return Live(args[0].edge, args[0].expr * args[0].expr)
        if exponent != 1:
            raise Refused(
                ReasonKind.UNSUPPORTED_OP,
                f"a power of {exponent:g}",
                "the powers 1 and 2 are taken",
                "use another activation",
            )
        return args[0]
    return walk.fold(node, args)


def make_extremum_rule(which: str) -> Rule:
    """A rule for Max(f(q), c, …) → max(f(q), c, …) or Min, with constants."""

    def rule(walk: Walk, node: Node, args: Args) -> Value:
        live = [value for value in args if isinstance(value, Live)]
        fixed = [value for value in args if isinstance(value, (Constant, Grid))]
        if len(live) != 1 or len(fixed) != len(args) - 1:
            if live:
                raise Refused(
                    ReasonKind.TWO_ACTIVATIONS,
                    f"{node.op} of two activations",
                    "one side must be constant",
                    "use MaxPool or a ReLU",
                )
            return walk.fold(node, args)
        expr = live[0].expr
        for value in fixed:
            if isinstance(value, Constant):
                value = Constant(np.clip(value.array, -_BIG, _BIG))  # an infinity is no limit
            c = _read_constant(walk, value, live[0], "a constant")
            expr = Clip((expr, c, Const.of(_BIG))) if which == "Max" else Clip((expr, Const.of(-_BIG), c))
        return Live(live[0].edge, expr)

    return rule


def identity(walk: Walk, node: Node, args: Args) -> Value:
    """Identity(x), and what is one at inference: Dropout(x), Cast(x) → x."""
    assert args[0] is not None
    return args[0]


def dropout(walk: Walk, node: Node, args: Args) -> Value:
    """Dropout(x) → x at inference."""
    if len(args) > 2 and args[2] is not None and not (isinstance(args[2], Constant) and not np.any(args[2].array)):
        raise Refused(
            ReasonKind.DYNAMIC_QUANTISER,
            "a dropout in training mode",
            "nothing is drawn at random at inference",
            "call model.eval() before the export",
        )
    return identity(walk, node, args)


def cast(walk: Walk, node: Node, args: Args) -> Value:
    """Cast(x) → x: to floats, and to a type of integers that holds every value, where all of them are whole."""
    value = args[0]
    assert value is not None
    kind = _INTEGER_TYPES.get(int(node.attrs.get("to", 1)))
    if not isinstance(value, Live):
        return identity(walk, node, args) if isinstance(value, Grid) and kind is None else walk.fold(node, args)
    if int(node.attrs.get("to", 1)) == _FLOAT:
        return value
    grid = walk.builder.grid(value)
    edge = walk.builder.edges[value.edge]
    ends = [] if grid is None else [(x - grid[1]) * grid[0] for x in (edge.lo, edge.hi)]
    numbers = [v for part in ends for v in np.ravel(part).tolist()]
    whole = grid is not None and all(v.denominator == 1 for part in grid for v in np.ravel(part).tolist())
    if kind is None or not whole or min(numbers) < kind[0] or max(numbers) > kind[1]:
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            f"a cast to {_name_type(int(node.attrs.get('to', 1)))} of numbers that it does not hold",
            "a cast changes no number of the integer graph",
            "quantise with QuantIdentity instead",
        )
    return value


def _name_type(kind: int) -> str:
    import onnx

    known = onnx.TensorProto.DataType.values()
    return onnx.TensorProto.DataType.Name(kind).lower() if kind in known else f"type {kind}"


_FLOAT = 1  # ONNX's numbers of element types
_INTEGER_TYPES = {  # (least, most) of each
    2: (0, 2**8 - 1),
    3: (-(2**7), 2**7 - 1),
    4: (0, 2**16 - 1),
    5: (-(2**15), 2**15 - 1),
    6: (-(2**31), 2**31 - 1),
    7: (-(2**63), 2**63 - 1),
    12: (0, 2**32 - 1),
    13: (0, 2**64 - 1),
}

_zero = Const.of(0.0)
RULES: dict[str, Rule] = {
    "Add": make_binary_rule(lambda a, b: a + b, 1),
    "Sub": make_binary_rule(lambda a, b: a - b, -1),
    "Mul": make_binary_rule(lambda a, b: a * b, None),
    "Div": make_binary_rule(lambda a, b: a / b, None),
    "Sum": add_all,
    "BatchNormalization": batch_norm,
    "Pow": power,
    "Max": make_extremum_rule("Max"),
    "Min": make_extremum_rule("Min"),
    "Relu": make_unary_rule(lambda e: Slope((e, _zero))),
    "LeakyRelu": leaky_relu,
    "PRelu": prelu,
    "Clip": clip,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": make_unary_rule(_hard_swish),
    "Gelu": gelu,
    "Elu": elu,
    "Sigmoid": make_unary_rule(lambda e: Smooth((e,), "sigmoid")),
    "Tanh": make_unary_rule(lambda e: Smooth((e,), "tanh")),
    "Erf": make_unary_rule(lambda e: Smooth((e,), "erf")),
    "Exp": make_unary_rule(lambda e: Smooth((e,), "exp")),
    "Softplus": make_unary_rule(lambda e: Smooth((e,), "softplus")),
    "Neg": make_unary_rule(lambda e: -e),
    "Abs": make_unary_rule(lambda e: Magnitude((e,))),
    "Identity": identity,
    "Dropout": dropout,
    "Cast": cast,
}
