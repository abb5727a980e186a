"""Every simulation watches its streams: a beat taken back or changed before it was taken ends it with a sentence."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from greenedge.backends.finn.stitch import _with_parts
from greenedge.boards.virtual import VirtualBoard
from greenedge.errors import ToolError
from greenedge.hdl import RTL
from greenedge.hdl.axi_stream import Stream
from greenedge.hdl.axi_stream.simulation import Stall, compile_model, find_broken_stream, run_model, sim_top
from greenedge.hdl.board_shell.protocol import OPEN, Frame, encode
from tests.backends.standin import build_standin

# parts of a unit, whose streams are the unit's own ports and watched there
_PARTS = {"ge_credit_pipeline.sv", "ge_fifo.sv", "ge_channel_pipeline.sv", "ge_requantise_serial.sv"}
_SOURCE = Stream("s", "x", 8, False, 1, 16, (16,))
_RESULT = Stream("m", "y", 8, False, 1, 16, (16,))
_DUT = """module dut (input logic clk, input logic [7:0] s_tdata, input logic s_tvalid, output logic s_tready,
    output logic [7:0] m_tdata, output logic m_tvalid, input logic m_tready);
    logic [3:0] age = '0;
    logic rst, room;
    always_ff @(posedge clk) if (age != 15) age <= age + 1'b1;
    assign rst = (age != 15);
    assign s_tready = room && !rst;
    logic [7:0] q_tdata;
    logic q_tvalid, q_tready;
    ge_queue #(.WIDTH(8), .DEPTH(4)) queue (
        .clk, .rst, .s_tdata, .s_tvalid(s_tvalid && !rst), .s_tready(room), .m_tdata(q_tdata), .m_tvalid(q_tvalid),
        .m_tready(q_tready));
    ge_width #(.BITS(8), .IN(1), .OUT(1)) behind (
        .clk, .rst, .s_tdata(q_tdata), .s_tvalid(q_tvalid), .s_tready(q_tready), .m_tdata, .m_tvalid, .m_tready);
endmodule
"""


def _simulate(sources: dict[str, str], folder: Path) -> np.ndarray:
    """What comes out of _DUT made of these sources, its output not ready every other cycle."""
    top = sim_top("dut", _SOURCE, [replace(_RESULT, name="m")])
    files = {name: text.encode() for name, text in {**sources, "sim_top.sv": top}.items()}
    model = compile_model(files, lambda line: None)
    x = np.arange(64).reshape(4, 16)
    return run_model(model, folder, _SOURCE, [_RESULT], x, stall=Stall(1, 0, 128)).values["y"]


@pytest.mark.tool("verilator")
@pytest.mark.tool("g++")
@pytest.mark.parametrize(
    "unit, whole, broken, said",
    [
        ("ge_fifo", "", "", ""),
        (
            "ge_fifo",
            "if (!m_tvalid || m_tready) m_tdata <= mem[rd];",
            "m_tdata <= mem[rd];",
            r"stream m \(sim_top\.dut\.queue\.hold_m\.hold_data\) changed a beat before it was taken",
        ),
        (
            "ge_fifo",
            "if (!m_tvalid || m_tready) m_tvalid <= pop;",
            "m_tvalid <= pop;",
            r"stream m \(sim_top\.dut\.queue\.hold_m\.hold_valid\) took a beat back before it was taken",
        ),
        # no unit of ours drives it: what watches is beside the design
        (
            "dut",
            ".m_tdata, .m_tvalid, .m_tready);",
            ".m_tdata, .m_tvalid(v), .m_tready(m_tready && t));\n    logic v, t;\n"
            "    always_ff @(posedge clk) t <= !t;\n    assign m_tvalid = v && t;",
            r"stream m \(sim_top\.hold_m\.hold_valid\) took a beat back before it was taken",
        ),
    ],
    ids=["whole", "changes", "takes back", "beside"],
)
def test_a_unit_that_breaks_the_protocol_ends_the_simulation(unit, whole, broken, said, tmp_path):
    sources = {f"{name}.sv": (RTL / f"{name}.sv").read_text() for name in ("ge_fifo", "ge_queue", "ge_width")} | {
        "dut.sv": _DUT
    }
    assert sources[f"{unit}.sv"].count(whole) == 1 or not said
    sources[f"{unit}.sv"] = sources[f"{unit}.sv"].replace(whole, broken) if said else sources[f"{unit}.sv"]
    if not said:
        assert np.array_equal(_simulate(sources, tmp_path), np.arange(64).reshape(4, 16))
        return
    with pytest.raises(ToolError, match=rf"^the simulation of {tmp_path} stopped: {said}\.$"):
        _simulate(sources, tmp_path)


@pytest.mark.tool("verilator")
@pytest.mark.tool("g++")
@pytest.mark.tool("make")
def test_the_virtual_board_ends_too(tmp_path):
    """The transmitter's bytes change under it: the board says so instead of sending nonsense."""
    build_standin(tmp_path)
    path = tmp_path / "board" / "ge_frame_tx.sv"
    whole = "assign data     = (phase == IDLE"
    assert path.read_text().count(whole) == 1
    broken = """logic [7:0] spin;
    always_ff @(posedge clk) spin <= rst ? '0 : spin + 1'b1;
    assign data = spin ^ (phase == IDLE"""
    path.write_text(path.read_text().replace(whole, broken))
    with VirtualBoard(tmp_path, limit_s=60) as board, open(board.port, "wb", buffering=0) as port:
        port.write(encode(Frame(OPEN, 1, b"once")))
        with pytest.raises(
            ToolError, match=r"stopped: stream data \(\S+frame_tx\S+\) changed a beat before it was taken"
        ):
            for _ in range(2000):
                board.status()


def test_every_stream_of_every_unit_is_watched():
    for path in sorted(RTL.rglob("*.sv")):
        if path.name in _PARTS or path.parent.name == "sim":
            continue
        text = path.read_text()
        streams = re.findall(r"output logic *(?:\[.*?\])? *((?:m\d?|core_s)_tvalid)", text)
        if path.parent.name == "board":
            streams = [name for name in streams if path.name != "ge_host.sv"]  # its streams are its parts'
        for valid in streams:
            assert f".tvalid({valid})" in text.partition("`ifdef GE_ASSERT")[2], (path.name, valid)


def test_synthesis_has_no_assertions():
    """What only simulations have is no part of a unit, and no source names the define outside its own guard."""
    for path in sorted(RTL.glob("*.sv")):
        assert "ge_stream_assert" not in _with_parts(path.stem)
        guarded = re.sub(r"^`ifdef GE_ASSERT$.*?^`endif$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
        assert "assert" not in guarded and "GE_ASSERT" not in guarded, path


def test_only_the_sentence_of_a_stream_is_taken_for_one():
    assert find_broken_stream("- warning: stream of consciousness\ncycles 3\n") is None
    assert find_broken_stream(
        "[3] %Fatal: a.sv:1: Assertion failed in t: stream m (t.u) took a beat back before it"
    ) == ("stream m (t.u) took a beat back before it")


def test_a_stream_that_stands_for_two_edges_is_watched_once():
    """An output that is an earlier edge in another shape has that edge's stream."""
    inner = Stream("y", "conv", 8, True, 4, 9, (4, 9))
    outer = replace(inner, edge="flat")
    text = sim_top("top", _SOURCE, [outer, inner])
    assert text.count(" hold_y (") == 1 and text.count("dut.y_tvalid") == 3  # one watch, two places in the wide port
