"""What the target files say, asked of the tools: the part exists, its totals are these, and every pin is one of the
package's."""

import os
import re
import subprocess

import pytest

from greenedge.target import list_targets, load_target
from greenedge.tools.discover import find_tool

BLINK = """
module top(input clk, input button, input uart_rx, output reg led, output uart_tx);
  always @(posedge clk) led <= button;
  assign uart_tx = uart_rx;
endmodule
"""
# family -> (nextpnr, how to write a pin, options for the constraints and the result, resource -> (name in the log, bits
# each))
FAMILIES = {
    "ecp5": (
        "nextpnr-ecp5",
        'LOCATE COMP "{0}" SITE "{1}"; IOBUF PORT "{0}" IO_TYPE=LVCMOS33;\n',
        ["--lpf", "pins", "--textcfg", "out"],
        {
            "lut4": ("TRELLIS_COMB", 1),
            "ff": ("TRELLIS_FF", 1),
            "dsp": ("MULT18X18D", 1),
            "bram_bits": ("DP16KD", 18432),
        },
    ),
    "ice40": (
        "nextpnr-ice40",
        "set_io {0} {1}\n",
        ["--pcf", "pins", "--asc", "out"],
        {
            "lut4": ("ICESTORM_LC", 1),
            "ff": ("ICESTORM_LC", 1),
            "dsp": ("ICESTORM_DSP", 1),
            "bram_bits": ("ICESTORM_RAM", 4096),
            "spram_bits": ("ICESTORM_SPRAM", 262144),
        },
    ),
    "gowin": (
        "nextpnr-himbaechel",
        'IO_LOC "{0}" {1};\n',
        ["--vopt", "cst=pins", "--write", "out"],
        {"lut4": ("LUT4", 1), "ff": ("DFF", 1), "dsp": ("MULT18X18", 1), "bram_bits": ("BSRAM", 18432)},
    ),
}
BOARDS = [
    pytest.param(name, marks=pytest.mark.tool(FAMILIES[load_target(name).device.family][0]))
    for name in list_targets()
    if load_target(name).device.family in FAMILIES
]


def _run(tool: str, words, folder) -> str:
    found = find_tool(tool)
    done = subprocess.run(
        [*found.argv, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
        env={**os.environ, **found.env},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.tool("yosys")
@pytest.mark.parametrize("name", BOARDS)
def test_part_totals_and_pins(name, tmp_path):
    target = load_target(name)
    tool, pin, options, totals = FAMILIES[target.device.family]
    (tmp_path / "top.v").write_text(BLINK)
    _run("yosys", ["-q", "-p", f"read_verilog top.v; synth_{target.device.family} -top top -json top.json"], tmp_path)
    pins = {
        "clk": target.clock_pin,
        **{signal: target.pins[signal] for signal in ("button", "led", "uart_rx", "uart_tx")},
    }
    (tmp_path / "pins").write_text("".join(pin.format(signal, place) for signal, place in pins.items()))
    log = _run(tool, [*target.device.toolchain["nextpnr"], "--json", "top.json", *options], tmp_path)
    for resource, (cell, bits) in totals.items():
        total = re.search(rf"\s{cell}:\s+\d+/\s*(\d+)", log)
        assert total and int(total.group(1)) * bits == target.device.resources[resource], resource
