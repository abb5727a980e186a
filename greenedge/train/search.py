"""Bit widths layer by layer: the least loss under a budget of bytes, LUTs or joules.

A layer's sensitivity at b bits is how much the loss of the float network rises when that layer alone has weights of b
bits (narrow range, one scale, nearest). Sensitivities are taken to add up (Dong et al., 2019, use the same), and then
the choice is exact: every way to spend the budget that no other way beats is kept while layer after layer is added.

What a layer costs, for w-bit weights and a-bit activations:
    bytes       weights · w / 8
    luts        multiplications a cycle · (7 + 4/3 · w · a): fits what yosys made of ge_mvu's products and adder tree
                (19 LUT4 a multiplication at 3×3 bits, 39 at 3×8). An estimate
    joules      multiplications · (0.2·w·a/64 + 0.1 + 10/64·w) pJ: an 8-bit product, a 32-bit sum and w bits read from
                an 8 KB memory at 45 nm (Horowitz, ISSCC 2014). An estimate of the arithmetic alone
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from greenedge.errors import TargetError
from greenedge.train.fit import predict
from greenedge.train.ledger import layer_macs
from greenedge.train.prune import weight_layers
from greenedge.train.recipe_config import LayerBits, QuantiseSettings, SearchSettings


@dataclass(frozen=True)
class Option:
    """One width of one layer: what it costs in the budget's unit and what loss it adds."""

    bits: int
    cost: float
    loss: float


@dataclass(frozen=True)
class Found:
    """The chosen widths, their cost and loss, and every option they were chosen from."""

    bits: Mapping[str, int]
    cost: float
    loss: float
    options: Mapping[str, tuple[Option, ...]]

    def settings(self, quantise: QuantiseSettings) -> dict[str, LayerBits]:
        """[quantise.layers] with these weight bits in it."""
        activations = {path: layer.act_bits for path, layer in quantise.layers.items()}
        return {
            **quantise.layers,
            **{path: LayerBits(bits, activations.get(path, 0)) for path, bits in self.bits.items()},
        }


def search_bits(
    model, x: np.ndarray, y: np.ndarray, settings: SearchSettings, quantise: QuantiseSettings, loss: Callable
) -> Found:
    """Chooses weight bits for every layer of a trained float network, which is left as it was.

    loss        loss(outputs, x, y) → scalar tensor, on x (N, *shape) and y
    Raises TargetError where no choice keeps the budget.
    """
    options = sensitivities(model, x, y, settings, quantise, loss)
    chosen = cheapest_loss(options, settings.budget)
    if chosen is None:
        least = sum(min(option.cost for option in each) for each in options.values())
        raise TargetError(
            f"[search] budget is {settings.budget:g} {settings.unit}; the network takes at least {least:.4g} with "
            f"{min(settings.widths)}-bit weights: raise the budget or add narrower widths."
        )
    picked = {path: option.bits for path, option in chosen.items()}
    return Found(picked, sum(o.cost for o in chosen.values()), sum(o.loss for o in chosen.values()), options)


def sensitivities(model, x, y, settings: SearchSettings, quantise: QuantiseSettings, loss: Callable) -> dict:
    """{layer: (Option, …)} for every width."""
    import torch

    x, y = x[: settings.samples], y[: settings.samples]

    def value() -> float:
        return float(loss(torch.from_numpy(predict(model, x)), torch.from_numpy(x), torch.from_numpy(y)))

    macs, base, found = layer_macs(model, tuple(x.shape[1:])), value(), {}
    inputs = _input_bits(model, quantise)
    for path in weight_layers(model):
        weight = model.get_submodule(path).weight
        kept = weight.detach().clone()
        options = []
        for bits in sorted(set(settings.widths)):
            with torch.no_grad():
                weight.copy_(rounded(kept, bits))
                options.append(
                    Option(bits, cost(kept.numel(), macs[path], bits, inputs[path], settings), max(0.0, value() - base))
                )
                weight.copy_(kept)
        found[path] = tuple(options)
    return found


def _input_bits(model, quantise: QuantiseSettings) -> dict[str, int]:
    """Bits of each layer's input: the network's own for the first, the activations' for the rest."""
    paths = weight_layers(model)
    return {path: quantise.input_bits if path == paths[0] else quantise.act_bits for path in paths}


def rounded(weight, bits: int):
    """The nearest multiples of max|w| / (2^(bits-1) - 1): narrow range, one scale for the layer."""
    most = 2 ** (bits - 1) - 1
    scale = weight.abs().max().clamp(min=1e-30) / most
    return (weight / scale).round() * scale


def cost(weights: int, macs: int, bits: int, act_bits: int, settings: SearchSettings) -> float:
    """Of a layer, in the budget's unit (see the module's docstring)."""
    if settings.unit == "bytes":
        return weights * bits / 8
    if settings.unit == "luts":
        return math.ceil(macs / settings.cycles) * (7 + 4 / 3 * bits * act_bits)
    return macs * (0.2 * bits * act_bits / 64 + 0.1 + 10 / 64 * bits) * 1e-12


def cheapest_loss(options: Mapping[str, tuple[Option, ...]], budget: float) -> dict[str, Option] | None:
    """The option of each layer with the least sum of losses whose costs keep the budget; None where there is none."""
    front: list[tuple[float, float, dict]] = [(0.0, 0.0, {})]
    for path, each in options.items():
        tried = sorted(
            (
                (c + o.cost, l + o.loss, {**picked, path: o})
                for c, l, picked in front
                for o in each
                if c + o.cost <= budget * (1 + 1e-12)
            ),
            key=lambda item: item[:2],
        )
        front = []
        for item in tried:
            if not front or item[1] < front[-1][1]:
                front.append(item)
    return min(front, key=lambda item: item[1])[2] if front else None
