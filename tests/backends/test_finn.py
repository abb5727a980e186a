"""Folded, stitched, simulated: exact under random stalls, refused where it cannot be, pure in its plan; FINN+ asked."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from greenedge.backends import finn
from greenedge.backends.finn import build_dir, initial_simulation
from greenedge.backends.finn.design import Limits
from greenedge.backends.finn.dialect.lower import require_network
from greenedge.backends.finn.objective import Objective
from greenedge.backends.finn.search import choose
from greenedge.backends.finn.stitch import rtl_files, stitch
from greenedge.errors import VerificationError
from greenedge.graph import Add, Dense, Edge, Graph, Input, Requantise, Steps, freeze, run_graph
from greenedge.hdl.axi_stream.simulation import Stall
from greenedge.legalise import legalise_graph
from greenedge.target import load_target
from greenedge.tools.plan import Plan
from greenedge.tools.run import execute
from greenedge.verify import stage
from tests.backends.finn_sketches import classified, gated, joined, padded, residual
from tests.backends.graphs import Sketch
from tests.backends.nets import inputs, mlp


def _until_simulated(plan: Plan) -> Plan:
    """The plan without FINN+, synthesis, placement and routing."""
    return dataclasses.replace(plan, commands=plan.commands[:2], products=plan.products[:3])


@pytest.mark.tool("verilator")
@pytest.mark.tool("g++")
@pytest.mark.parametrize(
    "sizes, weight_bits, act_bits, in_signed", [((12, 8, 4), 4, 4, False), ((30, 6, 10, 3), 2, 3, True)]
)
def test_rtl_gives_the_graphs_integers(rng, tmp_path, sizes, weight_bits, act_bits, in_signed):
    graph = mlp(rng, sizes, weight_bits, act_bits, in_signed=in_signed)
    target = load_target("ulx3s-85f")
    assert finn.check(graph, target, {}) == []
    folder = tmp_path / "build"
    execute(_until_simulated(finn.plan(graph, target, {"fps": 1_000_000})), folder)
    x = inputs(rng, graph, 40)
    keep = [op.output for op in graph.ops if op.inputs]
    expected = run_graph(graph, x, keep=keep)
    got = finn.simulate(folder, x, keep)
    assert set(got) == set(keep)
    for edge in keep:
        assert np.array_equal(got[edge], expected[edge]), edge
    for stall in (Stall(3, 128, 0), Stall(4, 0, 128), Stall(5, 200, 200)):
        result = build_dir.simulate(folder, x, (), stall, lambda line: None)
        assert np.array_equal(result.values[graph.outputs[0]], expected[graph.outputs[0]])
    assert np.array_equal(finn.simulate_with_backpressure(folder, x)[graph.outputs[0]], expected[graph.outputs[0]])
    simulated, design = (json.loads((folder / name).read_text()) for name in ("simulation.json", "folding.json"))
    source, streams, _ = build_dir.streams_of(folder)
    pauses = Stall.at_pace(source, streams[0], simulated["interval_cycles"])
    slowed, free = (
        build_dir.simulate(folder, x, (), stall, lambda line: None).total_cycles for stall in (pauses, Stall())
    )
    assert slowed > 1.05 * free, "pauses that the design notices"
    assert 0.97 <= simulated["interval_cycles"] / design["interval_cycles"] <= 1.03


def test_the_top_says_what_its_streams_carry(rng):
    network = require_network(mlp(rng))
    design = choose(network, Limits.of(load_target("ulx3s-85f").device), Objective(interval=512)).design
    top = rtl_files("m", stitch(design.network, design.folding))["top.sv"].decode()
    assert "    logic [7:0] act1_tdata;  // 1 x 4 bits unsigned, 8 beats a sample\n" in top


@pytest.mark.slow
@pytest.mark.tool("finn")
def test_finn_expects_the_same_cycles(rng, tmp_path):
    """FINN+ takes every kind of layer in its own terms, and counts as we do wherever its unit works alike."""
    for index, sketch in enumerate((residual, joined, padded, classified, gated)):
        plan = finn.plan(legalise_graph(sketch(rng), finn.BACKEND.passes), load_target("ulx3s-85f"), {})
        ask = next(command for command in plan.commands if command.log == "finn.log")
        execute(dataclasses.replace(plan, commands=(ask,), products=("finn.json",)), tmp_path / str(index))
        said, design = (
            json.loads((tmp_path / str(index) / name).read_text()) for name in ("finn.json", "folding.json")
        )
        ours = {layer["name"]: layer["cycles"] for layer in design["layers"]}
        assert not [layer for layer in said["layers"] if "refused" in layer]
        alike = [
            layer
            for layer in said["layers"]
            if layer["op"] not in ("ConvolutionInputGenerator", "GlobalAccPool") and layer["name"] in ours
        ]
        assert alike and all(layer["cycles"] == ours[layer["name"]] for layer in alike), alike


@pytest.mark.tool("verilator")
@pytest.mark.tool("g++")
def test_a_flipped_weight_bit_shows_in_its_layer(rng, tmp_path):
    graph = mlp(rng, (12, 8, 4))
    folder = tmp_path / "build"
    execute(_until_simulated(finn.plan(graph, load_target("ulx3s-85f"), {})), folder)
    assert finn.stale_artifact(folder) is None
    path = folder / "rtl" / "fc1_weights.mem"
    words = path.read_text().splitlines()
    words[0] = f"{int(words[0], 16) ^ 4:0{len(words[0])}x}"
    path.write_text("\n".join(words) + "\n")
    x = inputs(rng, graph, 20)
    expected, got = run_graph(graph, x, keep=["fc1"]), finn.simulate(folder, x, ["fc1"])
    assert not np.array_equal(got["fc1"], expected["fc1"])
    assert finn.stale_artifact(folder) == (
        f"the bitstream in {folder} was not made from the RTL that lies in {folder / 'rtl'} now; "
        "run the build stage again."
    )


@pytest.mark.tool("verilator")
@pytest.mark.tool("g++")
def test_a_latency_that_the_simulation_misses_ends_the_build(rng, tmp_path, monkeypatch, capsys):
    """The schedule may be a few cycles off; what was promised is looked at again before synthesis."""
    folder = tmp_path / "build"
    plan = finn.plan(mlp(rng, (12, 8, 4)), load_target("ulx3s-85f"), {"latency": 1e-3})
    assert json.loads(plan.files["folding.json"])["asked_latency_cycles"] == 50_000
    execute(_until_simulated(plan), folder)
    cycles = json.loads((folder / "simulation.json").read_text())["latency_cycles"]
    chosen = json.loads((folder / "folding.json").read_text())
    monkeypatch.chdir(folder)
    for asked, ended in ((cycles, 0), (cycles - 1, 1)):
        (folder / "folding.json").write_text(json.dumps(chosen | {"asked_latency_cycles": asked}))
        assert initial_simulation.main() == ended
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"error: a result takes {cycles} cycles in simulation, and {cycles - 1} were asked for; ask for a little less "
        "with --latency, or raise build.clock_hz"
    )


@pytest.mark.tool("verilator")
@pytest.mark.tool("g++")
def test_what_is_right_at_full_speed_only_is_found_by_the_stalls(rng, tmp_path):
    """The last step reads other data once a beat has waited for it: no beat waits unless the output does."""
    graph = mlp(rng, (12, 8, 4))
    folder = tmp_path / "build"
    plan = finn.plan(graph, load_target("ulx3s-85f"), {"fps": 1_000_000})
    execute(dataclasses.replace(plan, commands=plan.commands[:1], products=plan.products[:2]), folder)
    interval = json.loads((folder / "folding.json").read_text())["interval_cycles"]
    (folder / "simulation.json").write_text(json.dumps({"interval_cycles": interval}))
    path = folder / "rtl" / "top.sv"
    text = path.read_text()
    assert text.count(".s_tdata(fc2_tdata)") == 1
    waited = "    logic waited = 1'b0;\n    always_ff @(posedge clk) waited <= fc2_tvalid && !fc2_tready;\n"
    path.write_text(
        text.replace(".s_tdata(fc2_tdata)", ".s_tdata(waited ? ~fc2_tdata : fc2_tdata)").replace(
            "endmodule", waited + "endmodule"
        )
    )
    x = inputs(rng, graph, 200)
    expected = run_graph(graph, x)
    stages, tell = {}, lambda *_: None
    assert not stage.compare_build(graph, finn.simulate, "rtl", folder, x, expected, stages, tell).mismatches
    report = stage.compare_build(
        graph, finn.simulate_with_backpressure, "rtl-stalls", folder, x, expected, stages, tell
    )
    assert report.mismatches and report.first.layer == graph.outputs[0]
    with pytest.raises(VerificationError, match=r"^rtl with random stalls differs from the integer graph on "):
        report.require()


def test_a_plan_is_pure_and_as_agreed(rng, repo):
    """The commands, constraints and synthesis script are those in git: GOLDEN=1 writes them anew."""
    import os

    plan = finn.plan(mlp(np.random.default_rng(0)), load_target("ulx3s-85f"), {})
    assert plan.digest() == finn.plan(mlp(np.random.default_rng(0)), load_target("ulx3s-85f"), {}).digest()
    text = (
        "\n".join(
            [
                *(f"{command.label}\n    {' '.join(command.argv)}" for command in plan.commands),
                "",
                plan.files["board.ys"].decode(),
                plan.files["shell.json"].decode(),
                plan.files["folding.json"].decode(),
                plan.files["job.json"].decode(),
                "gives " + ", ".join(plan.products),
            ]
        )
        + "\n"
    )
    golden = repo / "tests" / "golden" / "finn-ulx3s-85f.txt"
    if os.environ.get("GOLDEN") == "1":
        golden.write_text(text)
    assert text == golden.read_text()


def test_a_step_of_one_level_is_planned(rng):
    """It has no thresholds; FINN+ is asked about one."""
    net = Sketch(rng, (5,), "s4")
    steps = Steps(freeze([1]), freeze(np.zeros((1, 0), np.int64)), None)
    net.ops.append(Requantise("flat", ("x",), "flat", 0, 1, 1, steps, freeze([-8]), freeze([7])))
    net.edges["flat"] = Edge("flat", (5,), 1, 1)
    graph = legalise_graph(net.graph("flat"), finn.BACKEND.passes)
    assert finn.check(graph, load_target("ulx3s-85f"), {}) == []
    (node,) = json.loads(finn.plan(graph, load_target("ulx3s-85f"), {}).files["job.json"])["nodes"]
    assert node["attributes"]["numSteps"] == 1


def test_refusals_are_said_at_once(rng):
    graph = mlp(rng)
    target = load_target("ulx3s-85f")
    wide = Graph(
        "g",
        (Input("x", (), "x"), Dense("fc", ("x",), "fc", np.full((2, 2), 300)), Add("sum", ("fc", "fc"), "sum", (1, 1))),
        {"x": Edge("x", (2,), 0, 4095), "fc": Edge("fc", (2,), 0, 10**7), "sum": Edge("sum", (2,), 0, 2 * 10**7)},
        ("sum",),
    )
    said = [str(reason) for reason in finn.check(wide, target, {})]
    assert "x: input of 12 bits; finn computes with 1 to 8 bits (cure: quantise to at most 8 bits)." in said
    assert "fc: weights of 10 bits; finn computes with 1 to 8 bits (cure: quantise to at most 8 bits)." in said
    small = dataclasses.replace(target, device=dataclasses.replace(target.device, resources={"bram_bits": 3 * 18432}))
    assert [str(reason) for reason in finn.check(graph, small, {})] == [
        "tiny: 2 blocks of block RAM at least; of Lattice ECP5 LFE5U-85F, 381-ball caBGA, speed grade 6 0 are planned "
        "for (cure: use fewer bits or channels, or a larger device)."
    ]
    x86 = load_target("linux-x86")
    assert [reason.kind for reason in finn.check(graph, x86, {})] == ["unsupported-target"]
