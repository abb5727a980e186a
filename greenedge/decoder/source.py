"""A language model's file as the source of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from greenedge.decoder.record import Decoder
from greenedge.decoder.store import load_model
from greenedge.decoder.tokenizer import Tokenizer
from greenedge.files.arrays import is_archive
from greenedge.files.atomic_write import sha256_file


@dataclass(frozen=True)
class DecoderFile:
    """What `greenedge quantise` wrote of a language model."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def title(self) -> str:
        return self.name

    @property
    def inputs(self) -> dict[str, str]:
        """{file: sha256}."""
        return {self.path.name: sha256_file(self.path)}

    def load(self) -> tuple[Decoder, Tokenizer | None]:
        """Raises GreenedgeError for a file that is missing, another, or damaged."""
        return load_model(self.path)


def is_decoder_file(path: Path) -> bool:
    """Whether this is a language model as `greenedge quantise` writes it; what is damaged counts as one."""
    return path.suffix == ".npz" and is_archive(path)
