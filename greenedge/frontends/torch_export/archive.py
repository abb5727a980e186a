"""An untrusted .pt2 archive of torch.export.save: its graph as JSON, its tensors as arrays. Nothing in it is executed.

    archive = read_archive(path)              # GreenedgeError: one sentence about a file that is none, or damaged
    archive.program                           # the JSON of the graph
    archive.weights.read("conv.weight")       # an array; Unread for one that is stored as a pickle

torch's own loader unpickles the sample inputs and every payload that says so, and evaluates the sizes, which are
Python; here both are only named. Members are stored, not compressed, so no file describes more than it holds.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from greenedge.errors import GreenedgeError
from greenedge.frontends.torch_export.records import Damage, read_field, read_size
from greenedge.graph.ops.base import Array

SUFFIX = ".pt2"
MAX_BYTES = 1 << 30
MAX_MEMBERS = 20_000
MAX_JSON = 1 << 27  # bytes of one JSON text
MAX_ELEMENTS = 1 << 27  # of one tensor
SAVE_AGAIN = "save it again with torch.export.save"
_EXPORT = "torch.export.save(torch.export.export(model.eval(), (sample,)), 'model.pt2')"
_ZIP, _HEADER, _PICKLE = b"PK\x03\x04", b"PK\x01\x02", b"\x80\x02"
_SAVED = (".pt", ".pth", ".ckpt")
_MAJOR = 8  # of the schema; torch raises it when a file means something else, and the minor number when it adds to one
_DAMAGE = (  # what zipfile, json and numpy raise
    *(OSError, EOFError, ValueError, KeyError, IndexError, TypeError, NotImplementedError, RuntimeError, MemoryError),
    *(OverflowError, RecursionError, zipfile.BadZipFile),
)
_TYPES = {  # torch's numbers of the types that are read: its name, and how it is stored
    1: ("BYTE", np.uint8),
    2: ("CHAR", np.int8),
    3: ("SHORT", np.int16),
    4: ("INT", np.int32),
    5: ("LONG", np.int64),
    6: ("HALF", np.float16),
    7: ("FLOAT", np.float32),
    8: ("DOUBLE", np.float64),
    12: ("BOOL", np.bool_),
    13: ("BFLOAT16", np.uint16),
    28: ("UINT16", np.uint16),
}
STORED: dict[str, type] = dict(_TYPES.values())
KINDS = {number: name for number, (name, _) in _TYPES.items()}


@dataclass(frozen=True)
class Unread:
    """A tensor that is not read, and why, in words."""

    reason: str


@dataclass(frozen=True)
class Payloads:
    """Tensors of a program by their names, in files of the archive."""

    folder: str
    config: Mapping[str, Any]
    members: Mapping[str, bytes]

    def read(self, name: str) -> Array | Unread:
        """The tensor; Unread for one that is stored as a pickle or in a type that is not read. Raises Damage."""
        meta = read_field(self.config, name, dict)
        file = read_field(meta, "path_name", str)
        if meta.get("use_pickle") or not isinstance(meta.get("tensor_meta"), dict):
            return Unread(f"tensor {name!r} is stored as a Python pickle, which is never executed")
        kind = read_field(meta["tensor_meta"], "dtype", int)
        if kind not in _TYPES:
            return Unread(f"tensor {name!r} has torch's type number {kind}")
        raw = self.members.get(f"{self.folder}{file}")
        if raw is None:
            raise Damage(f"tensor {name!r} lies in {file[:60]!r}, which the archive lacks")
        return _view(name, raw, meta["tensor_meta"], *_TYPES[kind])


@dataclass(frozen=True)
class Archive:
    """One program: its JSON and its tensors."""

    program: Mapping[str, Any]
    weights: Payloads
    constants: Payloads


def is_torch_file(path: Path) -> bool:
    """Whether a file is one of torch's, by its first bytes or its name; an .npz file, which is a zip archive as well,
    is none."""
    suffix = path.suffix.lower()
    if suffix in (SUFFIX, *_SAVED):
        return True
    try:
        with open(path, "rb") as file:
            return suffix != ".npz" and file.read(len(_ZIP)) == _ZIP
    except OSError:  # whoever reads it says so
        return False


def read_archive(path: Path) -> Archive:
    """The program in a .pt2 file. Raises GreenedgeError for a file that is none, damaged, too large, or of another
    age."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise GreenedgeError(f"{path} has {size:,} bytes; of a .pt2 file at most {MAX_BYTES:,} are read.")
        content = path.read_bytes()
    except OSError as error:
        raise GreenedgeError(f"{path} cannot be read: {str(error.strerror).lower()}; give another path.") from None
    if content[:2] == _PICKLE or (content[:4] != _ZIP and path.suffix.lower() in _SAVED):
        raise _refuse_pickle(path)
    try:
        return _read_members(path, _unzip(path, content))
    except Damage as damage:
        raise GreenedgeError(f"{path} is damaged ({damage}); {SAVE_AGAIN}.") from None
    except _DAMAGE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise GreenedgeError(f"{path} is damaged ({reason}); {SAVE_AGAIN}.") from None


def _refuse_pickle(path: Path) -> GreenedgeError:
    return GreenedgeError(
        f"{path} is a Python pickle or TorchScript of torch.save, which is code and is never executed; load it where "
        f"you trust it, and export the module: {_EXPORT}."
    )


def _unzip(path: Path, content: bytes) -> dict[str, bytes]:
    """The members of an archive by name, below its own folder. Raises Damage for one that no program of torch's
    writes, GreenedgeError for one of another kind."""
    if content[: len(_ZIP)] != _ZIP:
        raise Damage("it is no zip archive")
    if content.count(_HEADER) > MAX_MEMBERS:  # each takes one: counted before any is made
        raise Damage(f"it has more than {MAX_MEMBERS:,} members")
    members: dict[str, bytes] = {}
    read = 0
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        infos = archive.infolist()
        if not any(info.filename.endswith("archive_format") for info in infos):
            raise _name_other_archive(path, [info.filename for info in infos])
        for info in infos:
            if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
                raise Damage(f"member {info.filename[:60]!r} is compressed, which torch never does")
            parts = PurePosixPath(info.filename).parts
            if ".." in parts or info.filename.startswith("/") or "\\" in info.filename or "\0" in info.orig_filename:
                raise Damage(f"member {info.filename[:60]!r} leads out of the archive")
            if info.file_size > len(content) - read:  # what lies twice in the file is read once
                raise Damage("its members say that they are larger than the file")
            read += info.file_size
            name = "/".join(parts[1:] or parts)  # below the archive's own folder; older ones have none
            if name in members:
                raise Damage(f"member {name[:60]!r} is there twice")
            members[name] = archive.read(info)
    return members


def _read_members(path: Path, members: Mapping[str, bytes]) -> Archive:
    if members.get("archive_format") != b"pt2":
        raise _name_other_archive(path, list(members))
    models = [name for name in members if name.startswith("models/") and name.endswith(".json")]
    if not models and any(name.startswith("data/aotinductor/") for name in members):
        raise GreenedgeError(
            f"{path} is a compiled package of AOTInductor, machine code without its graph; save the program itself: "
            f"{_EXPORT}."
        )
    if len(models) != 1:
        raise GreenedgeError(f"{path} holds {len(models)} programs; a file with one is read: {_EXPORT}.")
    if members.get("byteorder", b"little").strip() != b"little":
        raise Damage("its numbers are big-endian")
    program = _parse_json(members, models[0])
    _require_schema(path, program)
    model = models[0].removeprefix("models/").removesuffix(".json")
    weights, constants = (_read_payloads(path, members, part, model) for part in ("weights", "constants"))
    return Archive(program, weights, constants)


def _name_other_archive(path: Path, names: list[str]) -> GreenedgeError:
    if any(name.endswith(".pkl") for name in names):
        return _refuse_pickle(path)
    if "serialized_exported_program.json" in names:
        return _refuse_old(path)
    return GreenedgeError(f"{path} is a zip archive without a torch.export program in it; {SAVE_AGAIN}.")


def _refuse_old(path: Path) -> GreenedgeError:
    return GreenedgeError(
        f"{path} was written by an older torch, which keeps weights as pickles, and those are never executed; load it "
        f"where you trust it, and {SAVE_AGAIN} of torch 2.13 or later."
    )


def _require_schema(path: Path, program: Mapping[str, Any]) -> None:
    version = read_field(program, "schema_version", dict)
    major = read_field(version, "major", int)
    if major != _MAJOR:
        raise GreenedgeError(
            f"{path} has version {major} of torch's schema; version {_MAJOR} is read (torch 2.13 and 2.14 write it): "
            f"{SAVE_AGAIN} of one of those."
        )


def _read_payloads(path: Path, members: Mapping[str, bytes], part: str, model: str) -> Payloads:
    """The tensors of one folder. Raises GreenedgeError where they are one pickle, as older ones are."""
    name = f"data/{part}/{model}_{part}_config.json"
    if name not in members and f"data/{part}/{model}.pt" in members:
        raise _refuse_old(path)
    return Payloads(f"data/{part}/", read_field(_parse_json(members, name), "config", dict), members)


def _parse_json(members: Mapping[str, bytes], name: str) -> Mapping[str, Any]:
    if name not in members:
        raise Damage(f"it lacks {name[:60]!r}")
    if len(members[name]) > MAX_JSON:
        raise Damage(f"{name[:60]!r} has {len(members[name]):,} bytes, of which at most {MAX_JSON:,} are read")
    parsed = json.loads(members[name])
    if not isinstance(parsed, dict):
        raise Damage(f"{name[:60]!r} is no JSON object")
    return parsed


def _view(name: str, raw: bytes, meta: Mapping[str, Any], kind: str, stored: type) -> Array:
    """The tensor as its sizes, strides and offset cut it from its bytes. Raises Damage for one that leaves them."""
    sizes, strides = ([read_size(one) for one in read_field(meta, part, list)] for part in ("sizes", "strides"))
    offset = read_size(read_field(meta, "storage_offset", dict))
    numbers = [*sizes, *strides, offset]
    if len(sizes) != len(strides) or len(sizes) > 8 or not all(isinstance(one, int) and one >= 0 for one in numbers):
        raise Damage(f"tensor {name!r} has sizes {sizes[:8]} and strides {strides[:8]}")
    shape = [one for one in sizes if isinstance(one, int)]
    steps = [one for one in strides if isinstance(one, int)]
    first = offset if isinstance(offset, int) else 0
    if math.prod(shape) > MAX_ELEMENTS:
        raise Damage(f"tensor {name!r} of shape {tuple(shape)} has more than {MAX_ELEMENTS:,} elements")
    width = np.dtype(stored).itemsize
    last = first + sum((size - 1) * step for size, step in zip(shape, steps, strict=True))
    if 0 in shape:
        return np.zeros(shape, stored)
    if (last + 1) * width > len(raw):
        raise Damage(f"tensor {name!r} needs {(last + 1) * width:,} bytes of a file of {len(raw):,}")
    flat = np.frombuffer(raw[: len(raw) // width * width], np.dtype(stored).newbyteorder("<"))
    view = np.lib.stride_tricks.as_strided(flat[first:], shape, [step * width for step in steps], writeable=False)
    array = np.ascontiguousarray(view)
    return (array.astype(np.uint32) << 16).view(np.float32) if kind == "BFLOAT16" else array
