"""The parts of the hls4ml back end that need no tool: types, folding, refusals, plans."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest

from greenedge.backends import hls4ml
from greenedge.backends.hls4ml.folding import fold, valid_reuse
from greenedge.backends.hls4ml.hand_over import hand_over
from greenedge.backends.hls4ml.precision import clip_type, holds, range_type, scale_type
from greenedge.backends.hls4ml.toolchains import TOOLCHAINS, check_toolchain
from greenedge.errors import TargetError
from greenedge.graph import Dense, Edge, Graph, Input, SumPool, freeze
from greenedge.legalise import legalise_graph
from greenedge.target import load_target
from tests.backends.affine_nets import fit_affine_forms, make_graph, residual, vectors
from tests.backends.graphs import Sketch, list_built

VU9P = "vcu118"


def test_types_are_as_wide_as_what_they_hold():
    assert [range_type(*ends) for ends in [(0, 15), (-8, 7), (-1, 1), (0, 0), (-129, 3)]] == [
        "ufixed<4,4>",
        "fixed<4,4>",
        "fixed<2,2>",
        "ufixed<1,1>",
        "fixed<9,9>",
    ]
    assert scale_type([3, 700], 12) == "ufixed<10,-2>" and scale_type([-3], 4) == "fixed<3,-1>"
    assert clip_type(0, 15, -99, 99) == "ufixed<4,4,TRN,SAT>"
    assert clip_type(-8, 7, -99, 99) == "fixed<4,4,TRN,SAT>" and clip_type(-7, 7, -99, 99) == "fixed<4,4,TRN,SAT_SYM>"
    assert clip_type(-1, 1, -5, 5) == "fixed<2,2,TRN,SAT_SYM>"
    assert clip_type(-3, 11, -99, 99) is None  # no type saturates there
    assert clip_type(-3, 11, -3, 11) == "fixed<5,5,TRN,SAT>"  # and none must
    assert holds([1 << 60, 5 << 40]) and not holds([(1 << 53) + 1])


def test_reuse_factors_are_hls4mls_own():
    pytest.importorskip("hls4ml")
    from hls4ml.backends import get_backend

    backend = get_backend("Vitis")
    for n_in, n_out in [(16, 64), (12, 5), (7, 3), (1, 8), (36, 10)]:
        assert valid_reuse(n_in, n_out) == backend.get_valid_reuse_factors(n_in, n_out)


def test_folding_follows_the_budget_and_the_options(rng):
    graph, _ = make_graph(rng, vectors)
    layer = next(layer for layer in hand_over(graph).layers if layer.weights == (8, 6))
    assert fold(layer, None, {}) == fold(layer, 1, {}) and fold(layer, None, {}).strategy == "latency"
    slow = fold(layer, 20, {})
    assert (slow.reuse, slow.strategy, slow.cycles) == (16, "resource", 16)
    assert fold(layer, None, {"reuse": 4, "strategy": "resource"}).reuse == 4
    assert fold(layer, None, {"strategy.dense1": "distributed_arithmetic"}).strategy == "distributed_arithmetic"
    assert fold(layer, None, {"strategy.other": "resource"}).strategy == "latency"


def refusals(graph, target=VU9P, **options) -> list[str]:
    return [str(reason) for reason in hls4ml.check(graph, load_target(target), options)]


def test_what_hls4ml_cannot_be_given_is_told(rng):
    sketch = Sketch(rng, (4, 6, 6), "s4")
    a = sketch.conv("x", 4, (1, 1), pads=(1, 1, 1, 1))
    b = sketch.max_pool("x", (2, 2), pads=(1, 1, 0, 0))
    c = sketch.depth_to_space("x", 2)
    d = sketch.pad("x", (1, 0, 0, 0, 0, 0), 2)
    e = sketch.step(sketch.add(a, a), per_channel=False)
    assert refusals(sketch.graph(e)) == [
        f"{b}: padding of levels below 0; hls4ml pads with 0, which would win (cure: put the pool after a ReLU).",
        f"{c}: operation DepthToSpace; hls4ml builds {list_built(hls4ml.BACKEND.rules)} (cure: use layers of these "
        "kinds, or choose another back end).",
        f"{d}: padding (1, 0, 0, 0, 0, 0); hls4ml pads height and width (cure: use layers of these kinds, or choose "
        "another back end).",
        f"{e}: a step function that is no multiply, add and shift; a batch normalisation computes clip((m*x + b) >> "
        f"s) (cure: use batch norm and "
        "ReLU before the quantiser).",
    ]


def test_numbers_too_wide_for_the_interface_are_named_with_what_narrows_them():
    edges = {"x": Edge("x", (2,), 0, 1 << 25), "fc": Edge("fc", (1,), 0, 1 << 26)}
    graph = Graph("g", (Input("x", (), "x"), Dense("fc", ("x",), "fc", freeze([[1], [1]]))), edges, ("fc",))
    found = check_toolchain(graph, load_target("pynq-z2"), TOOLCHAINS["vivado-accelerator"], "auto")
    assert [str(reason) for reason in found] == [
        "x: 26 bits at the interface; vivado-accelerator hands over floats of 24 bits (cure: choose toolchain vitis, "
        "or quantise the input).",
        "fc: 27 bits at the interface; vivado-accelerator hands over floats of 24 bits (cure: choose toolchain vitis, "
        "or give the file an output quantiser: `greenedge requantise MODEL.onnx --inputs X.npy -o OUT.onnx`).",
    ]


def test_targets_toolchains_and_options_that_do_not_fit_are_told(rng):
    graph, _ = make_graph(rng, vectors)
    assert refusals(graph, toolchain="quartus") == [
        "sketch: a device of family 'virtex-us'; quartus compiles for arria-10 (cure: choose another target or "
        "toolchain)."
    ]
    assert refusals(graph, toolchain="vivado-accelerator") == [
        "sketch: vcu118; VivadoAccelerator has block designs for pynq-z2, zcu102 (cure: choose toolchain vitis)."
    ]
    assert refusals(graph, strategy="resource", reuse=5)[0] == (
        "dense1: reuse factor 5; 8 times 6 multipliers are reused by 1, 2, 4, 8, 16, 24, 48 … (cure: choose one of "
        "these)."
    )
    assert refusals(graph, fps=400_000_000, strategy="resource", reuse=8)[0] == (
        "dense1: 8 cycles with every multiplier at work; 400000000 inferences per second leave 1 at 200 MHz (cure: "
        "ask for fewer inferences per "
        "second)."
    )
    for options, text in [
        (
            {"toolchain": "gcc"},
            "there is no HLS toolchain 'gcc'; toolchains are: vitis, vivado, "
            "vivado-accelerator, quartus, "
            "oneapi, catapult, libero.",
        ),
        (
            {"depth": 3},
            "hls4ml has no option build.depth; it has: toolchain, io, fps, clock_hz, strategy, reuse, synthesis, seed.",
        ),
        ({"io": "io_serial"}, "build.io is 'io_serial'; it is io_parallel or io_stream."),
        ({"synthesis": "yes"}, "build.synthesis is 'yes'; it is one of auto, hls, logic, bitstream, no."),
    ]:
        with pytest.raises(TargetError) as error:
            refusals(graph, **options)
        assert str(error.value) == text
    with pytest.raises(TargetError) as error:
        refusals(graph, "ulx3s-85f")
    assert str(error.value) == (
        "ulx3s-85f: no HLS toolchain is known for family 'ecp5'; hls4ml serves arria-10, "
        "artix-7, kintex-us, polarfire, "
        "virtex-us, zynq, zynq-us."
    )


def test_a_layer_too_large_to_unroll_names_the_way_out(rng):
    sketch = Sketch(rng, (80,))
    graph = fit_affine_forms(sketch.graph(sketch.dense("x", 60)))
    assert refusals(graph) == []  # folds by itself
    assert refusals(graph, strategy="latency") == [
        "dense1: 4,800 multipliers to unroll; HLS compilers unroll at most 4,096 (cure: use --set "
        "build.strategy.dense1=resource, or a lower --fps)."
    ]


def test_a_plan_is_pure_and_small_models_are_parallel(rng):
    graph = legalise_graph(make_graph(rng, residual)[0], hls4ml.BACKEND.passes)
    target = load_target(VU9P)
    plans = [hls4ml.plan(graph, target, {"synthesis": "no"}) for _ in range(2)]
    assert plans[0].digest() == plans[1].digest() and b'"io_parallel"' in plans[0].files["job.json"]
    wide = Sketch(rng, (1, 20, 20))
    big = fit_affine_forms(wide.graph(wide.step(wide.conv("x", 4, (3, 3)))))
    assert b'"io_stream"' in hls4ml.plan(big, target, {"synthesis": "no"}).files["job.json"]


def test_names_of_strangers_stay_out_of_the_source(rng):
    graph, _ = make_graph(rng, vectors)
    evil = '"); system("rm -rf /"); //'
    ops = tuple(dataclasses.replace(op, name=evil) for op in graph.ops)
    names = [layer.name for layer in hand_over(Graph(graph.name, ops, graph.edges, graph.outputs)).layers]
    assert all(name.replace("_", "").isalnum() for name in names) and len(set(names)) == len(names)


def test_the_vendors_tool_is_not_asked_for_in_vain(rng):
    graph, _ = make_graph(rng, vectors)
    target = load_target(VU9P)
    assert len(hls4ml.plan(graph, target, {"synthesis": "no"}).commands) == 2
    asked = hls4ml.plan(graph, target, {"synthesis": "logic"})
    assert asked.commands[-1].argv == ("vitis-run", "--mode", "hls", "--tcl", "build_prj.tcl")
    assert b'"logic": 1' in asked.files["job.json"] and asked.products[-1] == "project/vivado_synth.rpt"
    assert refusals(graph, synthesis="bitstream") == [
        "sketch: synthesis bitstream; vitis goes to hls or logic (cure: choose toolchain vivado-accelerator)."
    ]
    accelerator = {"toolchain": "vivado-accelerator", "synthesis": "bitstream"}
    board = load_target("pynq-z2")
    assert hls4ml.check(graph, board, accelerator) == []
    assert [command.argv[0] for command in hls4ml.plan(graph, board, accelerator).commands[2:]] == [
        "vivado_hls",
        "vivado",
    ]


def test_vitis_runs_in_its_image_in_the_project(rng, tmp_path, monkeypatch):
    """Docker gets the project's folder, where the vendor's script looks for its files."""
    from greenedge.tools.plan import Command
    from greenedge.tools.run import _resolve

    (tmp_path / "bin").mkdir()
    docker = tmp_path / "bin" / "docker"
    docker.write_text("#!/bin/sh\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("GREENEDGE_XILINX", str(tmp_path))
    graph, _ = make_graph(rng, vectors)
    command = hls4ml.plan(graph, load_target(VU9P), {"synthesis": "hls"}).commands[-1]
    assert isinstance(command, Command)
    argv = _resolve(command, tmp_path, True).argv
    assert argv[argv.index("--workdir") + 1] == str(tmp_path / "project")


def test_the_list_of_weights_that_is_compiled_is_the_headers():
    from greenedge.backends.hls4ml.csim import tabulate_weights

    given = b"#ifndef W2_H_\n\nstatic const w_t w2[3] = {1, -0.50, 7};\n\n#endif\n"
    assert tabulate_weights(given) == (
        b"#ifndef W2_H_\n\nstatic const double w2_listed[3] = {1, -0.50, 7};\nw_t w2[3];\n"
        b"static const bool w2_filled = [] { for (int k = 0; k < 3; k++) w2[k] = w2_listed[k]; return true; }();"
        b"\n\n#endif\n"
    )
    assert tabulate_weights(b"w_t w2[2][2] = {{1, 2}, {3, 4}};\n") == b"w_t w2[2][2] = {{1, 2}, {3, 4}};\n"


def test_weights_reach_hls4ml_as_the_graph_has_them(rng):
    graph = legalise_graph(make_graph(rng, residual)[0], hls4ml.BACKEND.passes)
    layers = {layer.edge: layer for layer in hand_over(graph).layers}
    conv, depthwise = graph.ops[1], graph.ops[3]
    assert np.array_equal(layers[conv.output].attributes["weight_data"], conv.weight.transpose(2, 3, 1, 0))
    assert layers[depthwise.output].kind == "DepthwiseConv2D"
    wide = {layer.edge: layer for layer in hand_over(graph, has_depthwise=False).layers}[depthwise.output]
    assert wide.kind == "Conv2D"
    assert np.count_nonzero(wide.attributes["weight_data"]) == np.count_nonzero(depthwise.weight)


def test_a_sum_pool_is_a_depthwise_layer_of_ones(rng):
    raw, _ = make_graph(rng, residual)
    (pool,) = (op for op in raw.ops if isinstance(op, SumPool))
    layers = {layer.edge: layer for layer in hand_over(legalise_graph(raw, hls4ml.BACKEND.passes)).layers}
    assert layers[pool.output].kind == "DepthwiseConv2D"
    assert (layers[pool.output].attributes["depthwise_data"] == 1).all()
    assert refusals(raw) == [
        f"{pool.name}: operation SumPool; hls4ml builds {list_built(hls4ml.BACKEND.rules)} (cure: use layers of these "
        "kinds, or choose another back end)."
    ]
