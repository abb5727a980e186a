"""The numbers of a finished build for an open board, from the tools' own logs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from greenedge.backends.finn import build_dir
from greenedge.backends.finn.resources import BLOCK_BITS
from greenedge.hdl.board_shell.bitstream import bitstream_of

# family -> {what is counted: (cells of yosys's netlist that count, how much each counts)}
CELLS = {
    "ecp5": {"lut4": ("LUT4", 1), "ff": ("TRELLIS_FF", 1), "dsp": ("MULT18X18D", 1), "bram_bits": ("DP16KD", 18432)},
    "ice40": {
        "lut4": ("SB_LUT4", 1),
        "ff": ("SB_DFF.*", 1),
        "dsp": ("SB_MAC16", 1),
        "bram_bits": ("SB_RAM40_4K.*", 4096),
    },
    "gowin": {
        "lut4": ("LUT[1-4]", 1),
        "ff": ("DFF.*", 1),
        "dsp": ("MULT18X18", 1),
        "bram_bits": ("(p?ROM|SDP|DP|SP)X?9?B?", 18432),
    },
}
PLACED = {"ecp5": "TRELLIS_COMB", "ice40": "ICESTORM_LC", "gowin": "LUT4"}  # logic cells in nextpnr's words


def report_board(folder: Path) -> dict[str, Any]:
    """{"hardware": …} from the logs of yosys and nextpnr and the record of the simulation.

    The numbers are the board's; below "core" stand the core's.
    """
    stat, placed, simulated, timing = (
        build_dir.read(folder, f"{name}.json") for name in ("stat", "report", "simulation", "timing")
    )
    streams, record, board, shell, design = (
        build_dir.read(folder, f"{name}.json") for name in ("streams", "build", "board", "shell", "folding")
    )
    finn = build_dir.read_finn(folder)
    cycles, clock_hz = simulated["interval_cycles"], board["clock_hz"]
    counted, in_core = (
        {name: build_dir.cells(stat, module, *cells) for name, cells in CELLS[shell["family"]].items()}
        for module in (None, streams["top"])
    )
    hardware = {
        **counted,
        "comb": build_dir.utilisation(placed, PLACED[shell["family"]]),
        "fmax_hz": timing["fmax_hz"],
        "clock_hz": clock_hz,
        "core": {**in_core, "fmax_hz": timing["core_fmax_hz"]},
        "cycles_per_inference": cycles,
        "latency_s": simulated["latency_cycles"] / clock_hz,
        "ips": clock_hz / cycles if cycles else None,
        **compare_estimates(design, in_core, shell["family"]),
        "bitstream_bytes": bitstream_of(folder).stat().st_size,
        "rtl_sha256": simulated["rtl_sha256"],
        "host_interface": f"{board['link']}, {board['baud']:,} baud",
        "tools": dict(record["tools"]),
    }
    evidence = {
        **dict.fromkeys(counted, "reported by yosys"),
        **dict.fromkeys(("comb", "fmax_hz"), "reported by nextpnr"),
        **dict.fromkeys(("cycles_per_inference", "latency_s", "ips"), "simulated"),
        **dict.fromkeys((key for key in hardware if key.startswith("estimated_")), "estimated"),
    }
    notes = [*design["notes"], *(build_dir.compare_with_finn(design, finn) if finn else ())]
    asked = {"finn-plus": finn["finn_plus"]} if finn else {}
    return {"hardware": hardware, "evidence": evidence, "notes": notes, "tools": {**record["tools"], **asked}}


def compare_estimates(design: Mapping[str, Any], in_core: Mapping[str, Any], family: str) -> dict[str, Any]:
    """What was expected of the core before it was built, and how far off the count of LUT4 was."""
    counted, expected = in_core["lut4"], list_estimates(design, family)
    error = f"{expected['estimated_lut4'] / counted - 1:+.0%}" if counted else None
    return {**expected, "estimated_lut4_error": error}


def list_estimates(design: Mapping[str, Any], family: str) -> dict[str, float]:
    """What is expected of a core before it is built, under the keys of summary.json; LUT4 and memory for the families
    that are counted so."""
    expected = {"estimated_cycles": design["interval_cycles"]}
    if family in CELLS:
        guess = design["estimate"]
        # a bit of an adder is a LUT with its carry on iCE40
        expected["estimated_lut4"] = guess["lut4"] + (2 * guess["ccu2c"] if family == "ice40" else 0)
        expected["estimated_bram_bits"] = guess["blocks"] * BLOCK_BITS[family]
    return expected
