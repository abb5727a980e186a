"""From a board's sources to its bitstream with open tools, for every family that greenedge has a shell for.

All paths are relative to the build folder: YoWASP's tools see nothing else. The clock must be met: nextpnr ends with an
error where it is not, and there is no bitstream then.
"""

from __future__ import annotations

from greenedge.errors import TargetError
from greenedge.target import Target
from greenedge.tools import Command

NETLIST, REPORT = "netlist.json", "nextpnr.json"
_SYNTHESIS = {"ecp5": "synth_ecp5 -abc9", "ice40": "synth_ice40 -dsp -device u", "gowin": "synth_gowin"}
_READ = ("read_slang --threads 1 --ignore-assertions --allow-use-before-declare --top board -f board.f\n"
         "read_verilog -overwrite board/ge_clock.v\n")
PRODUCT = {"ecp5": "board.bit", "ice40": "board.bin", "gowin": "board.fs"}


def bitstream_files(target: Target) -> dict[str, bytes]:
    """What the commands read beside the sources."""
    family = _known(target)
    script = f"{_READ}{_SYNTHESIS[family]} -top board -json {NETLIST}\ntee -q -o cells.txt stat\n"
    return {"board.ys": script.encode()}


def bitstream_commands(target: Target, nextpnr: tuple[str, ...], seed: int = 1) -> tuple[Command, ...]:
    """From board.f to the family's product (`PRODUCT`); `nextpnr` are the shell's arguments."""
    family = _known(target)
    device = target.device.toolchain["nextpnr"]
    yosys = Command(("{yosys}", "-q", "-l", "yosys.log", "-s", "board.ys"), "yosys.txt", "synthesis with yosys")
    common = (*device, "--json", NETLIST, *nextpnr, "--report", REPORT, "--seed", str(seed))
    name, routed, pack = {
        "ecp5": ("nextpnr-ecp5", ("--textcfg", "board.config"),
                 ("{ecppack}", "--compress", "--input", "board.config", "--bit", "board.bit")),
        "ice40": ("nextpnr-ice40", ("--asc", "board.asc"), ("{icepack}", "board.asc", "board.bin")),
        "gowin": ("nextpnr-himbaechel", ("--write", "board.pnr.json"),
                  ("{gowin_pack}", *target.device.toolchain.get("pack", ()), "-o", "board.fs", "board.pnr.json"))}[family]
    return (yosys, Command((f"{{{name}}}", *common, *routed), "nextpnr.log", f"place and route with {name}", 3600),
            Command(pack, "pack.log", f"packing {PRODUCT[family]}"))


def _known(target: Target) -> str:
    family = target.device.family
    if family not in PRODUCT:
        raise TargetError(f"{target.name}: greenedge makes no bitstream for family {family!r}; it does for {', '.join(PRODUCT)}.")
    return family
