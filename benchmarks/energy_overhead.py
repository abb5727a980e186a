"""What the sampling process costs: slowdown of a busy loop with the sampler running and stopped, in alternation, and
its share of a core.

    python benchmarks/energy_overhead.py
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from greenedge.energy.sampler import SamplerProcess
from greenedge.energy.stats import paired_ratio


def work(loops: int = 4000) -> float:
    """CPU seconds of a fixed amount of work, so that other programs on the machine do not count as slowdown."""
    x, begun = np.ones(4000), time.process_time()
    for _ in range(loops):
        x = x * 1.0000001
    return time.process_time() - begun


def overhead(root: Path, hz: float, rounds: int = 200) -> dict:
    """{"slowdown", "slowdown_low", "slowdown_high"} (0.01 is 1 %) and {"core"}: CPU seconds of the child a second."""
    folder = root / "sys/class/hwmon/hwmon0"
    folder.mkdir(parents=True)
    (folder / "name").write_text("ina226\n")
    (folder / "power1_input").write_text("2500000\n")
    sampler = SamplerProcess("hwmon:hwmon0:1", root, hz)
    sampler.start()
    before, begun = sampler.cpu_seconds(), time.perf_counter()
    time.sleep(10)
    core = (sampler.cpu_seconds() - before) / (time.perf_counter() - begun)
    times: dict[bool, list[float]] = {True: [], False: []}
    for number in range(rounds):
        for sampled in ((False, True), (True, False))[number % 2]:
            os.kill(sampler._child.pid, signal.SIGCONT if sampled else signal.SIGSTOP)
            times[sampled].append(work())
    os.kill(sampler._child.pid, signal.SIGCONT)
    sampler.stop()
    ratio = paired_ratio(times[True], times[False])
    return {
        "hz": hz,
        "slowdown": ratio.mean - 1,
        "slowdown_low": ratio.low - 1,
        "slowdown_high": ratio.high - 1,
        "core": core,
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for hz in (10, 100):
            json.dump(overhead(Path(folder) / str(hz), hz), sys.stdout)
            print()
