"""The energy of a finished run: what of it can be measured here, what can be estimated, and where the results are kept.

A run is a workload on every runtime that there is (greenedge.runtimes), in a program of its own; its build is one where
that runtime or a board is at hand. A back end that makes hardware has a module `activity` whose `switching(build, x)`
says how often the signals change while it computes x. Results lie in 6-measure, one file for each set of sources, bound
to the build that they are of; the report shows them.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from greenedge.backends import load_backend
from greenedge.backends.interface import as_feeds
from greenedge.energy import estimate, results
from greenedge.energy.workloads import PipeWorkload, Workload
from greenedge.errors import EvidenceError, GreenedgeError
from greenedge.progress import ProgressFn, no_progress
from greenedge.run import runtime_session
from greenedge.run.custody import is_language_model, open_run
from greenedge.run.decoder_custody import open_decoder
from greenedge.run.decoder_energy import estimate_token
from greenedge.run.folder import STAGE_FOLDERS, RunFolder
from greenedge.run.manifest import (
    Manifest,
    Record,
    digest_files,
    digest_of,
    find_fault,
    load_manifest,
    lock_run,
    os_errors_as_greenedge,
    save_manifest,
    staging_dir,
)
from greenedge.runtimes import BATCHING, RUNTIMES

_SAME = (
    "litert",
    "onnxruntime",
)  # one arithmetic, XNNPACK's; the reference kernels and tflite-runtime may round otherwise


class RunWorkloads:
    """Opens runs as workloads; what it opened (files, ports) is given back by `close`."""

    def __init__(self) -> None:
        self._opened = ExitStack()

    def open(self, run: Path, port: str | None = None, runtime: str | None = None, batch: int = 1) -> Workload:
        """A run on a runtime of this machine (its build's own if none is named), `batch` samples at once, or on the
        board at `port`. Raises GreenedgeError, EvidenceError where the build runs on no machine at hand."""
        opened = open_run(run, "lower", "build")
        manifest, backend = opened.manifest, opened.backend.name
        name, accuracy = _name(manifest, run), accuracy_of(run, manifest)
        if runtime is not None and runtime not in RUNTIMES:
            raise GreenedgeError(f"there is no runtime {runtime!r}; runtimes are: {', '.join(RUNTIMES)}.")
        own = runtime_session.OWN.get(backend, (None,))[0]
        if batch > 1 and (port is not None or (runtime or own) not in BATCHING):
            one = runtime or (backend if port is None else f"the board at {port}")
            raise GreenedgeError(
                f"{one} takes one sample at a time, --batch {batch} was given; the runtimes that take "
                f"more are: {', '.join(BATCHING)}."
            )
        if port is not None:
            return self._board(run, port, name, accuracy)
        chosen = runtime or own
        if chosen is None and (manifest.about.get("target") or {}).get("kind") == "cpu":
            raise EvidenceError(
                f"{run} is a package of {backend}, which no runtime here keeps loaded: measure the program that links "
                "it, `greenedge energy measure -- ./program`, or the same network on a runtime, --runtime onnxruntime."
            )
        if chosen is None:
            raise EvidenceError(
                f"{run} is built for {_target(manifest)}, which is not this machine: give the --port of the board and "
                "a meter on its supply, or --source estimate for an estimate from its switching activity."
            )
        if runtime not in (None, own):
            # The same network on something else: it has the run's accuracy where it computes the same integers.
            name, accuracy = f"{name.split(' on ')[0]} on {runtime}", accuracy if runtime in _SAME else None
        name = name if batch == 1 else f"{name}, {batch} at once"
        return PipeWorkload(runtime_session.argv(run, chosen, batch), name, batch=batch, accuracy=accuracy)

    def _board(self, run: Path, port: str, name: str, accuracy: float | None) -> Workload:
        from greenedge.boards.acceptance import measure as board_figures
        from greenedge.boards.board_energy_workload import BoardWorkload
        from greenedge.boards.board_runner import connect_board, pack_samples
        from greenedge.graph.joined_inputs import join_inputs
        from greenedge.lower import load_lowering

        build = RunFolder(run).build
        session, _ = self._opened.enter_context(connect_board(build, port))
        x = join_inputs(load_lowering(RunFolder(run).lower).graph, vectors_of(run))
        sample = pack_samples(session.board, x[:1])[0]
        return BoardWorkload(
            session, sample, name, 1 / board_figures(session, sample, 1.0)["inferences_per_s"], accuracy
        )

    def close(self) -> None:
        self._opened.close()


def estimate_energy(run: Path, level: str | None = None, progress: ProgressFn = no_progress) -> dict[str, Any]:
    """A row of the FPGA's core supply: toggles on the run's own vectors times sourced coefficients, and static power.
    `level` is "netlist" or "rtl"; the netlist where there is one if it is not said.

    Raises GreenedgeError for a run that is no FPGA's or whose device has no coefficients.
    """
    if is_language_model(load_manifest(run)):
        return estimate_token(run, level, progress)
    opened = open_run(run, "export", "lower", "build")
    manifest, backend, switching = opened.manifest, opened.backend.name, opened.backend.switching
    if switching is None:
        raise GreenedgeError(
            f"{run} is built for {_target(manifest)} by {backend}, whose switching activity is not to be had; "
            "FPGA runs of finn have it."
        )
    opened.require_planned(progress)  # the model that counts is compiled from the build's own files
    x = as_feeds(vectors_of(run))
    hardware = opened.backend.report(RunFolder(run).build)["hardware"]
    found = switching(RunFolder(run).build, x, level, lambda line: progress(0, 0, line))
    # Every sample's work is in the count once; at full rate it is done in the initiation interval.
    seconds = found.samples * hardware["cycles_per_inference"] / hardware["clock_hz"]
    row = estimate.fpga_row(
        _name(manifest, run),
        estimate.device_of(str((manifest.about.get("target") or {}).get("part", ""))),
        hardware["clock_hz"],
        estimate.Activity(
            found.toggles, seconds, found.bits, f"the {found.level} of this build's core", found.samples, found.asked
        ),
        cycles=round(hardware["cycles_per_inference"]),
        streaming=True,
        accuracy=accuracy_of(run, manifest),
    )
    # What a sample takes from end to end; the energy goes by the interval between samples.
    return row | {"latency_s": {"value": hardware["latency_s"]}}


def is_hardware(run: Path) -> bool:
    """Whether the run's build is a circuit whose switching can be counted."""
    if is_language_model(load_manifest(run)):
        return open_decoder(run).backend.switching is not None
    return open_run(run, "build").backend.switching is not None


def keep(run: Path, data: dict, seconds: float) -> Path:
    """Writes the document into the run and the run's report anew; returns the document's path."""
    from greenedge.report import report_stage
    from greenedge.report.summary import build_digests

    build = build_digests(load_manifest(run))
    sources = "-".join(sorted({re.sub(r"[^A-Za-z0-9]+", "-", row["source"]["id"]).strip("-") for row in data["rows"]}))
    name = f"{sources or 'energy'}.json"
    with lock_run(run), os_errors_as_greenedge(run):
        RunFolder(run).measure.mkdir(exist_ok=True)
        results.save(data | {"build": build}, RunFolder(run).measure / name)
        manifest = load_manifest(run)
        record = Record(
            "done",
            digest_of([name, data["created"], build]),
            build,
            outputs=digest_files(run, STAGE_FOLDERS["measure"]),
            started=data["created"],
            seconds=round(seconds, 2),
            note=f"{len(data['rows'])} energy result(s)",
        )
        stages = {key: value for key, value in manifest.stages.items() if key not in ("measure", "report")}
        save_manifest(Manifest(manifest.about, {**stages, "measure": record}), run)
        with staging_dir(RunFolder(run).report) as work:
            report_stage(run, work)
    return RunFolder(run).measure / name


def vectors_of(run: Path) -> dict[str, np.ndarray]:
    """{input edge: graph integers (samples, *shape)} of the run's own test inputs."""
    from greenedge.frontends.samples import read_samples
    from greenedge.lower import load_lowering
    from greenedge.lower.float_io import run_prologue

    lowered = load_lowering(RunFolder(run).lower)
    inputs = read_samples(RunFolder(run).inputs, lowered.inputs)
    return run_prologue(lowered, {name: array[: runtime_session.SAMPLES] for name, array in inputs.items()})


def accuracy_of(run: Path, manifest: Manifest) -> float | None:
    """The accuracy that verifying this build found; None where nothing has labels, or another build was verified."""
    from greenedge.report.summary import read_json

    record = manifest.stages.get("verify")
    if record is None or record.status != "done" or find_fault(run, manifest, "verify"):
        return None
    stage = load_backend(str(manifest.about.get("backend"))).stage
    found = (read_json(run, "verify", "verify.json") or {}).get("accuracy", {}).get(stage)
    return float(found) if isinstance(found, (int, float)) else None


def _name(manifest: Manifest, run: Path) -> str:
    model = (manifest.about.get("source") or {}).get("name") or run.name
    return f"{model} on {_target(manifest)}, {manifest.about.get('backend')}"


def _target(manifest: Manifest) -> str:
    return str((manifest.about.get("target") or {}).get("name", "no target"))
