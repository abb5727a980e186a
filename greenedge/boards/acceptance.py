"""Everything a board must show, in one go, with a dated record that a user can send in.

    python -m greenedge.boards.acceptance RUN [--port DEV [--baud N] | --virtual] [-o RECORD.json] [--soak N]

RUN is a run's folder (with 2-export … 5-verify) whose build has a host interface; `make board-test` calls this. Steps:
self-test (registers, marker, loop), all test samples equal to the integer graph, soak, measure. On the virtual board
the soak has noise and resets in it; on a real one it has what the cable has.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from greenedge import __version__
from greenedge.boards.board_runner import connected, infer_on_board, pack_samples, unpack_results
from greenedge.boards.errors import BoardError
from greenedge.boards.link_session import Session
from greenedge.boards.soak import soak
from greenedge.boards.virtual import VirtualBoard, read_board
from greenedge.errors import GreenedgeError
from greenedge.files.atomic_write import write_aside

Tell = Callable[[int, int, str], None]
NOISE = 0.005  # of bytes corrupted, and as many dropped, on the virtual board
_LOOP_S = 2.0


def self_test(session: Session, sample: bytes, expected: bytes) -> dict:
    """Registers, marker and loop. Raises BoardError for what is not as it must be."""
    status = session.status()
    edges = [session.mark(True), session.mark(False)]
    if edges[1] - edges[0] != 1:
        raise BoardError(f"{session.name} counted marker edges {edges}; one more than before was due.")
    if session.loop(sample, 3, 1) != expected:
        raise BoardError(f"{session.name} computes something else in a loop; this is a defect of the build.")
    return {
        "version": status["version"],
        "clock_hz": status["clock_hz"],
        "model": status.model,
        "marker_edges": edges[1],
    }


def measure(session: Session, sample: bytes, seconds: float = _LOOP_S) -> dict:
    """Cycles per inference and latency by the board's own counters, from a loop of about `seconds` of the board's time."""
    session.infer([sample], batch=1)
    latency = session.status()["latency"]
    session.loop(sample, 100, 1)
    passes = max(100, int(seconds * session.board["clock_hz"] / max(1, session.status()["interval"])))
    session.open()
    session.loop(sample, passes, 60 * seconds + 5)
    status = session.status()
    clock = status["clock_hz"]
    return {
        "inferences": status["samples_out"],
        "cycles_per_inference": status["busy"] / status["samples_out"],
        "inferences_per_s": clock * status["samples_out"] / status["busy"],
        "latency_cycles": latency,
        "latency_s": latency / clock,
        "stalled_cycles": status["stalled"],
    }


def accept(
    build: Path,
    x: np.ndarray,
    expected: np.ndarray,
    port: str | None = None,
    baud: int | None = None,
    soak_samples: int = 2000,
    loop_s: float = _LOOP_S,
    tell: Tell = lambda *_: None,
) -> dict:
    """The record. Raises BoardError where the board fails; a record with "passed": false says that results differed."""
    board = read_board(build)
    outputs, figures = infer_on_board(build, x, port, baud, tell)
    values = next(iter(outputs.values()))
    different = int((values != expected).reshape(len(x), -1).any(axis=1).sum())
    samples = pack_samples(board, x)
    with connected(build, port, baud) as (session, virtual):
        known = session.infer(samples)
        if any(result is None for result in known) or not np.array_equal(unpack_results(board, known), values):
            raise BoardError(f"{session.name} gave two different answers to the same samples; this is a defect.", known)
        tested = self_test(session, samples[0], known[0])
        measured = measure(session, samples[0], 0.002 if virtual else loop_s)
        many = [k % len(samples) for k in range(soak_samples)]
        soaked = soak(
            session, [samples[k] for k in many], [known[k] for k in many], _trouble(virtual, soak_samples), tell=tell
        )
    return {
        "format": "greenedge-board-record/1",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "greenedge": __version__,
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "target": board["target"],
        "model": board["model"],
        "baud": baud or board["baud"],
        "evidence": figures.evidence,
        "self_test": tested,
        "samples": {"count": len(x), "different": different, **figures.plain()},
        "soak": soaked.plain(),
        "measure": {"evidence": figures.evidence, **measured},
        "passed": different == 0 and soaked.passed,
    }


def _trouble(virtual: VirtualBoard | None, samples: int, resets: int = 3) -> Callable[[int], None]:
    """What happens to a virtual board during its soak; a real one is left to its cable."""
    if virtual is None:
        return lambda done: None
    virtual.noise(NOISE, NOISE)
    draw = random.Random(1)
    due = sorted(draw.randrange(1, samples) for _ in range(resets))

    def trouble(done: int) -> None:
        while due and done >= due[0]:
            due.pop(0)
            virtual.reset()

    return trouble


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m greenedge.boards.acceptance", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--port", metavar="DEV")
    where.add_argument("--virtual", action="store_true")
    parser.add_argument("--baud", type=int)
    parser.add_argument("--soak", type=int, default=2000, metavar="N")
    parser.add_argument("-o", "--out", type=Path, metavar="RECORD.json")
    arguments = parser.parse_args(argv)
    try:
        record = accept_run(arguments.run, arguments.port, arguments.baud, arguments.soak)
        path = write_record(record, Path("."), arguments.out)
    except GreenedgeError as error:
        print(f"greenedge: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(record, indent=1))
    print(f"record: {path} ({'passed' if record['passed'] else 'FAILED'})")
    return 0 if record["passed"] else 5


def write_record(record: dict, folder: Path, path: Path | None = None) -> Path:
    """Writes a record under its board and day, or as `path`; returns where it is."""
    path = path or folder / f"board-{record['target']}-{record['date'][:10]}.json"
    with write_aside(path) as aside:
        aside.write_text(json.dumps(record, indent=1) + "\n")
    return path


def accept_run(run: Path, port: str | None, baud: int | None, soak_samples: int) -> dict:
    """`accept` with a run's own test samples, against its integer graph."""
    from greenedge.graph import run_graph
    from greenedge.legalise.argmax_to_host import drop_argmax
    from greenedge.lower import load_lowering
    from greenedge.lower.float_io import run_prologue
    from greenedge.run.folder import RunFolder

    inputs = RunFolder(run).inputs
    if not inputs.is_file():
        raise GreenedgeError(f"{inputs} is missing: {run} is no run with test samples.")
    lowered = load_lowering(RunFolder(run).lower)
    levels = run_prologue(lowered, np.load(inputs, allow_pickle=False))
    given = read_board(RunFolder(run).build)["output"]["stream"]["edge"]
    graph = lowered.graph if given in lowered.graph.outputs else drop_argmax(lowered.graph)
    began = time.monotonic()
    expected = run_graph(graph, levels)[graph.outputs[0]]
    record = accept(RunFolder(run).build, next(iter(levels.values())), expected, port, baud, soak_samples)
    return {**record, "seconds": round(time.monotonic() - began, 1)}


if __name__ == "__main__":
    sys.exit(main())
