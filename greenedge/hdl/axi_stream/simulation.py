"""Runs the built RTL with Verilator: the files that are synthesised, with the memory files of the build folder.

The compiled model is in the user's cache folder under the digest of its sources. Memory files (weights, parameters) are
not part of the digest: the model reads them from the build folder when it starts.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from greenedge.errors import ToolError
from greenedge.files.scratch import scratch_folder
from greenedge.hdl import RTL
from greenedge.hdl.axi_stream import Stream, pack, unpack
from greenedge.tools.capture import capture
from greenedge.tools.discover import find_tool
from greenedge.tools.plan import Command, Plan
from greenedge.tools.run import execute_once

_HARNESS = Path(__file__).with_name("harness.cpp")
_ASSERTIONS = RTL / "sim" / "ge_stream_assert.sv"  # no source of a build: the units name it under GE_ASSERT alone
_RESET_CYCLES = 64  # as in harness.cpp: what streams show meanwhile is no data
_RUN_S = 1800
_LEAST_PORT_BITS = 96  # Verilator gives a port an array of words only beyond 64 bits; the harness reads arrays
_FLAGS = (
    "--cc",
    "--exe",
    "--build",
    "-j",
    "2",
    "-O3",
    "--x-initial",
    "unique",
    "--no-timing",
    "--top-module",
    "sim_top",
    "--Mdir",
    "obj",
    "-o",
    "../sim",
    "-Wno-fatal",
    "-Werror-USERFATAL",
    "-Wno-lint",
    "-Wno-style",
    "--assert",
    "+define+GE_ASSERT",
)


@dataclass(frozen=True)
class Stall:
    """Random pauses: the share, in 256 cycles, in which the input is not valid or the output not ready."""

    seed: int = 1
    input_per_256: int = 0
    output_per_256: int = 0

    @classmethod
    def at_pace(cls, source: Stream, output: Stream, interval: float | None, seed: int = 1) -> Stall:
        """Pauses with which either end alone passes a sample in about `interval` cycles, the design's own.

        Input, output and design are then the slowest in turn, and every queue runs full and empty; rarer pauses would
        not affect a design that is slower itself. Without an interval one cycle in four.
        """
        input_, output_ = (
            min(255, max(64, 256 - round(256 * stream.beats / interval))) if interval else 64
            for stream in (source, output)
        )
        return cls(seed, input_, output_)


@dataclass(frozen=True)
class Simulated:
    """The results of a run: values (samples, *shape) by edge, and cycles; the interval is None for too few samples."""

    values: Mapping[str, np.ndarray]
    first_output_cycles: int
    interval_cycles: float | None
    total_cycles: int


def sim_top(dut: str, source: Stream, streams: Sequence[Stream], tied: str = "") -> str:
    """SystemVerilog that instantiates the design and connects every observed stream to one wide port.

    Under GE_ASSERT every one of them is watched: a beat that is taken back or changed ends the simulation with the
    stream's name, also where no unit of ours drives it. `tied` has further connections of the design, such as
    ".restart(1'b0), ".
    """
    source_bits = f"s_tdata[{source.width - 1}:0]"
    width = max(_LEAST_PORT_BITS, sum(s.width for s in streams))
    flags = max(_LEAST_PORT_BITS, len(streams))
    data = ", ".join(f"dut.{s.name}_tdata" for s in reversed(streams))
    valid = ", ".join(f"dut.{s.name}_tvalid" for s in reversed(streams))
    ready = ", ".join(f"dut.{s.name}_tready" for s in reversed(streams))
    watched = "".join(
        f'    ge_stream_assert #(.WIDTH({s.width}), .NAME("{s.name}")) hold_{s.name} (\n'
        f"        .clk, .rst(age != {_RESET_CYCLES}), .tdata(dut.{s.name}_tdata), .tvalid(dut.{s.name}_tvalid), "
        f".tready(dut.{s.name}_tready));\n"
        for s in {s.name: s for s in streams}.values()  # the output's stream may stand for an edge before it as well
    )
    return f"""// Simulation only: {dut} with its streams brought out for the harness.
`default_nettype none
module sim_top (
    input  logic        clk,
    input  logic [{max(_LEAST_PORT_BITS, source.width) - 1}:0] s_tdata,
    input  logic        s_tvalid,
    output logic        s_tready,
    input  logic        m_tready,
    output logic [{width - 1}:0] stream_tdata,
    output logic [{flags - 1}:0] stream_tvalid,
    output logic [{flags - 1}:0] stream_tready
);
    {dut} dut (.clk, {tied}.s_tdata({source_bits}), .s_tvalid, .s_tready, .m_tdata(), .m_tvalid(), .m_tready);
    assign stream_tdata  = {width}'({{{data}}});
    assign stream_tvalid = {flags}'({{{valid}}});
    assign stream_tready = {flags}'({{{ready}}});
`ifdef GE_ASSERT
    // verilator tracing_off
    logic [{_RESET_CYCLES.bit_length() - 1}:0] age = '0;
    always_ff @(posedge clk) if (age != {_RESET_CYCLES}) age <= age + 1'b1;
{watched}    // verilator tracing_on
`endif
endmodule
`default_nettype wire
"""


def add_assertions(sources: Mapping[str, bytes]) -> dict[str, bytes]:
    """The sources and behind them what GE_ASSERT needs, which `_FLAGS` define: every simulation watches its streams."""
    return {**sources, _ASSERTIONS.name: _ASSERTIONS.read_bytes()}


def find_broken_stream(said: str) -> str | None:
    """The sentence of ge_stream_assert in what a simulation printed, without the full stop; None if no stream broke its
    protocol."""
    found = re.search(r"stream \S+ \(\S+\) (?:took|changed) a beat .*$", said, re.MULTILINE)
    return found[0].replace("(TOP.", "(") if found else None


def compile_model(
    sources: Mapping[str, bytes],
    progress: Callable[[str], None],
    harness: Path = _HARNESS,
    flags: Sequence[str] = ("-CFLAGS", "-O1"),
) -> Path:
    """The simulator of these SystemVerilog sources (name -> content, packages first), from the cache if they are
    unchanged.

    `harness` is the C++ program around the model of `sim_top`; `flags` are further ones of Verilator. Raises ToolError.
    """
    tool = find_tool("verilator")
    sources = add_assertions(sources)
    command = Command(
        ("{verilator}", *_FLAGS, *flags, *sources, "harness.cpp"),
        "verilator.log",
        "compiling the simulation model with Verilator",
        timeout_s=1800,
    )
    plan = Plan({**sources, "harness.cpp": harness.read_bytes()}, (command,), ("sim",))
    return execute_once(plan, "verilated", f"{plan.digest()[:24]}-{tool.version}", progress)[0] / "sim"


def run_model(
    model: Path,
    folder: Path,
    source: Stream,
    streams: Sequence[Stream],
    x: np.ndarray,
    keep: Sequence[str] = (),
    stall: Stall = Stall(),
    patience: int = 100_000,
) -> Simulated:
    """Feeds integers `x` (samples, *shape) through `model`, which reads its memory files relative to `folder`.

    `streams[0]` is the output; `keep` names edges whose values are returned as well. Raises ToolError after `patience`
    cycles without progress, for a time-out and for a model that ends early.
    """
    with scratch_folder("sim") as scratch:
        work = Path(scratch)
        (work / "input.bin").write_bytes(pack(source, x))
        lines = [
            f"input {_quote(work / 'input.bin')} {source.bytes} {source.beats} {len(x)}",
            f"stall {stall.seed} {stall.input_per_256} {stall.output_per_256}",
            f"patience {patience}",
        ]
        offset = 0
        for index, s in enumerate(streams):
            path = _quote(work / f"{index}.bin") if index == 0 or s.edge in keep else "-"
            lines.append(f"stream {s.name} {index} {offset} {s.bytes} {s.beats} {path}")
            offset += s.bytes
        (work / "run.txt").write_text("\n".join(lines) + "\n")
        said = _run(model, folder, work / "run.txt")
        values = {
            s.edge: unpack(s, (work / f"{index}.bin").read_bytes(), len(x))
            for index, s in enumerate(streams)
            if index == 0 or s.edge in keep
        }
    done = [int(cycle) for cycle in re.findall(r"^done \d+ (\d+)$", said, re.MULTILINE)]
    begin = int(re.findall(r"^begin (\d+)$", said, re.MULTILINE)[0])
    interval = (done[-1] - done[len(done) // 2]) / (len(done) - 1 - len(done) // 2) if len(done) > 2 else None
    return Simulated(values, done[0] - begin + 1, interval, done[-1] - begin + 1)


def _quote(path: Path) -> str:
    """A path as the harness reads it, whatever it holds."""
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _run(model: Path, folder: Path, description: Path) -> str:
    try:
        done = capture([str(model), str(description)], _RUN_S, cwd=folder)
    except subprocess.TimeoutExpired:
        raise ToolError(f"the simulation of {folder} did not end within {_RUN_S} s; give it fewer samples.") from None
    except OSError as error:
        raise ToolError(
            f"the simulation model {model} cannot be run ({error.strerror}); remove {model.parent} and run "
            "the same command again."
        ) from None
    if done.returncode == 0:
        return done.stdout
    broken = find_broken_stream(done.stdout + done.stderr)
    if broken:
        raise ToolError(f"the simulation of {folder} stopped: {broken}.")
    said = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith(("done", "begin"))]
    reason = re.sub(r"^error: ", "", said[0]) if said else f"it ended with exit status {done.returncode}"
    raise ToolError(f"the simulation of {folder} stopped: {reason.rstrip('.')}.")
