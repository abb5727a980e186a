"""Folds batch norms into quantised weights, with biases on the accumulators' grid, as the proofs of 8-bit files need.

w'ᵢ = wᵢ·γᵢ/σᵢ and b'ᵢ = βᵢ - μᵢ·γᵢ/σᵢ. With a scale for each channel the weights' integers do not change, but for
their sign where γ is negative; Int32Bias rounds b' to a multiple of input scale × weight scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from greenedge._warnings import quiet
from greenedge.train.layers import BatchNorm, Layer, has_swapped_weight, is_batch_norm
from greenedge.train.quantise import geometry_of, pass_scale, quantise_layer
from greenedge.train.recipe_config import QuantiseSettings

if TYPE_CHECKING:
    from torch import fx, nn


def fold_batch_norms(model: fx.GraphModule, settings: QuantiseSettings) -> fx.GraphModule:
    """Folds every batch norm that alone reads a layer, in place, in a network that `quantise` made; returns it."""
    modules: dict[str, Any] = dict(model.named_modules())
    for node in list(model.graph.nodes):
        norm = modules.get(node.target) if node.op == "call_module" else None
        if not is_batch_norm(norm):
            continue
        source = node.args[0]
        layer = modules.get(source.target) if source.op == "call_module" else None
        if not hasattr(layer, "weight_quant") or len(source.users) > 1:  # Brevitas' layers have no common class
            continue
        with quiet():
            model.add_submodule(source.target, _fold_layer(layer, norm, settings))
        pass_scale(modules, source.args[0])
        node.replace_all_uses_with(source)
        model.graph.erase_node(node)
    model.delete_all_unused_submodules()
    model.graph.lint()
    model.recompile()
    return model


def _fold_layer(layer: Any, norm: BatchNorm, settings: QuantiseSettings) -> nn.Module:
    """The Brevitas layer with the batch norm's factor in its weights and its offset in the bias."""
    import torch

    assert norm.running_var is not None and norm.running_mean is not None
    with torch.no_grad():
        factor = (norm.running_var + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight)
        offset = 0 if norm.bias is None else norm.bias
        bias = offset + factor * ((0 if layer.bias is None else layer.bias) - norm.running_mean)
        axis = 1 if has_swapped_weight(layer) else 0
        weight = layer.weight * factor.view([-1 if k == axis else 1 for k in range(layer.weight.dim())])
        plain = _make_float_layer(layer)
        plain.weight.copy_(weight)
        assert plain.bias is not None
        plain.bias.copy_(bias)
    return quantise_layer(plain, int(layer.weight_quant.bit_width()), settings)


def _make_float_layer(layer: Layer) -> Layer:
    """A torch.nn layer of the same geometry, with a bias."""
    from torch import nn

    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, layer.out_features)
    for kind in (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Conv1d, nn.Conv2d):
        if isinstance(layer, kind):
            return kind(layer.in_channels, layer.out_channels, **geometry_of(layer))
    raise AssertionError(f"{type(layer).__name__} is no layer that quantise makes")
