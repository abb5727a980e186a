"""Bits per token on texts: of the float model, of the integers, and of both paired, text by text."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from greenedge.decoder.execute import run_sequences
from greenedge.decoder.record import Decoder
from greenedge.progress import ProgressFn, no_progress

_BATCH = 8
Bits = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """Bits per token before and after, and the increase as a share of `before` with half of its 95 % interval: from
    the spread of the texts' paired differences, for `texts` texts."""

    before: float
    after: float
    increase: float
    half_width: float
    texts: int

    def __str__(self) -> str:
        return (
            f"{self.before:.4f} bits per token as floats, {self.after:.4f} as integers: {100 * self.increase:+.2f} % "
            f"± {100 * self.half_width:.2f} (95 %, {self.texts} texts)"
        )


def compare_bits(before: Bits, after: Bits) -> Comparison:
    """Of the bits per token of the same texts, at least two of the same length."""
    assert before.shape == after.shape and len(before) > 1
    mean = float(before.mean())
    difference = after - before
    spread = float(difference.std(ddof=1)) / math.sqrt(len(before))
    half_width = _student_95(len(before) - 1) * spread / mean
    return Comparison(mean, float(after.mean()), float(difference.mean()) / mean, half_width, len(before))


def _student_95(freedom: int) -> float:
    """The 0.975 quantile of Student's t by its expansion in 1 / freedom (Abramowitz and Stegun, 26.7.5)."""
    z = 1.959964
    terms = (z, (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return sum(term / freedom**power for power, term in enumerate(terms))


def score_floats(run: Callable[[Tensor], Tensor], texts: Tensor) -> Bits:
    """Bits per token of each text (count, length), of everything that gives logits for tokens."""
    with torch.no_grad():
        return np.concatenate([_score(run(part[:, :-1]), part) for part in texts.split(_BATCH)])


def score_integers(decoder: Decoder, texts: Tensor, progress: ProgressFn = no_progress) -> Bits:
    """The same of a decoder's integers, whose logits are worth temperature_unit / 2^20 nat."""
    unit, scores = decoder.temperature_unit / 2**20, []
    for part in texts.split(_BATCH):
        logits = torch.from_numpy(run_sequences(decoder, part[:, :-1].numpy()) * unit)
        scores.append(_score(logits, part))
        done = min(len(scores) * _BATCH, len(texts))
        progress(done, len(texts), f"text {done} of {len(texts)}")
    return np.concatenate(scores)


def _score(logits: Tensor, tokens: Tensor) -> Bits:
    chosen = F.log_softmax(logits.double(), -1).gather(-1, tokens[:, 1:, None])[..., 0]
    return -chosen.mean(-1).numpy() / math.log(2)
