"""The names inside a run's folder, once. Nothing in it is trusted: no name and no link leads out of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from greenedge.errors import GreenedgeError

MANIFEST = "manifest.json"
STAGE_FOLDERS = {
    "train": "1-train",
    "export": "2-export",
    "lower": "3-lower",
    "decoder": "3-decoder",  # of a language model, which takes the place of the integer graph
    "build": "4-build",
    "verify": "5-verify",
    "measure": "6-measure",
    "report": "7-report",
}


@dataclass(frozen=True)
class RunFolder:
    """A run's folder: `run.build / "model.tflite"`. Every property raises GreenedgeError where a link leads out of the
    run."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def stage(self, name: str) -> Path:
        """The folder of that stage, there or not."""
        return inside(self.path, STAGE_FOLDERS[name])

    @property
    def manifest(self) -> Path:
        return self.path / MANIFEST

    @property
    def train(self) -> Path:
        return self.stage("train")

    @property
    def export(self) -> Path:
        return self.stage("export")

    @property
    def lower(self) -> Path:
        return self.stage("lower")

    @property
    def decoder(self) -> Path:
        return self.stage("decoder")

    @property
    def build(self) -> Path:
        return self.stage("build")

    @property
    def verify(self) -> Path:
        return self.stage("verify")

    @property
    def measure(self) -> Path:
        return self.stage("measure")

    @property
    def report(self) -> Path:
        return self.stage("report")

    @property
    def model(self) -> Path:
        """The exported model."""
        return self.export / "model.onnx"

    @property
    def original(self) -> Path:
        """The .tflite that the model was read from, where it was."""
        return self.export / "model.tflite"

    @property
    def inputs(self) -> Path:
        """The test vectors: an .npz file where the model has several inputs."""
        several = self.export / "inputs.npz"
        return several if several.is_file() else self.export / "inputs.npy"

    @property
    def summary(self) -> Path:
        """The numbers that other programs read."""
        return self.report / "summary.json"

    @property
    def page(self) -> Path:
        """The report that people read."""
        return self.report / "report.html"


_MAX_NAME = 1024  # characters below a run's folder; systems take 4,096 bytes for a whole path


def inside(folder: Path, name: str) -> Path:
    """folder/name. Raises GreenedgeError where that leaves the folder, also by way of a link."""
    parts = PurePosixPath(name[:_MAX_NAME])
    leaves = parts.is_absolute() or ".." in parts.parts or not parts.parts or len(name) > _MAX_NAME or "\0" in name
    if leaves or not (folder / parts).resolve().is_relative_to(folder.resolve()):
        raise GreenedgeError(
            f"{folder / MANIFEST} names the file {name[:80]!r}, which lies outside the run's folder; "
            "use only runs that you or someone you trust made."
        )
    return folder / parts
