"""Stories from templates: as many as wanted, each from its number alone."""

from __future__ import annotations

import random

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
