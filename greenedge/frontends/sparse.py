"""Sparse tensors as dense ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def densify(values: NDArray[np.generic], indices: NDArray[np.generic], shape: Sequence[int]) -> NDArray[np.generic]:
    """The array of `shape` with `values` (n,) where `indices` say and 0 elsewhere.

    `indices` are (n,) positions in row-major order or (n, axes) coordinates, ascending and without repetition, as ONNX
    asks. Raises ValueError in words for any other.
    """
    count, size = len(values) if values.ndim == 1 else -1, math.prod(shape)
    if count < 0 or values.dtype.kind in "OSU":
        raise ValueError(f"its values are {values.dtype} of shape {values.shape}, a list of numbers is needed")
    if indices.dtype != np.int64 or indices.shape not in ((count,), (count, len(shape))):
        raise ValueError(f"its indices are {indices.dtype} of shape {indices.shape} for {count} values")
    flat = indices.astype(np.int64)
    if flat.ndim == 2:
        if ((flat < 0) | (flat >= np.array(shape, np.int64))).any():
            raise ValueError(f"an index lies outside its shape {tuple(shape)}")
        flat = np.ravel_multi_index(tuple(flat.T), tuple(shape)) if count and len(shape) else np.zeros(count, np.int64)
    if count and (flat.min() < 0 or flat.max() >= size or (np.diff(flat) <= 0).any()):
        raise ValueError(f"its indices do not ascend within its {size:,} elements")
    dense = np.zeros(size, values.dtype)
    dense[flat] = values
    return dense.reshape(tuple(shape))
