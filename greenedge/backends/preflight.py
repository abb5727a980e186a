"""Preflight: every reason why a model cannot go to a target, at once, in the model's own node names. Runs no tool."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from greenedge.errors import Reason, UnsupportedError
from greenedge.graph import Graph, Requantise
from greenedge.target import Target

_SNAP_BITS = 16  # of the multipliers that a note speaks of


@dataclass(frozen=True)
class Preflight:
    """What a model is, and why it cannot be built (empty: it can, as far as can be known without building it).

    `layers`, `weight_bits` and `accumulator_bits` are None where the model could not be lowered. `notes` are sentences about a model
    that can be built.
    """

    model: str
    target: str
    backend: str
    reasons: tuple[Reason, ...]
    layers: int | None = None
    weight_bits: int | None = None
    accumulator_bits: int | None = None
    notes: tuple[str, ...] = ()

    def require(self) -> None:
        """Raises UnsupportedError with all reasons."""
        if self.reasons:
            raise UnsupportedError(f"{self.model} cannot be built for {self.target} by {self.backend}:", self.reasons)


def check_model(
    path: Path,
    target: Target,
    backend: str | None,
    declared: Mapping | None = None,
    options: Mapping[str, object] | None = None,
) -> Preflight:
    """Lowers the model and asks the back end; with None the one that would be chosen.

    Raises GreenedgeError for a file that is missing, no ONNX, or damaged.
    """
    from greenedge.backends import load_backend, lowered_for
    from greenedge.backends.select import choose
    from greenedge.frontends.source import read_model
    from greenedge.lower import lower_source

    source = read_model(Path(path))
    name = Path(path).name
    try:
        lowered = lower_source(source, declared)
    except UnsupportedError as refusal:
        return Preflight(name, target.name, backend or target.backends[0], refusal.reasons)
    whole = lowered.graph
    if backend is None:
        backend, _ = choose(whole, target, dict(options or {}))
    module = load_backend(backend)
    lowered = lowered_for(module, lowered)
    graph = lowered.graph
    reasons = tuple(module.check(graph, target, dict(options or {})))
    notes = _notes(Path(path), graph, module, declared) if not reasons and hasattr(module, "foresee") else ()
    if lowered.graph is not whole:
        notes = (f"{whole.outputs[0]} runs on the host: {backend} gives the scores that it chooses from.", *notes)
    elif getattr(module, "TOP1", False):
        notes = (
            *notes,
            *(
                f"{node.name or node.output[0]} runs on the host: in hardware it takes the first largest of integers of one scale and "
                "bias along the channels (cure: one per-tensor quantiser before it)."
                for node in lowered.epilogue.graph.node
                if node.op_type in ("ArgMax", "TopK")
            ),
        )
    elif not reasons and hasattr(module, "ends"):
        notes += tuple(module.ends(lowered, target, dict(options or {}))[1])
    return Preflight(
        name,
        target.name,
        backend,
        reasons,
        sum(1 for op in graph.ops if op.inputs),
        weight_bits(graph),
        widest_accumulator(graph),
        notes,
    )


def _notes(path: Path, graph: Graph, module, declared: Mapping | None) -> tuple[str, ...]:
    """What an 8-bit file would not hold exactly, and what `snap` would give."""
    now = module.foresee(graph)
    if not now.differing_channels:
        return ()
    from greenedge.backends import graph_for
    from greenedge.lower import lower_file
    from greenedge.lower.snap import snap_file

    with tempfile.TemporaryDirectory(prefix="greenedge-check-") as folder:
        snapped = Path(folder) / "snapped.onnx"
        entries = snap_file(path, snapped, _SNAP_BITS, declared)
        then = module.foresee(graph_for(module, lower_file(snapped, declared).graph))
    changed, total = sum(entry.changed for entry in entries), sum(entry.accumulators for entry in entries)
    levels = "one level" if now.largest_difference == 1 else f"up to {now.largest_difference} levels"
    said = (
        f"{now.differing_channels} of {now.channels} channels tried give another level at {now.share:.1e} of their accumulators, by {levels}: "
        "an 8-bit file holds whole biases and float32 scales only, so verify may stop at a differing sample."
    )
    if then.share >= now.share:
        return (f"{said} `greenedge snap` would not make them fewer; fewer activation bits would.",)
    return (
        f"{said} `greenedge snap {path} -o SNAPPED.onnx --bits "
        f"{_SNAP_BITS}` would change {changed / total:.1e} of the model's own accumulators, after which {then.differing_channels} of "
        f"{then.channels} differ, at {then.share:.1e}.",
    )


def weight_bits(graph: Graph) -> int:
    """Bits that the weights take at the narrowest width that holds each layer's values: a lower bound on any storage."""
    total = 0
    for op in graph.ops:
        weight = getattr(op, "weight", None)
        if weight is not None and weight.size:
            low, high = int(weight.min()), int(weight.max())
            width = max((-low - 1).bit_length() + 1 if low < 0 else 1, high.bit_length() + (low < 0))
            total += int(weight.size) * max(1, width)
    return total


def widest_accumulator(graph: Graph) -> int:
    """Bits of the widest edge that a sum of products writes (0 without one)."""
    return max(
        (graph.edges[op.output].bits for op in graph.ops if not isinstance(op, Requantise) and hasattr(op, "weight")),
        default=0,
    )
