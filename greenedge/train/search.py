"""Weight bits layer by layer: the least loss under a budget of bytes, LUTs or joules.

A layer's sensitivity at b bits is how much the loss of the float network rises when that layer alone has weights of b
bits (narrow range, one scale, nearest). Sensitivities are assumed to add up (as in Dong et al., 2019). Under that
assumption the choice is exact: layer by layer, every Pareto-optimal pair of cost and loss is kept.

What a layer costs, for w-bit weights and a-bit activations:
    bytes       weights · w / 8
    luts        multiplications a cycle · (7 + 4/3 · w · a): fitted to yosys' results for ge_mvu's products and adder
                tree (19 LUT4 a multiplication at 3×3 bits, 39 at 3×8). An estimate
    joules      multiplications · (0.2·w·a/64 + 0.1 + 10/64·w) pJ: an 8-bit product, a 32-bit sum and w bits read from
                an 8 KB memory at 45 nm (Horowitz, ISSCC 2014). An estimate of the arithmetic alone
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from greenedge.errors import TargetError
from greenedge.train.fit import predict
from greenedge.train.layers import Loss, has_swapped_weight, weight_layers
from greenedge.train.ledger import layer_macs
from greenedge.train.recipe_config import QuantiseSettings, SearchSettings

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Option:
    """One bit width of one layer: its cost in the budget's unit and the loss it adds."""

    bits: int
    cost: float
    loss: float


@dataclass(frozen=True)
class BitChoice:
    """The chosen weight bits by layer, their cost and loss, and every option they were chosen from."""

    bits: Mapping[str, int]
    cost: float
    loss: float
    options: Mapping[str, tuple[Option, ...]]


def search_bits(
    model: nn.Module,
    x: np.ndarray,
    y: np.ndarray,
    settings: SearchSettings,
    quantise: QuantiseSettings,
    loss: Loss,
) -> BitChoice:
    """Chooses weight bits for every layer of a trained float network, which is left as it was.

    x, y        samples (N, *shape) and their labels or targets; the first settings.samples are used
    loss        loss(outputs, x, y) → scalar tensor
    Raises TargetError where no choice keeps the budget.
    """
    options = measure_sensitivities(model, x, y, settings, quantise, loss)
    chosen = cheapest_loss(options, settings.budget)
    if chosen is None:
        least = sum(min(option.cost for option in each) for each in options.values())
        raise TargetError(
            f"[search] budget is {settings.budget:g} {settings.unit}; the network takes at least {least:.4g} with "
            f"{min(settings.widths)}-bit weights: raise the budget or add narrower widths."
        )
    picked = {path: option.bits for path, option in chosen.items()}
    return BitChoice(picked, sum(o.cost for o in chosen.values()), sum(o.loss for o in chosen.values()), options)


def measure_sensitivities(
    model: nn.Module,
    x: np.ndarray,
    y: np.ndarray,
    settings: SearchSettings,
    quantise: QuantiseSettings,
    loss: Loss,
) -> dict[str, tuple[Option, ...]]:
    """An Option for every width of every layer, by module path."""
    import torch

    x, y = x[: settings.samples], y[: settings.samples]

    def compute_loss() -> float:
        return float(loss(torch.from_numpy(predict(model, x)), torch.from_numpy(x), torch.from_numpy(y)))

    macs, base = layer_macs(model, tuple(x.shape[1:])), compute_loss()
    inputs = _input_bits(model, quantise)
    sensitivities: dict[str, tuple[Option, ...]] = {}
    for path, layer in weight_layers(model).items():
        original = layer.weight.detach().clone()
        axis = (1 if has_swapped_weight(layer) else 0) if quantise.per_channel else None
        options = []
        for bits in sorted(set(settings.widths)):
            with torch.no_grad():
                layer.weight.copy_(round_weights(original, bits, axis))
                cost = layer_cost(original.numel(), macs[path], bits, inputs[path], settings)
                options.append(Option(bits, cost, max(0.0, compute_loss() - base)))
                layer.weight.copy_(original)
        sensitivities[path] = tuple(options)
    return sensitivities


def _input_bits(model: nn.Module, quantise: QuantiseSettings) -> dict[str, int]:
    """Bits of each layer's input: the network's own for the first, the activations' for the rest."""
    paths = list(weight_layers(model))
    return {path: quantise.input_bits if path == paths[0] else quantise.act_bits for path in paths}


def round_weights(weight: torch.Tensor, bits: int, axis: int | None = None) -> torch.Tensor:
    """The nearest multiples of max|w| / (2^(bits-1) - 1): narrow range, one scale for the layer or for each channel
    along `axis`."""
    most = 2 ** (bits - 1) - 1
    others = [k for k in range(weight.dim()) if k != axis]
    scale = weight.abs().amax(dim=others, keepdim=True).clamp(min=1e-30) / most
    return (weight / scale).round() * scale


def layer_cost(weights: int, macs: int, bits: int, act_bits: int, settings: SearchSettings) -> float:
    """The cost of a layer in the budget's unit, by the formulas in the module's docstring."""
    if settings.unit == "bytes":
        return weights * bits / 8
    if settings.unit == "luts":
        return math.ceil(macs / settings.cycles) * (7 + 4 / 3 * bits * act_bits)
    return macs * (0.2 * bits * act_bits / 64 + 0.1 + 10 / 64 * bits) * 1e-12


def cheapest_loss(options: Mapping[str, tuple[Option, ...]], budget: float) -> dict[str, Option] | None:
    """The option of each layer with the least sum of losses within the budget; None where none is within it."""
    front: list[tuple[float, float, dict[str, Option]]] = [(0.0, 0.0, {})]  # (cost, loss, options), Pareto-optimal
    for path, each in options.items():
        extensions = [
            (cost + option.cost, loss + option.loss, {**picked, path: option})
            for cost, loss, picked in front
            for option in each
            if cost + option.cost <= budget * (1 + 1e-12)
        ]
        front = []
        for item in sorted(extensions, key=lambda item: item[:2]):
            if not front or item[1] < front[-1][1]:
                front.append(item)
    return min(front, key=lambda item: item[1])[2] if front else None
