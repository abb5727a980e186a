"""A board for a decoder behind a pseudo-terminal, without any simulation: it draws its tokens by numpy, and can
misbehave."""

from __future__ import annotations

import os
import select
import struct
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from greenedge.decoder.execute import StepDecoder
from greenedge.decoder.record import Decoder
from greenedge.decoder.sampling import advance, choose
from greenedge.hdl.board_shell import protocol as p

Spoil = Callable[[bytes], bytes]


class _Board:
    """Answers requests of ge_decoder_stream in order; `status` is what every token is answered with."""

    def __init__(self, decoder: Decoder, model: str, status: int) -> None:
        self.machine, self.model, self.status, self.last = StepDecoder(decoder), bytes.fromhex(model), status, 0

    def answer(self, frame: p.Frame) -> p.Frame:
        if frame.kind == p.OPEN:
            self.machine.position = 0
            return p.Frame(p.OPENED, frame.seq, frame.payload)
        if frame.kind == p.READ:
            words = {0: p.MAGIC, 1: p.VERSION, 2: 50_000_000, 4: 16, 5: 8}
            words |= {8 + k: word for k, word in enumerate(struct.unpack("<8I", self.model))}
            first, count = frame.payload
            payload = b"".join(words.get(first + k, 0).to_bytes(4, "little") for k in range(count))
            return p.Frame(p.VALUES, frame.seq, payload)
        requests = [frame.payload[at : at + 16] for at in range(0, len(frame.payload), 16)]
        return p.Frame(p.RESULT, frame.seq, b"".join(map(self._take, requests)))

    def _take(self, request: bytes) -> bytes:
        word, at, _, unit, state = struct.unpack("<IHHII", request)
        if self.status:
            return struct.pack("<II", self.status, 0)
        assert at <= self.machine.position, "a request that comes again is allowed, one too early is not"
        self.machine.position = at
        logits = self.machine.step(self.last if word & 2 else word >> 8)
        if word & 1:
            decoder = self.machine.decoder
            temperature = decoder.temperature_unit * 256 // unit if unit else 0
            self.last = choose(decoder, logits, temperature, advance(state))
        return struct.pack("<II", self.last << 8, 5000)


@contextmanager
def serve(decoder: Decoder, model: str, spoil: Spoil = lambda data: data, status: int = 0) -> Iterator[str]:
    """The path of the board's terminal; `spoil` changes the bytes of every answer."""
    board, codec, ended = _Board(decoder, model, status), p.Decoder(), threading.Event()
    ours, theirs = os.openpty()
    tty.setraw(theirs)

    def run() -> None:
        while not ended.is_set():
            if select.select([ours], [], [], 0.05)[0]:
                for frame in codec.feed(os.read(ours, 4096)):
                    os.write(ours, spoil(p.encode(board.answer(frame))))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield os.ttyname(theirs)
    finally:
        ended.set()
        thread.join()
        os.close(ours)
        os.close(theirs)
