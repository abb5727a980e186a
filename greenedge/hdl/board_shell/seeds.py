"""Place and route with several seeds in parallel; the first result that meets the clock is taken, else the fastest.

    python -m greenedge.hdl.board_shell.seeds FIRST COUNT OUTPUTS TOOL ARGUMENT…      in the build folder

OUTPUTS are the files that TOOL writes, joined by commas, as its arguments name them; each seed writes its own below
seeds/, and the best are moved to the final names at the end. seeds.json has the clock of each seed; the clock to meet
is in shell.json.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from greenedge.errors import GreenedgeError, ToolError
from greenedge.files.atomic_write import atomic_write
from greenedge.hdl.board_shell.timing import timing
from greenedge.tools.capture import end_with_parent
from greenedge.tools.discover import Tool, find_tool

FOLDER = "seeds"
_POLL_S, _GRACE_S = 0.1, 5.0


def race(
    tool: Tool, arguments: Sequence[str], outputs: Sequence[str], seeds: Sequence[int], clock_hz: float
) -> dict[int, float]:
    """{seed: clock in Hz} in the order in which the seeds ended. Raises ToolError where every seed failed.

    One runs per processor. They stay in this process group, so that ending the group ends them.
    """
    waiting = list(seeds)
    running: dict[int, subprocess.Popen[bytes]] = {}
    reached: dict[int, float] = {}
    failed: dict[int, str] = {}
    try:
        while (waiting or running) and not any(hz >= clock_hz for hz in reached.values()):
            while waiting and len(running) < (os.cpu_count() or 1):
                seed = waiting.pop(0)
                running[seed] = _start(tool, arguments, outputs, seed)
            time.sleep(_POLL_S)
            for seed in [seed for seed, process in running.items() if process.poll() is not None]:
                status = running.pop(seed).returncode
                if status == 0:
                    reached[seed] = _read_fmax(seed, clock_hz)
                    print(f"seed {seed} reaches {reached[seed] / 1e6:.1f} MHz of {clock_hz / 1e6:g} MHz", flush=True)
                else:
                    failed[seed] = _why(tool, seed, status)
    finally:
        _end(running)
    if not reached:
        raise ToolError(next(iter(failed.values())))
    return reached


def best(reached: Mapping[int, float], clock_hz: float) -> int:
    """The first seed that meets the clock, else the fastest."""
    return next((seed for seed, hz in reached.items() if hz >= clock_hz), max(reached, key=reached.__getitem__))


def _start(tool: Tool, arguments: Sequence[str], outputs: Sequence[str], seed: int) -> subprocess.Popen[bytes]:
    folder = Path(FOLDER) / str(seed)
    folder.mkdir(parents=True, exist_ok=True)
    own = [f"{FOLDER}/{seed}/{argument}" if argument in outputs else argument for argument in arguments]
    with open(folder / "nextpnr.log", "wb") as log:
        return subprocess.Popen(
            [*tool.argv, *own, "--seed", str(seed)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **tool.env},
            preexec_fn=end_with_parent,
        )


def _read_fmax(seed: int, clock_hz: float) -> float:
    """The clock of a seed in Hz by its report, 0 where it has none. Raises ToolError."""
    path = Path(FOLDER) / str(seed) / "report.json"
    try:
        found = timing(json.loads(path.read_text()), clock_hz)["fmax_hz"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ToolError(f"{path} is missing or damaged ({error}); run the build stage again") from None
    return found or 0.0


def _why(tool: Tool, seed: int, status: int) -> str:
    lines = (Path(FOLDER) / str(seed) / "nextpnr.log").read_text(errors="replace").splitlines()
    said = next((line for line in lines if line.startswith("ERROR")), lines[-1] if lines else "it printed nothing")
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
    return f"{tool.name} with seed {seed} {how}: {said.rstrip('.')}"


def _end(running: Mapping[int, subprocess.Popen[bytes]]) -> None:
    """Ends the processes: SIGTERM, then SIGKILL."""
    for process in running.values():
        process.terminate()
    for process in running.values():
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main(first: str, count: str, outputs: str, name: str, *arguments: str) -> int:
    """Runs the race in the working directory; leaves the best seed's outputs and seeds.json, prints its log."""
    try:
        clock_hz = json.loads(Path("shell.json").read_text())["clock_hz"]
        names = outputs.split(",")
        reached = race(find_tool(name), arguments, names, range(int(first), int(first) + int(count)), clock_hz)
        chosen = best(reached, clock_hz)
        for output in names:
            os.replace(Path(FOLDER) / str(chosen) / output, output)
        print((Path(FOLDER) / str(chosen) / "nextpnr.log").read_text(errors="replace"))
        shutil.rmtree(FOLDER)
        with atomic_write(Path("seeds.json")) as path:
            path.write_text(
                json.dumps({"chosen": chosen, "fmax_hz": {str(seed): hz for seed, hz in reached.items()}}, indent=1)
                + "\n"
            )
    except (GreenedgeError, OSError, ValueError, KeyError) as error:
        print(f"error: {str(error).rstrip('.')}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
