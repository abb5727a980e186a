"""What lies beside a built int8 file: how its edges are stored."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from greenedge.errors import GreenedgeError


def accepted(name: str, edge: Mapping, values) -> np.ndarray:
    """The integers for input `name` as int64. `edge` has its shape, lo and hi. Raises GreenedgeError for any others."""
    values = None if values is None else np.asarray(values)
    if values is None or values.shape[1:] != tuple(edge["shape"]):
        has = "is missing" if values is None else f"has shape {values.shape}"
        raise GreenedgeError(f"input {name!r} {has}; it must be {('batch', *edge['shape'])}.")
    if values.dtype.kind not in "iub":
        raise GreenedgeError(f"input {name!r} is {values.dtype}; the built file takes integers (floats go through the prologue first).")
    if values.size and (values.min() < edge["lo"] or values.max() > edge["hi"]):
        raise GreenedgeError(f"input {name!r} holds {values.min()}…{values.max()}; it must lie in {edge['lo']}…{edge['hi']}.")
    return values.astype(np.int64)
