"""Hardware: SystemVerilog units, the shell of a board around a core, streams and their simulation."""

from pathlib import Path

RTL = Path(__file__).resolve().parent / "rtl"  # the units; below it `board` and `amd`
