"""The back ends: one dict from name to the package whose BACKEND it is, imported when asked for (interface.py says
what one is)."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from greenedge.errors import TargetError
from greenedge.target import nearest

if TYPE_CHECKING:
    from greenedge.backends.interface import Backend

BACKENDS = {
    "c99": "greenedge.backends.c99",
    "da4ml": "greenedge.backends.da4ml",
    "finn": "greenedge.backends.finn",
    "hls4ml": "greenedge.backends.hls4ml",
    "onnxruntime": "greenedge.backends.int8.onnxruntime",
    "tflite": "greenedge.backends.int8.tflite",
}


def load_backend(name: str) -> Backend:
    """The back end of that name. Raises TargetError for a name that is not in the dict."""
    if name not in BACKENDS:
        raise TargetError(f"there is no back end {name!r}; back ends are: {', '.join(sorted(BACKENDS))}.")
    backend: Backend = importlib.import_module(BACKENDS[name]).BACKEND
    return backend


def check_options(options: Iterable[str]) -> None:
    """Raises TargetError for an option that no back end has. An option of another back end than the chosen one is
    allowed: a recipe's [build] is for all of its targets."""
    known = {name for backend in BACKENDS for name in load_backend(backend).options} if options else set()
    for key in options:
        if key.partition(".")[0] not in known:
            raise TargetError(
                f"no back end has an option build.{key}{nearest(key, known)}; there are: {', '.join(sorted(known))}."
            )
