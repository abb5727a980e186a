"""hls4ml gets the integer graph: its C simulation gives the same integers at every layer, with every toolchain that
g++ compiles.
"""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest

from greenedge.backends import hls4ml
from greenedge.errors import GreenedgeError
from greenedge.graph import run_graph
from greenedge.legalise import legalise_graph
from greenedge.target import load_target
from greenedge.tools.run import execute
from tests.backends.affine_nets import (
    make_graph,
    moved_sequence,
    moves,
    residual,
    selections,
    sequence,
    streamed,
    vectors,
)
from tests.backends.graphs import Sketch

pytestmark = [pytest.mark.tool("g++")]
BOARD = {"quartus": "arria10-gx", "vivado-accelerator": "pynq-z2"}


def build_project(graph, folder, **options):
    """The build of the legalised graph, which is what check, plan and simulate see."""
    graph = legalise_graph(graph, hls4ml.BACKEND.passes)
    target = load_target(BOARD.get(options.get("toolchain"), "vcu118"))
    assert hls4ml.check(graph, target, options) == []
    execute(hls4ml.plan(graph, target, {"synthesis": "no", **options}), folder)
    return folder


def compare(graph, folder, x, missing: str = "shaped"):
    keep = [op.output for op in graph.ops if op.inputs]
    expected = run_graph(graph, x, keep=keep)
    got = hls4ml.simulate(folder, x, keep)
    # a reshape is recorded only where values move
    assert {edge for edge in keep if not edge.startswith(missing)} <= set(got) <= set(keep)
    for edge, values in got.items():
        assert np.array_equal(values, expected[edge]), edge


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """(graph, inputs, folder) of a small project in C."""
    graph, x = make_graph(np.random.default_rng(5), vectors)
    return graph, x, build_project(graph, tmp_path_factory.mktemp("hls") / "build")


def test_every_layer_of_a_vector_network(project):
    compare(*[project[k] for k in (0, 2, 1)])


def test_every_layer_of_a_residual_network(rng, tmp_path):
    graph, x = make_graph(rng, residual)
    compare(graph, build_project(graph, tmp_path / "build"), x)


@pytest.mark.parametrize("build", [moves, selections, pytest.param(moved_sequence, marks=pytest.mark.slow)])
def test_every_layer_that_moves_values(rng, tmp_path, build):
    graph, x = make_graph(rng, build)
    compare(graph, build_project(graph, tmp_path / "build"), x)


def _flattened_and_shaped(sketch):
    flat = sketch.step(sketch.reshape("x", 24), per_channel=False)
    return sketch.reshape(flat, 4, 6)


@pytest.mark.parametrize(
    "build, expected",
    [
        (
            _flattened_and_shaped,
            "shaped3: a reshape from (24,) to (4, 6) of what was flattened; hls4ml has the channels last, so its "
            "vector has another order (cure: reshape without the flattening in between)",
        ),
        (
            lambda sketch: sketch.upsample("x", 2, 1, 1),
            "up1: factors (2, 1, 1); hls4ml repeats rows and columns of an image "
            "(cure: upsample height and width only)",
        ),
        (
            lambda sketch: sketch.step(sketch.transpose(sketch.reshape("x", 2, 3, 2, 2), 3, 1, 0, 2)),
            "moved2: a transposition of 4 axes; hls4ml moves up to 3 (cure: join the axes that stay together)",
        ),
        (
            lambda sketch: sketch.concat("x", "x", axis=2),
            "joined1: a concatenation along axis 2; channels are joined (cure: concatenate channels)",
        ),
    ],
)
def test_moves_that_it_has_not_are_refused(rng, build, expected):
    sketch = Sketch(rng, (2, 3, 4))
    reasons = hls4ml.check(sketch.graph(build(sketch)), load_target("vcu118"), {})
    assert f"{expected}." in map(str, reasons)


def test_the_report_says_what_is_known(project):
    told = hls4ml.report(project[2])
    assert told["hardware"]["toolchain"] == "vitis" and told["hardware"]["io"] == "io_parallel"
    assert told["hardware"]["estimated_cycles"] == 1 and not {"lut", "fmax_hz"} & set(told["hardware"])
    assert told["hardware"]["write_s"] > 0 and told["evidence"]["estimated_cycles"] == "estimated"
    assert told["notes"] == [
        "No vendor tool ran: the project for vitis, 4-build/project, is written and simulated in "
        "C; resources and the clock that it reaches are unknown."
    ]


def test_a_changed_weight_is_seen_in_its_layer(project, tmp_path):
    import shutil

    graph, x, folder = project
    copy = tmp_path / "build"
    shutil.copytree(folder, copy)
    (copy / "project" / "net_prj").mkdir()
    (copy / "project" / "net_prj" / "a_o.pp.cpp").write_text("int left_by_the_vendor;")
    assert hls4ml.stale_artifact(copy) is None
    path = next((copy / "project" / "firmware" / "weights").glob("w2.h"))
    text = path.read_text()
    first = re.search(r"= \{(-?\d+)", text)
    path.write_text(text.replace(f"= {{{first[1]}", f"= {{{int(first[1]) ^ 2}", 1))
    wrong = f"{copy / 'project'} is not the project that was built; run the build stage again."
    assert hls4ml.stale_artifact(copy) == wrong
    keep = [op.output for op in graph.ops if op.inputs]
    expected, got = run_graph(graph, x, keep=keep), hls4ml.simulate(copy, x, keep)
    assert next(edge for edge in keep if not np.array_equal(expected[edge], got[edge])) == "dense1"


@pytest.mark.slow
@pytest.mark.parametrize("build", [vectors, residual, sequence, moves, moved_sequence, selections])
@pytest.mark.parametrize(
    "toolchain, io",
    [
        ("vitis", "io_stream"),
        ("vivado", "io_parallel"),
        ("vivado-accelerator", "io_stream"),
        ("quartus", "io_parallel"),
        ("catapult", "io_parallel"),
    ],
)
def test_every_toolchain_that_can_be_compiled_here(rng, tmp_path, toolchain, io, build):
    graph, x = make_graph(rng, streamed if io == "io_stream" and build is residual else build)
    compare(graph, build_project(graph, tmp_path / "build", toolchain=toolchain, io=io), x)


def test_overlapping_pools_cannot_be_streamed(rng):
    graph = legalise_graph(make_graph(rng, residual)[0], hls4ml.BACKEND.passes)
    (reason,) = hls4ml.check(graph, load_target("vcu118"), {"io": "io_stream"})
    assert (reason.value, reason.rule, reason.cure) == (
        "windows (2, 2) every (1, 1)",
        "hls4ml's streamed pools take windows side by side",
        "choose --set build.io=io_parallel",
    )


@pytest.mark.slow
@pytest.mark.parametrize("strategy, reuse", [("resource", 4), ("distributed_arithmetic", 1)])
def test_every_strategy(rng, tmp_path, strategy, reuse):
    graph, x = make_graph(rng, vectors)
    options = {"strategy.dense1": strategy, "reuse.dense1": reuse}
    folder = build_project(graph, tmp_path / "build", **options)
    job = json.loads((folder / "job.json").read_text())
    assert {"ReuseFactor": reuse, "Strategy": strategy, "Cycles": reuse} in job["folding"].values()
    compare(graph, folder, x)


def test_a_layer_that_is_not_there_is_not_folded(rng):
    graph, _ = make_graph(rng, vectors)
    (told,) = hls4ml.check(graph, load_target("vcu118"), {"reuse.dense9": 4, "strategy.dense1": "latency"})
    assert str(told).startswith("dense9: no layer of this name, asked for by build.reuse.dense9 (did you mean 'dense")


def test_oneapi_is_written_and_libero_refused(rng, tmp_path):
    graph, x = make_graph(rng, vectors)
    target = load_target("arria10-gx")
    plan = hls4ml.plan(graph, target, {"toolchain": "oneapi", "synthesis": "no"})
    execute(plan, tmp_path / "build")
    folder = tmp_path / "build"
    assert (folder / "project" / "CMakeLists.txt").is_file()
    with pytest.raises(GreenedgeError) as error:
        hls4ml.simulate(folder, x)
    assert str(error.value) == (
        "the project for oneapi cannot be simulated here: its C++ is SYCL, which Intel's icpx "
        "alone compiles; build with "
        "another toolchain to verify the same layers."
    )
    refused = [str(reason) for reason in hls4ml.check(graph, target, {"toolchain": "libero"})]
    assert refused == [
        "sketch: toolchain libero; hls4ml 1.3 asks for SmartHLS (shls) before it writes anything "
        "(cure: choose another toolchain).",
        "sketch: a device of family 'arria-10'; libero compiles for polarfire (cure: choose another "
        "target or toolchain).",
    ]


def test_an_identity_that_clips_is_kept(rng):
    """hls4ml drops a batch normalisation that multiplies by 1 and adds 0, with what its type clips."""
    from greenedge.backends.hls4ml.hand_over import hand_over
    from greenedge.graph import Affine, freeze

    graph, _ = make_graph(rng, vectors)
    ops = list(graph.ops)
    zero = freeze(np.zeros(6))
    ops[2] = dataclasses.replace(ops[2], lo=0, hi=7).with_steps(affine=Affine(freeze(np.ones(6)), zero, zero))
    layers = hand_over(dataclasses.replace(graph, ops=tuple(ops))).layers
    layer = next(layer for layer in layers if layer.edge == ops[2].output)
    assert (layer.attributes["scale_data"] == 1).all() and (layer.attributes["bias_data"] == 0.5).all()
    assert layer.precision["result"] == "ufixed<3,3,TRN,SAT>"
