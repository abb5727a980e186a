"""The one way into a finished run: what `verify` compared is what every other verb uses.

Nothing in a run's folder is trusted. Its files must be exactly those that the manifest names, by sha256, and each stage
made from the files of the stages before it that lie there now. The manifest itself may come from anybody, so what would
be compiled or simulated is planned again from the integer graph and compared byte for byte first, and what a comparison
must cover follows from that plan and not from what happens to be in the folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from greenedge.backends import BACKENDS, load_backend
from greenedge.backends.interface import Backend
from greenedge.errors import GreenedgeError, TargetError, UnsupportedError, VerificationError
from greenedge.legalise import legalise
from greenedge.lower import Lowered, load_lowering
from greenedge.progress import ProgressFn
from greenedge.run.folder import MANIFEST, RunFolder
from greenedge.run.manifest import Manifest, load_manifest, require_unchanged
from greenedge.target import Target, load_target, read_target
from greenedge.tools.plan import Plan
from greenedge.tools.replay import find_unplanned

LANGUAGE_MODEL = "decoder"  # the kind of a run's source, where that is no graph
# What is read and never run: a difference in these is left to the comparison of integers, which can say what it does.
_DATA = (".mem", ".tflite", ".onnx", ".npz", ".npy", ".dat")


@dataclass(frozen=True)
class OpenRun:
    """A run in whose folder the files of some stages were looked at (`open_run`). `given` is the target, or its file,
    where it is none that ships with greenedge."""

    folder: RunFolder
    manifest: Manifest
    given: Target | str | None = None

    @property
    def path(self) -> Path:
        return self.folder.path

    @cached_property
    def lowered(self) -> Lowered:
        """The stored lowering: graph, prologue and epilogue."""
        return load_lowering(self.folder.lower)

    @cached_property
    def backend(self) -> Backend:
        """The back end that built the run. Raises GreenedgeError where nothing has been built."""
        return load_backend(name_backend(self.path, self.manifest))

    @cached_property
    def legal(self) -> Lowered:
        """The lowering after the back end's passes: what was built, and what is left to the host."""
        return legalise(self.lowered, self.backend.passes)

    @cached_property
    def target(self) -> Target:
        """What the run was built for: the target that ships with greenedge, or the board's files as the run keeps them.

        Good for planning, which runs nothing; a program that a board names is run from the user's own file alone.
        """
        texts = self._about_target.get("texts")
        if self.given is None and isinstance(texts, dict):
            return self._require_named(read_target(texts))
        return self.trusted_target

    @property
    def trusted_target(self) -> Target:
        """The board's own file; a run folder may come from anybody."""
        if isinstance(self.given, Target):
            return self._require_named(self.given)
        return self._require_named(load_target(self.given or str(self._about_target.get("name"))))

    @property
    def _about_target(self) -> dict[str, Any]:
        about = self.manifest.about.get("target")
        if not isinstance(about, dict) or not isinstance(about.get("name"), str):
            raise GreenedgeError(f"{self.path / MANIFEST} names no target; run it for a board.")
        return about

    def _require_named(self, target: Target) -> Target:
        name = self._about_target["name"]
        if target.name != name:
            raise TargetError(f"{self.path} was built for {name!r}, not for {target.name!r}; choose that board.")
        return target

    def plan_again(self) -> Plan:
        """What the back end plans for the stored integer graph, with the target and the options of the run."""
        options = self.manifest.about.get("options") or {}
        return plan_again(self.backend, self.legal, self.target, options, str(self.path))

    def require_planned(self, progress: ProgressFn) -> None:
        """Raises VerificationError where something in the build, be it data, is not what greenedge writes for the
        stored integer graph. To be called before anything of the build is compiled or simulated."""
        if differing := require_planned(self.plan_again(), self.folder.build, progress):
            raise VerificationError(_describe_unplanned(differing[0], "integer graph"))

    @property
    def evidence(self) -> dict[str, int]:
        """{stage: samples that must be compared}, as recorded when the run was built. Raises GreenedgeError without."""
        found = self.manifest.about.get("evidence")
        if not found or not all(type(samples) is int for samples in found.values()):
            raise GreenedgeError(
                f"{self.path / MANIFEST} does not say what must be compared; run the same `greenedge run` or "
                "`greenedge build` again."
            )
        return dict(found)


def open_run(path: Path, *stages: str, given: str | None = None) -> OpenRun:
    """Opens a run for a verb that uses the files of these stages.

    Raises VerificationError where one of them is not exactly as the run made it, GreenedgeError for a folder that is no
    run or has not got so far.
    """
    manifest = load_manifest(path)
    if "build" in stages:
        require_built(path, manifest)
    if stages != ("build",) and is_language_model(manifest):
        raise GreenedgeError(_describe_language_model(path))
    require_unchanged(path, manifest, *stages)
    return OpenRun(RunFolder(path), manifest, given)


def is_language_model(manifest: Manifest) -> bool:
    """Whether the run is of a decoder (greenedge.run.decoder_custody), which is no graph."""
    source = manifest.about.get("source")
    return isinstance(source, dict) and source.get("kind") == LANGUAGE_MODEL


def _describe_language_model(path: Path) -> str:
    return (
        f"{path} is a run of a language model, which has no samples and no integer graph; let it write with "
        f"`greenedge chat {path}`, or compare it again with `greenedge verify {path}`."
    )


def require_built(path: Path, manifest: Manifest) -> None:
    """Raises GreenedgeError where nothing has been built."""
    record = manifest.stages.get("build")
    if record is None or record.status != "done" or not RunFolder(path).build.is_dir():
        raise GreenedgeError(f"{path} has nothing built; run `greenedge run` or `greenedge build` for it to the end.")


def name_backend(path: Path, manifest: Manifest) -> str:
    """The back end that built this run. Raises GreenedgeError where nothing has been built, and for a language
    model."""
    require_built(path, manifest)
    backend = manifest.about.get("backend")
    if is_language_model(manifest):
        raise GreenedgeError(_describe_language_model(path))
    if backend not in BACKENDS:
        raise GreenedgeError(
            f"{path / MANIFEST}: backend is {backend!r}; back ends are: {', '.join(sorted(BACKENDS))}."
        )
    return str(backend)


def plan_again(backend: Backend, legal: Lowered, target: Target, options: Mapping[str, Any], what: str) -> Plan:
    """The back end's plan for a legalised model. Raises UnsupportedError with every reason why it cannot; `what` is the
    model in words."""
    if reasons := backend.check(legal.graph, target, options):
        raise UnsupportedError(f"{what} cannot be built for {target.name} by {backend.name}:", reasons)
    return backend.plan(legal.graph, target, options, backend.float_epilogue(legal, target, options))


def require_planned(plan: Plan, build: Path, progress: ProgressFn, model: str = "integer graph") -> list[Path]:
    """Makes sure that what lies in `build` and would be compiled or simulated is what greenedge writes for this plan,
    which is of the run's `model`; returns the files of data that differ, which are nothing to be run.

    Raises VerificationError for any other difference.
    """
    found = find_unplanned(plan, build, lambda line: progress(0, 0, f"planning again: {line}"))
    if strange := [path for path in found if path.suffix not in _DATA]:
        raise VerificationError(_describe_unplanned(strange[0], model))
    return found


def _describe_unplanned(path: Path, model: str) -> str:
    return (
        f"{path} is not what greenedge writes for the {model} of this run, so nothing of the build is run; run "
        "the same `greenedge run` or `greenedge build` again to make it anew."
    )
