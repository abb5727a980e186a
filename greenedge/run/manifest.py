"""A run's folder: its manifest, its lock, and how a stage's folder comes to be whole or absent.

manifest.json says of every stage how it ended, what went in and came out by sha256, with which tools, in how many
seconds. It comes back from disk as untrusted data: every name in it must stay inside the run's folder.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

from greenedge.errors import GreenedgeError, VerificationError
from greenedge.files.atomic_write import atomic_write, sha256_file
from greenedge.files.full_disk import describe_full_disk, find_full
from greenedge.files.json_file import read_json
from greenedge.files.locks import open_lock, try_lock
from greenedge.files.remove import remove
from greenedge.run.folder import MANIFEST, STAGE_FOLDERS, inside

FORMAT = "greenedge-run/1"
STATUSES = ("running", "done", "failed", "interrupted")
_MAX_BYTES = 16 << 20
_MAX_FILES = 10_000  # of one stage; the largest builds leave a few hundred


@dataclass(frozen=True)
class Record:
    """What the manifest says about one stage. `key` digests inputs, options and tools; paths are relative to the
    run."""

    status: str
    key: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    started: str = ""
    seconds: float | None = None
    note: str = ""
    error: str | None = None
    reused_from: str | None = None


@dataclass(frozen=True)
class Manifest:
    """What a run is about (source, target, backend, options) and a record per stage, in order."""

    about: Mapping[str, Any]
    stages: Mapping[str, Record] = field(default_factory=dict)

    def with_stage(self, name: str, record: Record) -> Manifest:
        """This manifest with that stage's record put in or replaced."""
        return replace(self, stages={**self.stages, name: record})


def save_manifest(manifest: Manifest, folder: Path) -> None:
    """Writes manifest.json, whole or not at all."""
    data = {"format": FORMAT, **manifest.about, "stages": {name: asdict(r) for name, r in manifest.stages.items()}}
    with atomic_write(folder / MANIFEST) as path:
        path.write_text(json.dumps(data, indent=1) + "\n")


def load_manifest(folder: Path) -> Manifest:
    """The manifest of a run. Raises GreenedgeError: no run there, damaged, another format, a path that leaves the
    run."""
    path = folder / MANIFEST
    if not path.is_file():
        raise GreenedgeError(
            f"{folder} is no run: it has no {MANIFEST}; `greenedge run` and `greenedge build` make one."
        )
    try:
        data = read_json(path, _MAX_BYTES)
        if not isinstance(data, dict):
            raise ValueError("it is no table")
        _check_about(data)
    except (ValueError, RecursionError) as error:
        raise GreenedgeError(_describe_damage(path, error)) from None
    if data.get("format") != FORMAT:
        raise GreenedgeError(
            f"{path}: format is {_shorten(data.get('format'))}, this greenedge reads {FORMAT!r}; use the greenedge "
            "that wrote it, or choose another folder with -o."
        )
    try:
        if len(data["stages"]) > len(STAGE_FOLDERS):
            raise ValueError(f"it has {len(data['stages']):,} stages, there are {len(STAGE_FOLDERS)}")
        stages = {name: _read_record(folder, name, entry) for name, entry in data["stages"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GreenedgeError(_describe_damage(path, error)) from None
    return Manifest({key: value for key, value in data.items() if key not in ("format", "stages")}, stages)


_ABOUT = {"source": dict, "target": dict, "backend": str, "options": dict, "backend_reason": str, "evidence": dict}


def _check_about(data: Mapping[str, Any]) -> None:
    """Raises ValueError for what a run is about in another form."""
    for key, kind in _ABOUT.items():
        if not isinstance(data.get(key), (kind, type(None))):
            raise ValueError(f"{key} is {_shorten(data[key])}, a {'table' if kind is dict else 'text'} is needed")
    for key in ("source", "target"):
        for name in ("name", "title"):
            if not isinstance((data.get(key) or {}).get(name, ""), str):
                raise ValueError(f"{key}.{name} is {_shorten(data[key][name])}, a text is needed")


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _describe_damage(path: Path, error: Exception) -> str:
    return f"{path} is damaged ({error}); delete it and run the same command again."


def _read_record(folder: Path, name: str, entry: dict[str, Any]) -> Record:
    unknown = set(entry) - {f.name for f in fields(Record)}
    if unknown:
        raise ValueError(f"stage {_shorten(name)} has unknown keys {_shorten(sorted(unknown))}")
    record = Record(**entry)
    if record.status not in STATUSES:
        raise ValueError(f"stage {_shorten(name)} has status {_shorten(record.status)}")
    if record.seconds is not None and (type(record.seconds) not in (int, float) or not 0 <= record.seconds < 1e12):
        raise ValueError(f"seconds of stage {_shorten(name)} are {_shorten(record.seconds)}")
    texts = {"key": record.key, "started": record.started, "note": record.note}
    optional = {"error": record.error, "reused_from": record.reused_from}
    for part, text in (texts | {key: value for key, value in optional.items() if value is not None}).items():
        if not isinstance(text, str):
            raise ValueError(f"{part} of stage {name!r} is {_shorten(text)}, a text is needed")
    tables = {"inputs": record.inputs, "outputs": record.outputs, "tools": record.tools, "options": record.options}
    for part, table in tables.items():
        if not isinstance(table, dict):
            raise ValueError(f"{part} of stage {name!r} is no table")
        if part != "options" and not all(isinstance(value, str) for value in table.values()):
            raise ValueError(f"{part} of stage {name!r} holds what is no text")
    if len(record.outputs) > _MAX_FILES:
        raise ValueError(f"stage {name!r} names {len(record.outputs):,} files, at most {_MAX_FILES:,} are read")
    for path in record.outputs:
        inside(folder, path)
    return record


def digest_of(value: object) -> str:
    """sha256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def digest_files(folder: Path, below: str) -> dict[str, str]:
    """{path relative to `folder`: sha256} of every file under folder/below."""
    paths = sorted(path for path in (folder / below).rglob("*") if path.is_file() and not path.is_symlink())
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in paths}


def outputs_match(folder: Path, outputs: Mapping[str, str]) -> bool:
    """Whether every one of these files is there and hashes the same."""
    return bool(outputs) and all(
        (folder / path).is_file() and sha256_file(folder / path) == digest for path, digest in outputs.items()
    )


def find_changed(folder: Path, record: Record) -> Path | None:
    """The first of a stage's files that is gone or hashes otherwise than its record says; None where all are as they
    were."""
    changed = (path for path, digest in record.outputs.items() if not outputs_match(folder, {path: digest}))
    return next((folder / path for path in changed), None)


def find_strange(run: Path, name: str, record: Record) -> str | None:
    """Why the files of a stage are not exactly those that the run made, in one sentence; None where they are.

    A file is changed, gone or added, or is a link.
    """
    if misplaced := find_misplaced(run, name, record):
        return misplaced
    changed = find_changed(run, record)
    return _describe_changed(changed) if changed else None


def find_misplaced(run: Path, name: str, record: Record) -> str | None:
    """As `find_strange`, but for the content of the files."""
    for path in map(run.joinpath, record.outputs):
        if not path.is_file():
            return _describe_changed(path)
    for path in sorted((run / STAGE_FOLDERS[name]).rglob("*")):
        if path.is_symlink() or not (path.is_dir() or path.relative_to(run).as_posix() in record.outputs):
            return f"{path} is no file that the run made; delete it."
    return None


def _describe_changed(path: Path) -> str:
    what = "is not the file that was made, its sha256 differs" if path.is_file() else "is gone"
    return f"{path} {what}; run the same `greenedge run` or `greenedge build` again to make it anew."


def find_stale(manifest: Manifest, name: str) -> str | None:
    """The first file from which a stage was made and that the run has made otherwise since; None where there is
    none."""
    made = {path: digest for record in manifest.stages.values() for path, digest in record.outputs.items()}
    used = manifest.stages[name].inputs
    return next((path for path, digest in used.items() if path in made and made[path] != digest), None)


def find_fault(run: Path, manifest: Manifest, name: str) -> str | None:
    """Why a finished stage is not what the run made, or not of what lies there now, in one sentence; None where it
    is."""
    if wrong := find_strange(run, name, manifest.stages[name]):
        return wrong
    if stale := find_stale(manifest, name):
        return (
            f"{run / STAGE_FOLDERS[name]} was made from another {stale} than the one there now; run the same "
            "`greenedge run` or `greenedge build` again to make it anew."
        )
    return None


def require_whole(run: Path, manifest: Manifest, *stages: str) -> None:
    """Raises GreenedgeError where one of these stages is not finished, VerificationError where a file of it is gone,
    added or a link."""
    for name in stages:
        record = manifest.stages.get(name)
        if record is None or record.status != "done" or not record.outputs:
            raise GreenedgeError(
                f"{run} has no finished {name} stage; run the same `greenedge run` or `greenedge build` again."
            )
        if misplaced := find_misplaced(run, name, record):
            raise VerificationError(misplaced)


def require_unchanged(run: Path, manifest: Manifest, *stages: str) -> None:
    """As `require_whole`, and raises VerificationError where a file is not the one that the run made, or a stage was
    made from others than lie there now."""
    require_whole(run, manifest, *stages)
    for name in stages:
        if fault := find_fault(run, manifest, name):
            raise VerificationError(fault)


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a run's folder. The kernel lets go when a process ends, however it ends.

    Raises GreenedgeError naming the process that has it.
    """
    with os_errors_as_greenedge(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = open_lock(folder / ".lock")
    with handle:
        if not try_lock(handle):
            handle.seek(0)
            owner = handle.read(20).strip() or "unknown"
            raise GreenedgeError(
                f"{folder} is in use by process {owner}; wait for it, or choose another folder with -o."
            )
        with os_errors_as_greenedge(folder):
            handle.truncate(0)
            handle.write(f"{os.getpid()}\n")
            handle.flush()
        for left in folder.glob(".*.part"):  # by a process that was killed while it wrote
            remove(left)
        yield


@contextmanager
def staging_dir(folder: Path, keep: bool = False) -> Iterator[Path]:
    """Yields `<folder>.part`, empty; on a clean exit it takes the place of `folder`.

    On an error it stays for inspection. With `keep` what an earlier attempt left is not emptied: the work goes on from
    it.
    """
    work = folder.with_name(folder.name + ".part")
    if not keep or work.is_symlink() or any(path.is_symlink() for path in work.rglob("*")):
        remove(work)
    work.mkdir(parents=True, exist_ok=True)
    yield work
    old = folder.with_name(folder.name + ".old.part")
    remove(old)
    if folder.is_symlink() or folder.exists():
        os.replace(folder, old)
    os.replace(work, folder)
    remove(old)


def copy_stage(source: Path, outputs: Iterable[str], folder: Path) -> None:
    """Copies a stage's files from another run to the same places in `folder`; the stage's folder is whole or absent."""
    names = [PurePosixPath(name) for name in outputs]
    with os_errors_as_greenedge(folder), staging_dir(folder / names[0].parts[0]) as work:
        for name in names:
            target = work.joinpath(*name.parts[1:])
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target)


@contextmanager
def os_errors_as_greenedge(folder: Path) -> Iterator[None]:
    """Turns a full disk or a missing permission into one GreenedgeError, also where a library hides the cause."""
    try:
        yield
    except GreenedgeError:
        raise
    except OSError as error:
        full = find_full(folder)
        if full or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise GreenedgeError(describe_full_disk(full or folder)) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise GreenedgeError(
                f"{error.filename or folder} could not be written: {str(error.strerror).lower()}; "
                "choose another folder with -o."
            ) from error
        raise
    except Exception as error:  # torch and onnx report a full disk as whatever their writer raised
        if full := find_full(folder):
            raise GreenedgeError(describe_full_disk(full)) from error
        raise
