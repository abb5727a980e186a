"""One rule for each operator, in the words of its definition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np

from tests.oracle.exact import Exact, choose, join, round_to_integers
from tests.oracle.irrational import CURVES, sqrt

Attrs = dict[str, Any]
Args = Sequence[Any]
Rule = Callable[[Args, Attrs], Any]

RULES: dict[str, Rule] = {}
ZERO, HALF, ONE = Exact.of(0), Exact.of(0.5), Exact.of(1)


def rule(*names: str) -> Callable[[Rule], Rule]:
    def note(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return note


def whole(value: Exact | None, default: Sequence[int] = ()) -> list[int]:
    """The integers of a constant."""
    if value is None:
        return list(default)
    assert value.bottom == 1
    return [int(v) for v in value.tops.ravel()]


def decode(value: Any, default: str) -> str:
    return value.decode() if isinstance(value, bytes) else value or default


def number(attrs: Attrs, name: str, default: float) -> Exact:
    """An attribute is a float32."""
    return Exact.of(np.float32(attrs.get(name, default)))


# -- quantisers -------------------------------------------------------------------------------------------------------


def bounds(bits: int, signed: bool, narrow: bool) -> tuple[int, int]:
    if signed:
        return -(1 << bits - 1) + narrow, (1 << bits - 1) - 1
    return 0, (1 << bits) - 1 - narrow


def clip(values: Exact, low: int, high: int) -> Exact:
    return values.maximum(Exact.of(low)).minimum(Exact.of(high))


def sign(values: Exact) -> Exact:
    return choose(values >= ZERO, ONE, -ONE)


@rule("Quant", "IntQuant")
def quant(args: Args, attrs: Attrs) -> Exact:
    x, scale, zero, bits = args
    (bits,) = whole(bits)
    levels = x / scale + zero
    if bits == 1 and attrs.get("signed", 1):
        levels = sign(levels)
    else:
        low, high = bounds(bits, bool(attrs.get("signed", 1)), bool(attrs.get("narrow", 1)))
        levels = round_to_integers(clip(levels, low, high), decode(attrs.get("rounding_mode"), "ROUND"))
    return (levels - zero) * scale


@rule("BipolarQuant")
def bipolar_quant(args: Args, attrs: Attrs) -> Exact:
    return sign(args[0]) * args[1]


@rule("Trunc")
def trunc(args: Args, attrs: Attrs) -> Exact:
    x, scale, zero, bits_in, bits_out = args
    shift = Exact.of(Fraction(2) ** (whole(bits_in)[0] - whole(bits_out)[0]))
    levels = round_to_integers(x / scale + zero) / shift
    return (round_to_integers(levels, decode(attrs.get("rounding_mode"), "FLOOR")) - zero) * scale


@rule("MultiThreshold")
def multi_threshold(args: Args, attrs: Attrs) -> Exact:
    x, thresholds = args
    steps = thresholds.shape[1]
    row = (1, -1, *[1] * (len(x.shape) - 2))
    counts = sum(np.asarray(x >= thresholds.move(lambda t, k=k: t[:, k].reshape(row)), np.int64) for k in range(steps))
    return Exact.of(counts) * number(attrs, "out_scale", 1.0) + number(attrs, "out_bias", 0.0)


def along(part: Exact, attrs: Attrs, rank: int) -> Exact:
    """A parameter of one axis, laid along it."""
    if part.tops.size == 1:
        return part.move(np.ravel)
    axis = attrs.get("axis", 1) % rank
    return part.move(lambda tops: tops.reshape([-1 if k == axis else 1 for k in range(rank)]))


@rule("QuantizeLinear")
def quantize_linear(args: Args, attrs: Attrs) -> Exact:
    x = args[0]
    scale, zero = (along(part, attrs, len(x.shape)) for part in args[1:3])
    kind = np.iinfo(attrs["types"][2])
    return clip(round_to_integers(x / scale) + zero, kind.min, kind.max)


@rule("DequantizeLinear")
def dequantize_linear(args: Args, attrs: Attrs) -> Exact:
    scale, zero = (along(part, attrs, len(args[0].shape)) for part in args[1:3])
    return (args[0] - zero) * scale


# -- linear -----------------------------------------------------------------------------------------------------------


@rule("MatMul")
def matmul(args: Args, attrs: Attrs) -> Exact:
    return args[0] @ args[1]


@rule("Gemm")
def gemm(args: Args, attrs: Attrs) -> Exact:
    a, b = (
        part.move(np.transpose) if attrs.get(name, 0) else part
        for part, name in zip(args[:2], ("transA", "transB"), strict=True)
    )
    result = number(attrs, "alpha", 1.0) * (a @ b)
    return result + number(attrs, "beta", 1.0) * args[2] if len(args) > 2 else result


def windows(x: Exact, kernel, strides, dilations, pads, filler: Exact) -> list[Exact]:
    """For each place of the kernel (row by row) the values that it sees: (batch, channels, outputs…)."""
    n = len(kernel)
    padded = pad_with(x, [0, 0, *pads[:n]], [0, 0, *pads[n:]], filler)
    sizes = [(padded.shape[2 + i] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1 for i in range(n)]
    views = []
    for place in product(*map(range, kernel)):
        cut = tuple(
            slice(dilations[i] * k, dilations[i] * k + strides[i] * (sizes[i] - 1) + 1, strides[i])
            for i, k in enumerate(place)
        )
        views.append(padded.move(lambda tops, cut=cut: tops[(slice(None), slice(None), *cut)]))
    return views


def pad_with(x: Exact, before: Sequence[int], after: Sequence[int], filler: Exact) -> Exact:
    shape = [b + d + a for b, d, a in zip(before, x.shape, after, strict=True)]
    inside = np.zeros(shape, bool)
    inside[tuple(slice(b, b + d) for b, d in zip(before, x.shape, strict=True))] = True
    spread = np.zeros(shape, object)
    spread[inside] = x.tops.ravel()
    return choose(inside, Exact(spread, x.bottom), filler)


def geometry(x: Exact, kernel, attrs: Attrs) -> tuple[list[int], list[int], list[int]]:
    """(strides, dilations, pads), auto_pad worked out."""
    n = len(kernel)
    strides, dilations = list(attrs.get("strides", [1] * n)), list(attrs.get("dilations", [1] * n))
    how = decode(attrs.get("auto_pad"), "NOTSET")
    if not how.startswith("SAME"):
        return strides, dilations, list(attrs.get("pads", [0] * 2 * n))
    totals = [
        max(0, (-(-d // s) - 1) * s + g * (k - 1) + 1 - d)
        for d, s, g, k in zip(x.shape[2:], strides, dilations, kernel, strict=True)
    ]
    small = [t // 2 for t in totals]
    large = [t - s for t, s in zip(totals, small, strict=True)]
    return strides, dilations, small + large if how == "SAME_UPPER" else large + small


@rule("Conv")
def conv(args: Args, attrs: Attrs) -> Exact:
    x, weight = args[:2]
    kernel, groups = weight.shape[2:], attrs.get("group", 1)
    out, inner = weight.shape[:2]
    seen = windows(x, kernel, *geometry(x, kernel, attrs), ZERO)
    flat = weight.move(lambda tops: tops.reshape(out, inner, -1))
    parts = []
    for g in range(groups):
        rows, columns = slice(g * out // groups, (g + 1) * out // groups), slice(g * inner, (g + 1) * inner)
        total = ZERO
        for k, view in enumerate(seen):
            w = flat.move(lambda tops, rows=rows, k=k: tops[rows, :, k])
            v = view.move(lambda tops, columns=columns: np.moveaxis(tops[:, columns], 1, -1))
            total = total + v @ w.move(np.transpose)
        parts.append(total.move(lambda tops: np.moveaxis(tops, -1, 1)))
    result = join(parts, 1)
    return result + per_channel(args[2], result) if len(args) > 2 else result


def per_channel(values: Exact, like: Exact) -> Exact:
    return values.move(lambda tops: tops.reshape(1, -1, *[1] * (len(like.shape) - 2)))


@rule("ConvTranspose")
def conv_transpose(args: Args, attrs: Attrs) -> Exact:
    """Each input element adds its multiple of the kernel at stride times its place."""
    x, weight = args[:2]
    kernel, n = weight.shape[2:], len(weight.shape) - 2
    strides = list(attrs.get("strides", [1] * n))
    sizes = [(d - 1) * s + k for d, s, k in zip(x.shape[2:], strides, kernel, strict=True)]
    total = np.zeros((x.shape[0], weight.shape[1], *sizes), object)
    rows = np.moveaxis(x.tops, 1, -1)
    for place in product(*map(range, kernel)):
        cut = tuple(slice(k, k + (d - 1) * s + 1, s) for k, d, s in zip(place, x.shape[2:], strides, strict=True))
        total[(slice(None), slice(None), *cut)] += np.moveaxis(
            rows @ weight.tops[(slice(None), slice(None), *place)], -1, 1
        )
    result = Exact(total, x.bottom * weight.bottom)
    return result + per_channel(args[2], result) if len(args) > 2 else result


@rule("BatchNormalization")
def batch_normalization(args: Args, attrs: Attrs) -> Exact:
    x = args[0]
    gamma, beta, mean, variance = (per_channel(part, x) for part in args[1:5])
    return gamma * (x - mean) / (variance + number(attrs, "epsilon", 1e-5)).each(sqrt) + beta


# -- elementwise ------------------------------------------------------------------------------------------------------


@rule("Add", "Sum")
def add(args: Args, attrs: Attrs) -> Exact:
    return sum(args[1:], args[0])


@rule("Sub")
def subtract(args: Args, attrs: Attrs) -> Exact:
    return args[0] - args[1]


@rule("Mul")
def multiply(args: Args, attrs: Attrs) -> Exact:
    return args[0] * args[1]


@rule("Div")
def divide(args: Args, attrs: Attrs) -> Exact:
    return args[0] / args[1]


@rule("Max")
def maximum(args: Args, attrs: Attrs) -> Exact:
    return args[0].maximum(args[1])


@rule("Min")
def minimum(args: Args, attrs: Attrs) -> Exact:
    return args[0].minimum(args[1])


@rule("Pow")
def power(args: Args, attrs: Attrs) -> Exact:
    (exponent,) = whole(args[1])
    result = args[0]
    for _ in range(exponent - 1):
        result = result * args[0]
    return result


@rule("Identity")
def identity(args: Args, attrs: Attrs) -> Exact:
    return args[0]


@rule("Neg")
def negate(args: Args, attrs: Attrs) -> Exact:
    return -args[0]


@rule("Abs")
def absolute(args: Args, attrs: Attrs) -> Exact:
    return args[0].move(abs)


@rule("Relu")
def relu(args: Args, attrs: Attrs) -> Exact:
    return args[0].maximum(ZERO)


@rule("LeakyRelu")
def leaky_relu(args: Args, attrs: Attrs) -> Exact:
    return choose(args[0] >= ZERO, args[0], args[0] * number(attrs, "alpha", 0.01))


@rule("PRelu")
def prelu(args: Args, attrs: Attrs) -> Exact:
    return choose(args[0] >= ZERO, args[0], args[0] * args[1])


@rule("Clip")
def clip_between(args: Args, attrs: Attrs) -> Exact:
    low, high = (*args[1:], None, None)[:2]
    result = args[0] if low is None else args[0].maximum(low)
    return result if high is None else result.minimum(high)


@rule("HardSigmoid")
def hard_sigmoid(args: Args, attrs: Attrs) -> Exact:
    line = args[0] * number(attrs, "alpha", 0.2) + number(attrs, "beta", 0.5)
    return line.maximum(ZERO).minimum(ONE)


@rule("HardSwish")
def hard_swish(args: Args, attrs: Attrs) -> Exact:
    """x * max(0, min(1, x/6 + 1/2)), where the sixth is a float32, as in the function that defines it."""
    line = args[0] * Exact.of(np.float32(1 / 6)) + HALF
    return args[0] * line.maximum(ZERO).minimum(ONE)


for _name, _curve in CURVES.items():
    RULES[_name] = lambda args, attrs, curve=_curve: args[0].each(lambda x: curve(x, attrs))


# -- moves ------------------------------------------------------------------------------------------------------------


@rule("Transpose")
def transpose(args: Args, attrs: Attrs) -> Exact:
    return args[0].move(lambda tops: np.transpose(tops, attrs.get("perm")))


@rule("Reshape")
def reshape(args: Args, attrs: Attrs) -> Exact:
    old, new = args[0].shape, whole(args[1])
    return args[0].move(lambda tops: tops.reshape([old[k] if d == 0 else d for k, d in enumerate(new)]))


@rule("Flatten")
def flatten(args: Args, attrs: Attrs) -> Exact:
    axis = attrs.get("axis", 1)
    return args[0].move(lambda tops: tops.reshape(int(np.prod(tops.shape[:axis])), -1))


@rule("Squeeze")
def squeeze(args: Args, attrs: Attrs) -> Exact:
    return args[0].move(lambda tops: np.squeeze(tops, tuple(whole(args[1]))))


@rule("Unsqueeze")
def unsqueeze(args: Args, attrs: Attrs) -> Exact:
    return args[0].move(lambda tops: np.expand_dims(tops, tuple(whole(args[1]))))


@rule("Slice")
def take_slice(args: Args, attrs: Attrs) -> Exact:
    starts, ends = whole(args[1]), whole(args[2])
    axes = whole(args[3] if len(args) > 3 else None, range(len(starts)))
    steps = whole(args[4] if len(args) > 4 else None, [1] * len(starts))
    x = args[0]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = x.shape[axis]
        start, end = (v + size if v < 0 else v for v in (start, end))
        low, high = (0, size) if step > 0 else (-1, size - 1)
        places = range(min(max(start, 0), size if step > 0 else size - 1), min(max(end, low), high), step)
        x = x.move(lambda tops, places=places, axis=axis: np.take(tops, list(places), axis))
    return x


@rule("Gather")
def gather(args: Args, attrs: Attrs) -> Exact:
    places = np.asarray(args[1].tops, np.int64)
    return args[0].move(lambda tops: np.take(tops, places, attrs.get("axis", 0)))


@rule("Split")
def split(args: Args, attrs: Attrs) -> list[Exact]:
    ends = np.cumsum(whole(args[1]))
    return [
        args[0].move(lambda tops, lo=lo, hi=hi: np.take(tops, range(lo, hi), attrs.get("axis", 0)))
        for lo, hi in zip([0, *ends[:-1]], ends, strict=True)
    ]


@rule("Concat")
def concat(args: Args, attrs: Attrs) -> Exact:
    return join(list(args), attrs["axis"])


@rule("Pad")
def pad(args: Args, attrs: Attrs) -> Exact:
    amounts = whole(args[1])
    n = len(amounts) // 2
    return pad_with(args[0], amounts[:n], amounts[n:], args[2] if len(args) > 2 and args[2] is not None else ZERO)


@rule("DepthToSpace")
def depth_to_space(args: Args, attrs: Attrs) -> Exact:
    """Channel (dy, dx, c) (DCR) or (c, dy, dx) (CRD) of a pixel is channel c of the pixel's part (dy, dx)."""
    b = attrs["blocksize"]
    n, c, h, w = args[0].shape
    if decode(attrs.get("mode"), "DCR") == "DCR":
        return args[0].move(
            lambda t: t.reshape(n, b, b, c // b**2, h, w).transpose(0, 3, 4, 1, 5, 2).reshape(n, -1, h * b, w * b)
        )
    return args[0].move(
        lambda t: t.reshape(n, c // b**2, b, b, h, w).transpose(0, 1, 4, 2, 5, 3).reshape(n, -1, h * b, w * b)
    )


@rule("SpaceToDepth")
def space_to_depth(args: Args, attrs: Attrs) -> Exact:
    b = attrs["blocksize"]
    n, c, h, w = args[0].shape
    return args[0].move(
        lambda t: t.reshape(n, c, h // b, b, w // b, b).transpose(0, 3, 5, 1, 2, 4).reshape(n, -1, h // b, w // b)
    )


@rule("Resize")
def resize(args: Args, attrs: Attrs) -> Exact:
    """Nearest, asymmetric, floor: output place p takes input place floor(p / scale); whole scales."""
    result = args[0]
    for axis, by in enumerate(whole(args[2])):
        result = result.move(lambda tops, axis=axis, by=by: np.repeat(tops, by, axis))
    return result


# -- pools and reductions ---------------------------------------------------------------------------------------------


@rule("MaxPool")
def max_pool(args: Args, attrs: Attrs) -> Exact:
    x, kernel = args[0], attrs["kernel_shape"]
    strides, dilations, pads = geometry(x, kernel, attrs)
    if attrs.get("ceil_mode", 0):
        n = len(kernel)
        for i in range(n):
            rest = (x.shape[2 + i] + pads[i] + pads[n + i] - dilations[i] * (kernel[i] - 1) - 1) % strides[i]
            pads[n + i] += (strides[i] - rest) % strides[i]
    lowest = Exact(np.asarray(min(x.tops.min() - 1, -1), object), 1)  # below every number of x, as -inf is
    views = windows(x, kernel, strides, dilations, pads, lowest)
    result = views[0]
    for view in views[1:]:
        result = result.maximum(view)
    return result


@rule("AveragePool")
def average_pool(args: Args, attrs: Attrs) -> Exact:
    x, kernel = args[0], attrs["kernel_shape"]
    assert attrs.get("count_include_pad", 0) or not any(attrs.get("pads", [0]))
    views = windows(x, kernel, *geometry(x, kernel, attrs), ZERO)
    return sum(views[1:], views[0]) * Exact.of(Fraction(1, len(views)))


def reduce_rule(fold: Callable[[Exact, tuple[int, ...], bool], Exact]) -> Rule:
    def reduce(args: Args, attrs: Attrs) -> Exact:
        rank = len(args[0].shape)
        axes = whole(args[1]) if len(args) > 1 else attrs.get("axes", range(rank))
        return fold(args[0], tuple(a % rank for a in axes), bool(attrs.get("keepdims", 1)))

    return reduce


def mean(x: Exact, axes: tuple[int, ...], keepdims: bool) -> Exact:
    return x.sum(axes, keepdims) * Exact.of(Fraction(1, int(np.prod([x.shape[a] for a in axes]))))


def largest(x: Exact, axes: tuple[int, ...], keepdims: bool) -> Exact:
    return x.move(lambda tops: np.maximum.reduce(tops, axis=axes, keepdims=keepdims))


RULES["ReduceSum"] = reduce_rule(lambda x, axes, keepdims: x.sum(axes, keepdims))
RULES["ReduceMean"] = reduce_rule(mean)
RULES["ReduceMax"] = reduce_rule(largest)
RULES["ReduceMin"] = reduce_rule(lambda x, axes, keepdims: -largest(-x, axes, keepdims))


@rule("GlobalAveragePool")
def global_average_pool(args: Args, attrs: Attrs) -> Exact:
    return mean(args[0], tuple(range(2, len(args[0].shape))), True)


@rule("GlobalMaxPool")
def global_max_pool(args: Args, attrs: Attrs) -> Exact:
    return largest(args[0], tuple(range(2, len(args[0].shape))), True)


@rule("ArgMax")
def arg_max(args: Args, attrs: Attrs) -> Exact:
    axis, x = attrs.get("axis", 0), args[0]
    assert not attrs.get("select_last_index", 0)
    places = np.argmax(x.tops, axis)  # of Python integers; the first of equals
    return Exact.of(np.expand_dims(places, axis) if attrs.get("keepdims", 1) else places)


@rule("TopK")
def top_one(args: Args, attrs: Attrs) -> list[Exact]:
    """The largest along an axis and the first place where it stands; for k = 1."""
    x, axis = args[0], attrs.get("axis", -1)
    assert whole(args[1]) == [1] and attrs.get("largest", 1)
    places = np.expand_dims(np.argmax(x.tops, axis), axis)
    return [x.move(lambda tops: np.take_along_axis(tops, places, axis)), Exact.of(places)]
