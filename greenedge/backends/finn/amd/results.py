"""Numbers from Vivado's own reports: resources of the core, and the clock that it reaches."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from greenedge.backends.finn import build_dir
from greenedge.backends.finn.amd import REQUEST, RESULT
from greenedge.errors import GreenedgeError

# row of report_utilization -> (our name, how much one counts)
_ROWS = {
    "CLB LUTs": ("lut", 1),
    "Slice LUTs": ("lut", 1),
    "CLB Registers": ("ff", 1),
    "Slice Registers": ("ff", 1),
    "DSPs": ("dsp", 1),
    "Block RAM Tile": ("bram_bits", 36864),
}
_CELLS = {"lut": ("LUT[1-6]", 1), "ff": ("FD[RSCP]E", 1), "dsp": ("DSP48E[12]", 1)}
_BLOCKS = {"RAMB36E[12]": 36864, "RAMB18E[12]": 18432}
_BY_YOSYS = "reported by yosys, FINN's core as behaviour: its DSP packing shows in Vivado only"
_SLACK = re.compile(r"WNS\(ns\).*?\n[- ]+\n\s*(-?\d+\.\d+)", re.DOTALL)
_MAX_BYTES = 16 << 20


def utilisation(path: Path) -> dict[str, int]:
    """{lut, ff, dsp, bram_bits} of report_utilization. Raises GreenedgeError where the file is no such report."""
    text = _read(path)
    found: dict[str, int] = {}
    for line in text.splitlines():
        cells = [cell.strip().rstrip("*") for cell in line.split("|")[1:-1]]
        if len(cells) > 1 and cells[0] in _ROWS and re.fullmatch(r"\d+(\.\d+)?", cells[1]):
            name, each = _ROWS[cells[0]]
            found.setdefault(name, int(float(cells[1]) * each))
    if "lut" not in found:
        raise GreenedgeError(f"{path} is no utilisation report of Vivado; run the build stage again.")
    return found


def fmax_hz(path: Path, clock_hz: float) -> float:
    """The highest clock by report_timing_summary's worst slack. Raises GreenedgeError where the file has none."""
    slack = _SLACK.search(_read(path))
    if slack is None:
        raise GreenedgeError(f"{path} is no timing summary of Vivado; run the build stage again.")
    return 1e9 / (1e9 / clock_hz - float(slack[1]))


def report(folder: Path) -> dict[str, Any]:
    """{"hardware": …}: resources and clock by Vivado where it ran, else resources by yosys; cycles simulated."""
    simulated, design, record, request, vivado, stat = (
        build_dir.read(folder, name)
        for name in ("simulation.json", "folding.json", "build.json", REQUEST, RESULT, "stat.json")
    )
    finn = build_dir.read_finn(folder)
    by_vivado = vivado.get("core")
    counted = by_vivado or {
        **{name: build_dir.cells(stat, None, *cells) for name, cells in _CELLS.items()},
        "bram_bits": sum(build_dir.cells(stat, None, kind, bits) or 0 for kind, bits in _BLOCKS.items()),
    }
    clock_hz, cycles = request["clock_hz"], simulated["interval_cycles"]
    hardware = {
        **counted,
        "clock_hz": clock_hz,
        "cycles_per_inference": cycles,
        "latency_s": simulated["latency_cycles"] / clock_hz,
        "ips": clock_hz / cycles if cycles else None,
        "estimated_cycles": design["interval_cycles"],
        "rtl_sha256": simulated["rtl_sha256"],
        "tools": dict(record["tools"]),
        "host_interface": "AXI DMA, vivado/driver.py"
        if request["shell"] == "vivado_zynq"
        else "none: FINN's flow makes it",
    }
    evidence = {
        **dict.fromkeys(counted, "reported by Vivado" if by_vivado else _BY_YOSYS),
        "cycles_per_inference": "simulated",
        "latency_s": "simulated",
        "ips": "simulated",
        "estimated_cycles": "estimated",
        **({} if by_vivado else {"clock_hz": "asked for"}),
    }
    notes = [
        *design["notes"],
        *(build_dir.compare_with_finn(design, finn) if finn else ()),
        *([] if by_vivado else [vivado["said"]]),
    ]
    asked = {"finn-plus": finn["finn_plus"]} if finn else {}
    return {"hardware": hardware, "evidence": evidence, "notes": notes, "tools": {**record["tools"], **asked}}


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise GreenedgeError(f"{path} has more than {_MAX_BYTES:,} bytes; a report is smaller.")
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise GreenedgeError(
            f"{path} cannot be read ({str(error.strerror).lower()}); run the build stage again."
        ) from None
