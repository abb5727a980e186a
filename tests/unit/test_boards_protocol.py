"""The codec against itself, against damage, and against the C header."""

import itertools
import os
import re
import struct
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenedge.hdl import RTL
from greenedge.hdl.board_shell.protocol import (
    CHECKS,
    DATA,
    HEADER,
    MAX_PAYLOAD,
    POLY_A,
    POLY_B,
    RESULT,
    Decoder,
    Frame,
    check_a,
    check_b,
    encode,
)
from greenedge.hdl.board_shell.protocol_package import PATH, protocol_package
from greenedge.tools.discover import find_tool

# "check" in Greg Cook's Catalogue of parametrised CRC algorithms, which is the CRC of b"123456789": CRC-16/IBM-3740
# (polynomial 0x1021, initial value 0xFFFF) and CRC-16/T10-DIF (polynomial 0x8BB7, initial value 0)
IBM_3740_CHECK, T10_DIF_CHECK = 0x29B1, 0xD0DB
# an initial value is a complement of the first two bytes: from 0xFFFF these nine give what b"123456789" gives from 0
AS_T10_DIF = bytes((0x31 ^ 0xFF, 0x32 ^ 0xFF)) + b"3456789"

FRAMES = st.builds(Frame, st.integers(0, 255), st.integers(0, 65535), st.binary(max_size=300))
NASTY = st.lists(st.sampled_from(list(range(0x7B, 0x81)) + [0, 1, 0x5C, 0x5D, 0x5E]), max_size=80).map(bytes)


def portions(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(c % (len(data) + 1) for c in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def test_the_checks_are_the_published_ones():
    assert check_a(b"123456789") == IBM_3740_CHECK
    assert check_b(AS_T10_DIF) == T10_DIF_CHECK
    assert check_b(b"") == 0xFFFF


@pytest.mark.tool("yosys")
def test_the_boards_checks_are_the_published_ones(tmp_path):
    """ge_crc with the polynomials that the board's frames have, nine bytes long; yosys's solver evaluates it."""
    for name in ("ge_protocol_pkg.sv", "ge_crc.sv"):
        (tmp_path / name).write_bytes((RTL / "board" / name).read_bytes())
    chains = "".join(
        f"    ge_crc #(.POLY(ge_protocol_pkg::CHECK_{check}_POLY)) {check.lower()}{i} (\n"
        f"        .crc({check.lower()}[{i}]), .data(8'h{byte:02x}), .next({check.lower()}[{i + 1}]));\n"
        for check, text in (("A", b"123456789"), ("B", AS_T10_DIF))
        for i, byte in enumerate(text)
    )
    (tmp_path / "top.sv").write_text(
        "module top (output logic [15:0] check_a, output logic [15:0] check_b);\n    logic [15:0] a [10], b [10];\n"
        "    assign a[0] = ge_protocol_pkg::CHECK_INIT;\n    assign b[0] = ge_protocol_pkg::CHECK_INIT;\n"
        f"{chains}    assign check_a = a[9];\n    assign check_b = b[9];\nendmodule\n"
    )
    (tmp_path / "prove.ys").write_text(
        "read_slang --threads 1 --top top ge_protocol_pkg.sv ge_crc.sv top.sv\nproc\nflatten\nopt -full\n"
        f"sat -verify -prove check_a {IBM_3740_CHECK} -prove check_b {T10_DIF_CHECK} top\n"
    )
    tool = find_tool("yosys")
    done = subprocess.run(
        [*tool.argv, "-s", "prove.ys"],
        cwd=tmp_path,
        env={**os.environ, **tool.env},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0 and "SUCCESS!" in done.stdout, done.stdout + done.stderr


def test_the_boards_package_is_that_of_the_protocol():
    """Byte for byte: `python -m greenedge.hdl.board_shell.protocol_package` writes it anew."""
    assert PATH.read_text() == protocol_package()


def test_no_board_unit_writes_a_number_of_the_protocol():
    """Bytes of the line, types, polynomials: what differs from protocol.py would be heard on a real board first."""
    for path in sorted((RTL / "board").glob("ge_*.sv")):
        if path != PATH:
            assert not re.findall(r"8'h(?!00)\w+|6'h\w+|16'h(?:1021|8BB7|FFFF)|32'h\w+", path.read_text()), path


def test_the_two_polynomials_have_no_common_factor():
    a, b = 0x10000 | POLY_A, 0x10000 | POLY_B
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
