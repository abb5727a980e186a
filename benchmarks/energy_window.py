"""What a window around each epoch costs: a torch training loop with `energy.Monitor` windows and without, in
alternation.

    python benchmarks/energy_window.py [--pairs N] [--epoch SECONDS]

The monitor reads a powercap tree of its own, which a process moves, so that it runs where there is no counter too. CPU
time and wall time of an epoch of the same steps; the interval is that of the median of the pairs (order statistics).
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch

from greenedge.energy.monitor import Monitor
from greenedge.energy.simulate import FakePowercapTree

LIMIT = 0.01


def move_counter(root: str, busy: object) -> None:
    """20 W, and 10 W more while the parent works, every millisecond."""
    tree = FakePowercapTree(Path(root), {"intel-rapl:0": "package-0"})
    last, joules = time.monotonic(), 50.0
    while True:
        now = time.monotonic()
        joules += (20 + 10 * busy.value) * (now - last)  # type: ignore[attr-defined]
        last = now
        tree.tick("intel-rapl:0", joules)
        time.sleep(0.001)


def make_epoch(seconds: float) -> Callable[[], None]:
    """An epoch of a small network whose number of steps takes about so long."""
    model = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10))
    optimiser = torch.optim.SGD(model.parameters(), 0.01)
    x, y = torch.randn(128, 256), torch.randint(0, 10, (128,))

    def step() -> None:
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()

    begun, steps = time.perf_counter(), 0
    while time.perf_counter() - begun < 1.0:
        step()
        steps += 1
    count = max(int(steps * seconds), 1)

    def epoch() -> None:
        for _ in range(count):
            step()

    return epoch


def summarise(logs: list[float]) -> tuple[float, float, float]:
    """(median, lower and upper 95 % end) of the slowdown, 0.01 is 1 %."""
    ordered, away = sorted(logs), 1.96 * math.sqrt(len(logs)) / 2
    low, high = (min(max(round(len(logs) / 2 + side * away), 0), len(logs) - 1) for side in (-1, 1))
    return tuple(math.exp(ordered[k]) - 1 for k in (len(logs) // 2, low, high))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=41)
    parser.add_argument("--epoch", type=float, default=1.0)
    asked = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    busy = multiprocessing.Value("i", 0)
    with tempfile.TemporaryDirectory() as folder:
        mover = multiprocessing.Process(target=move_counter, args=(folder, busy), daemon=True)
        mover.start()
        time.sleep(0.5)

        def load(going: Callable[[], bool]) -> None:
            busy.value = 1
            while going():
                sum(range(1000))
            busy.value = 0

        with Monitor(root=Path(folder), load=load, required="measured") as monitor:
            epoch = make_epoch(asked.epoch)
            wall: list[float] = []
            cpu: list[float] = []
            for number in range(asked.pairs):
                seconds = {}
                for windowed in ((False, True), (True, False))[number % 2]:
                    begun, used = time.perf_counter(), time.process_time()
                    with monitor.window("epoch") if windowed else nullcontext():
                        epoch()
                    seconds[windowed] = (time.perf_counter() - begun, time.process_time() - used)
                wall.append(math.log(seconds[True][0] / seconds[False][0]))
                cpu.append(math.log(seconds[True][1] / seconds[False][1]))
            begun = time.perf_counter()
            for _ in range(1000):
                with monitor.window("nothing"):
                    pass
            each = (time.perf_counter() - begun) / 1000
        mover.kill()
    for what, logs in (("CPU time", cpu), ("wall time", wall)):
        middle, low, high = summarise(logs)
        verdict = "within" if high <= LIMIT else "OVER" if low > LIMIT else "noise hides whether it is within"
        print(f"{what}: {middle:+.2%} ({low:+.2%} to {high:+.2%}) of {asked.pairs} pairs, {verdict} {LIMIT:.0%}")
    print(f"an empty window: {each * 1e6:.0f} µs, {each / asked.epoch:.4%} of an epoch of {asked.epoch:g} s")


if __name__ == "__main__":
    main()
