"""Int8 requantisation of LiteRT and ONNX Runtime, to the bit: from the int32 accumulator (bias included) to the
stored int8.

Sums that are stored as they are, in int32 or added up in float32 below 2**24, are exact. Where they are requantised
each kernel set has its own arithmetic. With si, sw, so the scales of input, weight and output:

    xnnpack     every operator: s = fl32(fl32(si*sw)/so), nearest-even of fl32(fl32(acc)*s)
                ADD of two inputs of one scale: a 21-bit multiplier and a shift, halves up
                QUANTIZE of int8: the ratio of the scales in 256ths, halves up
                MEAN of n: the sum of the stored values times fl32(fl32(si/so) * fl32(1/n)), plus what the zero
                points make, float32
    mlas        ONNX Runtime's CPU kernels: the same as xnnpack's first
    reference   FULLY_CONNECTED: nearest, halves away from zero, of double(acc) * (double(si)*double(sw)/double(so));
                convolutions: that double as a 31-bit multiplier and a shift, applied with two roundings;
                QUANTIZE: the same; ADD: the same to 2**19 times the sum; MEAN: the same with a multiplier divided by n

then + zero point, then clamped to the range the fused activation leaves. Established by measurement against
ai-edge-litert 2.3.0 (x86-64, and arm64 under emulation); each back end's `selftest.py` measures it again on the
runtime at hand. Every function here is monotone in the accumulator, which is why a certificate needs to look at the
thresholds only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from greenedge.graph.ops.base import Array, Floats, Ints

Float32s = NDArray[np.float32]

LITERT = ("xnnpack", "reference")  # LiteRT's kernel sets, the default first
INT8_MIN, INT8_MAX = -128, 127  # int8
EXACT_FLOAT = 1 << 24  # float32 holds every integer up to this
SCALE_LIMIT = 256.0  # XNNPACK refuses a requantisation scale of 256 and more
ADD_RATIOS = (2.0**-10, 2.0**8)  # input scale / output scale of an addition that XNNPACK takes
QUANTISE_RATIO = 2.0**7  # the largest input scale / output scale of int8 to int8 that XNNPACK takes
MEAN_RATIOS = (2.0**-8, 2.0**7)  # of a mean: those that were tried
_INT32_MIN, _INT32_MAX = -(1 << 31), (1 << 31) - 1


@dataclass(frozen=True)
class Emulation:
    """`prepare(si, sw, so)` gives the operator's parameters, one per sw; `round(acc, *parameters)` the integer
    nearest to the accumulator's real value, before the zero point and the clamp, in two roundings where
    `rounds_twice`. Arrays broadcast."""

    prepare: Callable[[float, Array, float], tuple[Array, ...]]
    round: Callable[..., Ints]
    rounds_twice: bool = False


def requantise(
    emulation: Emulation,
    acc: Array,
    si: float,
    sw: Array,
    so: float,
    zero_point: int,
    bounds: tuple[int, int] = (INT8_MIN, INT8_MAX),
) -> Ints:
    """What the operator stores for accumulators `acc` (int64 within int32; broadcasts against sw): int64 in
    `bounds`."""
    value = emulation.round(np.asarray(acc, np.int64), *emulation.prepare(si, sw, so))
    return np.clip(value + zero_point, *bounds)


REAL_BOUNDS: dict[str, tuple[float | None, float | None]] = {
    "NONE": (None, None),
    "RELU": (0.0, None),
    "RELU6": (0.0, 6.0),
    "RELU_N1_TO_1": (-1.0, 1.0),
}
ACTIVATIONS = tuple(REAL_BOUNDS)  # that an operator may have fused


def activation_bounds(activation: str, so: float, zero_point: int, kernels: str) -> tuple[int, int]:
    """The stored values a fused activation leaves, of an operator that `kernels` runs.

    The reference kernels, and LiteRT's own behind XNNPACK, round the bound alone, halves away from zero; XNNPACK
    rounds the bound with the zero point added to it in float32, halves to even. The two differ where a bound is a
    half of a level.
    """
    low, high = (None if real is None else np.float32(real) / np.float32(so) for real in REAL_BOUNDS[activation])
    bounds = [INT8_MIN if low is None else low, INT8_MAX if high is None else high]
    for k, bound in enumerate((low, high)):
        if bound is None:
            continue
        if kernels == "xnnpack":
            bounds[k] = int(np.rint(np.clip(np.float32(bound + np.float32(zero_point)), INT8_MIN, INT8_MAX)))
        else:
            bounds[k] = zero_point + int(np.trunc(np.float64(bound) + np.copysign(0.5, bound)))
    return max(INT8_MIN, int(bounds[0])), min(INT8_MAX, int(bounds[1]))


def _double_scale(si: float, sw: Array, so: float) -> Floats:
    scale: Floats = (
        np.float64(np.float32(si)) * np.asarray(sw, np.float32).astype(np.float64) / np.float64(np.float32(so))
    )
    return scale


def _xnnpack_prepare(si: float, sw: Array, so: float) -> tuple[Array, ...]:
    return (((np.float32(si) * np.asarray(sw, np.float32)).astype(np.float32) / np.float32(so)).astype(np.float32),)


def _xnnpack_round(acc: Ints, scale: Float32s) -> Ints:
    """One float32 product, then nearest even (cvtps2dq, vcvtnq)."""
    value = np.rint(acc.astype(np.float32) * scale)
    return np.clip(value.astype(np.float64), _INT32_MIN, _INT32_MAX).astype(np.int64)


def _reference_dense_prepare(si: float, sw: Array, so: float) -> tuple[Array, ...]:
    return (_double_scale(si, sw, so),)


def _reference_dense_round(acc: Ints, scale: Floats) -> Ints:
    """std::round of the double product: halves away from zero."""
    value = acc.astype(np.float64) * scale
    whole = np.trunc(value)
    whole += np.where(np.abs(value - whole) >= 0.5, np.sign(value), 0)
    return np.clip(whole, _INT32_MIN, _INT32_MAX).astype(np.int64)


def _reference_conv_prepare(si: float, sw: Array, so: float) -> tuple[Array, ...]:
    """QuantizeMultiplier: scale = multiplier / 2**31 * 2**shift, the multiplier rounded to 31 bits, halves up."""
    return quantise_multiplier(_double_scale(si, sw, so))


def quantise_multiplier(scale: Floats) -> tuple[Ints, Ints]:
    """(31-bit multiplier, shift) of a scale that is not negative."""
    fraction, exponent = np.frexp(scale)
    multiplier = np.floor(fraction * 2.0**31 + 0.5).astype(np.int64)
    carry = multiplier == 1 << 31
    multiplier, exponent = np.where(carry, multiplier >> 1, multiplier), np.where(carry, exponent + 1, exponent)
    vanishes = exponent < -31
    return np.where(vanishes, 0, multiplier), np.where(vanishes, 0, exponent).astype(np.int64)


def multiply_twice(acc: Ints, multiplier: Ints, shift: Ints) -> Ints:
    """MultiplyByQuantizedMultiplier with two roundings: a doubling high product (halves up), a shift (halves away)."""
    left, right = np.maximum(shift, 0), np.maximum(-shift, 0)
    x = ((acc << left) + (1 << 31) & 0xFFFFFFFF) - (1 << 31)
    # The nudge and the truncation of the kernel are, for either sign, half added and the bits below dropped.
    high = (x * multiplier + (1 << 30)) >> 31
    half, toward_zero = (np.int64(1) << right) >> 1, -np.minimum(right, 1)
    rounded: Ints = (high + half + ((high >> 63) & toward_zero)) >> right
    return rounded


def _xnnpack_add_prepare(si: float, sw: Array, so: float) -> tuple[Array, ...]:
    """The ratio of the scales with 21 bits, at least 2**20; `sw` is 1 (an addition has no weights)."""
    (ratio,) = _xnnpack_prepare(si, sw, so)
    _, exponent = np.frexp(ratio)
    shift = 21 - exponent.astype(np.int64)
    return np.rint(np.ldexp(ratio.astype(np.float64), shift)).astype(np.int64), shift


def _xnnpack_add_round(acc: Ints, multiplier: Ints, shift: Ints) -> Ints:
    return (acc * multiplier + (np.int64(1) << (shift - 1))) >> shift


def _reference_add_prepare(si: float, sw: Array, so: float) -> tuple[Array, ...]:
    """Both inputs are shifted left by 20 and halved, which is exact; what they add up to is multiplied."""
    return quantise_multiplier(2 * _double_scale(si, sw, so) / (1 << 20))


def _reference_add_round(acc: Ints, multiplier: Ints, shift: Ints) -> Ints:
    return multiply_twice(acc << 19, multiplier, shift)


def _xnnpack_quantise_prepare(si: float, sw: Array, so: float) -> tuple[Array, ...]:
    return (np.rint(256 * _xnnpack_prepare(si, sw, so)[0].astype(np.float64)).astype(np.int64),)


def _xnnpack_quantise_round(acc: Ints, multiplier: Ints) -> Ints:
    return (acc * multiplier + 128) >> 8


_XNNPACK = Emulation(_xnnpack_prepare, _xnnpack_round)
_REFERENCE_DENSE = Emulation(_reference_dense_prepare, _reference_dense_round)
_REFERENCE_CONV = Emulation(_reference_conv_prepare, multiply_twice, rounds_twice=True)

_XNNPACK_ADD = Emulation(_xnnpack_add_prepare, _xnnpack_add_round)
_REFERENCE_ADD = Emulation(_reference_add_prepare, _reference_add_round, rounds_twice=True)


def mean_emulations(count: int, zero_in: int, zero_out: int) -> dict[str, Emulation]:
    """MEAN over `count` values; the accumulator is the sum of the stored values themselves, zero points and all."""

    def xnnpack_prepare(si: float, sw: Array, so: float) -> tuple[Array, ...]:
        scale = (_xnnpack_prepare(si, sw, so)[0] * (np.float32(1) / np.float32(count))).astype(np.float32)
        zeros = (np.float32(zero_in * count) * scale).astype(np.float32)
        return scale, (np.float32(zero_out) - zeros).astype(np.float32)

    def xnnpack_round(acc: Ints, scale: Float32s, addend: Float32s) -> Ints:
        value = ((acc.astype(np.float32) * scale).astype(np.float32) + addend).astype(np.float32)
        return np.rint(value).astype(np.int64) - zero_out

    def reference_prepare(si: float, sw: Array, so: float) -> tuple[Array, ...]:
        multiplier, exponent = quantise_multiplier(_double_scale(si, sw, so))
        shift = np.minimum(min(count.bit_length() - 1, 32), 31 + exponent)
        return (multiplier << shift) // count, exponent - shift

    def reference_round(acc: Ints, multiplier: Ints, shift: Ints) -> Ints:
        return multiply_twice(acc - zero_in * count, multiplier, shift)

    return {
        "xnnpack": Emulation(xnnpack_prepare, xnnpack_round),
        "reference": Emulation(reference_prepare, reference_round, rounds_twice=True),
    }


def _exact_prepare(si: float, sw: Array, so: float) -> tuple[Array, ...]:
    return (np.zeros(np.shape(sw), np.int64),)


def _exact_round(acc: Ints, nothing: Ints) -> Ints:
    """The sum itself, for every scale."""
    return acc + nothing


EXACT = Emulation(_exact_prepare, _exact_round)
FLOAT_SUM = "float32 "  # before the name of an operator that adds up whole numbers in float32, below EXACT_FLOAT

# operator -> {kernel set: its arithmetic}; the first set is the one that a search serves first
EMULATIONS: dict[str, dict[str, Emulation]] = {
    "FULLY_CONNECTED": {"xnnpack": _XNNPACK, "reference": _REFERENCE_DENSE},
    **{
        name: {"xnnpack": _XNNPACK, "reference": _REFERENCE_CONV}
        for name in ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
    },
    "QUANTIZE": {
        "xnnpack": Emulation(_xnnpack_quantise_prepare, _xnnpack_quantise_round),
        "reference": _REFERENCE_CONV,
    },
    "ADD": {"xnnpack": _XNNPACK_ADD, "reference": _REFERENCE_ADD},
    **{
        FLOAT_SUM + name: {"xnnpack": EXACT, "reference": EXACT}
        for name in ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
    },
    **{name: {"mlas": _XNNPACK} for name in ("QLinearConv", "QGemm", "QuantizeLinear")},
    **{name: {"mlas": EXACT} for name in ("MatMulInteger", "ConvInteger")},
}
