"""The requantiser by itself, pipelined and serial, against integers, with random pauses on both sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import greenedge
from greenedge.backends.finn.units import memory_file
from greenedge.hdl.axi_stream import Stream
from greenedge.hdl.axi_stream.simulation import Stall, compile_model, run_model, sim_top

_RTL = Path(greenedge.__file__).parent / "hdl" / "rtl"
_FILES = (
    "ge_fifo.sv",
    "ge_credit_pipeline.sv",
    "ge_channel_pipeline.sv",
    "ge_scale.sv",
    "ge_clip.sv",
    "ge_requantise_serial.sv",
    "ge_requantise.sv",
)
# channels, PE, input bits, signed input, multiplier bits, shift, lowest and highest level, cycles per beat
# the last: serial and unsigned, so that an x with its top bit set tells whether it is taken for a negative number
CASES = [(32, 1, 13, 1, 13, 19, 0, 15, 16), (6, 2, 7, 1, 6, 4, -3, 5, 8), (4, 2, 7, 0, 6, 9, 0, 15, 8)]
SLOW = [
    (6, 2, 7, 0, 5, 9, -8, 7, 7),
    (18, 3, 9, 1, 9, 14, 0, 6, 1),
    (1, 1, 4, 0, 1, 3, 0, 1, 3),
    (40, 2, 16, 1, 1, 2, -128, 127, 3),
    (3, 1, 18, 1, 15, 24, 0, 7, 17),
]


@pytest.mark.tool("verilator")
@pytest.mark.tool("g++")
@pytest.mark.parametrize("case", [*CASES, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)], ids=str)
def test_requantiser(rng, tmp_path, case):
    channels, pe, xb, signed, mb, shift, lo, hi, cycles = case
    x_lo, x_hi = (-(1 << (xb - 1)), (1 << (xb - 1)) - 1) if signed else (0, (1 << xb) - 1)
    m = rng.integers(0, 1 << mb, channels)
    m[0] = (1 << mb) - 1
    b = rng.integers(-abs(int(m.max() * x_hi)) - (1 << shift), abs(int(m.max() * x_hi)) + (1 << shift), channels)
    x = rng.integers(x_lo, x_hi + 1, (40, channels))
    x[0], x[1] = x_lo, x_hi
    ob = max(1, hi.bit_length() if lo >= 0 else max((-lo - 1).bit_length(), hi.bit_length()) + 1)
    ends = np.concatenate([m * x_lo + b, m * x_hi + b, b])
    bb = max(int(np.abs(ends).max()).bit_length() + 1, shift + ob + 1)
    fields = (m.astype(object) << bb) | (b.astype(object) & ((1 << bb) - 1))
    (tmp_path / "p.mem").write_bytes(memory_file(fields.reshape(-1, pe), mb + bb))
    source = Stream("s", "x", xb, bool(signed), pe, channels // pe, (channels,))
    result = Stream("m", "y", ob, lo < 0, pe, channels // pe, (channels,))
    values = dict(
        C=channels,
        PE=pe,
        X_BITS=xb,
        XSGN=signed,
        M_BITS=mb,
        B_BITS=bb,
        SHIFT=shift,
        LO=lo,
        HI=hi,
        OUT_BITS=ob,
        CYCLES=cycles,
    )
    parameters = ", ".join(f".{name}({value})" for name, value in values.items())
    dut = f"""module dut (
    input logic clk, input logic [{source.width - 1}:0] s_tdata, input logic s_tvalid, output logic s_tready,
    output logic [{result.width - 1}:0] m_tdata, output logic m_tvalid, input logic m_tready);
    logic [3:0] age = '0;
    logic rst, ready;
    always_ff @(posedge clk) if (age != 15) age <= age + 1'b1;
    assign rst = (age != 15);
    assign s_tready = ready && !rst;
    ge_requantise #({parameters}, .PARAMETERS_FILE("p.mem")) unit (
        .clk, .rst, .s_tdata, .s_tvalid(s_tvalid && !rst), .s_tready(ready), .m_tdata, .m_tvalid, .m_tready);
endmodule
"""
    sources = {name: (_RTL / name).read_bytes() for name in _FILES}
    sources |= {"dut.sv": dut.encode(), "sim_top.sv": sim_top("dut", source, [result]).encode()}
    model = compile_model(sources, lambda line: None)
    expected = np.clip((m * x + b) >> shift, lo, hi)
    assert len(np.unique(expected)) > 1
    for stall in (Stall(), Stall(1, 128, 128), Stall(2, 170, 0), Stall(3, 0, 213)):
        run = run_model(model, tmp_path, source, [result], x, stall=stall)
        assert np.array_equal(run.values["y"], expected), stall
        if stall == Stall():
            per_beat = mb + 2 if cycles >= mb + 2 and shift > mb else 1
            assert run.interval_cycles == per_beat * source.beats
