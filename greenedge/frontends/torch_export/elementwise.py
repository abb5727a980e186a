"""Arithmetic and activations, element by element."""

from __future__ import annotations

from typing import Any

import numpy as np

from greenedge.frontends.torch_export.network import Call, Rule
from greenedge.frontends.torch_export.program import Ref

_LIMIT = float(np.finfo(np.float32).max)


def _operand(call: Call, name: str) -> str:
    """A tensor, or a number as a constant."""
    if isinstance(call.value(name), Ref):
        return call.tensor(name)
    return call.constant(call.number(name), name)


def _combine(op: str, is_turned: bool = False) -> Rule:
    """self OP alpha * other; rsub is the other way round."""

    def rule(call: Call) -> None:
        first, second = _operand(call, "self"), _operand(call, "other")
        if (alpha := call.number("alpha", 1)) != 1:
            factor = call.constant(alpha, "alpha")
            first, second = (
                (call.step("Mul", [first, factor]), second)
                if is_turned
                else (first, call.step("Mul", [second, factor]))
            )
        call.emit(op, [second, first] if is_turned else [first, second])

    return rule


def divide(call: Call) -> None:
    """div without rounding."""
    if call.has("rounding_mode"):
        raise call.refuse(f"rounding mode {call.value('rounding_mode')}", "quotients are real", "quantise in its place")
    call.emit("Div", [_operand(call, "self"), _operand(call, "other")])


def _apply(op: str, **attributes: Any) -> Rule:
    """An activation without parameters."""
    return lambda call: call.emit(op, [call.tensor("self")], **attributes)


def _clip(low: str, high: str, defaults: tuple[float | None, float | None]) -> Rule:
    """min(max(x, low), high), where these are the names of its arguments; "" for a side without limit."""

    def rule(call: Call) -> None:
        limits = []
        for name, default, end in ((low, defaults[0], -_LIMIT), (high, defaults[1], _LIMIT)):
            given = name and (call.has(name) or default is not None)
            limits.append(call.constant(call.number(name, default) if given else end, name or "limit"))
        call.emit("Clip", [call.tensor("self"), *limits])

    return rule


def _fix_clip(low: float, high: float) -> Rule:
    return lambda call: call.emit("Clip", [call.tensor("self"), call.constant(low, "low"), call.constant(high, "high")])


def leaky_relu(call: Call) -> None:
    call.emit("LeakyRelu", [call.tensor("self")], alpha=float(call.number("negative_slope", 0.01)))


def prelu(call: Call) -> None:
    """x where x > 0, else weight x, with a weight for every channel."""
    slopes, rank = call.array("weight"), len(call.shape("self"))
    spread = slopes.reshape([-1, *[1] * (rank - 2)]) if slopes.ndim == 1 and rank > 2 else slopes
    call.emit("PRelu", [call.tensor("self"), call.constant(spread, "weight")])


def elu(call: Call) -> None:
    if call.number("scale", 1) != 1 or call.number("input_scale", 1) != 1:
        raise call.refuse("a scale", "elu has none", "use torch.nn.ELU")
    call.emit("Elu", [call.tensor("self")], alpha=float(call.number("alpha", 1)))


def softplus(call: Call) -> None:
    """log(1 + exp(x)); beyond its threshold of 20 torch gives x, which is the same float32."""
    if call.number("beta", 1) != 1 or call.number("threshold", 20) < 20:
        raise call.refuse("a beta or threshold", "softplus has beta 1 and threshold 20", "use torch.nn.Softplus()")
    call.emit("Softplus", [call.tensor("self")])


def silu(call: Call) -> None:
    """x sigmoid(x)."""
    source = call.tensor("self")
    call.emit("Mul", [source, call.step("Sigmoid", [source])])


def gelu(call: Call) -> None:
    call.emit("Gelu", [call.tensor("self")], approximate=str(call.value("approximate", "none")))


def _normalise_row(op: str) -> Rule:
    """softmax and log_softmax along an axis."""

    def rule(call: Call) -> None:
        if call.flag("half_to_float", False):
            raise call.refuse("half precision", "networks compute in float32", "export the module in float32")
        call.emit(op, [call.tensor("self")], axis=call.axis(call.integer("dim"), len(call.shape("self"))))

    return rule


def power(call: Call) -> None:
    call.emit("Pow", [call.tensor("self"), call.constant(call.number("exponent"), "exponent")])


_UNARY = {
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "hardswish": "HardSwish",
    "exp": "Exp",
    "neg": "Neg",
    "abs": "Abs",
    "erf": "Erf",
    "sqrt": "Sqrt",
}
RULES: dict[str, Rule] = {
    **{f"aten.{name}": _apply(op) for name, op in _UNARY.items()},
    "aten.add": _combine("Add"),
    "aten.sub": _combine("Sub"),
    "aten.rsub": _combine("Sub", is_turned=True),
    "aten.mul": _combine("Mul"),
    "aten.div": divide,
    "aten.minimum": _combine("Min"),
    "aten.maximum": _combine("Max"),
    "aten.pow": power,
    "aten.relu6": _fix_clip(0.0, 6.0),
    "aten.hardtanh": _clip("min_val", "max_val", (-1.0, 1.0)),
    "aten.clamp": _clip("min", "max", (None, None)),
    "aten.clamp_min": _clip("min", "", (None, None)),
    "aten.clamp_max": _clip("", "max", (None, None)),
    "aten.hardsigmoid": _apply("HardSigmoid", alpha=1 / 6, beta=0.5),
    "aten.leaky_relu": leaky_relu,
    "aten.prelu": prelu,
    "aten.elu": elu,
    "aten.softplus": softplus,
    "aten.silu": silu,
    "aten.gelu": gelu,
    "aten.softmax": _normalise_row("Softmax"),
    "aten._softmax": _normalise_row("Softmax"),
    "aten.log_softmax": _normalise_row("LogSoftmax"),
    "aten._log_softmax": _normalise_row("LogSoftmax"),
}
