"""Types of networks, losses and teachers, and the layers that have weights. Importing it does not import torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, TypedDict, TypeGuard

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import nn

Layer: TypeAlias = "nn.Linear | nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d"
BatchNorm: TypeAlias = "nn.BatchNorm1d | nn.BatchNorm2d"
Loss: TypeAlias = "Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]"  # (outputs, x, y) → scalar
Augment: TypeAlias = "Callable[[torch.Tensor, torch.Generator], torch.Tensor]"  # (x, generator) → x
SampleOrder: TypeAlias = "Callable[[int, int, torch.Generator], torch.Tensor]"  # (epoch, samples, generator) → indices
Features: TypeAlias = dict[str, np.ndarray]  # outputs of layers, by the layer's name: (N, …)
Teacher: TypeAlias = Callable[[np.ndarray], "np.ndarray | tuple[np.ndarray, Features]"]  # x → logits (, features)


class ModelState(TypedDict):
    """Parameters and buffers by dotted name, and the counters of collecting quantisers by module path."""

    tensors: dict[str, torch.Tensor]
    counters: dict[str, int]


def is_layer(module: object) -> TypeGuard[Layer]:
    """Whether a module is a dense or convolutional layer, quantised or not."""
    from torch import nn

    return isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d))


def is_batch_norm(module: object) -> TypeGuard[BatchNorm]:
    """Whether a module is a batch norm over one or two dimensions."""
    from torch import nn

    return isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))


def has_swapped_weight(module: object) -> bool:
    """Whether a layer's weight has its inputs on axis 0 and its outputs on axis 1: a transposed convolution."""
    from torch import nn

    return isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d))


def weight_layers(model: nn.Module) -> dict[str, Layer]:
    """The dense and convolutional layers by module path, quantised or not, in the order of the network."""
    return {path: module for path, module in model.named_modules() if is_layer(module)}


def values_of(output: torch.Tensor) -> torch.Tensor:
    """The tensor in a layer's output, which Brevitas wraps in a QuantTensor where return_quant_tensor is set."""
    return getattr(output, "value", output)
