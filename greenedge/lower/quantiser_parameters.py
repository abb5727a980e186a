"""The parameters of quantisers, read from the model and checked; constants quantised with them."""

from __future__ import annotations

import re

import numpy as np

from greenedge.errors import ReasonKind, Refused
from greenedge.frontends.source import Node
from greenedge.graph.ops.base import Array, Floats
from greenedge.lower.rounding import round_floats
from greenedge.lower.values import Constant, Grid, Value
from greenedge.lower.walk import Args, Walk

MAX_LEVEL_BITS = 16  # thresholds are listed one by one; wider integers exist as biases and accumulators


def read_parameter(value: Value | None, what: str) -> Floats:
    """A constant parameter in float64; `what` names it in the reason. Raises Refused where it is computed at run
    time."""
    if isinstance(value, Grid):
        return value.real().astype(np.float64)
    if not isinstance(value, Constant):
        raise Refused(
            ReasonKind.DYNAMIC_QUANTISER,
            f"its {what} is computed at run time",
            "quantisers must have constant parameters",
            "call model.eval() before the export and use a static quantiser",
        )
    array = np.asarray(value.array)
    if not array.size:
        raise Refused(
            ReasonKind.BAD_SCALE,
            f"its {what} has shape {array.shape}",
            "every parameter holds a number",
            "export the model again",
        )
    return array.astype(np.float64)


def read_bits(value: Value | None) -> int:
    """The bit width of a quantiser: one whole number from 1 to 32. Raises Refused for others."""
    given = read_parameter(value, "bit width")
    widths = set(np.ravel(given).tolist())
    if len(widths) == 1 and given.size > 1:
        raise Refused(
            ReasonKind.UNSUPPORTED_BITS,
            f"a bit width of shape {given.shape}",
            "one bit width per tensor",
            "give it as one number",
        )
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


def check_scale(scale: Floats) -> None:
    """Raises Refused for a scale that is not positive."""
    if not (scale > 0).all():
        worst = float(scale.min())
        raise Refused(
            ReasonKind.BAD_SCALE,
            f"scale {worst:g}",
            "scales must be positive",
            "train a few steps before the export, or remove the dead channel",
        )


def check_level_bits(bits: int) -> None:
    """Raises Refused for more levels than are listed one by one."""
    if bits > MAX_LEVEL_BITS:
        raise Refused(
            ReasonKind.UNSUPPORTED_BITS,
            f"{bits}-bit activations",
            f"activations have at most {MAX_LEVEL_BITS} bits",
            "use 8 bits or fewer",
        )


def broadcast_parameter(part: Floats, ints: Array) -> Floats:
    """A scale or zero point at the rank of the constant it belongs to. Raises Refused where they do not broadcast."""
    part = np.asarray(part, np.float64)
    if part.size == 1 and part.ndim <= ints.ndim:
        return part.reshape((1,) * ints.ndim)
    if part.ndim < ints.ndim:
        part = part.reshape((1,) * (ints.ndim - part.ndim) + part.shape)
    if not widens_nothing(part.shape, ints.shape):
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"scale of shape {part.shape} for a constant of shape {ints.shape}",
            "they must broadcast",
            "export the model again",
        )
    return part


def widens_nothing(part: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    """Whether a parameter of the shape `part` broadcasts against a tensor of the shape `whole` and leaves it."""
    try:
        return np.broadcast_shapes(part, whole) == tuple(whole)
    except ValueError:
        return False


def quantise_constant(
    value: Constant | Grid, scale: Floats, zero: Floats, ends: tuple[int, int], mode: str, bits: int
) -> Grid:
    """A constant's integers, clipped to `ends`, as the standard computes them, in the constant's own precision.

    A division, an addition and a rounding of single numbers give the same bits on every runtime, so here its result is
    the model's meaning; in real arithmetic a weight within rounding error of a tie would be another integer than
    everywhere else.
    """
    (lo, hi), real = ends, floats_of(value)
    scale, zero = broadcast_parameter(scale, real), broadcast_parameter(zero, real)
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


def floats_of(value: Constant | Grid) -> Array:
    """A constant as a runtime holds it: float64 where the model says so, else float32."""
    if isinstance(value, Grid):
        return value.real().astype(np.float32)
    array = np.asarray(value.array)
    return array if array.dtype == np.float64 else array.astype(np.float32)


def read_linear_parameters(walk: Walk, node: Node, args: Args) -> tuple[Floats, Floats, tuple[bool, int]]:
    """(scale, zero, (signed, bits)) of a QuantizeLinear or DequantizeLinear, shaped along its axis."""
    scale = read_parameter(args[1], "scale")
    zero_point = args[2] if len(args) > 2 else None
    kind = _read_element_type(node, zero_point)
    zero = read_parameter(zero_point, "zero point") if zero_point is not None else np.zeros_like(scale)
    assert args[0] is not None
    shape = walk.shape_of(args[0])
    if scale.ndim == 1 and scale.size > 1:
        axis = int(node.attrs.get("axis", 1)) % len(shape)
        spread = [1] * len(shape)
        spread[axis] = -1
        scale, zero = scale.reshape(spread), np.broadcast_to(zero, scale.shape).reshape(spread)
    return scale, zero, kind


_INTEGER = re.compile(r"(u?)int(\d+)")


def _read_element_type(node: Node, zero: Value | None) -> tuple[bool, int]:
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
            ReasonKind.FLOAT_QUANTISER,
            f"{node.op} with zero point of type {name}",
            "the integer graph holds integers only",
            "use int8",
        )
    return not match.group(1), int(match.group(2))
