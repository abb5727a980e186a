"""One interface to everything that can run a network here: for correctness, latency and energy.

    runtime = open_runtime("litert", graph)          # the integer graph's own 8-bit file, exact
    runtime.run(levels)                              # {output edge: (N, …)}
    call = runtime.prepare(levels[:1])               # one inference, everything else done beforehand
    workload(runtime, levels[:1])                    # the same for the energy harness

    greenedge.runtimes.found()                       # which of them work on this machine, and why the others do not

`exact` runtimes run the graph's 8-bit file and give integers; `kernels` names the set of the certificate that says at which accumulators
they are the graph's own (none does for tflite-runtime, whose 2.14 rounds otherwise). The others run its float network (floats.py), which
is what every claim about speed is measured against. A runtime is one module with `probe(name)` and `open_(name, graph, model, threads)`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from greenedge.errors import TargetError, ToolError
from greenedge.graph import Graph
from greenedge.target import nearest

# name -> module; a name's own words say kernels, precision and device
RUNTIMES = {
    "litert": "greenedge.runtimes.litert",  # XNNPACK, the default
    "litert-reference": "greenedge.runtimes.litert",
    "tflite-runtime": "greenedge.runtimes.litert",
    "onnxruntime": "greenedge.runtimes.onnxruntime",
    "onnxruntime-float": "greenedge.runtimes.onnxruntime",
    "torch": "greenedge.runtimes.torch",
    "torch-compile": "greenedge.runtimes.torch",
    "torch-cuda": "greenedge.runtimes.torch",
    "torch-compile-cuda": "greenedge.runtimes.torch",
}
# those whose file leaves the number of samples open: a batch is computed at once, not sample by sample
BATCHING = tuple(name for name in RUNTIMES if name.startswith(("torch", "onnxruntime")))


@dataclass(frozen=True, eq=False)
class Runtime:
    """A network made ready. `run` takes graph integers (N, *shape) of the first input and gives {output edge: values}: int64
    where `exact`, else float32 levels. `prepare` takes such integers and gives a call that infers them once; on a device that
    answers before it has finished, `synchronise` waits for it. `kernels`: whose certificate counts for it (greenedge.backends.int8.proof_record), or None."""

    name: str
    version: str
    device: str
    exact: bool
    run: Callable[[np.ndarray], dict[str, np.ndarray]]
    prepare: Callable[[np.ndarray], Callable[[], object]]
    synchronise: Callable[[], object] | None = None
    kernels: str | None = None


@dataclass(frozen=True)
class Found:
    """A runtime on this machine: its version, or the reason why it does not work here and what to do."""

    name: str
    version: str | None
    reason: str = ""
    cure: str = ""


def found() -> list[Found]:
    """Every runtime, probed with a tiny model where importing alone says too little."""
    return [_module(name).probe(name) for name in RUNTIMES]


def open_runtime(name: str, graph: Graph, model: Path | None = None, threads: int = 1) -> Runtime:
    """The graph on that runtime. `model` is a file already built for it by the back end; without one it is written in memory.

    Raises TargetError for a name that there is not, ToolError where the runtime does not work here, UnsupportedError where the graph
    has no file for it.
    """
    module = _module(name)
    state = module.probe(name)
    if state.version is None:
        raise ToolError(f"{name} does not work here: {state.reason} (cure: {state.cure}).")
    return module.open_(name, graph, model, threads)


def workload(runtime: Runtime, levels: np.ndarray, accuracy: float | None = None):
    """One call on `levels` as a workload of the energy harness."""
    from greenedge.energy.workloads import CallableWorkload

    return CallableWorkload(
        runtime.prepare(levels), f"{runtime.name} on {runtime.device}", len(levels), accuracy, runtime.synchronise
    )


def _module(name: str):
    if name not in RUNTIMES:
        raise TargetError(
            f"there is no runtime {name!r}{nearest(name, RUNTIMES)}; runtimes are: {', '.join(RUNTIMES)}."
        )
    return importlib.import_module(RUNTIMES[name])
