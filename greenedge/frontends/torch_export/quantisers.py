"""Quantisers of PT2E (quantized_decomposed), of torchao (quantize_affine) and fake ones, as ONNX's pairs.

    q = clip(round(x / scale) + zero, low, high)        QuantizeLinear, behind a Clip where that range is narrower
    x = (q - zero) * scale                              DequantizeLinear

Constants are quantised here, in torch's own float32: round(x * (1 / scale)) differs from round(x / scale) beside a tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greenedge.errors import ReasonKind, Refused
from greenedge.frontends.torch_export.network import Call, Rule
from greenedge.frontends.torch_export.program import Kind
from greenedge.graph.ops.base import Array

_TYPES: dict[str, type[np.integer[Any]]] = {
    "CHAR": np.int8,
    "BYTE": np.uint8,
    "SHORT": np.int16,
    "UINT16": np.uint16,
    "INT": np.int32,
}
_ACTIVATIONS = ("CHAR", "BYTE", "SHORT", "UINT16")
NAMESPACES = ("quantized_decomposed", "torchao")
FAKE = ("fake_quantize", "fake_quant")


@dataclass(frozen=True)
class Code:
    """What integers low … high stand for: scale * (q - zero), of the whole tensor or of each index along an axis.

    scales      float64, as torch has them: a number is a double there, a tensor's element a float
    kind        torch's name of the type that the integers are stored in
    """

    scales: NDArray[np.float64]
    zeros: NDArray[np.int64]
    low: int
    high: int
    kind: str
    axis: int | None

    def spread(self, values: Array, rank: int) -> Array:
        """Numbers of an axis as they broadcast against a tensor of so many axes."""
        if self.axis is None:
            return values.reshape(())
        shape = [1] * rank
        shape[self.axis] = len(values)
        return values.reshape(shape)

    def quantise(self, array: Array) -> Array:
        """A constant's integers, in torch's float32: the inverse of the scale, then the product."""
        inverse = self.spread(_invert(self.scales, self.axis), array.ndim)
        levels = np.rint(array.astype(np.float32) * inverse) + self.spread(self.zeros.astype(np.float32), array.ndim)
        return np.asarray(np.clip(levels, self.low, self.high)).astype(_TYPES[self.kind])


def _invert(scales: NDArray[np.float64], axis: int | None) -> NDArray[np.float32]:
    """1 / scale: of a number in double and then as a float, of a tensor's elements in float."""
    if axis is None:
        return (1.0 / scales).astype(np.float32)
    return np.float32(1.0) / scales.astype(np.float32)


def _make_code(
    call: Call, scales: Array, zeros: Array, bounds: tuple[int, int], kind: str, axis: int | None, size: int
) -> Code:
    """The code, checked. Raises Refused for one that no integer graph has."""
    scales, zeros = np.ravel(scales).astype(np.float64), np.ravel(zeros)
    if zeros.dtype.kind == "f" and not (zeros == np.rint(zeros)).all():
        raise call.refuse("zero points that are no integers", "a zero point is one of the integers")
    zeros = zeros.astype(np.int64)
    if kind not in _TYPES:
        raise call.refuse(f"integers of the type {kind or 'unknown'}", f"they are {', '.join(_TYPES)}")
    limits = np.iinfo(_TYPES[kind])
    if len(scales) != size or len(zeros) not in (size, 1):
        raise call.refuse(
            f"{len(scales)} scales and {len(zeros)} zero points of {size} channels",
            "there is one for all, or one for each index of an axis",
            "quantise per tensor, or weights per channel",
        )
    if not (np.isfinite(scales).all() and (scales.astype(np.float32) > 0).all()):
        raise Refused(
            ReasonKind.BAD_SCALE, f"a scale of {scales.min():g}", "scales are positive numbers", "calibrate it again"
        )
    low, high = bounds
    outside = (zeros < limits.min) | (zeros > limits.max)
    if not limits.min <= low < high <= limits.max or outside.any():
        raise call.refuse(
            f"integers {low} … {high} with zero point {zeros[int(outside.argmax())]} as {kind}",
            f"{kind} holds {limits.min} … {limits.max}",
            "export it again",
        )
    return Code(scales, np.broadcast_to(zeros, scales.shape), low, high, kind, axis)


def _numbers(call: Call, name: str, default: float | None = None) -> Array:
    """A number, or a constant tensor; the default where it is left out."""
    value = call.value(name)
    if value is None and default is not None:
        return np.array([default])
    return np.array([value]) if isinstance(value, (int, float)) else call.array(name)


def _read_kind(call: Call, name: str) -> str:
    kind = call.value(name)
    return kind.name if isinstance(kind, Kind) else ""


def _require_floats(call: Call, name: str) -> None:
    kind = call.value(name)
    if kind is not None and not (isinstance(kind, Kind) and kind.name == "FLOAT"):
        raise call.refuse("it gives another type than float32", "networks compute in float32", "export it in float32")


def _read_tensor_code(call: Call) -> Code:
    """One scale for all: quantize_per_tensor, dequantize_per_tensor."""
    bounds = call.integer("quant_min"), call.integer("quant_max")
    scales, zeros = _numbers(call, "scale"), _numbers(call, "zero_point")
    return _make_code(call, scales, zeros, bounds, _read_kind(call, "dtype"), None, 1)


def _read_channel_code(call: Call) -> Code:
    """A scale for each index of an axis: quantize_per_channel, dequantize_per_channel."""
    shape = call.shape("input")
    axis = _read_axis(call, len(shape))
    bounds = call.integer("quant_min"), call.integer("quant_max")
    scales, zeros = _numbers(call, "scales"), _numbers(call, "zero_points", 0)
    return _make_code(call, scales, zeros, bounds, _read_kind(call, "dtype"), axis, shape[axis])


def _read_axis(call: Call, rank: int) -> int:
    axis = call.integer("axis")
    if not -rank <= axis < rank:
        raise call.refuse(f"axis {axis} of {rank}", "an axis is one of the tensor's")
    return axis % rank


def _read_affine_code(call: Call, kind: str) -> Code:
    """torchao's blocks: the whole tensor, or one index of an axis each."""
    shape, block = call.shape("input"), call.integers("block_size")
    scales, zeros = _numbers(call, "scale"), _numbers(call, "zero_point", 0)
    limits = np.iinfo(_TYPES[kind]) if kind in _TYPES else np.iinfo(np.int8)
    bounds = call.integer("quant_min", int(limits.min)), call.integer("quant_max", int(limits.max))
    if call.value("zero_point_domain", "INT") not in ("INT", "ZeroPointDomain.INT", None):
        raise call.refuse("zero points that are real numbers", "a zero point is one of the integers")
    if scales.size == 1:
        return _make_code(call, scales, zeros, bounds, kind, None, 1)
    whole = list(shape)
    axes = [axis for axis, size in enumerate(shape) if size == scales.size and block == _with_one(whole, axis)]
    if not axes:
        raise call.refuse(
            f"blocks of {tuple(block)} in a tensor of {shape}",
            "a scale is for the whole tensor, or for each index of an axis",
            "quantise per tensor, or weights per channel",
        )
    return _make_code(call, scales, zeros, bounds, kind, axes[0], scales.size)


def _with_one(shape: Sequence[int], axis: int) -> list[int]:
    return [1 if k == axis else size for k, size in enumerate(shape)]


def _write_quantiser(call: Call, name: str, code: Code) -> str | Array:
    """The integers of a tensor: an array of a constant's, else the name of what holds them here."""
    array = call.net.array(name)
    if array is not None:
        return code.quantise(array)
    if code.kind not in _ACTIVATIONS:
        raise call.refuse(f"activations as {code.kind}", "they have at most 16 bits", "quantise to 8 bits")
    source = call.net.tensor(name)
    limits = np.iinfo(_TYPES[code.kind])
    if (code.low, code.high) != (limits.min, limits.max):
        ends = [
            code.spread((end - code.zeros) * code.scales, len(call.net.shape(name))) for end in (code.low, code.high)
        ]
        if code.axis is None:
            source = call.step("Clip", [source, *(call.constant(end, "limit") for end in ends)])
        else:
            source = call.step("Max", [source, call.constant(ends[0], "limit")])
            source = call.step("Min", [source, call.constant(ends[1], "limit")])
    return call.step("QuantizeLinear", [source, *_write_parameters(call, code)], **_axis_of(code))


def _write_parameters(call: Call, code: Code) -> list[str]:
    scales, zeros = (part.reshape(()) if code.axis is None else part for part in (code.scales, code.zeros))
    return [call.constant(scales, "scale"), call.constant(zeros, "zero_point", _TYPES[code.kind])]


def _axis_of(code: Code) -> dict[str, int]:
    return {} if code.axis is None else {"axis": code.axis}


def _write_dequantiser(call: Call, source: str, code: Code) -> None:
    call.emit("DequantizeLinear", [source, *_write_parameters(call, code)], **_axis_of(code))


def _quantise(call: Call, code: Code) -> None:
    levels = _write_quantiser(call, call.name("input"), code)
    if isinstance(levels, str):
        call.net.bind(call.out, levels)
    else:
        call.fold(levels)


def _dequantise(call: Call, code: Code) -> None:
    stored = call.net.program.kinds.get(call.name("input"))
    if stored != code.kind:
        raise call.refuse(f"integers stored as {stored}, read as {code.kind}", "they are of one type", "export again")
    _write_dequantiser(call, call.tensor("input"), code)


def quantise_tensor(call: Call) -> None:
    _quantise(call, _read_tensor_code(call))


def dequantise_tensor(call: Call) -> None:
    _require_floats(call, "out_dtype")
    _dequantise(call, _read_tensor_code(call))


def quantise_channels(call: Call) -> None:
    _quantise(call, _read_channel_code(call))


def dequantise_channels(call: Call) -> None:
    _require_floats(call, "out_dtype")
    _dequantise(call, _read_channel_code(call))


def quantise_affine(call: Call) -> None:
    _quantise(call, _read_affine_code(call, _read_kind(call, "output_dtype")))


def dequantise_affine(call: Call) -> None:
    _require_floats(call, "output_dtype")
    _dequantise(call, _read_affine_code(call, _read_kind(call, "input_dtype")))


def _fake(call: Call, code: Code, name: str) -> None:
    """Quantised and dequantised at once."""
    levels = _write_quantiser(call, name, code)
    _write_dequantiser(call, levels if isinstance(levels, str) else call.constant(levels, "levels", levels.dtype), code)


def _fit_kind(bounds: tuple[int, int]) -> str:
    """The narrowest type that holds the integers."""
    for kind in _ACTIVATIONS:
        limits = np.iinfo(_TYPES[kind])
        if limits.min <= bounds[0] and bounds[1] <= limits.max:
            return kind
    return "INT"


def fake_tensor(call: Call) -> None:
    bounds = call.integer("quant_min"), call.integer("quant_max")
    if call.has("fake_quant_enabled") and not call.number("fake_quant_enabled"):
        raise call.refuse("it is turned off", "a quantiser quantises", "call enable_fake_quant before the export")
    scales, zeros = _numbers(call, "scale"), _numbers(call, "zero_point")
    _fake(call, _make_code(call, scales, zeros, bounds, _fit_kind(bounds), None, 1), call.name("self"))


def fake_channels(call: Call) -> None:
    name = "self" if call.has("self") else "input"
    shape = call.shape(name)
    axis = _read_axis(call, len(shape))
    bounds = call.integer("quant_min"), call.integer("quant_max")
    plural = "s" if call.has("scales") else ""
    scales, zeros = _numbers(call, f"scale{plural}"), _numbers(call, f"zero_point{plural}", 0)
    _fake(call, _make_code(call, scales, zeros, bounds, _fit_kind(bounds), axis, shape[axis]), call.name(name))


def refuse_dynamic(call: Call) -> None:
    """choose_qparams: scales of every sample anew."""
    raise Refused(
        ReasonKind.DYNAMIC_QUANTISER,
        f"{call.node.operator} computes a scale from every sample anew",
        "scales are constant",
        "quantise statically: is_dynamic=False, and calibrate between prepare_pt2e and convert_pt2e",
    )


RULES: dict[str, Rule] = {
    "quantized_decomposed.quantize_per_tensor": quantise_tensor,
    "quantized_decomposed.dequantize_per_tensor": dequantise_tensor,
    "quantized_decomposed.quantize_per_channel": quantise_channels,
    "quantized_decomposed.dequantize_per_channel": dequantise_channels,
    "quantized_decomposed.fake_quant_per_channel": fake_channels,
    **dict.fromkeys(
        (
            "quantized_decomposed.choose_qparams",
            "quantized_decomposed.choose_qparams_symmetric",
            "quantized_decomposed.choose_qparams_per_token",
            "quantized_decomposed.choose_qparams_per_token_asymmetric",
            "torchao.choose_qparams_affine",
        ),
        refuse_dynamic,
    ),
    "torchao.quantize_affine": quantise_affine,
    "torchao.dequantize_affine": dequantise_affine,
    "aten.fake_quantize_per_tensor_affine": fake_tensor,
    "aten.fake_quantize_per_channel_affine": fake_channels,
    "aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams": fake_tensor,
    "aten.fake_quantize_per_tensor_affine_cachemask": fake_tensor,
    "aten.fake_quantize_per_channel_affine_cachemask": fake_channels,
}
