"""The import stage, for a run that begins with an ONNX file: checks it and copies it into the run with test vectors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from greenedge.errors import GreenedgeError
from greenedge.files.arrays import read_array
from greenedge.files.atomic_write import sha256_file
from greenedge.files.scratch import scratch_folder
from greenedge.frontends.input_type import InputType, parse_input_type
from greenedge.frontends.post_training import read_float_model
from greenedge.frontends.quantise_float import QuantiseOptions, quantise_float
from greenedge.frontends.samples import ModelInput, Samples, count_samples, list_inputs, read_samples, write_samples
from greenedge.frontends.source import DEFAULT_ARITHMETIC, Source, parse_normal, read_normal
from greenedge.frontends.tflite.file import is_tflite
from greenedge.progress import ProgressFn, no_progress

MOST_CALIBRATED = 1000  # samples that a float model is quantised with
SAMPLES = 100  # drawn at random where no --inputs are given
_SEED = 1
_QUANTISERS = ("Quant", "IntQuant")


@dataclass(frozen=True)
class Calibration:
    """How a float model is quantised on its way into a run: the samples that it is calibrated on, and the options."""

    samples: Path
    options: QuantiseOptions = QuantiseOptions()


@dataclass(frozen=True)
class ModelFile:
    """An ONNX file, the samples to verify it with (drawn at random where `samples` is None), their labels, and what
    the model gives for them by `reference`: the network that it was exported from ("torch"), or a person's own word
    ("expected").

    With a `calibration` the file is a float model, which is quantised first; it is verified on the first samples of
    the calibration where no others are given. A .tflite is read in the `arithmetic` of one of LiteRT's kernel sets, its
    default's where none is given.
    `declared` gives integer types to inputs that have no quantiser, as text: {"input" or "": "uint8:1/255"}.
    """

    path: Path
    samples: Path | None = None
    labels: Path | None = None
    declared: Mapping[str, str] = field(default_factory=dict)
    expected: Path | None = None
    reference: str = "expected"
    arithmetic: str | None = None
    calibration: Calibration | None = None

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def title(self) -> str:
        return self.path.name

    @cached_property
    def is_tflite(self) -> bool:
        """Whether the file is a .tflite. Raises GreenedgeError for another one with an arithmetic."""
        found = self.path.is_file() and is_tflite(self.path)
        if self.arithmetic is not None and not found:
            raise GreenedgeError(
                f"{self.path} is no .tflite file, so it takes no --arithmetic: its own file says what it computes; "
                "leave it out."
            )
        return found

    @property
    def kernels(self) -> str:
        """The arithmetic that the file is read in, where that matters. Raises as `is_tflite`."""
        return self.arithmetic if self.is_tflite and self.arithmetic else DEFAULT_ARITHMETIC

    @cached_property
    def inputs(self) -> dict[str, str]:
        """sha256 of everything that enters the run, by role."""
        if not self.path.is_file():
            raise GreenedgeError(f"{self.path} does not exist; give the path of an ONNX file.")
        files = {"model": self.path, "inputs": self.samples, "labels": self.labels, self.reference: self.expected}
        digests = {role: sha256_file(_require_file(path)) for role, path in files.items() if path is not None}
        if not self.is_tflite:
            digests |= {f"data {path.name}": sha256_file(path) for path in _find_external_data(self.path)}
        digests |= {"arithmetic": self.kernels} if self.is_tflite else {}
        if self.calibration is not None:
            digests["calibration"] = sha256_file(_require_file(self.calibration.samples))
            digests["quantise"] = " ".join(map(str, astuple(self.calibration.options)))
        return digests | {f"declared {name}": text for name, text in self.declared.items()}

    def input_types(self) -> dict[str | None, InputType]:
        """`declared` for the lowering; None is the key of a type for every input."""
        return {name or None: parse_input_type(text) for name, text in self.declared.items()}


@contextmanager
def open_quantised(model: ModelFile, progress: ProgressFn = no_progress) -> Iterator[tuple[ModelFile, dict[str, Any]]]:
    """(the model as it enters a run, what quantising it did): the file itself, or while this is open the quantised
    model of a float one. Raises as `quantise_float`."""
    if model.calibration is None:
        yield model, {}
        return
    inputs = list_inputs(read_float_model(model.path), {})
    samples = read_samples(model.calibration.samples, inputs)
    with scratch_folder("quantised") as scratch:
        path = Path(scratch) / model.path.name
        first = {name: x[:MOST_CALIBRATED] for name, x in samples.items()}
        facts = quantise_float(model.path, first, path, model.calibration.options, progress)
        vectors = model.samples
        if vectors is None:
            write_samples({name: np.asarray(x[:SAMPLES], np.float32) for name, x in samples.items()}, Path(scratch))
            vectors = next(Path(scratch).glob("inputs.np?"))
        yield replace(model, path=path, samples=vectors, calibration=None), {"quantised": facts}


def import_stage(model: ModelFile, folder: Path, progress: ProgressFn = no_progress) -> str:
    """Writes what `_import_model` says; of a float model that is calibrated, the quantised one."""
    with open_quantised(model, progress) as (quantised, facts):
        return _import_model(quantised, folder, facts)


def _import_model(model: ModelFile, folder: Path, more: Mapping[str, Any]) -> str:
    """Writes model.onnx (one file, normal form), inputs.npy (inputs.npz where it has several), export.json and, where
    given, labels.npy and expected.npy (torch.npy of a network at hand). Returns a note.

    Raises GreenedgeError for a file that is missing, no ONNX, no array, or of another shape than the model's input.
    """
    normal = read_normal(model.path, model.kernels)
    source = parse_normal(normal, model.path.stem)
    if model.is_tflite:
        shutil.copyfile(model.path, folder / "model.tflite")
    (folder / "model.onnx").write_bytes(normal.proto.SerializeToString(deterministic=True))
    inputs = list_inputs(source, model.input_types())
    samples = load_samples(model, source)
    count = count_samples(samples)
    write_samples(samples, folder)
    if model.labels is not None:
        np.save(folder / "labels.npy", _read_labels(model.labels, count), allow_pickle=False)
    if model.expected is not None:
        np.save(folder / f"{model.reference}.npy", _read_expected(model.expected, source, count), allow_pickle=False)
    shapes = [{"name": name, "shape": list(shape)} for name, shape in source.inputs.items()]
    facts = {
        "nodes": len(source.nodes),
        "samples": count,
        "drawn": model.samples is None,
        **({"input": shapes[0]} if len(shapes) == 1 else {"inputs": shapes}),
        "opset": source.opset,
        **({"arithmetic": model.kernels} if model.is_tflite else {}),
        **more,
    }
    (folder / "export.json").write_text(json.dumps(facts, indent=1) + "\n")
    note = f"{count} samples{' drawn at random' if model.samples is None else ''}"
    return f"{len(source.nodes)} nodes, {note}{f' of {len(inputs)} inputs' if len(inputs) > 1 else ''}"


def load_samples(model: ModelFile, source: Source) -> Samples:
    """The samples that were given, or random ones. Raises GreenedgeError for samples that are none of the model's."""
    inputs = list_inputs(source, model.input_types())
    return _draw_samples(source, inputs) if model.samples is None else read_samples(model.samples, inputs)


def check_samples(model: ModelFile) -> None:
    """Reads the samples and labels that were given as the import would, and raises what it raises."""
    if model.samples is None and model.labels is None and model.expected is None:
        return
    source = parse_normal(read_normal(model.path, model.kernels), model.path.stem)
    inputs = list_inputs(source, model.input_types())
    count = SAMPLES if model.samples is None else count_samples(read_samples(model.samples, inputs))
    if model.labels is not None:
        _read_labels(model.labels, count)
    if model.expected is not None:
        _read_expected(model.expected, source, count)


def _require_file(path: Path) -> Path:
    if not path.is_file():
        raise GreenedgeError(f"there is no file {path}.")
    return path


def _read_labels(path: Path, count: int) -> np.ndarray:
    labels = read_array(path)
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise GreenedgeError(
            f"{path} has shape {labels.shape} of {labels.dtype}; labels are {count} whole numbers, one a sample."
        )
    return labels


def _read_expected(path: Path, source: Source, count: int) -> np.ndarray:
    """The outputs (N, …) that a model is to give for its samples."""
    expected = read_array(path)
    if len(source.outputs) != 1:
        raise GreenedgeError(
            f"{path} holds one array, and the model has the outputs {', '.join(source.outputs)}; leave --expected out, "
            "or cut the model to the one that matters."
        )
    if expected.ndim == 0 or len(expected) != count or expected.dtype.kind not in "fiub":
        raise GreenedgeError(
            f"{path} has shape {expected.shape} of {expected.dtype}; expected outputs are numbers, one row for each of "
            f"{count} samples."
        )
    if not np.isfinite(expected).all():
        raise GreenedgeError(f"{path} holds NaN or infinity; expected outputs are finite: leave that sample out.")
    return expected


def _draw_samples(source: Source, inputs: Sequence[ModelInput]) -> Samples:
    """Random samples for every input, of each independently of the others."""
    return {
        one.name: _draw(source, one, np.random.default_rng([_SEED, k] if k else _SEED)) for k, one in enumerate(inputs)
    }


def _draw(source: Source, one: ModelInput, rng: np.random.Generator) -> np.ndarray:
    """Random float32 (SAMPLES, *shape) that reach every level of the input's quantiser, and one level beyond."""
    shape = (SAMPLES, *(size or 1 for size in one.shape))
    if one.kind == InputType(-1, 1) and source.annotations.get(one.name) == "BIPOLAR":
        return rng.choice(np.array([-1, 1], np.float32), shape)
    if one.kind is not None:
        levels = rng.integers(one.kind.lo, one.kind.hi, shape, endpoint=True)
        return (levels * float(one.kind.scale)).astype(np.float32)
    for node in source.nodes:
        if (
            node.op in _QUANTISERS
            and node.inputs[0] == one.name
            and all(i in source.constants for i in node.inputs[1:4])
        ):
            scale, zero, bits = (source.constants[i].astype(np.float64) for i in node.inputs[1:4])
            levels = 2.0 ** float(bits.max())
            low = -levels / 2 if node.attrs.get("signed", 1) else 0.0
            return (rng.uniform((low - 1 - zero) * scale, (low + levels - zero) * scale, shape)).astype(np.float32)
    return rng.standard_normal(shape).astype(np.float32)


def _find_external_data(path: Path) -> list[Path]:
    """The data files beside an ONNX file to which it refers."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        proto = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError, ValueError):
        return []  # read_model reports what is wrong with it
    sparse = (part for tensor in proto.graph.sparse_initializer for part in (tensor.values, tensor.indices))
    constants = (attribute.t for node in proto.graph.node for attribute in node.attribute)
    tensors = (*proto.graph.initializer, *sparse, *constants)
    names = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
    return [path.parent / name for name in sorted(names) if (path.parent / name).is_file() and Path(name).name == name]
