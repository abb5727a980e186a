"""Our RAPL reader and Zeus under one fake powercap tree at a constant power: errors side by side, at a wrap and away
from it.

    python benchmarks/energy_zeus.py [--sweeps N] [--record FILE]

Runs where `zeus` can be imported and says so by name where not. A process of its own writes the tree every millisecond.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

RANGE_UJ = 262_143_328_850
WATTS = 300.0
ZONE = "sys/class/powercap/intel-rapl/intel-rapl:0"


def write_tree(folder: str, before_wrap_j: float) -> None:
    """energy_uj = start + 300 W · t, from CLOCK_MONOTONIC, replaced whole."""
    zone = Path(folder) / ZONE
    aside, target = zone / "aside", zone / "energy_uj"
    while not (Path(folder) / "go").exists():
        time.sleep(0.005)
    begun = time.monotonic()
    while True:
        value = int(RANGE_UJ - before_wrap_j * 1e6 + WATTS * (time.monotonic() - begun) * 1e6) % RANGE_UJ
        aside.write_text(f"{value}\n")
        aside.rename(target)
        time.sleep(0.001)


def make_tree(folder: Path, before_wrap_j: float) -> None:
    zone = folder / ZONE
    zone.mkdir(parents=True)
    (zone / "name").write_text("package-0\n")
    (zone / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
    for place in (zone / "energy_uj", folder / "start"):
        place.write_text(f"{int(RANGE_UJ - before_wrap_j * 1e6)}\n")
    (folder / "sys/class/powercap/intel-rapl:0").symlink_to(zone)


def let_go(folder: Path) -> None:
    """The reader is ready: the counter begins to run."""
    (folder / "go").touch()
    time.sleep(0.3)


def true_j(folder: Path) -> float:
    """What the tree shows now, its one wrap taken out: its writer may lag on a busy machine, no reader's error."""
    raw, start = (int((folder / name).read_text()) for name in (f"{ZONE}/energy_uj", "start"))
    return (raw + (RANGE_UJ if raw < start else 0)) * 1e-6


def beyond(joules: float, first: tuple[float, float], last: tuple[float, float]) -> float:
    """Relative error of a window beyond what the truth itself leaves open: it was read before and after each edge, and
    a busy machine may let time pass in between."""
    low, high = last[0] - first[1], last[1] - first[0]
    return (joules - min(max(joules, low), high)) / ((low + high) / 2)


def zeus_windows(folder: Path, count: int, length_s: float) -> list[float]:
    """Relative errors of Zeus's windows."""
    import zeus.device.cpu.rapl as rapl

    rapl.RAPL_DIR = str(folder / "sys/class/powercap/intel-rapl")
    from zeus.monitor.energy import ZeusMonitor

    monitor = ZeusMonitor(gpu_indices=[], cpu_indices=[0])
    let_go(folder)
    errors = []
    for k in range(count):
        before = true_j(folder)
        monitor.begin_window(f"w{k}")
        first = (before, true_j(folder))
        time.sleep(length_s)
        before = true_j(folder)
        seen = monitor.end_window(f"w{k}")
        errors.append(beyond(seen.cpu_energy[0], first, (before, true_j(folder))))
    # Zeus leaves its polling process behind, and this one would wait for it for ever.
    for child in multiprocessing.active_children():
        child.terminate()
    return errors


def our_windows(folder: Path, count: int, length_s: float) -> list[float]:
    from greenedge.energy.clock import RealClock
    from greenedge.energy.sources.powercap import open_source

    source = open_source("powercap:intel-rapl:0", folder, RealClock())
    let_go(folder)
    errors = []
    for _ in range(count):
        before, begun, after = true_j(folder), source.read().value, true_j(folder)
        first = (before, after)
        time.sleep(length_s)
        before, ended, after = true_j(folder), source.read().value, true_j(folder)
        errors.append(beyond(ended - begun, first, (before, after)))
    source.close()
    return errors


def sweep(reader, before_wrap_j: float, count: int, length_s: float) -> list[float]:
    """One run of a reader on a fresh tree whose wrap comes after so many joules."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_tree(folder, before_wrap_j)
        writer = multiprocessing.get_context("spawn").Process(
            target=write_tree, args=(name, before_wrap_j), daemon=True
        )
        writer.start()
        try:
            # A fresh process each time: Zeus keeps the files it has found for the life of a process.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                return pool.submit(reader, folder, count, length_s).result()
        finally:
            writer.terminate()
            writer.join()


def summary(errors: list[float], length_s: float) -> dict:
    joules = [error * WATTS * length_s for error in errors]
    return {
        "windows": len(errors),
        "worst_relative": max(map(abs, errors)),
        "lowest_j": min(joules) + WATTS * length_s,
        "highest_j": max(joules) + WATTS * length_s,
        "beyond_1_percent": sum(abs(e) > 0.01 for e in errors),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sweeps", type=int, default=8)
    parser.add_argument("--windows", type=int, default=20)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    readers = {"greenedge": our_windows}
    if importlib.util.find_spec("zeus"):
        readers["zeus"] = zeus_windows
    else:
        print(
            "zeus is not installed: its column is left out (pip install zeus==0.16.0 into an environment of its own)."
        )
    out = {"watts": WATTS, "window_s": 0.25, "range_j": RANGE_UJ / 1e6}
    for name, reader in readers.items():
        errors = [
            e
            for k in range(options.sweeps)
            for e in sweep(
                reader, WATTS * (0.4 + 0.2 * options.windows * (k + 0.5) / options.sweeps), options.windows, 0.25
            )
        ]
        out[name] = {"at_wraps": summary(errors, 0.25), "no_wrap": summary(sweep(reader, 200_000.0, 10, 1.0), 1.0)}
    if options.record:
        options.record.write_text(json.dumps(out, indent=1) + "\n")
    json.dump(out, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
