"""Weights rounded one column after the other, each column's error made good by those still to come.

"GPTQ" (Frantar et al., 2023), on matrices small enough for its plain form: with H = X'X over what a matrix takes in,
and U the upper Cholesky factor of its inverse, column j's error e = (w - q) / U[j, j] is taken from every later column
k as e U[j, k]. Columns go in the order of falling H[j, j].
"""

from __future__ import annotations

import torch
from torch import Tensor

from greenedge.train.decoder.network import MATRICES, QuantisedNetwork

INPUTS = {
    "query": "attention_norm",
    "key": "attention_norm",
    "value": "attention_norm",
    "output": "context",
    "gate": "mlp_norm",
    "up": "mlp_norm",
    "down": "product",
}
_DAMPING = 0.01  # of the mean of H's diagonal: keeps H away from singular


@torch.no_grad()
def compensate_rounding(network: QuantisedNetwork, texts: Tensor) -> None:
    """Puts every weight on a level of its row's scale, which stays; texts (batch, length) are run once."""
    products: dict[tuple[str, int], Tensor] = {}

    def observe(name: str, number: int, x: Tensor) -> None:
        if name in INPUTS.values():
            rows = x.flatten(0, -2).double()
            products[name, number] = rows.T @ rows

    network(texts, observe)
    for name in MATRICES:
        for number in range(network.sizes.layers):
            rounded = round_columns(
                network.weights[name][number].double(),
                network.row_scales[name][number].exp().double(),
                products[INPUTS[name], number],
                network.weight_limit,
            )
            network.weights[name][number] = rounded.float()


def round_columns(weights: Tensor, scales: Tensor, products: Tensor, limit: int) -> Tensor:
    """Weights (rows, columns) with scales (rows, 1) and X'X (columns, columns), all float64: the weights on levels."""
    order = products.diagonal().argsort(descending=True)
    left, hessian = weights[:, order].clone(), products[order][:, order]
    damping = _DAMPING * hessian.diagonal().mean().clamp(min=1e-8)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian + damping * torch.eye(len(order)).double()))
    factor = torch.linalg.cholesky(inverse, upper=True)
    rounded = torch.empty_like(left)
    for column in range(len(order)):
        levels = (left[:, column : column + 1] / scales).round().clamp(-limit, limit)
        rounded[:, column : column + 1] = levels * scales
        error = (left[:, column] - rounded[:, column]) / factor[column, column]
        left[:, column + 1 :] -= error[:, None] * factor[column, column + 1 :]
    result = torch.empty_like(rounded)
    result[:, order] = rounded
    return result
