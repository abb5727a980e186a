"""Whole small networks: every kind of layer and branch, folded by the search, equal to the integer graph.

Each runs with and without pauses.

All networks of a test are modules of one Verilator model, for compiling is what costs.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from greenedge.backends.finn.design import Limits
from greenedge.backends.finn.objective import Objective
from greenedge.backends.finn.search import choose
from greenedge.backends.finn.stitch import rtl_files, stitch
from greenedge.graph import Graph, run_graph
from greenedge.target import load_target
from tests.backends.finn_sketches import SKETCHES, finn_network, random_network
from tests.backends.nets import inputs
from tests.backends.unit_bench import Bench, Case, Port

pytestmark = [pytest.mark.tool("verilator"), pytest.mark.tool("g++")]
SAMPLES = 6


def networks_bench(graphs: list[Graph], rng, folder, interval: int | None) -> Bench:
    """A bench with one module per network, folded for `interval` cycles; each must keep it within 3 % and a cycle."""
    cases, sources = [], {}
    limits = Limits.of(load_target("ulx3s-85f").device)
    for index, graph in enumerate(graphs):
        design = choose(finn_network(graph), limits, Objective(interval)).design
        stitched = stitch(design.network, design.folding)
        module = f"network{index}"
        (folder / module).mkdir()
        for name, content in rtl_files(graph.name, stitched).items():
            if name.endswith(".mem"):
                (folder / module / name).write_bytes(content)
            elif name == "top.sv":
                text = content.decode().replace("module top (", f"module {module} (").replace('"rtl/', f'"{module}/')
                sources[f"{module}.sv"] = (
                    text + _with_reset(module, stitched.streams[0].width, stitched.streams[-1].width)
                ).encode()
        x = inputs(rng, graph, SAMPLES)
        source, result = stitched.streams[0], stitched.streams[-1]
        y = run_graph(graph, x, keep=[result.edge])[result.edge]  # the host rearranges what ends in a change of layout
        travels = y.reshape(SAMPLES, -1)[:, result.order] - (
            np.resize(result.offset, y[0].size) if result.offset else 0
        )
        cases.append(
            Case(
                f"{module}_case",
                {},
                [Port("s", source.bits, source.signed, source.elements, x.reshape(SAMPLES, -1)[:, source.order])],
                [Port("m", result.bits, result.signed, result.elements, travels)],
                design.schedule.interval,
                0.03 * design.schedule.interval + 1,
            )
        )
    return Bench(cases, folder, sources)


def _with_reset(module: str, source: int, result: int) -> str:
    return f"""
module {module}_case (
    input logic clk, input logic rst, input logic [{source - 1}:0] s_tdata, input logic s_tvalid, output logic s_tready,
    output logic [{result - 1}:0] m_tdata, output logic m_tvalid, input logic m_tready);
    {module} dut (.clk, .restart(rst), .s_tdata, .s_tvalid, .s_tready, .m_tdata, .m_tvalid, .m_tready);
endmodule
"""


@pytest.mark.slow
def test_every_kind_of_layer(rng, tmp_path):
    drawn = np.random.default_rng(21)  # the same networks at every run, so that they are compiled once
    networks_bench([sketch(drawn) for sketch in SKETCHES], rng, tmp_path, 400).check()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [22, 23])  # the same networks at every run
def test_random_networks(rng, tmp_path, seed):
    drawn = np.random.default_rng(seed)
    networks_bench([random_network(drawn) for _ in range(20)], rng, tmp_path, 60).check()


@pytest.mark.slow
def test_a_public_model_on_a_small_device(rng, tmp_path, shared):
    """TFC_2W2A, from the file alone, folded for 60,000 inferences per second on a 25F."""
    from greenedge.backends import finn
    from greenedge.lower import lower_file
    from greenedge.tools.run import execute

    graph = lower_file(shared / "models" / "TFC_2W2A.onnx", None).graph
    plan = finn.plan(graph, load_target("ulx3s-25f"), {"fps": 60_000})
    execute(dataclasses.replace(plan, commands=plan.commands[:2], products=plan.products[:3]), tmp_path / "build")
    x = inputs(rng, graph, 1000)
    expected = run_graph(graph, x)
    assert all(np.array_equal(finn.simulate(tmp_path / "build", x)[edge], expected[edge]) for edge in graph.outputs)
