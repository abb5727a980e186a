"""Operators that compute every output from one stored value, or from one of each of two tensors.

ADD, SUB, MUL; QUANTIZE, RELU, RELU6, RELU_N1_TO_1, LEAKY_RELU, LOGISTIC, TANH, HARD_SWISH
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from greenedge.backends.int8.arithmetic import ACTIVATIONS
from greenedge.errors import ReasonKind, Refused
from greenedge.frontends.tflite.file import Operator, Tensor
from greenedge.frontends.tflite.kernels import (
    MUL_RATIOS,
    STORED,
    Bounds,
    Code,
    PairForm,
    add_by_reference,
    add_by_xnnpack,
    clamp,
    find_thresholds,
    fit_pairs,
    hard_swish,
    is_add_delegated,
    leaky_relu,
    multiply,
    product_ratio,
    rectify,
    requantise_values,
    sigmoid_or_tanh,
)
from greenedge.frontends.tflite.linear import read_activation
from greenedge.frontends.tflite.network import OFFSETS, Network, Rule
from greenedge.graph.ops.base import Ints

_REFERENCE = "--arithmetic reference"
_WIDEST_RATIO = 2.0**16  # of two scales; a kernel's 32-bit shifts overflow far beyond
_FUNCTIONS = ("LOGISTIC", "TANH")  # whose output has a scale of its own, computed in floats


def require_ratio(a: Code, out: Code, ratios: tuple[float, float] = (1 / _WIDEST_RATIO, _WIDEST_RATIO)) -> None:
    """Raises Refused for scales further apart than a kernel's arithmetic was measured for."""
    ratio = np.float64(a.scale) / np.float64(out.scale)
    if not ratios[0] <= ratio <= ratios[1]:
        raise _refuse_ratio(f"a scale of {a.scale:g} that becomes one of {out.scale:g}")


def _refuse_ratio(what: str) -> Refused:
    return Refused(
        ReasonKind.UNSUPPORTED_SCALE,
        what,
        "their ratio lies beyond what LiteRT's kernels were measured for",
        "quantise again with representative samples",
    )


def refuse_kinds(source: Tensor, out: Tensor) -> Refused:
    return Refused(
        ReasonKind.UNSUPPORTED_BITS,
        f"{source.kind.lower()} that becomes {out.kind.lower()}",
        "an operator reads and writes one of int8 and uint8",
        "convert it again",
    )


def _read_codes(net: Network, operator: Operator) -> tuple[Tensor, Tensor, Tensor, Code, Code, Code]:
    a, b = (net.tensor(number) for number in operator.inputs[:2])
    out = net.tensor(operator.outputs[0])
    codes = net.code(a), net.code(b), net.code(out)
    if {a.kind, b.kind} != {out.kind}:
        raise refuse_kinds(b if a.kind == out.kind else a, out)
    return a, b, out, *codes


# -- two inputs --------------------------------------------------------------------------------------------------------


def add(net: Network, operator: Operator) -> None:
    """ADD → a sum with whole factors, which decides every level as the kernel set does."""
    _add(net, operator, 1)


def subtract(net: Network, operator: Operator) -> None:
    """SUB → as ADD, with a negative factor."""
    _add(net, operator, -1)


def _add(net: Network, operator: Operator, sign: int) -> None:
    a, b, out, code_a, code_b, code = _read_codes(net, operator)
    if net.is_real:
        return _combine(net, operator, a, b, out)
    kernels = net.kernels
    if kernels == "xnnpack" and not is_add_delegated(code_a, code_b, code):
        if operator.kind == "ADD":
            raise Refused(
                ReasonKind.UNSUPPORTED_SCALE,
                f"scales {code_a.scale:g} and {code_b.scale:g} that are added into {code.scale:g}",
                "XNNPACK leaves such ratios to a kernel whose result depends on the place of an element",
                _REFERENCE,
            )
        kernels = "reference"
    for one in (code_a, code_b):
        require_ratio(one, code)
    bounds = clamp(read_activation(operator), code, kernels)
    if kernels == "reference":
        table = add_by_reference(code_a, code_b, code, bounds, sign)
    else:
        form = add_by_xnnpack(code_a, code_b, code, bounds, sign)
        table = _evaluate(form, code_a, code_b, bounds)
    if _is_unary(net, operator, table, a, b, out):
        return
    if kernels == "reference":
        form = _require_form(fit_pairs(table, code_a, code_b, bounds, sign))
    _require_one_shape(a, b)
    terms = []
    for tensor, one, factor, what in ((a, code_a, form.factors[0], "a"), (b, code_b, form.factors[1], "b")):
        name = f"{operator.name}_{what}"
        centred = net.centre(net.value(tensor.number), one, f"{name}_centred")
        terms.append(net.node("Mul", [centred, net.number(factor, f"{name}_factor")], name))
    total = net.node("Add", terms, f"{operator.name}_sum")
    net.finish(operator, total, form.thresholds[None, :], bounds)


def _evaluate(form: PairForm, a: Code, b: Code, bounds: Bounds) -> Ints:
    """(256, 256) the stored value of every pair."""
    acc = form.factors[0] * (STORED - a.zero)[:, None] + form.factors[1] * (STORED - b.zero)[None, :]
    return bounds[0] + np.searchsorted(form.thresholds, acc, side="right")


def _require_form(form: PairForm | None) -> PairForm:
    if form is None:
        raise Refused(
            ReasonKind.NO_AFFINE_FORM,
            "a sum that the reference kernels round three times",
            "no whole factors up to 25 bits give all 65,536 of its results",
            "--arithmetic xnnpack, whose sum has them",
        )
    return form


def _require_one_shape(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"branches of shapes {a.shape} and {b.shape}",
            "branches that are added have one shape",
            "expand the smaller one",
        )


def _require_one_rank(a: Tensor, b: Tensor) -> None:
    if len(a.shape) != len(b.shape):
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"factors of shapes {a.shape} and {b.shape}",
            "factors have as many axes",
            "reshape the smaller one",
        )


def _is_unary(net: Network, operator: Operator, table: Ints, a: Tensor, b: Tensor, out: Tensor) -> bool:
    """Whether an operator of two inputs is a function of one, and so read: a constant with one, or the same tensor
    twice. `table` is (256, 256), the first input along its rows."""
    if a.number == b.number:
        net.tabulate(operator, net.value(a.number), np.diagonal(table)[None, :])
        return True
    for constant, other, rows in ((b, a, table.T), (a, b, table)):
        if not constant.is_constant:
            continue
        values = _read_addend(net, constant, other, out)
        net.tabulate(operator, net.value(other.number), rows[values + 128])
        return True
    return False


def _read_addend(net: Network, constant: Tensor, other: Tensor, out: Tensor) -> Ints:
    """The stored values of a constant, one or one for each channel."""
    values = net.read_stored(net.require_constant(constant.number, "constant"))
    channels = out.shape[-1] if out.shape else 1
    if other.shape != out.shape or values.size not in (1, channels) or (values.size > 1 and _is_odd(values)):
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"a constant of shape {constant.shape} with a tensor of shape {other.shape}",
            "a constant is one number, or one for each channel",
            "give it one value per channel",
        )
    return values.reshape(-1)


def _is_odd(values: Ints) -> bool:
    """Whether values vary along another axis than the last."""
    return values.shape[-1] != values.size


_COMBINATIONS = {"ADD": "Add", "SUB": "Sub", "MUL": "Mul"}


def _combine(net: Network, operator: Operator, a: Tensor, b: Tensor, out: Tensor) -> None:
    """ADD, SUB or MUL of real numbers."""
    if not (a.is_constant or b.is_constant):
        (_require_one_rank if operator.kind == "MUL" else _require_one_shape)(a, b)
    terms = []
    for one, other, what in ((a, b, "a"), (b, a, "b")):
        if not one.is_constant:
            terms.append(net.value(one.number))
            continue
        code, spread = net.code(one), (-1, 1, 1) if len(out.shape) == 4 else (-1,)
        values = (_read_addend(net, one, other, out) - code.zero).reshape(spread)
        terms.append(net.dequantise(values, np.int32, one.scales, f"{operator.name}_{what}"))
    net.store(
        operator, net.node(_COMBINATIONS[operator.kind], terms, f"{operator.name}_sum"), read_activation(operator)
    )


def multiply_tensors(net: Network, operator: Operator) -> None:
    """MUL → the product of both inputs counted from their zero points, requantised as the kernel set does it."""
    a, b, out, code_a, code_b, code = _read_codes(net, operator)
    if net.is_real:
        return _combine(net, operator, a, b, out)
    ratio = product_ratio(code_a, code_b, code)
    if net.kernels == "xnnpack" and not MUL_RATIOS[0] <= ratio < MUL_RATIOS[1]:
        raise Refused(
            ReasonKind.UNSUPPORTED_SCALE,
            f"a product that is requantised by {ratio:g}",
            "XNNPACK leaves such ratios to a kernel whose arithmetic was not measured",
            _REFERENCE,
        )
    if net.kernels == "reference" and not 1 / _WIDEST_RATIO <= ratio < 2.0**14:  # products of 16 bits, sums of 31
        raise _refuse_ratio(f"a product that is requantised by {ratio:g}")
    bounds = clamp(read_activation(operator), code, net.kernels)
    step = multiply(net.kernels, code_a, code_b, code, bounds)
    ends = [np.array([-128, 127]) - one.zero for one in (code_a, code_b)]
    corners = np.outer(*ends)
    if a.number == b.number or a.is_constant or b.is_constant:
        products = (STORED - code_a.zero)[:, None] * (STORED - code_b.zero)[None, :]
        _is_unary(net, operator, step(products), a, b, out)
        return
    _require_one_rank(a, b)
    factors = [
        net.centre(net.value(tensor.number), one, f"{operator.name}_{what}")
        for tensor, one, what in ((a, code_a, "a"), (b, code_b, "b"))
    ]
    product = net.node("Mul", factors, f"{operator.name}_product")
    thresholds = find_thresholds(step, bounds, np.array([corners.min()]), np.array([corners.max()]))
    net.finish(operator, product, thresholds, bounds)


# -- one input ---------------------------------------------------------------------------------------------------------


def _make_rule(function: Callable[[Network, Operator, Code, Code], Ints]) -> Rule:
    """A rule for a function of one stored value; `function` gives its 256 results."""

    def rule(net: Network, operator: Operator) -> None:
        source, out = net.tensor(operator.inputs[0]), net.tensor(operator.outputs[0])
        if net.is_real:
            return _apply(net, operator, source)
        if operator.kind not in _FUNCTIONS:
            require_ratio(net.code(source), net.code(out))
        if source.kind != out.kind:
            raise refuse_kinds(source, out)
        table = function(net, operator, net.code(source), net.code(out))
        net.tabulate(operator, net.value(source.number), table[None, :])

    return rule


_REALS = {"LOGISTIC": "Sigmoid", "TANH": "Tanh", "HARD_SWISH": "HardSwish", "LEAKY_RELU": "LeakyRelu"}


def _apply(net: Network, operator: Operator, source: Tensor) -> None:
    """The function of real numbers, quantised; QUANTIZE is none, and rectifiers are as fused ones."""
    value, name = net.value(source.number), f"{operator.name}_function"
    if (function := _REALS.get(operator.kind)) is not None:
        slope = float(operator.options.get("alpha", 0.0))
        options: dict[str, Any] = {"alpha": slope} if function == "LeakyRelu" else {}
        value = net.node(function, [value], name, **options)
    net.store(operator, value, operator.kind if operator.kind in ACTIVATIONS else "NONE")


def _tabulate_function(net: Network, operator: Operator, a: Code, out: Code) -> Ints:
    offset = OFFSETS[net.tensor(operator.inputs[0]).kind]
    return sigmoid_or_tanh(net.kernels, a, out, operator.kind, offset)


RULES: dict[str, Rule] = {
    "ADD": add,
    "SUB": subtract,
    "MUL": multiply_tensors,
    "RELU": _make_rule(lambda net, operator, a, out: rectify(a, out, "RELU")),
    "RELU6": _make_rule(lambda net, operator, a, out: rectify(a, out, "RELU6")),
    "RELU_N1_TO_1": _make_rule(lambda net, operator, a, out: rectify(a, out, "RELU_N1_TO_1")),
    "LEAKY_RELU": _make_rule(
        lambda net, operator, a, out: leaky_relu(net.kernels, a, out, float(operator.options.get("alpha", 0.0)))
    ),
    "LOGISTIC": _make_rule(_tabulate_function),
    "TANH": _make_rule(_tabulate_function),
    "HARD_SWISH": _make_rule(lambda net, operator, a, out: hard_swish(a, out)),
}
REQUANTISE = _make_rule(lambda net, operator, a, out: requantise_values(net.kernels, a, out))
