"""The acceptance test of a board, with a dated record that a user can send in.

    python -m greenedge.boards.acceptance RUN [--port DEV [--baud N] | --virtual] [-o RECORD.json] [--soak N]

RUN is a run's folder (with 2-export … 5-verify) whose build has a host interface; `make board-test` calls this. Steps:
self-test (registers, marker, loop), all test samples against the integer graph, soak, measure. The soak of the virtual
board has noise and resets; that of a real one has the noise of its cable.
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
from greenedge.boards.board_runner import connect_board, infer_on_board, pack_samples, unpack_results
from greenedge.boards.errors import BoardError
from greenedge.boards.link_session import Session
from greenedge.boards.soak import soak
from greenedge.boards.virtual import VirtualBoard, read_board
from greenedge.errors import GreenedgeError
from greenedge.files.atomic_write import atomic_write
from greenedge.progress import ProgressFn, no_progress

NOISE = 0.005  # share of bytes corrupted, and share dropped, on the virtual board
_LOOP_S = 2.0


def self_test(session: Session, sample: bytes, expected: bytes) -> dict:
    """Registers, marker and loop. Raises BoardError where the marker's count or the loop's outputs are wrong."""
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
    """Cycles per inference and latency by the board's counters, from a loop of about `seconds` of the board's time."""
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
    progress: ProgressFn = no_progress,
) -> dict:
    """The record for integers `x` and `expected` (samples, *shape); "passed" is false where results differ.

    Raises BoardError where the board does not answer or contradicts itself.
    """
    board = read_board(build)
    outputs, figures = infer_on_board(build, x, port, baud, progress)
    values = next(iter(outputs.values()))
    different = int((values != expected).reshape(len(x), -1).any(axis=1).sum())
    samples = pack_samples(board, x)
    with connect_board(build, port, baud) as (session, virtual):
        results = session.infer(samples)
        known = [result for result in results if result is not None]
        if len(known) < len(results) or not np.array_equal(unpack_results(board, known), values):
            raise BoardError(
                f"{session.name} gave two different answers to the same samples; this is a defect.", results
            )
        tested = self_test(session, samples[0], known[0])
        measured = measure(session, samples[0], 0.002 if virtual else loop_s)
        many = [k % len(samples) for k in range(soak_samples)]
        soaked = soak(
            session,
            [samples[k] for k in many],
            [known[k] for k in many],
            _disturbance(virtual, soak_samples),
            progress=progress,
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
        "passed": different == 0 and soaked.ok,
    }


def _disturbance(virtual: VirtualBoard | None, samples: int, resets: int = 3) -> Callable[[int], None]:
    """Noise from now on and resets at random samples of the soak, for a virtual board; nothing for a real one."""
    if virtual is None:
        return lambda done: None
    virtual.noise(NOISE, NOISE)
    draw = random.Random(1)
    due = sorted(draw.randrange(1, samples) for _ in range(resets))

    def reset_when_due(done: int) -> None:
        while due and done >= due[0]:
            due.pop(0)
            virtual.reset()

    return reset_when_due


def main(argv: list[str] | None = None) -> int:
    """The command line; the exit status: 0 passed, 5 results differ, else the error's."""
    parser = argparse.ArgumentParser(
        prog="python -m greenedge.boards.acceptance", description=(__doc__ or "").splitlines()[0]
    )
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
    """Writes a record as `path`, by default named after board and day in `folder`; returns the path."""
    path = path or folder / f"board-{record['target']}-{record['date'][:10]}.json"
    with atomic_write(path) as aside:
        aside.write_text(json.dumps(record, indent=1) + "\n")
    return path


def accept_run(run: Path, port: str | None, baud: int | None, soak_samples: int) -> dict:
    """`accept` with a run's test samples, against its integer graph. Raises GreenedgeError for a run
    that is not finished, VerificationError for one whose files are not those that it made."""
    from greenedge.frontends.samples import read_samples
    from greenedge.graph import run_graph
    from greenedge.graph.joined_inputs import join_inputs
    from greenedge.graph.joined_outputs import join_outputs
    from greenedge.legalise import HOST_PASSES, legalise_graph
    from greenedge.lower import load_lowering
    from greenedge.lower.float_io import run_prologue
    from greenedge.run.folder import RunFolder
    from greenedge.run.manifest import load_manifest, require_unchanged

    inputs = RunFolder(run).inputs
    require_unchanged(run, load_manifest(run), "export", "lower", "build")
    lowered = load_lowering(RunFolder(run).lower)
    levels = run_prologue(lowered, read_samples(inputs, lowered.inputs))
    edge = read_board(RunFolder(run).build)["output"]["stream"]["edge"]
    graph = lowered.graph if edge in lowered.graph.outputs else legalise_graph(lowered.graph, HOST_PASSES)
    began = time.monotonic()
    values = run_graph(graph, levels)
    expected = values[graph.outputs[0]] if len(values) == 1 else join_outputs(graph, values)
    x = join_inputs(graph, levels)
    record = accept(RunFolder(run).build, x, expected, port, baud, soak_samples)
    return {**record, "seconds": round(time.monotonic() - began, 1)}


if __name__ == "__main__":
    sys.exit(main())
