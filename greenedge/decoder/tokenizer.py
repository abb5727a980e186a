"""Text to tokens and back, by the pieces and scores of a SentencePiece model of the BPE kind, as llama2.c does it.

A text, behind one space, is cut into characters; a character that is no piece becomes the pieces of its UTF-8 bytes,
`<0x0A>`. Then, again and again, the neighbours whose joined piece has the highest score are joined, the leftmost of
equals first (`encode` of llama2.c's run.c).
"""

from __future__ import annotations

import heapq
import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from greenedge.errors import GreenedgeError
from greenedge.files.atomic_write import atomic_write

MAX_PIECES = 1 << 17
MAX_PIECE_BYTES = 1 << 10
MAX_TEXT_BYTES = 1 << 20
_HEAD = struct.Struct("<fi")


@dataclass(frozen=True)
class Tokenizer:
    """pieces: bytes of every token; scores: of the same length; begin and end: the tokens around a text."""

    pieces: tuple[bytes, ...]
    scores: tuple[float, ...]
    begin: int = 1
    end: int = 2
    unknown: int = field(default=0)  # stands for a byte that no piece has

    def check(self, shown: object = "the tokenizer") -> None:
        """Raises GreenedgeError with the first thing, called after `shown`, that makes it no tokenizer."""
        count = len(self.pieces)
        if not 3 <= count <= MAX_PIECES or len(self.scores) != count:
            raise GreenedgeError(
                f"{shown} has {count:,} pieces and {len(self.scores):,} scores; 3 to {MAX_PIECES:,} of each are wanted."
            )
        if not all(0 <= token < count for token in (self.begin, self.end, self.unknown)):
            raise GreenedgeError(
                f"{shown} begins texts with token {self.begin}, ends them with {self.end} and has {self.unknown} for "
                f"unknown bytes; its tokens are 0 to {count - 1}."
            )
        for number, (piece, score) in enumerate(zip(self.pieces, self.scores, strict=True)):
            if len(piece) > MAX_PIECE_BYTES or not math.isfinite(score):
                raise GreenedgeError(
                    f"{shown}: piece {number} has {len(piece):,} bytes and score {score}; at most "
                    f"{MAX_PIECE_BYTES:,} bytes and a finite score are possible."
                )

    @cached_property
    def _tokens(self) -> dict[bytes, int]:
        """{piece: token}, the first of equal pieces."""
        return {piece: token for token, piece in reversed(list(enumerate(self.pieces)))}

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, `begin` first. O(n log n). Raises GreenedgeError for a text above MAX_TEXT_BYTES."""
        content = text.encode("utf-8", "surrogateescape")
        if len(content) > MAX_TEXT_BYTES:
            raise GreenedgeError(f"the text has {len(content):,} bytes; at most {MAX_TEXT_BYTES:,} are encoded.")
        return [self.begin, *(self._merge(list(self._split(" " + text))) if text else ())]

    def _split(self, text: str) -> Iterator[int]:
        """The tokens of characters, or of the bytes of those that are no piece."""
        for character in text:
            content = character.encode("utf-8", "surrogateescape")
            if (token := self._tokens.get(content)) is not None:
                yield token
            else:
                yield from (self._tokens.get(b"<0x%02X>" % byte, self.unknown) for byte in content)

    def _merge(self, tokens: list[int]) -> list[int]:
        """Joins neighbours, the highest score first. `before` and `behind` link what is left; an entry of the heap is
        stale where one of its two tokens has changed."""
        before, behind = list(range(-1, len(tokens) - 1)), list(range(1, len(tokens) + 1))
        heap: list[tuple[float, int, int, int, int]] = []

        def offer(left: int) -> None:
            right = behind[left] if left >= 0 else len(tokens)
            if right < len(tokens):
                joined = self._tokens.get(self.pieces[tokens[left]] + self.pieces[tokens[right]])
                if joined is not None:
                    heapq.heappush(heap, (-self.scores[joined], left, joined, tokens[left], tokens[right]))

        for left in range(len(tokens)):
            offer(left)
        while heap:
            _, left, joined, first, second = heapq.heappop(heap)
            right = behind[left]
            if tokens[left] != first or right >= len(tokens) or tokens[right] != second:
                continue
            tokens[left], tokens[right], behind[left] = joined, -1, behind[right]
            if behind[right] < len(tokens):
                before[behind[right]] = left
            offer(before[left])
            offer(left)
        return [token for token in tokens if token >= 0]

    def spell(self, previous: int, token: int) -> bytes:
        """The bytes that a token adds to a text behind another; none for the tokens around a text.

        Raises GreenedgeError for a token that has no piece.
        """
        if not 0 <= token < len(self.pieces):
            raise GreenedgeError(f"token {token} has no piece; the tokenizer has 0 to {len(self.pieces) - 1}.")
        if token in (self.begin, self.end):
            return b""
        piece = self.pieces[token]
        if len(piece) == 6 and piece.startswith(b"<0x") and piece.endswith(b">"):
            try:
                return bytes([int(piece[3:5], 16)])
            except ValueError:
                return piece
        return piece[1:] if previous == self.begin and piece.startswith(b" ") else piece

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens; bytes that are no UTF-8 become U+FFFD. Raises GreenedgeError as spell() does."""
        content, previous = bytearray(), self.begin
        for token in tokens:
            content += self.spell(previous, token)
            previous = token
        return content.decode("utf-8", "replace")


def read_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer of llama2.c: the longest piece's bytes (int32), then per piece score (float32), bytes (int32), and
    the bytes. Raises GreenedgeError for a file that is missing, too large, or not in order."""
    if not path.is_file():
        raise GreenedgeError(f"there is no file {path}.")
    if (size := path.stat().st_size) > MAX_PIECES * (_HEAD.size + 64):
        raise GreenedgeError(f"{path} has {size:,} bytes, more than any tokenizer; give the model's tok….bin.")
    content = path.read_bytes()
    if len(content) < 4:
        raise GreenedgeError(f"{path} has {len(content)} bytes and is no tokenizer; give the model's tok….bin.")
    longest, place = int.from_bytes(content[:4], "little", signed=True), 4
    pieces: list[bytes] = []
    scores: list[float] = []
    while place < len(content):
        left = len(content) - place - _HEAD.size
        score, length = _HEAD.unpack_from(content, place) if left >= 0 else (0.0, -1)
        if not 0 <= length <= min(left, longest, MAX_PIECE_BYTES) or len(pieces) == MAX_PIECES:
            raise GreenedgeError(
                f"{path} is no tokenizer of llama2.c: piece {len(pieces)} at byte {place} does not fit; give the "
                "model's tok….bin, whole."
            )
        place += _HEAD.size
        pieces.append(content[place : place + length])
        scores.append(score)
        place += length
    tokenizer = Tokenizer(tuple(pieces), tuple(scores))
    tokenizer.check(path)
    return tokenizer


def join_pieces(pieces: Sequence[bytes]) -> tuple[bytes, list[int]]:
    """(all bytes, length of each): what a file keeps."""
    return b"".join(pieces), [len(piece) for piece in pieces]


def write_tokenizer(path: Path, tokenizer: Tokenizer) -> None:
    """The file that read_tokenizer reads. Raises GreenedgeError for a tokenizer that is none."""
    with atomic_write(path) as aside:
        aside.write_bytes(pack_tokenizer(tokenizer))


def pack_tokenizer(tokenizer: Tokenizer) -> bytes:
    """The bytes that read_tokenizer reads. Raises GreenedgeError for a tokenizer that is none."""
    tokenizer.check()
    content = bytearray(max(map(len, tokenizer.pieces)).to_bytes(4, "little"))
    for piece, score in zip(tokenizer.pieces, tokenizer.scores, strict=True):
        content += _HEAD.pack(score, len(piece)) + piece
    return bytes(content)
