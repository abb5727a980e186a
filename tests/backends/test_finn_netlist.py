"""The models of the FPGA's cells against plain behaviour, through yosys; the pass moving registers to block RAMs."""

from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import pytest

from greenedge.backends import finn
from greenedge.errors import ToolError
from greenedge.graph import run_graph
from greenedge.hdl import netlist
from greenedge.hdl.axi_stream import Stream
from greenedge.hdl.axi_stream.simulation import compile_model, run_model, sim_top
from greenedge.hdl.board_shell.ram_registers import merge_output_registers
from greenedge.target import load_target
from greenedge.tools.plan import Command, Plan
from greenedge.tools.run import execute
from tests.backends.nets import inputs, mlp

_SYNTHESIS = {"ecp5": "synth_ecp5 -abc9", "ice40": "synth_ice40 -dsp -device u", "gowin": "synth_gowin -noiopads"}
_IN, _OUT = 78, 216


def _contents(rng, widths=(36, 18, 9, 4, 2, 1)) -> dict[str, bytes]:
    """Random initial words for the memories of memories.sv, 2**14 bits without parity each."""
    depth = {36: 512, 18: 1024, 9: 2048, 4: 4096, 2: 8192, 1: 16384}
    files = {f"rom{width}.mem": rng.integers(0, 1 << width, depth[width]) for width in widths}
    files["few.mem"] = rng.integers(0, 256, 16)
    return {name: "".join(f"{int(v):x}\n" for v in words).encode() for name, words in files.items()}


def _synthesised(folder, family: str, source: bytes, top: str, files: dict[str, bytes]) -> dict:
    """The JSON netlist of a module that yosys maps to a family's cells."""
    script = f"read_slang --threads 1 --top {top} {top}.sv\n{_SYNTHESIS[family]} -top {top} -json netlist.json\n"
    command = Command(("{yosys}", "-q", "-l", "yosys.log", "-s", "synth.ys"), "yosys.txt", "synthesis", 300)
    execute(Plan({f"{top}.sv": source, "synth.ys": script.encode(), **files}, (command,), ("netlist.json",)), folder)
    return json.loads((folder / "netlist.json").read_text())


def _side_by_side(
    family: str, source: bytes, variants: dict[str, dict], folder, words: list[int]
) -> dict[str, np.ndarray]:
    """The output of the module and of each variant of its netlist, cycle by cycle, on the same input words."""
    sources = {"memories.sv": source}
    for name, module in variants.items():
        path = folder / f"{name}.json"
        path.write_text(json.dumps({"modules": {name: module}}))
        made = netlist.netlist_sources(path, name, family, lambda line: None)
        sources |= {**{key: text for key, text in made.items() if key != "core.v"}, f"{name}.v": made["core.v"]}
    outputs = {"memories": 0, **{name: k + 1 for k, name in enumerate(variants)}}
    body = "\n".join(
        f"    memories_{k} u{k} (.clk, .s(held), .m(m[{k}]));".replace(f"memories_{k}", name)
        for name, k in outputs.items()
    )
    dut = f"""module dut (input logic clk, input logic [79:0] s_tdata, input logic s_tvalid, output logic s_tready,
    output logic [{_OUT * len(outputs) - 1}:0] m_tdata, output logic m_tvalid, input logic m_tready);
    logic [{_OUT - 1}:0] m [{len(outputs)}];
    logic [{_IN - 1}:0] held = '0;
    logic [3:0] seen = '0;
    assign s_tready = 1'b1;
    always_ff @(posedge clk) begin
        held <= s_tvalid ? s_tdata[{_IN - 1}:0] : '0;
        seen <= {{seen[2:0], s_tvalid}};
    end
    assign m_tvalid = seen[3];
{body}
    assign m_tdata = {{{", ".join(f"m[{k}]" for k in reversed(range(len(outputs))))}}};
endmodule
"""
    feed = Stream("s", "x", 8, False, 10, len(words), (10 * len(words),))
    result = Stream("m", "y", 8, False, _OUT // 8 * len(outputs), len(words), (_OUT // 8 * len(outputs) * len(words),))
    model = compile_model(
        {**sources, "dut.sv": dut.encode(), "sim_top.sv": sim_top("dut", feed, [result]).encode()},
        lambda line: None,
        flags=netlist.FLAGS,
    )
    x = np.frombuffer(b"".join(word.to_bytes(10, "little") for word in words), np.uint8).astype(np.int64)[None]
    y = run_model(model, folder, feed, [result], x).values["y"].reshape(len(words), len(outputs), _OUT // 8)
    return {name: y[:, k] for name, k in outputs.items()}


@pytest.mark.tool("yosys")
@pytest.mark.tool("verilator")
@pytest.mark.tool("g++")
def test_ecp5_models_do_what_the_source_says(rng, repo, tmp_path):
    """Every width of the block RAM, byte enables, reset, multiplier; the merged netlist too; a flipped bit shows."""
    source = (repo / "tests" / "backends" / "memories.sv").read_bytes()
    contents = _contents(rng)
    module = _synthesised(tmp_path / "synth", "ecp5", source, "memories", contents)["modules"]["memories"]
    for name, words in contents.items():
        (tmp_path / name).write_bytes(words)
    rams = [cell for cell in module["cells"].values() if cell["type"] == "DP16KD"]
    widths = {int(cell["parameters"][f"DATA_WIDTH_{side}"], 2) for cell in rams for side in "AB"}
    assert widths == {36, 18, 9, 4, 2, 1}
    assert netlist.cell_kinds({"modules": {"m": module}}, "m")["MULT18X18D"] >= 2
    merged, wrong = copy.deepcopy(module), copy.deepcopy(module)
    done = merge_output_registers({"modules": {"merged": merged}})
    assert done.flip_flops >= 36 + 18 and done.changed >= 2
    spoilt = next(
        c for c in wrong["cells"].values() if c["type"] == "DP16KD" and int(c["parameters"]["DATA_WIDTH_B"], 2) == 36
    )
    bits = spoilt["parameters"]["INITVAL_00"]
    spoilt["parameters"]["INITVAL_00"] = bits[:-1] + str(1 - int(bits[-1]))  # bit 0 of address 0
    words = [int.from_bytes(rng.bytes(10), "little") & ((1 << _IN) - 1) for _ in range(4000)]
    words[-40:] = [word & ~0x3FFF for word in words[-40:]]  # address 0 of every memory
    y = _side_by_side("ecp5", source, {"mapped": module, "merged": merged, "wrong": wrong}, tmp_path, words)
    assert len(np.unique(y["memories"], axis=0)) > 3900
    assert np.array_equal(y["memories"], y["mapped"])
    assert np.array_equal(y["memories"], y["merged"])
    assert not np.array_equal(y["memories"], y["wrong"])


@pytest.mark.slow
@pytest.mark.tool("yosys")
@pytest.mark.tool("verilator")
@pytest.mark.tool("g++")
@pytest.mark.parametrize("family", ["ice40", "gowin"])
def test_small_families_models_do_what_the_source_says(rng, repo, tmp_path, family):
    """The same memories in iCE40's and Gowin's cells: yosys's models, and ours of Gowin's block RAM."""
    source = (repo / "tests" / "backends" / "memories.sv").read_bytes()
    if family == "gowin":
        source = b"`define RAM_ONLY\n" + source  # no model of its multiplier
    else:
        source = source.replace(b'(* ram_style = "distributed" *)', b"")  # there is none
    contents = _contents(rng)
    module = _synthesised(tmp_path / "synth", family, source, "memories", contents)["modules"]["memories"]
    for name, words in contents.items():
        (tmp_path / name).write_bytes(words)
    kinds = netlist.cell_kinds({"modules": {"m": module}}, "m")
    assert {"ice40": {"SB_RAM40_4K", "SB_MAC16"}, "gowin": {"SP", "SPX9", "SDPX9B", "DPX9B", "RAM16SDP4"}}[
        family
    ] <= set(kinds)
    words = [int.from_bytes(rng.bytes(10), "little") & ((1 << _IN) - 1) for _ in range(4000)]
    y = _side_by_side(family, source, {"mapped": module}, tmp_path, words)
    assert len(np.unique(y["memories"], axis=0)) > 3900
    assert np.array_equal(y["memories"], y["mapped"])


@pytest.mark.slow
@pytest.mark.tool("yosys")
@pytest.mark.tool("verilator")
@pytest.mark.tool("g++")
@pytest.mark.parametrize("board", ["ulx3s-85f", "icebreaker", "tang-nano-9k"])
def test_the_netlist_of_a_whole_board_computes_the_graph(rng, tmp_path, board):
    """The core within the board's netlist, as nextpnr gets it; with one bit of one weight turned it must differ."""
    graph = mlp(rng, (16, 8, 4), 4, 4)
    plan = finn.plan(graph, load_target(board), {"fps": 10_000})
    until = next(k for k, command in enumerate(plan.commands) if command.log == "count.log")
    commands = tuple(command for command in plan.commands[: until + 1] if command.log != "finn.log")
    folder = tmp_path / "build"
    execute(
        dataclasses.replace(plan, commands=commands, products=("netlist.json", "stat.json", "simulation.json")), folder
    )
    x = inputs(rng, graph, 24)
    expected = run_graph(graph, x)[graph.outputs[0]]
    run = finn.partial_stages(folder)["netlist"]
    assert np.array_equal(run(folder, x, lambda *_: None)[graph.outputs[0]], expected)
    if board == "ulx3s-85f":
        made = json.loads((folder / "netlist.json").read_text())
        ram = next(
            cell
            for name, cell in made["modules"]["top"]["cells"].items()
            if cell["type"] == "DP16KD" and "weights" in name
        )
        ram["parameters"]["INITVAL_00"] = ram["parameters"]["INITVAL_00"][:-1] + str(
            1 - int(ram["parameters"]["INITVAL_00"][-1])
        )
        (folder / "netlist.json").write_text(json.dumps(made))
        assert not np.array_equal(run(folder, x, lambda *_: None)[graph.outputs[0]], expected)


@pytest.mark.tool("yosys")
@pytest.mark.tool("verilator")
@pytest.mark.tool("g++")
def test_modes_without_a_model_are_refused(tmp_path):
    bits = {"A": ["0"] * 1, "Z": [2]}

    def netlist_of(kind: str) -> dict:
        return {
            "modules": {
                "core": {
                    "attributes": {},
                    "ports": {"z": {"direction": "output", "bits": [2]}},
                    "netnames": {"z": {"hide_name": 0, "bits": [2], "attributes": {}}},
                    "cells": {
                        "u": {
                            "hide_name": 0,
                            "type": kind,
                            "parameters": {},
                            "attributes": {},
                            "port_directions": {"A": "input", "Z": "output"},
                            "connections": bits,
                        }
                    },
                }
            }
        }

    with pytest.raises(
        ToolError,
        match=r"^the netlist holds 1 ALU54B, of which there is no simulation model in yosys's ecp5 library "
        r"nor in greenedge; it cannot be simulated\.$",
    ):
        netlist.cell_models(netlist.cell_kinds(netlist_of("ALU54B"), "core"), "ecp5")
    assert "dp16kd.v" in netlist.cell_models({"DP16KD": 1, "CCU2C": 3}, "ecp5")
    assert "dp16kd.v" not in netlist.cell_models({"LUT4": 1}, "ecp5")
    wrapper = b"""module dut (input clk, output [17:0] q);
    DP16KD #(.CSDECODE_A("0b101")) u (.CLKB(clk));
endmodule
module sim_top (input clk); dut dut (.clk, .q()); endmodule
"""
    models = netlist.cell_models({"DP16KD": 1}, "ecp5")
    with pytest.raises(ToolError, match="no chip select and no dynamic"):
        compile_model({**models, "dut.sv": wrapper}, lambda line: None)
    for path, said in (
        (tmp_path / "none.json", "FileNotFoundError"),
        (tmp_path / "bad.json", "JSONDecodeError"),
        (tmp_path / "other.json", "KeyError"),
    ):
        (tmp_path / "bad.json").write_text("{")
        (tmp_path / "other.json").write_text('{"modules": {}}')
        with pytest.raises(
            ToolError, match=rf"{path.name} is missing or damaged \({said}.*run the build stage again\.$"
        ):
            netlist.netlist_sources(path, "core", "ecp5", lambda line: None)
