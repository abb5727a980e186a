"""Byte pair encoding, learnt: the pieces of a tokenizer from a text."""

from __future__ import annotations

from collections import Counter

from greenedge.decoder.tokenizer import Tokenizer
from greenedge.errors import GreenedgeError

_SPECIAL = (b"<unk>", b"\n<s>\n", b"\n</s>\n")
_BYTES = tuple(b"<0x%02X>" % byte for byte in range(256))


def learn_pieces(text: str, count: int) -> Tokenizer:
    """A tokenizer of `count` pieces: three special ones, 256 bytes, the text's characters, then again and again the
    most frequent pair of neighbours within a word, the first in the order of its pieces among equals.

    Raises GreenedgeError where the text has too many characters for it, or too few pairs.
    """
    words = Counter(_cut(text))
    characters = sorted({character for word in words for character in word})
    pieces = [*_SPECIAL, *_BYTES, *(character.encode() for character in characters)]
    if count < len(pieces):
        raise GreenedgeError(f"{count} pieces: the text's characters alone need {len(pieces)}.")
    scores = [0.0] * len(pieces)
    spelt = {word: list(word) for word in words}
    while len(pieces) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in spelt.items():
            for pair in zip(parts, parts[1:], strict=False):
                pairs[pair] += words[word]
        if not pairs:
            raise GreenedgeError(f"{count} pieces: the text has pairs for {len(pieces)}; give a longer text.")
        left, right = min(pairs, key=lambda pair: (-pairs[pair], pair))
        pieces.append((left + right).encode())
        scores.append(float(-len(pieces)))
        spelt = {word: _join(parts, left, right) for word, parts in spelt.items()}
    return Tokenizer(tuple(pieces), tuple(scores))


def _cut(text: str) -> list[str]:
    """Words with the space before them; a piece never reaches over it."""
    return [" " + word for word in text.split(" ") if word]


def _join(parts: list[str], left: str, right: str) -> list[str]:
    joined: list[str] = []
    for part in parts:
        if joined and joined[-1] == left and part == right:
            joined[-1] = left + right
        else:
            joined.append(part)
    return joined
