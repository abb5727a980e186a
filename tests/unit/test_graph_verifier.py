"""The graph verifier finds every kind of fault, by its sentence, and none at the bound of what is right."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from greenedge.graph import Add, Conv, Dense, Edge, Graph, Input, Requantise, Steps, Table, freeze, verify_graph
from greenedge.graph.verifier import find_faults


def step(source: str, output: str, x_lo: list[int], x_hi: list[int], thresholds: list[list[int]], axis=0) -> Requantise:
    forms = Steps(freeze([1] * len(x_lo)), freeze(thresholds), None)
    levels = len(thresholds[0])
    return Requantise(output, (source,), output, axis, 0, levels, forms, freeze(x_lo), freeze(x_hi))


def network() -> Graph:
    """x in 0…3 → Dense, in -3…3 and 0…9 → levels 0…2 per channel → their sum."""
    weight = freeze([[1, 3], [-1, 0]])
    ops = (
        Input("x", (), "x"),
        Dense("fc", ("x",), "fc", weight),
        step("fc", "act", [-3, 0], [3, 9], [[0, 2], [1, 8]]),
        Dense("y", ("act",), "y", freeze([[1], [-2]])),
    )
    edges = (Edge("x", (2,), 0, 3), Edge("fc", (2,), -3, 9), Edge("act", (2,), 0, 2), Edge("y", (1,), -4, 2))
    return Graph("net", ops, {edge.name: edge for edge in edges}, ("y",))


def with_edge(graph: Graph, name: str, **changes) -> Graph:
    return dataclasses.replace(graph, edges={**graph.edges, name: dataclasses.replace(graph.edges[name], **changes)})


def with_op(graph: Graph, name: str, **changes) -> Graph:
    ops = tuple(dataclasses.replace(op, **changes) if op.name == name else op for op in graph.ops)
    return dataclasses.replace(graph, ops=ops)


def test_a_graph_whose_ranges_are_exact_has_no_fault():
    assert find_faults(network()) == []
    verify_graph(network())


def test_an_edge_may_claim_more_than_its_rule_gives():
    assert find_faults(with_edge(network(), "y", lo=-100, hi=100)) == []


@pytest.mark.parametrize(
    "name, claim, derived", [("fc", (-2, 9), (-3, 9)), ("fc", (-3, 8), (-3, 9)), ("act", (0, 1), (0, 2))]
)
def test_an_edge_that_claims_one_value_too_few(name, claim, derived):
    faults = find_faults(with_edge(network(), name, lo=claim[0], hi=claim[1]))
    kind = {"fc": "Dense", "act": "Requantise"}[name]
    says = f"{name}: its edge claims {claim[0]}…{claim[1]}; the rule of {kind} gives {derived[0]}…{derived[1]}"
    assert says in faults


@pytest.mark.parametrize("x_lo, x_hi", [([-2, 0], [3, 9]), ([-3, 0], [2, 9]), ([-3, 1], [3, 9]), ([-3, 0], [3, 8])])
def test_a_requantiser_that_is_proved_on_one_value_too_few(x_lo, x_hi):
    graph = with_op(network(), "act", x_lo=freeze(x_lo), x_hi=freeze(x_hi))
    assert find_faults(graph) == [f"act: -3…9 may arrive; it is proved on {min(x_lo)}…{max(x_hi)}"]


def test_the_reach_is_checked_per_channel():
    """Channel 0 takes -3…3 and channel 1 takes 0…9: the two swapped are wrong, though their union is the same."""
    graph = with_op(network(), "act", x_lo=freeze([0, -3]), x_hi=freeze([9, 3]))
    assert find_faults(graph) == ["act: -3…9 may arrive; it is proved on -3…9"]


def test_one_function_for_all_channels_must_hold_the_range_of_all():
    one = step("fc", "act", [-3], [9], [[0, 2]])
    graph = dataclasses.replace(network(), ops=(*network().ops[:2], one, network().ops[3]))
    assert find_faults(graph) == []
    assert find_faults(with_op(graph, "act", x_hi=freeze([8]))) == ["act: -3…9 may arrive; it is proved on -3…8"]


def test_the_reach_is_taken_along_the_requantisers_axis():
    """(2, 2) integers whose range varies along axis 1, and a function per index of it."""
    x = Edge("x", (2, 2), 0, 1)
    layer = Dense("fc", ("x",), "fc", freeze([[1, 5], [0, 0]]))
    edges = {edge.name: edge for edge in (x, Edge("fc", (2, 2), 0, 5), Edge("act", (2, 2), 0, 1))}
    act = step("fc", "act", [0, 0], [1, 5], [[1], [5]], axis=1)
    graph = Graph("net", (Input("x", (), "x"), layer, act), edges, ("act",))
    assert find_faults(graph) == []
    assert find_faults(with_op(graph, "act", axis=0)) == ["act: 0…5 may arrive; it is proved on 0…5"]


def test_a_shape_that_the_rule_does_not_give():
    faults = find_faults(with_edge(network(), "fc", shape=(3,)))
    assert "fc: its edge has shape (3,); the rule of Dense gives (2,)" in faults


def test_an_edge_that_is_written_twice():
    graph = network()
    again = Dense("fc_again", ("x",), "fc", graph.ops[1].weight)
    graph = dataclasses.replace(graph, ops=(*graph.ops[:2], again, *graph.ops[2:]))
    assert find_faults(graph) == ["fc_again: edge 'fc' is written twice"]


def test_an_edge_that_is_read_before_it_is_written():
    graph = network()
    swapped = dataclasses.replace(graph, ops=(graph.ops[0], graph.ops[2], graph.ops[1], graph.ops[3]))
    assert "act: it reads 'fc' before anything has written it" in find_faults(swapped)


def test_an_output_and_an_edge_that_nothing_writes():
    graph = dataclasses.replace(network(), outputs=("y", "z"))
    assert find_faults(graph) == ["output 'z' is written by nothing"]
    graph = dataclasses.replace(network(), edges={**network().edges, "z": Edge("z", (1,), 0, 1)})
    assert find_faults(graph) == ["edge 'z' is written by nothing"]


def test_an_operation_whose_output_is_no_edge():
    graph = network()
    graph = dataclasses.replace(graph, edges={name: edge for name, edge in graph.edges.items() if name != "y"})
    assert "y: its output 'y' is no edge of the graph" in find_faults(graph)


def test_inputs_that_do_not_fit_an_operation():
    edges = {edge.name: edge for edge in (Edge("a", (2,), 0, 1), Edge("b", (3,), 0, 1), Edge("y", (2,), 0, 2))}
    graph = Graph("net", (Input("a", (), "a"), Input("b", (), "b"), Add("y", ("a", "b"), "y", (1, 1))), edges, ("y",))
    assert find_faults(graph) == ["y: its inputs have shapes [(2,), (3,)]; the branches must have one shape"]


def test_a_narrower_input_is_taken_into_account():
    """With inputs known to stay in 0…1, sums stay in -1…1 and 0…3: narrower claims and proofs are right."""
    graph = with_op(network(), "act", x_lo=freeze([-1, 0]), x_hi=freeze([1, 3]))
    graph = with_edge(graph, "fc", lo=-1, hi=3)
    narrow = {"x": (np.zeros(1, np.int64), np.ones(1, np.int64))}
    assert find_faults(graph, narrow) == []
    assert len(find_faults(graph)) == 2


def test_the_claim_of_an_edge_bounds_what_follows():
    """A fault is said once: behind an edge that claims too little, its claim is what counts."""
    graph = with_edge(network(), "fc", lo=-3, hi=8)
    assert len(find_faults(with_op(graph, "act", x_hi=freeze([3, 8])))) == 1


def test_padding_is_part_of_a_range():
    weight = freeze(np.ones((1, 1, 2)))
    conv = Conv("y", ("x",), "y", weight, (1,), (1, 0), (1,), 1, -4)
    edges = {"x": Edge("x", (1, 3), 0, 5), "y": Edge("y", (1, 3), -8, 10)}
    graph = Graph("net", (Input("x", (), "x"), conv), edges, ("y",))
    assert find_faults(graph) == []
    assert find_faults(with_edge(graph, "y", lo=-7)) == ["y: its edge claims -7…10; the rule of Conv gives -8…10"]


def test_the_levels_of_a_table_are_its_range():
    act = Requantise("act", ("x",), "act", 0, 0, 5, Table(freeze([[5, 0, 2]])), freeze([-1]), freeze([1]))
    edges = {"x": Edge("x", (2,), -1, 1), "act": Edge("act", (2,), 0, 5)}
    graph = Graph("net", (Input("x", (), "x"), act), edges, ("act",))
    assert find_faults(graph) == []
    assert find_faults(with_edge(graph, "act", hi=4)) == ["act: its edge claims 0…4; the rule of Requantise gives 0…5"]


def test_verify_says_every_fault():
    graph = with_edge(with_edge(network(), "y", lo=-1), "act", hi=1)
    with pytest.raises(AssertionError, match="net is malformed:\nact: its edge claims 0…1.*\ny: its edge claims -1…2"):
        verify_graph(graph)
