"""A float decoder from nothing: next-token training on texts, for models small enough for a CPU."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from greenedge.decoder.float_model import FloatDecoder, FloatLayer, Floats, Sizes
from greenedge.progress import ProgressFn, no_progress
from greenedge.train.decoder.float_network import FloatNetwork
from greenedge.train.decoder.resume import Checkpoint, pick_texts

_WARM_UP = 20  # steps
_LARGEST_GRADIENT = 1.0
_BETAS = (0.9, 0.95)


def train_decoder(
    sizes: Sizes,
    texts: Tensor,
    steps: int,
    seed: int = 0,
    batch: int = 16,
    rate: float = 3e-3,
    checkpoint: Path | None = None,
    progress: ProgressFn = no_progress,
) -> FloatDecoder:
    """A model whose head is its embedding, trained with Adam on texts (count, length), `batch` of them a step; the rate
    rises for 20 steps and falls as a cosine. The same arguments give the same bits with the same threads of torch, also
    where a training that was cut off goes on from `checkpoint`. Raises GreenedgeError for a checkpoint of others."""
    network = FloatNetwork(_draw(sizes, torch.Generator().manual_seed(seed)))
    network.head = network.embedding
    tensors = [network.embedding, network.final_norm, *(one for layer in network.layers for one in layer.values())]
    for tensor in tensors:
        tensor.requires_grad_(True)
    optimiser = torch.optim.Adam(tensors, lr=rate, betas=_BETAS)
    key = _make_key(texts, sizes, steps, seed, batch, rate)
    state = Checkpoint(checkpoint, key, steps, {"tensors": nn.ParameterList(tensors), "optimiser": optimiser})
    for step in range(state.resume(), steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1, (step + 1) / _WARM_UP) * (1 + math.cos(math.pi * step / steps)) / 2
        tokens = texts[pick_texts(len(texts), batch, seed, step)]
        logits = network._run(tokens[:, :-1], None, 0)
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tensors, _LARGEST_GRADIENT)
        optimiser.step()
        progress(step + 1, steps, f"step {step + 1} of {steps}, {loss.item() / math.log(2):.3f} bits per token")
        state.keep(step + 1)
    return _freeze(network, sizes)


def _make_key(texts: Tensor, *settings: object) -> str:
    """A digest of everything that the result depends on."""
    return hashlib.sha256(repr((settings, tuple(texts.shape))).encode() + texts.numpy().tobytes()).hexdigest()


def _draw(sizes: Sizes, generator: torch.Generator) -> FloatDecoder:
    """Gains of one; matrices with deviation 1 / sqrt(columns), those that end in the residual smaller."""

    def draw(shape: tuple[int, ...], gain: float = 1.0) -> Floats:
        return (torch.randn(shape, generator=generator) * gain / math.sqrt(shape[-1])).numpy()

    def layer() -> FloatLayer:
        ends = 1 / math.sqrt(2 * sizes.layers)
        shapes = sizes.layer_shapes()
        return FloatLayer(
            **{
                name: torch.ones(shape).numpy() if len(shape) == 1 else draw(shape, ends if name in _ENDS else 1.0)
                for name, shape in shapes.items()
            }
        )

    embedding = draw((sizes.vocabulary, sizes.dim))
    layers = tuple(layer() for _ in range(sizes.layers))
    return FloatDecoder(sizes, embedding, layers, torch.ones(sizes.dim).numpy(), embedding)


_ENDS = ("output", "down")


def _freeze(network: FloatNetwork, sizes: Sizes) -> FloatDecoder:
    embedding = network.embedding.detach().numpy()
    layers = tuple(
        FloatLayer(**{name: one.detach().numpy() for name, one in layer.items()}) for layer in network.layers
    )
    model = FloatDecoder(sizes, embedding, layers, network.final_norm.detach().numpy(), embedding)
    model.check("the trained model")
    return model
