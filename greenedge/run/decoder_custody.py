"""The one way into a finished run of a language model, as custody.py is for graphs: what was verified is what chats."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from greenedge.backends.decoder.choice import load_decoder_backend
from greenedge.backends.decoder.interface import DecoderBackend
from greenedge.decoder.record import Decoder
from greenedge.decoder.store import load_model
from greenedge.decoder.tokenizer import Tokenizer
from greenedge.errors import GreenedgeError, TargetError, VerificationError
from greenedge.progress import ProgressFn
from greenedge.run.custody import OpenRun, is_language_model, require_built, require_planned
from greenedge.run.decoder_job import make_plan
from greenedge.run.folder import MANIFEST, RunFolder
from greenedge.run.manifest import Manifest, load_manifest, require_unchanged
from greenedge.target import Target
from greenedge.tools.plan import Plan

DECODER = "decoder.npz"  # in the folder of the decoder stage


@dataclass(frozen=True)
class OpenDecoder:
    """A run of a language model. `given` is the target, where it is none that ships with greenedge."""

    folder: RunFolder
    manifest: Manifest
    given: Target | str | None = None

    @property
    def path(self) -> Path:
        return self.folder.path

    @cached_property
    def _model(self) -> tuple[Decoder, Tokenizer | None]:
        return load_model(self.folder.decoder / DECODER)

    @property
    def decoder(self) -> Decoder:
        """The stored decoder. Raises GreenedgeError for a damaged file."""
        return self._model[0]

    @property
    def tokenizer(self) -> Tokenizer | None:
        """Its tokenizer, where it was quantised with one."""
        return self._model[1]

    @cached_property
    def backend(self) -> DecoderBackend:
        """The back end that built the run. Raises GreenedgeError for a name that is none."""
        try:
            return load_decoder_backend(str(self.manifest.about.get("backend")))
        except TargetError as error:
            raise GreenedgeError(f"{self.path / MANIFEST}: {error}") from None

    @property
    def options(self) -> dict[str, Any]:
        """Those that the run was built with."""
        return dict(self.manifest.about.get("options") or {})

    @cached_property
    def target(self) -> Target:
        """What the run was built for, good for planning alone."""
        return OpenRun(self.folder, self.manifest, self.given).target

    def plan_again(self) -> Plan:
        """What the back end plans for the stored decoder."""
        return make_plan(self.backend, self.decoder, self.tokenizer, self.target, self.options, str(self.path))

    def require_planned(self, progress: ProgressFn) -> None:
        """Raises VerificationError where something in the build is not what greenedge writes for the stored decoder. To
        be called before anything of the build is compiled or simulated."""
        if differing := require_planned(self.plan_again(), self.folder.build, progress, "decoder"):
            raise VerificationError(f"{differing[0]} is not what greenedge writes for the decoder of this run.")


def open_decoder(path: Path, given: str | None = None) -> OpenDecoder:
    """Opens a run with its decoder and its build.

    Raises VerificationError where a file is not exactly as the run made it, GreenedgeError for a folder that is no run
    of a language model or has not got so far.
    """
    manifest = load_manifest(path)
    if not is_language_model(manifest):
        raise GreenedgeError(
            f"{path} is no run of a language model; make one with `greenedge build MODEL.npz --target NAME`."
        )
    require_built(path, manifest)
    require_unchanged(path, manifest, "decoder", "build")
    return OpenDecoder(RunFolder(path), manifest, given)
