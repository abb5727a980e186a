"""The back ends: one dict from name to module, imported when asked for.

A back end is a module with five functions and OPTIONS (the names that --set build.NAME may have for it), and inherits
from nothing:

    check(graph, target, options) -> list[Reason]         every reason why it cannot; needs no tool, fast
    plan(graph, target, options) -> Plan                  pure: the same inputs give the same bytes
    simulate(folder, x, keep, progress) -> {edge: int64}  runs what lies in the folder on integers
    report(folder) -> dict                                {"hardware": {…}} or {"edge": {…}}, from the tools' own logs
    tools(options) -> {name: version}                     what enters the key of the build stage

It may also have STAGE (what verify calls the built thing), `proved`, `provenance`, `stalled` (as `simulate`, while
both ends of the circuit's stream pause at random), `sampled` ({stage: function}, each compared on a few vectors) and
TOP1 (it builds an ArgMax at the graph's end; for every other back end that is the host's work, and what is built and
compared are the scores). Where what it builds can carry the model's float end (greenedge.lower.dequantise), it has
`ends(lowered, target, options)`, whose result `plan` takes as its fourth argument, and `floats(folder, x, progress)`,
which gives those outputs. `beside(folder)` names other ways of running the same file: {stage: (run(x, progress), what is
proved of it, whether that is equality everywhere)}; where it is not, a difference is told and stops nothing.
`foretold(folder)` says what was known beforehand of a difference with the graph, and its cure. `unverified(folder)` says
why what was built cannot be run here (None where it can): the run then ends with a report that says so.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from types import ModuleType
from typing import TYPE_CHECKING

from greenedge.errors import TargetError
from greenedge.target import nearest

if TYPE_CHECKING:
    from greenedge.graph import Graph
    from greenedge.lower import Lowered

BACKENDS = {
    "c99": "greenedge.backends.c99",
    "da4ml": "greenedge.backends.da4ml",
    "finn": "greenedge.backends.finn",
    "hls4ml": "greenedge.backends.hls4ml",
    "onnxruntime": "greenedge.backends.int8.onnxruntime",
    "tflite": "greenedge.backends.int8.tflite",
}


def graph_for(backend: ModuleType, graph: Graph) -> Graph:
    """What of a graph the back end builds: all of it, or the scores whose index the host finds."""
    from greenedge.legalise.argmax_to_host import scores_of

    return graph if getattr(backend, "TOP1", False) else scores_of(graph)


def lowered_for(backend: ModuleType, lowered: Lowered) -> Lowered:
    """The same for a graph with its two host models."""
    from greenedge.legalise.argmax_to_host import hosted

    return lowered if getattr(backend, "TOP1", False) else hosted(lowered)


def load_backend(name: str) -> ModuleType:
    """The module of that back end. Raises TargetError for a name that is not in the dict."""
    if name not in BACKENDS:
        raise TargetError(f"there is no back end {name!r}; back ends are: {', '.join(sorted(BACKENDS))}.")
    return importlib.import_module(BACKENDS[name])


def check_options(options: Iterable[str]) -> None:
    """Raises TargetError for an option that no back end has. One that another has is none of this one's business: a recipe's
    [build] is for all of its targets."""
    known = {name for backend in BACKENDS for name in load_backend(backend).OPTIONS} if options else set()
    for key in options:
        if key.partition(".")[0] not in known:
            raise TargetError(
                f"no back end has an option build.{key}{nearest(key, known)}; there are: {', '.join(sorted(known))}."
            )
