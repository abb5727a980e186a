"""Compiles the package in a folder for this machine and runs samples through it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from greenedge.backends.c99.emit import decode, elements, encode
from greenedge.backends.c99.memory_plan import Program
from greenedge.errors import ToolError
from greenedge.graph.ops.base import Ints
from greenedge.progress import ProgressFn
from greenedge.tools.capture import end_with_parent

SOURCES = ("ge_fast.c", "ge_kernels.c", "model.c")  # what a firmware links
COMPILERS = ("gcc", "cc", "clang")
_RUNNER = Path(__file__).with_name("runner.c")
_STRICT = ("-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion", "-Wno-sign-conversion")
_COMPILE_S, _RUN_S = 300, 1800
_CHUNK = 1024  # samples for one process


def find_compiler() -> str:
    """The path of a C compiler for this machine. Raises ToolError where there is none."""
    for name in COMPILERS:
        if found := shutil.which(name):
            return found
    raise ToolError(f"no C compiler is on PATH ({', '.join(COMPILERS)}); install one (apt install gcc).")


def read_version(path: str) -> str:
    """The first line of a compiler's --version."""
    return (
        run_program([path, "--version"], Path("."), _COMPILE_S, f"{path} --version")
        .decode(errors="replace")
        .splitlines()[0]
        .strip()
    )


def run_program(argv: list[str], folder: Path, timeout_s: float, what: str, data: bytes = b"") -> bytes:
    """Standard output of a program. Raises ToolError with its first line that names an error, and for a time-out."""
    try:
        done = subprocess.run(
            argv,
            cwd=folder,
            input=data,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            preexec_fn=end_with_parent,
        )
    except subprocess.TimeoutExpired:
        raise ToolError(f"{what} did not end within {timeout_s:g} s and was stopped.") from None
    except OSError as error:
        raise ToolError(f"{what} could not be started: {error.strerror}.") from None
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).decode(errors="replace").splitlines()
        said = next((line for line in lines if "error" in line), lines[0] if lines else "it printed nothing")
        raise ToolError(f"{what} ended with exit status {done.returncode}: {said.strip().rstrip('.')[:200]}.")
    return done.stdout


def compile_selftest(folder: Path, out: Path) -> None:
    """Compiles the package with its self-test to `out`, with every warning an error."""
    sources = [str(folder / name) for name in (*SOURCES, "selftest.c", "port/host.c")]
    run_program([find_compiler(), *_STRICT, "-o", str(out), *sources], folder, _COMPILE_S, "compiling the C package")


def run_package(
    folder: Path,
    program: Program,
    feeds: Sequence[Ints],
    trace: bool,
    scratch: Path,
    progress: ProgressFn,
) -> dict[str, Ints]:
    """{edge: int64} of the outputs, and with `trace` of every stored edge, for graph integers (N, *shape) per input."""
    (scratch / "runner.h").write_text(_runner_header(program))
    runner = scratch / "runner"
    sources = [*(str(folder / name) for name in SOURCES), str(_RUNNER)]
    run_program(
        [
            find_compiler(),
            "-std=c99",
            "-O2",
            "-DMODEL_TRACE=runner_trace",
            "-I",
            str(folder),
            "-I",
            str(scratch),
            "-o",
            str(runner),
            *sources,
        ],
        scratch,
        _COMPILE_S,
        "compiling the C package",
    )
    total = len(feeds[0])
    names = [*([call.output for call in program.calls] if trace else []), *program.graph.outputs]
    sizes = [elements(program, name) * program.codes[name].bytes for name in names]
    parts: dict[str, list[Ints]] = {name: [] for name in names}
    for begin in range(0, total, _CHUNK):
        stored = [
            encode(x[begin : begin + _CHUNK], program.codes[edge]).reshape(-1).view(np.uint8)
            for edge, x in zip(program.graph.inputs, feeds, strict=True)
        ]
        count = min(_CHUNK, total - begin)
        data = np.concatenate([part.reshape(count, -1) for part in stored], axis=1).tobytes()
        out = run_program([str(runner), *(["trace"] if trace else [])], scratch, _RUN_S, "running the C package", data)
        if len(out) != count * sum(sizes):
            raise ToolError(
                f"the C package gave {len(out):,} bytes instead of {count * sum(sizes):,}; run the build stage again."
            )
        rows = np.frombuffer(out, np.uint8).reshape(count, -1)
        # an output that was traced too is there twice, with the same bytes
        pieces = dict(zip(names, np.split(rows, np.cumsum(sizes)[:-1], axis=1), strict=True))
        for name, piece in pieces.items():
            values = decode(piece.tobytes(), program.codes[name])
            parts[name].append(values.reshape(count, *program.graph.edges[name].shape))
        progress(begin + count, total, "samples through the C package")
    return {name: np.concatenate(chunks) for name, chunks in parts.items()}


def _runner_header(program: Program) -> str:
    graph = program.graph
    sizes = ", ".join(str(elements(program, call.output) * program.codes[call.output].bytes) for call in program.calls)
    arrays = [
        f"static {program.codes[e].c_type} {letter}{k}[{elements(program, e)}];\n"
        for letter, edges in (("x", graph.inputs), ("y", graph.outputs))
        for k, e in enumerate(edges)
    ]
    inputs, outputs = [f"x{k}" for k in range(len(graph.inputs))], [f"y{k}" for k in range(len(graph.outputs))]
    reads = " && ".join(f"fread({name}, sizeof {name}, 1, stdin) == 1" for name in inputs)
    writes = "; ".join(f"fwrite({name}, sizeof {name}, 1, stdout)" for name in outputs)
    return (
        f'#include "model.h"\n#define RUNNER_CALL_BYTES {{{sizes or 0}}}\n{"".join(arrays)}'
        f"#define RUNNER_READ ({reads})\n#define RUNNER_WRITE do {{ {writes}; }} while (0)\n"
        f"#define RUNNER_RUN model_run({', '.join([*inputs, *outputs, 'memory'])})\n"
    )
