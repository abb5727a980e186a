"""The matrix-vector unit by itself, against integers, with random pauses on both sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import greenedge
from greenedge.backends.finn.units import memory_file
from greenedge.hdl.axi_stream import Stream
from greenedge.hdl.axi_stream.simulation import Stall, compile_model, run_model, sim_top

_RTL = Path(greenedge.__file__).parent / "hdl" / "rtl"
_FILES = ("ge_fifo.sv", "ge_credit_pipeline.sv", "ge_adder_tree.sv", "ge_product.sv", "ge_mvu.sv")
# K, M, PE, SIMD, weight bits, activation bits, signed activations, corrected by the unit
CASES = [(12, 6, 2, 12, 3, 4, 0, 1), (10, 4, 2, 5, 1, 2, 0, 0), (9, 3, 1, 3, 5, 7, 1, 0)]
SLOW = [(64, 32, 1, 4, 4, 4, 0, 0), (12, 6, 6, 3, 2, 3, 1, 0), (8, 8, 8, 8, 8, 8, 1, 1)]


@pytest.mark.tool("verilator")
@pytest.mark.tool("g++")
@pytest.mark.parametrize("case", [*CASES, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)], ids=str)
def test_matrix_vector_unit(rng, tmp_path, case):
    k, m, pe, simd, wb, ab, signed, correct = case
    weight = rng.choice([-1, 1], (m, k)) if wb == 1 else rng.integers(-(1 << (wb - 1)), 1 << (wb - 1), (m, k))
    lo, hi = (-(1 << (ab - 1)), (1 << (ab - 1)) - 1) if signed else (0, (1 << ab) - 1)
    x = rng.integers(lo, hi + 1, (20, k))
    x[0], x[1] = lo, hi
    left_out = (weight < 0).sum(1) << max(wb - 2, 0)
    bits = int((np.abs(weight).sum(1) * max(-lo, hi) + left_out).max()).bit_length() + 1
    words = weight.reshape(m // pe, pe, k // simd, simd).transpose(0, 2, 1, 3).reshape(-1, pe * simd)
    (tmp_path / "w.mem").write_bytes(memory_file((words < 0).astype(int) if wb == 1 else words, wb))
    (tmp_path / "c.mem").write_bytes(memory_file(left_out.reshape(-1, pe), bits))
    source = Stream("s", "x", ab, bool(signed), simd, k // simd, (k,))
    result = Stream("m", "y", bits, True, pe, m // pe, (m,), () if correct else tuple(int(c) for c in left_out))
    values = dict(K=k, M=m, PE=pe, SIMD=simd, W_BITS=wb, A_BITS=ab, ASGN=signed, OUT_BITS=bits, CORRECT=correct)
    parameters = ", ".join(f".{name}({value})" for name, value in values.items())
    dut = f"""module dut (
    input logic clk, input logic [{source.width - 1}:0] s_tdata, input logic s_tvalid, output logic s_tready,
    output logic [{result.width - 1}:0] m_tdata, output logic m_tvalid, input logic m_tready);
    logic [3:0] age = '0;
    logic rst, ready;
    always_ff @(posedge clk) if (age != 15) age <= age + 1'b1;
    assign rst = (age != 15);
    assign s_tready = ready && !rst;
    ge_mvu #({parameters}, .WEIGHTS_FILE("w.mem"), .CORRECTION_FILE("c.mem")) unit (
        .clk, .rst, .s_tdata, .s_tvalid(s_tvalid && !rst), .s_tready(ready), .m_tdata, .m_tvalid, .m_tready);
endmodule
"""
    sources = {name: (_RTL / name).read_bytes() for name in _FILES}
    sources |= {"dut.sv": dut.encode(), "sim_top.sv": sim_top("dut", source, [result]).encode()}
    model = compile_model(sources, lambda line: None)
    expected = x @ weight.T
    for stall in (Stall(), Stall(1, 128, 128), Stall(2, 170, 0), Stall(3, 0, 213)):
        run = run_model(model, tmp_path, source, [result], x, stall=stall)
        assert np.array_equal(run.values["y"], expected), stall
