"""A trained float network with quantisers, by a few samples alone: Brevitas' post-training methods, in their order.

    equalise    factors move between channels of neighbouring layers (Nagel et al., 2019), if that lowers the error
    place       quantisers where integers need them (quantise.py), a bias on the accumulator's grid in every layer
    calibrate   scales of activations from the samples
    round       weights of fewer than 8 bits one column after another, each making up for those before it (GPTQ,
                Frantar et al., 2023)
    correct     biases by the mean error of each channel (Nagel et al., 2019)

`fine_tune` then trains what came of it to answer as the float network does: no labels are needed.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from greenedge._warnings import quiet
from greenedge.errors import GreenedgeError
from greenedge.progress import ProgressFn, no_progress
from greenedge.train.calibrate import calibrate
from greenedge.train.distil import Distillation, mix_inputs, torch_teacher
from greenedge.train.fit import FitOptions, fit, predict, seed_torch
from greenedge.train.layers import is_batch_norm, weight_layers
from greenedge.train.quantise import quantise
from greenedge.train.recipe_config import DistilSettings, QuantiseSettings, TrainSettings

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

_BATCH = 64
_EQUALISED = 20  # iterations
_CHOSEN_BY = 256  # samples on which the error of a variant is measured
_ROUNDED = 512  # samples from which weights are rounded


def quantise_trained(
    network: fx.GraphModule, x: np.ndarray, settings: QuantiseSettings, progress: ProgressFn = no_progress
) -> fx.GraphModule:
    """The network (eval mode, torch.nn layers; left as it is) with quantisers, in eval mode.

    x           float32 (N, *shape), N ≥ 1, as the network is used
    Raises UnsupportedError with every node that has no quantised form, GreenedgeError where the network gives no finite
    numbers.
    """
    variants = [_place(network, x, settings, is_equalised, progress) for is_equalised in (False, True)]
    wanted = predict(network, x[:_CHOSEN_BY])
    model = min(variants, key=lambda variant: output_error(predict(variant, x[:_CHOSEN_BY]), wanted))
    with quiet():
        _round_weights(model, x[:_ROUNDED], progress)
        _correct_biases(model, x, progress)
    return model.eval()


def output_error(got: np.ndarray, wanted: np.ndarray) -> float:
    """The squared error of outputs, as a share of their variance: 0 is equal, 1 is no better than their mean."""
    spread = float(((wanted - wanted.mean(axis=0)) ** 2).mean())
    error = float(((got - wanted) ** 2).mean())
    return error / spread if spread else error


def _place(
    network: fx.GraphModule, x: np.ndarray, settings: QuantiseSettings, is_equalised: bool, progress: ProgressFn
) -> fx.GraphModule:
    """A copy of the network with calibrated quantisers, its weights equalised before."""
    plain = copy.deepcopy(network)
    with quiet():
        if is_equalised:
            from brevitas.graph.equalize import EqualizeGraph

            plain = EqualizeGraph(iterations=_EQUALISED).apply(plain)
    _give_biases(plain)
    ranges = observe_ranges(plain, x)
    inputs = {name: _choose_input(low, high, settings) for name, (low, high) in ranges.items()}
    progress(0, 0, "calibration")
    return calibrate(quantise(plain, settings, "the model", inputs, before_curves=True), x)


def _give_biases(network: fx.GraphModule) -> None:
    """A bias of zeros for every layer without one, in place: what is corrected is the bias."""
    import torch

    for layer in weight_layers(network).values():
        if layer.bias is None:
            size = layer.out_features if isinstance(layer, torch.nn.Linear) else layer.out_channels
            layer.bias = torch.nn.Parameter(torch.zeros(size))


def observe_ranges(network: fx.GraphModule, x: np.ndarray) -> dict[str, tuple[float, float]]:
    """{argument of forward: (least, largest value)} behind the batch norms that directly follow it."""
    import torch
    from torch import fx

    modules = dict(network.named_modules())
    ends: dict[str, str] = {}
    for node in network.graph.nodes:
        if node.op == "placeholder":
            end = node
            while len(end.users) == 1 and is_batch_norm(modules.get(str(next(iter(end.users)).target))):
                end = next(iter(end.users))
            ends[end.name] = node.name
    found: dict[str, tuple[float, float]] = {}

    class Watch(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if n.name in ends:
                low, high = found.get(ends[n.name], (0.0, 0.0))
                found[ends[n.name]] = min(low, float(value.min())), max(high, float(value.max()))
            return value

    with torch.no_grad():
        for part in torch.from_numpy(np.ascontiguousarray(x)).split(_BATCH):
            outputs = Watch(network).run(part)
            for each in outputs if isinstance(outputs, tuple) else (outputs,):
                if not torch.isfinite(each).all():
                    raise GreenedgeError(
                        "the float model gives NaN or infinity on the calibration samples; give samples of the kind "
                        "that it was trained on."
                    )
    return found


def _choose_input(low: float, high: float, settings: QuantiseSettings) -> QuantiseSettings:
    """Settings of an input's quantiser whose levels hold the range: unsigned where it has no negative values."""
    levels = 2 ** (settings.input_bits - (low < 0)) - 1
    scale = max(-low, high) / levels or 1.0
    return replace(settings, input_signed=low < 0, input_scale=scale)


def _round_weights(model: fx.GraphModule, x: np.ndarray, progress: ProgressFn) -> None:
    """GPTQ over the whole network, in place, where a layer has weights of fewer than 8 bits."""
    import torch
    from brevitas.graph.gptq import gptq_mode

    layers: dict[str, Any] = dict(weight_layers(model))
    bits = [int(layer.weight_quant.bit_width()) for layer in layers.values()]
    if not bits or min(bits) >= 8:
        return
    parts = torch.from_numpy(np.ascontiguousarray(x)).split(_BATCH)
    with torch.no_grad(), gptq_mode(model, use_quant_activations=True, act_order=True) as mode:
        for number in range(mode.num_layers):
            for part in parts:
                mode.model(part)
            mode.update()
            progress(number + 1, mode.num_layers, "layers, rounding of weights")


def _correct_biases(model: fx.GraphModule, x: np.ndarray, progress: ProgressFn) -> None:
    """Brevitas' bias correction, in place."""
    import torch
    from brevitas.graph.calibrate import bias_correction_mode

    parts = [part for part in torch.from_numpy(np.ascontiguousarray(x)).split(_BATCH) if len(part) > 1]
    if not parts:
        return
    # enabled=False leaves quantisers at layers' outputs on, of which there are none here; with True Brevitas takes the
    # network's own module `output_quant` for one
    with torch.no_grad(), bias_correction_mode(model, enabled=False, skip_if_no_bias=True):
        for number, part in enumerate(parts):
            model(part)
            progress(number + 1, len(parts), "batches, correction of biases")


def fine_tune(
    model: fx.GraphModule,
    network: nn.Module,
    x: np.ndarray,
    epochs: int,
    progress: ProgressFn = no_progress,
) -> fx.GraphModule:
    """Trains a network with quantisers, in place, to answer as the float `network` does on x (N, *shape) and on
    mixtures of two of them; returns it, in eval mode."""
    import torch

    settings = TrainSettings(epochs=epochs, batch=_BATCH, optimiser="adam", learning_rate=1e-3, schedule="cosine")
    wanted = predict(network, x)
    options = FitOptions(loss=_imitation(wanted))
    if is_scores(wanted):
        teacher = DistilSettings(share=1.0, temperature=2.0, mix=True)
        options = FitOptions(
            loss=lambda outputs, _x, _y: outputs.sum() * 0.0,
            augment=mix_inputs(None),
            teach=Distillation(model, torch_teacher(network), teacher),
        )
    with quiet(), seed_torch(settings.seed, torch.get_num_threads()):
        fit(model, x, wanted, settings, options, progress)
    return model


def is_scores(outputs: np.ndarray) -> bool:
    """Whether outputs (N, …) are the scores of classes."""
    return outputs.ndim == 2 and outputs.shape[1] > 1


def _imitation(wanted: np.ndarray) -> Any:
    """The squared distance from a float network's outputs, as a share of their variance."""
    spread = float(wanted.var()) or 1.0

    def loss(outputs: torch.Tensor, _x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return ((outputs - y) ** 2).mean() / spread

    return loss
