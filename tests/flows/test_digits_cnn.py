"""The recipe digits-cnn as hardware: every layer kind of a small modern CNN; all integers of all layers and images."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from greenedge.backends import finn
from greenedge.backends.finn import build_dir
from greenedge.graph import run_graph
from greenedge.hdl.axi_stream.simulation import Stall
from greenedge.lower import load_lowering
from greenedge.lower.float_io import run_prologue
from greenedge.run.job import Job
from greenedge.run.jobs import find_recipe
from greenedge.run.loop import run_job
from greenedge.target import load_target
from greenedge.tools.run import execute

pytestmark = [pytest.mark.slow, *(pytest.mark.tool(name) for name in ("g++", "make", "perl", "verilator"))]


def test_the_rtl_gives_the_graphs_integers(tmp_path):
    run_job(Job(find_recipe("digits-cnn", {})), tmp_path / "run", until="lower")
    lowered = load_lowering(tmp_path / "run" / "3-lower")
    plan = finn.plan(lowered.graph, load_target("ulx3s-85f"), {})
    execute(dataclasses.replace(plan, commands=plan.commands[:2], products=plan.products[:3]), tmp_path / "build")
    x = next(iter(run_prologue(lowered, np.load(tmp_path / "run" / "2-export" / "inputs.npy")).values()))
    assert len(x) == 450
    keep = [op.output for op in lowered.graph.ops if op.inputs]
    expected = run_graph(lowered.graph, x, keep=keep)
    for stall in (Stall(), Stall(3, 100, 100), Stall(4, 0, 200)):
        got = build_dir.simulate(tmp_path / "build", x, keep, stall, lambda line: None)
        for edge in keep:
            assert np.array_equal(got.values[edge], expected[edge]), (edge, stall)
    _on_time(tmp_path / "build")


def _on_time(folder: Path) -> None:
    simulated, design = (json.loads((folder / name).read_text()) for name in ("simulation.json", "folding.json"))
    assert 0.97 <= simulated["interval_cycles"] / design["interval_cycles"] <= 1.03
    assert design["interval_cycles"] == 576, "a 3×3 window over 8×8 pixels gives one beat a cycle: nothing is faster"
    assert design["queues"], "the short branch waits for the long one"
