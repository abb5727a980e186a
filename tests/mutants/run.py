"""`make mutants`: one-line mutants of our own code, each against the tests that should kill it.

    python -m tests.mutants.run [--only TEXT] [--jobs N] [--seconds S]

mutants.toml lists them. Each is applied in a copy of the checkout, its tests run there, and the original line put
back. A mutant is killed when its tests fail, and its tests must pass without it: a test that always fails kills
nothing. Exit 1 where fewer than 95 % are killed or a listed test does not pass as it is; survivors are listed. With
--seconds no further one is begun after that time, and the list begins elsewhere each day: a bounded run says how many
it tried, and a few of them try all.
"""

from __future__ import annotations

import argparse
import datetime
import math
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("mutants.toml")
KILLED_SHARE = 0.95
_TIMEOUT_S = 600


@dataclass(frozen=True)
class Mutant:
    """One line of `file` in which `old` becomes `new`; `tests` are pytest arguments."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.file}: {self.old} → {self.new}"

    def apply(self, root: Path) -> str:
        """Writes the mutated file; returns the original text. Raises ValueError where `old` is not there exactly
        once."""
        text = (root / self.file).read_text()
        if text.count(self.old) != 1:
            raise ValueError(
                f"{self.file} has {self.old!r} {text.count(self.old)} times; a mutant names a line of its own"
            )
        (root / self.file).write_text(text.replace(self.old, self.new))
        return text


def read_mutants(path: Path = LIST) -> list[Mutant]:
    entries = tomllib.loads(path.read_text())["mutant"]
    return [Mutant(entry["file"], entry["old"], entry["new"], tuple(entry["tests"])) for entry in entries]


def copy_checkout(folder: Path) -> Path:
    """The files that git tracks or would, in a folder of their own."""
    argv = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in names:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder


def tests_pass(root: Path, tests: tuple[str, ...]) -> bool:
    """Whether the tests pass in that checkout; a run that takes too long does not."""
    argv = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            argv, cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return False
    if done.returncode not in (0, 1):
        raise RuntimeError(f"pytest ended with {done.returncode} on {' '.join(tests)}: they are no tests")
    return done.returncode == 0


def kill(mutant: Mutant, root: Path) -> bool:
    """Whether the mutant's tests notice it."""
    original = mutant.apply(root)
    try:
        return not tests_pass(root, mutant.tests)
    finally:
        (root / mutant.file).write_text(original)


def turn(mutants: list[Mutant], day: int) -> list[Mutant]:
    """The list from another place on for each day."""
    start = day * 67 % max(1, len(mutants))
    return mutants[start:] + mutants[:start]


def run_mutants(
    mutants: list[Mutant], jobs: int, seconds: float = math.inf
) -> tuple[list[Mutant], list[str], list[Mutant]]:
    """(survivors, faults of the list itself, those that were not begun within the time); says how each ended."""
    work: queue.Queue[Mutant] = queue.Queue()
    for mutant in mutants:
        work.put(mutant)
    survivors: list[Mutant] = []
    faults: list[str] = []
    sound: dict[tuple[str, ...], bool] = {}
    lock, began = threading.Lock(), time.monotonic()

    def consume(folder: Path) -> None:
        root = copy_checkout(folder)
        while True:
            try:
                if time.monotonic() - began > seconds:
                    return
                mutant = work.get_nowait()
            except queue.Empty:
                return
            try:
                with lock:
                    known = mutant.tests in sound
                if not known:
                    passes = tests_pass(root, mutant.tests)
                    with lock:
                        sound[mutant.tests] = passes
                killed = kill(mutant, root)
            except (ValueError, RuntimeError) as error:
                with lock:
                    faults.append(str(error))
                continue
            with lock:
                if not sound[mutant.tests]:
                    faults.append(f"{' '.join(mutant.tests)} fails without any mutant")
                elif not killed:
                    survivors.append(mutant)
                done = len(mutants) - work.qsize()
                mark = "killed" if killed else "SURVIVED"
                print(f"{done:3d} of {len(mutants)}  {time.monotonic() - began:5.0f} s  {mark:8s} {mutant}", flush=True)

    with tempfile.TemporaryDirectory(prefix="greenedge-mutants-") as scratch:
        threads = [threading.Thread(target=consume, args=(Path(scratch) / str(k),)) for k in range(jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return survivors, sorted(set(faults)), list(work.queue)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="those whose file or text contains this")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin none after this time")
    arguments = parser.parse_args()
    mutants = [mutant for mutant in read_mutants() if arguments.only in str(mutant)]
    if arguments.seconds < math.inf:
        mutants = turn(mutants, datetime.date.today().toordinal())
    survivors, faults, left = run_mutants(mutants, arguments.jobs, arguments.seconds)
    tried = len(mutants) - len(faults) - len(left)
    killed = tried - len(survivors)
    for mutant in survivors:
        print(f"survived: {mutant}  (tests: {' '.join(mutant.tests)})")
    for fault in faults:
        print(f"fault of the list: {fault}")
    print(f"{killed} of {tried} mutants killed ({killed / max(1, tried):.1%})")
    if left:
        print(f"{len(left)} more were not tried within {arguments.seconds:g} s")
    return 1 if faults or killed < KILLED_SHARE * tried else 0


if __name__ == "__main__":
    sys.exit(main())
