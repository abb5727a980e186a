"""The unrolled network: its Verilog gives the graph's integers, a sample a cycle, also when the streams around it
pause.
"""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
from typer.testing import CliRunner

from greenedge.backends import da4ml
from greenedge.backends.da4ml.estimate import LUTS_PER_BIT
from greenedge.backends.da4ml.initial_simulation import run
from greenedge.backends.da4ml.partition import cut_into_pieces
from greenedge.backends.da4ml.pipeline import Circuit, layout
from greenedge.backends.da4ml.tapped_core import Probe, read_probes
from greenedge.backends.interface import Fitness
from greenedge.cli import app
from greenedge.errors import GreenedgeError, TargetError, VerificationError
from greenedge.graph import Affine, Edge, Graph, Input, Requantise, freeze, run_graph
from greenedge.hdl.axi_stream.simulation import Stall
from greenedge.target import load_target
from greenedge.tools.run import execute
from greenedge.verify.built import compare_build
from tests.backends.affine_nets import fit_affine_forms, make_graph, residual, sequence, vectors
from tests.backends.graphs import Sketch, list_built

SIMULATED = [pytest.mark.tool("verilator"), pytest.mark.tool("g++"), pytest.mark.tool("make"), pytest.mark.tool("perl")]


def build_core(graph, folder, target="ulx3s-85f", **options):
    """The build up to its first simulation, without synthesis."""
    board = load_target(target)
    assert da4ml.check(graph, board, options) == []
    plan = da4ml.plan(graph, board, options)
    execute(dataclasses.replace(plan, commands=plan.commands[:2], products=plan.products[:4]), folder)
    return folder


def alter(path):
    """The first adder of a stage subtracts, or the other way round."""
    text = path.read_text()
    found = re.search(r"shift_adder #\((.*?)\)", text, re.DOTALL)
    numbers = found[1].split(",")
    numbers[-1] = " 0" if numbers[-1].strip() == "1" else " 1"
    path.write_text(text.replace(found[0], f"shift_adder #({','.join(numbers)})", 1))


def branches(rng):
    """Sums that two requantisers read, joined again behind branches of other lengths; one branch is constant."""
    sketch = Sketch(rng, (6,))
    wide = sketch.dense("x", 5)
    a, b = sketch.step(wide), sketch.step(wide, "s4")
    for _ in range(2):
        a = sketch.step(sketch.dense(a, 5))
    total = sketch.step(sketch.add(a, b, multipliers=(1, 3)))
    dead = sketch.dense("x", 4)
    sketch.ops[-1] = dataclasses.replace(sketch.ops[-1], weight=freeze(np.zeros((6, 4))))
    joined = sketch.concat(total, sketch.step(dead, "s4"))
    return sketch, sketch.step(sketch.dense(joined, 3), "s4")


def deep(rng):
    """Seven requantisers one behind another: da4ml's Verilog of the whole at once was wrong."""
    sketch, name = Sketch(rng, (5,)), "x"
    for _ in range(6):
        name = sketch.step(sketch.dense(name, 5, bits=6))
    return sketch, sketch.step(sketch.dense(name, 4, bits=6), "s8")


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    graph, x = make_graph(np.random.default_rng(5), vectors)
    return graph, x, build_core(graph, tmp_path_factory.mktemp("da4ml") / "build")


class TestOneCore:
    pytestmark = SIMULATED

    def test_gives_the_graphs_integers_a_sample_a_cycle(self, core):
        graph, x, folder = core
        expected = run_graph(graph, x)[graph.outputs[0]]
        assert np.array_equal(da4ml.simulate(folder, x)[graph.outputs[0]], expected)
        assert np.array_equal(da4ml.simulate_with_backpressure(folder, x)[graph.outputs[0]], expected)
        for stall in (Stall(3, 128, 0), Stall(4, 0, 128), Stall(5, 200, 200)):
            assert np.array_equal(run(folder, x, stall, lambda line: None).values[graph.outputs[0]], expected)
        simulated, trace = (json.loads((folder / name).read_text()) for name in ("simulation.json", "trace.json"))
        assert simulated["interval_cycles"] == 1.0
        assert trace["latency"] == trace["stages"] + 1 <= simulated["latency_cycles"]
        assert trace["adders"] > 0 and trace["seconds"] > 0

    def test_a_changed_constant_is_seen(self, core, tmp_path):
        import shutil

        graph, x, folder = core
        copy = tmp_path / "build"
        shutil.copytree(folder, copy)
        assert da4ml.stale_artifact(copy) is None
        alter(copy / "rtl" / "net0_stage0.v")
        assert da4ml.stale_artifact(copy) == (
            f"the bitstream in {copy} was not made from the RTL that lies in "
            f"{copy / 'rtl'} now; run the build "
            "stage again."
        )
        assert not np.array_equal(da4ml.simulate(copy, x)[graph.outputs[0]], run_graph(graph, x)[graph.outputs[0]])

    def test_an_altered_layer_is_named_with_its_sample(self, core, tmp_path):
        import shutil

        graph, x, folder = core
        copy = tmp_path / "build"
        shutil.copytree(folder, copy)
        alter(copy / "rtl" / "net0_stage0.v")
        expected = run_graph(graph, x)
        report = compare_build(graph, da4ml.simulate, "rtl", copy, x, expected, {}, lambda *_: None)
        layer = next(op.output for op in graph.ops if isinstance(op, Requantise))
        assert report.mismatches and report.first.layer == layer != graph.outputs[0]
        got = da4ml.simulate(copy, x)[graph.outputs[0]]
        assert report.first.sample == int((got != expected[graph.outputs[0]]).any(axis=1).argmax())
        said = (
            rf"rtl differs from the integer graph on \d+ of 40 samples; first at sample {report.first.sample}, "
            rf"layer {layer}: expected .*"
        )
        with pytest.raises(VerificationError, match=said):
            report.require()


def test_layers_that_are_none_are_not_probed():
    edges = {"a": Edge("a", (3,), 0, 7)}
    good = {"latency": 4, "probes": [{"edge": "a", "net": "edge1", "at": 3}]}
    assert read_probes(good, edges) == ([Probe("a", "edge1", 3)], 4)
    for change in ({"net": "edge1; $finish"}, {"edge": "b"}, {"at": 4}):
        with pytest.raises(GreenedgeError) as error:
            read_probes({**good, "probes": [{**good["probes"][0], **change}]}, edges)
        assert str(error.value) == "streams.json names layers that the graph has not; run the build stage again."
    with pytest.raises(GreenedgeError) as error:
        read_probes({"latency": 4}, edges)
    assert str(error.value) == "streams.json names no layers (KeyError('probes')); run the build stage again."


@pytest.mark.slow
@pytest.mark.tool("verilator")
@pytest.mark.tool("g++")
@pytest.mark.parametrize("build", [residual, sequence, branches, deep])
def test_networks_of_every_kind(rng, tmp_path, build):
    graph, x = make_graph(rng, build)
    folder = build_core(graph, tmp_path / "build", cutoff=4)
    ends = [op.output for op in graph.ops if op.inputs]
    expected, got = run_graph(graph, x, keep=ends), da4ml.simulate(folder, x, ends)
    assert {op.output for op in graph.ops if isinstance(op, Requantise)} <= set(got)
    for edge in got:
        assert np.array_equal(got[edge], expected[edge]), edge


@pytest.mark.slow
@pytest.mark.tool("verilator")
@pytest.mark.tool("yosys")
@pytest.mark.tool("nextpnr-ecp5")
def test_a_run_for_a_board_whose_verilog_was_altered(tmp_path):
    """From a model's file to the bitstream; altered Verilog is not simulated (`TestOneCore` shows what it gives)."""
    from tests.unit import fakes

    x, run = tmp_path / "x.npy", tmp_path / "run"
    np.save(x, np.random.default_rng(3).integers(0, 15, (60, 6)).astype(np.float32))
    model = fakes.write_model(tmp_path / "small.onnx")
    done = CliRunner().invoke(
        app, ["build", str(model), "--target", "ulx3s-25f", "--backend", "da4ml", "--inputs", str(x), "-o", str(run)]
    )
    assert done.exit_code == 0, done.output
    told = json.loads((run / "7-report" / "summary.json").read_text())["hardware"]
    assert (run / "4-build" / "top.bit").stat().st_size == told["bitstream_bytes"]
    assert told["host_interface"].startswith("uart") and told["cycles_per_inference"] == 1.0 and told["adders"] > 0
    assert told["core"]["lut4"] > 0 and told["fmax_hz"] >= told["clock_hz"]
    assert told["latency_at_core_fmax_s"] == told["latency_cycles"] / told["core"]["fmax_hz"]
    alter(run / "4-build" / "rtl" / "net0_stage0.v")
    done = CliRunner().invoke(app, ["verify", str(run)])
    assert done.exit_code == 5
    assert done.stderr == (
        f"greenedge: {run / '4-build' / 'rtl' / 'net0_stage0.v'} is not what greenedge writes for the integer graph of "
        "this run, so nothing of the build is run; run the same `greenedge run` or `greenedge build` again to make it "
        "anew.\n"
    )


def test_a_network_too_large_is_refused_before_it_is_traced(rng):
    sketch = Sketch(rng, (64,))
    hidden = sketch.step(sketch.dense("x", 256, bits=8))
    graph = sketch.graph(sketch.dense(hidden, 10, bits=8))
    refused = [str(reason) for reason in da4ml.check(fit_affine_forms(graph), load_target("ulx3s-25f"), {})]
    assert len(refused) == 1
    assert re.fullmatch(
        r"dense1: the network unrolls to an estimated [\d,]+ LUT4, this layer to [\d,]+ of them; "
        r"Lattice ECP5 LFE5U-25F, .* has "
        r"24,288 \(cure: choose --backend finn, which folds layers, or use fewer bits or neurons\)\.",
        refused[0],
    )


def test_what_cannot_be_unrolled_is_told(rng):
    sketch = Sketch(rng, (8,))
    name = sketch.step(sketch.dense("x", 3))
    graph = sketch.graph(name)  # without its affine form
    assert [str(reason) for reason in da4ml.check(graph, load_target("pynq-z2"), {})] == [
        f"{name}: a step function that is no multiply, add and shift; adders compute clip((m*x + b) >> s) (cure: use "
        f"batch norm and ReLU before "
        "the quantiser).",
        "sketch: a device of family 'zynq'; bitstreams are made for ecp5, ice40, gowin with a clock pin (cure: choose "
        "ulx3s-85f).",
    ]
    for options, text in [
        ({"cutoff": 0}, "--set build.cutoff=0: it must be a number of adders from 1 to 64."),
        (
            {"folding": 1},
            "da4ml has no option build.folding; it has: cutoff, fps, latency, clock_hz, baud, link, seed, seeds.",
        ),
    ]:
        with pytest.raises(TargetError) as error:
            da4ml.check(graph, load_target("ulx3s-85f"), options)
        assert str(error.value) == text


def test_an_operation_without_a_rule_is_refused(rng):
    sketch = Sketch(rng, (8,))
    index = sketch.arg_max("x")
    graph = sketch.graph(sketch.reshape(index, 1, 1))
    assert [str(reason) for reason in da4ml.check(graph, load_target("ulx3s-85f"), {})] == [
        f"{index}: operation ArgMax; da4ml builds {list_built(da4ml.BACKEND.rules)} (cure: use layers of these kinds, "
        "or choose another back end)."
    ]


def test_small_networks_are_fit_to_be_unrolled(rng):
    target = load_target("ulx3s-85f")
    small, _ = make_graph(rng, vectors)
    found = da4ml.fitness(small, target, {})
    assert found.rank == 2
    assert re.fullmatch(
        r"unrolled it is estimated at [\d,]+ LUT4, \d% of Lattice ECP5 LFE5U-85F, .*: small enough for a sample in "
        r"every clock cycle \(at most 20%\)",
        found.reason,
    )
    for goal in ("fps", "latency"):
        assert da4ml.fitness(small, target, {goal: 1e-3}) == Fitness(0, "")
    sketch = Sketch(rng, (64,))
    large = fit_affine_forms(sketch.graph(sketch.step(sketch.dense("x", 64, bits=8))))
    found = da4ml.fitness(large, target, {})
    assert found.rank == 0
    assert found.reason.endswith(": more than the 20% up to which a network is unrolled by da4ml")


@pytest.mark.parametrize("share, rank", [(0.2, 2), (0.2 + 1e-9, 0)])
def test_a_fifth_of_the_device_is_the_bound(rng, monkeypatch, share, rank):
    target = load_target("ulx3s-85f")
    bits = share * target.device.resources["lut4"] / LUTS_PER_BIT
    monkeypatch.setattr("greenedge.backends.da4ml.estimate.adder_bits", lambda graph: {"a": bits})
    assert da4ml.fitness(make_graph(rng, vectors)[0], target, {}).rank == rank


def test_a_shift_too_deep_for_da4ml_is_refused_with_its_layer(rng):
    sketch = Sketch(rng, (6,), "s4")
    name = sketch.step(sketch.dense("x", 3), "s4")
    graph = fit_affine_forms(sketch.graph(name))
    refused = [str(reason) for reason in da4ml.check(_shifted(graph, 34), load_target("ulx3s-85f"), {})]
    assert refused == [
        f"{name}: constants with 37 zeros behind a shift of 34; da4ml 0.5 finds 31, and its Verilog is "
        "wrong beyond (cure: use `greenedge snap` for shorter multipliers, or choose --backend finn)."
    ]
    assert da4ml.check(_shifted(graph, 28), load_target("ulx3s-85f"), {}) == []


def _shifted(graph: Graph, shift: int) -> Graph:
    """The same function with its multipliers, offsets and shifts made longer."""

    def longer(op):
        if not isinstance(op, Requantise):
            return op
        more = np.array([1 << (shift - int(s)) for s in op.affine.s])
        affine = Affine(*map(freeze, (op.affine.m * more, op.affine.b * more, np.full_like(op.affine.s, shift))))
        return op.with_steps(affine=affine)

    return Graph(graph.name, tuple(map(longer, graph.ops)), graph.edges, graph.outputs)


class TestPieces:
    def test_end_at_requantisers_and_where_an_edge_is_read_twice(self, rng):
        graph, _ = make_graph(rng, branches)
        pieces = cut_into_pieces(graph)
        assert sorted(op.name for piece in pieces for op in piece.ops) == sorted(
            op.name for op in graph.ops if not isinstance(op, Input)
        )
        there = set(graph.inputs)
        for piece in pieces:
            assert set(piece.sources) <= there
            there.add(piece.output)
        wide = next(op.output for op in graph.ops if len(graph.consumers(op.output)) > 1 and not isinstance(op, Input))
        assert [piece.sources for piece in pieces if piece.output == wide] == [("x",)]

    def test_a_source_waits_for_the_slower_one(self):
        def circuit(output, stages, *sources):
            return Circuit(dict.fromkeys(sources, ()), output, (), (("m", 1),) * stages, 1, True)

        found = layout(("x",), [circuit("a", 2, "x"), circuit("b", 3, "a"), circuit("sum", 1, "a", "b", "x")], ("sum",))
        assert found.at == {"x": 0, "a": 2, "b": 5, "sum": 6}
        assert found.kept == {"x": 5, "a": 3, "b": 0, "sum": 0}

    def test_outputs_leave_together(self):
        circuits = [
            Circuit({source: ()}, output, (), (("m", 1),) * 2, 1, True) for source, output in (("x", "a"), ("a", "b"))
        ]
        found = layout(("x",), circuits, ("a", "b", "x"))
        assert found.end(("a", "b", "x")) == 4 and found.kept == {"x": 4, "a": 2, "b": 0}


def test_wishes_that_cannot_be_are_refused(rng, tmp_path):
    from greenedge.backends.da4ml.initial_simulation import _require_latency

    graph, _ = make_graph(rng, vectors)
    assert [str(reason) for reason in da4ml.check(graph, load_target("ulx3s-85f"), {"fps": 60_000_000})] == [
        "sketch: 60,000,000 inferences per second; a sample enters every 1 cycles of 50 MHz (cure: ask for fewer, or "
        "a faster clock)."
    ]
    assert da4ml.check(graph, load_target("ulx3s-85f"), {"fps": 50_000_000}) == []
    _require_latency({"latency_s": None, "clock_hz": 1}, 9)
    with pytest.raises(GreenedgeError) as error:
        _require_latency({"latency_s": 1e-7, "clock_hz": 50_000_000}, 11)
    assert str(error.value) == (
        "a result takes 11 cycles, 220 ns at 50 MHz, and 100 ns were asked for; use a faster "
        "clock (--set build.clock_hz) or "
        "fewer stages (--set build.cutoff=6)"
    )


@pytest.mark.parametrize(
    "target, product", [("ulx3s-85f", "top.bit"), ("icebreaker", "top.bin"), ("tang-nano-9k", "top.fs")]
)
def test_a_plan_is_pure_and_ends_in_the_familys_bitstream(rng, target, product):
    graph, _ = make_graph(rng, vectors)
    plans = [da4ml.plan(graph, load_target(target), {}) for _ in range(2)]
    assert plans[0].digest() == plans[1].digest() and plans[0].products[-1] == product


def test_the_estimate_counts_signed_digits():
    from greenedge.backends.da4ml.adders import count_digits

    assert list(count_digits(np.array([0, 1, 2, 3, 5, 7, -7, 11, 15, 31, 85]))) == [0, 1, 1, 2, 2, 2, 2, 3, 2, 2, 4]


@pytest.mark.tool("verilator")
@pytest.mark.tool("g++")
@pytest.mark.tool("make")
@pytest.mark.tool("perl")
def test_one_stream_carries_inputs_of_other_ranges_and_shapes(rng, tmp_path):
    """A signed and an unsigned input, of which the wider sets the stream's type; the first is read twice."""
    sketch = Sketch(rng, (4,), "s4")
    wide = sketch.reshape(sketch.input("w", (2, 3), "u8"), 6)
    hidden = sketch.step(sketch.dense(sketch.concat("x", wide), 5))
    graph = fit_affine_forms(sketch.graph(sketch.step(sketch.dense(sketch.concat(hidden, "x"), 3), "s4")))
    assert graph.inputs == ("x", "w")
    folder = build_core(graph, tmp_path / "build")
    ends = [graph.edges[edge] for edge in graph.inputs]
    x = {edge.name: rng.integers(edge.lo, edge.hi + 1, (30, *edge.shape)) for edge in ends}
    expected = run_graph(graph, x)[graph.outputs[0]]
    assert np.array_equal(da4ml.simulate(folder, x)[graph.outputs[0]], expected)
    assert np.array_equal(da4ml.simulate_with_backpressure(folder, x)[graph.outputs[0]], expected)
    source = json.loads((folder / "streams.json").read_text())["streams"][0]
    assert (source["bits"], source["signed"], source["shape"]) == (9, True, [10])
    alter(folder / "rtl" / "net0_stage0.v")
    report = compare_build(graph, da4ml.simulate, "rtl", folder, x, run_graph(graph, x), {}, lambda *_: None)
    assert report.mismatches and report.first.layer != graph.outputs[0]
