"""Coresets and curricula: which training samples to use, and in what order.

watch = SampleWatch(len(x))                             el2n, forgetting, curriculum: a short training scores samples
fit(network, x, y, few_epochs, FitOptions(watch=watch))
chosen = choose(settings, x, y, watch.scores(settings.method), seed)
fit(model, x[chosen], y[chosen], …)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from greenedge.train.layers import SampleOrder
from greenedge.train.recipe_config import SubsetSettings

if TYPE_CHECKING:
    import torch


class SampleWatch:
    """FitOptions.watch: scores each sample by a short training. Scores are high for hard samples.

    el2n        mean over the epochs of |softmax(outputs) - onehot(y)| (Paul, Ganguli and Dziugaite, 2021)
    forgetting  times a sample was right and then wrong; for one that never was right, one more than the most of these
                (Toneva et al., 2019)
    """

    def __init__(self, samples: int):
        self.errors = np.zeros(samples)
        self.looks = np.zeros(samples)
        self.forgotten = np.zeros(samples)
        self.right = np.zeros(samples, bool)
        self.ever = np.zeros(samples, bool)

    def __call__(self, outputs: torch.Tensor, y: torch.Tensor, indices: torch.Tensor) -> None:
        """Takes in one batch: logits (B, classes), labels (B,), indices (B,) into the training samples."""
        import torch

        places = indices.numpy()
        wanted = torch.nn.functional.one_hot(y, outputs.shape[1])
        self.errors[places] += (outputs.softmax(1) - wanted).norm(dim=1).double().numpy()
        self.looks[places] += 1
        now = (outputs.argmax(1) == y).numpy()
        self.forgotten[places] += self.right[places] & ~now
        self.right[places] = now
        self.ever[places] |= now

    def scores(self, method: str) -> np.ndarray:
        """(samples,): el2n, or forgetting with el2n deciding between equals."""
        el2n = self.errors / np.maximum(self.looks, 1)
        if method != "forgetting":
            return el2n
        return self.forgotten + (~self.ever * (self.forgotten.max(initial=0) + 1)) + el2n / 2  # |p - onehot| ≤ √2


def choose(settings: SubsetSettings, x: np.ndarray, y: np.ndarray, scores: np.ndarray | None, seed: int) -> np.ndarray:
    """Indices of the samples to train on, ascending; with labels y (N,) every class keeps the same share.

    scores      (N,), high for hard samples; needed for el2n and forgetting
    """
    rng = np.random.default_rng(seed)
    classes = y if y.ndim == 1 and y.dtype.kind in "iu" else np.zeros(len(x), int)
    picked = []
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        count = max(1, round(len(members) * settings.share))
        if settings.method == "kcenter":
            picked.append(members[k_center(x[members].reshape(len(members), -1), count, rng)])
        elif settings.method == "random":
            picked.append(rng.permutation(members)[:count])
        else:
            assert scores is not None
            picked.append(members[np.argsort(-scores[members], kind="stable")[:count]])
    return np.sort(np.concatenate(picked))


def k_center(points: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of `count` of points (N, D), each the farthest from all before.

    The cover's radius is at most twice the least possible (Gonzalez, 1985; as a coreset: Sener and Savarese, 2018).
    Distances are Euclidean, in float64.
    """
    points = points.astype(np.float64)
    chosen = [int(rng.integers(len(points)))]
    nearest = np.square(points - points[chosen[0]]).sum(1)
    while len(chosen) < count:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.square(points - points[chosen[-1]]).sum(1))
    return np.array(chosen[:count])


def easy_first(scores: np.ndarray, epochs: int) -> SampleOrder:
    """FitOptions.order: each epoch sees a larger share of the samples, the easiest first, shuffled within an epoch.

    From half of the epochs on it sees all (Bengio et al., 2009, with the linear pace of Hacohen and Weinshall, 2019).

    scores      (N,), low for easy samples
    """
    import torch

    order = torch.from_numpy(np.argsort(scores, kind="stable").copy())

    def pick(epoch: int, samples: int, generator: torch.Generator) -> torch.Tensor:
        share = min(1.0, 0.3 + 0.7 * epoch / max(1, epochs / 2))
        easy = order[order < samples][: max(2, round(share * samples))]
        return easy[torch.randperm(len(easy), generator=generator)]

    return pick
