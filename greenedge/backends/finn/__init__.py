"""Back end `finn`: a folded streaming accelerator. FINN+ folds; our units compute; open tools make the bitstream.

What each stage of a build leaves in its folder: job.json, arrays/ (the integer graph in numbers), finn.json (FINN+'s
folding and estimates), rtl/ (all that is synthesised, memory files included), sim/, io.json, simulation.json (cycles),
then the synthesis tools' logs and top.bit.

Options: `fps` (inferences per second wanted), `cycles` (cycles per inference wanted, instead), `seed` (of place and
route), `rtl_only` (stop before synthesis).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from greenedge.errors import GreenedgeError, Reason, ToolError
from greenedge.graph import Graph
from greenedge.target import Target
from greenedge.tools import Plan

__all__ = ["check", "plan", "provenance", "report", "simulate", "tools"]

DEFAULT_CYCLES = 512
NO_HOST_INTERFACE = ("the bitstream has no host interface yet: its streams end on pins of the placer's choice, so it "
                     "proves size, timing and function but does not talk to a computer")
_OPTIONS = {"fps": "inferences per second, a whole number above 0", "cycles": "cycles per inference, a whole number above 0",
            "seed": "a whole number", "rtl_only": "true or false"}


def check(graph: Graph, target: Target, options: Mapping[str, object]) -> list[Reason]:
    """Every reason why this graph cannot be built for this target with these options. Fast; needs no tool."""
    from greenedge.backends.finn.network import chain_of, reasons_against

    reasons = [*_option_reasons(options), *_target_reasons(target, options), *reasons_against(graph)]
    if not reasons:
        reasons += _size_reasons(chain_of(graph), target, options)
    return reasons


def _option_reasons(options: Mapping[str, object]) -> list[Reason]:
    reasons = []
    for key, value in options.items():
        if key not in _OPTIONS:
            reasons.append(Reason(f"build.{key}", "option", f"{value!r}", f"finn knows {', '.join(_OPTIONS)}", "leave it out"))
        elif key == "rtl_only":
            if not isinstance(value, bool):
                reasons.append(Reason(f"build.{key}", "option", f"{value!r}", f"it is {_OPTIONS[key]}", f"--set build.{key}=true"))
        elif type(value) is not int or (key != "seed" and value < 1):
            reasons.append(Reason(f"build.{key}", "option", f"{value!r}", f"it is {_OPTIONS[key]}", f"--set build.{key}=1000"))
    if "fps" in options and "cycles" in options:
        reasons.append(Reason("build.cycles", "option", f"{options['cycles']!r} beside build.fps",
                              "they say the same thing twice", "give one of the two"))
    return reasons


def _target_reasons(target: Target, options: Mapping[str, object]) -> list[Reason]:
    from greenedge.backends.finn.synthesis import FAMILIES

    if target.device.family not in FAMILIES:
        return [Reason(target.name, "target", f"device family {target.device.family}",
                       f"finn makes bitstreams for {', '.join(FAMILIES)} so far", "choose ulx3s-85f")]
    if target.clock_hz is None or target.clock_pin is None:
        return [Reason(target.name, "target", "no clock", "a bitstream needs the pin and frequency of the board's clock",
                       "add clock = { pin = …, hz = … } to the board file")]
    if "nextpnr" not in target.device.toolchain:
        return [Reason(target.name, "target", "no toolchain.nextpnr", "nextpnr must be told the part and package",
                       "add it to the device file")]
    return []


def _size_reasons(chain, target: Target, options: Mapping[str, object]) -> list[Reason]:
    """Lower bounds only: what certainly does not fit. Whether the rest fits, place and route decides."""
    reasons = []
    have = target.device.resources.get("bram_bits")
    if have is not None and chain.weight_bits > have:
        worst = max((layer for layer in chain.layers if hasattr(layer, "weight")),
                    key=lambda layer: layer.weight.size * layer.weight_bits)
        reasons.append(Reason(worst.name, "too-big", f"the model's weights take {chain.weight_bits:,} bits",
                              f"{target.device.part} has {have:,} bits of block RAM", "fewer bits or fewer weights"))
    fastest = max((layer.vectors for layer in chain.layers), default=1)
    if "fps" in options and target.clock_hz // options["fps"] < fastest:
        reasons.append(Reason("build.fps", "too-fast", f"{options['fps']:,} inferences per second",
                              f"at {target.clock_hz / 1e6:g} MHz the fastest folding gives {target.clock_hz // fastest:,}",
                              "ask for less"))
    return reasons


def target_cycles(target: Target, options: Mapping[str, object]) -> int:
    """Cycles per inference that the folding aims at."""
    if "cycles" in options:
        return int(options["cycles"])
    return int(target.clock_hz // options["fps"]) if "fps" in options else DEFAULT_CYCLES


def plan(graph: Graph, target: Target, options: Mapping[str, object]) -> Plan:
    """What to write and run, for a graph against which `check` has nothing. The same inputs give the same bytes."""
    from greenedge.backends.finn.job import job_files
    from greenedge.backends.finn.network import chain_of
    from greenedge.backends.finn.synthesis import PRODUCTS, synthesis_commands, synthesis_files
    from greenedge.tools import Command

    files = job_files(chain_of(graph), target_cycles(target, options), target.clock_hz, {})
    module = ("{python}", "-P", "-m")
    commands = (Command((*module, "greenedge.backends.finn.launch", "job.json"), "finn.log", "FINN+ (folding, layers)"),
                Command((*module, "greenedge.backends.finn.stitch"), "stitch.log", "stitching the RTL"),
                Command((*module, "greenedge.backends.finn.measure"), "verilator.log", "counting cycles with Verilator"))
    products = ("rtl/top.sv", "io.json", "finn.json", "simulation.json")
    if options.get("rtl_only"):
        return Plan(files, commands, products)
    return Plan({**files, **synthesis_files(target), "part.json": json.dumps({"part": target.device.part}).encode()},
                (*commands, *synthesis_commands(target, int(options.get("seed", 1)))), (*PRODUCTS, *products))


def simulate(folder: Path, x: np.ndarray, keep: Sequence[str] = (), progress: Callable = lambda *_: None) -> dict[str, np.ndarray]:
    """The output edge, and those edges of `keep` that are streams, for integers `x`; from the RTL that lies there now.

    `progress(done, total, text)`. Whether the bitstream comes from that RTL is `provenance`'s to say.
    """
    from greenedge.backends.finn.built import run

    return dict(run(Path(folder), np.asarray(x), keep, progress=lambda line: progress(0, 0, line)).values)


def report(folder: Path) -> dict:
    """{"hardware": {…}, "tools": {…}, "evidence": {…}} from the tools' own logs and the simulation's record."""
    from greenedge.backends.finn.summary import hardware_report

    return hardware_report(Path(folder))


def provenance(folder: Path) -> dict:
    """{"bitstream", "rtl", "made_from", "same"}: whether the bitstream there comes from the RTL that lies there now."""
    from greenedge.backends.finn.built import rtl_digest

    folder = Path(folder)
    now = rtl_digest(folder)
    seal = folder / "seal.json"
    if not seal.is_file():
        return {"bitstream": None, "rtl": now, "made_from": None, "same": False}
    try:
        sealed = json.loads(seal.read_text())
        return {"bitstream": sealed["bitstream"], "rtl": now, "made_from": sealed["rtl"],
                "same": sealed["rtl"] == now and sealed["bitstream"] == _bitstream_digest(folder)}
    except (ValueError, KeyError, TypeError) as error:
        raise GreenedgeError(f"{seal} is damaged ({error}); run the build stage again.") from None


def _bitstream_digest(folder: Path) -> str | None:
    from greenedge.files import sha256_file

    path = folder / "top.bit"
    return sha256_file(path) if path.is_file() else None


def tools(options: Mapping[str, object]) -> dict[str, str]:
    """Names and versions that decide what a build gives. A tool that is missing counts as such."""
    from greenedge.backends.finn.environment import pins
    from greenedge.tools import find_tool

    names = ["verilator"] + ([] if options.get("rtl_only") else ["yosys", "nextpnr-ecp5", "ecppack"])
    found = {"finn-plus": next(pin.partition("==")[2] for pin in pins() if pin.startswith("finn-plus=="))}
    for name in names:
        try:
            found[name] = str(find_tool(name))
        except ToolError:
            found[name] = "missing"
    return found
