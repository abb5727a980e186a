"""What a back end is: a record of typed functions. Required ones have no default; the others do nothing unless given.

Each back end's package ends with one `BACKEND = Backend(name=…, check=…, …)`. Composition takes the place of
inheritance, and a hook that does not exist is a TypeError where the record is made, not a hook that is never called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from greenedge.errors import Reason
from greenedge.graph import Graph
from greenedge.graph.ops.base import Ints
from greenedge.hdl.board_shell.read_back import ReadBack
from greenedge.legalise import ARGMAX_TO_HOST, CLAMP_AT_REACH, FOLD_LAYOUTS, FUSE_STEPS, NARROW_SUMS, Passes
from greenedge.legalise.rules import Rules
from greenedge.lower import Lowered
from greenedge.lower.dequantise import Dequantise
from greenedge.progress import ProgressFn, no_progress
from greenedge.target import Target
from greenedge.tools.plan import Plan

Options = Mapping[str, object]
_SHIPPED = (".tflite", ".onnx")  # files whose size a report calls the model's
Feeds = NDArray[Any] | Mapping[str, NDArray[Any]]  # one array (N, *shape), or one per input edge
Values = dict[str, Ints]  # edge -> graph integers, batch first
Floats = NDArray[np.float32]


def as_feeds(levels: Mapping[str, NDArray[Any]]) -> Feeds:
    """Graph integers by input edge as back ends are given them: of one input the array alone."""
    return levels if len(levels) > 1 else next(iter(levels.values()))


@dataclass(frozen=True)
class FloatEpilogue:
    """The float outputs of a model that a built file carries itself, behind its exact integers.

    carried     the outputs, in the model's order
    notes       a sentence for each output that is left to the host
    quantiser   how the file's input integers come from floats, where one quantiser does that (see its back end); else
                None
    """

    carried: tuple[Dequantise, ...] = ()
    notes: tuple[str, ...] = ()
    quantiser: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Alternate:
    """Another runtime, or another set of kernels, for the same built file.

    `proof` is what holds for every input; `must_be_equal`: whether that is equality everywhere, so that a difference
    is an error and not a remark.
    """

    run: Callable[[Feeds, ProgressFn], Values]
    proof: str | None
    must_be_equal: bool


@dataclass(frozen=True)
class Fitness:
    """How well a back end suits a graph where the target has several: the highest rank is taken, `reason` says why."""

    rank: int
    reason: str


@dataclass(frozen=True)
class Outline:
    """What a plan says before anything is run: a row for each layer (or file), and estimates for the whole.

    `figures` are numbers under the keys of summary.json: "estimated_lut4", …, or "bytes" of a file that ships as it is.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    estimated: Mapping[str, object] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Environment:
    """Something that a back end makes for itself, as a row of `greenedge doctor`: an environment for tools of its own.

    `is_there`: whether it has been made; `where` it lies or will lie.
    """

    name: str
    needed_for: str
    cure: str
    is_there: bool
    version: str | None
    where: str


class CheckFn(Protocol):
    """Every reason why the legalised graph cannot be built; needs no tool. Raises TargetError for an unknown option."""

    def __call__(self, graph: Graph, target: Target, options: Options) -> list[Reason]: ...


class PlanFn(Protocol):
    """Files and commands for a graph against which there is no reason. Pure: the same inputs give the same bytes."""

    def __call__(self, graph: Graph, target: Target, options: Options, epilogue: FloatEpilogue = ...) -> Plan: ...


class SimulateFn(Protocol):
    """Runs what was built in `folder` on graph integers: {edge: integers} of the outputs and of the edges in `keep`
    that exist.

    Raises GreenedgeError for a damaged build and for values outside an input's range.
    """

    def __call__(self, folder: Path, x: Feeds, keep: Sequence[str] = ..., progress: ProgressFn = ...) -> Values: ...


class PartialFn(Protocol):
    """As SimulateFn, for a stage that is too slow for all vectors."""

    def __call__(self, folder: Path, x: Feeds, progress: ProgressFn) -> Values: ...


class FloatsFn(Protocol):
    """{model output: (float32 values, the largest difference from the host's that is no error)} of what was built."""

    def __call__(self, folder: Path, x: Feeds, progress: ProgressFn = ...) -> dict[str, tuple[Floats, float]]: ...


class NotesFn(Protocol):
    """Sentences for `check` about a model that can be built. `source` is the model's file."""

    def __call__(self, source: Path, lowered: Lowered, target: Target, options: Options) -> tuple[str, ...]: ...


class SwitchingFn(Protocol):
    """How often the signals of a build change per inference (see energy/estimate.py); `level` is "netlist", "rtl" or
    None."""

    def __call__(self, folder: Path, x: Feeds, level: str | None, progress: Callable[[str], None]) -> Any: ...


class FaultModel(Protocol):
    """All single-bit faults of a build's memories, numbered 0 … count-1; inputs are graph integers (N, *shape)."""

    @property
    def count(self) -> int: ...

    def place(self, fault: int) -> str:
        """Where a fault sits, in a sentence's words."""

    def see(self, x: Ints, faults: Ints) -> NDArray[np.bool_]:
        """(faults, N): which of the rising `faults` change an output for which input."""

    def prove(self, faults: Ints) -> NDArray[np.bool_]:
        """(faults,): of which it is proved that no input can show them."""

    def search(self, fault: int, starts: Ints, rng: np.random.Generator) -> Ints:
        """Inputs (N, *shape) that are likely to show a fault; N is 0 where none was found."""


class ReadBackFn(Protocol):
    """Reads a build back and compares it with what `graph` says it must hold. Raises GreenedgeError for a damaged
    build, ToolError for a tool that fails."""

    def __call__(self, graph: Graph, folder: Path, progress: ProgressFn = ...) -> tuple[ReadBack, ...]: ...


def _no_read_back(graph: Graph, folder: Path, progress: ProgressFn = no_progress) -> tuple[ReadBack, ...]:
    return ()


def _few_vectors(folder: Path) -> int:
    return 0


def _no_faults(graph: Graph, folder: Path) -> FaultModel | None:
    return None


def _no_differences(folder: Path) -> Mapping[str, Mapping[int, int]]:
    return {}


def _no_sentence(folder: Path) -> str | None:
    return None


def _no_stages(folder: Path) -> Mapping[str, PartialFn]:
    return {}


def _no_alternates(folder: Path) -> Mapping[str, Alternate]:
    return {}


def _no_floats(folder: Path, x: Feeds, progress: ProgressFn = no_progress) -> dict[str, tuple[Floats, float]]:
    return {}


def _no_notes(source: Path, lowered: Lowered, target: Target, options: Options) -> tuple[str, ...]:
    return ()


def _no_epilogue(lowered: Lowered, target: Target, options: Options) -> FloatEpilogue:
    return FloatEpilogue()


def _no_rows() -> tuple[tuple[str, str, str] | Environment, ...]:
    return ()


def _outline_files(plan: Plan, target: Target) -> Outline:
    """Of a plan whose files are what ships."""
    rows = tuple((name, len(content)) for name, content in sorted(plan.files.items()))
    shipped = [len(plan.files[name]) for name in plan.products if name in plan.files and name.endswith(_SHIPPED)]
    return Outline(("file", "bytes"), rows, figures={"bytes": shipped[0]} if len(shipped) == 1 else {})


def _no_needs(target: Target, options: Options) -> tuple[str, ...]:
    return ()


def _no_fitness(graph: Graph, target: Target, options: Options) -> Fitness:
    return Fitness(0, "")


@dataclass(frozen=True)
class Backend:
    """One back end.

    name            as in target files and on the command line
    stage           what verification calls the built thing: "rtl", "tflite"
    options         the names that --set build.NAME may have
    passes          what the graph goes through before check, plan, simulate and verify see it
    rules           one rule per operation, for the support matrix
    check … tools   the four questions of a back end, and the tools that enter the key of the build stage

    compiles             whether running the build compiles files of its folder, which must then be planned again first
    proof                what holds for every input of the build, in one sentence; None where nothing was proved
    stale_artifact       why the product was not made from the files beside it; None where it was
    simulate_with_backpressure
                         as simulate, with random pauses at both ends of the stream; None where there is no stream
    partial_stages       further stages, compared on a few vectors
    alternate_runtimes   other ways of running the same file
    describe_deviation      what was known beforehand of differences with the graph, and the cure
    list_certified_differences
                         {edge: {channel: by how many levels it may differ}} of what `describe_deviation` says; by its
                         certificate no other channel differs
    why_not_runnable     why the build cannot be run on this machine; the run then ends with a report that says so
    float_epilogue       the float outputs that the build carries; `plan` gets it
    float_outputs        those outputs, computed by the build
    preflight_notes      sentences of `check` about a model that can be built
    fitness              which back end of a target to prefer for a graph, where nobody named one
    switching            signal changes of a build on vectors, for the energy estimate; None where there are none
    needs                names of what a build for a target needs (greenedge.tools.needs)
    read_back            memories and bitstream of the build against the graph, without running anything
    partial_vectors      how many vectors of `memory_faults` the partial stages can simulate beside the samples
    memory_faults        the single-bit faults of the build's memories; None where it has no memories of its own
    requirements         (program or package, what needs it, how to get it), or an Environment, for `greenedge doctor`
    outline              what a plan says of layers and resources, for `--until plan`
    """

    name: str
    stage: str
    options: tuple[str, ...]
    rules: Rules[Any]
    check: CheckFn
    plan: PlanFn
    simulate: SimulateFn
    report: Callable[[Path], dict[str, Any]]
    tools: Callable[[Options], dict[str, str]]
    passes: Passes = field(default=(ARGMAX_TO_HOST, FUSE_STEPS, FOLD_LAYOUTS, NARROW_SUMS, CLAMP_AT_REACH))
    compiles: bool = False
    proof: Callable[[Path], str | None] = _no_sentence
    stale_artifact: Callable[[Path], str | None] = _no_sentence
    simulate_with_backpressure: SimulateFn | None = None
    partial_stages: Callable[[Path], Mapping[str, PartialFn]] = _no_stages
    alternate_runtimes: Callable[[Path], Mapping[str, Alternate]] = _no_alternates
    describe_deviation: Callable[[Path], str | None] = _no_sentence
    list_certified_differences: Callable[[Path], Mapping[str, Mapping[int, int]]] = _no_differences
    why_not_runnable: Callable[[Path], str | None] = _no_sentence
    float_epilogue: Callable[[Lowered, Target, Options], FloatEpilogue] = _no_epilogue
    float_outputs: FloatsFn = _no_floats
    preflight_notes: NotesFn = _no_notes
    fitness: Callable[[Graph, Target, Options], Fitness] = _no_fitness
    switching: SwitchingFn | None = None
    needs: Callable[[Target, Options], tuple[str, ...]] = _no_needs
    read_back: ReadBackFn = _no_read_back
    partial_vectors: Callable[[Path], int] = _few_vectors
    memory_faults: Callable[[Graph, Path], FaultModel | None] = _no_faults
    requirements: Callable[[], tuple[tuple[str, str, str] | Environment, ...]] = _no_rows
    outline: Callable[[Plan, Target], Outline] = _outline_files


def has_fitness(backend: Backend) -> bool:
    """Whether the back end ranks itself against others of a target."""
    return backend.fitness is not _no_fitness
