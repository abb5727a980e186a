"""Tokens are those of llama2.c: the same merges as its loop over all neighbours; damaged files are refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenedge.decoder.tokenizer import Tokenizer, read_tokenizer
from greenedge.errors import GreenedgeError

BYTES = [b"<0x%02X>" % byte for byte in range(256)]
WORDS = [b" ", b"a", b"b", b"c", b"ab", b"bc", b"abc", b" a", b"aa", b"aaaa", b" ab", b"ca", b"cab", "é".encode()]
SMALL = Tokenizer(
    (b"<unk>", b"\n<s>\n", b"\n</s>\n", *BYTES, *WORDS),
    (0.0,) * 259 + tuple(float(-(number * 7 % 5)) for number in range(len(WORDS))),
)


def merge_slowly(tokenizer: Tokenizer, tokens: list[int]) -> list[int]:
    """llama2.c's own loop."""
    ids = {piece: token for token, piece in reversed(list(enumerate(tokenizer.pieces)))}
    while True:
        best, place, joined = -1e10, -1, -1
        for i in range(len(tokens) - 1):
            token = ids.get(tokenizer.pieces[tokens[i]] + tokenizer.pieces[tokens[i + 1]])
            if token is not None and tokenizer.scores[token] > best:
                best, place, joined = tokenizer.scores[token], i, token
        if place < 0:
            return tokens
        tokens[place : place + 2] = [joined]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(st.sampled_from("aaabbc é\nß"), max_size=40))
def test_merges_are_those_of_the_loop(text):
    tokens = SMALL.encode(text)
    assert tokens[0] == SMALL.begin
    assert tokens[1:] == (merge_slowly(SMALL, list(SMALL._split(" " + text))) if text else [])
    assert SMALL.decode(tokens) == text


def test_half_a_character_is_shown_as_such():
    assert SMALL.decode([3 + 0xC3]) == "\ufffd" and SMALL.decode([3 + 0xC3, 3 + 0xA9]) == "é"
    with pytest.raises(GreenedgeError, match="token 999 has no piece"):
        SMALL.decode([999])
    with pytest.raises(GreenedgeError, match="the text has"):
        SMALL.encode("a" * 2_000_000)


def write(tokenizer: Tokenizer) -> bytes:
    content = struct.pack("<i", max(map(len, tokenizer.pieces)))
    for piece, score in zip(tokenizer.pieces, tokenizer.scores, strict=True):
        content += struct.pack("<fi", score, len(piece)) + piece
    return content


def test_files_whole_and_damaged(tmp_path):
    path, content = tmp_path / "tok.bin", write(SMALL)
    path.write_bytes(content)
    assert read_tokenizer(path) == SMALL
    damaged = [content[:n] for n in (0, 3, 4, 11, 15, 200, len(content) - 1)]
    damaged += [content + b"\0", content[:8] + b"\xff\xff\xff\x7f" + content[12:], b"\0\0\0\0" + content[4:]]
    damaged += [content[:4] + struct.pack("<f", float("nan")) + content[8:], b"PK\3\4" + content, b"\x7fELF" * 100]
    for one in damaged:
        path.write_bytes(one)
        with pytest.raises(GreenedgeError) as caught:
            read_tokenizer(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(GreenedgeError, match="there is no file"):
        read_tokenizer(tmp_path / "none")


def test_the_published_tokenizer(shared):
    tokenizer = read_tokenizer(shared / "models" / "tok512.bin")
    assert len(tokenizer.pieces) == 512
    for text in ("Once upon a time, there was a little girl.", "Zwölf Boxkämpfer\n", "日本"):
        tokens = tokenizer.encode(text)
        assert tokens[1:] == merge_slowly(tokenizer, list(tokenizer._split(" " + text)))
        assert tokenizer.decode(tokens) == text
