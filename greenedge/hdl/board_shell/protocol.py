"""What a board and its host say to each other, and the codec of the host's side.

Bytes travel over a UART (8N1) or SPI. A frame is

    FLAG  type  sequence(2)  length(2)  payload(length)  check_a(2)  check_b(2)  FLAG

Numbers have their low byte first. Between the two FLAGs every byte 0x7C…0x7F is sent as ESCAPE followed by the byte XOR
0x20, so a FLAG (0x7E) can only be a FLAG: a receiver that has lost its place finds it again at the next one. IDLE
(0x7C) may stand anywhere and means nothing: an SPI slave sends it while it has nothing to say. Two FLAGs in a row are
no frame. A frame counts only if its length and both checks agree; otherwise it is counted and forgotten.

check_a is CRC-16/IBM-3740 over type…payload. check_b is the same with the polynomial 0x8BB7 (that of T10-DIF, initial
value 0xFFFF). Why two: with 1 % of bytes corrupted, 6 % of the frames of 40 bytes have two corrupted bytes or more, of
which one CRC-16 passes one in 65,536: a wrong result in one of seventy runs of 10,000 inferences. The polynomials have
no common factor, so together they are a check of 32 bits.

Requests and their answers, in the order in which they were received:

    OPEN    nonce(4)                 OPENED  nonce(4)           the core, the buffers and the session's counters start
            anew
    DATA    samples                  RESULT  outputs            one output for every sample, in order
    LOOP    passes(4) samples        LOOPED  outputs            computes them `passes` times; the outputs of the last
            pass
    READ    first(1) count(1)        VALUES  count words(4)     status registers (`REGISTERS`)
    MARK    level(1)                 MARKED  edges(4)           sets the marker pin; the edges since reset, this one
            included
    anything that cannot be done     ERROR   code(1)            `ERRORS`

An answer carries its request's sequence number. After a reset a board answers DATA and LOOP with ERROR "not open" until
it is opened: what was under way is lost, and the host knows. OPEN is a barrier: the host discards everything before the
OPENED with its nonce, and the board breaks off what is under way, a LOOP of any length included.

Credits. A request takes HEADER + length bytes of the board's buffer until it has been fed to the core. The host keeps
the sum over its unanswered requests within the register CREDIT; an answer gives its request's bytes back. A host that
has given up on an answer may be wrong; should the buffer then overflow, the board counts it and drops that frame whole.

Losses. Answers come in order, so an answer to a later request tells that earlier ones are lost (request or answer). A
board never answers a request twice, and the same request sent again has a new sequence number.
"""

from __future__ import annotations

import binascii
import re
import struct
from dataclasses import dataclass, field

VERSION = 1
MAGIC = int.from_bytes(b"GEB1", "little")
ESCAPE_FROM, IDLE, ESCAPE, FLAG, ESCAPE_TO = 0x7C, 0x7C, 0x7D, 0x7E, 0x7F
FLIP = 0x20
HEADER, CHECKS = 5, 4
MAX_PAYLOAD = 0xFFFF

OPEN, DATA, LOOP, READ, MARK = 0x01, 0x02, 0x03, 0x04, 0x05
ANSWER = 0x80
OPENED, RESULT, LOOPED, VALUES, MARKED, ERROR = 0x81, 0x82, 0x83, 0x84, 0x85, 0xFF
NAMES = {
    OPEN: "OPEN",
    DATA: "DATA",
    LOOP: "LOOP",
    READ: "READ",
    MARK: "MARK",
    OPENED: "OPENED",
    RESULT: "RESULT",
    LOOPED: "LOOPED",
    VALUES: "VALUES",
    MARKED: "MARKED",
    ERROR: "ERROR",
}
NOT_OPEN, BAD_LENGTH, UNKNOWN = 1, 2, 3
ERRORS = {
    NOT_OPEN: "the board has been reset since the session began",
    BAD_LENGTH: "a length that is no whole number of samples",
    UNKNOWN: "a request that this board does not know",
}

# Status registers of 32 bits, up to 36 cycles old; a count of cycles has two, the low one first. Where the low one is
# about to overflow, the high one may be of a later time: read again. What is marked * starts anew with every OPEN.
REGISTERS = {
    "magic": 0,
    "version": 1,
    "clock_hz": 2,
    "baud": 3,
    "input_bytes": 4,
    "output_bytes": 5,
    "credit": 6,
    "marks": 7,
    "model": 8,  # model: 8 registers, sha256 of the integer graph
    "cycles": 16,
    "busy": 18,
    "stalled": 20,  # *: all; a sample in the core; an output not taken
    "samples_in": 22,
    "samples_out": 23,  # *
    "latency": 24,  # *: cycles from first beat in to last beat out, last sample alone
    "interval": 25,  # *: cycles between the last two samples' last beats
    "frames": 26,
    "bad_frames": 27,
    "line_errors": 28,
    "overflows": 29,
    "opens": 30,
    "state": 31,
}
REGISTER_COUNT = 32
LONG = ("cycles", "busy", "stalled")

_HEAD = struct.Struct("<BHH")
_RESERVED = re.compile(rb"[\x7c-\x7f]")
POLY_A, POLY_B, CHECK_INIT = 0x1021, 0x8BB7, 0xFFFF


def _table(poly: int) -> list[int]:
    table = []
    for byte in range(256):
        crc = byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ poly if crc & 0x8000 else crc << 1) & 0xFFFF
        table.append(crc)
    return table


_TABLE_B = _table(POLY_B)


def check_a(body: bytes) -> int:
    """CRC-16/IBM-3740: polynomial 0x1021, initial value 0xFFFF, not reflected; 0x29B1 for b"123456789"."""
    return binascii.crc_hqx(body, CHECK_INIT)


def check_b(body: bytes) -> int:
    """Polynomial 0x8BB7, initial value 0xFFFF, not reflected."""
    crc = CHECK_INIT
    for byte in body:
        crc = (crc << 8 & 0xFFFF) ^ _TABLE_B[crc >> 8 ^ byte]
    return crc


@dataclass(frozen=True)
class Frame:
    """One message."""

    kind: int
    seq: int
    payload: bytes = b""

    def __str__(self) -> str:
        return f"{NAMES.get(self.kind, hex(self.kind))} {self.seq} ({len(self.payload)} bytes)"


def encode(frame: Frame) -> bytes:
    """The bytes of a frame on the line."""
    assert len(frame.payload) <= MAX_PAYLOAD, "payload too long"
    body = _HEAD.pack(frame.kind, frame.seq, len(frame.payload)) + frame.payload
    whole = body + struct.pack("<HH", check_a(body), check_b(body))
    return b"\x7e" + _RESERVED.sub(lambda found: bytes((ESCAPE, found[0][0] ^ FLIP)), whole) + b"\x7e"


@dataclass
class Decoder:
    """Bytes in, frames out, in any portions. `bad` counts what was no frame. Keeps at most `limit` bytes."""

    limit: int = HEADER + MAX_PAYLOAD + CHECKS
    bad: int = 0
    _body: bytearray = field(default_factory=bytearray)
    _escaped: bool = False
    _broken: bool = False

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that end in `data`."""
        frames = []
        for part in re.split(b"(\x7e)", bytes(data)):
            if part == b"\x7e":
                frame = self._end()
                if frame is not None:
                    frames.append(frame)
            elif part:
                self._take(part)
        return frames

    def _take(self, part: bytes) -> None:
        for byte in part:
            if byte == IDLE:
                continue
            if byte == ESCAPE_TO or (byte == ESCAPE and self._escaped):
                self._broken = True
            if byte == ESCAPE:
                self._escaped = True
                continue
            if len(self._body) >= self.limit:
                self._broken = True
                return
            self._body.append(byte ^ FLIP if self._escaped else byte)
            self._escaped = False

    def _end(self) -> Frame | None:
        body, broken = bytes(self._body), self._broken or self._escaped
        self._body.clear()
        self._escaped = self._broken = False
        if not body and not broken:
            return None
        if not broken and len(body) >= HEADER + CHECKS:
            kind, seq, length = _HEAD.unpack_from(body)
            inner = body[:-CHECKS]
            if length == len(inner) - HEADER and body[-CHECKS:] == struct.pack("<HH", check_a(inner), check_b(inner)):
                return Frame(kind, seq, inner[HEADER:])
        self.bad += 1
        return None
