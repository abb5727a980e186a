"""Pruning while a network trains: masks that grow, and what they took.

A mask is brought up to date a hundred times between `start` and `end` of the training; how much is gone by then follows
share * (1 - (1 - t)^3) (Zhu and Gupta, 2017): fast while there is much to spare. After `end` the masks stand and the
rest is fine-tuning. What is masked stays masked and is zero after every update, so masks and weights together are the
whole state; it lies in the checkpoint.

    pruner = make_pruner(model, settings, channels)     model: quantised or not, its layers under their torch paths
    fit(model, x, y, train, Job(prune=pruner))          calls pruner.after_step(model, step, steps)
    pruner.stays                                        structured: which labels stay, for channels.shrink
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from greenedge.errors import TargetError
from greenedge.train.channels import Channels
from greenedge.train.recipe_config import PruneSettings

_UPDATES = 100  # of the masks, over a whole training


def growth(settings: PruneSettings, step: int, steps: int) -> float:
    """Share of the final pruning that is reached after `step` of `steps` updates, 0 to 1."""
    place = (step + 1) / steps
    if place >= settings.end:
        return 1.0
    if place <= settings.start:
        return 0.0
    return 1 - (1 - (place - settings.start) / (settings.end - settings.start)) ** 3


def make_pruner(model, settings: PruneSettings, channels: Channels | None = None):
    """A pruner for the network. Raises TargetError for a layer in `keep` that there is not, and where nothing can go.

    channels    of the float network, for structured pruning
    """
    layers = weight_layers(model)
    unknown = [path for path in settings.keep if path not in layers]
    if unknown:
        raise TargetError(
            f"[prune] keep names {unknown[0]!r}, which is no dense or convolutional layer; layers are: "
            f"{', '.join(layers)}."
        )
    if settings.kind != "structured":
        return WeightPruner(settings, [path for path in layers if path not in settings.keep])
    assert channels is not None
    spaces = {path: labels for path, labels in channels.spaces.items() if path not in settings.keep}
    if not spaces:
        raise TargetError(
            "[prune] finds no neurons or channels that can leave: all are inputs, outputs or in keep; use "
            'kind "magnitude", or a network with hidden layers.'
        )
    return ChannelPruner(settings, channels, spaces)


def weight_layers(model) -> list[str]:
    """Paths of the dense and convolutional layers, quantised or not."""
    from torch import nn

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)
    return [path for path, module in model.named_modules() if isinstance(module, kinds)]


class _Pruner:
    """When the masks are brought up to date; a subclass says how."""

    def __init__(self, settings: PruneSettings):
        self.settings = settings

    def after_step(self, model, step: int, steps: int) -> None:
        """Grows the masks where it is time and zeroes what they hold; after every update of the weights."""
        import torch

        with torch.no_grad():
            if step % max(1, steps // _UPDATES) == 0 or step + 1 == steps:
                self._grow(model, growth(self.settings, step, steps))
            self._apply(model)


class WeightPruner(_Pruner):
    """Single weights: the smallest of each layer, or all but the `n` largest of every `m` neighbours."""

    def __init__(self, settings: PruneSettings, paths: list[str]):
        super().__init__(settings)
        self.paths = paths
        self.masks: dict = {}

    def _grow(self, model, grown: float) -> None:
        for path in self.paths:
            weight = model.get_submodule(path).weight
            size = (weight.abs() * self.masks[path]) if path in self.masks else weight.abs()
            pick = _largest if self.settings.kind == "magnitude" else _largest_of_m
            self.masks[path] = pick(size, self.settings, grown)

    def _apply(self, model) -> None:
        for path, mask in self.masks.items():
            model.get_submodule(path).weight.mul_(mask)

    def state(self) -> dict:
        """For the checkpoint."""
        return dict(self.masks)

    def restore(self, state: dict) -> None:
        """From the checkpoint."""
        self.masks = dict(state)


def _largest(size, settings: PruneSettings, grown: float):
    """Mask of all but the smallest; equal sizes go in the order of their places."""
    import torch

    gone = round(size.numel() * settings.share * grown)
    order = size.flatten().sort(stable=True).indices
    mask = torch.ones(size.numel(), dtype=torch.bool)
    mask[order[:gone]] = False
    return mask.view_as(size)


def _largest_of_m(size, settings: PruneSettings, grown: float):
    """Mask with (m - n)·grown weights gone of every m neighbours along the inputs; a rest of fewer stays whole."""
    import torch

    flat = size.flatten(1)
    whole = flat.shape[1] // settings.m * settings.m
    mask = torch.ones_like(flat, dtype=torch.bool)
    gone = round((settings.m - settings.n) * grown)
    if whole and gone:
        parts = flat[:, :whole].reshape(len(flat), -1, settings.m)
        order = parts.sort(dim=-1, stable=True).indices[..., :gone]
        kept = torch.ones_like(parts, dtype=torch.bool).scatter_(-1, order, False)
        mask[:, :whole] = kept.reshape(len(flat), whole)
    return mask.view_as(size)


class ChannelPruner(_Pruner):
    """Whole neurons and channels. A masked one is zero where it is written, in its batch norm and where it is read, so
    that taking it out of the network changes no output."""

    def __init__(self, settings: PruneSettings, channels: Channels, spaces: dict[str, np.ndarray]):
        super().__init__(settings)
        self.channels = channels
        self.spaces = spaces
        self.stays = np.ones(channels.count, bool)

    def _grow(self, model, grown: float) -> None:
        scores = importance(model, self.channels)
        for labels in self.spaces.values():
            left = len(labels) - round((len(labels) - kept_count(len(labels), self.settings)) * grown)
            alive = labels[self.stays[labels]]
            order = alive[np.argsort(-scores[alive], kind="stable")]
            self.stays[order[left:]] = False

    def _apply(self, model) -> None:
        import torch

        for path, labels in self.channels.rows.items():
            module, mask = model.get_submodule(path), torch.from_numpy(self.stays[labels])
            if module.weight is None:  # a batch norm without factors
                continue
            axis = 1 if path in self.channels.swapped else 0
            module.weight.mul_(mask.view([-1 if k == axis else 1 for k in range(module.weight.dim())]))
            if module.bias is not None:
                module.bias.mul_(mask)
        for path, labels in self.channels.columns.items():
            weight, mask = model.get_submodule(path).weight, torch.from_numpy(self.stays[labels])
            axis = 0 if path in self.channels.swapped else 1
            weight.mul_(mask.view([-1 if k == axis else 1 for k in range(weight.dim())]))

    def state(self) -> dict:
        """For the checkpoint."""
        import torch

        return {"stays": torch.from_numpy(self.stays.copy())}

    def restore(self, state: dict) -> None:
        """From the checkpoint."""
        self.stays = state["stays"].numpy().copy()


def kept_count(channels: int, settings: PruneSettings) -> int:
    """The multiple of `group` nearest to the share that stays, at least one group; fewer than a group stay whole."""
    if channels <= settings.group:
        return channels
    groups = round(channels * (1 - settings.share) / settings.group)
    return min(channels, settings.group * max(1, groups))


def importance(model, channels: Channels) -> np.ndarray:
    """Of each label: how large it is written times how strongly it is read.

    Written: the batch norm's factor |γ| where there is one (the weights before it have no scale of their own), else the
    norm of the weights. Read: the norm of the weights that read it.
    """
    written, factor, read = (np.zeros(channels.count) for _ in range(3))
    for path, labels in channels.rows.items():
        weight = model.get_submodule(path).weight
        if weight is None:  # a batch norm without factors
            continue
        weight = weight.detach()
        if path in channels.norms:
            np.add.at(factor, labels, weight.abs().double().numpy())
        else:
            axes = [k for k in range(weight.dim()) if k != (1 if path in channels.swapped else 0)]
            np.add.at(written, labels, weight.double().square().sum(axes).numpy())
    for path, labels in channels.columns.items():
        weight = model.get_submodule(path).weight.detach()
        axes = [k for k in range(weight.dim()) if k != (0 if path in channels.swapped else 1)]
        np.add.at(read, labels, weight.double().square().sum(axes).numpy())
    return np.where(factor > 0, factor, np.sqrt(written)) * np.sqrt(read)


@dataclass(frozen=True)
class Compression:
    """(M - M') / M as the article counts it: M weights before, M' after, those that are zero not counted."""

    before: int
    after: int

    @property
    def ratio(self) -> float:
        return (self.before - self.after) / self.before


def count_weights(model) -> int:
    """Weights of the dense and convolutional layers that are not zero."""
    return sum(int(model.get_submodule(path).weight.count_nonzero()) for path in weight_layers(model))
