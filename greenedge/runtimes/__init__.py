"""One interface to everything that can run a network on this machine: for correctness, latency and energy.

    runtime = open_runtime("litert", graph)          # the integer graph's own 8-bit file, exact
    runtime.run(levels)                              # {output edge: (N, …)}
    call = runtime.prepare(levels[:1])               # one inference, everything else done beforehand
    workload(runtime, levels[:1])                    # the same for the energy harness

    greenedge.runtimes.probe_all()                   # which of them work on this machine, and why the others do not

`exact` runtimes run the graph's 8-bit file and give integers; `kernels` names the set of the certificate that says at
which accumulators they equal the graph (none for tflite-runtime, whose 2.14 rounds otherwise). The others run the
graph's float network (floats.py), the baseline of every claim about speed. A runtime is one module with the functions
of RuntimeModule.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np

from greenedge.backends.interface import Feeds
from greenedge.errors import TargetError, ToolError
from greenedge.graph import Graph
from greenedge.target import nearest

if TYPE_CHECKING:
    from greenedge.energy.workloads import CallableWorkload

# name → module; the name says kernels, precision and device
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
# Runtimes whose file has an open batch axis: they compute a batch at once, the others sample by sample.
BATCHING = tuple(name for name in RUNTIMES if name.startswith(("torch", "onnxruntime")))


@dataclass(frozen=True, eq=False)
class Runtime:
    """A network that is ready to run.

    run         graph integers, one array (N, *shape) or one per input edge → {output edge: values}: int64 where
                `exact`, else float32 levels
    prepare     the same integers → a call that infers them once
    synchronise waits for a device that returns from a call before it has finished; None where calls block
    kernels     the kernel set whose certificate holds for it (greenedge.backends.int8.proof_record), or None
    """

    name: str
    version: str
    device: str
    exact: bool
    run: Callable[[Feeds], dict[str, np.ndarray]]
    prepare: Callable[[Feeds], Callable[[], object]]
    synchronise: Callable[[], object] | None = None
    kernels: str | None = None


@dataclass(frozen=True)
class Probe:
    """A runtime on this machine: its version, or the reason why it does not work here and the cure."""

    name: str
    version: str | None
    reason: str = ""
    cure: str = ""


class RuntimeModule(Protocol):
    """What a module in RUNTIMES defines."""

    def probe(self, name: str) -> Probe:
        """Whether the runtime works here."""

    def open_(self, name: str, graph: Graph, model: Path | None, threads: int) -> Runtime:
        """The graph on a runtime whose probe gave a version."""


def probe_all() -> list[Probe]:
    """Every runtime, probed with a tiny model where an import alone proves too little."""
    return [_load_module(name).probe(name) for name in RUNTIMES]


def open_runtime(name: str, graph: Graph, model: Path | None = None, threads: int = 1) -> Runtime:
    """The graph on a runtime. `model` is a file that the back end built for it; None builds it in memory.

    Raises TargetError for an unknown name, ToolError where the runtime does not work here, UnsupportedError where the
    graph has no file for it.
    """
    module = _load_module(name)
    state = module.probe(name)
    if state.version is None:
        raise ToolError(f"{name} does not work here: {state.reason} (cure: {state.cure}).")
    return module.open_(name, graph, model, threads)


def workload(runtime: Runtime, levels: Feeds, accuracy: float | None = None) -> CallableWorkload:
    """One call on `levels` as a workload of the energy harness."""
    from greenedge.energy.workloads import CallableWorkload

    count = len(next(iter(levels.values())) if isinstance(levels, Mapping) else levels)
    return CallableWorkload(
        runtime.prepare(levels), f"{runtime.name} on {runtime.device}", count, accuracy, runtime.synchronise
    )


def float_levels(graph: Graph, levels: Feeds) -> list[np.ndarray]:
    """The graph integers of every input in float32, in the graph's order."""
    feeds = levels if isinstance(levels, Mapping) else {graph.inputs[0]: levels}
    return [np.ascontiguousarray(feeds[edge], np.float32) for edge in graph.inputs]


def _load_module(name: str) -> RuntimeModule:
    if name not in RUNTIMES:
        raise TargetError(
            f"there is no runtime {name!r}{nearest(name, RUNTIMES)}; runtimes are: {', '.join(RUNTIMES)}."
        )
    return cast(RuntimeModule, importlib.import_module(RUNTIMES[name]))
