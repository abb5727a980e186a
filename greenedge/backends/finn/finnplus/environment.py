"""FINN+'s own environment: made on first use, pinned, whole or absent, rebuilt when its pins change or it is damaged.

FINN+ cannot share an environment with current torch (its pins contradict), and of what it asks for our road needs a
tenth. So: a virtual environment in the user's cache folder, named after the digest of the pins and the Python, filled
with `pip install --no-deps --require-hashes -r requirements.txt`. Before each use every file in it is compared with
what was installed, by one digest that lies beside it.
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
from pathlib import Path

from greenedge.errors import ToolError
from greenedge.files.atomic_write import atomic_write, sha256_file
from greenedge.files.cache import cache_folder

PINS = Path(__file__).with_name("requirements.txt")
WORKER = Path(__file__).with_name("worker.py")
_INSTALL_S = 1200
_PROBE_S = 120


def environment_folder() -> Path:
    """Where the environment for these pins and this Python lies, whether it exists or not."""
    about = "\n".join([*pins(), platform.python_version(), platform.machine(), sys.base_prefix])
    digest = hashlib.sha256(about.encode()).hexdigest()[:16]
    return cache_folder() / f"finn-{digest}"


def pins() -> list[str]:
    """The pinned packages, one `name==version` each."""
    lines = (line.removesuffix("\\").strip() for line in PINS.read_text().splitlines())
    return [line for line in lines if line and not line.startswith(("#", "--hash"))]


def finn_version() -> str:
    """The version of FINN+ that is pinned."""
    return next(pin.partition("==")[2] for pin in pins() if pin.startswith("finn-plus=="))


def finn_python(progress: Callable[[str], None]) -> Path:
    """The Python that FINN+ runs in; makes or mends its environment first. Raises ToolError when it cannot be had."""
    folder = environment_folder()
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two processes the later one finds what the first has made
        if not _is_whole(folder):
            if folder.exists():
                progress("the FINN+ environment is damaged: making it anew")
                shutil.rmtree(folder, ignore_errors=True)
            _make(folder, progress)
    return folder / "bin" / "python"


def finn_packages(progress: Callable[[str], None]) -> Path:
    """The folder of FINN+'s installed packages; makes or mends the environment first. Raises as `finn_python`."""
    finn_python(progress)
    return next((environment_folder() / "lib").glob("python*/site-packages"))


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


def _probe(python: Path) -> bool:
    """Whether everything our road imports is there."""
    try:
        done = subprocess.run(
            [str(python), "-I", "-B", str(WORKER), "--probe"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and done.stdout.strip().endswith("ok")


def _make(folder: Path, progress: Callable[[str], None]) -> None:
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        progress("making the FINN+ environment (first use; 100 MB to fetch)")
        _call([sys.executable, "-m", "venv", str(aside)], "python -m venv")
        progress(f"installing FINN+ and {len(pins()) - 1} packages (half a minute)")
        _call(
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
                str(PINS),
            ],
            "pip",
        )
        if not _probe(aside / "bin" / "python"):
            raise ToolError(
                f"the FINN+ environment was installed but FINN+ cannot be imported by Python "
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


def _call(argv: list[str], what: str) -> None:
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_INSTALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ToolError(
            f"{what} did not end within {_INSTALL_S} s while making the FINN+ environment; run the same command again."
        ) from None
    if done.returncode == 0:
        return
    said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    text = "\n".join(said)
    if "No space left on device" in text:
        raise ToolError(
            f"{environment_folder()} could not be written: the disk is full; free some space and run the "
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
            "the FINN+ environment needs a package index once, and none could be reached; connect, then run "
            "the same command again."
        )
    reason = next((line for line in said if "error" in line.lower()), said[-1] if said else "it printed nothing")
    raise ToolError(
        f"{what} ended with exit status {done.returncode} while making the FINN+ environment: {reason.rstrip('.')}."
    )
