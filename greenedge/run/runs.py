"""Finished runs: their summary, the comparison again, samples through what was built."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from greenedge.backends.interface import as_feeds
from greenedge.errors import GreenedgeError, VerificationError
from greenedge.files.json_file import read_table
from greenedge.frontends.samples import count_samples, open_samples
from greenedge.graph.ops.base import Ints
from greenedge.lower import Lowered
from greenedge.progress import ProgressFn
from greenedge.run.chains import compare_run
from greenedge.run.custody import OpenRun, open_run
from greenedge.run.folder import MANIFEST, STAGE_FOLDERS, RunFolder
from greenedge.run.infer import Model, Written, run_model, write
from greenedge.run.keys import list_inputs
from greenedge.run.manifest import (
    Record,
    digest_files,
    load_manifest,
    lock_run,
    os_errors_as_greenedge,
    save_manifest,
)
from greenedge.run.signature import require_signature, sign
from greenedge.target import nearest
from greenedge.verify.compare import require_equal


def read_summary(run: Path) -> dict[str, Any] | None:
    """summary.json of a run, None where it has none. Raises GreenedgeError for one that is damaged."""
    path = RunFolder(run).summary
    if not path.is_file():
        return None
    try:
        return read_table(path)
    except (OSError, ValueError) as error:
        raise GreenedgeError(f"{path} is damaged ({error}); write it anew with `greenedge report {run}`.") from None


def require_exact(run: Path) -> None:
    """Raises VerificationError where the last verification of a run took the build's certificate to end well, or the
    run has not been verified."""
    path = RunFolder(run).verify / "verify.json"
    if not path.is_file():
        raise VerificationError(f"{run} has not been verified, and exact equality was required; leave --until out.")
    _require_exact(read_table(path))


def _require_exact(found: Mapping[str, Any]) -> None:
    for entry in found.get("verify", ()):
        require_equal(str(entry["candidate"]), int(entry.get("within_certificate", 0)), int(entry["samples"]))


def runs_in(folder: Path) -> list[Path]:
    """The runs that `folder` is or holds, one per target. Raises GreenedgeError where there is none."""
    if (folder / MANIFEST).is_file():
        return [folder]
    runs = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
    if not runs:
        load_manifest(folder)  # says that it is no run
    return runs


def verify_again(
    run: Path, progress: ProgressFn, sign_with: Path | None = None, trust: Path | None = None, exact: bool = False
) -> dict[str, Any]:
    """Compares again what lies in a finished run's folder now; returns what verify.json then says.

    `trust` is a file with the public key whose owner must have signed the run, `sign_with` one with the private key
    that signs it if all is equal (greenedge.run.signature). With `exact` a difference within the build's certificate
    counts as one.

    Raises VerificationError on a difference, also where only a file's digest differs (a weight that no sample reaches),
    and GreenedgeError where the run has nothing built. The manifest says how it ended; the next run writes the report.
    """
    with lock_run(run), os_errors_as_greenedge(run):
        manifest = load_manifest(run)
        if trust is not None:
            require_signature(run, manifest, trust)
        stages = {name: record for name, record in manifest.stages.items() if name != "report"}
        record = stages.get("verify") or Record("running", key="")
        try:
            note = compare_run(run, manifest, progress)
        except VerificationError as error:
            failed = replace(
                record, status="failed", error=str(error), outputs=digest_files(run, STAGE_FOLDERS["verify"])
            )
            save_manifest(replace(manifest, stages={**stages, "verify": failed}), run)
            raise
        done = replace(
            record,
            status="done",
            error=None,
            note=note,
            inputs=list_inputs(manifest, "verify"),
            outputs=digest_files(run, STAGE_FOLDERS["verify"]),
        )
        if done.outputs != record.outputs or record.status != "done" or done.inputs != record.inputs:
            save_manifest(replace(manifest, stages={**stages, "verify": done}), run)
        written = json.loads((RunFolder(run).verify / "verify.json").read_text())
        if exact:
            _require_exact(written)
        if sign_with is not None:
            sign(run, manifest, sign_with)
    if "unverified" in written:
        raise GreenedgeError(written["unverified"])
    return dict(written)


def infer(
    run: Path,
    samples: Path,
    stage: str,
    progress: ProgressFn,
    out: Path | None = None,
) -> Written | dict[str, np.ndarray[Any, Any]]:
    """The samples in an .npy file, however large, or of several inputs in an .npz file, through the built thing
    ("build", or its own name: "tflite", "rtl", …) or the integer graph ("graph"), piece by piece. Float outputs that
    the built thing gives itself are its own, the others the host's. Raises VerificationError where a file that this
    takes is not the one that the run made, or would be compiled and is not what greenedge writes.

    Into `out` (.npy, .npz or .csv), which is returned as Written; without it {model output: array}.
    """
    opened = open_run(run, *(("lower",) if stage == "graph" else ("lower", "build")))
    arrays = open_samples(samples, opened.lowered.inputs)
    lowered, model = _open_model(opened, stage, progress)
    parts = run_model(lowered, arrays, model, progress)
    if out is not None:
        return write(out, count_samples(arrays), parts)
    pieces = list(parts)
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _open_model(opened: OpenRun, stage: str, progress: ProgressFn) -> tuple[Lowered, Model]:
    """(the host's part, a function from (input integers, progress) to the model's outputs) for that stage of the run.
    Raises GreenedgeError for any other stage."""
    from greenedge.graph import run_graph
    from greenedge.lower.float_io import run_epilogue

    if stage == "graph":
        whole = opened.lowered
        return whole, lambda levels, progress: run_epilogue(whole, run_graph(whole.graph, levels))
    backend, lowered, build = opened.backend, opened.legal, opened.folder.build
    known = list(dict.fromkeys(["build", backend.stage, "graph"]))
    if stage not in known:
        raise GreenedgeError(
            f"{opened.path} has no stage {stage!r} to infer with{nearest(stage, known)}; it has: {', '.join(known)}."
        )
    if backend.compiles:
        opened.require_planned(progress)

    def model(levels: Mapping[str, Ints], progress: ProgressFn) -> dict[str, np.ndarray[Any, Any]]:
        x = as_feeds(levels)
        own = backend.float_outputs(build, x, progress)
        if set(own) == {value.name for value in lowered.epilogue.graph.output}:
            return {name: values for name, (values, _) in own.items()}
        return run_epilogue(lowered, backend.simulate(build, x, (), progress))

    return lowered, model
