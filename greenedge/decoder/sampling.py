"""Draws tokens with integers alone: the same seed gives the same story on every target.

A temperature is a whole number of 256ths; 0 takes the largest logit, the lowest index among equals. Above it

    l_i = (logit_i * unit + 2^15) >> 16       in 1/16 nat, unit = temperature_unit * 256 // temperature
    e_i = exponential[min(max l - l_i, 255)];  Z = sum e
    r   = ((state >> 16) * Z) >> 16           state after one step of xorshift32
    the first i with e_0 + .. + e_i > r

Tokens less likely than about 1/500 of the best have e_i = 0 and are never drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from greenedge.decoder.execute import Ints, StepDecoder, weigh
from greenedge.decoder.record import Decoder
from greenedge.errors import GreenedgeError

_WORD = 0xFFFFFFFF
TEMPERATURE_ONE = 256


@dataclass(frozen=True)
class Sampling:
    """temperature in 256ths, 0 to 1,024; seed 0 to 2^32 - 1."""

    temperature: int = 0
    seed: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 4 * TEMPERATURE_ONE:
            raise GreenedgeError(f"temperature {self.temperature / TEMPERATURE_ONE:g}: 0 to 4 is possible.")
        if not 0 <= self.seed <= _WORD:
            raise GreenedgeError(f"seed {self.seed}: 0 to {_WORD} is possible.")


def seed_state(seed: int) -> int:
    """The state that a seed begins with: xorshift32 never leaves 0, so that 0 becomes another number."""
    return (seed * 2654435761 & _WORD) or 1


def advance(state: int) -> int:
    """One step of xorshift32 (Marsaglia, "Xorshift RNGs", 2003; shifts 13, 17, 5)."""
    state ^= state << 13 & _WORD
    state ^= state >> 17
    return state ^ (state << 5 & _WORD)


def choose(decoder: Decoder, logits: Ints, temperature: int, state: int) -> int:
    """The token of one row of logits; `state` has been advanced for it."""
    if temperature == 0:
        return int(np.argmax(logits))
    unit = decoder.temperature_unit * TEMPERATURE_ONE // temperature
    weights = weigh(decoder, (logits * unit + (1 << 15)) >> 16)
    drawn = (state >> 16) * int(weights.sum()) >> 16
    return int(np.searchsorted(np.cumsum(weights), drawn, side="right"))


def generate(decoder: Decoder, prompt: Sequence[int], sampling: Sampling) -> Iterator[int]:
    """The tokens behind a prompt, until the context is full: each as soon as it is known.

    Raises GreenedgeError for an empty prompt, and one that does not fit the context.
    """
    if not len(prompt):
        raise GreenedgeError("the prompt is empty; give at least the token that begins a text.")
    machine, state = StepDecoder(decoder), seed_state(sampling.seed)
    for token in prompt:
        logits = machine.step(token)
    while True:
        state = advance(state)
        token = choose(decoder, logits, sampling.temperature, state)
        yield token
        if machine.position == decoder.context:
            return
        logits = machine.step(token)
