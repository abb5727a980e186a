"""The codec against itself, against damage, and against the C header."""

import itertools
import struct

from hypothesis import given
from hypothesis import strategies as st

from greenedge.hdl.board_shell.protocol import (
    CHECKS,
    DATA,
    HEADER,
    MAX_PAYLOAD,
    RESULT,
    Decoder,
    Frame,
    check_a,
    check_b,
    encode,
)

FRAMES = st.builds(Frame, st.integers(0, 255), st.integers(0, 65535), st.binary(max_size=300))
NASTY = st.lists(st.sampled_from(list(range(0x7B, 0x81)) + [0, 1, 0x5C, 0x5D, 0x5E]), max_size=80).map(bytes)


def portions(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(c % (len(data) + 1) for c in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def test_the_checks_are_the_published_ones():
    assert check_a(b"123456789") == 0x29B1  # CRC-16/IBM-3740
    # CRC-16/T10-DIF has the same polynomial and initial value 0, for which its published value is 0xD0DB
    crc = 0
    for byte in b"123456789":
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x8BB7 if crc & 0x8000 else crc << 1) & 0xFFFF
    assert crc == 0xD0DB
    assert check_b(b"") == 0xFFFF


def test_the_two_polynomials_have_no_common_factor():
    a, b = 0x11021, 0x18BB7
    while b:
        while a.bit_length() >= b.bit_length():
            a ^= b << (a.bit_length() - b.bit_length())
        a, b = b, a
    assert a == 1


@given(st.lists(FRAMES, max_size=5), st.lists(st.integers(0, 5000), max_size=8))
def test_what_is_sent_arrives_in_any_portions(frames, cuts):
    decoder, got = Decoder(), []
    for part in portions(b"".join(map(encode, frames)), cuts):
        got += decoder.feed(part)
    assert got == frames and decoder.bad == 0


@given(FRAMES, NASTY, st.integers(0, 200))
def test_reserved_bytes_and_idle_anywhere(frame, nasty, at):
    frame = Frame(frame.kind, frame.seq, frame.payload + nasty)
    wire = encode(frame)
    assert wire.count(b"\x7e") == 2 and b"\x7c" not in wire and b"\x7f" not in wire
    at %= len(wire)
    assert Decoder().feed(wire[:at] + b"\x7c" * 3 + wire[at:]) == [frame]


@given(st.lists(st.one_of(NASTY, st.binary(max_size=60), FRAMES.map(encode)), max_size=12))
def test_noise_never_breaks_the_decoder_and_the_next_frame_gets_through(parts):
    decoder = Decoder(limit=500)
    for part in parts:
        decoder.feed(part)
        assert len(decoder._body) <= 500
    last = Frame(DATA, 7, b"still here")
    assert decoder.feed(b"\x7e" + encode(last))[-1:] == [last]


@given(FRAMES, st.data())
def test_a_damaged_frame_is_none(frame, data):
    wire = bytearray(encode(frame))
    at = data.draw(st.integers(1, len(wire) - 2))
    if data.draw(st.booleans()):
        del wire[at]
    else:
        wire[at] ^= data.draw(st.integers(1, 255))
    assert all(got == frame for got in Decoder().feed(bytes(wire)))  # IDLE in the place of nothing, or nothing at all


def test_a_length_that_lies():
    for length in (0, 1, 3, 5, MAX_PAYLOAD):
        body = struct.pack("<BHH", RESULT, 1, length) + b"four"
        wire = b"\x7e" + body + struct.pack("<HH", check_a(body), check_b(body)) + b"\x7e"
        decoder = Decoder()
        assert decoder.feed(wire) == [] and decoder.bad == 1


def test_one_check_alone_does_not_do():
    body = struct.pack("<BHH", RESULT, 1, 1) + b"x"
    for a, b in ((0, 1), (1, 0)):
        checks = struct.pack("<HH", check_a(body) ^ a, check_b(body) ^ b)
        assert b"\x7e" not in checks + body
        assert Decoder().feed(b"\x7e" + body + checks + b"\x7e") == []


def test_an_endless_frame_takes_bounded_memory():
    decoder = Decoder()
    for _ in range(40):
        decoder.feed(b"x" * 10_000)
    assert len(decoder._body) == HEADER + MAX_PAYLOAD + CHECKS
    assert decoder.feed(b"\x7e" + encode(Frame(1, 2))) == [Frame(1, 2)] and decoder.bad == 1


def test_nothing_between_flags_is_no_frame():
    decoder = Decoder()
    assert decoder.feed(b"\x7e" * 10) == [] and decoder.bad == 0
