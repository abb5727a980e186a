"""What a stage's result depends on: the key under which it is skipped, or copied from another run."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from greenedge import __version__
from greenedge.backends import BACKENDS, load_backend
from greenedge.files.atomic_write import sha256_file
from greenedge.frontends.import_onnx import ModelFile
from greenedge.run.job import Job
from greenedge.run.manifest import Manifest, Record, digest_of
from greenedge.target import Target
from greenedge.tools.run import RECORD

_PACKAGE = Path(__file__).resolve().parent.parent
# what a stage reads, and which of our own code its result depends on ({backend} is the chosen one's folder)
_READS = {
    "train": (),
    "export": ("train",),
    "lower": ("export",),
    "decoder": ("train",),
    "build": ("lower", "decoder"),
    "verify": ("export", "lower", "decoder", "build"),
    "report": ("train", "export", "lower", "decoder", "build", "verify"),
}
_CODE = {
    "train": ("train",),
    "export": ("frontends", "train", "backends/int8/arithmetic.py"),
    "lower": ("frontends", "lower", "graph"),
    "build": ("{backend}", "backends/int8", "legalise", "hdl", "graph", "lower/dequantise.py", "tools"),
    "verify": ("verify", "boards", "hdl", "{backend}", "backends/int8", "graph", "frontends", "lower", "legalise"),
    "report": ("report",),
}
_PACKAGES = {
    "lower": ("onnx", "qonnx", "numpy"),
    "verify": ("onnx", "qonnx", "onnxruntime", "numpy"),
    "report": ("jinja2",),
}


def plan_record(job: Job, manifest: Manifest, name: str) -> Record:
    """What would go into that stage now, with the key of it all."""
    inputs = list_inputs(manifest, name)
    if name == "train":
        inputs["recipe"] = _recipe_digest(job)
    elif name == "export":
        inputs |= job.source.inputs if isinstance(job.source, ModelFile) else {"recipe": job.source.digest}
    elif name == "report":
        inputs["manifest"] = digest_shown(manifest)
    options: dict[str, object] = {}
    if name in ("build", "verify", "report"):
        assert job.target is not None, "stages from build on have a target"
        options = target_options(job.target, job.options, job.backend)
    if name == "lower" and isinstance(job.source, ModelFile):
        options = dict(job.source.declared)
    tools = _tools(job, name)
    return Record("running", digest_of([name, inputs, options, tools]), inputs, options, tools)


def digest_shown(manifest: Manifest) -> str:
    """Of what a report shows beside the stages' files: their versions and seconds, and which were copied."""
    others = {k: [r.key, r.seconds, r.reused_from] for k, r in manifest.stages.items() if k != "report"}
    return digest_of(others)


def list_inputs(manifest: Manifest, name: str) -> dict[str, str]:
    """{file: sha256} of what the stages before it made for that stage, without files that vary from run to run."""
    inputs: dict[str, str] = {}
    for earlier in _READS[name]:
        if earlier in manifest.stages:
            outputs = manifest.stages[earlier].outputs
            inputs |= {path: digest for path, digest in outputs.items() if not _varies(path)}
    return inputs


def _recipe_digest(job: Job) -> str:
    assert not isinstance(job.source, ModelFile), "a model file is not trained"
    return job.source.digest


def _varies(path: str) -> bool:
    """Whether a file differs from run to run although the result is the same: logs, and the record of a build."""
    return path.endswith((".log", f"/{RECORD}"))


def target_options(target: Target, chosen: Mapping[str, object], backend: str | None) -> dict[str, object]:
    """What a stage from the build on was asked for: options, back end, and the target with its facts."""
    facts = [
        target.device.part,
        dict(target.device.resources),
        target.clock_hz,
        target.clock_pin,
        dict(target.pins),
        _plain(target.io),
        _plain(target.host),
        _plain(target.device.toolchain),
    ]
    options = {str(key): value for key, value in chosen.items()}
    return {**options, "backend": backend, "target": target.name, "facts": digest_of(facts)}


def _plain(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in table.items()}


def _tools(job: Job, name: str) -> dict[str, str]:
    """Names and versions of what that stage's result depends on beside its inputs."""
    parts = tuple(part.format(backend=_backend_folder(job)) for part in _CODE[name])
    tools = {"greenedge": f"{__version__}+{digest_code(parts)}"}
    tools |= {package: version(package) for package in _PACKAGES.get(name, ())}
    trains = not isinstance(job.source, ModelFile) or job.source.calibration is not None
    if name in ("train", "export") and trains:
        from greenedge.train import tools as train_tools

        tools |= train_tools()
    if name in ("build", "verify") and job.backend is not None:
        tools |= load_backend(job.backend).tools(job.options)
    return tools


def _backend_folder(job: Job) -> str:
    """The folder of the job's back end below the package."""
    return BACKENDS[job.backend].partition(".")[2].replace(".", "/") if job.backend else "backends"


@cache
def digest_code(parts: tuple[str, ...]) -> str:
    """Digest of our own sources under these names, so that a stage runs again when the code behind it has changed."""
    digests: dict[str, str] = {}
    for part in parts:
        path = _PACKAGE / part
        files = path.rglob("*") if path.is_dir() else [path, path.with_suffix(".py")]
        digests |= {
            str(file.relative_to(_PACKAGE)): sha256_file(file)
            for file in files
            if file.is_file() and file.suffix != ".pyc"
        }
    return digest_of(digests)[:12]
