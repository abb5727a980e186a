"""The order of things: the list of stages, and the one loop that runs them into a run's folder.

A stage reads the folders before it and writes its own. It is skipped when its inputs, options, tools and our own code for
it are unchanged and its outputs still hash the same; it is copied where a run beside this one has it under the same key.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from greenedge import __version__
from greenedge.backends import BACKENDS, load_backend, lowered_for
from greenedge.errors import GreenedgeError, TargetError, UnsupportedError, VerificationError
from greenedge.files.atomic_write import sha256_file
from greenedge.frontends.import_onnx import ModelFile, import_stage
from greenedge.run.manifest import (
    FILE,
    Manifest,
    Record,
    aside,
    copy_stage,
    digest_files,
    digest_of,
    explained,
    hold,
    intact,
    load_manifest,
    save_manifest,
)
from greenedge.target import Target
from greenedge.tools.run import RECORD

Tell = Callable[[int, int, str], None]  # (done, total, text); total 0 where the end is not known
_PACKAGE = Path(__file__).resolve().parent.parent

# what a stage writes, what it reads, and which of our own code its result depends on ({backend} is the chosen one)
FOLDER = {
    "train": "1-train",
    "export": "2-export",
    "lower": "3-lower",
    "build": "4-build",
    "verify": "5-verify",
    "report": "7-report",
}
_READS = {
    "train": (),
    "export": ("train",),
    "lower": ("export",),
    "build": ("lower",),
    "verify": ("export", "lower", "build"),
    "report": ("train", "export", "lower", "build", "verify"),
}
_CODE = {
    "train": ("train",),
    "export": ("frontends", "train"),
    "lower": ("frontends", "lower", "graph"),
    "build": ("{backend}", "backends/int8", "legalise", "hdl", "graph", "lower/dequantise.py", "tools"),
    "verify": ("verify", "boards", "hdl", "{backend}", "backends/int8", "graph", "lower", "legalise"),
    "report": ("report",),
}
_PACKAGES = {
    "lower": ("onnx", "qonnx", "numpy"),
    "verify": ("onnx", "qonnx", "onnxruntime", "numpy"),
    "report": ("jinja2",),
}
_DEPLOYED = (".bit", ".bin", ".fs", ".tflite", ".onnx")  # what goes onto a machine, among the products of a build


@dataclass(frozen=True)
class Job:
    """What to run: a recipe or a model file, for a target (None where the run ends before the build) with a back end."""

    source: object  # greenedge.train.Recipe or ModelFile
    target: Target | None = None
    backend: str | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    docker: bool = False  # where vendor programs run; what is built is the same
    settled: bool = True  # False: nobody named the back end, so the lowered graph may ask for another
    reason: str | None = None  # why this back end, where that was decided here

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of this job, in order."""
        return tuple(name for name in STAGES if not (name == "train" and isinstance(self.source, ModelFile)))

    @property
    def title(self) -> str:
        """What a person sees above the stages."""
        return f"{self.source.name} → {self.target.name}" if self.target else self.source.name

    @property
    def about(self) -> dict:
        """What the manifest says the run is about."""
        kind = "model" if isinstance(self.source, ModelFile) else "recipe"
        about = {"source": {"kind": kind, "name": self.source.name, "title": self.source.title}}
        if self.target is not None:
            device = self.target.device
            about["target"] = {
                "name": self.target.name,
                "title": self.target.title,
                "kind": self.target.kind,
                "part": device.part,
                "resources": dict(device.resources),
                "experimental": self.target.experimental,
            }
            about |= {"backend": self.backend, "options": dict(self.options), "backend_reason": self.reason}
        return about


class Display(Protocol):
    """What shows a run to a person."""

    def stage(self, name: str) -> AbstractContextManager[Tell]: ...

    def ended(self, name: str, status: str, seconds: float | None, note: str) -> None: ...


class Silent:
    """The display of a caller who watches nothing."""

    @contextmanager
    def stage(self, name: str):
        yield lambda done, total, text: None

    def ended(self, name: str, status: str, seconds: float | None, note: str) -> None:
        """Shows nothing."""


def choose_backend(target: Target, wanted: str | None = None) -> str:
    """The back end for a target: the one asked for where the target has it, else the target's first (which greenedge.backends.select may
    put right once the graph is known)."""
    if wanted is None:
        return target.backends[0]
    if wanted not in BACKENDS:
        load_backend(wanted)
    if wanted not in target.backends:
        raise TargetError(
            f"{target.name} cannot be built by {wanted!r}; its back ends are: {', '.join(target.backends)}."
        )
    return wanted


# -- the stages ---------------------------------------------------------------------------------------------------------


def _train(job: Job, run: Path, tell: Tell) -> str:
    from greenedge.train import train_stage

    with aside(run / FOLDER["train"], keep=True) as work:  # a killed training goes on from its checkpoint
        metrics = train_stage(job.source, work, tell)
    metric = metrics.get("metric", "accuracy")
    return f"{metric} {metrics[metric]:.4f}" if metric in metrics else ""


def _export(job: Job, run: Path, tell: Tell) -> str:
    with aside(run / FOLDER["export"]) as work:
        if isinstance(job.source, ModelFile):
            return import_stage(job.source, work)
        from greenedge.frontends.brevitas import export_stage

        facts = export_stage(job.source, run / FOLDER["train"], work)
    return f"{facts['nodes']} nodes, {facts['samples']} test samples"


def _lower(job: Job, run: Path, tell: Tell) -> str:
    from greenedge.lower import lower_file, save_lowered

    declared = job.source.input_types() if isinstance(job.source, ModelFile) else None
    lowered = lower_file(run / FOLDER["export"] / "model.onnx", declared)
    with aside(run / FOLDER["lower"]) as work:
        save_lowered(lowered, work)
    return f"{len(lowered.graph.ops)} integer operations"


def _build(job: Job, run: Path, tell: Tell) -> str:
    from greenedge.lower import load_lowered
    from greenedge.report.summary import hardware_phrases
    from greenedge.tools.run import execute

    plan = plan_build(job, load_lowered(run / FOLDER["lower"]))
    execute(plan, run / FOLDER["build"], lambda line: tell(0, 0, line), job.docker)
    deployed = max(plan.products, key=lambda name: name.endswith(_DEPLOYED))
    reached = hardware_phrases(load_backend(job.backend).report(run / FOLDER["build"]).get("hardware", {}))
    return ", ".join([f"{deployed} {_size(run / FOLDER['build'] / deployed)}", *reached])


def plan_build(job: Job, lowered):
    """The back end's plan for a lowered model. Raises UnsupportedError with every reason why it cannot."""
    backend = load_backend(job.backend)
    lowered = lowered_for(backend, lowered)
    graph = lowered.graph
    reasons = backend.check(graph, job.target, job.options)
    if reasons:
        raise UnsupportedError(f"{job.source.name} cannot be built for {job.target.name} by {job.backend}:", reasons)
    further = (backend.ends(lowered, job.target, job.options),) if hasattr(backend, "ends") else ()
    return backend.plan(graph, job.target, job.options, *further)


def _verify(job: Job, run: Path, tell: Tell) -> str:
    return compare_stages(run, job.backend, tell)


def compare_stages(run: Path, backend: str, tell: Tell) -> str:
    """Fills 5-verify anew; what a comparison that found a difference wrote stays there. Raises VerificationError."""
    from greenedge.verify.stage import verify_stage

    found = None
    with aside(run / FOLDER["verify"]) as work:
        try:
            note = verify_stage(run, work, backend, tell)
        except VerificationError as error:
            found = error
    if found is not None:
        raise found
    return note


def _report(job: Job, run: Path, tell: Tell) -> str:
    from greenedge.report import report_stage

    with aside(run / FOLDER["report"]) as work:
        report_stage(run, work)
    return f"{FOLDER['report']}/report.html"


STAGES: dict[str, Callable[[Job, Path, Tell], str]] = {
    "train": _train,
    "export": _export,
    "lower": _lower,
    "build": _build,
    "verify": _verify,
    "report": _report,
}


# -- the loop -----------------------------------------------------------------------------------------------------------


def run_job(
    job: Job, run: Path, until: str = "report", beside: Sequence[Path] = (), display: Display = Silent()
) -> Manifest:
    """Runs the stages of `job` up to `until` in the folder `run`; returns the manifest.

    `beside` are runs to copy finished stages from. A stage's error goes to the manifest and then up. Raises
    GreenedgeError where the folder holds another run or is in use.
    """
    with hold(run):
        manifest = _opened(job, run)
        for name in job.stages[: job.stages.index(until) + 1]:
            if name == "build" and not job.settled:
                job = _settled(job, run)
                manifest = replace(manifest, about={**manifest.about, **job.about})
            manifest = _one(job, run, manifest, name, beside, display)
    return manifest


def _settled(job: Job, run: Path) -> Job:
    """The job with the back end that its lowered graph asks for."""
    from greenedge.backends.select import choose
    from greenedge.lower import load_lowered

    backend, reason = choose(load_lowered(run / FOLDER["lower"]).graph, job.target, job.options)
    return replace(job, backend=backend, reason=reason, settled=True)


def _opened(job: Job, run: Path) -> Manifest:
    """The run's manifest, brought up to date with what the job is about."""
    if not (run / FILE).is_file():
        strangers = sorted(path.name for path in run.iterdir() if path.name != ".lock")
        if strangers:
            raise GreenedgeError(f"{run} holds {strangers[0]!r} and is no run; choose another folder with -o.")
        return Manifest(job.about)
    manifest = load_manifest(run)
    for key in ("source", "target"):
        ours, theirs = (about.get(key) or {} for about in (job.about, manifest.about))
        if ours and theirs and ours.get("name") != theirs.get("name"):
            raise GreenedgeError(
                f"{run} holds a run of {key} {theirs.get('name')!r}, not {ours['name']!r}; "
                "choose another folder with -o."
            )
    return replace(manifest, about={**manifest.about, **job.about})


def _one(job: Job, run: Path, manifest: Manifest, name: str, beside: Sequence[Path], display: Display) -> Manifest:
    fresh = _planned(job, manifest, name)
    known = manifest.stages.get(name)
    if known and known.status == "done" and known.key == fresh.key and intact(run, known.outputs):
        display.ended(name, "unchanged", known.seconds, known.note)
        return manifest
    for other in beside:
        found = _finished(other, name, fresh.key)
        if found:
            copy_stage(other, found.outputs, run)
            return _saved(manifest, run, name, replace(found, reused_from=other.name), display)
    fresh = replace(fresh, started=datetime.now(UTC).isoformat(timespec="seconds"))
    save_manifest(manifest.with_stage(name, fresh), run)
    began = time.monotonic()
    try:
        with explained(run), display.stage(name) as tell:
            note = STAGES[name](job, run, tell)
    except BaseException as error:
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        text = str(error) if isinstance(error, GreenedgeError) else f"{type(error).__name__}: {error}"
        if status == "failed":
            display.ended(name, status, time.monotonic() - began, "")
        _record_failure(manifest.with_stage(name, replace(fresh, status=status, error=text)), run, error)
        raise
    seconds = round(time.monotonic() - began, 2)
    record = replace(fresh, status="done", outputs=digest_files(run, FOLDER[name]), seconds=seconds, note=note or "")
    return _saved(manifest, run, name, record, display)


def _saved(manifest: Manifest, run: Path, name: str, record: Record, display: Display) -> Manifest:
    manifest = manifest.with_stage(name, record)
    save_manifest(manifest, run)
    display.ended(name, "copied" if record.reused_from else "done", record.seconds, record.note)
    return manifest


def _record_failure(manifest: Manifest, run: Path, error: BaseException) -> None:
    """Keeps the stage's own error the one that is told, also where the manifest cannot be written (a full disk)."""
    try:
        save_manifest(manifest, run)
    except GreenedgeError as second:
        error.add_note(str(second))


def _finished(run: Path, name: str, key: str) -> Record | None:
    """That stage's record in another run, if it is done under this key and its files are whole."""
    if not (run / FILE).is_file():
        return None
    record = load_manifest(run).stages.get(name)
    whole = record and record.status == "done" and record.key == key and intact(run, record.outputs)
    return record if whole else None


def _planned(job: Job, manifest: Manifest, name: str) -> Record:
    """What would go into that stage now, with the key of it all."""
    inputs: dict[str, str] = {}
    for earlier in _READS[name]:
        if earlier in manifest.stages:
            inputs |= {
                path: digest for path, digest in manifest.stages[earlier].outputs.items() if not _tells_time(path)
            }
    if name == "train":
        inputs["recipe"] = job.source.digest
    elif name == "export":
        inputs |= job.source.inputs if isinstance(job.source, ModelFile) else {"recipe": job.source.digest}
    elif name == "report":  # it shows versions and seconds of the other stages, and which were copied
        others = {k: [r.key, r.seconds, r.reused_from] for k, r in manifest.stages.items() if k != name}
        inputs["manifest"] = digest_of(others)
    options = _options(job) if name in ("build", "verify", "report") else {}
    if name == "lower" and isinstance(job.source, ModelFile):
        options = dict(job.source.declared)
    tools = _tools(job, name)
    key = digest_of([name, inputs, options, tools])
    return Record("running", key, inputs, options, tools)


def _tells_time(path: str) -> bool:
    """Logs and the record of a build differ each time although what was built is the same."""
    return path.endswith((".log", f"/{RECORD}"))


def _options(job: Job) -> dict:
    target = job.target
    return {
        **{str(k): v for k, v in job.options.items()},
        "backend": job.backend,
        "target": target.name,
        "facts": digest_of(
            [
                target.device.part,
                dict(target.device.resources),
                target.clock_hz,
                target.clock_pin,
                dict(target.pins),
                _plain(target.io),
                _plain(target.host),
                _plain(target.device.toolchain),
            ]
        ),
    }


def _plain(table: Mapping) -> dict:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in table.items()}


def _tools(job: Job, name: str) -> dict[str, str]:
    """Names and versions of what that stage's result depends on beside its inputs."""
    tools = {
        "greenedge": f"{__version__}+{_code_digest(tuple(p.format(backend=_backend_folder(job)) for p in _CODE[name]))}"
    }
    tools |= {package: version(package) for package in _PACKAGES.get(name, ())}
    if name in ("train", "export") and not isinstance(job.source, ModelFile):
        from greenedge.train import tools as train_tools

        tools |= train_tools()
    if name in ("build", "verify"):
        tools |= load_backend(job.backend).tools(job.options)
    return tools


def _backend_folder(job: Job) -> str:
    """The folder of the job's back end below the package; "" before one is chosen."""
    return BACKENDS[job.backend].partition(".")[2].replace(".", "/") if job.backend else "backends/none"


@cache
def _code_digest(parts: tuple[str, ...]) -> str:
    """Of our own sources under these names, so that a stage runs again when the code behind it has changed."""
    found: dict[str, str] = {}
    for part in parts:
        path = _PACKAGE / part
        files = path.rglob("*") if path.is_dir() else [path, path.with_suffix(".py")]
        found |= {str(f.relative_to(_PACKAGE)): sha256_file(f) for f in files if f.is_file() and f.suffix != ".pyc"}
    return digest_of(found)[:12]


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:.2f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


# -- several targets -------------------------------------------------------------------------------------------------------


def run_jobs(
    jobs: Sequence[Job], base: Path, until: str = "report", display: Callable[[Job], Display] = lambda job: Silent()
) -> list[Path]:
    """Runs each job in base/<target>; what one finished the next ones copy. Ends with one report over all in base."""
    runs = [base / job.target.name for job in jobs]
    with hold(base):
        for number, (job, run) in enumerate(zip(jobs, runs)):
            run_job(job, run, until, [*runs[:number], *runs[number + 1 :], base], display(job))
        if until == "report":
            from greenedge.report import write_report

            write_report(runs, base / "report.html")
    return runs
