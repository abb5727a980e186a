"""What training makes of a recipe's network besides its weights, and the trained network rebuilt from model.pt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from greenedge.errors import GreenedgeError
from greenedge.train.channels import find_channels, shrink
from greenedge.train.checkpoint import load_state, set_model_state
from greenedge.train.fit import seed_torch
from greenedge.train.fold_bn import fold_batch_norms
from greenedge.train.quantise import quantise
from greenedge.train.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class NetworkForm:
    """How the trained network differs in form from the recipe's: all that is needed to build it again.

    shape   of a sample, without the batch axis
    stays   (count,) of channels.Channels: False where a label was removed; None where none was
    bits    weight bits by layer that [search] chose, or None
    folded  whether the batch norms are folded into the weights
    """

    shape: tuple[int, ...] = ()
    stays: np.ndarray | None = None
    bits: dict[str, int] | None = None
    folded: bool = False

    def state(self) -> dict[str, Any]:
        """Plain values and tensors, for model.pt."""
        import torch

        stays = None if self.stays is None else torch.from_numpy(self.stays.copy())
        return {"shape": list(self.shape), "stays": stays, "bits": self.bits, "folded": self.folded}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> NetworkForm:
        """The form that `state` was called on."""
        stays = None if state["stays"] is None else state["stays"].numpy().astype(bool)
        return cls(tuple(state["shape"]), stays, state["bits"], state["folded"])


def make_float_network(recipe: Recipe, form: NetworkForm) -> nn.Module:
    """The recipe's network before quantisation, without the channels that were pruned.

    Raises GreenedgeError where the recipe's network has another number of channels than the form.
    """
    model = recipe.make_model()
    if form.stays is None:
        return model
    channels = find_channels(model, form.shape)
    if form.stays.shape != (channels.count,):
        raise GreenedgeError(
            f"the pruned network had {form.stays.size} channels and {recipe.name}'s has {channels.count}; train "
            "again, the recipe has changed since."
        )
    return shrink(model, channels, form.stays)


def _build_network(recipe: Recipe, form: NetworkForm) -> nn.Module:
    """The recipe's network in this form."""
    model, settings = make_float_network(recipe, form), recipe.options.quantise
    if settings is None:
        return model
    if form.bits:
        settings = settings.with_weight_bits(form.bits)
    quantised = quantise(model, settings, recipe.name)
    return fold_batch_norms(quantised, settings) if form.folded else quantised


def load_trained_network(recipe: Recipe, folder: Path) -> nn.Module:
    """The network with the weights that train_stage wrote to `folder`, in eval mode.

    Raises GreenedgeError where there are none, or where they do not fit the recipe's network.
    """
    state = load_state(Path(folder) / "model.pt")
    if state is None:
        raise GreenedgeError(f"{folder} has no model.pt; run the train stage first.")
    if "form" not in state or "model" not in state:
        raise GreenedgeError(f"{folder}/model.pt lacks the network's form or weights; run the train stage again.")
    with seed_torch(recipe.train.seed, recipe.train.threads):
        model = _build_network(recipe, NetworkForm.from_state(state["form"]))
    set_model_state(model, state["model"])
    return model.eval()
