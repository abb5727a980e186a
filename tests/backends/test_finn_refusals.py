"""What finn refuses, and in what words: tests/golden/finn-refusals.txt has every sentence (GOLDEN=1 writes it anew)."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest

from greenedge.backends import finn
from greenedge.backends.finn.dialect.builder import Builder
from greenedge.backends.finn.dialect.lower import RULES
from greenedge.backends.interface import Environment, Fitness
from greenedge.errors import TargetError
from greenedge.graph import (
    Add,
    ConvTranspose,
    Dense,
    Edge,
    Graph,
    Input,
    Op,
    Requantise,
    Steps,
    Table,
    freeze,
)
from greenedge.legalise import legalise_graph
from greenedge.target import load_target
from tests.backends.finn_sketches import convolutions, residual
from tests.backends.graphs import Sketch
from tests.backends.nets import mlp


def _sketch(build, shape=(4, 6, 6), levels="u4"):
    def graph(rng):
        s = Sketch(rng, shape, levels)
        return s.graph(build(s))

    return graph


def _wide(rng):
    return Graph(
        "wide",
        (
            Input("x", (), "x"),
            Dense("fc", ("x",), "fc", np.full((2, 2), 300)),
            Add("sum", ("fc", "fc"), "sum", (1, 1)),
            Dense("last", ("sum",), "last", np.full((2, 2), 3)),
        ),
        {
            "x": Edge("x", (2,), 0, 4095),
            "fc": Edge("fc", (2,), 0, 10**7),
            "sum": Edge("sum", (2,), 0, 2 * 10**7),
            "last": Edge("last", (2,), 0, 12 * 10**7),
        },
        ("last",),
    )


def _wild(rng):
    """A function of 20,001 values that is not monotone."""
    table = Requantise(
        "wave",
        ("x",),
        "wave",
        0,
        0,
        1,
        Table(freeze(np.arange(20001)[None] % 2)),
        freeze([-10000]),
        freeze([10000]),
    )
    return Graph(
        "wild",
        (Input("x", (), "x"), table),
        {"x": Edge("x", (4,), -10000, 10000), "wave": Edge("wave", (4,), 0, 1)},
        ("wave",),
    )


CASES = {
    "bits": _wide,
    "three dimensions": _sketch(lambda s: s.conv("x", 3, (2, 2, 2)), (2, 4, 4, 4)),
    "channels padded": _sketch(lambda s: s.pad("x", (1, 0, 0, 0, 0, 0))),
    "channels repeated": _sketch(lambda s: s.upsample("x", 2, 1, 1)),
    "one branch to add": _sketch(lambda s: s.add("x", multipliers=(3,))),
    "one branch to join": _sketch(lambda s: s.concat("x")),
    "no layer": _sketch(lambda s: "x"),
    "a wave": _wild,
}
OPTIONS = {
    "faster than the clock": (convolutions, "ulx3s-85f", {"fps": 10**9}),
    "too fast": (convolutions, "ulx3s-85f", {"fps": 10_000_000}),
    "too late": (convolutions, "ulx3s-85f", {"latency": 1e-7}),
    "both": (convolutions, "ulx3s-85f", {"latency": 1e-7, "fps": 10_000_000}),
    "a queue too short": (residual, "ulx3s-85f", {"queue": 2}),
    "not a bitstream": (convolutions, "linux-x86", {}),
}


def test_every_refusal_is_a_sentence(repo):
    rng, lines = np.random.default_rng(3), []
    board = load_target("ulx3s-85f")
    for name, graph in CASES.items():
        lines += [f"# {name}", *map(str, finn.check(legalise_graph(graph(rng), finn.BACKEND.passes), board, {})), ""]
    for name, (graph, target, options) in OPTIONS.items():
        lines += [
            f"# {name}",
            *map(str, finn.check(legalise_graph(graph(rng), finn.BACKEND.passes), load_target(target), options)),
            "",
        ]
    for name, resources in (("too few blocks", {"bram_bits": 4 * 18432}), ("too few cells", {"lut4": 4000})):
        small = dataclasses.replace(board, device=dataclasses.replace(board.device, resources=resources))
        lines += [f"# {name}", *map(str, finn.check(mlp(rng, (64, 64, 64, 10)), small, {})), ""]
    golden = repo / "tests" / "golden" / "finn-refusals.txt"
    if os.environ.get("GOLDEN") == "1":
        golden.write_text("\n".join(lines))
    assert "\n".join(lines) == golden.read_text()


@pytest.mark.parametrize(
    "options, said",
    [
        ({"fps": "many"}, "--set build.fps=many: it must be a number above 0."),
        ({"latency": -1}, "--set build.latency=-1: it must be a number above 0."),
        ({"queue": 0}, "--set build.queue=0: it must be a whole number above 0."),
        ({"clock_hz": 2.5}, "--set build.clock_hz=2.5: it must be a whole number above 0."),
        ({"synthesis": "logic"}, "--set build.synthesis=logic: it must be vivado, or be left out."),
        ({"finn_plus": 2}, "--set build.finn_plus=2: it must be 0 or 1, or be left out."),
        (
            {"fsp": 1000},
            "finn has no option build.fsp; it has: fps, latency, queue, finn_plus, clock_hz, baud, link, seed, "
            "seeds, synthesis.",
        ),
    ],
)
def test_options_that_are_none(rng, options, said):
    with pytest.raises(TargetError) as caught:
        finn.check(mlp(rng), load_target("ulx3s-85f"), options)
    assert str(caught.value) == said


def test_a_plan_needs_no_tool_and_says_what_grouping_costs(rng):
    from tests.backends.finn_sketches import grouped

    plan = finn.plan(grouped(rng), load_target("ulx3s-85f"), {"fps": 1000})
    assert (
        b"is built as a dense one with zeros, 2 times the multiplications and weight memory"
        in plan.files["folding.json"]
    )


def test_a_clock_may_be_written_with_an_exponent(rng):
    graph, board = mlp(rng), load_target("ulx3s-85f")
    assert finn.plan(graph, board, {"clock_hz": 40e6}) == finn.plan(graph, board, {"clock_hz": 40_000_000})


def test_finn_plus_can_be_left_out(rng):
    graph, board = mlp(rng), load_target("ulx3s-85f")
    asked, alone = (finn.plan(graph, board, {"finn_plus": value}) for value in (1, 0))
    assert {command.log for command in asked.commands} - {command.log for command in alone.commands} == {"finn.log"}


@pytest.mark.parametrize("bits, reasons", [(8, 0), (9, 1)])
def test_widths_are_taken_up_to_their_limit(bits, reasons):
    """An input, the weights and a quantised activation of 8 bits are built; of 9 bits each is refused."""
    board, top = load_target("ulx3s-85f"), (1 << bits) - 1
    s = Sketch(np.random.default_rng(1), (2,))
    source = dataclasses.replace(s.edges["x"], hi=top)
    wide = Graph("wide", (Input("x", (), "x"), Dense("fc", ("x",), "fc", np.array([[1], [1]]))), {}, ("fc",))
    wide = dataclasses.replace(wide, edges={"x": source, "fc": Edge("fc", (1,), 0, 2 * top)})
    assert [reason.value for reason in finn.check(wide, board, {})] == [f"input of {bits} bits"] * reasons
    weight = np.array([[-(1 << (bits - 1))], [1]])
    heavy = dataclasses.replace(
        wide,
        ops=(wide.ops[0], Dense("fc", ("x",), "fc", weight)),
        edges={"x": Edge("x", (2,), 0, 15), "fc": Edge("fc", (1,), 15 * int(weight.min()), 15)},
    )
    assert [reason.value for reason in finn.check(heavy, board, {})] == [f"weights of {bits} bits"] * reasons


def test_every_reason_of_a_layer_is_said_at_once():
    """Width of the input and of the weights, and what reads the layer is looked at too."""
    board = load_target("ulx3s-85f")
    graph = Graph(
        "heavy",
        (
            Input("x", (), "x"),
            Dense("a", ("x",), "a", np.full((2, 2), 100)),
            Add("sum", ("a", "a"), "sum", (1 << 10, 1)),
            Dense("b", ("sum",), "b", np.full((2, 2), 500)),
            Dense("c", ("b",), "c", np.full((2, 2), 3)),
        ),
        {
            "x": Edge("x", (2,), 0, 255),
            "a": Edge("a", (2,), 0, 51000),
            "sum": Edge("sum", (2,), 0, 1025 * 51000),
            "b": Edge("b", (2,), 0, 1000 * 1025 * 51000),
            "c": Edge("c", (2,), 0, 6000 * 1025 * 51000),
        },
        ("c",),
    )
    assert [(reason.node, reason.value) for reason in finn.check(graph, board, {})] == [
        ("b", "input of 26 bits"),
        ("b", "weights of 10 bits"),
        ("c", "input of 36 bits"),
    ]


def test_a_multiplier_that_the_adder_has_not_is_refused():
    """Its parameters are 32-bit integers: 2**31 would come out as its opposite."""
    edges = {name: Edge(name, (2,), 0, 1) for name in "ab"}
    for multiplier, refused in (((1 << 31) - 1, []), (1 << 31, ["a multiplier of 32 bits"])):
        step = Requantise(
            "y", ("sum",), "y", 0, 0, 1, Steps(freeze([1]), freeze([[5]]), None), freeze([0]), freeze([multiplier + 1])
        )
        graph = Graph(
            "far",
            (Input("a", (), "a"), Add("sum", ("a", "a"), "sum", (multiplier, 1)), step),
            {"a": edges["a"], "sum": Edge("sum", (2,), 0, multiplier + 1), "y": Edge("y", (2,), 0, 1)},
            ("y",),
        )
        assert [reason.value for reason in finn.check(graph, load_target("ulx3s-85f"), {})] == refused


def test_an_operation_without_a_rule_is_refused_in_standard_words():
    """It names what finn builds, and none of what it always refuses."""

    class Rotate(Op):
        pass

    builder = RULES.run(Builder(Graph("g", (), {}, ())), [Rotate("turn", ("x",), "turn")])
    (reason,) = builder.reasons
    assert reason.value == "operation Rotate" and "Conv, " in reason.rule and "ConvTranspose" not in reason.rule


def test_what_is_always_refused_has_no_rule():
    assert finn.BACKEND.rules is RULES and Dense in RULES
    assert ConvTranspose not in RULES


def test_what_finn_says_of_itself(tmp_path, monkeypatch):
    """The ranks that the choice between back ends reads, and doctor's row of FINN+'s environment, made and not made."""
    from greenedge.backends.finn.finnplus import environment

    graph, board = mlp(np.random.default_rng(0)), load_target("ulx3s-85f")
    assert finn.fitness(graph, board, {}) == Fitness(1, "")
    goal = Fitness(1, "build.fps was asked for, which it takes as its goal")
    assert finn.fitness(graph, board, {"fps": 1000, "queue": 4}) == goal
    monkeypatch.setattr(environment, "environment_folder", lambda: tmp_path / "finn")
    (absent,) = (row for row in finn.requirements() if isinstance(row, Environment))
    (tmp_path / "finn").mkdir()
    (present,) = (row for row in finn.requirements() if isinstance(row, Environment))
    assert not absent.is_there and present == dataclasses.replace(absent, is_there=True)
    assert (present.name, present.version, present.where) == ("FINN+", "1.6.1", str(tmp_path / "finn"))
