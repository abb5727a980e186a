"""An environment of its own for a tool that cannot share greenedge's: made on first use, pinned, whole or absent,
rebuilt when its pins change or it is damaged.

A virtual environment in the user's cache folder, named after the digest of the pins and the Python, filled with
`pip install --no-deps --require-hashes -r requirements.txt`. Before each use every file in it is compared with what was
installed, by one digest that lies beside it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from greenedge.errors import ToolError
from greenedge.files.atomic_write import atomic_write, sha256_file
from greenedge.files.cache import cache_folder
from greenedge.tools.capture import capture

_INSTALL_S = 1200
_PROBE_S = 120


@dataclass(frozen=True)
class Environment:
    """One environment: how it is called, the start of its folder's name, its pinned packages with their hashes, the
    program that runs in it (which answers --probe with ok), and roughly what is fetched for it."""

    label: str
    prefix: str
    pins: Path
    worker: Path
    megabytes: int


def environment_folder(own: Environment) -> Path:
    """Where the environment for these pins and this Python lies, whether it exists or not."""
    about = "\n".join([*pins(own), platform.python_version(), platform.machine(), sys.base_prefix])
    digest = hashlib.sha256(about.encode()).hexdigest()[:16]
    return cache_folder() / f"{own.prefix}-{digest}"


def pins(own: Environment) -> list[str]:
    """The pinned packages, one `name==version` each."""
    lines = (line.removesuffix("\\").strip() for line in own.pins.read_text().splitlines())
    return [line for line in lines if line and not line.startswith(("#", "--hash"))]


def own_python(own: Environment, progress: Callable[[str], None]) -> Path:
    """The Python of that environment; makes or mends its environment first. Raises ToolError when it cannot be had."""
    folder = environment_folder(own)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two processes the later one finds what the first has made
        if not _is_whole(folder):
            if folder.exists():
                progress(f"the {own.label} environment is damaged: making it anew")
                shutil.rmtree(folder, ignore_errors=True)
            _make(own, folder, progress)
    return folder / "bin" / "python"


def _is_whole(folder: Path) -> bool:
    """Whether the environment is, to the byte, what was installed."""
    try:
        return _digest_path(folder).read_text() == _digest_tree(folder)
    except OSError:
        return False


def _digest_path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.sha256")


def _digest_tree(folder: Path) -> str:
    """sha256 over names and content of all files below `folder`, and over where its links lead."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            digest.update(f"{path.relative_to(folder)}\0{os.readlink(path)}\0".encode())
        elif path.is_file():
            digest.update(f"{path.relative_to(folder)}\0{sha256_file(path)}\0".encode())
    return digest.hexdigest()


def _probe(python: Path, worker: Path) -> bool:
    """Whether everything the worker imports is there."""
    try:
        done = capture([str(python), "-I", "-B", str(worker), "--probe"], _PROBE_S)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and done.stdout.strip().endswith("ok")


def _make(own: Environment, folder: Path, progress: Callable[[str], None]) -> None:
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        progress(f"making the {own.label} environment (first use; {own.megabytes} MB to fetch)")
        _call(own, [sys.executable, "-m", "venv", str(aside)], "python -m venv")
        progress(f"installing {own.label} and {len(pins(own)) - 1} packages (half a minute)")
        _call(
            own,
            [
                str(aside / "bin" / "python"),
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-input",
                "--no-deps",
                "--require-hashes",
                "--retries",
                "2",
                "--disable-pip-version-check",
                "-r",
                str(own.pins),
            ],
            "pip",
        )
        if not _probe(aside / "bin" / "python", own.worker):
            raise ToolError(
                f"the {own.label} environment was installed but {own.label} cannot be imported by Python "
                f"{platform.python_version()}; use Python 3.11 to 3.13."
            )
        try:
            with atomic_write(_digest_path(folder)) as path:
                path.write_text(_digest_tree(aside))
            os.rename(aside, folder)
        except OSError:
            raise ToolError(
                f"{folder} could not be written; free some space or permit writing there, "
                "then run the same command again."
            ) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _call(own: Environment, argv: list[str], what: str) -> None:
    try:
        done = capture(argv, _INSTALL_S)
    except subprocess.TimeoutExpired:
        raise ToolError(
            f"{what} did not end within {_INSTALL_S} s while making the {own.label} environment; run the same command "
            "again."
        ) from None
    if done.returncode == 0:
        return
    said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    text = "\n".join(said)
    if "No space left on device" in text:
        raise ToolError(
            f"{environment_folder(own)} could not be written: the disk is full; free some space and run the "
            "same command again."
        )
    if any(
        word in text
        for word in (
            "NewConnectionError",
            "Could not find a version",
            "Temporary failure",
            "ConnectTimeout",
            "No matching distribution",
        )
    ):
        raise ToolError(
            f"the {own.label} environment needs a package index once, and none could be reached; connect, then run "
            "the same command again."
        )
    reason = next((line for line in said if "error" in line.lower()), said[-1] if said else "it printed nothing")
    raise ToolError(
        f"{what} ended with exit status {done.returncode} while making the {own.label} environment: "
        f"{reason.rstrip('.')}."
    )
