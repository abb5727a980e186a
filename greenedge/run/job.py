"""What to run, and what shows it to a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from greenedge.frontends.import_onnx import ModelFile
from greenedge.progress import ProgressFn, no_progress
from greenedge.target import Target

if TYPE_CHECKING:
    from greenedge.train.recipe import Recipe


ORDER = ("train", "export", "lower", "build", "verify", "report")  # of the stages


@dataclass(frozen=True)
class Job:
    """What to run: a recipe or a model file, for a target (None where the run ends before the build) with a back
    end."""

    source: Recipe | ModelFile
    target: Target | None = None
    backend: str | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    docker: bool = False  # where vendor programs run; what is built is the same
    is_chosen: bool = True  # False: nobody named the back end, so the lowered graph may ask for another
    reason: str | None = None  # why this back end, where that was decided here

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of this job, in order."""
        return ORDER[1:] if isinstance(self.source, ModelFile) else ORDER

    @property
    def title(self) -> str:
        """What a person sees above the stages."""
        return f"{self.source.name} → {self.target.name}" if self.target else self.source.name

    @property
    def about(self) -> dict[str, Any]:
        """What the manifest says the run is about."""
        kind = "model" if isinstance(self.source, ModelFile) else "recipe"
        about: dict[str, Any] = {"source": {"kind": kind, "name": self.source.name, "title": self.source.title}}
        if isinstance(self.source, ModelFile) and self.source.is_tflite:
            about["source"]["arithmetic"] = self.source.kernels
        if self.target is not None:
            about["target"] = describe_target(self.target)
            about |= {"backend": self.backend, "options": dict(self.options), "backend_reason": self.reason}
        return about


def describe_target(target: Target) -> dict[str, Any]:
    """What the manifest says of a target."""
    device = target.device
    about: dict[str, Any] = {
        "name": target.name,
        "title": target.title,
        "kind": target.kind,
        "part": device.part,
        "resources": dict(device.resources),
        "experimental": target.experimental,
    }
    if target.texts:  # what it takes to plan again, where it does not ship with greenedge
        about["texts"] = dict(target.texts)
    return about


class Display(Protocol):
    """What shows a run to a person."""

    def stage(self, name: str) -> AbstractContextManager[ProgressFn]: ...

    def end_stage(self, name: str, status: str, seconds: float | None, note: str) -> None: ...


class Silent:
    """The display of a caller who watches nothing."""

    @contextmanager
    def stage(self, name: str) -> Iterator[ProgressFn]:
        yield no_progress

    def end_stage(self, name: str, status: str, seconds: float | None, note: str) -> None:
        """Shows nothing."""
