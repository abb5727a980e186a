"""Inference on a board, real or virtual: integers in, integers out, with the board's counters and the wall time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from greenedge.boards.errors import BoardError
from greenedge.boards.link_session import Session
from greenedge.boards.ports import SerialPort
from greenedge.boards.virtual import VirtualBoard, read_board
from greenedge.errors import GreenedgeError
from greenedge.hdl.axi_stream import Stream, pack, unpack
from greenedge.progress import ProgressFn, no_progress


@dataclass(frozen=True)
class Figures:
    """A board's counters. `evidence`: measured (a real board) or simulated.

    `latency_s`: first beat in to last beat out of a sample alone in the core. `busy_s` is the time with a sample in the
    core, `stalled_s` that with an output waiting for the line. `wall_s` is the time that the host waited; on a virtual
    board `line_s` is the same in simulated time. Unknown is None.
    """

    evidence: str
    samples: int
    clock_hz: int
    latency_s: float | None
    busy_s: float
    stalled_s: float
    wall_s: float
    line_s: float | None
    requests: int
    requests_lost: int
    bad_frames: int
    resets: int

    def plain(self) -> dict:
        """The JSON form."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@contextmanager
def connect_board(
    build: Path,
    port: str | None = None,
    baud: int | None = None,
    progress: Callable[[str], None] = lambda line: None,
    seed: int = 1,
    silence_s: float = 0.5,
    limit_s: int = 600,
) -> Iterator[tuple[Session, VirtualBoard | None]]:
    """A session with the board at `port`, or with the virtual board of the build folder where `port` is None.
    `silence_s`: how long the virtual board may compute at first before a request counts as lost; `limit_s`: how long
    its simulation may take.

    Raises BoardError where no board answers, or one with another model.
    """
    board = read_board(build)
    if port is not None:
        rate = baud or board["baud"]
        with Session(lambda: SerialPort(port, rate), {**board, "baud": rate}, port) as session:
            yield session, None
        return
    with VirtualBoard(build, seed=seed, limit_s=limit_s, progress=progress) as virtual:
        name = "the virtual board"
        with Session(lambda: SerialPort(virtual.port, board["baud"]), board, name, _silence_s=silence_s) as session:
            yield session, virtual


def streams_of(board: Mapping) -> tuple[Stream, Stream]:
    """The board's input and output streams."""
    return Stream.from_plain(board["input"]["stream"]), Stream.from_plain(board["output"]["stream"])


def pack_samples(board: Mapping, x: np.ndarray) -> list[bytes]:
    """The bytes of each sample of integers `x` (samples, *shape). Raises GreenedgeError for another shape or range."""
    source, _ = streams_of(board)
    if x.shape[1:] != source.shape:
        raise GreenedgeError(f"the samples have shape {x.shape[1:]}; the board takes {source.shape}.")
    low = -(1 << source.bits - 1) if source.signed else 0
    high = low + (1 << source.bits) - 1
    if x.size and (x.min() < low or x.max() > high):
        raise GreenedgeError(f"the samples reach from {x.min()} to {x.max()}; the board takes {low} to {high}.")
    size = board["input"]["bytes"]
    data = pack(source, x)
    return [data[k * size : (k + 1) * size] for k in range(len(x))]


def unpack_results(board: Mapping, results: list[bytes]) -> np.ndarray:
    """The integers (samples, *shape) of the outputs."""
    return unpack(streams_of(board)[1], b"".join(results), len(results))


def samples_within(board: Mapping, samples: int, cycles: int) -> int:
    """How many of `samples` the board computes, and its line carries, in `cycles` of its clock; at least one."""
    line_cycles = max(board["input"]["bytes"], board["output"]["bytes"]) * 10 * board["clock_hz"] / board["baud"]
    return max(1, min(samples, int(cycles / max(line_cycles, board.get("cycles_per_inference") or 0))))


def infer_on_board(
    build: Path, x: np.ndarray, port: str | None = None, baud: int | None = None, progress: ProgressFn = no_progress
) -> tuple[dict[str, np.ndarray], Figures]:
    """({output edge: int64}, figures) for integers `x` (samples, *shape) from the board at `port`, or the virtual one.

    Raises BoardError with the number of results that were lost on the line.
    """
    board = read_board(build)
    samples = pack_samples(board, np.asarray(x, np.int64))
    with connect_board(build, port, baud, lambda line: progress(0, 0, line)) as (session, virtual):
        began = time.monotonic()
        active_before = virtual.status()["active"] if virtual else 0
        results = session.infer(samples[:1], batch=1)  # alone, so that the board measures its latency
        latency = session.status()["latency"] if samples else 0
        results += session.infer(samples[1:], lambda done, total, text: progress(done + 1, total + 1, text))
        wall_s = time.monotonic() - began
        active = virtual.status()["active"] - active_before if virtual else None
        status = session.status()
        tally = session.tally
    complete = [result for result in results if result is not None]
    lost = len(results) - len(complete)
    if lost:
        raise BoardError(
            f"{lost:,} of {len(results):,} results were lost on the line after {session.tries} tries each; "
            "the others are right: try a lower rate or a shorter cable.",
            results,
        )
    clock = status["clock_hz"]
    figures = Figures(
        "simulated" if virtual else "measured",
        len(results),
        clock,
        latency / clock if latency else None,
        status["busy"] / clock,
        status["stalled"] / clock,
        wall_s,
        None if active is None else active / clock,
        tally.requests,
        tally.lost,
        tally.bad_frames,
        tally.resets,
    )
    return {board["output"]["stream"]["edge"]: unpack_results(board, complete)}, figures
