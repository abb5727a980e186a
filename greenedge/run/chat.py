"""`greenedge chat`: text from a quantised decoder, piece by piece as it comes."""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from greenedge.decoder.record import Decoder
from greenedge.decoder.sampling import TEMPERATURE_ONE, Sampling, generate
from greenedge.decoder.store import load_model
from greenedge.decoder.tokenizer import Tokenizer
from greenedge.errors import GreenedgeError

MOST_STEPS = 4  # temperatures above are no text


@dataclass(frozen=True)
class Chat:
    """What was said: tokens behind the prompt, seconds from the prompt's first step to the last token, and both of
    them together per second. The clock is this machine's; the execution is numpy's."""

    prompt_tokens: int
    tokens: int
    seconds: float
    text: str

    @property
    def tokens_per_second(self) -> float:
        """Tokens of prompt and text, per second."""
        return (self.prompt_tokens + self.tokens) / self.seconds


def chat(
    path: Path,
    prompt: str,
    seed: int,
    temperature: float,
    tokens: int | None,
    show: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> Chat:
    """Continues a prompt until the model ends its text, `tokens` are written, or its context is full; `show` gets the
    text as it comes.

    Raises GreenedgeError for a file that is no decoder or has no tokenizer, and for a prompt, a seed, a temperature or
    a number of tokens that it cannot take.
    """
    decoder, tokenizer = load_model(path)
    if tokenizer is None:
        raise GreenedgeError(f"{path} has no tokenizer; quantise its model again with --tokenizer TOK.bin.")
    if tokens is not None and tokens < 1:
        raise GreenedgeError(f"{tokens} tokens: at least one is written.")
    if not 0 <= temperature <= MOST_STEPS:
        raise GreenedgeError(f"temperature {temperature:g}: 0 to {MOST_STEPS} is possible.")
    sampling = Sampling(round(temperature * TEMPERATURE_ONE), seed)
    begun = tokenizer.encode(prompt)
    _check_room(decoder, begun)
    started, said, written = clock(), [], 0
    show(prompt)
    for text in _spell(tokenizer, begun[-1], _limit(generate(decoder, begun, sampling), tokenizer, tokens)):
        written += 1
        said.append(text)
        show(text)
    return Chat(len(begun), written, clock() - started, "".join(said))


def _check_room(decoder: Decoder, begun: list[int]) -> None:
    if len(begun) >= decoder.context:
        raise GreenedgeError(
            f"the prompt has {len(begun)} tokens, the context {decoder.context}; give a shorter prompt."
        )


def _limit(drawn: Iterator[int], tokenizer: Tokenizer, most: int | None) -> Iterator[int]:
    """Tokens up to the one that ends a text, and not more than `most`."""
    for number, token in enumerate(drawn, 1):
        if token in (tokenizer.begin, tokenizer.end):
            return
        yield token
        if number == most:
            return


def _spell(tokenizer: Tokenizer, previous: int, drawn: Iterator[int]) -> Iterator[str]:
    """The text of each token; a character of several tokens comes with its last."""
    utf8 = codecs.getincrementaldecoder("utf-8")("replace")
    for token in drawn:
        yield utf8.decode(tokenizer.spell(previous, token))
        previous = token
