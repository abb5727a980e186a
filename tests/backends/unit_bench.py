"""A bench for hardware units by themselves: many instances in one Verilator model, each with its own streams.

Compiling costs seconds, running milliseconds: so a test puts all parameter sets of its units into one `Bench` and runs
that with several patterns of pauses.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import greenedge
from greenedge.backends.finn.units import memory_file
from greenedge.hdl.axi_stream import Stream, pack, unpack
from greenedge.hdl.axi_stream.simulation import Stall, compile_model

RTL = Path(greenedge.__file__).parent / "hdl" / "rtl"
STALLS = (Stall(), Stall(1, 128, 128), Stall(2, 170, 0), Stall(3, 0, 213))
_HARNESS = Path(__file__).with_name("unit_bench.cpp")
_LEAST_PORT_BITS = 96  # Verilator gives a port an array of words only beyond 64 bits; the harness reads arrays


@dataclass(frozen=True)
class Port:
    """One stream of a unit: `values` are (samples, elements in stream order); `lanes` elements per beat."""

    name: str
    bits: int
    signed: bool
    lanes: int
    values: np.ndarray

    def stream(self) -> Stream:
        """The stream as the library packs it, a sample being one vector."""
        count = self.values.shape[1]
        return Stream(self.name, self.name, self.bits, self.signed, self.lanes, count // self.lanes, (count,))


@dataclass(frozen=True)
class Case:
    """One instance: module, parameters, what goes in, what must come out, and the memory files it reads.

    Memories called FILES_… belong to a parameter FILES, with which their names begin.
    `cycles`: per sample at full speed, in the steady state; None where the test says nothing about it.
    """

    module: str
    parameters: Mapping[str, int]
    inputs: Sequence[Port]
    outputs: Sequence[Port]
    cycles: float | None = None
    tolerance: float = 0  # of cycles
    memories: Mapping[str, tuple[np.ndarray, int]] = field(default_factory=dict)  # parameter -> rows of elements, bits


class Bench:
    """The compiled model of some cases, which reads its memory files from `folder` at every run.

    `sources` are modules beside those of greenedge/hdl/rtl that the cases instantiate, packages first.
    """

    def __init__(self, cases: Sequence[Case], folder: Path, sources: Mapping[str, bytes] | None = None):
        self.cases = list(cases)
        self.folder = folder
        for index, case in enumerate(self.cases):
            for parameter, (rows, bits) in case.memories.items():
                (folder / f"{index}_{parameter}.mem").write_bytes(memory_file(rows, bits))
        sources = dict(sources or {}) | {path.name: path.read_bytes() for path in sorted(RTL.glob("*.sv"))}
        self.model = compile_model({**sources, "sim_top.sv": self._top().encode()}, lambda line: None, _HARNESS)

    def check(self) -> None:
        """All cases with every pattern of pauses: outputs must be equal, and cycles per sample without pauses."""
        for stall in STALLS:
            found = self.differences(stall)
            assert not found, "\n".join([str(stall), *found])

    def differences(self, stall: Stall | None = None) -> list[str]:
        """One line for each output that is not what its case says. AssertionError where a stream's protocol is
        broken."""
        stall = stall or Stall()
        with tempfile.TemporaryDirectory(prefix="greenedge-units-") as scratch:
            lines, outputs = self._description(Path(scratch), stall)
            (Path(scratch) / "run.txt").write_text("\n".join(lines) + "\n")
            done = subprocess.run(
                [str(self.model), f"{scratch}/run.txt"],
                cwd=self.folder,
                capture_output=True,
                text=True,
                timeout=600,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            cycles = {line.split()[1]: np.array(line.split()[2:], np.int64) for line in done.stdout.splitlines()}
            full_speed = not stall.input_per_256 and not stall.output_per_256
            found = (
                _difference(name, case, port, path, cycles[name] if full_speed else None)
                for name, case, port, path in outputs
            )
            return [line for line in found if line]

    def _description(self, scratch: Path, stall: Stall):
        lines, outputs = [f"stall {stall.seed} {stall.input_per_256} {stall.output_per_256}", "patience 20000"], []
        for kind, ports in (("in", self._ports("inputs")), ("out", self._ports("outputs"))):
            offset = 0
            for index, (name, case, port) in enumerate(ports):
                stream, path = port.stream(), scratch / f"{name}.bin"
                lines.append(f"{kind} {name} {index} {offset} {stream.bytes} {stream.beats * len(port.values)} {path}")
                offset += stream.bytes
                if kind == "in":
                    path.write_bytes(pack(stream, port.values))
                else:
                    outputs.append((name, case, port, path))
        return lines, outputs

    def _ports(self, side: str):
        return [
            (f"{case.module}_{index}_{port.name}", case, port)
            for index, case in enumerate(self.cases)
            for port in getattr(case, side)
        ]

    def _top(self) -> str:
        body, widths, counts = [], {}, {}
        for index, case in enumerate(self.cases):
            values = [f".{name}({value})" for name, value in case.parameters.items()]
            values += [f'.{name}("{index}_{name}.mem")' for name in case.memories if "_FILE" in name]
            values += [f'.FILES("{index}_FILES")'] * any(name.startswith("FILES_") for name in case.memories)
            wires = []
            for kind, ports in (("in", case.inputs), ("out", case.outputs)):
                for port in ports:
                    width, low, k = port.stream().width, widths.get(kind, 0), counts.get(kind, 0)
                    wires.append(
                        f".{port.name}_tdata({kind}_tdata[{low} +: {width}]), .{port.name}_tvalid({kind}_tvalid[{k}]), "
                        f".{port.name}_tready({kind}_tready[{k}])"
                    )
                    widths[kind], counts[kind] = low + width, k + 1
            body.append(f"    {case.module} #({', '.join(values)}) u{index} (.clk, .rst, {', '.join(wires)});\n")
        ports = "".join(
            f"    {way} logic [{max(_LEAST_PORT_BITS, width) - 1}:0] {name},\n"
            for way, name, width in (
                ("input ", "in_tdata", widths["in"]),
                ("input ", "in_tvalid", counts["in"]),
                ("output", "in_tready", counts["in"]),
                ("output", "out_tdata", widths["out"]),
                ("output", "out_tvalid", counts["out"]),
                ("input ", "out_tready", counts["out"]),
            )
        )
        return f"module sim_top (\n{ports}    input  logic clk,\n    input  logic rst\n);\n{''.join(body)}endmodule\n"


def _difference(name: str, case: Case, port: Port, path: Path, cycles: np.ndarray | None) -> str | None:
    got = unpack(port.stream(), path.read_bytes(), len(port.values))
    wrong = np.argwhere(got != port.values)
    if len(wrong):
        place = tuple(int(i) for i in wrong[0])
        return (
            f"{name}: {len(wrong)} of {got.size} differ, first at {place}: expected {port.values[place]}, got "
            f"{got[place]}; "
            f"{dict(case.parameters)}"
        )
    if cycles is not None and case.cycles is not None:
        ends = cycles.reshape(len(port.values), -1)[:, -1]
        steady = np.diff(ends[len(ends) // 2 :])
        if abs(steady.mean() - case.cycles) > case.tolerance:
            return f"{name}: {steady} cycles per sample, not {case.cycles}; {dict(case.parameters)}"
    return None
