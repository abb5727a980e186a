"""What the package takes on a core: flash from the linker, instructions of every call and stack from an emulator.

An emulator counts instructions and knows no cycles: its figures are simulated. Tools that are missing leave out what
they would give.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greenedge.backends.c99.run import SOURCES, run_program
from greenedge.errors import ToolError

LEVEL = "-O2"
_COMPILE_S = 300
_EMULATE_S = 120


@dataclass(frozen=True)
class Core:
    """How to compile for a core and to run bare on it; script: the linker's, in the package."""

    title: str
    gcc: str
    flags: tuple[str, ...]
    script: str
    emulator: tuple[str, ...]


_M4 = ("qemu-system-arm", "-M", "mps2-an386", "-icount", "shift=6")
CORES = {
    "cortex_m4": Core("Cortex-M4", "arm-none-eabi-gcc", ("-mcpu=cortex-m4", "-mthumb"), "port/cortex-m.ld", _M4),
    "rv32imac": Core(
        "RV32IMAC",
        "riscv64-unknown-elf-gcc",
        ("-march=rv32imac", "-mabi=ilp32"),
        "port/riscv.ld",
        ("qemu-system-riscv32", "-M", "virt", "-bios", "none", "-icount", "shift=0"),
    ),
}


def measure_core(core: Core, folder: Path, calls: int, level: str = LEVEL) -> dict[str, Any]:
    """{"flash_bytes"} of the package in `folder`, and where the emulator is here {"stack_bytes", "instructions": one
    number for each call}; {} without the compiler.

    Raises ToolError where the core computes other integers than the integer graph.
    """
    sizer = core.gcc.removesuffix("gcc") + "size"
    if not (shutil.which(core.gcc) and shutil.which(sizer)):
        return {}
    compile_ = [core.gcc, *core.flags, level, "-std=c99", "-ffreestanding", "-ffunction-sections", "-fdata-sections"]
    out = folder / "core.elf"
    try:
        argv = [*compile_, "-nostdlib", "-Wl,--gc-sections,--entry=model_run", *SOURCES, "-lgcc", "-o", out.name]
        run_program(argv, folder, _COMPILE_S, f"linking for {core.title}")
        text, data = run_program([sizer, out.name], folder, _COMPILE_S, sizer).decode().splitlines()[1].split()[:2]
        found: dict[str, Any] = {"flash_bytes": int(text) + int(data)}
        if calls and shutil.which(core.emulator[0]):
            found |= _emulate(core, compile_, folder, calls, out.name)
    finally:
        out.unlink(missing_ok=True)
    return found


def _emulate(core: Core, compile_: list[str], folder: Path, calls: int, out: str) -> dict[str, Any]:
    """The counts; {} for a package that the emulated board has no memory for, or that takes too long there."""
    trace = ["-DMODEL_TRACE=count_call", f"-DCALLS={calls}"]
    bare = ["-nostdlib", "-Wl,--gc-sections", "-Lport", "-T", core.script]
    argv = [*compile_, *trace, *bare, *SOURCES, "port/count.c", "-lgcc", "-o", out]
    run = [*core.emulator, "-nographic", "-monitor", "none", "-serial", "none", "-chardev", "stdio,id=said"]
    run += ["-semihosting-config", "enable=on,target=native,chardev=said", "-kernel", out]
    try:
        run_program(argv, folder, _COMPILE_S, f"linking for {core.title}")
    except ToolError:  # the package has just been linked: what is missing is the emulated board's memory
        return {}
    try:
        said = run_program(run, folder, _EMULATE_S, f"the emulated {core.title}").decode(errors="replace")
    except ToolError as error:
        if "did not end within" in str(error):
            return {}
        raise
    if not re.fullmatch(rf"equal( \d+){{{calls + 1}}}\s*", said):
        raise ToolError(f"the package on the emulated {core.title} says: {said[:100]}.")
    stack, *instructions = (int(word) for word in said.split()[1:])
    return {"stack_bytes": stack, "instructions": instructions}
