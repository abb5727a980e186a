"""What a back end for decoders is: a record of typed functions, as backends/interface.py has one for graphs.

A decoder is no graph: it is run on stories (a prompt, and tokens drawn behind it), and what is compared are residuals,
logits and tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from greenedge.backends.decoder.simulate import Story, Trace
from greenedge.backends.interface import Outline
from greenedge.decoder.record import Decoder
from greenedge.decoder.tokenizer import Tokenizer
from greenedge.errors import Reason
from greenedge.hdl.board_shell.read_back import ReadBack
from greenedge.hdl.switching import Switching
from greenedge.progress import ProgressFn
from greenedge.target import Target
from greenedge.tools.plan import Plan

Options = Mapping[str, object]


@dataclass(frozen=True)
class Line:
    """How a build is talked to: a board's serial port, or its simulation; neither where it runs on this machine."""

    port: str | None = None
    baud: int | None = None
    virtual: bool = False


@dataclass(frozen=True)
class Draw:
    """One answer: the token that came out (without meaning within the prompt), and the engine's cycles for it where
    there is an engine."""

    token: int
    cycles: int | None = None


@dataclass(frozen=True)
class Talk:
    """A conversation: `draws` gives an answer for every position of the story, each as soon as it is known.

    clock_hz   of the engine; None where there is none
    evidence   "simulated" or "measured": what the seconds of the clock are
    line_s     seconds of simulated time since the conversation began; None where time is the host's own
    """

    draws: Iterator[Draw]
    clock_hz: int | None
    evidence: str
    line_s: Callable[[], float] | None = None


class TellFn(Protocol):
    """Runs what lies in a build's folder on stories; a Trace for each. Raises GreenedgeError for a damaged build,
    ToolError."""

    def __call__(
        self, folder: Path, decoder: Decoder, options: Options, stories: Sequence[Story], progress: ProgressFn
    ) -> list[Trace]: ...


@dataclass(frozen=True)
class Stage:
    """One way to run what was built: `observed` are the fields of Trace that it shows and that are compared, `stories`
    what it is run on, `title` its name in a sentence."""

    name: str
    title: str
    tell: TellFn
    observed: tuple[str, ...]
    stories: Callable[[Decoder], tuple[Story, ...]]


class CheckFn(Protocol):
    """Every reason why the decoder cannot be built; needs no tool. Raises TargetError for a value that an option
    cannot have."""

    def __call__(self, decoder: Decoder, target: Target, options: Options) -> tuple[Reason, ...]: ...


class PlanFn(Protocol):
    """Files and commands for a decoder against which there is no reason. Pure: the same inputs give the same bytes."""

    def __call__(self, decoder: Decoder, tokenizer: Tokenizer | None, target: Target, options: Options) -> Plan: ...


class TalkFn(Protocol):
    """Tells one story on what was built, token by token. Raises GreenedgeError for a line that the build cannot have,
    BoardError where no board answers, or another one does."""

    def __call__(
        self, folder: Path, decoder: Decoder, story: Story, line: Line, progress: ProgressFn
    ) -> AbstractContextManager[Talk]: ...


class OutlineFn(Protocol):
    """What a plan says of memories and resources, before anything is run."""

    def __call__(self, decoder: Decoder, plan: Plan, target: Target, options: Options) -> Outline: ...


class ReadBackFn(Protocol):
    """Compares what was built with the decoder without running it."""

    def __call__(
        self, folder: Path, decoder: Decoder, options: Options, progress: ProgressFn
    ) -> tuple[ReadBack, ...]: ...


class SwitchingFn(Protocol):
    """How often the nets of a build change while it writes; `samples` are tokens (see energy/estimate.py). Raises
    ToolError for a build without a netlist."""

    def __call__(
        self, folder: Path, decoder: Decoder, options: Options, progress: Callable[[str], None]
    ) -> Switching: ...


@dataclass(frozen=True)
class DecoderBackend:
    """One back end for decoders.

    name       as in the manifest and behind --backend
    options    the names that --set build.NAME may have
    stages     the ways to run the build, each compared with the numpy execution
    needs      programs that a build needs; tools: those that enter the key of the build stage, with versions
    code       folders and files of the package whose content its build depends on
    switching  for the estimate of energy; None for what is no circuit
    report     {"hardware" or "edge": …, "evidence": …, "notes": …} of a build's folder
    """

    name: str
    options: tuple[str, ...]
    check: CheckFn
    plan: PlanFn
    stages: tuple[Stage, ...]
    read_back: ReadBackFn
    report: Callable[[Path], dict[str, Any]]
    outline: OutlineFn
    talk: TalkFn
    needs: Callable[[Target], tuple[str, ...]]
    tools: Callable[[], dict[str, str]]
    code: tuple[str, ...]
    switching: SwitchingFn | None = None


def read_whole(options: Options, name: str, default: int, low: int, high: int) -> int:
    """An option that is a whole number. Raises TargetError for anything else."""
    from greenedge.errors import TargetError

    value = options.get(name, default)
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or not low <= value <= high:
        raise TargetError(f"build.{name} is {value!r}; a whole number from {low:,} to {high:,} is possible.")
    return value
