"""The stories on which what was built is compared with the numpy execution: functions of the decoder alone, so that no
folder can make them fewer."""

from __future__ import annotations

from dataclasses import replace

from greenedge.backends.decoder.simulate import Story
from greenedge.decoder.record import Decoder
from greenedge.decoder.sampling import TEMPERATURE_ONE, Sampling

SEEDS = 5
_MOST_SAMPLED = 256  # tokens of a story; the first one fills the context, however long
_NETLIST_TOKENS = 24  # a netlist is simulated cell by cell
_LINE_TOKENS = 32  # through the pins of a virtual board
_PROMPT = (1, 3, 2, 0)


def list_stories(decoder: Decoder) -> tuple[Story, ...]:
    """The likeliest tokens until the context is full; then drawn ones with a seed each, half of them at another
    temperature and behind a prompt of several tokens."""
    length = min(decoder.context, _MOST_SAMPLED)
    first = Story(_begin(decoder), decoder.context, Sampling(0, 1))
    prompt = _prompt(decoder, min(len(_PROMPT), length))
    drawn = [Story(_begin(decoder), length, Sampling(TEMPERATURE_ONE, seed)) for seed in range(2, SEEDS, 2)]
    behind = [Story(prompt, length + 1 - len(prompt), Sampling(180, seed)) for seed in range(3, SEEDS + 1, 2)]
    return (first, *drawn, *behind)


def list_few_stories(decoder: Decoder) -> tuple[Story, ...]:
    """The first 24 tokens of one of them, or as many as the context has."""
    first_drawn = list_stories(decoder)[1]
    return (replace(first_drawn, length=min(first_drawn.length, _NETLIST_TOKENS)),)


def list_line_stories(decoder: Decoder) -> tuple[Story, ...]:
    """The beginnings of one behind a prompt and of one without, short enough for the line of a simulated board."""
    _, _, plain, prompted, _ = list_stories(decoder)
    return tuple(replace(one, length=min(one.length, _LINE_TOKENS // 2)) for one in (prompted, plain))


def count_tokens(stories: tuple[Story, ...]) -> int:
    """How many tokens go through the decoder in all."""
    return sum(story.positions for story in stories)


def _begin(decoder: Decoder) -> tuple[int, ...]:
    return (min(1, decoder.vocabulary - 1),)


def _prompt(decoder: Decoder, length: int) -> tuple[int, ...]:
    return tuple(token % decoder.vocabulary for token in _PROMPT[:length])
