"""The back ends for decoders: one dict from name to the module whose BACKEND it is, and which of them a target has."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from greenedge.backends.decoder.interface import DecoderBackend
from greenedge.errors import TargetError
from greenedge.target import Target, nearest

DECODER_BACKENDS = {
    "decoder": "greenedge.backends.decoder.fpga",
    "decoder-c99": "greenedge.backends.decoder.package",
}


def load_decoder_backend(name: str) -> DecoderBackend:
    """The back end of that name. Raises TargetError for a name that is not in the dict."""
    if name not in DECODER_BACKENDS:
        raise TargetError(
            f"there is no back end {name!r} for language models; there are: {', '.join(DECODER_BACKENDS)}."
        )
    backend: DecoderBackend = importlib.import_module(DECODER_BACKENDS[name]).BACKEND
    return backend


def choose_decoder_backend(target: Target, wanted: str | None = None) -> DecoderBackend:
    """The one asked for, else the engine for an FPGA and the C99 package for anything else; its `check` says whether
    the target is one for it."""
    return load_decoder_backend(wanted or ("decoder" if target.kind == "fpga" else "decoder-c99"))


def check_decoder_options(backend: DecoderBackend, options: Iterable[str]) -> None:
    """Raises TargetError for an option that the back end does not have."""
    for key in options:
        if key not in backend.options:
            there = ", ".join(backend.options) or "none"
            raise TargetError(
                f"{backend.name} has no option build.{key}{nearest(key, backend.options)}; there are: {there}."
            )
