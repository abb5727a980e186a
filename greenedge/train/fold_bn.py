"""Batch norms folded into quantised weights, with biases on the accumulators' grid: what edge certificates ask for.

w'ᵢ = wᵢ·γᵢ/σᵢ and b'ᵢ = βᵢ - μᵢ·γᵢ/σᵢ. With a scale for each channel the weights' integers stay what they are (their
sign turns where γ is negative); Int32Bias rounds b' to a multiple of input scale × weight scale.
"""

from __future__ import annotations

from greenedge._warnings import quiet
from greenedge.train.quantise import pass_scale, quantised_layer
from greenedge.train.recipe_config import QuantiseSettings


def fold_batch_norms(graph, settings: QuantiseSettings):
    """Folds every batch norm that follows a layer alone, in place, in a network that `quantise` made; returns it."""
    from torch import nn

    modules = dict(graph.named_modules())
    for node in list(graph.graph.nodes):
        norm = modules.get(node.target) if node.op == "call_module" else None
        source = node.args[0] if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)) else None
        layer = modules.get(source.target) if source is not None and source.op == "call_module" else None
        if not hasattr(layer, "weight_quant") or len(source.users) > 1:
            continue
        with quiet():
            graph.add_submodule(source.target, _folded(layer, norm, settings))
        pass_scale(modules, source.args[0])
        node.replace_all_uses_with(source)
        graph.graph.erase_node(node)
    graph.delete_all_unused_submodules()
    graph.graph.lint()
    graph.recompile()
    return graph


def _folded(layer, norm, settings: QuantiseSettings):
    """The layer with the batch norm's factor in its weights and the rest as its bias."""
    import torch

    with torch.no_grad():
        factor = (norm.running_var + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight)
        offset = 0 if norm.bias is None else norm.bias
        bias = offset + factor * ((0 if layer.bias is None else layer.bias) - norm.running_mean)
        axis = 1 if getattr(layer, "transposed", False) else 0
        weight = layer.weight * factor.view([-1 if k == axis else 1 for k in range(layer.weight.dim())])
        plain = _plain(layer)
        plain.weight.copy_(weight)
        plain.bias.copy_(bias)
    return quantised_layer(plain, int(layer.weight_quant.bit_width()), settings)


def _plain(layer):
    """A torch.nn layer of the same geometry, with a bias."""
    from torch import nn

    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, layer.out_features)
    kind = next(
        kind for kind in (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Conv1d, nn.Conv2d) if isinstance(layer, kind)
    )
    geometry = {key: getattr(layer, key) for key in ("stride", "padding", "dilation", "groups")}
    if layer.transposed:
        geometry["output_padding"] = layer.output_padding
    return kind(layer.in_channels, layer.out_channels, layer.kernel_size, **geometry)
