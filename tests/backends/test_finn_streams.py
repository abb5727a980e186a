"""The requantiser and the width converter by themselves, exact under random pauses; and a deadlock, an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import greenedge
from greenedge.errors import ToolError
from greenedge.hdl.axi_stream import Stream
from greenedge.hdl.axi_stream.simulation import Stall, compile_model, run_model, sim_top

pytestmark = [pytest.mark.tool("verilator"), pytest.mark.tool("g++")]
_RTL = Path(greenedge.__file__).parent / "hdl" / "rtl"
_STALLS = (Stall(), Stall(1, 128, 128), Stall(2, 170, 0), Stall(3, 0, 213))


def _dut(source: Stream, result: Stream, unit: str, ready: str = "m_tready") -> str:
    return f"""module dut (
    input logic clk, input logic [{source.width - 1}:0] s_tdata, input logic s_tvalid, output logic s_tready,
    output logic [{result.width - 1}:0] m_tdata, output logic m_tvalid, input logic m_tready);
    logic [3:0] age = '0;
    logic rst, room;
    always_ff @(posedge clk) if (age != 15) age <= age + 1'b1;
    assign rst = (age != 15);
    assign s_tready = room && !rst;
    {unit} unit (
        .clk, .rst, .s_tdata, .s_tvalid(s_tvalid && !rst), .s_tready(room), .m_tdata, .m_tvalid, .m_tready({ready}));
endmodule
"""


def _model(files, dut: str, source: Stream, result: Stream) -> Path:
    sources = {name: (_RTL / name).read_bytes() for name in files}
    return compile_model(
        sources | {"dut.sv": dut.encode(), "sim_top.sv": sim_top("dut", source, [result]).encode()}, lambda line: None
    )


@pytest.mark.parametrize("bits, narrow, wide", [(3, 1, 6), (5, 4, 2)], ids=["widen", "narrow"])
def test_width_converter_keeps_every_element_in_order(rng, tmp_path, bits, narrow, wide):
    source = Stream("s", "x", bits, False, narrow, 24 // narrow, (24,))
    result = Stream("m", "y", bits, False, wide, 24 // wide, (24,))
    dut = _dut(source, result, f"ge_width #(.BITS({bits}), .IN({narrow}), .OUT({wide}))")
    model = _model(("ge_width.sv",), dut, source, result)
    x = rng.integers(0, 1 << bits, (20, 24))
    for stall in _STALLS:
        assert np.array_equal(run_model(model, tmp_path, source, [result], x, stall=stall).values["y"], x), stall


# channels, PE, input bits, signed input, lowest and highest level, bits of m
@pytest.mark.parametrize("c, pe, xb, signed, lo, hi, mb", [(6, 2, 12, 1, 0, 15, 9), (5, 1, 9, 0, -7, 7, 2)], ids=str)
def test_requantiser_scales_shifts_and_clips_exactly(rng, tmp_path, c, pe, xb, signed, lo, hi, mb):
    shift = mb + 2
    low, high = (-(1 << (xb - 1)), (1 << (xb - 1)) - 1) if signed else (0, (1 << xb) - 1)
    m, b = rng.integers(1, 1 << mb, c), rng.integers(-(1 << (xb + mb - 2)), 1 << (xb + mb - 2), c)
    m[0] = (1 << mb) - 1
    bb, ob = xb + mb + 2, 4
    fields = [(int(mm) << bb) | (int(v) & ((1 << bb) - 1)) for mm, v in zip(m, b, strict=True)]
    rows = [sum(fields[f * pe + p] << (p * (mb + bb)) for p in range(pe)) for f in range(c // pe)]
    (tmp_path / "p.mem").write_text("".join(f"{row:x}\n" for row in rows))
    source = Stream("s", "x", xb, bool(signed), pe, c // pe, (c,))
    result = Stream("m", "y", ob, lo < 0, pe, c // pe, (c,))
    settings = dict(C=c, PE=pe, X_BITS=xb, XSGN=signed, M_BITS=mb, B_BITS=bb, SHIFT=shift, LO=lo, HI=hi, OUT_BITS=ob)
    parameters = ", ".join(f".{key}({value})" for key, value in settings.items())
    dut = _dut(source, result, f'ge_requantise #({parameters}, .PARAMETERS_FILE("p.mem"))')
    model = _model(
        (
            "ge_fifo.sv",
            "ge_credit_pipeline.sv",
            "ge_channel_pipeline.sv",
            "ge_scale.sv",
            "ge_clip.sv",
            "ge_requantise.sv",
        ),
        dut,
        source,
        result,
    )
    x = rng.integers(low, high + 1, (60, c))
    x[0], x[1] = low, high
    expected = np.clip((m * x + b) >> shift, lo, hi)
    assert {lo, hi} <= set(expected.ravel().tolist())
    for stall in _STALLS:
        assert np.array_equal(run_model(model, tmp_path, source, [result], x, stall=stall).values["y"], expected), stall


def test_a_deadlock_is_one_sentence(rng, tmp_path):
    source, result = Stream("s", "x", 4, False, 1, 8, (8,)), Stream("m", "y", 4, False, 2, 4, (8,))
    dut = (
        _dut(source, result, "ge_width #(.BITS(4), .IN(1), .OUT(2))", ready="1'b0")
        .replace("endmodule", "    wire unused = m_tready;\nendmodule")
        .replace(".m_tvalid, .m_tready(1'b0)", ".m_tvalid(), .m_tready(1'b0)")
    )
    dut = dut.replace("assign rst =", "assign m_tvalid = 1'b0;\n    assign rst =")
    model = _model(("ge_width.sv",), dut, source, result)
    with pytest.raises(ToolError) as caught:
        run_model(model, tmp_path, source, [result], rng.integers(0, 16, (3, 8)), patience=200)
    assert str(caught.value) == (
        f"the simulation of {tmp_path} stopped: no stream moved for 200 cycles after 4 input beats and "
        "0 output beats; waiting: m is empty, end."
    )
