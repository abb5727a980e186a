"""Arithmetic between quantisers: it only extends the real function that the next quantiser turns into steps.

f(q) then BatchNormalization / Add / Mul / ReLU / Sigmoid / …  →  g(q) = that of f(q); no operation is emitted
scale_a*a + scale_b*b  →  unit * (p*a + r*b), where scale_a/scale_b = p/r is a ratio of small whole numbers
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from greenedge.errors import ReasonKind, Refused
from greenedge.graph.ops import Add
from greenedge.lower.expr import BatchNorm, Clip, Const, Expr, Magnitude, Slope, Smooth
from greenedge.lower.values import Constant, Grid, Live, Value

_MAX_MULTIPLIER = 256
_BIG = 3.0e38  # an end of a Clip that is not given: beyond every float32


def _on_live(walk, node, args, make) -> Value:
    """make(expr) on a live tensor; folded on constants; refused on floats between integer layers."""
    value = args[0]
    if isinstance(value, Live):
        return Live(value.edge, make(value.expr))
    return walk.fold(node, args)


def unary(make):
    """A rule for an activation with no parameters."""
    return lambda walk, node, args: _on_live(walk, node, args, make)


def _real(value: Value) -> np.ndarray:
    return value.real() if isinstance(value, Grid) else np.asarray(value.array)


def _constant(walk, value: Value, live: Live, what: str) -> Const:
    rank = len(walk.builder.edges[live.edge].shape)
    array = _real(value)
    if array.dtype != object:
        array = array.astype(np.float64)
    array = walk.builder.param(array, rank, what)
    shape = walk.builder.edges[live.edge].shape
    if any(d not in (1, full) for d, full in zip(array.shape, shape)):
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"{what} of shape {array.shape} against a tensor of shape {shape}",
            "constants may not widen the tensor",
            "expand the tensor explicitly",
        )
    return Const.of(array)


def arithmetic(combine, integer_sign: int | None):
    """A rule for Add, Sub, Mul, Div: with a constant, with the same edge twice, or of two branches (Add and Sub only)."""

    def rule(walk, node, args) -> Value:
        a, b = args[0], args[1]
        if isinstance(a, Live) and isinstance(b, (Constant, Grid)):
            c = _constant(walk, b, a, "a constant")
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
            return Live(b.edge, combine(_constant(walk, a, b, "a constant"), b.expr))
        if not (isinstance(a, Live) and isinstance(b, Live)):
            return walk.fold(node, args)
        if a.edge == b.edge and node.op != "Div":
            return Live(a.edge, combine(a.expr, b.expr))
        if integer_sign is None:
            raise Refused(
                "two-activations",
                f"{node.op} of two different activations",
                "branches are joined by Add or Concat",
                "keep gating on the host or replace it by an addition",
            )
        return join(walk, node, a, b, integer_sign)

    return rule


def _check_divisor(node, constant: Const) -> None:
    if node.op == "Div" and np.any(constant.values == 0):
        raise Refused(ReasonKind.BAD_SCALE, "a division by zero", "divisors must not be zero", "export the model again")


def join(walk, node, a: Live, b: Live, sign: int) -> Live:
    """Two branches added as integers."""
    a, b = walk.builder.materialise(node, a), walk.builder.materialise(node, b)
    (scale_a, zero_a), (scale_b, zero_b) = walk.builder.grid(a), walk.builder.grid(b)
    ratios = set(np.ravel(scale_a / scale_b).tolist())
    ratio = ratios.pop() if len(ratios) == 1 else Fraction(0)
    if not ratio or max(abs(ratio.numerator), ratio.denominator) > _MAX_MULTIPLIER:
        shown = f"{float(np.ravel(scale_a)[0]):.6g} and {float(np.ravel(scale_b)[0]):.6g}"
        raise Refused(
            ReasonKind.UNEQUAL_SCALES,
            f"it adds branches with scales {shown}",
            "branches must have one scale, or scales in a small whole ratio",
            "share one quantiser over both branches: self.q = qnn.QuantIdentity(bit_width=8); y = self.q(a) + self.q(b)",
        )
    p, r = ratio.numerator, sign * ratio.denominator
    name = walk.builder.unique(node)
    edge = walk.builder.emit_sum(Add(name, (a.edge, b.edge), name, (p, r)), a, b)
    unit = Const.of(scale_a / p)
    offset = zero_a * p + zero_b * r
    from greenedge.lower.expr import Var

    acc: Expr = Var() + Const.of(-offset) if np.any(offset != 0) else Var()
    return Live(edge, acc * unit)


def sum_rule(walk, node, args) -> Value:
    """Sum of any number of tensors: additions from left to right."""
    rule = RULES["Add"]
    total = args[0]
    for value in args[1:]:
        total = rule(walk, node, [total, value])
    return total


def batch_norm(walk, node, args) -> Value:
    if not isinstance(args[0], Live):
        return walk.fold(node, args)
    if node.attrs.get("training_mode", 0):
        raise Refused(
            ReasonKind.DYNAMIC_QUANTISER,
            "a batch norm in training mode",
            "its statistics must be constant",
            "call model.eval() before the export",
        )
    names = ("scale", "bias", "mean", "variance")
    if not all(isinstance(part, (Constant, Grid)) for part in args[1:5]):
        raise Refused(
            ReasonKind.DYNAMIC_QUANTISER,
            "a batch norm with parameters computed at run time",
            "they must be constant",
            "export the model again",
        )
    rank = len(walk.builder.edges[args[0].edge].shape)
    spread = (-1, *(1,) * (rank - 1))
    gamma, beta, mean, variance = (np.asarray(_real(part)).reshape(spread) for part in args[1:5])
    epsilon = Fraction(float(np.float32(node.attrs.get("epsilon", 1e-5))))
    total = np.vectorize(lambda v: Fraction(float(v)) + epsilon, otypes=[object])(variance)
    if any(v <= 0 for v in total.ravel().tolist()):
        raise Refused(
            ReasonKind.BAD_SCALE,
            "a batch norm whose variance is not positive",
            f"its {names[3]} plus epsilon must be positive",
            "train or calibrate the model again",
        )
    parts = [Const.of(part if part.dtype == object else part.astype(np.float64)) for part in (gamma, beta, mean)]
    return Live(args[0].edge, BatchNorm((args[0].expr, *parts, Const.of(total))))


def leaky_relu(walk, node, args) -> Value:
    slope = float(np.float32(node.attrs.get("alpha", 0.01)))
    return _on_live(walk, node, args, lambda e: Slope((e, Const.of(slope))))


def prelu(walk, node, args) -> Value:
    if not isinstance(args[0], Live):
        return walk.fold(node, args)
    return Live(args[0].edge, Slope((args[0].expr, _constant(walk, args[1], args[0], "a slope"))))


def clip(walk, node, args) -> Value:
    if not isinstance(args[0], Live):
        return walk.fold(node, args)
    ends = []
    for k, (attr, default) in enumerate((("min", -_BIG), ("max", _BIG)), start=1):
        given = args[k] if len(args) > k and args[k] is not None else None
        value = float(np.ravel(_real(given))[0]) if given is not None else float(node.attrs.get(attr, default))
        ends.append(Const.of(float(np.clip(value, -_BIG, _BIG))))
    return Live(args[0].edge, Clip((args[0].expr, *ends)))


def hard_sigmoid(walk, node, args) -> Value:
    alpha, beta = (float(np.float32(node.attrs.get(key, default))) for key, default in (("alpha", 0.2), ("beta", 0.5)))
    return _on_live(
        walk, node, args, lambda e: Clip((e * Const.of(alpha) + Const.of(beta), Const.of(0.0), Const.of(1.0)))
    )


def _hard_swish(e: Expr) -> Expr:
    return e * Clip((e / Const.of(6.0) + Const.of(0.5), Const.of(0.0), Const.of(1.0)))


def gelu(walk, node, args) -> Value:
    half, one = Const.of(0.5), Const.of(1.0)
    if node.attrs.get("approximate", "none") == "tanh":
        inner = lambda e: Smooth((Const.of(np.sqrt(2 / np.pi)) * (e + Const.of(0.044715) * e * e * e),), "tanh")
    else:
        inner = lambda e: Smooth((e / Const.of(np.sqrt(2.0)),), "erf")
    return _on_live(walk, node, args, lambda e: half * e * (one + inner(e)))


def elu(walk, node, args) -> Value:
    alpha = Const.of(float(np.float32(node.attrs.get("alpha", 1.0))))
    zero = Const.of(0.0)

    def make(e: Expr) -> Expr:
        below = -Slope((-e, zero))
        return Slope((e, zero)) + alpha * (Smooth((below,), "exp") - Const.of(1.0))

    return _on_live(walk, node, args, make)


def power(walk, node, args) -> Value:
    if isinstance(args[0], Live) and isinstance(args[1], (Constant, Grid)):
        exponents = set(np.ravel(_real(args[1])).tolist())
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


def extremum(which):
    """Max(x, c) or Min(x, c) with a constant."""

    def rule(walk, node, args) -> Value:
        live = [value for value in args if isinstance(value, Live)]
        fixed = [value for value in args if isinstance(value, (Constant, Grid))]
        if len(live) != 1 or len(fixed) != len(args) - 1:
            if live:
                raise Refused(
                    "two-activations",
                    f"{node.op} of two activations",
                    "one side must be constant",
                    "use MaxPool or a ReLU",
                )
            return walk.fold(node, args)
        expr = live[0].expr
        for value in fixed:
            c = _constant(walk, value, live[0], "a constant")
            expr = Clip((expr, c, Const.of(_BIG))) if which == "Max" else Clip((expr, Const.of(-_BIG), c))
        return Live(live[0].edge, expr)

    return rule


def identity(walk, node, args) -> Value:
    return args[0]


_zero = Const.of(0.0)
RULES = {
    "Add": arithmetic(lambda a, b: a + b, 1),
    "Sub": arithmetic(lambda a, b: a - b, -1),
    "Mul": arithmetic(lambda a, b: a * b, None),
    "Div": arithmetic(lambda a, b: a / b, None),
    "Sum": sum_rule,
    "BatchNormalization": batch_norm,
    "Pow": power,
    "Max": extremum("Max"),
    "Min": extremum("Min"),
    "Relu": unary(lambda e: Slope((e, _zero))),
    "LeakyRelu": leaky_relu,
    "PRelu": prelu,
    "Clip": clip,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": unary(_hard_swish),
    "Gelu": gelu,
    "Elu": elu,
    "Sigmoid": unary(lambda e: Smooth((e,), "sigmoid")),
    "Tanh": unary(lambda e: Smooth((e,), "tanh")),
    "Erf": unary(lambda e: Smooth((e,), "erf")),
    "Exp": unary(lambda e: Smooth((e,), "exp")),
    "Softplus": unary(lambda e: Smooth((e,), "softplus")),
    "Neg": unary(lambda e: -e),
    "Abs": unary(lambda e: Magnitude((e,))),
    "Identity": identity,
    "Dropout": identity,
    "Cast": identity,
}
