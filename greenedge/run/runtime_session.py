"""A process that keeps a run's network ready on one of the runtimes and runs as many calls as it is asked for.

    python -m greenedge.run.runtime_session RUN RUNTIME [BATCH]

A call infers one of the run's test inputs, or BATCH of them, in turn. The process prints `ready`; for each line with a
number it makes that many calls and prints `done`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from greenedge.backends.interface import as_feeds
from greenedge.errors import GreenedgeError
from greenedge.runtimes import Runtime, open_runtime

SAMPLES = 64
_BATCHES = 4  # made of the samples in turn; a single batch could stay in the device's caches
# The runtime that runs a back end's own file, and that file; every other runtime builds the network from the graph.
OWN = {"tflite": ("litert", "model.tflite"), "onnxruntime": ("onnxruntime", "model.onnx")}


def argv(run: Path, runtime: str, batch: int = 1) -> tuple[str, ...]:
    """The command of the process for `run` on `runtime`, `batch` samples a call."""
    return (sys.executable, "-m", "greenedge.run.runtime_session", str(run), runtime, str(batch))


def prepare_calls(run: Path, name: str, batch: int = 1) -> tuple[Runtime, Iterator[Callable[[], object]]]:
    """(runtime, its calls in an endless turn over the samples)."""
    from greenedge.frontends.samples import count_samples, read_samples
    from greenedge.legalise import move_argmax_to_host
    from greenedge.lower import load_lowering
    from greenedge.lower.float_io import run_prologue
    from greenedge.run.folder import RunFolder
    from greenedge.run.manifest import load_manifest

    own, file = OWN.get(str(load_manifest(run).about.get("backend")), ("", ""))
    model = RunFolder(run).build / file if own and name.partition("-")[0] == own else None
    lowered = move_argmax_to_host(load_lowering(RunFolder(run).lower))
    samples = read_samples(RunFolder(run).inputs, lowered.inputs)
    count = min(SAMPLES, count_samples(samples))
    levels = run_prologue(lowered, {name: array[:count] for name, array in samples.items()})
    runtime = open_runtime(name, lowered.graph, model if model is not None and model.is_file() else None)
    order = np.arange(count if batch == 1 else _BATCHES * batch) % count
    batches = [order[k : k + batch] for k in range(0, len(order), batch)]
    return runtime, cycle(
        [runtime.prepare(as_feeds({edge: x[part] for edge, x in levels.items()})) for part in batches]
    )


def main(run: Path, name: str, batch: int = 1) -> int:
    """Serves calls until stdin ends; returns the exit status."""
    try:
        runtime, calls = prepare_calls(run, name, batch)
        next(calls)()
    except GreenedgeError as error:
        print(str(error).splitlines()[0], file=sys.stderr)
        return 1
    print("ready", flush=True)
    for line in sys.stdin:
        for call in islice(calls, int(line)):
            call()
        if runtime.synchronise:
            runtime.synchronise()
        print("done", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])))
