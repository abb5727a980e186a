"""A study whose trials only sleep, and processes that work on it: what becomes of trials when workers are killed."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

from greenedge.sweep.outputs import mark_front
from greenedge.sweep.space import Axis, Space
from greenedge.sweep.study import Claim, Row, Sampling, Study
from greenedge.sweep.sweep import Sweep

OBJECTIVES = ("accuracy", "bytes")


def make_sweep(points: int) -> Sweep:
    """One axis of so many values."""
    axes = (Axis("a", tuple(map(str, range(points)))),)
    return Sweep("nothing.onnx", Space(axes, (), OBJECTIVES))


def make_study(folder: Path, points: int, sampling: Sampling | None = None) -> Study:
    """The study of that sweep, opened."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = sampling or Sampling("grid", None, 0, (True, False))
    return Study(folder, make_sweep(points).space, chosen).open()


def make_row(claim: Claim) -> Row:
    """A row that follows from the point alone."""
    k = int(claim.point["a"])
    figures = {
        "accuracy": {"value": (k * 7 % 11) / 11, "evidence": "test samples"},
        "bytes": {"value": 1 + k * 5 % 13, "evidence": "counted"},
    }
    return {
        "number": claim.number,
        "name": f"a={k}",
        "settings": dict(claim.point),
        "status": "done",
        "figures": figures,
    }


def describe_front(study: Study) -> list[str]:
    """The points on the front, by name."""
    return sorted(row["name"] for row in mark_front(study.rows(), OBJECTIVES) if "front" in row)


def worker_script(
    folder: Path, points: int, seconds: float, kills_itself_at: int | None = None, lease_s: float = 60.0
) -> list[str]:
    """A command that works on the study: each trial sleeps, and notes its beginning and its end in events.log. The
    first worker that comes to the point `kills_itself_at` dies there."""
    script = textwrap.dedent(f"""
        import os, signal, sys, time
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import studies
        from pathlib import Path
        from greenedge.sweep.engine import work
        from greenedge.sweep import study
        study.LEASE_S, study.BEAT_S = {lease_s}, {lease_s / 12}
        folder = Path({str(folder)!r})
        def note(text):
            with open(folder / "events.log", "a") as file:
                file.write(text + "\\n")
        def evaluate(claim):
            note(f"begin {{claim.number}} {{claim.point['a']}} {{os.getpid()}}")
            if claim.point["a"] == "{kills_itself_at}" and not claim.before:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep({seconds})
            note(f"end {{claim.number}} {{claim.point['a']}} {{os.getpid()}}")
            return studies.make_row(claim)
        work(studies.make_sweep({points}), studies.make_study(folder, {points}), evaluate=evaluate)
    """)
    return [sys.executable, "-c", script]


def start_worker(folder: Path, points: int, seconds: float) -> subprocess.Popen[bytes]:
    """A process that works on the study."""
    return subprocess.Popen(worker_script(folder, points, seconds))
