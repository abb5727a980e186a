"""FINN's own RTL of the matrix-vector core, taken from the installed package and mended so that open tools read it too.

Nothing of it is kept in greenedge. Each change looks for the text that it replaces and says so where it is not found,
so another finn-plus cannot be mended wrongly in silence. FINN's licence (BSD-3-Clause) travels with the copies.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from greenedge.errors import ToolError

FILES = (
    "mvu_pkg.sv",
    "add_multi.sv",
    "replay_buffer.sv",
    "mvu_vvu_8sx9_dsp58.sv",
    "mvu.sv",
    "mvu_vvu_axi.sv",
)  # packages first
VERSION = "1.6.1"
_MVU = Path("finn") / "finn-rtllib" / "mvu"
_MAX_BYTES = 1 << 20


def core_files(packages: Path) -> dict[str, bytes]:
    """{file: content} of FINN's core below `packages` (a site-packages folder), mended.

    Raises ToolError where a file is missing or is not as finn-plus 1.6.1 has it.
    """
    files = {}
    for name in FILES:
        path = packages / _MVU / name
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise ToolError(f"{path} has more than {_MAX_BYTES:,} bytes; finn-plus {VERSION} has it smaller.")
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ToolError(
                f"{path} cannot be read ({str(error.strerror).lower()}); greenedge wants finn-plus {VERSION}."
            ) from None
        for change in _CHANGES.get(name, ()):
            text = change(path, text)
        files[name] = text.encode()
    return files


def _cut(path: Path, text: str, begin: str, end: str) -> tuple[str, str, str]:
    """The text before `begin`, from there up to `end`, and from `end` on."""
    a = text.find(begin)
    b = text.find(end, a + len(begin)) if a >= 0 else -1
    if b < 0:
        raise ToolError(f"{path} is not as finn-plus {VERSION} has it ({begin.strip()!r} is not there).")
    return text[:a], text[a:b], text[b:]


def _hoist_constant_function(path: Path, text: str) -> str:
    """Verilator takes no constant function below a generate block: the function moves to the module."""
    before, function, after = _cut(path, text, "\t\t// Compute the count of decendents", "\t\t// Adder Tree")
    head, declaration, tail = _cut(path, before, "\tuwire [SUM_WIDTH-1:0]  sum0;", "\tif(L < 1) begin : genTrivial")
    return head + function + declaration + tail + after


def _drop_watchdog(path: Path, text: str) -> str:
    """A check of simulated time that synthesis cannot read and that says nothing about the behavioural core."""
    before, _, after = _cut(path, text, "\tif(1) begin : blkRecoveryWatch", "end : blkRecoveryWatch")
    return before + after.removeprefix("end : blkRecoveryWatch")


_CHANGES: dict[str, tuple[Callable[[Path, str], str], ...]] = {
    "add_multi.sv": (_hoist_constant_function,),
    "mvu.sv": (_drop_watchdog,),
    "mvu_vvu_8sx9_dsp58.sv": (_drop_watchdog,),
}
