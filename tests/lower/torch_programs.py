"""Programs of torch.export made at test time: one-operator networks, and networks with the quantisers of PT2E."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.ao.quantization.fx import _decomposed  # noqa: F401  its import registers torch.ops.quantized_decomposed

ops = torch.ops.quantized_decomposed


class Call(nn.Module):
    """A function as a module; modules that it uses are its parts."""

    def __init__(self, forward: Callable[..., Any], *parts: nn.Module) -> None:
        super().__init__()
        self.parts, self.function = nn.ModuleList(parts), forward

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x, *self.parts)


def quantise(x: torch.Tensor, scale: float, zero: int = 0, low: int = -128, high: int = 127) -> torch.Tensor:
    """An activation through a pair of quantize_per_tensor and dequantize_per_tensor, of int8 or uint8."""
    kind = torch.int8 if low < 0 else torch.uint8
    levels = ops.quantize_per_tensor(x, scale, zero, low, high, kind)
    return ops.dequantize_per_tensor(levels, scale, zero, low, high, kind)


class Weights(nn.Module):
    """int8 weights with a scale for every output channel, as convert_pt2e folds them."""

    def __init__(self, shape: tuple[int, ...], rng: np.random.Generator, axis: int = 0) -> None:
        super().__init__()
        self.axis = axis
        self.register_buffer("levels", torch.from_numpy(rng.integers(-127, 128, shape).astype(np.int8)))
        self.register_buffer("scales", torch.from_numpy(rng.uniform(0.002, 0.01, shape[axis]).astype(np.float32)))
        self.register_buffer("zeros", torch.zeros(shape[axis], dtype=torch.int64))

    def forward(self) -> torch.Tensor:
        return ops.dequantize_per_channel(self.levels, self.scales, self.zeros, self.axis, -127, 127, torch.int8)


class Quantised(nn.Module):
    """Two convolutions with a skip, a pool and a dense layer, between quantisers of int8; all scales are odd numbers,
    so that no sum lies half way between two levels."""

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__()
        self.first, self.second, self.last = (Weights(shape, rng) for shape in ((6, 3, 3, 3), (6, 1, 3, 3), (4, 96)))
        self.bias = nn.Parameter(torch.from_numpy(rng.normal(size=6).astype(np.float32)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = quantise(x, 0.0231, 3)
        x = quantise(F.relu(F.conv2d(x, self.first(), self.bias, padding=1)), 0.0117, -128)
        y = quantise(F.hardtanh(F.conv2d(x, self.second(), padding=1, groups=6), 0.0, 6.0), 0.0073, -128)
        x = quantise(F.max_pool2d(x + y, 2), 0.0143, -128)
        return quantise(F.linear(torch.flatten(x, 1), self.last()), 0.0371, -5)


def save(module: nn.Module, shape: tuple[int, ...], path: Path, is_open: bool = False, is_core: bool = False) -> Path:
    """The module's program in a file; `is_open`: with an open batch, `is_core`: after its decompositions."""
    dynamic = ({0: torch.export.Dim.DYNAMIC},) if is_open else None
    batch = torch.zeros(2 if is_open else 1, *shape)
    program = torch.export.export(module.eval(), (batch,), dynamic_shapes=dynamic)
    torch.export.save(program.run_decompositions() if is_core else program, path)
    return path
