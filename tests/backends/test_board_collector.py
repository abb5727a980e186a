"""The board's collector by itself: words become bytes, samples of dropped passes vanish, with pauses on both sides."""

from __future__ import annotations

import pytest

from greenedge.hdl.board_shell import RTL
from tests.backends.unit_bench import Bench, Case, Port

pytestmark = [pytest.mark.tool("verilator"), pytest.mark.tool("g++")]
_ALONE = b"""module collector_alone #(int unsigned M_BYTES = 1, BEATS = 1, FW = 9, PASSES = 0, SAMPLES = 1) (
    input logic clk, input logic rst,
    input logic [8*M_BYTES-1:0] s_tdata, input logic s_tvalid, output logic s_tready,
    output logic [7:0] m_tdata, output logic m_tvalid, input logic m_tready);
    logic was_rst;
    always_ff @(posedge clk) was_rst <= rst;
    ge_collector #(.M_BYTES(M_BYTES), .BEATS(BEATS), .FW(FW)) unit (
        .clk, .rst, .s_tdata, .s_tvalid, .s_tready, .sample(), .drop_passes(PASSES), .drop_samples(16'(SAMPLES)),
        .drop_load(was_rst && !rst), .data(m_tdata), .valid(m_tvalid), .ready(m_tready), .empty());
endmodule
"""
# bytes of a beat, beats of a sample, bytes of the store as a power of two, passes that are dropped, samples of a pass
CASES = [
    (1, 10, 4, 0, 1),
    (2, 6, 9, 0, 1),
    (3, 1, 5, 0, 1),
    (7, 2, 5, 0, 1),
    (14, 1, 4, 0, 1),
    (1, 1, 4, 3, 2),
    (5, 2, 5, 2, 3),
]


def case(rng, width, beats, store, passes, size, samples=40):
    x = rng.integers(0, 256, (samples, width * beats))
    steady = 1 << store >= 2 * width + 4  # the store has room for a word while another is on its way out
    values = dict(M_BYTES=width, BEATS=beats, FW=store, PASSES=passes, SAMPLES=size)
    return Case(
        "collector_alone",
        values,
        [Port("s", 8, False, width, x)],
        [Port("m", 8, False, 1, x[passes * size :])],
        cycles=width * beats if steady else None,
    )


def test_bytes_come_in_order_and_dropped_passes_do_not(rng, tmp_path):
    sources = {"ge_collector.sv": (RTL / "ge_collector.sv").read_bytes(), "collector_alone.sv": _ALONE}
    Bench([case(rng, *values) for values in CASES], tmp_path, sources).check()


@pytest.mark.slow
def test_a_store_without_its_limit_is_noticed(rng, tmp_path):
    limit = b"fill <= (FW+1)'(2**FW - M_BYTES - 2)"
    text = (RTL / "ge_collector.sv").read_bytes()
    assert limit in text
    sources = {"ge_collector.sv": text.replace(limit, b"1'b1"), "collector_alone.sv": _ALONE}
    with pytest.raises(AssertionError, match="collector_alone_0_m"):
        Bench([case(rng, *values) for values in CASES[:1]], tmp_path, sources).check()
