"""Samples for a model: one array for each of its inputs, in an .npy file for one and an .npz file for several.

samples = read_samples(Path("x.npz"), inputs)     # {input: (N, *shape)}, judged
write_samples(samples, folder)                    # inputs.npy or inputs.npz, as a run keeps them
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from greenedge.errors import GreenedgeError
from greenedge.files.arrays import check_array, is_archive, read_archive, read_array, write_archive
from greenedge.frontends.input_type import InputType, read_annotation, read_levels

if TYPE_CHECKING:
    from greenedge.frontends.source import Source

Samples = dict[str, NDArray[Any]]  # model input -> (N, *shape), in the order of the model's inputs

_LARGEST = float(np.finfo(np.float32).max)
_AT_LEAST = "give at least one sample, as numbers"


@dataclass(frozen=True)
class ModelInput:
    """An input of a model: the shape of a sample (None: a size that is open), and the integers that it takes where it
    is declared or annotated as such."""

    name: str
    shape: tuple[int | None, ...]
    kind: InputType | None = None


def list_inputs(source: Source, declared: Mapping[str | None, InputType]) -> tuple[ModelInput, ...]:
    """The inputs of a model in its order; `declared` has their types by name, None for all that are not named."""
    return tuple(
        ModelInput(
            name,
            shape[1:],
            declared.get(name) or declared.get(None) or read_annotation(source.annotations.get(name)),
        )
        for name, shape in source.inputs.items()
    )


def open_samples(path: Path, inputs: Sequence[ModelInput]) -> Samples:
    """The arrays of a file; an .npy file's is left on disk. Of the arrays it is only known that they are numbers, as
    many for each input and at least one.

    Raises GreenedgeError for a file that is missing or none, or does not hold one array for each input.
    """
    if is_archive(path):
        arrays = _name_arrays(read_archive(path), inputs, path)
    else:
        check_array(path)
        arrays = {_only_input(path, inputs).name: np.load(path, mmap_mode="r", allow_pickle=False)}
    return _require_samples(arrays, path)


def read_samples(path: Path, inputs: Sequence[ModelInput]) -> Samples:
    """The arrays of a file, each of them one that the input takes: of its shape, finite, and integers where it takes
    integers.

    Raises GreenedgeError for anything else, as `open_samples` does.
    """
    if is_archive(path):
        arrays = _name_arrays(read_archive(path), inputs, path)
    else:
        arrays = {_only_input(path, inputs).name: read_array(path)}
    for one in inputs:
        _judge(arrays[one.name], one, _describe_array(path, one.name, len(inputs)))
    return _require_samples(arrays, path)


def read_arguments(path: Path, forward: Callable[..., object]) -> list[NDArray[Any]]:
    """The arrays of a file in the order of a function's arguments, by name where the file has names: finite numbers,
    as many for each.

    Raises GreenedgeError where they are not what the function takes.
    """
    found = read_archive(path) if is_archive(path) else {"arr_0": read_array(path)}
    is_named = set(found) != {f"arr_{k}" for k in range(len(found))}
    signature = inspect.signature(forward)
    try:
        bound = signature.bind(**found) if is_named else signature.bind(*found.values())
        arrays = {name: array for value in bound.args for name, array in found.items() if array is value}
    except TypeError:
        arrays = {}
    if len(arrays) < len(found):
        given = ", ".join(map(repr, found)) if is_named else f"arr_0 … arr_{len(found) - 1}"
        raise GreenedgeError(
            f"{path} holds the arrays {given}, and the network's forward takes ({', '.join(signature.parameters)}); "
            "give one array for each, by its name or in its order."
        )
    for name, array in _require_samples(arrays, path).items():
        _judge(array, ModelInput(name, array.shape[1:]), _describe_array(path, name, len(arrays)))
    return list(arrays.values())


def write_samples(samples: Mapping[str, NDArray[Any]], folder: Path) -> None:
    """Writes inputs.npy where there is one input, else inputs.npz."""
    if len(samples) == 1:
        np.save(folder / "inputs.npy", next(iter(samples.values())), allow_pickle=False)
    else:
        write_archive(folder / "inputs.npz", samples)


def to_reals(samples: Mapping[str, NDArray[Any]], inputs: Sequence[ModelInput]) -> Samples:
    """The samples as the model's file takes them: integers for an input that takes integers are levels of its step."""
    kinds = {one.name: one.kind for one in inputs}
    reals: Samples = {}
    for name, array in samples.items():
        kind = kinds.get(name)
        is_levels = array.dtype.kind in "iub"
        reals[name] = (array * float(kind.scale)).astype(np.float32) if kind and is_levels else array
    return reals


def count_samples(samples: Mapping[str, NDArray[Any]]) -> int:
    """How many samples there are for each input."""
    return len(next(iter(samples.values())))


def _only_input(path: Path, inputs: Sequence[ModelInput]) -> ModelInput:
    if len(inputs) != 1:
        raise GreenedgeError(
            f"{path} holds one array, and the model has the inputs {_list_names(inputs)}; give an .npz file with an "
            f"array for each: numpy.savez(path, **{{{', '.join(f'{one.name!r}: …' for one in inputs)}}})."
        )
    return inputs[0]


def _name_arrays(arrays: Mapping[str, NDArray[Any]], inputs: Sequence[ModelInput], path: Path) -> Samples:
    """The arrays by the model's inputs. Those that numpy.savez was given without names are in the model's order."""
    names = [one.name for one in inputs]
    given = [f"arr_{k}" for k in range(len(names))]
    if set(arrays) != set(names) and set(arrays) == set(given):
        return {name: arrays[key] for name, key in zip(names, given, strict=True)}
    if set(arrays) != set(names):
        raise GreenedgeError(
            f"{path} holds the arrays {', '.join(map(repr, arrays))}, and the model has the "
            f"input{'s' * (len(names) > 1)} {_list_names(inputs)}; give one array for each, by its name."
        )
    return {name: arrays[name] for name in names}


def _list_names(inputs: Sequence[ModelInput]) -> str:
    return ", ".join(f"{one.name!r} {('samples', *one.shape)}" for one in inputs)


def _describe_array(path: Path, name: str, count: int) -> str:
    """An array of the file as a sentence begins with it."""
    return f"{path}, array {name!r}," if count > 1 else str(path)


def _require_samples(arrays: Samples, path: Path) -> Samples:
    """Raises GreenedgeError where there is no sample, or not as many for each input."""
    for name, array in arrays.items():
        if array.ndim == 0 or not len(array) or array.dtype.kind not in "fiub":
            holds = "one number" if array.ndim == 0 else f"{len(array)} samples of {array.dtype}"
            raise GreenedgeError(f"{_describe_array(path, name, len(arrays))} holds {holds}; {_AT_LEAST}.")
    if len({len(array) for array in arrays.values()}) > 1:
        counts = ", ".join(f"{len(array)} of {name!r}" for name, array in arrays.items())
        raise GreenedgeError(f"{path} holds different numbers of samples, {counts}; give as many for each input.")
    return arrays


def _judge(samples: NDArray[Any], one: ModelInput, shown: str) -> None:
    """Raises GreenedgeError for samples that the input does not take."""
    if samples.ndim != len(one.shape) + 1 or any(
        size is not None and size != other for size, other in zip(one.shape, samples.shape[1:], strict=True)
    ):
        raise GreenedgeError(f"{shown} has shape {samples.shape}; input {one.name!r} wants {('samples', *one.shape)}.")
    if not len(samples) or samples.dtype.kind not in "fiub":
        raise GreenedgeError(f"{shown} holds {len(samples)} samples of {samples.dtype}; give at least one, as numbers.")
    if samples.dtype.kind == "f":
        _require(np.isfinite(samples), samples, shown, "a sample is finite numbers: leave that one out")
        if samples.dtype.itemsize > 4:
            _require(np.abs(samples) <= _LARGEST, samples, shown, "the model computes in float32: scale that one down")
    if one.kind is not None:
        levels = read_levels(samples, one.kind.scale, shown)
        step = "" if one.kind.scale == 1 else f" times {float(one.kind.scale):g}"
        rule = f"input {one.name!r} takes the integers {one.kind.lo}…{one.kind.hi}{step}: leave that one out"
        _require((levels >= one.kind.lo) & (levels <= one.kind.hi), samples, shown, rule)


def _require(holds: NDArray[np.bool_], samples: NDArray[Any], shown: str, rule: str) -> None:
    if not holds.all():
        where = tuple(int(k) for k in np.argwhere(~holds)[0])
        raise GreenedgeError(f"{shown} holds {samples[where]} at {where}; {rule}.")
