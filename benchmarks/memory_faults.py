"""How many single-bit faults of a build's memories the vectors see: the samples, and those chosen for the purpose.

    python benchmarks/memory_faults.py RUN [RUN …]       runs of finn, verified or not

Per run: the memory bits; how many change an output for the first 24 samples, for all samples, for the chosen vectors;
how many are proved unseen by any input; how many are neither; and the seconds of the choice. A fault is a bit of a
memory file, turned for the whole run; its effect is emulated (tests/backends/test_memory_faults.py compares it with the
RTL).
"""

import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from greenedge.backends.finn.memory_faults import MemoryFaults  # noqa: E402
from greenedge.graph import load_graph  # noqa: E402
from greenedge.lower import load_lowering  # noqa: E402
from greenedge.lower.float_io import run_prologue  # noqa: E402
from greenedge.run.folder import RunFolder  # noqa: E402
from greenedge.verify.built import PARTIAL_SAMPLES  # noqa: E402
from greenedge.verify.fault_vectors import choose_vectors  # noqa: E402


def count_seen(faults: MemoryFaults, x: np.ndarray) -> int:
    """How many faults change an output for any of the inputs."""
    left = np.arange(faults.count)
    for sample in x:
        left = left[~faults.see(sample[None], left)[:, 0]]
    return faults.count - len(left)


def measure(run: RunFolder) -> list[str]:
    """One row of the table."""
    graph = load_graph(run.build)
    ints = run_prologue(load_lowering(run.lower), np.load(run.export / "inputs.npy"))
    x = next(iter(ints.values()))
    faults = MemoryFaults.of_build(graph, run.build)
    start, busy = time.monotonic(), time.process_time()
    chosen = choose_vectors(faults, graph.edges[graph.inputs[0]], x[:PARTIAL_SAMPLES])
    wall, busy = time.monotonic() - start, time.process_time() - busy
    coverage = chosen.coverage
    for place in coverage.open_places:
        print(f"  open: {place}")

    def share(count: int) -> str:
        return f"{count:,} ({100 * count / faults.count:.2f} %)"

    return [
        str(run.path),
        f"{faults.count:,}",
        share(chosen.by_samples),
        f"{share(count_seen(faults, x))} of {len(x)}",
        f"{share(coverage.seen)} with {len(chosen.vectors)} more",
        share(coverage.proved_unseen),
        share(coverage.open),
        f"{wall:.1f} s, of a processor {busy:.1f} s",
    ]


def main() -> None:
    """Prints the table."""
    head = [
        "run",
        "memory bits",
        f"seen by {PARTIAL_SAMPLES} samples",
        "seen by all samples",
        "seen with the chosen vectors",
        "proved unseen",
        "open",
        "choice took",
    ]
    rows = [measure(RunFolder(Path(name))) for name in sys.argv[1:]]
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
