"""Compiles and runs the package's own self-test, and has cross compilers on PATH measure the size of the code.

python -m greenedge.backends.c99.selftest       in the build folder; writes selftest.json
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

from greenedge.backends.c99.run import SOURCES, compile_selftest, run_program
from greenedge.errors import GreenedgeError, VerificationError
from greenedge.files.atomic_write import atomic_write

_CROSS = {
    "cortex-m4": ("arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb"),
    "rv32imac": ("riscv64-unknown-elf-gcc", "-march=rv32imac", "-mabi=ilp32"),
}
_ASK_S = 300


def main() -> int:
    """Runs the self-test of the package in the working directory; exit status 1 where it fails."""
    here = Path(".").absolute()
    try:
        compile_selftest(here, here / "selftest")
        said = run_program([str(here / "selftest")], here, _ASK_S, "the self-test of the C package").decode().strip()
        (here / "selftest").unlink()
        if not re.fullmatch(r"[1-9]\d* output integers, 0 differ, hash ([0-9a-f]{8}), expected \1", said):
            raise VerificationError(f"the self-test of the C package says: {said[:100]}.")
        record = {"said": said, "sizes": {name: size for name, argv in _CROSS.items() if (size := _size(here, argv))}}
        with atomic_write(here / "selftest.json") as path:
            path.write_text(json.dumps(record, indent=1) + "\n")
    except GreenedgeError as error:
        print(f"error: {error}")
        return 1
    print(said)
    return 0


def _size(folder: Path, argv: tuple[str, ...]) -> dict[str, int] | None:
    """{"flash_bytes", "ram_bytes"} of kernels and model compiled with -Os for a core, where its compiler is here."""
    sizer = argv[0].removesuffix("gcc") + "size"
    if not (shutil.which(argv[0]) and shutil.which(sizer)):
        return None
    totals = [0, 0]
    for source in SOURCES:
        run_program(
            [*argv, "-Os", "-std=c99", "-ffreestanding", "-c", source, "-o", "size.o"],
            folder,
            _ASK_S,
            f"compiling for {argv[1]}",
        )
        text, data, bss = run_program([sizer, "size.o"], folder, _ASK_S, sizer).decode().splitlines()[1].split()[:3]
        totals = [totals[0] + int(text) + int(data), totals[1] + int(data) + int(bss)]
    (folder / "size.o").unlink()
    return {"flash_bytes": totals[0], "ram_bytes": totals[1]}


if __name__ == "__main__":
    sys.exit(main())
