"""A network with quantisers as a decoder of integers: every scale ends in a multiplier, a shift or a constant."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from greenedge.decoder.float_model import rotation_angles
from greenedge.decoder.record import MULTIPLIER_BITS, Decoder, Layer, Projection
from greenedge.errors import GreenedgeError
from greenedge.train.decoder.network import LEVELS, QuantisedNetwork

EXPONENTIAL: NDArray[np.uint8] = np.round(255 * np.exp(-np.arange(256) / 16)).astype(np.uint8)
_ROTATED_STEPS = 16  # a query is requantised to 1/16 of its level before it is turned
_ACTIVATION_STEPS = 4  # of a gate's table, in levels
_LEAST_SHIFT, _LEAST_RESIDUAL_SHIFT, _MOST_SHIFT = 16, 12, 24
_GOOD_MULTIPLIER = 1 << 10  # below it, rounding of a multiplier is coarser than 0.05 %
_MOST_MULTIPLIER = (1 << (MULTIPLIER_BITS - 1)) - 1
Reals = NDArray[np.float64]


@torch.no_grad()
def export_decoder(network: QuantisedNetwork) -> Decoder:
    """The integers. Raises GreenedgeError where a scale needs a number beyond the record's bounds."""
    sizes = network.sizes
    residual = float(network.embedding_scale.exp()) / 2.0 ** int(network.residual_shift)
    angles = rotation_angles(sizes, network.rotation_base)
    final, head = float(network.final_scale.exp()), float(network.head_scale.exp())
    decoder = Decoder(
        heads=sizes.heads,
        kv_heads=sizes.kv_heads,
        weight_bits=network.weight_bits,
        norm_form=network.norm_form,
        residual_shift=int(network.residual_shift),
        embedding=_round_levels(_to_numpy(network.embedding) / float(network.embedding_scale.exp()), LEVELS),
        layers=tuple(_export_layer(network, number, residual) for number in range(sizes.layers)),
        final_norm=_norm_constant(sizes.dim, final),
        head=_round_levels(_to_numpy(network.head) / head, LEVELS),
        cosine=np.round(np.cos(angles) * 2**14).astype(np.int16),
        sine=np.round(np.sin(angles) * 2**14).astype(np.int16),
        exponential=EXPONENTIAL,
        temperature_unit=max(1, round(final * head * 16 * 2**16)),
    )
    decoder.check("the quantised decoder")
    return decoder


def _export_layer(network: QuantisedNetwork, number: int, residual: float) -> Layer:
    s = {name: float(scale[number].exp()) for name, scale in network.scales.items()}
    s["query"] = float(network.query_scale(number).exp())
    h, m = s["attention_norm"], s["mlp_norm"]

    def project(name: str, scale_in: float, scale_out: float, least: int = _LEAST_SHIFT) -> Projection:
        # float32, as the network divides: in float64 other weights would be at the border between two levels
        rows = network.row_scales[name][number].exp()
        levels = _to_numpy((network.weights[name][number] / rows).round())
        ratios = _to_numpy(rows)[:, 0] * scale_in / scale_out
        shift = _choose_shift(ratios, least)
        multipliers = np.rint(ratios * 2.0**shift).clip(-_MOST_MULTIPLIER, _MOST_MULTIPLIER).astype(np.int32)
        return Projection(_round_levels(levels, network.weight_limit), multipliers, shift)

    gates = np.arange(-LEVELS, LEVELS + 1) * s["gate"]
    activation = np.round(_ACTIVATION_STEPS * gates / (1 + np.exp(-gates)) / s["gate"])
    return Layer(
        attention_norm=_norm_constant(network.sizes.dim, h),
        query=project("query", h, s["query"] / _ROTATED_STEPS),
        key=project("key", h, s["key"] / _ROTATED_STEPS),
        value=project("value", h, s["value"]),
        logit_shift=int(network.logit_shifts[number]),
        context_numerator=round(s["value"] / s["context"] * 2**28),
        output=project("output", s["context"], residual, _LEAST_RESIDUAL_SHIFT),
        mlp_norm=_norm_constant(network.sizes.dim, m),
        gate=project("gate", m, s["gate"]),
        up=project("up", m, s["up"]),
        activation=activation.astype(np.int16),
        product_multiplier=round(s["gate"] / _ACTIVATION_STEPS * s["up"] / s["product"] * 2**16),
        down=project("down", s["product"], residual, _LEAST_RESIDUAL_SHIFT),
    )


def _choose_shift(ratios: Reals, least: int) -> int:
    """`least`; more where the multipliers would be coarse, less where the largest would not fit."""
    shift, largest = least, float(np.abs(ratios).max())
    while shift < _MOST_SHIFT and largest * 2.0**shift < _GOOD_MULTIPLIER:
        shift += 1
    while largest * 2.0**shift > _MOST_MULTIPLIER:
        shift -= 1
    if shift < 1:
        raise GreenedgeError(
            f"a matrix would be multiplied by {largest:.3g}; at most {_MOST_MULTIPLIER / 2:.3g} is possible: its "
            "activations are too small, calibrate with more text."
        )
    return shift


def _norm_constant(dim: int, scale: float) -> int:
    """C with sqrt(C / sum x^2) / 2^20 = 1 / (rms(x) * scale)."""
    return round(dim / scale**2 * 2.0**40)


def _round_levels(values: Reals, limit: int) -> NDArray[np.int8]:
    return np.rint(values).clip(-limit, limit).astype(np.int8)


def _to_numpy(tensor: torch.Tensor) -> Reals:
    return tensor.detach().double().numpy()
