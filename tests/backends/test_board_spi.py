"""The board that a CPU reaches by SPI: its pins under Verilator, a master that reads by writing IDLE."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from greenedge.hdl.axi_stream import Stream, pack, unpack
from greenedge.hdl.axi_stream.simulation import compile_model
from greenedge.hdl.board_shell import protocol
from greenedge.hdl.board_shell.protocol import Decoder, Frame, encode
from tests.backends.standin import OUTPUT, SOURCE, build_standin, samples

SIM_TOP = """module sim_top (input logic clk, spi_sck, spi_mosi, spi_cs, button, output logic spi_miso, led, marker);
    board board (.clk, .spi_sck, .spi_mosi, .spi_miso, .spi_cs, .led, .button, .marker);
endmodule
"""


@pytest.mark.tool("verilator")
@pytest.mark.tool("g++")
def test_samples_by_spi(tmp_path, rng):
    made = build_standin(tmp_path, "icebreaker", link="spi")
    sources = {name: (tmp_path / name).read_bytes() for name in made.simulation}
    program = compile_model(
        {**sources, "sim_top.sv": SIM_TOP.encode()}, lambda line: None, Path(__file__).with_name("spi.cpp")
    )
    x, y = samples(rng, 12)
    data = pack(Stream.from_plain(SOURCE), x)
    asked = [
        Frame(protocol.OPEN, 1, b"\x7c\x7d\x7e\x7f"),
        *(Frame(protocol.DATA, 2 + k, data[18 * k : 18 * (k + 1)]) for k in range(4)),
        Frame(protocol.READ, 9, bytes((4, 2))),
    ]
    idle = bytes((protocol.IDLE,))
    wire = b"".join(encode(frame) + idle * 150 for frame in asked)
    (tmp_path / "input.bin").write_bytes(wire)
    done = subprocess.run(
        [program, tmp_path / "input.bin"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120
    )
    decoder = Decoder()
    frames = decoder.feed(bytes.fromhex(done.stdout.strip()))
    assert decoder.bad == 0
    assert [(f.kind, f.seq) for f in frames] == [(f.kind | protocol.ANSWER, f.seq) for f in asked]
    assert frames[0].payload == asked[0].payload
    got = unpack(Stream.from_plain(OUTPUT), b"".join(f.payload for f in frames[1:5]), 12)
    assert np.array_equal(got, y)
    assert frames[5].payload == np.array([6, 12], "<u4").tobytes()  # bytes of a sample in and out
