"""Folders whose names hold spaces, quotes and umlauts: GNU make cannot build in them, people have them all the same."""

from __future__ import annotations

import tempfile

import numpy as np
import pytest

from greenedge.files import cache
from greenedge.hdl.axi_stream import Stream
from greenedge.hdl.axi_stream.simulation import compile_model, run_model, sim_top

PASS = b"""module dut (
    input logic clk, input logic [7:0] s_tdata, input logic s_tvalid, output logic s_tready,
    output logic [7:0] m_tdata, output logic m_tvalid, input logic m_tready);
    assign m_tdata = s_tdata;
    assign m_tvalid = s_tvalid;
    assign s_tready = m_tready;
endmodule
"""


@pytest.mark.tool("verilator")
@pytest.mark.tool("g++")
def test_a_simulation_runs_in_any_folder(rng, tmp_path, monkeypatch):
    odd = tmp_path / 'Büro "A" \\ 2'
    for name in ("cache", "tmp", "build"):
        (odd / name).mkdir(parents=True)
    monkeypatch.setattr(cache.platformdirs, "user_cache_dir", lambda name: str(odd / "cache" / name))
    monkeypatch.setattr(tempfile, "tempdir", str(odd / "tmp"))
    source, result = Stream("s", "x", 8, False, 1, 3, (3,)), Stream("m", "y", 8, False, 1, 3, (3,))
    model = compile_model({"dut.sv": PASS, "sim_top.sv": sim_top("dut", source, [result]).encode()}, lambda line: None)
    assert model.is_relative_to(odd / "cache")
    x = rng.integers(0, 256, (5, 3))
    assert np.array_equal(run_model(model, odd / "build", source, [result], x).values["y"], x)
    assert not list((odd / "tmp").iterdir()), "nothing is left behind"
