"""The operations of our float ONNX models (floats.py) as torch functions. Importing this module imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

Attributes: TypeAlias = Mapping[str, Any]  # of an ONNX node: int, float, str or a list of int


def _torch_padding(pads: list[int]) -> list[int]:
    """ONNX's (begin…, end…) as torch's (last begin, last end, …)."""
    n = len(pads) // 2
    return [value for axis in reversed(range(n)) for value in (pads[axis], pads[n + axis])]


def _pad_if_uneven(x: Tensor, attributes: Attributes, value: float = 0.0) -> tuple[Tensor, list[int]]:
    """(x, padding for the operator): where begin and end differ, x is padded here and the operator pads nothing."""
    pads = attributes.get("pads", [0, 0])
    n = len(pads) // 2
    if pads[:n] == pads[n:]:
        return x, pads[:n]
    return functional.pad(x, _torch_padding(pads), value=value), [0] * n


def _conv(attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    x, padding = _pad_if_uneven(x, attributes)
    function = (functional.conv1d, functional.conv2d, functional.conv3d)[weight.dim() - 3]
    return function(x, weight, bias, attributes["strides"], padding, attributes["dilations"], attributes["group"])


def _conv_transpose(attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """All products, rows added at the end for the output padding, the pads cut off, then the bias."""
    n = weight.dim() - 2
    begin, end, extra = attributes["pads"][:n], attributes["pads"][n:], attributes["output_padding"]
    function = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[n - 1]
    y = function(x, weight, None, attributes["strides"], 0, 0, attributes["group"], attributes["dilations"])
    y = functional.pad(y, [value for k in reversed(range(n)) for value in (0, extra[k])])
    for k in range(n):
        y = y.narrow(2 + k, begin[k], y.shape[2 + k] - begin[k] - end[k])
    return y + bias.reshape(-1, *[1] * n)


def _max_pool(attributes: Attributes, x: Tensor) -> Tensor:
    x, padding = _pad_if_uneven(x, attributes, float("-inf"))
    n = len(attributes["kernel_shape"])
    function = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[n - 1]
    dilations = attributes.get("dilations", [1] * n)
    return function(x, attributes["kernel_shape"], attributes["strides"], padding, dilations)


def _average_pool(attributes: Attributes, x: Tensor) -> Tensor:
    x, padding = _pad_if_uneven(x, attributes)
    function = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[
        len(attributes["kernel_shape"]) - 1
    ]
    return function(x, attributes["kernel_shape"], attributes["strides"], padding)


def _depth_to_space(attributes: Attributes, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    b = attributes["blocksize"]
    if attributes["mode"] == "DCR":
        return x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // b**2, h * b, w * b)
    return x.reshape(n, c // b**2, b, b, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, c // b**2, h * b, w * b)


def _take(x: Tensor, axis: int, places: Sequence[int]) -> Tensor:
    return x.index_select(axis, torch.tensor(places, device=x.device))


def _slice(
    attributes: Attributes, x: Tensor, starts: list[int], ends: list[int], axes: list[int], steps: list[int]
) -> Tensor:
    """Backwards too, which torch's own slices do not go."""
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        x = _take(x, axis, range(x.shape[axis])[start:end:step])
    return x


# ONNX operator → function of the node's attributes and its inputs: tensors, and lists for shapes and paddings
OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "Identity": lambda attributes, x: x,
    "Add": lambda attributes, x, y: x + y,
    "Mul": lambda attributes, x, y: x * y,
    "MatMul": lambda attributes, x, y: x @ y,
    "Gemm": lambda attributes, x, weight, bias: torch.addmm(bias, x, weight),
    "Relu": lambda attributes, x: torch.relu(x),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": lambda attributes, x: x.mean(dim=tuple(range(2, x.dim())), keepdim=True),
    "Reshape": lambda attributes, x, shape: x.reshape(x.shape[0], *shape[1:]),
    "Expand": lambda attributes, x, shape: x.expand(x.shape[0], *shape[1:]),
    "Transpose": lambda attributes, x: x.permute(attributes["perm"]),
    "Concat": lambda attributes, *parts: torch.cat(parts, dim=attributes["axis"]),
    "Pad": lambda attributes, x, pads, level: functional.pad(x, _torch_padding(pads), value=float(level)),
    "DepthToSpace": _depth_to_space,
    "Slice": _slice,
    "Gather": lambda attributes, x, places: _take(x, attributes["axis"], places),
}
