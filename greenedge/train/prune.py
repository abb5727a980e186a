"""Pruning during training: masks that grow between two points of the training, and the removal of what they mask.

Masks are updated up to a hundred times between `start` and `end`; the share pruned by then follows
share * (1 - (1 - t)^3) (Zhu and Gupta, 2017), which prunes fast at first, while many weights are unimportant. After
`end` the masks are fixed and the rest of the training is fine-tuning. A masked weight never returns and is zero after
every update, so masks and weights together are the whole state of a pruner; both are in the checkpoint.

    pruner = make_pruner(model, settings, channels)     model: quantised or not, its layers under their torch paths
    fit(model, x, y, train, FitOptions(prune=pruner))   calls pruner.after_step(model, step, steps)
    pruner.stays                                        structured: which labels remain, for channels.shrink
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from greenedge.errors import TargetError
from greenedge.train.channels import Channels
from greenedge.train.layers import weight_layers
from greenedge.train.recipe_config import PruneSettings

if TYPE_CHECKING:
    import torch
    from torch import nn

PrunerState: TypeAlias = "dict[str, torch.Tensor]"

_UPDATES = 100  # of the masks, over a whole training


def growth(settings: PruneSettings, step: int, steps: int) -> float:
    """The fraction, 0 to 1, of the final pruning that is reached after `step` of `steps` updates."""
    place = (step + 1) / steps
    if place >= settings.end:
        return 1.0
    if place <= settings.start:
        return 0.0
    return 1 - (1 - (place - settings.start) / (settings.end - settings.start)) ** 3


def make_pruner(model: nn.Module, settings: PruneSettings, channels: Channels | None = None) -> Pruner:
    """A pruner for the network.

    channels    of the float network; needed for structured pruning
    Raises TargetError for a layer in `keep` that the network lacks, and where no channel can be removed.
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


class Pruner(ABC):
    """Decides when masks are updated; a subclass decides how."""

    def __init__(self, settings: PruneSettings):
        self.settings = settings

    @abstractmethod
    def _grow(self, model: nn.Module, grown: float) -> None:
        """Extends the masks to `grown`, 0 to 1, of the final pruning."""

    @abstractmethod
    def _apply(self, model: nn.Module) -> None:
        """Zeroes what is masked."""

    @abstractmethod
    def state(self) -> PrunerState:
        """The masks, for the checkpoint."""

    @abstractmethod
    def restore(self, state: PrunerState) -> None:
        """Sets the masks from the checkpoint."""

    def after_step(self, model: nn.Module, step: int, steps: int) -> None:
        """Grows the masks where an update is due and zeroes masked weights; call it after every optimiser update."""
        import torch

        with torch.no_grad():
            if step % max(1, steps // _UPDATES) == 0 or step + 1 == steps:
                self._grow(model, growth(self.settings, step, steps))
            self._apply(model)


class WeightPruner(Pruner):
    """Masks single weights: the smallest of each layer, or all but the `n` largest of every `m` neighbours."""

    def __init__(self, settings: PruneSettings, paths: list[str]):
        super().__init__(settings)
        self.paths = paths
        self.masks: dict[str, torch.Tensor] = {}

    def _grow(self, model: nn.Module, grown: float) -> None:
        layers = weight_layers(model)
        for path in self.paths:
            weight = layers[path].weight
            size = (weight.abs() * self.masks[path]) if path in self.masks else weight.abs()
            make_mask = _mask_smallest if self.settings.kind == "magnitude" else _mask_smallest_of_m
            self.masks[path] = make_mask(size, self.settings, grown)

    def _apply(self, model: nn.Module) -> None:
        layers = weight_layers(model)
        for path, mask in self.masks.items():
            layers[path].weight.mul_(mask)

    def state(self) -> PrunerState:
        return dict(self.masks)

    def restore(self, state: PrunerState) -> None:
        self.masks = dict(state)


def _mask_smallest(size: torch.Tensor, settings: PruneSettings, grown: float) -> torch.Tensor:
    """A mask, True where a weight remains: the smallest are masked, of equal ones those that come first."""
    import torch

    gone = round(size.numel() * settings.share * grown)
    order = size.flatten().sort(stable=True).indices
    mask = torch.ones(size.numel(), dtype=torch.bool)
    mask[order[:gone]] = False
    return mask.view_as(size)


def _mask_smallest_of_m(size: torch.Tensor, settings: PruneSettings, grown: float) -> torch.Tensor:
    """A mask without (m - n)·grown weights of every m neighbours along the inputs; fewer than m left over remain."""
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


class ChannelPruner(Pruner):
    """Masks whole neurons and channels: zero where written, in the batch norm and where read.

    Removing a masked one from the network therefore changes no output.
    """

    def __init__(self, settings: PruneSettings, channels: Channels, spaces: dict[str, np.ndarray]):
        super().__init__(settings)
        self.channels = channels
        self.spaces = spaces
        self.stays = np.ones(channels.count, bool)

    def _grow(self, model: nn.Module, grown: float) -> None:
        scores = importance(model, self.channels)
        for labels in self.spaces.values():
            left = len(labels) - round((len(labels) - remaining_count(len(labels), self.settings)) * grown)
            alive = labels[self.stays[labels]]
            order = alive[np.argsort(-scores[alive], kind="stable")]
            self.stays[order[left:]] = False

    def _apply(self, model: nn.Module) -> None:
        import torch

        for path, labels in self.channels.rows.items():
            mask, axis = torch.from_numpy(self.stays[labels]), 1 if path in self.channels.swapped else 0
            weight, bias = _parameter(model, path, "weight"), _parameter(model, path, "bias")
            if weight is None:  # a batch norm without factors
                continue
            weight.mul_(_along(mask, axis, weight.dim()))
            if bias is not None:
                bias.mul_(mask)
        layers = weight_layers(model)
        for path, labels in self.channels.columns.items():
            mask, axis = torch.from_numpy(self.stays[labels]), 0 if path in self.channels.swapped else 1
            layers[path].weight.mul_(_along(mask, axis, layers[path].weight.dim()))

    def state(self) -> PrunerState:
        import torch

        return {"stays": torch.from_numpy(self.stays.copy())}

    def restore(self, state: PrunerState) -> None:
        self.stays = state["stays"].numpy().copy()


def _along(mask: torch.Tensor, axis: int, dims: int) -> torch.Tensor:
    """A mask (N,) with `dims` dimensions, N along `axis` and 1 along the others."""
    return mask.view([-1 if k == axis else 1 for k in range(dims)])


def _parameter(model: nn.Module, path: str, name: str) -> nn.Parameter | None:
    """The parameter `name` of a layer or batch norm, None where the module was made without it."""
    return dict(model.get_submodule(path).named_parameters(recurse=False)).get(name)


def remaining_count(channels: int, settings: PruneSettings) -> int:
    """Channels left after pruning: the multiple of `group` nearest to 1 - share, at least one group.

    A layer of no more than a group keeps all its channels.
    """
    if channels <= settings.group:
        return channels
    groups = round(channels * (1 - settings.share) / settings.group)
    return min(channels, settings.group * max(1, groups))


def importance(model: nn.Module, channels: Channels) -> np.ndarray:
    """(count,): the importance of each label, the norm of what writes it times the norm of the weights that read it.

    What writes it is the batch norm's factor |γ| where there is one, because a norm cancels the scale of the weights
    before it; else the weights.
    """
    written, factor, read = (np.zeros(channels.count) for _ in range(3))
    for path, labels in channels.rows.items():
        parameter = _parameter(model, path, "weight")
        if parameter is None:  # a batch norm without factors
            continue
        weight = parameter.detach()
        if path in channels.norms:
            np.add.at(factor, labels, weight.abs().double().numpy())
        else:
            axes = [k for k in range(weight.dim()) if k != (1 if path in channels.swapped else 0)]
            np.add.at(written, labels, weight.double().square().sum(axes).numpy())
    layers = weight_layers(model)
    for path, labels in channels.columns.items():
        weight = layers[path].weight.detach()
        axes = [k for k in range(weight.dim()) if k != (0 if path in channels.swapped else 1)]
        np.add.at(read, labels, weight.double().square().sum(axes).numpy())
    return np.where(factor > 0, factor, np.sqrt(written)) * np.sqrt(read)


@dataclass(frozen=True)
class Compression:
    """(M - M') / M: M weights before pruning, M' after it, both without those that are zero."""

    before: int
    after: int

    @property
    def ratio(self) -> float:
        return (self.before - self.after) / self.before


def count_weights(model: nn.Module) -> int:
    """Weights of the dense and convolutional layers that are not zero."""
    return sum(int(layer.weight.count_nonzero()) for layer in weight_layers(model).values())
