"""What a decoder costs on a microcontroller: instructions per token, bytes of flash and RAM.

    PYTHONPATH=. python benchmarks/decoder_mcu.py MODEL.npz [--tokens 64]

The C99 package is compiled for Cortex-M4, Cortex-M7 and RV32IMAC and run in qemu, which counts instructions and knows
no cycles: COUNTED, not measured; a core with caches or flash wait states takes more cycles than instructions. Every
token is compared with the numpy execution. Needs arm-none-eabi-gcc with qemu-system-arm, riscv64-unknown-elf-gcc with
qemu-system-riscv32; what is missing is said and left out.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from greenedge.backends import c99
from greenedge.decoder.c99 import write_package
from greenedge.decoder.execute import StepDecoder
from greenedge.decoder.record import Decoder
from greenedge.decoder.sampling import choose
from greenedge.decoder.store import load_decoder

PORT = Path(c99.__file__).with_name("package") / "port"
LIMIT_S = 600


@dataclass(frozen=True)
class Core:
    """How to compile and to run for a core; `flags` are the compiler's, `machine` the emulator's."""

    tools: tuple[str, str]
    flags: tuple[str, ...]
    script: str
    machine: tuple[str, ...]

    @property
    def missing(self) -> list[str]:
        return [tool for tool in self.tools if not shutil.which(tool)]


ARM = ("arm-none-eabi-gcc", "qemu-system-arm")
CORES = {
    "Cortex-M4": Core(ARM, ("-mcpu=cortex-m4", "-mthumb"), "cortex-m.ld", ("-M", "mps2-an386", "-icount", "shift=6")),
    "Cortex-M7": Core(ARM, ("-mcpu=cortex-m7", "-mthumb"), "cortex-m.ld", ("-M", "mps2-an500", "-icount", "shift=6")),
    "RV32IMAC": Core(
        ("riscv64-unknown-elf-gcc", "qemu-system-riscv32"),
        ("-march=rv32imac", "-mabi=ilp32"),
        "riscv.ld",
        ("-M", "virt", "-bios", "none", "-icount", "shift=0"),
    ),
}


def build(core: Core, level: str, folder: Path, tokens: int) -> tuple[Path, dict[str, int]]:
    """The program, and {"flash", "ram"} in bytes of the package alone."""
    argv = [core.tools[0], *core.flags, level, "-std=gnu99", "-ffreestanding", "-fbuiltin"]
    subprocess.run([*argv, "-c", "model.c", "-o", "model.o"], cwd=folder, check=True)
    size = [core.tools[0].replace("gcc", "size"), "model.o"]
    said = subprocess.run(size, cwd=folder, check=True, capture_output=True, text=True).stdout
    text, data, bss = map(int, said.splitlines()[1].split()[:3])
    link = ["-nostdlib", "-nostartfiles", f"-DTOKENS={tokens}", "-L", str(PORT), "-T", str(PORT / core.script)]
    main = Path(__file__).with_name("decoder_mcu.c")
    command = [*argv, "-I", str(folder), *link, str(main), "model.o", "-lgcc", "-o", "run.elf"]
    subprocess.run(command, cwd=folder, check=True)
    return folder / "run.elf", {"flash": text + data, "ram": data + bss}


def run(core: Core, program: Path) -> tuple[int, int, int, int]:
    """(hash of the tokens, instructions of the first token, of all, bytes of state and logits)."""
    argv = [core.tools[1], *core.machine, "-nographic", "-semihosting-config", "enable=on,target=native"]
    done = subprocess.run(
        [*argv, "-kernel", str(program)], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S
    )
    digest, first, total, ram = map(int, (done.stdout + done.stderr).split())
    return digest, first, total, ram


def find_hash(decoder: Decoder, tokens: int) -> int:
    """What the same tokens of the numpy execution give."""
    machine, token, digest = StepDecoder(decoder), 1, 0
    for _ in range(tokens):
        token = choose(decoder, machine.step(token), 0, 0)
        digest = (digest * 31 + token) & 0xFFFFFFFF
    return digest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    decoder = load_decoder(options.model)
    tokens = min(options.tokens, decoder.context)
    expected, wrong = find_hash(decoder, tokens), 0
    print(f"{options.model}: {decoder.parameters:,} weights of {decoder.weight_bits} bits, context {decoder.context}")
    print(f"core       -O    instructions a token: mean of {tokens}   the first  flash bytes  RAM bytes  tokens")
    for name, core in CORES.items():
        if core.missing:
            print(f"{name:10s} not run: {' and '.join(core.missing)} missing")
            continue
        for level in ("-Os", "-O2", "-O3"):
            with tempfile.TemporaryDirectory() as scratch:
                for file, text in write_package(decoder).items():
                    (Path(scratch) / file).write_text(text)
                program, size = build(core, level, Path(scratch), tokens)
                digest, first, total, ram = run(core, program)
            equal = digest == expected
            wrong += not equal
            counted = f"{total / tokens:35,.0f} {first:11,}"
            memory = f"{size['flash']:11,}  {ram + size['ram']:9,}"
            print(f"{name:10s} {level}  {counted}  {memory}  {'equal' if equal else 'DIFFER'}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
