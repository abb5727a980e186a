"""A Keras model in a file, told by what is written there; nothing in it is executed, so a Lambda layer stays text.

.keras      a zip archive with config.json, the layers by the names of their classes
.h5         HDF5, with the same text in an attribute
SavedModel  a folder with saved_model.pb
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greenedge.errors import GreenedgeError

_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK\x03\x04"
_MOST_TEXT = 1 << 24  # bytes of a config.json that are read
_MOST_HDF5 = 1 << 28
_KNOWN = ("keras", "builtins", "hgq", "qkeras")  # modules whose classes a file may name
_DEEPEST = 60  # of layers within layers
_TO_INT8 = (
    "tf.lite.TFLiteConverter.from_keras_model with optimizations = [tf.lite.Optimize.DEFAULT], a "
    "representative_dataset and target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]"
)


@dataclass(frozen=True)
class KerasFile:
    """What a file says of itself: its kind in words, the packages whose layers it has, whether one is a Lambda, and the
    modules that it names outside Keras and HGQ2."""

    kind: str
    packages: frozenset[str]
    has_lambda: bool
    foreign: frozenset[str] = frozenset()


def read_keras(path: Path) -> KerasFile | None:
    """What a Keras file says of itself; None for any other file. Raises GreenedgeError for a damaged one."""
    if path.is_dir():
        is_saved = (path / "saved_model.pb").is_file()
        return KerasFile("a TensorFlow SavedModel", frozenset(), False) if is_saved else None
    try:
        with open(path, "rb") as file:
            mark = file.read(8)
    except OSError:  # whoever reads it says so
        return None
    if mark == _HDF5:
        return _read_hdf5(path)
    is_named = path.suffix.lower() == ".keras"
    if mark.startswith(_ZIP) and (text := _read_member(path, is_named)) is not None:
        return _describe("a Keras file", list(_list_classes(path, _parse(path, text))))
    if is_named:
        raise GreenedgeError(f"{path} is no Keras file (it is no archive with a config.json); save the model again.")
    return None


def _read_member(path: Path, is_named: bool) -> bytes | None:
    """config.json of an archive; None where it has none and is not called one of Keras."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("config.json") as member:
            text = member.read(_MOST_TEXT + 1)
    except KeyError:
        return None
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, NotImplementedError, ValueError) as error:
        if not is_named:
            return None
        raise GreenedgeError(f"{path} is damaged ({error}); save the model again.") from None
    if len(text) > _MOST_TEXT:
        raise GreenedgeError(f"{path} has a config.json of more than {_MOST_TEXT:,} bytes; save a smaller model.")
    return text


def _parse(path: Path, text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise GreenedgeError(f"{path} is damaged (its config.json is no JSON); save the model again.") from None


def _list_classes(path: Path, config: Any, depth: int = 0) -> Iterator[tuple[str, str]]:
    """(package, class) of every object in a config. Raises GreenedgeError for layers within layers without end."""
    if depth > _DEEPEST:
        raise GreenedgeError(f"{path} has objects {_DEEPEST} deep within each other; save a simpler model.")
    if isinstance(config, dict):
        name, module = config.get("class_name"), config.get("module")
        if isinstance(name, str) or module is not None:
            registered = str(config.get("registered_name") or "")
            if module is not None:
                yield str(module).partition(".")[0], str(name)
            if module is None or ">" in registered:
                yield registered.partition(">")[0].lower() or "keras", str(name)
        config = list(config.values())
    if isinstance(config, list):
        for one in config:
            yield from _list_classes(path, one, depth + 1)


def _describe(kind: str, classes: list[tuple[str, str]]) -> KerasFile:
    packages = frozenset(name for package, _ in classes for name in ("hgq", "qkeras") if package.startswith(name))
    foreign = frozenset(package for package, _ in classes if package not in _KNOWN)
    return KerasFile(kind, packages, any(name == "Lambda" for _, name in classes), foreign)


def _read_hdf5(path: Path) -> KerasFile | None:
    """By the text of its attributes; HDF5 that says nothing of Keras is none of it."""
    size = path.stat().st_size
    if size > _MOST_HDF5:
        raise GreenedgeError(f"{path} has {size:,} bytes; of an HDF5 file at most {_MOST_HDF5:,} are read.")
    content = path.read_bytes()
    if b"keras_version" not in content and b"model_config" not in content:
        return None
    layers = [("qkeras", name) for name in ("QDense", "QConv2D", "QActivation") if f'"{name}"'.encode() in content]
    layers = [("hgq", name) for _, name in layers] if b'"hgq' in content or b"hgq>" in content else layers
    layers += [("keras", "Lambda")] if b'"class_name": "Lambda"' in content else []
    return _describe("a Keras file in HDF5", layers)


def require_readable_keras(path: Path) -> None:
    """Raises GreenedgeError, with the way that it goes, for a Keras model that is not read: all but .keras files of
    HGQ2."""
    found = read_keras(path)
    if found is None:
        return
    if found.has_lambda:
        raise GreenedgeError(
            f"{path} is {found.kind} with a Lambda layer, which is code that a stranger wrote: nothing of it is run; "
            "put a layer of Keras in its place."
        )
    if "hgq" in found.packages and found.foreign:
        raise GreenedgeError(
            f"{path} is {found.kind} that names classes of {', '.join(sorted(found.foreign))[:120]}, of which none "
            "is imported; save a model of layers of HGQ2 and Keras alone."
        )
    if "hgq" in found.packages and "HDF5" in found.kind:
        raise GreenedgeError(f"{path} is {found.kind} of HGQ2; save it as a .keras file (model.save('m.keras')).")
    if "hgq" in found.packages:
        return
    if "qkeras" in found.packages:
        raise GreenedgeError(
            f"{path} is {found.kind} of QKeras, which is not read: train it with HGQ2 "
            "(hgq.layers, SAT quantisers), whose .keras files are read, or with Brevitas."
        )
    raise GreenedgeError(
        f"{path} is {found.kind} in floats: convert it to int8 ({_TO_INT8}), then `greenedge build MODEL.tflite`."
    )


def is_hgq2(path: Path) -> bool:
    """Whether a file is a Keras model of HGQ2. Raises GreenedgeError for another Keras model."""
    require_readable_keras(path)
    found = read_keras(path)
    return found is not None and "hgq" in found.packages
