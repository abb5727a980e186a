"""What was proved about a file, as data and in words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from greenedge.backends.int8.layers import Layer
from greenedge.errors import GreenedgeError
from greenedge.files.json_file import read_table

Record = dict[str, Any]  # a JSON table
FORMAT = "greenedge-certificate/1"
NAMES = {"xnnpack": "XNNPACK", "reference": "the reference kernels", "mlas": "ONNX Runtime on CPU"}


def certificate(layers: Sequence[Layer]) -> Record:
    """Per layer and kernel set: the channels equal on every reachable accumulator, and for the others at how many
    they differ."""
    return {"format": FORMAT, "layers": [_entry(layer) for layer in layers]}


def _entry(layer: Layer) -> Record:
    total = int(layer.accumulators.sum())
    kernels = {}
    for name, verdict in layer.solution.verdicts.items():
        rows = np.flatnonzero(verdict.differing)
        differing = int(verdict.differing.sum())
        kernels[name] = {
            "certified": len(verdict.differing) - len(rows),
            "differing_accumulators": differing,
            "share": differing / total,
            "largest_difference": int(verdict.largest.max(initial=0)),
            "channels": {str(c): int(verdict.differing[c]) for c in rows},
        }
    return {
        "layer": layer.name,
        "edge": layer.edge,
        "operator": layer.operator,
        "channels": len(layer.accumulators),
        "accumulators": total,
        "kernels": kernels,
    }


def summary(recorded: Record, kernels: str) -> Record:
    """Totals over the layers of a certificate, for one kernel set."""
    layers = [(layer, layer["kernels"][kernels]) for layer in recorded["layers"]]
    total = sum(layer["accumulators"] for layer, _ in layers)
    differing = sum(verdict["differing_accumulators"] for _, verdict in layers)
    return {
        "channels": sum(layer["channels"] for layer, _ in layers),
        "certified": sum(verdict["certified"] for _, verdict in layers),
        "accumulators": total,
        "differing_accumulators": differing,
        "share": differing / total if total else 0.0,
        "largest_difference": max((verdict["largest_difference"] for _, verdict in layers), default=0),
    }


def sentence(recorded: Record, kernels: str) -> str:
    """What holds for every input, in one sentence."""
    totals = summary(recorded, kernels)
    if totals["certified"] == totals["channels"]:
        return f"all {totals['channels']:,} channels equal on every reachable accumulator ({NAMES[kernels]})"
    levels = "one level" if totals["largest_difference"] == 1 else f"up to {totals['largest_difference']} levels"
    return (
        f"{totals['certified']:,} of {totals['channels']:,} channels equal on every reachable accumulator "
        f"({NAMES[kernels]}); the others differ at {totals['differing_accumulators']:,} of "
        f"{totals['accumulators']:,}, by {levels}"
    )


def describe_deviation(recorded: Record, kernels: str) -> str | None:
    """What a certificate had said of differences, with the cure; None where there are none."""
    totals = summary(recorded, kernels)
    if totals["certified"] == totals["channels"]:
        return None
    return (
        f"as its certificate foretold: {sentence(recorded, kernels)} (cure: put the biases on the accumulators' grid, "
        "with quantise.fold_batch_norm=true in training or with `greenedge snap` afterwards, or use fewer activation "
        "bits)"
    )


def list_differences(recorded: Record, kernels: str) -> dict[str, dict[int, int]]:
    """{edge: {channel: by how many levels at most it differs}} of the channels that are not equal everywhere."""
    found: dict[str, dict[int, int]] = {}
    for layer in recorded["layers"]:
        verdict = layer["kernels"][kernels]
        if verdict["channels"]:
            largest = int(verdict["largest_difference"])
            found[layer["edge"]] = {int(channel): largest for channel in verdict["channels"]}
    return found


def doubts(recorded: Record, tested: Record, kernels: str) -> str | None:
    """Why the certificate does not count for this kernel set on the runtime that was tested; None where it does."""
    result = tested["kernels"][kernels]
    runtime = f"{tested['runtime']} {tested['version']}"
    if result["mismatches"]:
        return (
            f"the arithmetic of {runtime} is not the emulated one: {result['mismatches']:,} of {result['pairs']:,} "
            "values of the self-test differ"
        )
    left = sorted({layer["operator"] for layer in recorded["layers"]} & set(tested["left_to_builtins"]))
    if kernels == "xnnpack" and left:
        return f"XNNPACK in {runtime} does not run every {' and '.join(left)} of this file"
    return None


def read_proof(certificate: Path, selftest: Path, kernels: Sequence[str]) -> tuple[Record, Record]:
    """certificate.json and selftest.json of a build, complete for these kernel sets. Raises GreenedgeError where one
    is missing or damaged."""
    recorded, tested = read_record(certificate), read_record(selftest)
    try:
        for name in kernels:
            summary(recorded, name)
            doubts(recorded, tested, name)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise GreenedgeError(
            f"{certificate} or {selftest.name} is damaged ({type(error).__name__}: {error}); run the build stage again."
        ) from None
    return recorded, tested


def read_record(path: Path) -> Record:
    """A JSON file of a build. Raises GreenedgeError where it is missing or damaged."""
    try:
        return read_table(path)
    except (OSError, ValueError) as error:
        raise GreenedgeError(f"{path} is missing or damaged ({error}); run the build stage again.") from None
