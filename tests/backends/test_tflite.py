"""The back end as a whole: built, run, refused, damaged, doubted."""

from __future__ import annotations

import json

import numpy as np
import pytest

from greenedge.backends.int8 import tflite
from greenedge.backends.int8.tflite.runtime import weight_offsets
from greenedge.errors import GreenedgeError
from greenedge.graph import Dense, Edge, Graph, Input, Requantise, Steps, Table, freeze, run_graph
from greenedge.legalise import legalise_graph
from greenedge.target import load_target
from greenedge.tools.run import execute
from tests.backends.graphs import Sketch
from tests.backends.nets import inputs, mlp


def built(graph, folder):
    """The plan carried out; its one command, the self-test, too."""
    graph = legalise_graph(graph, tflite.BACKEND.passes)
    assert tflite.check(graph, load_target("linux-x86"), {}) == []
    execute(tflite.plan(graph, load_target("linux-x86"), {}), folder)
    return folder


def written(graph, folder):
    """The plan's files alone."""
    folder.mkdir()
    graph = legalise_graph(graph, tflite.BACKEND.passes)
    for name, content in tflite.plan(graph, load_target("linux-x86"), {}).files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def convnet(rng):
    sketch = Sketch(rng, (2, 6, 6))
    a = sketch.step(sketch.conv("x", 4, (3, 3), pads=(1, 1, 1, 1)))
    b = sketch.step(sketch.sum_pool(sketch.step(sketch.add(a, a), per_channel=False), (6, 6)))
    return sketch.graph(sketch.step(sketch.dense(sketch.reshape(b, 4), 5), "s4"))


@pytest.mark.parametrize("kernels", ["xnnpack", "reference"])
def test_the_built_file_gives_the_graphs_integers_at_every_layer(rng, tmp_path, convnet, kernels):
    folder = built(convnet, tmp_path / "build")
    x = inputs(rng, convnet, 130)
    keep = [op.output for op in convnet.ops if op.inputs]
    expected = run_graph(convnet, x, keep=keep)
    told = []
    got = tflite.simulate(folder, x, keep, lambda *word: told.append(word), kernels)
    stored = {op.output for op in convnet.ops if isinstance(op, Requantise)} | {"shaped7"}
    assert set(got) == stored
    for edge in stored:
        assert np.array_equal(got[edge], expected[edge]) and got[edge].dtype == np.int64
    assert told[-1] == (130, 130, "LiteRT")


def test_the_report_says_what_was_built_and_proved(tmp_path, convnet):
    folder = built(convnet, tmp_path / "build")
    report = tflite.report(folder)
    edge = report["edge"]
    assert edge["bytes"] == (folder / "model.tflite").stat().st_size
    assert edge["operators"] == {
        "CONCATENATION": 1,
        "CONV_2D": 1,
        "DEPTHWISE_CONV_2D": 2,
        "FULLY_CONNECTED": 1,
        "RESHAPE": 5,
    }
    assert edge["runtime"].startswith("ai-edge-litert ") and edge["left_to_builtins"] == {}
    assert edge["certificate"]["xnnpack"]["certified"] == edge["certificate"]["xnnpack"]["channels"] == 4 + 4 + 4 + 5
    assert report["proved"] == "all 17 channels equal on every reachable accumulator (XNNPACK)"
    assert "latency_s" not in edge


def test_a_plan_is_pure(convnet):
    assert (
        tflite.plan(convnet, load_target("linux-x86"), {}).digest()
        == tflite.plan(convnet, load_target("linux-x86"), {}).digest()
    )


def test_a_flipped_weight_is_seen_in_its_layer(rng, tmp_path, convnet):
    folder = written(convnet, tmp_path / "build")
    x = inputs(rng, convnet, 20)
    keep = [op.output for op in convnet.ops if op.inputs]
    good = tflite.simulate(folder, x, keep)
    begin, count = weight_offsets(folder / "model.tflite")["step2/weight"]
    content = bytearray((folder / "model.tflite").read_bytes())
    assert count == 4 * 3 * 3 * 2
    content[begin + 4] ^= 0x40
    (folder / "model.tflite").write_bytes(content)
    bad = tflite.simulate(folder, x, keep)
    first = next(edge for edge in keep if edge in bad and not np.array_equal(good[edge], bad[edge]))
    assert first == "step2"


def test_a_wrong_emulation_withholds_the_certificate(tmp_path, convnet):
    from greenedge.backends.int8.arithmetic import EMULATIONS
    from greenedge.backends.int8.tflite.selftest import self_test

    right = self_test()
    assert all(entry["mismatches"] == 0 and entry["ties"] > 200 for entry in right["kernels"].values())
    away = EMULATIONS["FULLY_CONNECTED"]["reference"]
    wrong = self_test({name: {**sets, "xnnpack": away} for name, sets in EMULATIONS.items()})
    assert wrong["kernels"]["xnnpack"]["mismatches"] > 0 and wrong["kernels"]["reference"]["mismatches"] == 0
    folder = written(convnet, tmp_path / "build")
    (folder / "selftest.json").write_text(json.dumps({**wrong, "version": "9.9", "left_to_builtins": {}}))
    report = tflite.report(folder)
    count, pairs = (wrong["kernels"]["xnnpack"][key] for key in ("mismatches", "pairs"))
    assert report["edge"]["certificate"]["xnnpack"] == {
        "withheld": f"the arithmetic of ai-edge-litert 9.9 is not the emulated one: {count:,} of {pairs:,} "
        f"values of the self-test differ"
    }
    assert "certified" in report["edge"]["certificate"]["reference"]
    assert report["proved"] is None and tflite.proof(folder) is None


def test_operators_that_xnnpack_leaves_withhold_its_certificate(tmp_path, convnet):
    from greenedge.backends.int8.tflite.selftest import self_test

    folder = written(convnet, tmp_path / "build")
    (folder / "selftest.json").write_text(
        json.dumps({**self_test(), "version": "9.9", "left_to_builtins": {"CONV_2D": 1, "RESHAPE": 5}})
    )
    assert tflite.report(folder)["edge"]["certificate"]["xnnpack"] == {
        "withheld": "XNNPACK in ai-edge-litert 9.9 does not run every CONV_2D of this file"
    }


def test_what_is_left_to_the_runtimes_own_kernels_is_seen(rng, tmp_path):
    sketch = Sketch(rng, (2, 5, 5))
    a = sketch.step(sketch.conv("x", 4, (3, 3), pads=(1, 1, 1, 1), pad_value=3))
    b = sketch.upsample(a, 1, 2, 2)
    graph = sketch.graph(sketch.step(sketch.conv(b, 4, (3, 3), pads=(1, 0, 1, 0), pad_value=2)))
    edge = tflite.report(built(graph, tmp_path / "build"))["edge"]
    assert edge["left_to_builtins"] == {"PADV2": 1, "RESIZE_NEAREST_NEIGHBOR": 1}
    assert edge["operators"]["CONV_2D"] == 2


@pytest.mark.parametrize(
    "damage, says",
    [
        ("magic", "is no .tflite file"),
        ("empty", "is no .tflite file"),
        ("cut", "cannot be run by LiteRT ("),
        ("absent", "cannot be read (no such file or directory)"),
        ("swapped", "does not hold "),
    ],
)
def test_a_damaged_file_is_one_sentence(rng, tmp_path, damage, says):
    graph = mlp(rng)
    folder = written(graph, tmp_path / "build")
    path = folder / "model.tflite"
    content = path.read_bytes()
    other = tflite.plan(mlp(rng, (12, 7, 3)), load_target("linux-x86"), {}).files["model.tflite"]
    path.unlink()
    if damage != "absent":
        path.write_bytes(
            {"magic": b"GARB" * 9, "empty": b"", "cut": content[: len(content) // 3], "swapped": other}[damage]
        )
    with pytest.raises(GreenedgeError) as error:
        tflite.simulate(folder, inputs(rng, graph, 2))
    text = str(error.value)
    assert (
        "\n" not in text
        and text.startswith(str(path))
        and says in text
        and text.endswith("; run the build stage again.")
    )


def test_inputs_are_checked(rng, tmp_path):
    folder = written(mlp(rng), tmp_path / "build")
    for x, text in [
        (np.zeros((2, 5), np.int64), "input 'x' has shape (2, 5); it must be ('batch', 12)."),
        (np.zeros((2, 12)), "input 'x' is float64; it takes integers (floats go through the prologue first)."),
        (np.full((2, 12), 16), "input 'x' holds 16…16; it must lie in 0…15 (UINT4)."),
    ]:
        with pytest.raises(GreenedgeError) as error:
            tflite.simulate(folder, x)
        assert str(error.value) == text


def test_refusals_are_said_at_once():
    weight = np.ones((4, 2), np.int64)
    ops = (Input("x", (), "x"), Dense("fc", ("x",), "fc", weight))
    graph = Graph("g", ops, {"x": Edge("x", (4,), 0, 1000), "fc": Edge("fc", (2,), 0, 4000)}, ("fc",))
    assert [str(reason) for reason in tflite.check(graph, load_target("linux-x86"), {})] == [
        "x: 1,001 levels; int8 holds 256 (cure: quantise to at most 8 bits).",
    ]


def refusals(sketch, *outputs):
    graph = legalise_graph(sketch.graph(*outputs), tflite.BACKEND.passes)
    return [str(reason) for reason in tflite.check(graph, load_target("linux-x86"), {})]


def test_accumulators_need_a_quantiser(rng):
    sketch = Sketch(rng, (4, 6, 6))
    a, b = sketch.conv("x", 4, (1, 1)), sketch.conv("x", 4, (1, 1))
    total = sketch.add(a, b)
    pooled = sketch.sum_pool(a, (2, 2))
    assert refusals(sketch, sketch.step(total, per_channel=False), sketch.step(pooled, per_channel=False)) == [
        f"{a}: its accumulators are read by {total}, {pooled}; a quantiser must follow every layer (cure: put a "
        f"QuantIdentity(bit_width=8) "
        "after it).",
        f"{b}: its accumulators are read by {total}; a quantiser must follow every layer (cure: put a "
        f"QuantIdentity(bit_width=8) after it).",
    ]


def test_steps_must_be_a_line_and_rise(rng):
    sketch = Sketch(rng, (4,))
    fc = sketch.dense("x", 3)
    name = sketch.step(fc)
    straight = sketch.ops.pop()
    bent = freeze(
        np.sort(
            np.concatenate([np.tile(np.linspace(-90, -60, 8), (3, 1)), np.tile(np.linspace(-50, 200, 7), (3, 1))], 1)
        )
    )
    wide = (freeze(np.full(3, -300)), freeze(np.full(3, 300)))
    sketch.ops.append(Requantise(name, (fc,), name, 0, 0, 15, Steps(straight.require_steps().sign, bent, None), *wide))
    sketch.ops.append(Requantise("table", (fc,), "table", 0, 0, 15, Table(freeze(np.zeros((3, 601)))), *wide))
    sketch.edges["table"] = Edge("table", (3,), 0, 15)
    assert refusals(sketch, name, "table") == [
        f"{name}: steps up to 62.4 accumulators off every straight line; behind a sum LiteRT multiplies and rounds "
        "once (cure: put a quantiser of 8 bits between the layer and the activation, whose levels are then looked up).",
        "table: a function that rises and falls; behind a sum LiteRT multiplies and rounds (cure: put a quantiser of 8 "
        "bits between the layer and the activation, whose levels are then looked up).",
    ]


def test_what_litert_has_no_kernel_for_is_named(rng):
    sketch = Sketch(rng, (4, 6, 6), "s8")
    wide = sketch.input("wide", (4, 6, 6), "u8")
    far = sketch.pad("x", (0, 0, 0, 0, 1, 1), 200)
    apart = sketch.upsample("x", 2, 1, 1)
    _, joined = sketch.add("x", wide), sketch.concat("x", wide)
    heavy = sketch.add("x", "x", "x", multipliers=(9000, 1, 1))
    outputs = (far, apart, sketch.step(heavy, per_channel=False))
    assert refusals(sketch, *outputs, joined) == [
        f"{far}: padding with 200; its input has the levels -128…127 (cure: pad with a level of the quantiser).",
        f"{apart}: factors (2, 1, 1); LiteRT resizes one or two image axes (cure: upsample height and width).",
        f"{joined}: inputs x -128…127 and wide 0…255; together they must fit 256 levels (cure: let both "
        f"branches share one quantiser).",
        f"{heavy}: branches weighted (9000, 1, 1); an addition stacks its branches at most 64 times, each time with a "
        "weight of 7 bits (cure: quantise the branches to fewer bits, or let both share one quantiser).",
    ]


def test_weights_and_windows_that_do_not_fit_are_named(rng):
    sketch = Sketch(rng, (2, 3, 3, 3))
    cube = sketch.conv("x", 2, (2, 2, 2))
    big = sketch.dense(sketch.step(cube), 3)
    sketch.ops[-1] = Dense(big, sketch.ops[-1].inputs, big, freeze(np.full((2, 3), 500)))
    assert refusals(sketch, sketch.step(big)) == [
        f"{cube}: a window over 3 axes; LiteRT's int8 kernels have one or two (cure: use 1-D or 2-D layers).",
        f"{big}: a weight of 500; int8 weights lie in -127…127 (cure: use narrow-range weights of at most 8 bits).",
    ]


def test_a_weight_that_a_falling_step_would_make_too_large_is_named(rng):
    sketch = Sketch(rng, (3,), "s8")
    dense = sketch.dense("x", 2, 8)
    weight = np.array([[-128, 5], [7, 3], [1, 2]])
    sketch.ops[-1] = Dense(dense, ("x",), dense, freeze(weight))
    rising = sketch.step(dense, "s8")
    assert refusals(sketch, rising) == []
    sketch.ops[-1] = sketch.ops[-1].with_steps(sign=freeze([-1, 1]))
    assert refusals(sketch, rising) == [
        f"{dense}: a weight of 128; int8 weights lie in -127…127 (cure: use narrow-range weights of at most 8 bits)."
    ]


@pytest.mark.parametrize(
    "storage, target, says",
    [
        (
            "int4",
            "linux-x86",
            "{conv}: int4 weights; LiteRT 2.3 keeps int4 convolutions from XNNPACK, three times slower than "
            "int8 (cure: "
            "build.storage=int4-dense, or int8 (which is the default)).",
        ),
        (
            "int2",
            "linux-x86",
            "{conv}: int2 weights; LiteRT 2.3 has no int2 convolutions (cure: build.storage=int4-dense, or int8 "
            "(which is the default)).",
        ),
        (
            "int5",
            "linux-x86",
            "sketch: build.storage is 'int5'; it is one of int8, int4-dense (cure: leave it out for int8).",
        ),
        (
            "int4-dense",
            "ethos-u55-128",
            "sketch: build.storage is 'int4-dense'; compilers of accelerators take int8 (Vela 5.2 dies on int4) "
            "and pack it "
            "themselves (cure: leave it out for int8).",
        ),
    ],
)
def test_storage_that_does_not_work_is_refused(rng, storage, target, says):
    from greenedge.target import load_target

    sketch = Sketch(rng, (2, 4, 4))
    conv = sketch.conv("x", 3, (3, 3))
    graph = sketch.graph(sketch.step(conv))
    assert [str(r) for r in tflite.check(graph, load_target(target), {"storage": storage})][0] == says.format(conv=conv)


def test_an_unknown_set_of_kernels_is_refused(rng):
    from greenedge.target import load_target

    assert [str(r) for r in tflite.check(mlp(rng), load_target("linux-x86"), {"kernels": "some"})] == [
        "tiny: build.kernels is 'some'; it is one of xnnpack, all (cure: leave it out for xnnpack)."
    ]


def test_the_golden_file(repo):
    """The bytes of one small file; GOLDEN=1 writes them anew."""
    import os

    sketch = Sketch(np.random.default_rng(7), (2, 5, 5))
    a = sketch.step(sketch.conv("x", 3, (3, 3), pads=(1, 1, 1, 1)))
    graph = sketch.graph(sketch.step(sketch.dense(sketch.reshape(a, 75), 4), "s8"))
    digest = tflite.plan(graph, load_target("linux-x86"), {}).digest() + "\n"
    golden = repo / "tests" / "golden" / "tflite.txt"
    if os.environ.get("GOLDEN"):
        golden.write_text(digest)
    assert golden.read_text() == digest
