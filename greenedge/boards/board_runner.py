"""A model on a board, real or virtual: integers in, integers out, and the board's own figures beside the wall time."""

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

Tell = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Figures:
    """What a board said about its own work. `evidence`: measured (a real board's counters) or simulated.

    `latency_s`: first beat in to last beat out of a sample alone in the core. `busy_s` is the time with a sample in the
    core, `stalled_s` that with an output waiting for the line. `wall_s` is what the host waited; on a virtual board
    `line_s` is that in simulated time. Absent is None.
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
        """As JSON holds it."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@contextmanager
def connect_board(
    build: Path,
    port: str | None = None,
    baud: int | None = None,
    progress: Callable[[str], None] = lambda line: None,
    seed: int = 1,
) -> Iterator[tuple[Session, VirtualBoard | None]]:
    """A session with the board at `port`, or with the virtual board of the build folder where `port` is None.

    Raises BoardError where nobody answers or another model does.
    """
    board = read_board(build)
    if port is not None:
        rate = baud or board["baud"]
        with Session(lambda: SerialPort(port, rate), {**board, "baud": rate}, port) as session:
            yield session, None
        return
    with VirtualBoard(build, seed=seed, progress=progress) as virtual:
        with Session(lambda: SerialPort(virtual.port, board["baud"]), board, "the virtual board") as session:
            yield session, virtual


def streams_of(board: Mapping) -> tuple[Stream, Stream]:
    """The board's input and output streams."""
    return Stream.from_plain(board["input"]["stream"]), Stream.from_plain(board["output"]["stream"])


def pack_samples(board: Mapping, x: np.ndarray) -> list[bytes]:
    """One piece of bytes per sample of integers (samples, *shape). Raises GreenedgeError for another shape or range."""
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
    """How many of `samples` this board computes, and its line carries, in so many cycles of its clock; at least one."""
    carried = max(board["input"]["bytes"], board["output"]["bytes"]) * 10 * board["clock_hz"] / board["baud"]
    return max(1, min(samples, int(cycles / max(carried, board.get("cycles_per_inference") or 0))))


def infer_on_board(
    build: Path, x: np.ndarray, port: str | None = None, baud: int | None = None, tell: Tell = lambda *_: None
) -> tuple[dict[str, np.ndarray], Figures]:
    """({output edge: int64}, figures) for integers `x` (samples, *shape) from the board at `port`, or the virtual one.

    Raises BoardError where results are lost, with how many; none is ever guessed.
    """
    board = read_board(build)
    samples = pack_samples(board, np.asarray(x, np.int64))
    with connect_board(build, port, baud, lambda line: tell(0, 0, line)) as (session, virtual):
        began, before = time.monotonic(), virtual.status() if virtual else None
        results = session.infer(samples[:1], batch=1)  # alone, so that the board takes its latency
        latency = session.status()["latency"] if samples else 0
        results += session.infer(samples[1:], lambda done, total, text: tell(done + 1, total + 1, text))
        wall_s = time.monotonic() - began
        after, status = virtual.status() if virtual else None, session.status()
        tally = session.tally
    lost = sum(result is None for result in results)
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
        (after["active"] - before["active"]) / clock if virtual else None,
        tally.requests,
        tally.lost,
        tally.bad_frames,
        tally.resets,
    )
    return {board["output"]["stream"]["edge"]: unpack_results(board, results)}, figures
