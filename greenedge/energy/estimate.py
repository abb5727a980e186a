"""Estimates, each with its band: FPGA energy from switching activity, CPU energy from CPU time."""

from __future__ import annotations

import csv
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from greenedge.energy.cpu_share import CPU_BAND, WATTS_FROM, WATTS_PER_CORE
from greenedge.energy.evidence import Figure
from greenedge.energy.results import make_row
from greenedge.energy.source import SourceInfo
from greenedge.errors import GreenedgeError

_COEFFICIENTS = Path(__file__).parent / "data/fpga.toml"
_MAX_BYTES = 1 << 30
_DECIMAL = r"[0-9]{1,18}(?:\.[0-9]{1,18})?(?:[eE][+-]?[0-9]{1,2})?"
_TIME = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "ps": 1e-12, "fs": 1e-15}


@dataclass(frozen=True)
class Activity:
    """Toggles of all signals (`nets` of them) over `seconds` of work. `of` names the design: the netlist, or the RTL
    before synthesis; `samples` is the number of input vectors, of the `asked` ones where it was interrupted."""

    toggles: int
    seconds: float
    nets: int
    of: str = "the netlist"
    samples: int | None = None
    asked: int | None = None


@cache
def coefficients() -> Mapping[str, dict]:
    """Power coefficients by device; where `source` is "as DEVICE", that of the other device."""
    table = tomllib.loads(_COEFFICIENTS.read_text(encoding="utf-8"))
    return {name: c | {"source": table.get(c["source"].removeprefix("as "), c)["source"]} for name, c in table.items()}


def read_saif(path: Path) -> Activity:
    """The toggle counts (TC) of a SAIF file, summed over all nets. Raises GreenedgeError without DURATION, TIMESCALE or
    toggles."""
    if path.stat().st_size > _MAX_BYTES:
        raise GreenedgeError(
            f"{path} is {path.stat().st_size:,} bytes; at most {_MAX_BYTES:,} are read: simulate fewer vectors."
        )
    toggles = nets = 0
    scale = duration = None
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            if scale is None and (match := re.search(r"\(TIMESCALE\s+(\d{1,9})\s*([munpf]?s)\)", line)):
                scale = int(match[1]) * _TIME[match[2]]
            if duration is None and (match := re.search(rf"\(DURATION\s+({_DECIMAL})\)", line)):
                duration = float(match[1])
            for match in re.finditer(r"\(TC\s+([0-9]{1,18})\)", line):
                toggles, nets = toggles + int(match[1]), nets + 1
    return _activity(path, toggles, (scale or 0) * (duration or 0), nets)


def read_toggles(path: Path) -> Activity:
    """A CSV with net,toggles and one line `#seconds,S`. Raises GreenedgeError."""
    toggles, nets, seconds = 0, 0, 0.0
    try:
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            for number, row in enumerate(csv.reader(file), 1):
                if len(row) == 2 and row[0] == "#seconds" and re.fullmatch(_DECIMAL, row[1]):
                    seconds = float(row[1])
                elif len(row) == 2 and re.fullmatch(r"[0-9]{1,18}", row[1]):
                    toggles, nets = toggles + int(row[1]), nets + 1
                elif row and row != ["net", "toggles"]:
                    raise GreenedgeError(
                        f"{path}:{number}: {','.join(row)[:80]!r} is neither net,toggles nor #seconds,S; correct that "
                        "line."
                    )
    except csv.Error as error:
        raise GreenedgeError(f"{path} is no table of toggles: {error}.") from None
    return _activity(path, toggles, seconds, nets)


def device_of(part: str) -> str:
    """The device of a part number, LFE5U-85F-6BG381C's is lfe5u-85f. Raises GreenedgeError without coefficients."""
    for device in coefficients():
        if part.lower().startswith(device):
            return device
    raise GreenedgeError(f"there are no power coefficients for {part!r}; devices are: {', '.join(coefficients())}.")


def fpga_power(device: str, clock_hz: float, activity: Activity | None) -> tuple[Figure, dict[str, float]]:
    """P = V · (I_static + I_clock · f) + E_toggle · toggles/s with the band of the coefficients, and its parts in
    watts.

    Scope chip (core rail). Without activity the static power alone, as the figure's covers state. Raises
    GreenedgeError for a device without coefficients, or without activity where the device needs it.
    """
    c = coefficients()[device_of(device)]
    parts = {"static": c["core_v"] * c["static_a"]}
    if "clock_a_hz" in c:
        parts["clock"] = c["core_v"] * c["clock_a_hz"] * clock_hz
    if activity is not None:
        parts["switching"] = c["toggle_j"] * activity.toggles / activity.seconds
    elif not c.get("static_alone"):
        raise GreenedgeError(
            f"{device} needs the switching activity of its netlist: give a SAIF file or toggle "
            "counts (cell counts miss multipliers by a third of the total)."
        )
    watts, (low, high) = sum(parts.values()), c["band"]
    covers = f"{device} core rail" + ("" if "switching" in parts else ", static alone")
    return Figure(watts, "power", "w", "chip", "estimated", watts * low, watts * high, None, covers), parts


def fpga_row(
    name: str,
    device: str,
    clock_hz: float,
    activity: Activity | None,
    *,
    cycles: int,
    streaming: bool,
    accuracy: float | None = None,
) -> dict:
    """Joules per inference: P · II/f when streaming (`cycles` is the initiation interval), P · latency when
    single-shot."""
    if cycles <= 0 or clock_hz <= 0:
        raise GreenedgeError(f"{cycles} cycles at {clock_hz:g} Hz make no time; both must be above 0.")
    (power, parts), seconds = fpga_power(device, clock_hz, activity), cycles / clock_hz
    energy = replace(
        power,
        value=power.value * seconds,
        base="energy",
        unit="j",
        low=None if power.low is None else power.low * seconds,
        high=None if power.high is None else power.high * seconds,
    )
    c = coefficients()[device_of(device)]
    notes = [f"{part} {digits(watts * 1e3)} mW" for part, watts in parts.items()]
    notes = [
        "estimated core supply: " + " + ".join(notes) + f"; band ×{c['band'][0]:g} to ×{c['band'][1]:g}",
        c["source"],
    ]
    if activity is not None:
        share = f"{activity.samples} of {activity.asked}" if activity.asked else f"{activity.samples}"
        vectors = f" on {share} real vectors" if activity.samples else ""
        vectors += " (interrupted)" if activity.asked else ""
        notes.insert(1, f"toggles of {activity.of}{vectors}, without delays: glitches are not in it")
    notes.append("power times " + ("the initiation interval (streaming)" if streaming else "the latency (single shot)"))
    info = SourceInfo(
        f"estimate:{device}",
        "model",
        "chip",
        power.covers,
        evidence="estimated",
        host_included=False,
        notes=tuple(notes),
    )
    row = make_row(name, "model", info, {"total": energy, "power": power}, accuracy=accuracy, host_included=False)
    return row | {
        "latency_s": {"value": seconds},
        "parts": [{"part": part, "power_estimate_w": watts} for part, watts in parts.items()],
    }


def check_tdp(watts: float | None, threads: int | None, source: str) -> tuple[float, int]:
    """(watts, threads). Raises GreenedgeError unless all three are given and above 0."""
    if not watts or watts <= 0 or not threads or threads <= 0 or not source:
        raise GreenedgeError(
            f"an estimate from CPU time needs --tdp in watts, the --threads it is for and --tdp-source; there are "
            f"{watts}, {threads} and {source!r}: look for the CPU's data sheet."
        )
    return watts, threads


def cpu_row(
    name: str,
    cpu_seconds: float,
    inferences: int,
    tdp_w: float,
    threads: int,
    source: str,
    latency_s: float | None = None,
    accuracy: float | None = None,
) -> dict:
    """E = TDP / threads · CPU seconds / inferences, band ×0.4…1.6. Proportional to time, so it is excluded from
    rankings."""
    check_tdp(tdp_w, threads, source)
    joules = tdp_w / threads * cpu_seconds / inferences
    energy = Figure(
        joules,
        "energy",
        "j",
        "chip",
        "estimated",
        joules * CPU_BAND[0],
        joules * CPU_BAND[1],
        None,
        "cpu package share",
    )
    info = SourceInfo(
        "estimate:cpu",
        "model",
        "chip",
        "cpu package share",
        evidence="estimated",
        host_included=True,
        notes=(
            f"{tdp_w:g} W per core, {source}; this CPU's own: --tdp W --threads N --tdp-source TEXT"
            if (tdp_w, source) == (WATTS_PER_CORE, WATTS_FROM)
            else f"TDP {tdp_w:g} W over {threads} threads: {source}",
            "proportional to CPU time: it says nothing that the latency does not",
        ),
    )
    row = make_row(name, "model", info, {"total": energy}, accuracy=accuracy, host_included=True, ranking=False)
    return row | ({"latency_s": {"value": latency_s}} if latency_s else {})


def digits(value: float) -> str:
    """A number with two significant digits, the most that an estimate justifies."""
    return f"{float(f'{value:.1e}'):g}"


def _activity(path: Path, toggles: int, seconds: float, nets: int) -> Activity:
    if seconds <= 0 or nets == 0 or toggles == 0:
        raise GreenedgeError(
            f"{path} holds {nets} nets with {toggles} toggles over {seconds:g} s; all three must be "
            "above 0: simulate real vectors and dump the activity of the netlist."
        )
    return Activity(toggles, seconds, nets)
