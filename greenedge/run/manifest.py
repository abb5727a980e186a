"""A run's folder: its manifest, its lock, and how a stage's folder comes to be whole or absent.

manifest.json says of every stage how it ended, what went in and came out by sha256, with which tools, in how many
seconds. It comes back from disk as untrusted data: every name in it must stay inside the run's folder.
"""

from __future__ import annotations

import errno
import fcntl
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
from greenedge.files.json_file import read_json
from greenedge.run.folder import MANIFEST, STAGE_FOLDERS, inside

FORMAT = "greenedge-run/1"
STATUSES = ("running", "done", "failed", "interrupted")
_MAX_BYTES = 16 << 20
_LEAST_FREE_BYTES = 1 << 20  # a failure with less space left than this is taken for a full disk


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
    except ValueError as error:
        raise GreenedgeError(_describe_damage(path, error)) from None
    if data.get("format") != FORMAT:
        raise GreenedgeError(
            f"{path}: format is {data.get('format')!r}, this greenedge reads {FORMAT!r}; use the greenedge "
            "that wrote it, or choose another folder with -o."
        )
    try:
        stages = {name: _read_record(folder, name, entry) for name, entry in data["stages"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GreenedgeError(_describe_damage(path, error)) from None
    return Manifest({key: value for key, value in data.items() if key not in ("format", "stages")}, stages)


def _describe_damage(path: Path, error: Exception) -> str:
    return f"{path} is damaged ({error}); delete it and run the same command again."


def _read_record(folder: Path, name: str, entry: dict[str, Any]) -> Record:
    unknown = set(entry) - {f.name for f in fields(Record)}
    if unknown:
        raise ValueError(f"stage {name!r} has unknown keys {sorted(unknown)}")
    record = Record(**entry)
    if record.status not in STATUSES:
        raise ValueError(f"stage {name!r} has status {record.status!r}")
    tables = {"inputs": record.inputs, "outputs": record.outputs, "tools": record.tools, "options": record.options}
    for part, table in tables.items():
        if not isinstance(table, dict):
            raise ValueError(f"{part} of stage {name!r} is no table")
    for part in ("key", "started", "note", "error", "reused_from"):
        value = getattr(record, part)
        if not isinstance(value, str) and not (value is None and part in ("error", "reused_from")):
            raise ValueError(f"{part} of stage {name!r} is {str(value)[:40]!r}, not text")
    seconds = record.seconds
    if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or seconds < 0):
        raise ValueError(f"seconds of stage {name!r} is {str(seconds)[:40]!r}, not a number")
    for part in ("inputs", "outputs", "tools"):
        wrong = next((key for key, value in tables[part].items() if not isinstance(value, str)), None)
        if wrong is not None:
            raise ValueError(f"{part} of stage {name!r} says {str(tables[part][wrong])[:40]!r} for {wrong!r}, not text")
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


def require_unchanged(run: Path, manifest: Manifest, *stages: str) -> None:
    """Raises VerificationError where the files of one of these stages are not exactly those that the run made."""
    for name in stages:
        record = manifest.stages.get(name)
        if record is None or record.status != "done" or not record.outputs:
            raise GreenedgeError(
                f"{run} has no finished {name} stage; run the same `greenedge run` or `greenedge build` again."
            )
        if changed := find_changed(run, record):
            raise VerificationError(
                f"{changed} is not the file that was made, its sha256 differs; run the same `greenedge run` or "
                "`greenedge build` again to make it anew."
            )
        there = (run / STAGE_FOLDERS[name]).rglob("*")
        for path in sorted(path for path in there if path.is_symlink() or not path.is_dir()):
            if path.relative_to(run).as_posix() not in record.outputs:
                raise VerificationError(f"{path} is no file that the run made; delete it.")


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a run's folder. The kernel lets go when a process ends, however it ends.

    Raises GreenedgeError naming the process that has it.
    """
    with os_errors_as_greenedge(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / ".lock", "a+")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            owner = handle.read(20).strip() or "unknown"
            raise GreenedgeError(
                f"{folder} is in use by process {owner}; wait for it, or choose another folder with -o."
            ) from None
        with os_errors_as_greenedge(folder):
            handle.truncate(0)
            handle.write(f"{os.getpid()}\n")
            handle.flush()
        yield


@contextmanager
def staging_dir(folder: Path, keep: bool = False) -> Iterator[Path]:
    """Yields `<folder>.part`, empty; on a clean exit it takes the place of `folder`.

    On an error it stays for inspection. With `keep` what an earlier attempt left is not emptied: the work goes on from
    it.
    """
    work = folder.with_name(folder.name + ".part")
    if not keep:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    yield work
    old = folder.with_name(folder.name + ".old.part")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(work, folder)
    shutil.rmtree(old, ignore_errors=True)


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
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or _full(folder):
            raise GreenedgeError(_full_disk(folder)) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise GreenedgeError(
                f"{error.filename or folder} could not be written: {str(error.strerror).lower()}; "
                "choose another folder with -o."
            ) from error
        raise
    except Exception as error:  # torch and onnx report a full disk as whatever their writer raised
        if _full(folder):
            raise GreenedgeError(_full_disk(folder)) from error
        raise


def _full_disk(folder: Path) -> str:
    return f"{folder} could not be written: the disk is full; free some space and run the same command again."


def _full(folder: Path) -> bool:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free < _LEAST_FREE_BYTES
