"""One session with a board: opens it and streams samples through it, without losing or duplicating a result.

Every request has its own number. An answer is accepted only for a request that is still waiting, and only with the
length that it asks for; a request without an answer is sent again under a new number, until it is answered or has been
sent `tries` times. Answers come in order, so a gap shows a loss at once; silence shows it after a time that adapts to
the board's pace.
"""

from __future__ import annotations

import os
import struct
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from greenedge.boards.errors import BoardError, LinkLost
from greenedge.boards.ports import Port
from greenedge.hdl.board_shell import protocol
from greenedge.hdl.board_shell.protocol import HEADER, REGISTERS, Decoder, Frame, encode
from greenedge.progress import ProgressFn, no_progress

_SILENCE_S = (0.15, 10.0)  # shortest and longest silence after which answers count as lost
_OPEN_TRIES = 12
_NEARLY_FULL = (1 << 32) - (1 << 24)  # beyond it the low word may overflow between two words of an answer


@dataclass(frozen=True)
class Status:
    """The board's registers by name; `model` in hexadecimal, cycle counts with both words."""

    values: Mapping[str, int]
    model: str

    def __getitem__(self, name: str) -> int:
        return self.values[name]


@dataclass(frozen=True)
class Tally:
    """A session's counts: requests sent, requests lost, damaged frames, unexpected frames, resets, reconnections."""

    requests: int = 0
    lost: int = 0
    bad_frames: int = 0
    strays: int = 0
    resets: int = 0
    reconnections: int = 0


@dataclass
class _Waiting:
    """A request without an answer: its first sample and count, how often it was sent, its bytes of credit."""

    first: int
    count: int
    tries: int
    cost: int


@dataclass
class Session:
    """A session with a board over a port; `connect()` opens the port, also after it was lost."""

    connect: Callable[[], Port]
    board: Mapping
    name: str = "the board"
    tries: int = 40
    reconnect_s: float = 5.0
    tally: Tally = Tally()
    _port: Port | None = None
    _decoder: Decoder = field(default_factory=Decoder)
    _seq: int = 0
    _silence_s: float = 0.5
    _batch: int = 0

    def __enter__(self) -> Session:
        self._seq = int.from_bytes(os.urandom(2), "little")
        self._port = self.connect()
        try:
            self.open()
            self._check_model()
            self.tally = Tally()  # frames that a second OPEN cut short are not noise
        except LinkLost as error:
            self.close()
            raise BoardError(f"{error}; plug the board in and run the same command again.") from None
        except BoardError:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the port."""
        if self._port is not None:
            self._port.close()
            self._port = None

    # -- single requests
    # --------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Starts a new session on the board: earlier requests get no answer. Raises BoardError where no board
        answers."""
        nonce = os.urandom(4)
        for _ in range(_OPEN_TRIES):
            self._send(protocol.OPEN, nonce)
            for frame in self._frames_until(protocol.OPENED):
                if frame.kind == protocol.OPENED and frame.payload == nonce:
                    return
        raise BoardError(
            f"nobody answers at {self.name} with {self.board['baud']:,} baud; is the board on, and programmed with "
            "this run (greenedge program RUN)?"
        )

    def ask(self, kind: int, payload: bytes, wait_s: float = 0.0) -> bytes:
        """The payload of the answer to a request that may be executed twice. Raises BoardError for a refusal or
        silence."""
        for _ in range(self.tries):
            seq = self._send(kind, payload)
            for frame in self._frames_until(kind | protocol.ANSWER, wait_s):
                if frame.seq != seq:
                    continue
                if frame.kind == protocol.ERROR:
                    if frame.payload == bytes((protocol.NOT_OPEN,)):
                        self._reopen_after_reset()
                        break
                    raise BoardError(
                        f"{self.name} refuses {protocol.NAMES[kind]}: "
                        f"{protocol.ERRORS.get(frame.payload[0], 'unknown') if frame.payload else 'unknown'}."
                    )
                if frame.kind == kind | protocol.ANSWER:
                    return frame.payload
        raise BoardError(
            f"{self.name} does not answer {protocol.NAMES[kind]}; the line may be too noisy, try a lower rate."
        )

    def status(self) -> Status:
        """All registers of the board."""
        while True:
            words = struct.unpack(
                f"<{protocol.REGISTER_COUNT}I", self.ask(protocol.READ, bytes((0, protocol.REGISTER_COUNT)))
            )
            # A low word near its overflow may belong to another high word than the one read after it: read again.
            if max(words[REGISTERS[name]] for name in protocol.LONG) < _NEARLY_FULL:
                break
        values = {name: words[at] for name, at in REGISTERS.items() if name != "model"}
        for name in protocol.LONG:
            values[name] |= words[REGISTERS[name] + 1] << 32
        return Status(values, struct.pack("<8I", *words[8:16]).hex())

    def mark(self, level: bool) -> int:
        """Sets the marker pin; the number of its edges since the board's reset. A repeated request makes no edge."""
        return struct.unpack("<I", self.ask(protocol.MARK, bytes((int(level),))))[0]

    def loop(self, sample: bytes, passes: int, wait_s: float) -> bytes:
        """The outputs of the last of `passes` over the samples, which the board computes without the line."""
        return self.ask(protocol.LOOP, struct.pack("<I", passes) + sample, wait_s)

    # -- streaming
    # --------------------------------------------------------------------------------------------------------

    def infer(
        self, samples: Sequence[bytes], progress: ProgressFn = no_progress, batch: int | None = None
    ) -> list[bytes | None]:
        """One output per sample, in order; None for a sample that was lost `tries` times.

        Raises BoardError with the results so far when the port is away for more than `reconnect_s`.
        """
        stream = _Stream(self, samples, progress, batch)
        while not stream.is_complete:
            self._advance(stream)
        return stream.results

    def stream(self, samples: Sequence[bytes]) -> Iterator[bytes]:
        """The outputs in order, each as soon as it has come; the requests run ahead as far as the board's credit lets
        them. Raises BoardError for a sample that was lost `tries` times, and as `infer` does."""
        stream = _Stream(self, samples, no_progress, 1)
        for number in range(len(samples)):
            while stream.results[number] is None and not stream.is_complete:
                self._advance(stream)
            result = stream.results[number]
            if result is None:
                raise BoardError(
                    f"{self.name} has not answered request {number + 1} of {len(samples)} after {self.tries} tries; "
                    "try a lower rate or a shorter cable.",
                    stream.results,
                )
            yield result

    def _advance(self, stream: _Stream) -> None:
        try:
            stream.step()
        except LinkLost as error:
            stream.lose_all()
            self._reconnect(error, stream)

    def _reconnect(self, error: LinkLost, stream: _Stream) -> None:
        """Opens the port again. Raises BoardError with the results so far after `reconnect_s`."""
        end = time.monotonic() + self.reconnect_s
        self.close()
        while True:
            try:
                self._port = self.connect()
                self._decoder = Decoder()
                self.open()
                self.tally = replace(self.tally, reconnections=self.tally.reconnections + 1)
                return
            except (BoardError, LinkLost):
                self.close()
                if time.monotonic() > end:
                    done = sum(result is not None for result in stream.results)
                    raise BoardError(
                        f"{error}; {done:,} of {len(stream.results):,} results have come, none twice; plug the board "
                        "in and run the same command again.",
                        stream.results,
                    ) from None
                time.sleep(0.05)

    # -- the line
    # ---------------------------------------------------------------------------------------------------------

    @property
    def _connected_port(self) -> Port:
        assert self._port is not None, "the session is closed"
        return self._port

    def _send(self, kind: int, payload: bytes) -> int:
        self._seq = (self._seq + 1) & 0xFFFF
        self._connected_port.write(encode(Frame(kind, self._seq, payload)))
        return self._seq

    def _frames_until(self, kind: int, wait_s: float = 0.0) -> Iterator[Frame]:
        """Frames as they arrive, until one of this kind has, or nothing for `wait_s` or the usual silence."""
        last = time.monotonic()
        limit = max(wait_s, self._silence_s)
        while time.monotonic() - last < limit:
            data = self._connected_port.read(min(limit, 0.1))
            if data:
                last = time.monotonic()
            for frame in self._take(data):
                yield frame
                if frame.kind == kind:
                    limit = min(limit, self._silence_s)

    def _take(self, data: bytes) -> list[Frame]:
        bad = self._decoder.bad
        frames = self._decoder.feed(data)
        if self._decoder.bad != bad:
            self.tally = replace(self.tally, bad_frames=self.tally.bad_frames + self._decoder.bad - bad)
        return frames

    def _reopen_after_reset(self) -> None:
        self.tally = replace(self.tally, resets=self.tally.resets + 1)
        self.open()

    def _check_model(self) -> None:
        """Raises BoardError unless the board holds this run's model."""
        status = self.status()
        if status["magic"] != protocol.MAGIC or status["version"] != protocol.VERSION:
            raise BoardError(
                f"{self.name} speaks version {status['version']} of the protocol; this greenedge speaks "
                f"{protocol.VERSION}: build and program the run again."
            )
        if status.model != self.board["model"]:
            raise BoardError(
                f"{self.name} holds model {status.model[:12]}, the run is model {self.board['model'][:12]}; "
                "program it first (greenedge program RUN)."
            )
        for name, key in (("input", "input_bytes"), ("output", "output_bytes")):
            if status[key] != self.board[name]["bytes"]:
                raise BoardError(
                    f"{self.name} takes {status[key]} bytes of {name} per sample, the run says "
                    f"{self.board[name]['bytes']}; build and program the run again."
                )


class _Stream:
    """The state of `Session.infer`: samples to send, requests that wait for an answer, results."""

    def __init__(self, session: Session, samples: Sequence[bytes], progress: ProgressFn, batch: int | None):
        self.session, self.samples, self.progress = session, samples, progress
        self.results: list[bytes | None] = [None] * len(samples)
        self.size = session.board["input"]["bytes"]
        self.out = session.board["output"]["bytes"]
        assert all(len(sample) == self.size for sample in samples), "a sample is not of the board's size"
        credit = session.board["credit"]
        # a third of the buffer, so that one request is received while another is computed
        self.largest = batch or max(1, min(255, (credit // 3 - HEADER) // self.size, 2048 // self.out or 1))
        self.batch = min(session._batch or self.largest, self.largest)
        self.todo: deque[tuple[int, int, int]] = deque([(0, len(samples), 0)] if samples else [])
        self.waiting: OrderedDict[int, _Waiting] = OrderedDict()
        self.used = 0
        self.given_up = 0
        self.done = 0
        self.heard = time.monotonic()

    @property
    def is_complete(self) -> bool:
        """Whether every sample has a result or was given up."""
        return self.done + self.given_up == len(self.samples)

    def step(self) -> None:
        """Sends as far as the credit allows, takes answers, detects losses."""
        self._fill()
        session = self.session
        data = session._connected_port.read(min(session._silence_s, 0.1))
        now = time.monotonic()
        if data:
            gap = now - self.heard
            session._silence_s = min(_SILENCE_S[1], max(_SILENCE_S[0], 0.98 * session._silence_s, 4 * gap))
            self.heard = now
            for frame in session._take(data):
                self._answer(frame)
        elif now - self.heard > session._silence_s and self.waiting:
            self.lose_all()
            self.heard = now
            # The board may be slow and the line good: wait longer the next time.
            session._silence_s = min(_SILENCE_S[1], 2 * session._silence_s)
        session._batch = self.batch

    def _fill(self) -> None:
        credit = self.session.board["credit"]
        if not self.waiting:
            self.heard = time.monotonic()
        while self.todo:
            first, count, tries = self.todo[0]
            part = min(count, self.batch)
            cost = HEADER + part * self.size
            if self.used + cost > credit and self.waiting:
                return
            self.todo.popleft()
            if count > part:
                self.todo.appendleft((first + part, count - part, tries))
            if tries >= self.session.tries:
                self.given_up += part
                continue
            payload = b"".join(self.samples[first : first + part])
            entry = _Waiting(first, part, tries + 1, cost)
            seq = (self.session._seq + 1) & 0xFFFF
            self.waiting[seq] = entry  # before sending: if the port disappears now, the request is known to be lost
            self.used += cost
            self.session._send(protocol.DATA, payload)
            self.session.tally = replace(self.session.tally, requests=self.session.tally.requests + 1)

    def _answer(self, frame: Frame) -> None:
        if frame.kind == protocol.ERROR and frame.payload == bytes((protocol.NOT_OPEN,)) and frame.seq in self.waiting:
            self.lose_all()
            self.session._reopen_after_reset()
            return
        entry = self.waiting.get(frame.seq)
        if entry is None or frame.kind != protocol.RESULT:
            if frame.kind == protocol.ERROR and entry is not None:
                raise BoardError(
                    f"{self.session.name} refuses a request: "
                    f"{protocol.ERRORS.get(frame.payload[0] if frame.payload else 0, 'unknown')}.",
                    self.results,
                )
            self.session.tally = replace(self.session.tally, strays=self.session.tally.strays + 1)
            return
        self._lose_before(frame.seq)
        del self.waiting[frame.seq]
        self.used -= entry.cost
        if len(frame.payload) != entry.count * self.out:
            raise BoardError(
                f"{self.session.name} answers {entry.count} samples with {len(frame.payload)} bytes instead of "
                f"{entry.count * self.out}; build and program the run again.",
                self.results,
            )
        for k in range(entry.count):
            self.results[entry.first + k] = frame.payload[k * self.out : (k + 1) * self.out]
        self.done += entry.count
        if entry.tries == 1 and self.batch < self.largest:
            self.batch += 1
        self.progress(self.done, len(self.samples), "")

    def _lose_before(self, seq: int) -> None:
        """Requests before `seq` are lost: answers come in order."""
        gone = []
        for earlier in self.waiting:
            if earlier == seq:
                break
            gone.append(earlier)
        self._lose(gone)

    def lose_all(self) -> None:
        """All waiting requests are lost."""
        self._lose(list(self.waiting))

    def _lose(self, gone: Sequence[int]) -> None:
        """Queues the samples of these requests again, in smaller batches."""
        for seq in reversed(gone):
            entry = self.waiting.pop(seq)
            self.used -= entry.cost
            self.todo.appendleft((entry.first, entry.count, entry.tries))
        if gone:
            self.batch = max(1, self.batch // 2)
            self.session.tally = replace(self.session.tally, lost=self.session.tally.lost + len(gone))
