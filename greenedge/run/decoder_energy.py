"""The energy of a token that a language model's run writes: an estimate from its netlist's switching activity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from greenedge.energy import estimate, results
from greenedge.energy.evidence import Figure
from greenedge.errors import GreenedgeError
from greenedge.progress import ProgressFn
from greenedge.report.summary import read_json, read_measured_energy
from greenedge.run.decoder_custody import open_decoder
from greenedge.run.manifest import Manifest, find_fault, load_manifest


def estimate_token(run: Path, level: str | None, progress: ProgressFn) -> dict[str, Any]:
    """A row of the FPGA's core supply, a token being an inference: toggles of the netlist on some tokens times sourced
    coefficients, and static power; over the mean cycles of a token where the run was verified.

    Raises GreenedgeError for a run that is no FPGA's, for the level "rtl", and for a device without coefficients.
    """
    opened = open_decoder(run)
    manifest, switching = opened.manifest, opened.backend.switching
    about = manifest.about.get("target") or {}
    if switching is None:
        raise GreenedgeError(
            f"{run} is built for {about.get('name')} by {opened.backend.name}, which is no circuit; estimate a "
            "board's run, or measure the program: `greenedge energy measure -- ./chat …`."
        )
    if level == "rtl":
        raise GreenedgeError("of a language model the netlist alone is counted; say --source estimate.")
    opened.require_planned(progress)  # the model that counts is compiled from the build's own files
    hardware = opened.backend.report(opened.folder.build)["hardware"]
    found = switching(opened.folder.build, opened.decoder, opened.options, lambda line: progress(0, 0, line))
    mean = _read_cycles(run, manifest) or found.cycles / found.samples
    activity = estimate.Activity(
        found.toggles,
        found.cycles / hardware["clock_hz"],
        found.bits,
        "the netlist of this build's engine",
        found.samples,
    )
    name = f"{(manifest.about.get('source') or {}).get('name') or run.name} on {about.get('name')}, a token"
    device = estimate.device_of(str(about.get("part", "")))
    return estimate.fpga_row(name, device, hardware["clock_hz"], activity, cycles=round(mean), streaming=False)


def _read_cycles(run: Path, manifest: Manifest) -> float | None:
    """Mean cycles of a drawn token, where this build was verified."""
    record = manifest.stages.get("verify")
    if record is None or record.status != "done" or find_fault(run, manifest, "verify"):
        return None
    figures = (read_json(run, "verify", "verify.json") or {}).get("figures", {})
    found = figures.get("cycles_per_token")
    return float(found) if isinstance(found, (int, float)) else None


def find_token_energy(run: Path) -> Figure | None:
    """What was estimated or measured of this build's tokens, and kept in the run."""
    document = read_measured_energy(run, load_manifest(run))
    for row in (document or {"rows": []})["rows"]:
        if (total := results.figure(row, "total")) is not None:
            return total
    return None
