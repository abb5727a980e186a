"""The C package computes the graph's integers: every operation, every range, hosted here and bare under an emulator."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import numpy as np
import pytest

from greenedge.backends import c99
from greenedge.backends.c99 import cores, memory_plan
from greenedge.backends.c99.code_builder import choose_form
from greenedge.backends.c99.cores import CORES, measure_core
from greenedge.backends.c99.emit import find_reasons
from greenedge.backends.c99.memory_plan import Lifetime, code_of, place_in_arena, plan_memory
from greenedge.errors import ToolError
from greenedge.graph import Conv, Edge, Graph, Input, Pad, Requantise, Steps, Table, freeze, run_graph
from greenedge.target import load_target
from greenedge.tools.run import execute
from tests.backends.affine_nets import fit_affine_forms
from tests.backends.graphs import RANGES, Sketch, list_built
from tests.backends.test_c99_fast import mixed

SAMPLES = 12


@pytest.fixture(scope="module")
def target():
    return load_target("cortex-m4")


def built(graph, target, folder):
    assert c99.check(graph, target, {}) == []
    execute(c99.plan(graph, target, {}), folder)
    return folder


def check(sketch, *outputs, target, folder):
    """Every stored edge of the built package equals the graph's."""
    graph = sketch.graph(*outputs)
    feeds = sketch.values(graph, SAMPLES)
    names = [op.output for op in graph.ops if op.inputs]
    got = c99.simulate(built(graph, target, folder), feeds, names)
    expected = run_graph(graph, feeds, keep=names)
    assert set(outputs) <= set(got)
    for edge, values in got.items():
        assert np.array_equal(values, expected[edge]), edge


def everything(rng) -> tuple[Sketch, list[str]]:
    """One network with every operation, several outputs, wide and offset edges."""
    net = Sketch(rng, (3, 9, 8))
    stem = net.step(net.conv("x", 6, (3, 3), pads=(1, 0, 1, 1), strides=(2, 1), pad_value=2), "s4", axis=0)
    depth = net.step(net.conv(stem, 6, (3, 3), pads=(2, 2, 2, 2), dilations=(2, 2), groups=6), "u8", axis=0)
    both = net.step(net.add(stem, depth, multipliers=(3, -2)), "s8", axis=0, falling=True)
    joined = net.concat(both, net.max_pool(both, (3, 3), (1, 1), (1, 1, 1, 1)), depth)
    pooled = net.step(
        net.sum_pool(net.step(joined, "skew", axis=0), (2, 2), pads=(1, 0, 0, 1), pad_value=-1), "u4", axis=0
    )
    turned = net.step(net.conv_transpose(pooled, 8, (3, 2), (2, 2), (1, 0, 1, 0), (1, 0), groups=2), "up", axis=0)
    moved = net.transpose(net.pad(net.upsample(net.depth_to_space(turned, 2), 1, 2, 1), (0, 1, 0, 0, 0, 2), 4), 1, 2, 0)
    crossed = net.depth_to_space(turned, 2, "CRD")
    flat = net.reshape(pooled, int(np.prod(net.edges[pooled].shape)))
    return net, [
        net.dense(net.step(net.dense(flat, 12), "u8"), 5),
        moved,
        crossed,
        net.add(pooled, pooled, multipliers=(200, 77)),
    ]


def test_every_operation(rng, target, tmp_path):
    net, outputs = everything(rng)
    check(net, *outputs, target=target, folder=tmp_path / "b")


def test_sequences_and_every_range_of_levels(rng, target, tmp_path):
    net = Sketch(rng, (4, 15), "u8")
    edge = "x"
    for levels in sorted(RANGES):
        edge = net.step(net.conv(edge, 5, (3,), pads=(1, 1), bits=8), levels, axis=0)
    check(net, edge, net.transpose(edge, 1, 0), target=target, folder=tmp_path / "b")


def test_signs_and_several_vectors(rng, target, tmp_path):
    net = Sketch(rng, (6, 20), "s2")
    check(
        net,
        net.step(net.dense(net.step(net.dense("x", 9, 1), "u1", per_channel=False), 7, 2), "n8"),
        target=target,
        folder=tmp_path / "b",
    )


def test_a_table(rng, target, tmp_path):
    """A function that is not monotone, as the lowering stores it."""
    net = Sketch(rng, (5,), "s4")
    table = freeze(rng.integers(0, 16, (1, 16)))
    step = Requantise("bent", ("x",), "bent", 0, 0, 15, Table(table), freeze([-8]), freeze([7]))
    net.ops.append(step)
    net.edges["bent"] = Edge("bent", (5,), 0, 15)
    assert choose_form(step) == "table"
    check(net, "bent", net.reshape("x", 5, 1), target=target, folder=tmp_path / "b")


def test_a_step_with_one_level(rng, target, tmp_path):
    """It has no thresholds, and ISO C no arrays without elements."""
    net = Sketch(rng, (5,), "s4")
    steps = Steps(freeze([-1]), freeze(np.zeros((1, 0), np.int64)), None)
    net.ops.append(Requantise("flat", ("x",), "flat", 0, 1, 1, steps, freeze([-8]), freeze([7])))
    net.edges["flat"] = Edge("flat", (5,), 1, 1)
    check(net, "flat", net.reshape("x", 5, 1), target=target, folder=tmp_path / "b")


def test_buffers_that_live_at_once_share_no_byte(rng):
    net, outputs = everything(rng)
    program = plan_memory(net.graph(*outputs))

    def root(edge):
        return program.buffers[edge].parameter, program.buffers[edge].offset

    written: dict = {}
    for call in program.calls:  # whoever reads an edge finds the bytes that its writer left there
        for edge in call.op.inputs:
            assert written.get(root(edge), edge) is not None
        begin = program.buffers[call.output]
        if begin.parameter is None:
            later = [e for other in program.calls[program.calls.index(call) + 1 :] for e in other.op.inputs]
            for edge in later:
                other = program.buffers[edge]
                if other.parameter is None and edge in written.values() and root(edge) != root(call.output):
                    assert begin.offset + begin.bytes <= other.offset or other.offset + other.bytes <= begin.offset, (
                        call.output,
                        edge,
                    )
        written[root(call.output)] = call.output
    assert program.arena_bytes % 4 == 0 and program.arena_bytes < sum(b.bytes for b in program.buffers.values())


def test_the_report_says_where_the_package_is_and_what_it_takes(rng, target, tmp_path):
    net = Sketch(rng, (6,), "s4")
    folder = built(net.graph(net.step(net.dense("x", 3), "u4")), target, tmp_path / "b")
    found = c99.report(folder)
    assert found["edge"]["bytes"] > 18 and found["edge"]["ram_bytes"] == 0  # one layer writes where the caller reads
    assert [layer["kind"] for layer in found["edge"]["layers"]] == ["general"]
    assert found["notes"][0].startswith(
        "The package is the folder 4-build (README.md there). Its self-test on this machine: "
    )


@pytest.mark.parametrize("place", ["_w[", "_m["])
def test_a_changed_constant_is_found(rng, target, tmp_path, place, monkeypatch):
    """The verifier rejects: one weight or multiplier of a general kernel in model.c changed by one."""
    monkeypatch.setattr(memory_plan, "find_form", lambda *_: None)
    net = Sketch(rng, (8,))
    step = net.step(net.dense("x", 4), "u4")
    graph = net.graph(step)
    graph = _with_affine(graph)
    folder = built(graph, target, tmp_path / "b")
    source = (folder / "model.c").read_text()
    head, tail = source.split(place, 1)
    first = tail.split("{\n    ", 1)[1].split(",")[0]
    (folder / "model.c").write_text(
        head + place + tail.replace("{\n    " + first, "{\n    " + str(int(first) + (40 if place == "_m[" else 1)), 1)
    )
    feeds = net.values(graph, 200)
    assert not np.array_equal(c99.simulate(folder, feeds)[step], run_graph(graph, feeds)[step])
    with pytest.raises(ToolError, match="the self-test of the C package ended with exit status 1: .* differ"):
        plan = c99.plan(graph, target, {})
        execute(
            type(plan)({**plan.files, "model.c": (folder / "model.c").read_bytes()}, plan.commands, plan.products),
            tmp_path / "c",
        )


def _with_affine(graph: Graph) -> Graph:
    from greenedge.graph.affine import fit_affine

    ops = [
        op.with_steps(affine=fit_affine(op.require_steps().thresholds, op.lo, op.hi, op.x_lo, op.x_hi))
        if isinstance(op, Requantise)
        else op
        for op in graph.ops
    ]
    assert choose_form(ops[-1]) == "affine"
    return Graph(graph.name, tuple(ops), graph.edges, graph.outputs)


def test_sums_that_could_overflow_are_refused(rng):
    net = Sketch(rng, (700, 100), "u8")
    weight = freeze(np.full((1, 700, 100), -128))
    net.ops.append(Conv("sums", ("x",), "sums", weight, (1,), (0, 0), (1,)))
    net.edges["sums"] = Edge("sums", (1, 1), -70_000 * 255 * 128, 0)
    (reason,) = find_reasons(net.graph("sums"))
    assert (reason.value, reason.rule) == (
        "sums of up to 33 bits",
        "the kernels multiply 8-bit operands and add in 32 bits",
    )


def test_refusals(rng):
    net = Sketch(rng, (70000,), "u8")
    net.edges["x"] = Edge("x", (70000,), 0, 300)
    dense = net.dense("x", 1, 8)
    net.edges["y"] = Edge("y", (2,), -(1 << 40), 1 << 40)
    net.ops.append(Input("y", (), "y"))
    said = [f"{r.node}: {r.value}; {r.rule} ({r.cure})." for r in find_reasons(net.graph(dense))]
    assert said == [
        "x: an axis of 70,000; sizes are 16 bits wide (split the layer).",
        "dense1: input of 9 bits; the kernels multiply 8-bit operands and add in 32 bits (quantise to at most 8 bits "
        "before this layer).",
        "y: values of 42 bits; the kernels multiply 8-bit operands and add in 32 bits (quantise to at most 8 bits "
        "before this layer).",
    ]


def test_what_the_kernels_have_not_is_refused(rng, target):
    """Five axes, and an operation without a rule."""
    net = Sketch(rng, (2, 2, 2, 2, 2), "s4")
    index = net.arg_max(net.reshape("x", 32))
    net.ops.append(Pad("wide", ("x",), "wide", (0,) * 10))
    net.edges["wide"] = Edge("wide", (2, 2, 2, 2, 2), -8, 7)
    assert [str(reason) for reason in c99.check(net.graph(index, "wide"), target, {})] == [
        "x: a tensor of 5 axes; the kernels have up to 4 (cure: use 1-d or 2-d layers).",
        f"index2: operation ArgMax; c99 builds {list_built(c99.BACKEND.rules)} (cure: use layers of these kinds, or "
        "choose another back end).",
        "wide: a tensor of 5 axes; the kernels have up to 4 (cure: use 1-d or 2-d layers).",
    ]


def test_buffers_take_the_lowest_place_that_is_free_while_they_live():
    lives = [Lifetime("a", 8, 0, 1), Lifetime("b", 5, 1, 2), Lifetime("c", 8, 2, 3), Lifetime("d", 4, 0, 3)]
    assert place_in_arena(lives) == ({"c": 0, "a": 0, "b": 8, "d": 16}, 20)


@pytest.mark.parametrize(
    "low, is_wide", [(-200, False), (32639, False), (32640, True), (-32895, False), (-32896, True)]
)
def test_an_offset_is_no_wider_than_its_type(low, is_wide):
    """Few levels far from 0, as a sum with large weights of an input that hardly varies."""
    code = code_of(Edge("sum", (3,), low, low + 255))
    assert code.wide == is_wide and (is_wide or -(1 << 15) <= code.offset < 1 << 15)


def test_too_little_memory(rng):
    small = load_target("hifive1-revb")
    net = Sketch(rng, (1, 200, 200))
    graph = net.graph(net.step(net.conv(net.step(net.conv("x", 1, (1, 1)), "u4", axis=0), 1, (3, 3)), "u4", axis=0))
    (reason,) = c99.check(graph, small, {})
    assert (reason.value, reason.rule) == ("40,000 bytes of working memory", "SiFive FE310-G002, RISC-V E31 has 16,384")


def general_layers(rng) -> Graph:
    net, outputs = everything(rng)
    return net.graph(*outputs)


def fast_layers(rng) -> Graph:
    net, outputs = mixed(rng)
    return fit_affine_forms(net.graph(*outputs))


_ARM = [pytest.mark.tool("arm-none-eabi-gcc"), pytest.mark.tool("qemu-system-arm")]
_RISCV = [pytest.mark.tool("riscv64-unknown-elf-gcc"), pytest.mark.tool("qemu-system-riscv32")]


@pytest.mark.parametrize(
    "machine",
    [
        pytest.param("mps2-an386", marks=_ARM),
        pytest.param("mps2-an500", marks=_ARM),
        pytest.param("riscv", marks=_RISCV),
    ],
)
@pytest.mark.parametrize("layers", [general_layers, fast_layers])
def test_bare_machines_give_the_same_integers(rng, target, tmp_path, machine, layers):
    """The package on emulated Cortex-M4, Cortex-M7 and RISC-V cores, without any C library."""
    gcc, emulator = (
        ("riscv64-unknown-elf-gcc", "qemu-system-riscv32")
        if machine == "riscv"
        else ("arm-none-eabi-gcc", "qemu-system-arm")
    )
    folder = built(layers(rng), target, tmp_path / "b")
    core = {
        "mps2-an386": ("-mcpu=cortex-m4", "-mthumb"),
        "mps2-an500": ("-mcpu=cortex-m7", "-mthumb"),
        "riscv": ("-march=rv32imac", "-mabi=ilp32"),
    }[machine]
    script = "port/riscv.ld" if machine == "riscv" else "port/cortex-m.ld"
    subprocess.run(
        [
            gcc,
            *core,
            "-Os",
            "-std=c99",
            "-ffreestanding",
            "-nostdlib",
            "-Lport",
            "-T",
            script,
            "ge_fast.c",
            "ge_kernels.c",
            "model.c",
            "selftest.c",
            "port/bare.c",
            "-lgcc",
            "-o",
            "selftest.elf",
        ],
        cwd=folder,
        check=True,
        timeout=120,
    )
    board = ["-M", "virt", "-bios", "none"] if machine == "riscv" else ["-M", machine]
    run = subprocess.run(
        [emulator, *board, "-nographic", "-semihosting-config", "enable=on,target=native", "-kernel", "selftest.elf"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    said = (run.stdout + run.stderr).split()
    assert run.returncode == 0 and said[said.index("differing") + 1] == "00000000", (run.stdout, run.stderr)
    assert said[said.index("hash") + 1] == said[said.index("expected") + 1]


@pytest.mark.parametrize("core", [pytest.param("cortex_m4", marks=_ARM), pytest.param("rv32imac", marks=_RISCV)])
def test_what_a_core_takes_is_counted(rng, target, tmp_path, core, monkeypatch):
    """Instructions of every call, stack and flash stand in the report; a package that computes something else fails."""
    folder = built(fast_layers(rng), target, tmp_path / "b")
    edge = c99.report(folder)["edge"]
    counts = [layer[f"instructions_{core}"] for layer in edge["layers"]]
    assert min(counts) > 50 and sum(counts) == edge[f"instructions_{core}"]
    assert 100 < edge[f"stack_bytes_{core}"] < 2000 and edge["bytes"] < edge[f"flash_bytes_{core}"] < 40_000
    assert "counted by an emulator that knows no cycles" in " ".join(c99.report(folder)["notes"])
    flash = {"flash_bytes": edge[f"flash_bytes_{core}"]}
    assert measure_core(replace(CORES[core], script="port/none.ld"), folder, len(counts)) == flash  # no such memory
    with monkeypatch.context() as patched:
        patched.setattr(cores, "_EMULATE_S", 0.001)
        assert measure_core(CORES[core], folder, len(counts)) == flash
    golden = (folder / "golden.h").read_text()
    head, tail = golden.split("golden_y0[GOLDEN_SAMPLES]", 1)
    first = tail.split("{\n    {", 1)[1].split(",")[0]
    changed = tail.replace("{\n    {" + first, "{\n    {" + str(1 - int(first)), 1)
    (folder / "golden.h").write_text(head + "golden_y0[GOLDEN_SAMPLES]" + changed)
    with pytest.raises(ToolError, match="ended with exit status 1|says: differs"):
        measure_core(CORES[core], folder, len(counts))


@pytest.mark.tool("cmake")
def test_cmake_builds_and_tests_the_package(rng, target, tmp_path):
    net = Sketch(rng, (8,))
    folder = built(net.graph(net.step(net.dense("x", 4))), target, tmp_path / "b")
    for argv in (["cmake", "-B", "build"], ["cmake", "--build", "build"], ["ctest", "--test-dir", "build"]):
        subprocess.run(argv, cwd=folder, check=True, capture_output=True, timeout=120)
