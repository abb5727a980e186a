"""A language model of our own: stories from templates, their tokenizer, and a llama-shaped decoder trained on them."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from greenedge.decoder.float_model import Sizes
from greenedge.decoder.learn_pieces import learn_pieces
from greenedge.decoder.tokenizer import Tokenizer, write_tokenizer
from greenedge.frontends.llama2c import write_llama2c
from greenedge.progress import ProgressFn
from greenedge.train import setting

if TYPE_CHECKING:
    from torch import Tensor

LEARNT_FROM = 2000  # stories that the tokenizer is learnt from


@dataclass(frozen=True)
class ModelSettings:
    """[model]: the sizes of a decoder; those of stories260K where not said otherwise."""

    dim: int = setting(64, least=2)
    hidden: int = setting(172, least=1)
    layers: int = setting(5, least=1)
    heads: int = setting(8, least=1)
    kv_heads: int = setting(4, least=1)
    vocabulary: int = setting(512, least=262)
    context: int = setting(256, least=8)


@dataclass(frozen=True)
class TrainSettings:
    """[train]: steps of 16 windows of `length` tokens, from as many stories."""

    steps: int = setting(least=1)
    stories: int = setting(20_000, least=100, most=1_000_000)
    length: int = setting(128, least=8)
    seed: int = setting(0, least=0, most=2**31 - 1)


def train(model: ModelSettings, train: TrainSettings, folder: Path, progress: ProgressFn) -> str:
    """Writes model.bin and tokenizer.bin; a training that was cut off goes on from checkpoint.pt."""
    from greenedge.train.decoder.pretrain import train_decoder
    from greenedge.train.fit import seed_torch

    sizes = Sizes(**asdict(model))
    sizes.check("[model]")
    stories = [write_story(number) for number in range(train.stories)]
    tokenizer = learn_pieces(" ".join(stories[:LEARNT_FROM]), sizes.vocabulary)
    checkpoint = folder / "checkpoint.pt"
    with seed_torch(train.seed, threads=1):
        texts = cut_texts(tokenizer, stories, min(train.length, sizes.context))
        trained = train_decoder(sizes, texts, train.steps, train.seed, checkpoint=checkpoint, progress=progress)
    write_tokenizer(folder / "tokenizer.bin", tokenizer)
    write_llama2c(folder / "model.bin", trained)
    checkpoint.unlink()
    return f"{train.steps} steps on {texts.numel():,} tokens"


def cut_texts(tokenizer: Tokenizer, stories: list[str], length: int) -> Tensor:
    """(count, length): stories one behind the other, each behind the token that begins a text."""
    import torch

    stream = [token for story in stories for token in tokenizer.encode(story)]
    return torch.tensor(stream[: len(stream) // length * length]).reshape(-1, length)


NAMES = ("Lily", "Tom", "Mia", "Ben", "Anna", "Max", "Sue", "Tim")
ANIMALS = ("cat", "dog", "bird", "frog", "mouse", "duck")
THINGS = ("ball", "book", "cake", "boat", "hat", "kite", "drum", "shell")
PLACES = ("park", "garden", "house", "forest", "river", "school")
LOOKS = ("little", "big", "red", "blue", "funny", "old", "shiny")
MOODS = ("happy", "sad", "tired", "brave", "kind")


def write_story(number: int) -> str:
    """The story of that number: an opening, a loss or a meeting, and an end that names who and what came before."""
    draw = random.Random(number)
    who, friend = draw.sample(NAMES, 2)
    animal, thing, place = draw.choice(ANIMALS), draw.choice(THINGS), draw.choice(PLACES)
    look, mood = draw.choice(LOOKS), draw.choice(MOODS)
    opening = draw.choice(
        (
            f"Once upon a time, there was a {look} {animal} named {who}.",
            f"One day, {who} went to the {place} with a {look} {thing}.",
            f"{who} had a {look} {thing} and was very {mood}.",
        )
    )
    middle = draw.choice(
        (
            f"{who} lost the {thing} in the {place} and began to cry.",
            f"{who} met {friend} in the {place} and they played with the {thing}.",
            f'{friend} said, "Can I play with your {thing}?" {who} said, "Yes, let us play."',
            f"{who} saw a {animal} in the {place}. The {animal} was {mood}.",
        )
    )
    end = draw.choice(
        (
            f"{friend} helped {who} and they found the {thing}. {who} was happy again.",
            f"They went home and {who} told {friend} about the {animal}.",
            f"From that day on, {who} and {friend} were best friends.",
        )
    )
    return f"{opening} {middle} {end}"
