"""Scales from what a network sees: for every quantiser the one with the least square error on texts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from greenedge.train.decoder.network import LEVELS, MATRICES, QuantisedNetwork

_VALUES = 1 << 17  # of each activation that are looked at
_SHARES = 41  # candidates for a scale, from 0.2 to 1 of what holds the largest value
_MOST_RESIDUAL_SHIFT = 8
_SHIFT_TEXTS = 4  # that the shift of the residual is chosen on


@torch.no_grad()
def calibrate(network: QuantisedNetwork, texts: Tensor) -> None:
    """Sets every scale, the shifts of the logits and of the residual; texts (batch, length) are run once."""
    limit = network.weight_limit
    for name in MATRICES:
        network.row_scales[name].copy_(fit_scales(network.weights[name], limit).log())
    for scale, table in ((network.embedding_scale, network.embedding), (network.head_scale, network.head)):
        scale.copy_(fit_scales(table.reshape(1, -1), LEVELS).log().reshape(()))
    seen: dict[str, dict[int, Tensor]] = {}
    network(texts, lambda name, number, x: seen.setdefault(name, {}).__setitem__(number, _thin(x)))
    for name, layers in seen.items():
        if name == "final":
            network.final_scale.copy_(_fit(layers[0]))
        elif name in network.scales:
            for number, values in layers.items():
                network.scales[name][number] = _fit(values)
    for number, values in seen["query"].items():
        _share_logit_scale(network, number, float(_fit(values)))
    network.residual_shift.fill_(_choose_residual_shift(network, texts))


def _choose_residual_shift(network: QuantisedNetwork, texts: Tensor) -> int:
    """The shift whose logits are nearest to the unquantised ones: a small one caps the gain of a norm (ROOT_LIMIT), a
    large one saturates the residual."""
    texts = texts[:_SHIFT_TEXTS]
    wanted = network(texts, lambda name, number, x: None).log_softmax(-1)
    losses = []
    for shift in range(_MOST_RESIDUAL_SHIFT + 1):
        network.residual_shift.fill_(shift)
        found = network(texts).log_softmax(-1)
        losses.append(float((wanted.exp() * (wanted - found)).sum(-1).mean()))
    return losses.index(min(losses))


def fit_scales(rows: Tensor, limit: int) -> Tensor:
    """(..., columns) → (..., 1): of candidates below max |x| / limit, the scale with the least square error."""
    largest = rows.abs().amax(-1, keepdim=True).clamp(min=1e-8) / limit
    best, least = largest, torch.full_like(largest, math.inf)
    for share in torch.linspace(0.2, 1.0, _SHARES).tolist():
        scale = largest * share
        error = ((rows / scale).round().clamp(-limit, limit) * scale - rows).pow(2).sum(-1, keepdim=True)
        best = torch.where(error < least, scale, best)
        least = torch.minimum(error, least)
    return best


def _fit(values: Tensor) -> Tensor:
    return fit_scales(values.reshape(1, -1), LEVELS).log().reshape(())


def _thin(x: Tensor) -> Tensor:
    """Values drawn from all of x: a stride would take some channels alone."""
    flat = x.detach().flatten()
    return flat[torch.randint(flat.numel(), (_VALUES,), generator=torch.Generator().manual_seed(0))]


def _share_logit_scale(network: QuantisedNetwork, number: int, query: float) -> None:
    """Takes the nearest power of two for query * key, and moves both scales by the same share."""
    unit = math.sqrt(network.sizes.head_dim) / 16
    product = query + float(network.scales["key"][number])
    shift = min(max(round((math.log(unit) - product) / math.log(2)), 1), 15)
    network.logit_shifts[number] = shift
    network.scales["key"][number] += (math.log(unit) - shift * math.log(2) - product) / 2
