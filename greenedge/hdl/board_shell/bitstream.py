"""From a board's sources to its bitstream with open tools, for every family that greenedge has a shell for.

All paths are relative to the build folder, the only one that YoWASP's tools can read. The core stays a separate module
of the netlist, so that stat.json has its cells separately and the netlist that nextpnr reads can be simulated through
the core's streams. The clock must be met: timing.py reads nextpnr's report and fails where it is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from greenedge.errors import GreenedgeError, TargetError
from greenedge.hdl.board_shell.pins import constraint_name
from greenedge.target import Target
from greenedge.tools.plan import Command

NETLIST, REPORT, STAT, TIMING = "netlist.json", "report.json", "stat.json", "timing.json"
_SYNTHESISED = "synthesised.json"  # before output registers are merged into block RAMs
PRODUCT = {"ecp5": "top.bit", "ice40": "top.bin", "gowin": "top.fs"}
_SYNTHESIS = {"ecp5": "synth_ecp5 -abc9", "ice40": "synth_ice40 -dsp -device u", "gowin": "synth_gowin -noiopads"}
# Gowin's pads are cells of the netlist; synth_gowin would also add them to the ports of the core
_PADS = {"gowin": "iopadmap -bits -inpad IBUF O:I -outpad OBUF I:O board\n"}
_PLACE_S = 3600
_READ = "read_slang --threads 1 --ignore-assertions --allow-use-before-declare"


def bitstream_of(build: Path) -> Path:
    """The bitstream in a build folder. Raises GreenedgeError where there is none."""
    found = [build / name for name in PRODUCT.values() if (build / name).is_file()]
    if not found:
        raise GreenedgeError(
            f"{build} has no bitstream ({', '.join(PRODUCT.values())}); run the build for a board to its end."
        )
    return found[0]


def bitstream_files(target: Target, core: str, engine: tuple[str, str, str] | None = None) -> dict[str, bytes]:
    """The scripts that the commands read; `core` is the core's module. Raises TargetError.

    `engine` is a module of the core that stays one in the netlist, so that it can be simulated alone: its name, the
    file that lists its sources, and the one that lists what is left of the core's.
    """
    family = _family_of(target)
    kept, read = (core, f"{_READ} --top {core} -f core.f")
    if engine is not None:
        name, own, rest = engine
        kept, read = (f"{core} {name}", f"{_READ} --top {name} -f {own}\n{_READ} --top {core} -f {rest}")
    # The core and the PLL are read first: read_slang resolves the board's instances to modules that exist already.
    script = f"""{read}
read_verilog board/ge_clock.v
{_READ} --top board -f board.f
setattr -mod -set keep_hierarchy 1 {kept}
{_SYNTHESIS[family]} -top board
{_PADS.get(family, "")}write_json {_SYNTHESISED if family == "ecp5" else NETLIST}
"""
    count = f"read_json {NETLIST}\ntee -q -o {STAT} stat -json -top board\n"
    return {"board.ys": script.encode(), "count.ys": count.encode()}


def bitstream_commands(target: Target, request: Mapping, seed: int = 1, seeds: int = 1) -> tuple[Command, ...]:
    """From shell.json and the core to the family's product (`PRODUCT`), for the shell that `request` describes.

    With `seeds` above 1 that many placements are tried from `seed` on, and the first that meets the clock is taken.
    Raises TargetError for a family without a shell.
    """
    family = _family_of(target)
    place, pack = _place_and_pack(target, family, request, seed, seeds)
    registers = Command(
        ("{python}", "-m", "greenedge.hdl.board_shell.ram_registers", _SYNTHESISED, NETLIST),
        "registers.log",
        "moving registers into block RAMs",
    )
    return (
        Command(
            ("{python}", "-m", "greenedge.hdl.board_shell"),
            "shell.log",
            "putting the core on the board",
            generates=True,
        ),
        Command(
            ("{yosys}", "-q", "-l", "yosys.log", "-s", "board.ys"),
            "yosys-out.log",
            "synthesis with yosys (its first call compiles it: a minute)",
        ),
        *((registers,) if family == "ecp5" else ()),
        Command(("{yosys}", "-q", "-s", "count.ys"), "count.log", "counting cells"),
        *place,
        Command(("{python}", "-m", "greenedge.hdl.board_shell.timing"), "timing.log", "checking the clock"),
        Command(pack, "pack.log", "packing the bitstream"),
    )


def bitstream_needs(target: Target) -> tuple[str, ...]:
    """The tools from a streaming core to the family's product; simulation and synthesis alone for a family without a
    shell."""
    place = {
        "ecp5": ("nextpnr-ecp5", "ecppack"),
        "ice40": ("nextpnr-ice40", "icepack"),
        "gowin": ("nextpnr-himbaechel", "gowin_pack"),
    }
    return ("perl", "g++", "make", "verilator", "yosys", *place.get(target.device.family, ()))


def _place_and_pack(
    target: Target, family: str, request: Mapping, seed: int, seeds: int
) -> tuple[tuple[Command, ...], tuple[str, ...]]:
    """(nextpnr's commands, the argv that packs its result into the product)."""
    name, routed, pack = {
        "ecp5": (
            "nextpnr-ecp5",
            ("--textcfg", "top.config"),
            ("{ecppack}", "--compress", "--input", "top.config", "--bit", PRODUCT["ecp5"]),
        ),
        "ice40": ("nextpnr-ice40", ("--asc", "top.asc"), ("{icepack}", "top.asc", PRODUCT["ice40"])),
        "gowin": (
            "nextpnr-himbaechel",
            ("--write", "top.pnr.json"),
            ("{gowin_pack}", *target.device.toolchain.get("pack", ()), "-o", PRODUCT["gowin"], "top.pnr.json"),
        ),
    }[family]
    arguments = (
        *target.device.toolchain["nextpnr"],
        "--json",
        NETLIST,
        *_constraints(request),
        *routed,
        "--timing-allow-fail",
        "--report",
        REPORT,
        "--detailed-timing-report",
    )
    label = "place and route with nextpnr (its first call compiles it: a minute)"
    if seeds == 1:
        return (Command((f"{{{name}}}", *arguments, "--seed", str(seed)), "nextpnr.log", label, _PLACE_S),), pack
    race = (
        "{python}",
        "-m",
        "greenedge.hdl.board_shell.seeds",
        str(seed),
        str(seeds),
        f"{routed[-1]},{REPORT}",
        name,
        *arguments,
    )
    version = Command((f"{{{name}}}", "--version"), "nextpnr-version.log", "asking nextpnr for its version")
    return (version, Command(race, "nextpnr.log", f"{label}, {seeds} seeds", _PLACE_S * seeds)), pack


def _constraints(request: Mapping) -> tuple[str, ...]:
    """nextpnr's arguments for pins and clock."""
    path, frequency = f"board/{constraint_name(request['family'])}", ("--freq", f"{request['clock_hz'] / 1e6:g}")
    options = {"ecp5": ("--lpf", path), "ice40": ("--pcf", path), "gowin": ("--vopt", f"cst={path}")}
    return (*options[request["family"]], *frequency)


def _family_of(target: Target) -> str:
    """The device's family. Raises TargetError for one without a shell."""
    family = target.device.family
    if family not in PRODUCT:
        raise TargetError(
            f"{target.name}: greenedge makes no bitstream for family {family!r}; it does for {', '.join(PRODUCT)}."
        )
    return family
