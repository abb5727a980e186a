"""Fuzzes the C header of the build folder: compiles the fuzzer with sanitizers and runs it.

from tests.fuzz import compile_fuzzer, run_fuzzer
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import greenedge

_HERE = Path(__file__).resolve().parent
_HEADER = (
    Path(greenedge.__file__).parent / "hdl" / "board_shell" / "templates"
)  # what is filled in is not read: GE_INPUT_BYTES is defined
_SANE = (
    "-std=c11",
    "-O1",
    "-g",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
)


@dataclass(frozen=True)
class Fuzzed:
    """What a run of the fuzzer found: executions, edges of the header that were reached, kept inputs with their
    frames."""

    executions: int
    edges: int
    corpus: list[
        tuple[bytes, list[tuple[int, int, bytes]], int]
    ]  # input, frames (kind, seq, payload), frames that were none


def compile_fuzzer(folder: Path) -> Path:
    """The fuzzer's program in `folder`: only the header is compiled with coverage."""
    target, program = folder / "target.o", folder / "fuzz"
    subprocess.run(
        ["gcc", *_SANE, "-fsanitize-coverage=trace-pc", f"-I{_HEADER}", "-c", _HERE / "target.c", "-o", target],
        check=True,
    )
    subprocess.run(["gcc", *_SANE, _HERE / "fuzz.c", target, "-o", program], check=True)
    return program


def run_fuzzer(program: Path, seed: int, executions: int, timeout_s: float = 600) -> Fuzzed:
    """Raises AssertionError with the sanitizer's words for a crash, subprocess.TimeoutExpired for a hang."""
    done = subprocess.run(
        [program, str(seed), str(executions)], capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    head, *lines = done.stdout.splitlines()
    words = head.split()
    corpus = []
    for line in lines:
        data, *frames, _, bad = f"x{line}".split(" ")  # an input may be empty
        corpus.append(
            (
                bytes.fromhex(data[1:]),
                [(int(k), int(s), bytes.fromhex(p)) for k, s, p in (f.split(":") for f in frames)],
                int(bad),
            )
        )
    return Fuzzed(int(words[1]), int(words[3]), corpus)
