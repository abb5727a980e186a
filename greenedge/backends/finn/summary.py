"""A build's numbers, parsed from the tools' own logs and the simulation's record; nothing is estimated here.

FINN+'s cycle estimate stands beside the simulated cycles under its own key.
"""

from __future__ import annotations

import json
from pathlib import Path

from greenedge.backends.finn.synthesis import achieved, resources
from greenedge.errors import GreenedgeError
from greenedge.tools import RECORD


def hardware_report(folder: Path) -> dict:
    """See DESIGN §10 for the keys. A build that stopped before synthesis has no resources and no clock: they are absent."""
    from greenedge.backends.finn import NO_HOST_INTERFACE

    finn, simulated, record = (_json(folder / name) for name in ("finn.json", "simulation.json", RECORD))
    tools = {"finn-plus": finn["finn_plus"], **record["tools"]} | {"verilator": simulated["verilator"]}
    cycles = simulated["cycles_per_inference"]
    hardware = {"cycles_per_inference": cycles, "latency_cycles": simulated["latency_cycles"],
                "estimated_cycles": finn["estimated_cycles"], "rtl_sha256": simulated["rtl"], "tools": tools}
    evidence = {"cycles_per_inference": "simulated", "latency_cycles": "simulated", "estimated_cycles": "estimated"}
    if (folder / "top.bit").is_file():
        clock = _json(folder / "timing.json")["clock_hz"]
        hardware |= resources(folder) | {
            "fmax_hz": achieved(folder), "clock_hz": clock, "part": _json(folder / "part.json")["part"],
            "ips": clock / cycles, "latency_s": simulated["latency_cycles"] / clock,
            "bitstream_bytes": (folder / "top.bit").stat().st_size, "host_interface": None, "note": NO_HOST_INTERFACE}
        evidence |= {"lut4": "yosys", "ccu2c": "yosys", "ff": "nextpnr", "comb": "nextpnr", "dsp": "nextpnr",
                     "bram_bits": "nextpnr", "fmax_hz": "nextpnr, after routing",
                     "ips": "simulated cycles at the board's clock", "latency_s": "simulated cycles at the board's clock"}
    layers = [{key: node[key] for key in ("name", "op", "PE", "SIMD", "cycles") if key in node} for node in finn["layers"]]
    return {"hardware": hardware, "tools": tools, "evidence": evidence, "layers": layers}


def _json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise GreenedgeError(f"{path} is missing or damaged ({error}); run the build stage again.") from None
