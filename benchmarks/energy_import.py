"""How long importing the energy harness takes: CPU time in fresh interpreters, in turns, medians; numpy's own share
beside.

python benchmarks/energy_import.py [--rounds N]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

LIMIT_S = 0.3
WHAT = {
    "greenedge.energy": "import greenedge.energy",
    "numpy alone": "import numpy",
    "all of the harness": "from greenedge.energy import measure, compare, CallableWorkload",
}


def seconds(code: str) -> float:
    """CPU seconds of the import, without the interpreter's own start."""
    timed = f"import time; a = time.process_time(); {code}; print(time.process_time() - a)"
    return float(subprocess.run([sys.executable, "-c", timed], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    found: dict[str, list[float]] = {name: [] for name in WHAT}
    for _ in range(rounds):
        for name, code in WHAT.items():
            found[name].append(seconds(code))
    print("| import | CPU time, median | slowest | must be below |\n|---|---|---|---|")
    for name, values in found.items():
        limit = "–" if name == "numpy alone" else f"{LIMIT_S:g} s"
        print(f"| {name} | {statistics.median(values):.3f} s | {max(values):.3f} s | {limit} |")


if __name__ == "__main__":
    main()
