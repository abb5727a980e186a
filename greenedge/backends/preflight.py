"""Preflight: every reason why a model cannot go to a target, at once, in the model's own node names. Runs no tool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from greenedge.decoder.source import is_decoder_file
from greenedge.errors import Reason, ReasonKind, UnsupportedError
from greenedge.graph import Graph
from greenedge.target import Target

if TYPE_CHECKING:
    from greenedge.backends.interface import Backend
    from greenedge.frontends.input_type import InputType
    from greenedge.frontends.source import Source
    from greenedge.lower import Lowered


@dataclass(frozen=True)
class Preflight:
    """What a model is, and why it cannot be built (empty: it can, as far as can be known without building it).

    `layers`, `weight_bits` and `accumulator_bits` are None where the model could not be lowered. `notes` are sentences
    about a model that can be built, `kind` says what kind of file it is.
    """

    model: str
    target: str
    backend: str
    reasons: tuple[Reason, ...]
    layers: int | None = None
    weight_bits: int | None = None
    accumulator_bits: int | None = None
    notes: tuple[str, ...] = ()
    kind: str = ""

    def require(self) -> None:
        """Raises UnsupportedError with all reasons."""
        if self.reasons:
            raise UnsupportedError(f"{self.model} cannot be built for {self.target} by {self.backend}:", self.reasons)


class Lowerings:
    """A model read and lowered once in each arithmetic that is asked for, for however many targets and comparisons.

    `kinds` says what kind of file was read, by arithmetic, also where it could not be lowered.
    """

    def __init__(self, path: Path, declared: Mapping[str | None, InputType] | None = None) -> None:
        self.path, self.declared = path, declared
        self.kinds: dict[str, str] = {}
        self._found: dict[str, tuple[Source, Lowered] | UnsupportedError] = {}

    def get(self, arithmetic: str = "xnnpack") -> tuple[Source, Lowered]:
        """The model as read, and its integer graph. Raises UnsupportedError, each time the same, and GreenedgeError
        for a file that is missing, no ONNX, or damaged."""
        if arithmetic not in self._found:
            self._found[arithmetic] = self._lower(arithmetic)
        found = self._found[arithmetic]
        if isinstance(found, UnsupportedError):
            raise found
        return found

    def _lower(self, arithmetic: str) -> tuple[Source, Lowered] | UnsupportedError:
        from greenedge.frontends.source import read_model
        from greenedge.lower import lower_source

        try:
            source = read_model(self.path, arithmetic)
            self.kinds[arithmetic] = source.kind
            return source, lower_source(source, self.declared)
        except UnsupportedError as refusal:
            return refusal


def check_model(
    path: Path,
    target: Target,
    backend: str | None,
    declared: Mapping[str | None, InputType] | None = None,
    options: Mapping[str, object] | None = None,
    arithmetic: str = "xnnpack",
    lowerings: Lowerings | None = None,
) -> Preflight:
    """Lowers the model and asks the back end; with None the one that would be selected. A .tflite is read in that
    arithmetic. `lowerings` are the model's, where it was lowered before.

    Raises GreenedgeError for a file that is missing, no ONNX, or damaged.
    """
    from greenedge.backends import load_backend
    from greenedge.backends.select import select_backend
    from greenedge.legalise import legalise

    options, name = dict(options or {}), Path(path).name
    if is_decoder_file(Path(path)):
        return _check_decoder(Path(path), target, backend, options)
    lowerings = lowerings or Lowerings(Path(path), declared)
    try:
        source, lowered = lowerings.get(arithmetic)
    except UnsupportedError as refusal:
        kind = lowerings.kinds.get(arithmetic, "")
        return Preflight(name, target.name, backend or target.backends[0], refusal.reasons, kind=kind)
    why = None
    if backend is None:
        backend, why = select_backend(lowered.graph, target, options)
    chosen = load_backend(backend)
    legal = legalise(lowered, chosen.passes)
    reasons = tuple(chosen.check(legal.graph, target, options))
    reasons += _find_missing_tools(chosen, target, options)
    read = (*([f"{why}."] if why else []), *(f"{name}: {note}." for note in source.notes))
    notes = () if reasons else tuple(chosen.preflight_notes(Path(path), legal, target, options))
    return Preflight(
        name,
        target.name,
        backend,
        reasons,
        len(lowered.graph.layers),
        count_weight_bits(lowered.graph),
        widest_accumulator(lowered.graph),
        (*read, *_host_notes(chosen, lowered.graph), *notes),
        source.kind,
    )


def _check_decoder(path: Path, target: Target, backend: str | None, options: Mapping[str, object]) -> Preflight:
    """A language model on a back end of backends/decoder. Raises GreenedgeError for a file that is none."""
    from greenedge.backends.decoder.choice import check_decoder_options, choose_decoder_backend
    from greenedge.backends.decoder.engine import describe
    from greenedge.decoder.store import load_decoder

    chosen = choose_decoder_backend(target, backend)
    check_decoder_options(chosen, options)
    decoder = load_decoder(path)
    reasons = tuple(chosen.check(decoder, target, options)) + _name_missing(chosen.needs(target), target, chosen.name)
    return Preflight(
        path.name,
        target.name,
        chosen.name,
        reasons,
        len(decoder.layers),
        decoder.weight_bits * sum(one.weights.size for layer in decoder.layers for one in layer.projections.values())
        + 8 * (decoder.embedding.size + decoder.head.size),
        describe(decoder).sum_bits,
        ("counts of cells are estimates.",) if chosen.name == "decoder" else (),
    )


def _find_missing_tools(backend: Backend, target: Target, options: Mapping[str, object]) -> tuple[Reason, ...]:
    """What the build will need and is not on this machine, as one reason."""
    return _name_missing(backend.needs(target, options), target, backend.name)


def _name_missing(needs: tuple[str, ...], target: Target, backend: str) -> tuple[Reason, ...]:
    from greenedge.tools.needs import describe_cure, find_missing

    missing = find_missing(needs)
    if not missing:
        return ()
    what = f"no {', '.join(missing)} on this machine"
    rule = f"a build for {target.name} by {backend} runs them"
    return (Reason(target.name, ReasonKind.NO_TOOLCHAIN, what, rule, describe_cure(missing)),)


def _host_notes(backend: Backend, graph: Graph) -> tuple[str, ...]:
    """What of the graph runs on the host because the back end has no rule for it."""
    from greenedge.legalise import HostPass

    notes: list[str] = []
    for one in backend.passes:
        if isinstance(one, HostPass):
            kept = one.keep(graph)
            moved = [edge for edge in graph.outputs if edge not in kept.outputs]
            notes += [f"{edge} runs on the host: {backend.name} {one.gives}." for edge in moved]
            graph = kept
    return tuple(notes)


def count_weight_bits(graph: Graph) -> int:
    """Bits that the weights take at the narrowest width that holds each layer's values: a lower bound on any
    storage."""
    total = 0
    for op in graph.linears:
        low, high = int(op.weight.min()), int(op.weight.max())
        width = max((-low - 1).bit_length() + 1 if low < 0 else 1, high.bit_length() + (low < 0))
        total += int(op.weight.size) * max(1, width)
    return total


def widest_accumulator(graph: Graph) -> int:
    """Bits of the widest edge that a layer with weights writes (0 without one)."""
    return max((graph.edges[op.output].bits for op in graph.linears), default=0)
