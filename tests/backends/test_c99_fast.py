"""The fast kernels of the C package give the graph's integers: every shape, both forms, under sanitizers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from greenedge.backends import c99
from greenedge.backends.c99.fast_forms import find_form, order_of_taps, pack_stream, pack_words
from greenedge.backends.c99.memory_plan import plan_memory
from greenedge.backends.c99.run import SOURCES
from greenedge.backends.c99.scaling import Scaling, as_int32, find_scaling
from greenedge.graph import Affine, Graph, Requantise, Steps, freeze, run_graph
from greenedge.target import load_target
from greenedge.tools.run import execute
from tests.backends.affine_nets import fit_affine_forms
from tests.backends.graphs import Sketch

ACLE = Path(__file__).with_name("acle")
FORMS = {
    "plain": ("-DGE_PLAIN",),
    "DSP": ("-D__ARM_FEATURE_DSP", f"-I{ACLE}"),
}


@pytest.fixture(scope="module")
def target():
    return load_target("cortex-m4")


def convolutions(rng, levels="u8", shape=(4, 9, 8)):
    """One input, and a convolution of every kind that the kernels tell apart."""
    net = Sketch(rng, shape, levels)
    channels = shape[0]
    one = (1, 1, 1, 1)
    kinds = [
        (7, (3, 3), {"pads": one}),
        (6, (3, 3), {"pads": one, "strides": (2, 2)}),
        (2, (3, 3), {"pads": (0, 0, 1, 1), "strides": (1, 2)}),
        (3, (3, 3), {"pads": (2, 1, 0, 1), "strides": (2, 1), "pad_value": 3}),
        (2, (3, 3), {"pads": (1, 2, 1, 2)}),
        (2, (3, 3), {}),
        (5, (1, 1), {}),
        (channels, (1, 1), {"groups": channels}),
        (6, (1, 1), {"strides": (2, 2)}),
        (3, (1, 1), {"pads": one}),
        (4, (2, 5), {"pads": (1, 2, 0, 2), "strides": (2, 1), "dilations": (1, 1)}),
        (2, (3, 3), {"pads": (2, 2, 2, 2), "dilations": (2, 2)}),
        (channels, (3, 3), {"pads": one, "groups": channels}),
        (channels, (3, 3), {"pads": (0, 0, 1, 1), "groups": channels, "strides": (2, 2), "pad_value": 1}),
        (channels, (3, 3), {"groups": channels}),
        (2 * channels, (3, 3), {"pads": one, "groups": channels}),
        (channels, (2, 2), {"groups": channels, "dilations": (2, 1)}),
    ]
    outputs = [
        net.step(net.conv("x", out, kernel, bits=8, **more), str(rng.choice(["u8", "s8", "u4", "skew"])), axis=0)
        for out, kernel, more in kinds
    ]
    return net, outputs


def mixed(rng):
    """Layers in a row, so that results take their inputs' places; sums, means, tables, dense layers of odd sizes."""
    net = Sketch(rng, (3, 7, 6), "s8")
    a = net.step(net.conv("x", 5, (3, 3), pads=(1, 1, 1, 1), bits=8), "u8", axis=0)
    b = net.step(net.conv(a, 5, (3, 3), pads=(1, 1, 1, 1), groups=5, bits=8), "u8", axis=0)
    c = net.step(net.conv(b, 5, (1, 1), bits=8), "s8", axis=0)
    d = net.step(net.add(a, c, multipliers=(37, -91)), "s8", axis=0, per_channel=False)
    e = net.step(net.conv(d, 9, (3, 3), pads=(1, 1, 1, 1), strides=(2, 2), bits=4), "u4", axis=0)
    e = net.step(net.conv(e, 9, (2, 2), pads=(1, 0, 0, 1)), "u4", axis=0)
    f = net.step(net.sum_pool(e, (4, 3)), "u4", axis=0)
    g = net.reshape(f, 9)
    h = net.step(net.dense(g, 7, 8), "s8")
    tall = net.step(net.transpose(d, 1, 2, 0), "s4", axis=0, per_channel=False)
    rows = net.step(net.dense(tall, 3, 8), "u8")
    big = net.step(net.concat(d, d), "u4", axis=0, per_channel=False)
    raw = net.sum_pool(a, (7, 6))
    pools = [net.max_pool(a, (2, 2)), net.max_pool(d, (3, 2), (2, 1), (1, 1, 2, 0))]
    return net, [net.step(net.dense(h, 3, 1), "u1"), rows, big, raw, *pools]


def list_kernels(program) -> set[str]:
    return {call.fast.kernel for call in program.calls if call.fast}


def write_package(graph: Graph, target, folder: Path) -> Path:
    assert c99.check(graph, target, {}) == []
    for name, content in c99.plan(graph, target, {}).files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def run_selftest(folder: Path, *flags: str) -> str:
    """What the package's self-test says; a warning, an error of a sanitizer or a difference fails."""
    strict = ("-std=c99", "-O0", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion", "-Wno-sign-conversion")
    sanitizers = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    sources = [*SOURCES, "selftest.c", "port/host.c"]
    subprocess.run(["gcc", *strict, *sanitizers, *flags, "-o", "t", *sources], cwd=folder, check=True, timeout=120)
    done = subprocess.run([str(folder / "t")], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and " 0 differ" in done.stdout, done.stdout + done.stderr[:1500]
    return done.stdout


@pytest.mark.parametrize("form", sorted(FORMS))
@pytest.mark.parametrize("levels, shape", [("u8", (4, 9, 8)), ("s8", (3, 6, 10)), ("u4", (5, 5, 7))])
def test_convolutions_of_every_kind(rng, target, tmp_path, form, levels, shape):
    net, outputs = convolutions(rng, levels, shape)
    graph = fit_affine_forms(net.graph(*outputs))
    program = plan_memory(graph)
    assert all(call.fast for call in program.calls)
    assert list_kernels(program) == {"conv", "conv_1x1", "conv_3x3", "depthwise"}
    run_selftest(write_package(graph, target, tmp_path), *FORMS[form])


@pytest.mark.parametrize("form", sorted(FORMS))
def test_layers_in_a_row(rng, target, tmp_path, form):
    net, outputs = mixed(rng)
    graph = fit_affine_forms(net.graph(*outputs))
    program = plan_memory(graph)
    kinds = {"conv", "conv_1x1", "conv_3x3", "depthwise", "add", "mean", "sum", "max", "dense", "map"}
    assert list_kernels(program) == kinds
    run_selftest(write_package(graph, target, tmp_path), *FORMS[form])


def test_more_samples_and_the_edges_between(rng, target, tmp_path):
    net, outputs = mixed(rng)
    graph = fit_affine_forms(net.graph(*outputs))
    execute(c99.plan(graph, target, {}), tmp_path / "b")
    feeds = net.values(graph, 60)
    names = [op.output for op in graph.ops if op.inputs]
    got, expected = c99.simulate(tmp_path / "b", feeds, names), run_graph(graph, feeds, keep=names)
    assert set(outputs) <= set(got)
    for edge, values in got.items():
        assert np.array_equal(values, expected[edge]), edge


def test_a_changed_word_of_a_stream_is_found(rng, target, tmp_path):
    """The verifier rejects: one weight of one channel changed by one, one addend by a level."""
    net = Sketch(rng, (8,))
    out = net.step(net.dense("x", 2), "u4")
    graph = fit_affine_forms(net.graph(out))
    folder = write_package(graph, target, tmp_path)
    source = (folder / "model.c").read_text()
    head, tail = source.split("l0_stream[", 1)
    size, tail = tail.split("{\n    ", 1)
    words, tail = tail.split("}", 1)
    values = [int(v) for v in words.split(",")]
    for place, more in ((6, 1), (3, 1)):  # a weight's byte; the high word of an addend
        changed = [v + more * (k == place) for k, v in enumerate(values)]
        text = head + "l0_stream[" + size + "{\n    " + ", ".join(map(str, changed)) + "}" + tail
        (folder / "model.c").write_text(text)
        feeds = net.values(graph, 200)
        assert not np.array_equal(c99.simulate(folder, feeds)[out], run_graph(graph, feeds)[out])


def test_results_take_their_inputs_place(rng):
    """A depthwise and a pointwise layer need no second tensor; a reader of the old one keeps it."""
    net = Sketch(rng, (4, 12, 12), "u8")
    one = (1, 1, 1, 1)
    a = net.step(net.conv("x", 4, (3, 3), pads=one), "u8", axis=0)
    b = net.step(net.conv(a, 4, (3, 3), pads=one, groups=4), "u8", axis=0)
    c = net.step(net.conv(b, 4, (1, 1)), "u8", axis=0)
    program = plan_memory(fit_affine_forms(net.graph(net.step(net.conv(c, 1, (3, 3)), "u8", axis=0))))
    assert program.buffers[a] == program.buffers[b] == program.buffers[c]
    assert program.arena_bytes == 4 * 144 + max(form.scratch_bytes for call in program.calls if (form := call.fast))
    d = net.step(net.conv(c, 4, (2, 2)), "u8", axis=0)  # reads the row above again
    last = net.step(net.conv(d, 1, (1, 1)), "u8", axis=0)
    apart = plan_memory(fit_affine_forms(net.graph(last)))
    assert apart.buffers[c].offset == apart.buffers[a].offset != apart.buffers[d].offset
    kept = plan_memory(fit_affine_forms(net.graph(last, net.step(net.add(a, c), "u8", axis=0, per_channel=False))))
    assert kept.buffers[a].offset != kept.buffers[b].offset == kept.buffers[c].offset


def _step(m, b, s, lo, hi, x_lo, x_hi) -> Requantise:
    affine = Affine(*(freeze(np.atleast_1d(v)) for v in (m, b, s)))
    steps = Steps(freeze(np.sign(np.atleast_1d(m))), freeze(np.zeros((1, hi - lo), np.int64)), affine)
    ends = (freeze(np.atleast_1d(x_lo)), freeze(np.atleast_1d(x_hi)))
    return Requantise("q", ("x",), "y", 0, lo, hi, steps, *ends)


def test_the_scaled_form_is_the_step_on_every_sum(rng):
    """Random steps, rising and falling: floor, clamp, bias and offset give what the graph's formula gives."""
    found = 0
    for _ in range(300):
        s, lo, hi = int(rng.integers(0, 40)), *sorted(rng.choice(np.arange(-128, 128), 2, replace=False).tolist())
        offset, bias, reach = int(rng.integers(-2, 3)), int(rng.integers(-300, 300)), int(rng.integers(1, 3000))
        top = (hi - lo << s) // (2 * reach) + 1
        m, b = int(rng.integers(-top, top + 1)), int(rng.integers(lo << s, (hi << s) + 1))
        scaling = find_scaling(_step(m, b, s, lo, hi, bias - reach, bias + reach), offset, [bias], [reach], [3])
        if scaling is None:
            continue
        found += 1
        factor = 1 << scaling.doublings[0]
        for total in {*range(-reach, reach + 1, 37), -reach, reach}:
            value = scaling.m[0] * total * factor + scaling.b[0]
            assert -(1 << 63) <= value < 1 << 63 and abs(scaling.m[0]) < 1 << 31
            code = min(max(value >> (32 + scaling.shift), scaling.lo), scaling.hi)
            assert code == min(max(m * (total + bias) + b >> s, lo), hi) - offset
    assert found > 200


@pytest.mark.parametrize(
    "m, s, room, doublings",
    [
        ((1 << 27) - 1, 28, 0, 0),
        (1 << 27, 28, 1, 1),
        (1 << 27, 28, 0, None),
        (1 << 29, 28, 2, None),
        (1 << 29, 28, 3, 3),
    ],
)
def test_a_multiplier_beyond_32_bits_needs_room_in_the_weights(m, s, room, doublings):
    scaling = find_scaling(_step(m, 0, s, 0, 100, -9, 9), 0, [0], [9], [room])
    assert (scaling and scaling.doublings) == (None if doublings is None else (doublings,))


def test_what_no_word_holds_has_no_fast_form():
    """A sum of 64 bits, a sum of products beyond 32, a shift beyond 63, codes beyond 8 bits; at the bound it has."""

    def find(m=1 << 30, b=0, s=32, reach=100, lo=0, hi=100, offset=0, x=9):
        return find_scaling(_step(m, b, s, lo, hi, -x, x), offset, [0], [reach], [0])

    word = (1 << 31) - 1
    most = (1 << 63) - 1 - word * word
    assert find(word, most, 55, word, x=1 << 30) and find(word, most + 1, 55, word, x=1 << 30) is None
    assert find(m=1, s=32, x=1 << 33, reach=(1 << 31) - 1) and find(m=1, s=32, x=1 << 33, reach=1 << 31) is None
    assert find(m=2, s=63, x=1 << 62, reach=9) and find(m=8, s=64, x=1 << 62, reach=9) is None
    assert find(hi=127) and find(hi=128) is None and find(hi=128, offset=1) and find(lo=-128, offset=1) is None


def test_a_channel_that_never_moves_needs_no_multiplier():
    """Its formula fits no word, its one level does."""
    scaling = find_scaling(_step(1 << 40, 0, 36, 0, 9, 1000, 2000), 0, [0], [5000], [0])
    assert scaling is not None and scaling.m == (0,) and scaling.b == (9 << 32,)


def test_the_order_of_a_stream(rng):
    """Every tap once, in the order that ge_fast.c gathers; channels in pairs, the odd one with zeros."""
    net = Sketch(rng, (3, 6, 6), "u8")
    conv = net.conv("x", 3, (3, 3), pads=(1, 1, 1, 1))
    graph = fit_affine_forms(net.graph(net.step(conv, "u8", axis=0)))
    form = find_form(graph, graph.ops[1], graph.ops[2])
    order = order_of_taps(form, 3, (3, 3))
    assert sorted(order)[order.count(-1) :] == list(range(27)) and len(order) == 32
    assert order[:8] == [0, 3, 2, 5, 1, 6, 4, 8]  # outer taps of rows 0 and 1, their middles beside row 2's outer taps
    scaling = Scaling((5, -6, 7), (1 << 40, -1, 3), (0, 1, 0), 0, -128, 127)
    stream = pack_stream(np.arange(12).reshape(3, 4), [0, 1, 2, 3], scaling)
    assert stream.tolist() == [
        *(5, -6, 0, 256, -1, -1, 0x03020100, 0x0E0C0A08),
        *(7, 0, 3, 0, 0, 0, 0x0B0A0908, 0),
    ]
    assert pack_words(np.array([-1, 0, 0, -128])).tolist() == [as_int32(0x800000FF)]


def test_no_library_is_called(rng, target, tmp_path):
    """Firmware without a C library links: compilers make calls of memset, memcpy and divisions from plain C."""
    net, outputs = convolutions(rng)
    folder = write_package(fit_affine_forms(net.graph(*outputs)), target, tmp_path)
    for level in ("-O1", "-O2", "-Os"):
        subprocess.run(["gcc", "-std=c99", level, "-ffreestanding", "-c", "ge_fast.c"], cwd=folder, check=True)
        said = subprocess.run(["nm", "-u", "ge_fast.o"], cwd=folder, check=True, capture_output=True, text=True).stdout
        assert not {"memcpy", "memset", "memmove"} & set(said.split()), (level, said)
