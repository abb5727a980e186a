"""What the sampling process costs: slowdown of a busy loop with and without it, interleaved, and its share of a core.

    python benchmarks/energy_overhead.py
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from greenedge.energy.sampler import SamplerProcess
from greenedge.energy.stats import paired_ratio


def work(seconds: float = 0.5) -> float:
    """Loops done a second."""
    end, done, begun = time.perf_counter() + seconds, 0, time.perf_counter()
    x = np.ones(2000)
    while time.perf_counter() < end:
        for _ in range(200):
            x = x * 1.0000001
        done += 200
    return done / (time.perf_counter() - begun)


def overhead(root: Path, hz: float, rounds: int = 20) -> dict:
    """{"slowdown", "slowdown_low", "slowdown_high"} (0.01 is 1 %) and {"core"}: CPU seconds of the child a second."""
    folder = root / "sys/class/hwmon/hwmon0"
    folder.mkdir(parents=True)
    (folder / "name").write_text("ina226\n")
    (folder / "power1_input").write_text("2500000\n")
    off, on, cpu, wall = [], [], 0.0, 0.0
    for number in range(rounds):
        for sampled in ((False, True), (True, False))[number % 2]:
            if not sampled:
                off.append(work())
                continue
            sampler = SamplerProcess("hwmon:hwmon0:1", root, hz)
            sampler.start()
            before, begun = sampler.cpu_seconds(), time.perf_counter()
            on.append(work(2.0))
            cpu, wall = cpu + sampler.cpu_seconds() - before, wall + time.perf_counter() - begun
            sampler.stop()
    ratio = paired_ratio(off, on)
    return {"hz": hz, "slowdown": ratio.mean - 1, "slowdown_low": ratio.low - 1, "slowdown_high": ratio.high - 1,
            "core": cpu / wall}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for hz in (10, 100):
            json.dump(overhead(Path(folder) / str(hz), hz), sys.stdout)
            print()
