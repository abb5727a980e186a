"""What the sampling process costs: CPU time of a fixed piece of work with the sampler running and stopped, in
alternation, and the sampler's own share of a core.

    python benchmarks/energy_overhead.py [--pairs N]

CPU time and medians of pairs, because wall time on a shared machine is about the neighbours. The interval is that of
the median (order statistics, no assumption on the noise). The sampler reads a hwmon file, as it does on a board.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import tempfile
import time
from pathlib import Path

import numpy as np

from greenedge.energy.sampler import SamplerProcess

LIMITS = {10: (0.01, 0.005), 100: (None, 0.02)}  # samples a second -> slowdown, share of a core (specification, test 7)


def work(loops: int = 1500) -> float:
    """CPU seconds of a fixed amount of arithmetic."""
    x, begun = np.ones(4000), time.process_time()
    for _ in range(loops):
        x = x * 1.0000001
    return time.process_time() - begun


def on_cpu(pid: int) -> float:
    """Seconds that a process has run, to the nanosecond (the first number of schedstat)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) * 1e-9


def overhead(root: Path, hz: float, pairs: int) -> tuple[float, float, float, float]:
    """(slowdown, its lower and upper 95 % end, share of a core), 0.01 is 1 %."""
    folder = root / "sys/class/hwmon/hwmon0"
    folder.mkdir(parents=True)
    (folder / "name").write_text("ina226\n")
    (folder / "power1_input").write_text("2500000\n")
    sampler = SamplerProcess("hwmon:hwmon0:1", root, hz)
    sampler.start()
    before, begun = on_cpu(sampler.pid), time.perf_counter()
    time.sleep(15)
    share = (on_cpu(sampler.pid) - before) / (time.perf_counter() - begun)
    logs = []
    for number in range(pairs):
        seconds = {}
        for sampled in ((False, True), (True, False))[number % 2]:
            os.kill(sampler.pid, signal.SIGCONT if sampled else signal.SIGSTOP)
            seconds[sampled] = work()
        logs.append(math.log(seconds[True] / seconds[False]))
    os.kill(sampler.pid, signal.SIGCONT)
    sampler.stop()
    ordered, away = sorted(logs), 1.96 * math.sqrt(pairs) / 2
    low, high = (ordered[min(max(round(pairs / 2 + side * away), 0), pairs - 1)] for side in (-1, 1))
    return math.expm1(float(np.median(logs))), math.expm1(low), math.expm1(high), share


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=1500)
    pairs = parser.parse_args().pairs
    print("| samples a second | slowdown of the work (95 %) | must be below | share of a core | must be below |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for hz, (slow, most) in LIMITS.items():
            value, low, high, share = overhead(Path(folder) / str(hz), hz, pairs)
            limit = "–" if slow is None else f"{slow:.1%}"
            print(
                f"| {hz} | {value:+.2%} ({low:+.2%} … {high:+.2%}) | {limit} | {share:.2%} | {most:.1%} |", flush=True
            )


if __name__ == "__main__":
    main()
