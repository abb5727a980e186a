"""Keeps a run's network ready on one of the runtimes, to be measured: so many inferences when it is told a number.

    python -m greenedge.runtimes.session RUN RUNTIME [BATCH]

It takes the run's own test inputs in turn, one sample a call, or BATCH of them. It says `ready`, reads a number a line, answers `done`.
"""

from __future__ import annotations

import sys
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from greenedge.errors import GreenedgeError
from greenedge.runtimes import open_runtime

SAMPLES = 64
_HELD = 4  # batches, made of the samples over and over: of one alone the device could keep everything at hand
# The runtime that runs a back end's own file, and that file; every other one writes the network anew from the graph.
OWN = {"tflite": ("litert", "model.tflite"), "onnxruntime": ("onnxruntime", "model.onnx")}


def argv(run: Path, runtime: str, batch: int = 1) -> tuple[str, ...]:
    """The command that keeps `run` ready on `runtime`, `batch` samples a call."""
    return (sys.executable, "-m", "greenedge.runtimes.session", str(run), runtime, str(batch))


def calls_of(run: Path, name: str, batch: int = 1):
    """(runtime, its calls in an endless turn over the samples)."""
    from greenedge.frontends.import_onnx import read_array
    from greenedge.legalise import move_argmax_to_host
    from greenedge.lower import load_lowering
    from greenedge.lower.float_io import run_prologue
    from greenedge.run.folder import RunFolder
    from greenedge.run.manifest import load_manifest

    backend = load_manifest(run).about.get("backend")
    own, file = OWN.get(str(backend), (None, None))
    model = RunFolder(run).build / file if file and name.partition("-")[0] == own.partition("-")[0] else None
    lowered = move_argmax_to_host(load_lowering(RunFolder(run).lower))
    levels = next(iter(run_prologue(lowered, read_array(RunFolder(run).inputs)[:SAMPLES]).values()))
    runtime = open_runtime(name, lowered.graph, model if model is not None and model.is_file() else None)
    if batch > 1:
        levels = levels[np.arange(_HELD * batch) % len(levels)]
    return runtime, cycle([runtime.prepare(levels[k : k + batch]) for k in range(0, len(levels), batch)])


def main(run: Path, name: str, batch: int = 1) -> int:
    try:
        runtime, calls = calls_of(run, name, batch)
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
