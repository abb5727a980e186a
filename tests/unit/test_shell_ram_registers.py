"""Registers move into block RAMs only where every cycle stays the same."""

from __future__ import annotations

import copy
import json

import pytest

from greenedge.hdl.board_shell.ram_registers import Merged, main, merge_output_registers

CLK, RST = 2, 3


def _netlist(wide: bool = False) -> dict:
    """A RAM with two outputs on port B (in 36-bit mode one of them on DOA), each behind one flip-flop."""

    def cell(kind, parameters, connections):
        return {
            "type": kind,
            "parameters": parameters,
            "connections": {port: [bit] for port, bit in connections.items()},
            "port_directions": {port: "output" if port[:2] in ("DO", "Q") else "input" for port in connections},
        }

    outputs = ("DOA0", "DOB0") if wide else ("DOB0", "DOB1")
    ram = cell(
        "DP16KD",
        {
            "DATA_WIDTH_A": f"{36 if wide else 18:032b}",
            "DATA_WIDTH_B": f"{36 if wide else 18:032b}",
            "REGMODE_A": "NOREG",
            "REGMODE_B": "NOREG",
            "CLKBMUX": "CLKB",
        },
        {"CLKA": "0", "CLKB": CLK, "RSTA": "0", "RSTB": "0", "OCEA": "0", "OCEB": "1", outputs[0]: 10, outputs[1]: 11},
    )

    def flip_flop(d: int, q: int) -> dict:
        return cell(
            "TRELLIS_FF",
            {"CEMUX": "1 ", "CLKMUX": "CLK", "LSRMUX": "LSR", "REGSET": "RESET"},
            {"CLK": CLK, "DI": d, "LSR": "0", "Q": q},
        )

    reader = cell("LUT4", {}, {"A": 20, "B": 21, "Z": 30})
    return {
        "modules": {
            "core": {
                "ports": {"clk": {"bits": [CLK]}, "rst": {"bits": [RST]}, "y": {"bits": [30]}},
                "cells": {"ram": ram, "f0": flip_flop(10, 20), "f1": flip_flop(11, 21), "l": reader},
            },
            "library": {"ports": {}, "cells": {}},
        }
    }


@pytest.mark.parametrize("wide", [False, True])
def test_it_moves_a_plain_rank(wide):
    netlist = _netlist(wide)
    assert merge_output_registers(netlist) == Merged(1, 1, 2)
    cells = netlist["modules"]["core"]["cells"]
    assert set(cells) == {"ram", "l"}
    ram = cells["ram"]
    assert [ram["connections"][port] for port in (("DOA0", "DOB0") if wide else ("DOB0", "DOB1"))] == [[20], [21]]
    assert ram["parameters"]["REGMODE_B"] == "OUTREG" and ram["connections"]["OCEB"] == ["1"]
    assert (ram["parameters"]["REGMODE_A"] == "OUTREG") == wide
    assert ram["connections"]["OCEA"] == (["1"] if wide else ["0"])
    assert merge_output_registers(netlist) == Merged(1, 0, 0)  # once


def _change(path: str, value):
    def apply(netlist):
        cell, group, key = path.split("/")
        netlist["modules"]["core"]["cells"][cell][group][key] = value

    return apply


def _second_reader(netlist):
    netlist["modules"]["core"]["cells"]["l"]["connections"]["C"] = [10]


def _read_at_a_port(netlist):
    netlist["modules"]["core"]["ports"]["raw"] = {"bits": [11]}


@pytest.mark.parametrize(
    "change",
    [
        _second_reader,
        _read_at_a_port,
        _change("f0/parameters/CEMUX", "CE"),
        _change("f1/connections/LSR", [RST]),
        _change("f0/parameters/REGSET", "SET"),
        _change("f0/connections/CLK", [4]),
        _change("f1/parameters/CLKMUX", "INV"),
        _change("ram/connections/RSTB", [RST]),
        _change("ram/parameters/REGMODE_B", "OUTREG"),
        _change("l/connections/D", [11]),
    ],
)
def test_it_leaves_everything_else_alone(change):
    netlist = _netlist()
    change(netlist)
    before = copy.deepcopy(netlist)
    assert merge_output_registers(netlist) == Merged(1, 0, 0)
    assert netlist == before


def test_as_a_command(tmp_path, capsys):
    source, result = tmp_path / "synthesised.json", tmp_path / "netlist.json"
    assert main(str(source), str(result)) == 1
    assert capsys.readouterr().out.startswith(f"error: {source} could not be turned into {result}: FileNotFoundError")
    source.write_text(json.dumps(_netlist()))
    assert main(str(source), str(result)) == 0
    assert capsys.readouterr().out == "2 flip-flops moved into 1 of 1 block RAMs\n"
    assert "f0" not in json.loads(result.read_text())["modules"]["core"]["cells"]
