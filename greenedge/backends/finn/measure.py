"""Runs the stitched RTL for a few random vectors before synthesis: finds a deadlock early and counts cycles.

    python -m greenedge.backends.finn.measure     in the build folder, after the stitcher

Cycles do not depend on the data. Writes simulation.json: cycles per inference, latency, and the digest of the RTL that
ran, so that a bitstream can be tied to it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from greenedge.backends.finn.built import read_io, rtl_digest, run
from greenedge.errors import GreenedgeError
from greenedge.tools import find_tool

SAMPLES = 8


def measure(folder: Path) -> dict:
    """The record as written to simulation.json."""
    source = read_io(folder).source
    span = (-(1 << source.bits - 1), 1 << source.bits - 1) if source.signed else (0, 1 << source.bits)
    x = np.random.default_rng(1).integers(*span, (SAMPLES, *source.shape))
    found = run(folder, x, progress=lambda line: print(line, flush=True))
    return {"samples": SAMPLES, "cycles_per_inference": found.interval_cycles, "latency_cycles": found.first_output_cycles,
            "rtl": rtl_digest(folder), "verilator": str(find_tool("verilator"))}


def main() -> int:
    try:
        record = measure(Path("."))
    except GreenedgeError as error:
        print(f"error: {error}")
        return 1
    Path("simulation.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"{record['cycles_per_inference']:g} cycles per inference, first result after {record['latency_cycles']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
