"""The one place that runs external programs.

A back end writes a `Plan` (files, commands, products); `execute` carries it out. `find_tool` finds the programs that
the plan names.

A folder is complete or absent: `execute` works in `<folder>.part` and renames it to `folder` in its last step. A killed
tool, a full disk or Ctrl-C never leaves a half-written product under its final name; the logs stay in `<folder>.part`
until the same plan is run again, which starts from nothing. An existing folder is replaced only by a complete one.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import greenedge
from greenedge.errors import ToolError
from greenedge.files.atomic_write import sha256_file
from greenedge.files.cache import cache_folder
from greenedge.files.full_disk import describe_full_disk, find_full
from greenedge.files.json_file import read_json
from greenedge.files.remove import remove
from greenedge.files.scratch import scratch_folder
from greenedge.tools.capture import end_with_parent
from greenedge.tools.container import IMAGES, docker_argv, why_not
from greenedge.tools.discover import Tool, find_tool
from greenedge.tools.plan import Command, Plan

RECORD = "build.json"  # written by execute(): the plan's digest, the tools' versions, the seconds, products by sha256
_PROGRESS_S = 2.0  # shortest time between two reports of a tool's output
_GRACE_S = 2.0  # between SIGTERM and SIGKILL
_POLL_S = 0.05
# First a line with the word and a colon ("ERROR: …", "file:3: error: …", "%Error-X: …"), then one with the word, but
# not as part of an option.
_ERROR_LINES = (
    re.compile(r"(?<![-\w])%?(\w*error|fatal)(-\w+)?:", re.IGNORECASE),
    re.compile(r"(?<![-\w])(error|exception|fatal|aborted)\b", re.IGNORECASE),
)
_IMPORT_ROOT = Path(greenedge.__file__).resolve().parent.parent  # what PYTHONPATH needs to find this greenedge


def _no_line(line: str) -> None:
    """The call-back of a caller that shows no progress."""


def execute(plan: Plan, folder: Path, progress: Callable[[str], None] = _no_line, docker: bool = False) -> None:
    """Carries out `plan`; afterwards `folder` has its files, logs and products, and nothing else.

    `progress` receives one line at a time; with `docker`, programs that docker/ has an image of run in it. Raises
    ToolError, one sentence, for a tool that is missing, fails, exceeds its time limit or ends without its product, and
    for a full disk. No process outlives the call.
    """
    folder = Path(folder)
    work = folder.with_name(folder.name + ".part")
    with _disk_errors(folder):
        remove(work)
        work.mkdir(parents=True)
        for name, content in plan.files.items():
            path = _inside(work, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        tools: dict[str, str] = {}
        seconds: dict[str, float] = {}
        # Resolve every tool before running any: a missing tool must fail in the first second, not after synthesis.
        for command, tool in [(command, _resolve(command, work, docker)) for command in plan.commands]:
            started = time.monotonic()
            with _exit_on_sigterm():
                _run(command, tool, work, progress)
            if tool.name != "python":
                tools[tool.name] = str(tool)
            seconds[command.label] = round(time.monotonic() - started, 1)
        _check_products(plan, work)
        products = {name: sha256_file(work / name) for name in plan.products}
        record = {"plan": plan.digest(), "tools": tools, "seconds": seconds, "products": products}
        (work / RECORD).write_text(json.dumps(record, indent=1) + "\n")
        _replace(work, folder)


def execute_once(
    plan: Plan, kind: str, name: str, progress: Callable[[str], None] = _no_line
) -> tuple[Path, dict[str, Any], bool]:
    """Carries out `plan` in the user's cache, or finds it there as it was left: (folder, its record, whether it was
    there).

    `kind` and `name` are the folder's below the cache. Of two processes with one plan the later one waits. A product
    that is not the one that was made is made anew, for it is going to be run. Raises ToolError as `execute` does.
    """
    folder = cache_folder(kind) / name
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        record = _read_record(folder, plan)
        if kept := record is not None:
            return folder, record, kept
        with _place_without_spaces(folder) as place:
            execute(plan, place, progress)
            if place != folder:
                remove(folder)
                shutil.copytree(place, folder)
        record = _read_record(folder, plan)
        assert record is not None, "what was just made is whole"
        return folder, record, kept


@contextmanager
def _place_without_spaces(folder: Path) -> Iterator[Path]:
    """`folder`, or where its path holds white space, in which GNU make cannot build, a scratch folder elsewhere."""
    if not re.search(r"\s", str(folder)):
        yield folder
        return
    places = [place for place in (tempfile.gettempdir(), "/tmp", "/var/tmp") if not re.search(r"\s", place)]
    with _disk_errors(folder), scratch_folder("make", places[0]) as scratch:
        yield Path(scratch) / folder.name


def _read_record(folder: Path, plan: Plan) -> dict[str, Any] | None:
    """The record of a finished plan whose products are unchanged; None where it is not."""
    try:
        record = read_json(folder / RECORD)
        is_same = record["products"] == {name: sha256_file(folder / name) for name in plan.products}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if is_same else None


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Turns SIGTERM into SystemExit where its handler is the default.

    A Python step of a plan may execute a plan itself, whose programs have their own session: it must end them.
    """
    ours = threading.current_thread() is threading.main_thread()
    is_default = ours and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if is_default:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        if is_default:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Turns an OSError into a ToolError of one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ToolError(describe_full_disk(find_full(folder) or folder)) from None
        raise ToolError(
            f"{error.filename or folder} could not be written: {(error.strerror or str(error)).lower()}; "
            "choose another folder with -o."
        ) from None


def _inside(folder: Path, name: str) -> Path:
    """A path of a plan below `folder`. Raises ToolError for one that leaves it."""
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or not parts.parts:
        raise ToolError(
            f"a plan names the file {name!r}; it must be a relative path that stays inside the build folder."
        )
    return folder / parts


def _resolve(command: Command, work: Path, docker: bool) -> Tool:
    """The tool that `command` runs. Raises ToolError where it is missing."""
    program = command.argv[0]
    if docker and program in IMAGES:
        if shutil.which("docker") is None:
            raise ToolError("docker is not on PATH; install it, or leave --docker out.")
        return Tool(program, tuple(docker_argv(program, (), work / command.cwd)), IMAGES[program].tag, "docker")
    if program == "{python}":
        return Tool("python", (sys.executable,), "", "", {"PYTHONPATH": _search_path()})
    if program.startswith("{") and program.endswith("}"):
        return find_tool(program[1:-1])
    found = shutil.which(program)
    if found is None:
        raise ToolError(f"{program} is not on PATH; install it, then run the same command again.")
    return Tool(Path(program).name, (found,), "", "PATH")


def _search_path() -> str:
    """PYTHONPATH with which a child imports this greenedge from any working directory."""
    known = [str(Path(p).resolve()) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    return os.pathsep.join(dict.fromkeys([str(_IMPORT_ROOT), *known]))


def _run(command: Command, tool: Tool, work: Path, progress: Callable[[str], None]) -> None:
    """Runs one command with its log. Raises ToolError."""
    cwd = _inside(work, command.cwd) if command.cwd != "." else work
    log = _inside(work, command.log)
    cwd.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    progress(command.label)
    with open(log, "ab") as out:
        begin = out.tell()
        process = subprocess.Popen(
            [*tool.argv, *command.argv[1:]],
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **tool.env, **command.env},
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
        try:
            status = _watch(process, command, log, begin, progress)
        finally:
            _end_group(process)
    if status is None:
        raise ToolError(
            f"{command.label} did not end within {command.timeout_s:g} s and was stopped; the log is {log}."
        )
    if status != 0:
        wrong = why_not(tool.name, log.read_text(errors="replace")) if tool.source == "docker" else None
        raise ToolError(wrong or _failure(command, status, log, begin, work))


def _watch(
    process: subprocess.Popen[bytes], command: Command, log: Path, begin: int, progress: Callable[[str], None]
) -> int | None:
    """The exit status, or None after the time limit; reports the last line of the log."""
    started = reported = time.monotonic()
    last = ""
    while True:
        try:
            return process.wait(timeout=_POLL_S)
        except subprocess.TimeoutExpired:
            now = time.monotonic()
        if now - started > command.timeout_s:
            return None
        if now - reported >= _PROGRESS_S:
            reported = now
            line = _last_line(log, begin)
            if line and line != last:
                progress(f"{command.label}: {line}")
                last = line


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends the process group: SIGTERM, then SIGKILL."""
    for signal_number, wait_s in ((signal.SIGTERM, _GRACE_S), (signal.SIGKILL, _GRACE_S)):
        try:
            os.killpg(process.pid, signal_number)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline and _group_lives(process):
            time.sleep(_POLL_S)
    process.wait()


def _group_lives(process: subprocess.Popen[bytes]) -> bool:
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def _last_line(log: Path, begin: int) -> str:
    """The last line that is not blank, from byte `begin` on; "" for none."""
    with open(log, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(begin, size - 4096))
        lines = [_printable(line) for line in file.read().splitlines()]
    lines = [line for line in lines if line]
    return lines[-1] if lines else ""


def _printable(line: bytes | str, most: int = 160) -> str:
    """The line without control sequences, cut to `most` characters."""
    text = line.decode(errors="replace") if isinstance(line, bytes) else line
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
    return "".join(c for c in text if c.isprintable()).strip()[:most]


def _failure(command: Command, status: int, log: Path, begin: int, work: Path) -> str:
    """One sentence on a command that failed: the tool's first line with an error, and the log."""
    with open(log, "rb") as file:
        file.seek(begin)
        lines = [_printable(line, 400) for line in file.read().splitlines()]
    lines = [line for line in lines if line]
    text = "\n".join(lines)
    full = find_full(work)
    if full or "No space left on device" in text:
        return describe_full_disk(full or work)
    found = [line for pattern in _ERROR_LINES for line in lines if pattern.search(line)]
    said = (found or lines[-1:] or ["it printed nothing"])[0]
    # A Python step of a plan prints one complete sentence.
    if status == 1 and command.argv[0] == "{python}" and said.startswith("error: "):
        return f"{said.removeprefix('error: ').rstrip('.')}; the log is {log}."
    ended = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
    return f"{command.label} {ended}: {said.rstrip('.')}; the log is {log}."


def _check_products(plan: Plan, work: Path) -> None:
    """Raises ToolError for a product that is absent or empty."""
    for product in plan.products:
        path = _inside(work, product)
        if not path.is_file() or path.stat().st_size == 0:
            last = plan.commands[-1] if plan.commands else None
            where = f"; the log is {work / last.log}" if last else ""
            state = "left it empty" if path.is_file() else "did not make it"
            raise ToolError(
                f"{product} is missing: {last.label if last else 'the plan'} ended without an error but {state}{where}."
            )


def _replace(work: Path, folder: Path) -> None:
    """Renames `work` to `folder`; an existing one is removed only then."""
    old = folder.with_name(folder.name + ".old")
    remove(old)
    if folder.is_symlink() or folder.exists():
        os.rename(folder, old)
    os.rename(work, folder)
    remove(old)
