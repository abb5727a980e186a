"""Integers that a file computes from its own shapes, as constants: what converters write before a reshape where the
batch is open.

SHAPE, STRIDED_SLICE, PACK, CONCATENATION of such integers. A network computes one sample, so they are known.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from greenedge.frontends.tflite.file import MAX_RANK, File, Operator, Tensor
from greenedge.graph.ops.base import Array

_INTEGERS = ("INT32", "INT64")
_LONGEST = 4 * MAX_RANK  # of a vector that describes a shape


def fold_shapes(file: File) -> File:
    """The file without its arithmetic on shapes: what that gives is constant."""
    tensors, left = list(file.tensors), []
    for operator in file.operators:
        values = _evaluate(operator, tensors)
        if values is None:
            left.append(operator)
            continue
        (number,) = operator.outputs
        tensors[number] = dataclasses.replace(tensors[number], values=values, shape=values.shape)
    return dataclasses.replace(file, tensors=tuple(tensors), operators=tuple(left))


def _evaluate(operator: Operator, tensors: Sequence[Tensor]) -> Array | None:
    """What an operator gives for constants that describe shapes; None where it is another one."""
    if len(operator.outputs) != 1 or tensors[operator.outputs[0]].kind not in _INTEGERS or -1 in operator.inputs:
        return None
    inputs = [tensors[number] for number in operator.inputs]
    if operator.kind == "SHAPE":
        (source,) = inputs
        return None if source.is_open else np.array(source.shape, np.int64)
    fold = _FOLDS.get(operator.kind)
    if fold is None or any(
        one.values is None or one.elements > _LONGEST or one.kind not in _INTEGERS for one in inputs
    ):
        return None
    return fold([np.asarray(one.values).astype(np.int64) for one in inputs], operator.options)


def _slice(inputs: Sequence[Array], options: Any) -> Array | None:
    """STRIDED_SLICE of a vector; of its masks those of the ends, and of an axis that is dropped."""
    vector, begin, end, stride = inputs
    if vector.ndim != 1 or any(part.shape != (1,) for part in (begin, end, stride)) or not stride[0]:
        return None
    if any(options.get(key, 0) for key in ("ellipsisMask", "newAxisMask", "offset")):
        return None
    if options.get("shrinkAxisMask", 0):
        return vector[begin[0]] if -len(vector) <= begin[0] < len(vector) else None
    first = None if options.get("beginMask", 0) else begin[0]
    last = None if options.get("endMask", 0) else end[0]
    return vector[slice(first, last, stride[0])]


def _pack(inputs: Sequence[Array], options: Any) -> Array | None:
    if any(one.ndim for one in inputs) or options.get("axis", 0) not in (0, -1):
        return None
    return np.stack(inputs)


def _concatenate(inputs: Sequence[Array], options: Any) -> Array | None:
    if any(one.ndim != 1 for one in inputs) or options.get("axis", 0) not in (0, -1):
        return None
    return np.concatenate(inputs)


_FOLDS: dict[str, Callable[[Sequence[Array], Any], Array | None]] = {
    "STRIDED_SLICE": _slice,
    "PACK": _pack,
    "CONCATENATION": _concatenate,
}
