"""What a network costs on a microcontroller: instructions of every layer, bytes of flash and RAM.

    PYTHONPATH=. python benchmarks/mcu_kernels.py [--level=-O2] [--layers] [--only DS-CNN]

The C99 packages of MLPerf Tiny's four networks (random weights, the published shapes) are compiled for a Cortex-M4
with its DSP instructions, the same in plain C (GE_PLAIN), and RV32IMAC, and run in qemu, which counts instructions
and knows no cycles: SIMULATED, not measured. Every output integer of the golden samples is compared; a difference
ends with status 1.
`general` is the same network with the fast kernels left out. What is missing is said and left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from mlperf_tiny import autoencoder, ds_cnn, mobilenet, resnet8

from greenedge.backends import c99
from greenedge.backends.c99.emit import package_files
from greenedge.backends.c99.memory_plan import Program, plan_memory
from greenedge.backends.c99.run import SOURCES
from greenedge.graph import Graph
from greenedge.legalise import legalise_graph
from greenedge.lower import lower_file

PORT = Path(c99.__file__).with_name("package") / "port"
MAIN = Path(__file__).with_name("mcu_kernels.c")
LIMIT_S = 900
NETWORKS = {
    "DS-CNN": lambda path: ds_cnn(path),
    "DS-CNN w4a4": lambda path: ds_cnn(path, 4, 4),
    "ResNet-8": lambda path: resnet8(path),
    "autoencoder": lambda path: autoencoder(path, 8, 8),
    "MobileNetV1-0.25": lambda path: mobilenet(path),
}


@dataclasses.dataclass(frozen=True)
class Core:
    """How to compile and to run; `per_tick` instructions pass in a tick of the timer that the program reads."""

    gcc: str
    emulator: str
    flags: tuple[str, ...]
    script: str
    machine: tuple[str, ...]


_M4 = ("-M", "mps2-an386", "-icount", "shift=6")
CORES = {
    "Cortex-M4 DSP": Core("arm-none-eabi-gcc", "qemu-system-arm", ("-mcpu=cortex-m4", "-mthumb"), "cortex-m.ld", _M4),
    "Cortex-M4 plain": Core(
        "arm-none-eabi-gcc", "qemu-system-arm", ("-mcpu=cortex-m4", "-mthumb", "-DGE_PLAIN"), "cortex-m.ld", _M4
    ),
    "RV32IMAC": Core(
        "riscv64-unknown-elf-gcc",
        "qemu-system-riscv32",
        ("-march=rv32imac", "-mabi=ilp32"),
        "riscv.ld",
        ("-M", "virt", "-bios", "none", "-icount", "shift=0"),
    ),
}


def general_only(program: Program) -> Program:
    """The program with general kernels alone, which need no scratch."""
    calls = tuple(dataclasses.replace(call, fast=None) for call in program.calls)
    return dataclasses.replace(program, calls=calls)


def build(core: Core, level: str, folder: Path, calls: int) -> tuple[Path, int]:
    """The program, and the bytes of flash that kernels and model take when unused functions are left out."""
    flags = [core.gcc, *core.flags, level, "-std=gnu99", "-ffreestanding", "-ffunction-sections"]
    flags += [f"-DCALLS={calls}", "-DMODEL_TRACE=count_call", "-I", str(folder), "-w"]
    link = ["-nostdlib", "-Wl,--gc-sections", "-L", str(PORT), "-T", str(PORT / core.script)]
    sources = [*(str(folder / name) for name in SOURCES), str(MAIN)]
    out = folder / "run.elf"
    subprocess.run([*flags, *link, *sources, "-lgcc", "-o", str(out)], cwd=folder, check=True)
    sizer = core.gcc.replace("gcc", "nm")
    said = subprocess.run([sizer, "-S", str(out)], check=True, capture_output=True, text=True).stdout
    rows = [line.split() for line in said.splitlines()]
    flash = sum(
        int(row[1], 16)
        for row in rows
        if len(row) == 4 and row[2] in "tTrR" and not row[3].startswith(("golden", "main_"))
    )
    return out, flash


def run(core: Core, program: Path) -> tuple[bool, list[int]]:
    """(whether every integer is equal, instructions of every call)."""
    argv = [core.emulator, *core.machine, "-nographic", "-semihosting-config", "enable=on,target=native"]
    done = subprocess.run(
        [*argv, "-kernel", str(program)], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S
    )
    words = (done.stdout + done.stderr).split()
    return words[0] == "equal", [int(word) for word in words[1:]]


def lower(make, folder: Path) -> Graph:
    make(folder / "source.onnx")
    return legalise_graph(lower_file(folder / "source.onnx").graph, c99.BACKEND.passes)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--level", action="append")
    parser.add_argument("--only", action="append", choices=NETWORKS)
    parser.add_argument("--core", action="append", choices=CORES)
    parser.add_argument("--layers", action="store_true", help="also the instructions of every call")
    parser.add_argument("--general", action="store_true", help="also with general kernels alone")
    given, wrong = parser.parse_args(), 0
    print("network           core             -O   kernels  million instructions  flash bytes  RAM bytes  integers")
    for name in given.only or NETWORKS:
        with tempfile.TemporaryDirectory() as scratch:
            program = plan_memory(lower(NETWORKS[name], Path(scratch)))
            kinds = {"fast": program} | ({"general": general_only(program)} if given.general else {})
            for kind, planned in kinds.items():
                for file, content in package_files(planned).items():
                    (Path(scratch) / file).parent.mkdir(exist_ok=True)
                    (Path(scratch) / file).write_bytes(content)
                for core_name in given.core or CORES:
                    core = CORES[core_name]
                    if not (shutil.which(core.gcc) and shutil.which(core.emulator)):
                        print(f"{name:17s} {core_name:16s} not run: {core.gcc} or {core.emulator} missing")
                        continue
                    for level in given.level or ("-O2", "-Os"):
                        elf, flash = build(core, level, Path(scratch), len(planned.calls))
                        equal, counts = run(core, elf)
                        wrong += not equal
                        print(
                            f"{name:17s} {core_name:16s} {level:4s} {kind:8s} {sum(counts) / 1e6:20.3f}  {flash:11,}  "
                            f"{planned.arena_bytes:9,}  {'equal' if equal else 'DIFFER'}",
                            flush=True,
                        )
                        for call, count in zip(planned.calls, counts, strict=True) if given.layers else ():
                            form = call.fast.kernel if call.fast else "general"
                            print(f"    {type(call.op).__name__:12s} {form:10s} {call.op.name:24s} {count:12,}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
