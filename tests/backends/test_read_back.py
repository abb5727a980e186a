"""Reading a build back must be able to fail: one bit in a memory file, in the netlist, in the bitstream, and the place
is named."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest

from greenedge.backends import finn
from greenedge.backends.finn.read_back import compare_memory_files, compare_netlist, read_back
from greenedge.backends.finn.rom_read import RomReader, list_drivers
from greenedge.backends.finn.stitch import rtl_files, stitch
from greenedge.errors import GreenedgeError
from greenedge.files import cache
from greenedge.hdl.board_shell import read_back as bitstream
from greenedge.target import load_target
from greenedge.tools.run import execute
from tests.backends.nets import mlp


@pytest.fixture(scope="module")
def stitched():
    """A small network folded for a ULX3S: (graph, stitched, its RTL files)."""
    from greenedge.backends.finn.design import Limits
    from greenedge.backends.finn.dialect.lower import require_network
    from greenedge.backends.finn.objective import Objective
    from greenedge.backends.finn.search import choose

    graph = mlp(np.random.default_rng(3), (16, 8, 4), 4, 4)
    design = choose(
        require_network(graph), Limits.of(load_target("ulx3s-85f").device), Objective(2000)
    ).require_design()
    made = stitch(design.network, design.folding)
    return graph, made, rtl_files(graph.name, made)


def _write(files, folder):
    (folder / "rtl").mkdir(parents=True)
    for name, content in files.items():
        (folder / "rtl" / name).write_bytes(content)
    return folder


def test_memory_files_as_the_graph_says(stitched, tmp_path):
    files = stitched[2]
    found = compare_memory_files(_write(files, tmp_path), files)
    words = sum(len(content.split()) for name, content in files.items() if name.endswith(".mem"))
    assert found.differs is None and found.items == words > 0


@pytest.mark.parametrize("file", ["fc1_weights.mem", "act1_parameters.mem", "act2_parameters.mem"])
def test_one_bit_of_a_memory_file_is_named(stitched, tmp_path, file):
    folder, files = _write(stitched[2], tmp_path), stitched[2]
    path = folder / "rtl" / file
    words = path.read_text().split()
    good, words[2] = words[2], format(int(words[2], 16) ^ 1, f"0{len(words[2])}x")
    path.write_text("\n".join(words) + "\n")
    assert compare_memory_files(folder, files).differs == (
        f"{path} has {words[2]!r} in line 3 where the graph says {good!r}; run the build stage again."
    )


def test_files_that_are_missing_or_too_many_are_named(stitched, tmp_path):
    folder, files = _write(stitched[2], tmp_path), stitched[2]
    (folder / "rtl" / "more.mem").write_text("0\n")
    assert compare_memory_files(folder, files).differs == (
        f"{folder / 'rtl' / 'more.mem'} is no file of this build; run the build stage again."
    )
    (folder / "rtl" / "more.mem").unlink()
    (folder / "rtl" / "fc1_weights.mem").unlink()
    assert compare_memory_files(folder, files).differs == (
        f"{folder / 'rtl' / 'fc1_weights.mem'} is missing; run the build stage again."
    )
    shutil.rmtree(folder / "rtl")
    with pytest.raises(GreenedgeError, match=r"rtl is missing; run the build stage again\.$"):
        compare_memory_files(folder, files)


@pytest.mark.parametrize("change", [{"pe": 7}, {"form": "none"}, {"name": "other"}])
def test_a_folding_that_is_none_of_the_network_is_refused(stitched, tmp_path, change):
    from greenedge.backends.finn.memory_faults import MemoryFaults

    graph = stitched[0]
    plan = finn.plan(graph, load_target("ulx3s-85f"), {"fps": 10_000})
    design = json.loads(plan.files["folding.json"])
    for layer in design["layers"]:
        layer |= change
    (tmp_path / "folding.json").write_text(json.dumps(design))
    for read in (MemoryFaults.of_build, read_back):
        with pytest.raises(
            GreenedgeError, match=r"folding\.json does not fold this network .*run the build stage again"
        ):
            read(graph, tmp_path)


# -- one ROM in cells made by hand


def _cell(kind, parameters, outputs=("Z", "Q", "O"), **pins):
    return {
        "type": kind,
        "parameters": parameters,
        "connections": {name: bits if isinstance(bits, list) else [bits] for name, bits in pins.items()},
        "port_directions": {name: "output" if name.startswith(tuple(outputs)) else "input" for name in pins},
    }


def _reader(cells, words, address):
    module = {"cells": cells}
    reader = RomReader(module, list_drivers(module), words)
    reader.set_address(address)
    return reader


def test_a_rom_in_tables_behind_a_register_is_read(rng):
    table = "".join(rng.choice(["0", "1"], 16))
    cells = {
        "t": _cell("LUT4", {"INIT": table}, A=1, B=2, C=3, D=4, Z=9),
        "f": _cell("TRELLIS_FF", {"CEMUX": "1 "}, DI=9, CLK=99, LSR="0", Q=10),
    }
    found, cell = _reader(cells, 16, [1, 2, 3, 4]).read(10)
    assert "".join("1" if bit else "0" for bit in reversed(found)) == table and cell == "t"
    assert _reader(cells, 16, [1, 2, 3]).read(10) is None, "an input that is no address"
    cells["f"]["parameters"]["CEMUX"] = "CE"
    cells["f"]["connections"]["CE"] = [77]
    assert _reader(cells, 16, [1, 2, 3, 4]).read(10) is None, "an enable that is not known"


def test_a_register_with_a_reset_from_the_address(rng):
    """yosys makes the reset of a register from a ROM's own logic."""
    cells = {"f": _cell("SB_DFFSR", {}, D=1, R=2, C=99, Q=10), "s": _cell("SB_DFFSS", {}, D=1, S=2, C=99, Q=11)}
    reader = _reader(cells, 4, [1, 2])
    assert reader.read(10)[0].tolist() == [False, True, False, False]
    assert reader.read(11)[0].tolist() == [False, True, True, True]


def test_paths_of_different_length_are_not_mixed():
    """A table fed by the address and by the address one cycle ago shows no word of a ROM."""
    cells = {
        "f": _cell("SB_DFF", {}, D=1, C=99, Q=8),
        "t": _cell("SB_LUT4", {"LUT_INIT": "1000" * 4}, I0=8, I1=2, I2="0", I3="0", O=9),
    }
    assert _reader(cells, 4, [1, 2]).read(9) is None
    cells["t"]["connections"]["I1"] = [1]
    assert _reader(cells, 4, [1, 2]).read(9) is None


@pytest.mark.parametrize("width, shift", [(18, 4), (9, 3), (4, 2), (2, 1), (1, 0)])
def test_block_ram_of_ecp5_is_read_in_every_width(rng, width, shift):
    """By the layout that hdl/cells/dp16kd.v states: 18 bits in 20, a byte of nine at a time below."""
    words = rng.integers(0, 1 << 18, 1024)
    values = {
        f"INITVAL_{k:02X}": "".join(f"{int(w):020b}" for w in reversed(words[16 * k : 16 * k + 16])) for k in range(64)
    }
    depth = 64
    pins = {f"ADA{k}": k - shift + 1 if shift <= k < shift + 6 else "0" for k in range(14)}
    pins |= {f"DOA{k}": 100 + k for k in range(18)}
    cell = _cell("DP16KD", {**values, "DATA_WIDTH_A": f"{width:032b}", "DATA_WIDTH_B": f"{18:032b}"}, ("DO",), **pins)
    reader = _reader({"r": cell}, depth, [1, 2, 3, 4, 5, 6])
    for bit in range(width):
        found, _ = reader.read(100 + bit)
        for a in range(depth):
            byte, part = divmod(a, {18: 1, 9: 1, 4: 2, 2: 4, 1: 8}[width])
            word = int(words[a]) if width == 18 else int(words[byte // 2]) >> 9 * (byte % 2)
            assert found[a] == (word >> (bit if width >= 9 else part * width + bit)) & 1
    cell["connections"] |= {"WEA": ["1"], "CEA": ["1"]}
    assert _reader({"r": cell}, depth, [1, 2, 3, 4, 5, 6]).read(100) is None, "a memory that is written is no ROM"


# -- bitstreams as text


_CONFIG = """.device LFE5U-25F

.tile R2C3:PLC2
arc: A1 V01N0001
word: SLICEA.K0.INIT 0000000011110000
word: SLICEA.K1.INIT 1111111111111111

.bram_init 3
147 122 050
080 178 0be
"""


def test_settings_are_compared_whatever_their_order():
    about = bitstream._FAMILIES["ecp5"]
    contents, settings = about.read(_CONFIG)
    assert contents == [("147", "122", "050", "080", "178", "0be")]
    assert settings == {("R2C3:PLC2", "SLICEA.K0.INIT"): "0000000011110000"}

    def differ(text):
        return bitstream._find_difference("top.bit", about, *about.read(text), contents, settings)

    assert differ(_CONFIG.replace("arc: A1 V01N0001\n", "")) is None
    assert differ(_CONFIG.replace("11110000", "11110001")) == (
        "top.bit has SLICEA.K0.INIT 0000000011110001 in R2C3:PLC2, and top.config 0000000011110000; "
        "run the build stage again."
    )
    assert differ(_CONFIG.replace("178", "179")) == (
        "top.bit holds 1 block RAMs otherwise than top.config; run the build stage again."
    )


def _build(graph, board, folder, until=None):
    """A build without FINN+'s opinion, to its end or to the command with the log `until`."""
    plan = finn.plan(graph, load_target(board), {"fps": 10_000, "finn_plus": 0})
    commands = plan.commands
    if until:
        commands = commands[: 1 + next(k for k, command in enumerate(commands) if command.log == until)]
        plan = dataclasses.replace(plan, products=("netlist.json", "stat.json"))
    execute(dataclasses.replace(plan, commands=commands), folder)
    return folder


def _flip(text: str) -> str:
    return text[:-1] + str(1 - int(text[-1]))


@pytest.mark.slow
@pytest.mark.tool("yosys")
@pytest.mark.parametrize("board", ["ulx3s-85f", "icebreaker", "tang-nano-9k"])
def test_one_bit_of_a_netlists_memory_is_named(tmp_path, board):
    graph = mlp(np.random.default_rng(3), (16, 8, 4), 4, 4)
    folder = _build(graph, board, tmp_path / "build", "count.log")
    from greenedge.backends.finn.design import read_design

    made = stitch(*read_design(graph, folder))
    netlist = json.loads((folder / "netlist.json").read_text())
    found = compare_netlist(netlist, "top", made)
    assert found.differs is None and found.items > found.unread
    cell = netlist["modules"]["top"]["cells"]["fc1_unit.weights.0.0"]
    first = {"ulx3s-85f": "INITVAL_00", "icebreaker": "INIT_0", "tang-nano-9k": "INIT_RAM_00"}[board]
    cell["parameters"][first] = _flip(cell["parameters"][first])
    differs = compare_netlist(netlist, "top", made).differs
    assert differs is not None and "for bit 0 of word 0 of fc1_weights.mem, in fc1_unit.weights.0.0, and " in differs
    del netlist["modules"]["top"]["netnames"]
    with pytest.raises(GreenedgeError, match=r"^netlist\.json is damaged \(KeyError: 'netnames'\); "):
        compare_netlist(netlist, "top", made)


@pytest.mark.slow
@pytest.mark.tool("yosys")
@pytest.mark.tool("nextpnr-ice40")
@pytest.mark.tool("verilator")
@pytest.mark.tool("g++")
def test_one_bit_of_a_bitstream_is_named(tmp_path, monkeypatch):
    """From the network to an iCEBreaker's bitstream: every step back is equal, and no step takes a flipped bit."""
    monkeypatch.setattr(cache.platformdirs, "user_cache_dir", lambda name: str(tmp_path / "cache"))
    graph = mlp(np.random.default_rng(3), (16, 8, 4), 4, 4)
    folder = _build(graph, "icebreaker", tmp_path / "build")
    entries = read_back(graph, folder)
    assert [entry.what for entry in entries] == [
        "memory files and RTL",
        "netlist memories",
        "routed block RAMs",
        "bitstream",
        "bitstream, unpacked",
    ]
    assert not any(entry.differs for entry in entries), [entry.differs for entry in entries]
    assert [entry.differs for entry in read_back(graph, folder)] == [None] * 5, "from what is remembered"

    data = bytearray((folder / "top.bin").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "top.bin").write_bytes(data)
    assert read_back(graph, folder)[-1].differs == (
        f"{folder / 'top.bin'} differs in byte {len(data) // 2} from what packing top.asc gives; "
        "run the build stage again."
    )
    data[len(data) // 2] ^= 1
    (folder / "top.bin").write_bytes(data)

    routed = (folder / "top.asc").read_text()
    row = next(line for line in routed.splitlines() if len(line) == 64 and set(line) - set("0.") and "." not in line)
    (folder / "top.asc").write_text(routed.replace(row, row[:-1] + format(int(row[-1], 16) ^ 1, "x"), 1))
    said = [entry.differs for entry in read_back(graph, folder) if entry.differs]
    assert said[0].startswith("top.asc has ") and "have no equal in top.asc; run the build stage again." in said[0]
    assert said[1].startswith(f"{folder / 'top.bin'} differs in byte ")
    (folder / "top.asc").unlink()
    with pytest.raises(GreenedgeError, match=r"top\.asc is missing; run the build stage again\.$"):
        read_back(graph, folder)
