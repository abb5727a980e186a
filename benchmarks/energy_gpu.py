"""Acceptance test 10, on an NVIDIA GPU: a matrix product of 10 s ten times, and rest measured as if it were work.

    python benchmarks/energy_gpu.py [--size N] [--reps N] [--output FILE]

Both are measured in turns by the method that users get, through the counter and the instantaneous power of NVML. Three
things must hold: counter and integrated power agree within 5 % or are flagged, the repetitions vary by less than 2 %,
and the net energy of rest is 0 within its interval. `--output` keeps the document (benchmarks/records holds those of
cards that were at hand). No random delays: the product is long and steady, so there is no rhythm to fall in step with.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from greenedge.energy import results
from greenedge.energy.measurement import measure
from greenedge.energy.method import Method
from greenedge.energy.stats import mean_interval
from greenedge.energy.workloads import CallableWorkload

REST = "rest, measured as work"
_CALLS = 8  # products between two synchronisations: some milliseconds


def product(size: int, gpu: int) -> CallableWorkload:
    """size × size matrices of random half-precision numbers (zeros would need less power), times each other."""
    import torch

    device = torch.device("cuda", gpu)
    a, b = (torch.randn(size, size, device=device, dtype=torch.float16) for _ in range(2))
    c = torch.empty_like(a)

    def call() -> None:
        for _ in range(_CALLS):
            torch.matmul(a, b, out=c)
        torch.cuda.synchronize(device)

    return CallableWorkload(call, f"matrix product {size}, float16, {torch.cuda.get_device_name(device)}", _CALLS)


def verdicts(rows: list[dict]) -> list[tuple[bool, str]]:
    """(holds, figure) of each of the three, from the rows of the two workloads on counter and power."""
    by = {(row["workload"] == REST, row["source"]["id"].rpartition(":")[2]): row for row in rows}
    said = []
    counter, power = (results.figure(by[False, kind], "total").value for kind in ("energy", "power"))
    difference = abs(counter - power) / max(counter, power)
    flagged = any("counter and integrated power differ" in flag for flag in by[False, "energy"]["flags"])
    said.append(
        (
            difference <= 0.05 or flagged,
            f"counter {counter:.4g} J, integrated power {power:.4g} J a product: "
            f"{difference:.2%} apart{', flagged' if flagged else ''}",
        )
    )
    for kind in ("energy", "power"):
        joules = np.array([rep["energy_j"] for rep in by[False, kind]["repetitions"]])
        spread = float(joules.std(ddof=1) / joules.mean())
        said.append((spread < 0.02, f"{kind}: {len(joules)} repetitions vary by {spread:.2%}"))
        net = mean_interval(
            [rep["net_energy_j"] / rep["window_s"] * rep["inferences"] for rep in by[True, kind]["repetitions"]]
        )
        said.append(
            (net.low <= 0 <= net.high, f"{kind}: rest takes {net.mean:+.3f} W net ({net.low:+.3f} … {net.high:+.3f})")
        )
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=8192)
    parser.add_argument("--reps", type=int, default=10)
    parser.add_argument("--gpu", type=int, default=0)
    parser.add_argument("--output", type=Path)
    words = parser.parse_args()
    rest = CallableWorkload(lambda: time.sleep(0.01), REST)
    document = measure(
        [product(words.size, words.gpu), rest],
        [f"nvml:{words.gpu}:energy"],
        method=Method(min_reps=words.reps, max_reps=words.reps, random_delay_s=0.0),
        required="measured",
        progress=lambda done, total, text: print(f"  … {text} {done}/{total}", file=sys.stderr, flush=True),
    )
    if words.output:
        results.save(document, words.output)
    for row in document["rows"]:
        total, idle = (results.figure(row, name) for name in ("total", "idle"))
        print(
            f"{row['workload']} by {row['source']['id']}: {total.value:.4g} J ({total.low:.4g} … {total.high:.4g}), "
            f"idle {idle.value:.1f} W, {row['latency_s']['value'] * 1e3:.3f} ms; liveness {row['liveness']}"
        )
        for flag in row["flags"]:
            print(f"  flagged: {flag}")
    found = verdicts(document["rows"])
    for holds, figure in found:
        print(f"{'holds' if holds else 'FAILS'}  {figure}")
    return 0 if all(holds for holds, _ in found) else 1


if __name__ == "__main__":
    sys.exit(main())
