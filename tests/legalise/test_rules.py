"""The engine of rules: it lowers or refuses, collects every reason, and emits nothing that was refused or only
checked."""

from __future__ import annotations

import pytest

from greenedge.errors import Reason, ReasonKind, Refused
from greenedge.graph import Concat, Conv, Dense, Input, MaxPool, Requantise
from greenedge.legalise.capabilities import DILATIONS, SPATIAL_AXES
from greenedge.legalise.rules import RuleBuilder, Rules
from tests.backends.graphs import Sketch


class Names(RuleBuilder):
    """Writes down the operations that it emits."""

    def __init__(self, graph, is_checking=False):
        super().__init__(graph, is_checking)
        self.emitted = []


RULES: Rules[Names] = Rules(
    "toy",
    "the toy",
    {Conv: (SPATIAL_AXES.limit({2}, "the toy's windows have two axes", "use 2-D layers"),)},
)


@RULES.lowers(Input, Dense, Requantise)
def emit(b: Names, op) -> None:
    b.begin_emission()
    b.emitted.append(op.name)


@RULES.lowers(Conv)
def conv(b: Names, op: Conv) -> None:
    b.require(op.groups == 1, f"{op.groups} groups", "the toy has no groups", "use a dense convolution")
    b.require(max(op.strides) == 1, f"strides {op.strides}", "the toy has no strides", "use stride 1")
    b.begin_emission()
    b.emitted.append(op.name)


@RULES.lowers(MaxPool)
def max_pool(b: Names, op: MaxPool) -> None:
    raise Refused(ReasonKind.UNSUPPORTED_OP, "a pool", "the toy has none", "use strides")


def _mixed(rng):
    sketch = Sketch(rng, (4, 6, 6))
    x = sketch.step(sketch.conv("x", 4, (3, 3), (2, 2), groups=2))
    return sketch.graph(sketch.max_pool(x, (2, 2)))


def test_every_reason_at_once_also_those_behind_the_first(rng):
    graph = _mixed(rng)
    builder = RULES.run(Names(graph))
    conv_name, pool = graph.layers[0].name, graph.layers[-1].name
    assert builder.reasons == [
        Reason(conv_name, ReasonKind.UNSUPPORTED_OP, "2 groups", "the toy has no groups", "use a dense convolution"),
        Reason(conv_name, ReasonKind.UNSUPPORTED_OP, "strides (2, 2)", "the toy has no strides", "use stride 1"),
        Reason(pool, ReasonKind.UNSUPPORTED_OP, "a pool", "the toy has none", "use strides"),
    ]
    step = graph.layers[1].name
    assert builder.emitted == ["x", step], "a refusal is about its own operation, not about the next"


def test_checking_emits_nothing_and_finds_the_same(rng):
    graph = _mixed(rng)
    checked = RULES.run(Names(graph, is_checking=True))
    assert checked.emitted == [] and checked.reasons == RULES.run(Names(graph)).reasons


def test_an_operation_without_a_rule_is_refused_in_standard_words(rng):
    sketch = Sketch(rng, (4,))
    graph = sketch.graph(sketch.concat("x", "x"))
    assert Concat not in RULES and [str(reason) for reason in RULES.run(Names(graph)).reasons] == [
        f"{graph.layers[0].name}: operation Concat; the toy builds Dense, Requantise, Conv, MaxPool (cure: use "
        "layers of these "
        "kinds, or choose another back end)."
    ]


def test_a_capability_is_checked_by_data(rng):
    sketch = Sketch(rng, (4, 6))
    graph = sketch.graph(sketch.conv("x", 4, (3,)))
    reasons = RULES.run(Names(graph)).reasons
    assert [(reason.value, reason.rule) for reason in reasons] == [
        ("a window over 1 axes", "the toy's windows have two axes")
    ]
    assert str(RULES.supported[Conv][0]) == "spatial axes 2"
    assert str(DILATIONS.limit(range(1, 9), "", "")) == "dilation 1…8"


def test_two_rules_for_one_operation_are_a_defect():
    with pytest.raises(AssertionError, match="toy has two rules for Dense"):
        RULES.lowers(Dense)(lambda b, op: None)
