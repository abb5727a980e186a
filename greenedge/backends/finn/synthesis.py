"""The open road from RTL to an ECP5 bitstream: yosys (slang), nextpnr-ecp5, ecppack; and what their logs say.

Every path is relative to the build folder: YoWASP's tools see nothing else.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from greenedge.errors import ToolError
from greenedge.target import Target
from greenedge.tools import Command

FAMILIES = ("ecp5",)
PRODUCTS = ("top.bit", "seal.json", "nextpnr.json", "cells.txt")
_SCRIPT = """read_slang --threads 1 --ignore-assertions --allow-use-before-declare --top top -f sources.f
synth_ecp5 -top top -json netlist.json
tee -q -o cells.txt stat
"""


def constraints(target: Target) -> bytes:
    """The LPF file: the clock's pin and frequency. All other pins are placed where nextpnr likes."""
    return (f'LOCATE COMP "clk" SITE "{target.clock_pin}";\n'
            'IOBUF PORT "clk" IO_TYPE=LVCMOS33;\n'
            f'FREQUENCY PORT "clk" {target.clock_hz / 1e6:g} MHZ;\n').encode()


def synthesis_files(target: Target) -> dict[str, bytes]:
    """What the commands read beside the RTL."""
    timing = {"clock_hz": target.clock_hz, "target": target.name}
    return {"synth.ys": _SCRIPT.encode(), "top.lpf": constraints(target), "timing.json": json.dumps(timing).encode() + b"\n"}


def synthesis_commands(target: Target, seed: int) -> tuple[Command, ...]:
    """From rtl/ to top.bit; a missed clock ends the run before there is a bitstream."""
    device = target.device.toolchain["nextpnr"]
    return (
        Command(("{yosys}", "-q", "-l", "yosys.log", "-s", "synth.ys"), "yosys.txt", "synthesis with yosys"),
        Command(("{nextpnr-ecp5}", *device, "--json", "netlist.json", "--lpf", "top.lpf", "--lpf-allow-unconstrained",
                 "--textcfg", "top.config", "--report", "nextpnr.json", "--timing-allow-fail", "--seed", str(seed)),
                "nextpnr.log", "place and route with nextpnr-ecp5", 3600),
        Command(("{python}", "-P", "-m", "greenedge.backends.finn.synthesis"), "timing.log", "timing check"),
        Command(("{ecppack}", "--compress", "--input", "top.config", "--bit", "top.bit"), "ecppack.log", "ecppack"),
        Command(("{python}", "-P", "-m", "greenedge.backends.finn.seal"), "seal.log", "sealing the bitstream"))


def achieved(folder: Path) -> float:
    """The clock frequency in Hz that nextpnr reports after routing."""
    clocks = json.loads((folder / "nextpnr.json").read_text())["fmax"]
    if not clocks:
        raise ToolError(f"{folder / 'nextpnr.json'} names no clock; the design has none, which is a defect of greenedge.")
    return min(clock["achieved"] for clock in clocks.values()) * 1e6


def check_timing(folder: Path) -> str:
    """One line with the result. Raises ToolError when the board's clock is too fast for the design."""
    asked = json.loads((folder / "timing.json").read_text())
    reached = achieved(folder)
    if reached < asked["clock_hz"]:
        raise ToolError(f"timing: the design reaches {reached / 1e6:.1f} MHz and {asked['target']} clocks it with "
                        f"{asked['clock_hz'] / 1e6:g} MHz; ask for fewer inferences per second, or try another seed.")
    return f"{reached / 1e6:.1f} MHz of {asked['clock_hz'] / 1e6:g} MHz"




def resources(folder: Path) -> dict[str, int]:
    """Counts from yosys' `stat` and nextpnr's report: LUT4 as mapped by yosys, carry cells apart; comb as packed."""
    cells = {name: int(n) for n, name in re.findall(r"^\s+(\d+)\s+\S*\s*([A-Z][A-Z0-9_]+)\s*$",
                                                    (folder / "cells.txt").read_text(), re.MULTILINE)}
    packed = json.loads((folder / "nextpnr.json").read_text())["utilization"]
    return {"lut4": cells.get("LUT4", 0), "ccu2c": cells.get("CCU2C", 0), "ff": packed["TRELLIS_FF"]["used"],
            "dsp": packed["MULT18X18D"]["used"], "bram": packed["DP16KD"]["used"],
            "bram_bits": packed["DP16KD"]["used"] * 18 * 1024, "comb": packed["TRELLIS_COMB"]["used"]}


def main() -> int:
    try:
        print(check_timing(Path(".")))
    except ToolError as error:
        print(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
