"""Models with several inputs and outputs from the file to the build's answer: integers equal NumPy's."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from greenedge import api
from greenedge.backends import load_backend
from greenedge.backends.finn.named_streams import name_streams, read_named
from greenedge.errors import GreenedgeError, ToolError, VerificationError
from greenedge.files.arrays import write_archive
from greenedge.graph import Graph, run_graph
from greenedge.graph.joined_inputs import join_inputs
from greenedge.graph.joined_outputs import join_output_edges, join_outputs
from greenedge.hdl.axi_stream import Stream
from greenedge.legalise import legalise_graph
from greenedge.lower import lower_file
from greenedge.lower.float_io import run_epilogue, run_prologue
from greenedge.run.board_verbs import infer_on_board
from greenedge.run.folder import RunFolder
from greenedge.runtimes import open_runtime
from greenedge.target import load_target
from greenedge.tools.run import execute
from tests.backends.finn_sketches import several
from tests.backends.graphs import Sketch
from tests.lower.models import Model
from tests.lower.several_inputs import CASES, STEP, draw, quantise, weights

BUILDS = {"c99": "cortex-m4", "tflite": "linux-x86", "onnxruntime": "linux-x86"}
FAST = (("twice", "c99"), ("two outputs", "tflite"))


def _equal(got: dict[str, np.ndarray], expected: list[np.ndarray]) -> bool:
    return len(got) == len(expected) and all(
        np.array_equal(ours, theirs) for ours, theirs in zip(got.values(), expected, strict=True)
    )


@pytest.mark.parametrize("name", CASES)
def test_the_integer_graph_computes_what_numpy_does(name, rng, tmp_path):
    case = CASES[name]
    model = case.model()
    lowered = lower_file(model.save(tmp_path / "m.onnx"))
    samples = draw(model, rng)
    assert lowered.graph.inputs == tuple(model.inputs) == tuple(one.name for one in lowered.inputs)
    got = run_epilogue(lowered, run_graph(lowered.graph, run_prologue(lowered, samples)))
    assert _equal(got, case.expect(**samples))


@pytest.mark.parametrize(
    "name, backend",
    [
        pytest.param(name, backend, marks=[pytest.mark.slow] * (name != "concat" and (name, backend) not in FAST))
        for name in CASES
        for backend in BUILDS
    ],
)
def test_a_build_answers_what_numpy_does(name, backend, rng, tmp_path):
    case = CASES[name]
    model = case.model()
    path, samples = model.save(tmp_path / "m.onnx"), draw(model, rng)
    (found,) = api.check(path, BUILDS[backend], inputs=samples, backend=backend)
    assert found.reasons == ()
    run = api.build(path, BUILDS[backend], inputs=samples, backend=backend, out=tmp_path / "run", progress=False)
    verified = {(one["reference"], one["candidate"]): one for one in run.summary["verify"]}
    stage = load_backend(backend).stage
    for pair in (("qonnx", "graph"), ("graph", stage)):
        assert verified[pair]["samples"] == 40 and verified[pair]["mismatches"] == 0
    fresh = draw(model, rng, 25)
    expected = case.expect(**fresh)
    assert _equal(run.infer(fresh), expected) and _equal(run.infer(tuple(fresh.values()), "graph"), expected)
    write_archive(tmp_path / "x.npz", dict(reversed(fresh.items())))  # by name, in any order
    assert _equal(run.infer(tmp_path / "x.npz"), expected)


def _finn_graphs(rng, folder):
    for name, case in CASES.items():
        yield name, lower_file(case.model().save(folder / f"{name}.onnx")).graph
    yield "several", several(rng)
    s = Sketch(rng, (1, 3, 4))  # the reader of an input holds less than the input, and another one waits
    s.input("y", (1, 3, 4))
    yield "an input as an output", s.graph(s.step(s.conv_transpose("x", 1, (3, 3), (2, 2), (0,) * 4, (0, 0))), "x")


def test_finn_takes_one_stream_apart_and_joins_the_outputs(rng, tmp_path):
    """What the units compute, of every wire, against the graph."""
    finn, target = load_backend("finn"), load_target("ulx3s-85f")
    for name, graph in _finn_graphs(rng, tmp_path):
        graph = legalise_graph(graph, finn.passes)
        assert finn.check(graph, target, {}) == [], name
        folder = tmp_path / name
        execute(dataclasses.replace(finn.plan(graph, target, {}), commands=(), products=()), folder)
        faults, feeds = finn.memory_faults(graph, folder), _feeds(rng, graph)
        expected = join_outputs(graph, run_graph(graph, feeds))
        result = faults.network.result
        assert result.shape == join_output_edges(graph).shape
        got = np.empty_like(expected)
        got[:, result.order] = faults.run(join_inputs(graph, feeds))[result.name]
        assert np.array_equal(got, expected), name


def _feeds(rng, graph, samples=30):
    """Random levels of every input, both ends among them."""
    feeds = {}
    for edge in map(graph.edges.__getitem__, graph.inputs):
        feeds[edge.name] = rng.integers(edge.lo, edge.hi + 1, (samples, *edge.shape))
        feeds[edge.name][0], feeds[edge.name][-1] = edge.lo, edge.hi
    return feeds


@pytest.mark.slow
@pytest.mark.tool("verilator")
@pytest.mark.tool("g++")
def test_finns_rtl_takes_several_inputs_and_gives_several_outputs(rng, tmp_path):
    finn = load_backend("finn")
    graph = legalise_graph(several(np.random.default_rng(4)), finn.passes)
    plan = finn.plan(graph, load_target("ulx3s-85f"), {})
    execute(dataclasses.replace(plan, commands=plan.commands[:2], products=plan.products[:3]), tmp_path / "build")
    keep = [op.output for op in graph.ops]
    feeds = _feeds(rng, graph)
    expected = run_graph(graph, feeds, keep=keep)
    for simulate in (finn.simulate, finn.simulate_with_backpressure):
        got = simulate(tmp_path / "build", feeds, keep)
        assert set(graph.outputs) <= set(got) and len(got) > len(graph.outputs)
        assert all(np.array_equal(values, expected[edge]) for edge, values in got.items())


def test_the_named_streams_are_called_after_the_edges(rng):
    """Whatever the edges are called: the names are plain, and no two are alike."""
    s = Sketch(rng, (4,), "u4")
    odd = [s.input(name, (n,)) for name, n in (("a.b", 6), ("a/b", 2), ("x;endmodule", 4), ("_x_", 8))]
    graph = s.graph("x", *odd)
    core = Stream("s", "inputs", 4, False, 8, 3, (24,))
    named = name_streams(graph, core, dataclasses.replace(core, name="m", edge="outputs"))
    assert named is not None
    assert [one.name for one in named.inputs] == ["s_x", "s_a_b", "s_a_b_2", "s_x_endmodule", "s_x_2"]
    assert [one.elements for one in named.outputs] == [
        2
    ] * 5  # in beats of 8, 4, 6, 2, 4 and 8 elements have 2 in common
    assert [one.beats for one in named.outputs] == [2, 3, 1, 2, 4]
    assert named == read_named({"streams": [one.plain() for one in named.core], **named.plain()})
    one = Graph("one", graph.ops[:1], {"x": graph.edges["x"]}, ("x",))
    assert name_streams(one, core, core) is None


@pytest.mark.slow
@pytest.mark.tool("verilator")
@pytest.mark.tool("g++")
def test_every_input_and_output_has_a_stream_of_its_own(rng, tmp_path):
    """`rtl/top_streams.sv` between random pauses; a wrong bit, or a split at a wrong place, is noticed."""
    finn = load_backend("finn")
    s = Sketch(rng, (4,), "u4")
    more = s.input("more", (4,), "n4")
    graph = legalise_graph(s.graph(s.step(s.dense("x", 3), "s4"), s.dense(more, 2)), finn.passes)
    plan, folder = finn.plan(graph, load_target("ulx3s-85f"), {}), tmp_path / "build"
    execute(dataclasses.replace(plan, commands=plan.commands[:2], products=plan.products[:3]), folder)
    feeds = _feeds(rng, graph)
    expected = run_graph(graph, feeds)
    got = finn.simulate_with_backpressure(folder, feeds)
    assert set(got) == set(expected) and all(np.array_equal(values, expected[edge]) for edge, values in got.items())
    top = folder / "rtl" / "top_streams.sv"
    text = top.read_text()
    top.write_text(text.replace(".s_tdata(core_s_tdata)", ".s_tdata(core_s_tdata ^ 1'b1)"))
    got = finn.simulate_with_backpressure(folder, feeds)
    assert not all(np.array_equal(values, expected[edge]) for edge, values in got.items())
    top.write_text(text.replace("ge_split #(.A(3), .B(2)", "ge_split #(.A(2), .B(3)"))
    assert top.read_text() != text
    with pytest.raises(ToolError, match="no stream moved"):
        finn.simulate_with_backpressure(folder, feeds)


@pytest.mark.slow
@pytest.mark.tool("nextpnr-ecp5")
@pytest.mark.parametrize("backend", ["finn", "da4ml"])
def test_two_inputs_and_two_outputs_on_the_virtual_board(rng, tmp_path, backend):
    """Every byte of both through the board's pins."""
    case = CASES["two outputs"]
    model = case.model()
    path, samples = model.save(tmp_path / "m.onnx"), draw(model, rng)
    run = api.build(path, "ulx3s-85f", inputs=samples, backend=backend, out=tmp_path / "run", progress=False)
    entries = {one["candidate"]: one for one in run.summary["verify"] if one["reference"] == "graph"}
    assert {"rtl", "rtl-stalls", "board", *(["netlist"] if backend == "finn" else [])} <= set(entries)
    assert all(not one["mismatches"] for one in entries.values())
    fresh = draw(model, rng, 25)
    expected = case.expect(**fresh)
    assert _equal(run.infer(fresh), expected)
    write_archive(tmp_path / "x.npz", fresh)
    on_board, figures = infer_on_board(run.folder, tmp_path / "x.npz", None, None, lambda *_: None)
    assert _equal(on_board, expected) and figures["samples"] == 25


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    """A finished run of the model whose inputs have one shape, by onnxruntime, and its samples."""
    folder = tmp_path_factory.mktemp("several")
    model = CASES["alike"].model()
    samples = draw(model, np.random.default_rng(5))
    path = model.save(folder / "m.onnx")
    run = api.build(path, "linux-x86", inputs=samples, backend="onnxruntime", out=folder / "run", progress=False)
    return run.folder, samples


def test_the_run_keeps_an_archive_with_the_models_names(made):
    run, samples = made
    assert not (run / "2-export" / "inputs.npy").exists()
    with np.load(run / "2-export" / "inputs.npz", allow_pickle=False) as kept:
        assert kept.files == list(samples) and all(np.array_equal(kept[name], x) for name, x in samples.items())


def test_inputs_that_changed_places_are_noticed(made, tmp_path):
    """What names the inputs for `infer` is compared too: here nothing else of the run would differ."""
    import json

    from greenedge.verify.stage import lower_again

    shutil.copytree(made[0], tmp_path / "run")
    path = tmp_path / "run" / "3-lower" / "lower.json"
    stored = json.loads(path.read_text())
    lower_again(RunFolder(tmp_path / "run"))
    stored["inputs"].reverse()
    path.write_text(json.dumps(stored))
    with pytest.raises(VerificationError) as error:
        lower_again(RunFolder(tmp_path / "run"))
    assert str(error.value) == (
        f"{path} does not name the inputs of {tmp_path / 'run' / '2-export' / 'model.onnx'}; run the lower stage again."
    )


@pytest.mark.parametrize("name", ["litert", "onnxruntime", "onnxruntime-float", "torch"])
def test_a_runtime_takes_an_array_for_each_input(name, rng, tmp_path):
    model = CASES["alike"].model()
    lowered = lower_file(model.save(tmp_path / "m.onnx"))
    levels = run_prologue(lowered, draw(model, rng))
    runtime = open_runtime(name, lowered.graph)
    ((edge, got),) = runtime.run(levels).items()
    expected = run_graph(lowered.graph, levels)[edge]
    if runtime.exact:
        assert np.array_equal(got, expected)
    else:  # the float network rounds nothing
        assert np.abs(got - expected).max() <= 1
        swapped = dict(zip(levels, reversed(levels.values()), strict=True))
        assert np.abs(runtime.run(swapped)[edge] - expected).max() > 1
    runtime.prepare({edge: x[:1] for edge, x in levels.items()})()


def test_integers_of_a_declared_step_are_verified_as_what_they_stand_for(rng, tmp_path):
    """Levels and reals of one input, as either may be given, beside an input with a quantiser."""
    m = Model()
    m.inputs = {"levels": (1, 4), "b": (1, 4)}
    b = m.quant(STEP, source="b").tensor
    m.quant(0.5, source="levels").node("Concat", b, axis=1).dense(8).quant(0.5, 8)
    levels, given = rng.integers(-8, 8, (30, 4)), rng.uniform(-3, 3, (30, 4)).astype(np.float32)
    both = np.concatenate([levels * 0.5, quantise(given, STEP, 4)], axis=1)
    expected = [quantise(both @ weights(8, 3), 0.5, 8)]
    for k, x in enumerate((levels, levels * 0.5)):
        run = api.build(
            m.save(tmp_path / "m.onnx"),
            "linux-x86",
            inputs={"levels": x, "b": given},
            backend="onnxruntime",
            input_type="levels=int8:0.5",
            out=tmp_path / f"run{k}",
            progress=False,
        )
        assert _equal(run.infer({"b": given, "levels": x}), expected)


def test_a_session_serves_a_run_of_several_inputs(made):
    from greenedge.run.runtime_session import prepare_calls

    for batch in (1, 3):
        _, calls = prepare_calls(made[0], "onnxruntime", batch)
        next(calls)()


def test_what_takes_one_input_says_so_with_the_names_and_a_cure(tmp_path):
    path = CASES["concat"].model().save(tmp_path / "m.onnx")
    said = {
        ("vcu118", "hls4ml"): "tiny: 2 inputs (a, b); a project has one function from one input to one output (cure: "
        "choose ulx3s-85f, whose da4ml takes several, or linux-x86 or cortex-m4).",
    }
    for (target, backend), text in said.items():
        (found,) = api.check(path, target, backend=backend)
        assert [str(reason) for reason in found.reasons] == [text]
    for target in ("ulx3s-85f", "linux-x86", "cortex-m4"):  # the cures, followed
        (found,) = api.check(path, target)
        assert found.reasons == () and found.backend != "finn"


@pytest.mark.tool("verilator")
@pytest.mark.tool("g++")
def test_unrolled_rtl_gives_several_outputs_at_once(rng, tmp_path):
    """Outputs of several widths and signs, one a layer deeper than the other, side by side in one stream."""
    da4ml = load_backend("da4ml")
    graph = legalise_graph(lower_file(CASES["two outputs"].model().save(tmp_path / "m.onnx")).graph, da4ml.passes)
    assert len({graph.edges[edge].bits for edge in graph.outputs}) == 2
    plan = da4ml.plan(graph, load_target("ulx3s-85f"), {})
    execute(dataclasses.replace(plan, commands=plan.commands[:2], products=plan.products[:4]), tmp_path / "build")
    feeds = _feeds(rng, graph)
    expected = run_graph(graph, feeds)
    for simulate in (da4ml.simulate, da4ml.simulate_with_backpressure):
        got = simulate(tmp_path / "build", feeds, graph.outputs)
        assert list(got) == list(graph.outputs)
        assert all(np.array_equal(values, expected[edge]) for edge, values in got.items())


def test_the_runner_for_boards_is_left_out_and_that_is_said(tmp_path):
    path = CASES["concat"].model().save(tmp_path / "m.onnx")
    (found,) = api.check(path, "linux-x86", backend="tflite")
    assert (
        "There is no deploy/: its runner takes one input to one output, and the file has 2 and 1, in the order of "
        "edges.json." in found.notes
    )


@pytest.mark.slow
def test_torch_module_with_several_inputs_and_outputs(tmp_path):
    """Every argument of forward reaches the file, and every output of it comes back."""
    torch = pytest.importorskip("torch")
    from brevitas import nn as qnn

    class Pair(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.quant = qnn.QuantIdentity(bit_width=4, return_quant_tensor=True)
            self.one = qnn.QuantLinear(4, 3, bias=False, weight_bit_width=4)
            self.two = qnn.QuantLinear(8, 2, bias=False, weight_bit_width=4)
            self.first, self.second = (qnn.QuantIdentity(bit_width=8) for _ in range(2))

        def forward(self, left, right):
            a, b = self.quant(left), self.quant(right)
            return self.first(self.one(b)), self.second(self.two(torch.cat([a, b], dim=1)))

    torch.manual_seed(1)
    network = Pair()
    rng = np.random.default_rng(2)
    left, right = (rng.normal(size=(60, 4)).astype(np.float32) for _ in range(2))
    network(torch.from_numpy(left), torch.from_numpy(right))
    network.eval()
    with torch.no_grad():
        expected = [y.numpy() for y in network(torch.from_numpy(left), torch.from_numpy(right))]
    run = api.build(
        network, "linux-x86", inputs=(left, right), backend="onnxruntime", out=tmp_path / "run", progress=False
    )
    got = run.infer({"left": left, "right": right})
    assert list(got) == ["output_0", "output_1"]
    for ours, theirs in zip(got.values(), expected, strict=True):
        assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()  # float32 of torch
    assert [found.reasons for found in api.check(network, "linux-x86", inputs={"right": right, "left": left})] == [()]
    with pytest.raises(GreenedgeError, match=r"forward takes \(left, right\); give one array for each, by its name"):
        api.check(network, "linux-x86", inputs=left)
