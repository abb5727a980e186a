"""Finished runs: their summary, the comparison again, samples through what was built."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from greenedge.backends import BACKENDS, load_backend
from greenedge.errors import GreenedgeError, VerificationError
from greenedge.graph.ops.base import Ints
from greenedge.legalise import legalise
from greenedge.lower import Lowered
from greenedge.progress import ProgressFn
from greenedge.run.folder import MANIFEST, STAGE_FOLDERS, RunFolder
from greenedge.run.infer import Model, Written, open_samples, run_model, write
from greenedge.run.manifest import (
    Manifest,
    Record,
    digest_files,
    find_changed,
    load_manifest,
    lock_run,
    os_errors_as_greenedge,
    require_unchanged,
    save_manifest,
)
from greenedge.run.stages import compare_stages
from greenedge.target import nearest


def read_summary(run: Path) -> dict[str, Any] | None:
    """summary.json of a run, None where it has none."""
    path = RunFolder(run).summary
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def runs_in(folder: Path) -> list[Path]:
    """The runs that `folder` is or holds, one per target. Raises GreenedgeError where there is none."""
    if (folder / MANIFEST).is_file():
        return [folder]
    runs = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
    if not runs:
        load_manifest(folder)  # says that it is no run
    return runs


def find_backend(run: Path, manifest: Manifest) -> str:
    """The back end that built this run. Raises GreenedgeError where nothing has been built."""
    record, backend = manifest.stages.get("build"), manifest.about.get("backend")
    if record is None or record.status != "done" or not RunFolder(run).build.is_dir():
        raise GreenedgeError(f"{run} has nothing built; run `greenedge run` or `greenedge build` for it to the end.")
    if backend not in BACKENDS:
        raise GreenedgeError(f"{run / MANIFEST}: backend is {backend!r}; back ends are: {', '.join(sorted(BACKENDS))}.")
    return str(backend)


def verify_again(run: Path, progress: ProgressFn) -> dict[str, Any]:
    """Compares again what lies in a finished run's folder now; returns what verify.json then says.

    Raises VerificationError on a difference, also where only a file's digest differs (a weight that no sample reaches),
    and GreenedgeError where the run has nothing built. The manifest says how it ended; the next run writes the report.
    """
    with lock_run(run), os_errors_as_greenedge(run):
        manifest = load_manifest(run)
        backend = find_backend(run, manifest)
        stages = {name: record for name, record in manifest.stages.items() if name != "report"}
        record = stages.get("verify") or Record("running", key="")
        try:
            note = compare_stages(RunFolder(run), backend, progress)
            _check_files(run, manifest)
        except VerificationError as error:
            failed = replace(
                record, status="failed", error=str(error), outputs=digest_files(run, STAGE_FOLDERS["verify"])
            )
            save_manifest(replace(manifest, stages={**stages, "verify": failed}), run)
            raise
        done = replace(record, status="done", error=None, note=note, outputs=digest_files(run, STAGE_FOLDERS["verify"]))
        if done.outputs != record.outputs or record.status != "done":
            save_manifest(replace(manifest, stages={**stages, "verify": done}), run)
        written = json.loads((RunFolder(run).verify / "verify.json").read_text())
    if "unverified" in written:
        raise GreenedgeError(written["unverified"])
    return dict(written)


def _check_files(run: Path, manifest: Manifest) -> None:
    """Raises VerificationError for a file of the lower or build stage, changed or added, of which no sample tells."""
    if changed := find_changed(run, manifest.stages["build"]):
        raise VerificationError(
            f"{changed} is not the file that was built, its sha256 differs, although every sample gave "
            "the same integers; run the same `greenedge run` or `greenedge build` again to build it anew."
        )
    require_unchanged(run, manifest, "lower", "build")


def infer(
    run: Path, samples: Path, stage: str, progress: ProgressFn, out: Path | None = None
) -> Written | dict[str, np.ndarray[Any, Any]]:
    """The samples in an .npy file, however large, through the built thing ("build", or its own name: "tflite", "rtl",
    …) or the integer graph ("graph"), piece by piece. Float outputs that the built thing gives itself are its own, the
    others the host's. Raises VerificationError where a file that this takes is not the one that the run made.

    Into `out` (.npy or .csv), which is returned as Written; without it {model output: array}.
    """
    from greenedge.lower import load_lowering

    manifest = load_manifest(run)
    if stage == "graph":
        require_unchanged(run, manifest, "lower")
        lowered = load_lowering(RunFolder(run).lower)
    else:
        backend = load_backend(find_backend(run, manifest))
        require_unchanged(run, manifest, "lower", "build")
        lowered = legalise(load_lowering(RunFolder(run).lower), backend.passes)
    model = _open_model(run, lowered, stage)
    array = open_samples(samples)
    parts = run_model(lowered, array, model, progress)
    if out is not None:
        return write(out, len(array), parts)
    pieces = list(parts)
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _open_model(run: Path, lowered: Lowered, stage: str) -> Model:
    """A function from (input integers, progress) to the model's outputs for that stage of the run. Raises
    GreenedgeError for any other stage."""
    from greenedge.graph import run_graph
    from greenedge.lower.float_io import run_epilogue

    if stage == "graph":
        return lambda levels, progress: run_epilogue(lowered, run_graph(lowered.graph, levels))
    backend = load_backend(find_backend(run, load_manifest(run)))
    known = list(dict.fromkeys(["build", backend.stage, "graph"]))
    if stage not in known:
        raise GreenedgeError(
            f"{run} has no stage {stage!r} to infer with{nearest(stage, known)}; it has: {', '.join(known)}."
        )
    build = RunFolder(run).build

    def model(levels: Mapping[str, Ints], progress: ProgressFn) -> dict[str, np.ndarray[Any, Any]]:
        x = levels if len(levels) > 1 else next(iter(levels.values()))
        own = backend.float_outputs(build, x, progress)
        if set(own) == {value.name for value in lowered.epilogue.graph.output}:
            return {name: values for name, (values, _) in own.items()}
        return run_epilogue(lowered, backend.simulate(build, x, (), progress))

    return model
