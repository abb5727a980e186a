"""Every operation by itself: its execution against loops written from the ONNX text, its range against what inputs can
reach, its ONNX form on ONNX Runtime."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from greenedge.errors import GreenedgeError, ReasonKind, Refused
from greenedge.graph import (
    OPS,
    Add,
    Affine,
    ArgMax,
    ChannelAdd,
    Concat,
    Conv,
    ConvTranspose,
    Dense,
    DepthToSpace,
    Edge,
    Graph,
    Input,
    MaxPool,
    Multiply,
    Pad,
    Requantise,
    Reshape,
    Steps,
    SumPool,
    Table,
    Transpose,
    Upsample,
    freeze,
    run_graph,
)
from greenedge.graph.execute import accept_input
from greenedge.graph.ops.arithmetic import EXACT_FLOAT32, EXACT_FLOAT64, window_shape
from greenedge.graph.qonnx import to_qonnx
from greenedge.graph.verifier import find_faults


def graph_of(op, *edges: Edge) -> Graph:
    """The operation alone, its inputs the edges that it reads; its own edge is what its rule derives."""
    ranges = [(np.full((1,) * len(e.shape), e.lo), np.full((1,) * len(e.shape), e.hi)) for e in edges]
    shape, (low, high) = op.infer(edges, ranges)
    out = Edge(op.output, shape, int(low.min()), int(high.max()))
    inputs = [Input(e.name, (), e.name) for e in edges]
    return Graph("one", (*inputs, op), {**{e.name: e for e in edges}, out.name: out}, (op.output,))


def naive_conv(x, weight, strides, pads, dilations, groups, pad_value):
    """y[o, i, j] = sum over the taps, one multiplication after another, in Python's integers."""
    (channels, height, width), (outputs, per_group, kh, kw) = x.shape, weight.shape
    top, left, bottom, right = pads
    padded = np.full((channels, height + top + bottom, width + left + right), pad_value, object)
    padded[:, top : top + height, left : left + width] = x
    rows = (padded.shape[1] - dilations[0] * (kh - 1) - 1) // strides[0] + 1
    columns = (padded.shape[2] - dilations[1] * (kw - 1) - 1) // strides[1] + 1
    y = np.zeros((outputs, rows, columns), object)
    for o, i, j, c, u, v in itertools.product(*map(range, (outputs, rows, columns, per_group, kh, kw))):
        source = o // (outputs // groups) * per_group + c
        at = (i * strides[0] + u * dilations[0], j * strides[1] + v * dilations[1])
        y[o, i, j] += int(weight[o, c, u, v]) * padded[source, at[0], at[1]]
    return y


CONVS = [
    ((1, 1), (0, 0, 0, 0), (1, 1), 1, 0),
    ((2, 1), (1, 0, 2, 1), (1, 1), 1, 5),
    ((1, 2), (2, 2, 0, 1), (2, 1), 2, -7),
    ((1, 1), (1, 1, 1, 1), (1, 2), 4, 0),
]


@pytest.mark.parametrize("strides, pads, dilations, groups, pad_value", CONVS)
def test_a_convolution_is_its_loops(rng, strides, pads, dilations, groups, pad_value):
    weight = rng.integers(-7, 8, (4, 4 // groups, 3, 2))
    op = Conv("y", ("x",), "y", freeze(weight), strides, pads, dilations, groups, pad_value)
    edge = Edge("x", (4, 7, 6), -3, 5)
    graph, x = graph_of(op, edge), rng.integers(-3, 6, (5, 4, 7, 6))
    y = run_graph(graph, x)["y"]
    for sample, result in zip(x, y, strict=True):
        expected = naive_conv(sample, weight, strides, pads, dilations, groups, pad_value)
        assert np.array_equal(result, expected.astype(np.int64)) and result.shape == graph.edges["y"].shape


def test_a_large_padding_value_counts_for_the_exact_type():
    """The input fits float32 and the padding does not: 2**24 + 1 would be rounded."""
    op = Conv("y", ("x",), "y", freeze(np.ones((1, 1, 3))), (1,), (1, 1), (1,), 1, EXACT_FLOAT32)
    graph = graph_of(op, Edge("x", (1, 2), 0, 1))
    assert run_graph(graph, np.array([[[1, 0]]]))["y"].tolist() == [[[EXACT_FLOAT32 + 1, EXACT_FLOAT32 + 1]]]


@pytest.mark.parametrize("bound", [EXACT_FLOAT32, EXACT_FLOAT64])
def test_sums_at_and_beyond_the_exact_bounds(bound):
    """A dot product of bound, and one of bound + 1: both are exact, so the type is chosen in time."""
    for wanted in (bound - 1, bound, bound + 1):
        half = wanted // 2
        op = Dense("y", ("x",), "y", freeze([[1], [1], [wanted - 2 * half]]))
        edge = Edge("x", (3,), 0, max(half, 1))
        assert run_graph(graph_of(op, edge), np.array([[half, half, 1]]))["y"].tolist() == [[wanted]]


def extremes(op, edges, rng, samples=4000):
    """(lowest, highest) that random inputs at the ends of their ranges reach."""
    xs = [rng.choice([e.lo, e.hi], (samples, *e.shape)) for e in edges]
    y = op.execute(xs, edges)
    return int(y.min()), int(y.max())


@pytest.mark.parametrize(
    "op, edges",
    [
        (Dense("y", ("x",), "y", freeze([[3], [-2], [1]])), [Edge("x", (3,), -2, 5)]),
        (
            Conv("y", ("x",), "y", freeze([[[[2]]], [[[-3]]]]), (1, 1), (1, 0, 0, 0), (1, 1), 2, 9),
            [Edge("x", (2, 2, 2), -1, 4)],
        ),
        (
            ConvTranspose("y", ("x",), "y", freeze([[[1, -2]], [[3, 4]]]), (1,), (0, 0), (1,), (0,)),
            [Edge("x", (2, 3), -2, 5)],
        ),
        (ConvTranspose("y", ("x",), "y", freeze([[[3]]]), (2,), (0, 0), (1,), (0,)), [Edge("x", (1, 3), 2, 5)]),
        (MaxPool("y", ("x",), "y", (2,), (1,), (1, 0)), [Edge("x", (1, 3), -9, -4)]),
        (SumPool("y", ("x",), "y", (2,), (1,), (2, 0), -2), [Edge("x", (1, 3), -2, 1)]),
        (Add("y", ("a", "b"), "y", (3, -2)), [Edge("a", (2,), -1, 4), Edge("b", (2,), 0, 5)]),
        (
            ChannelAdd("y", ("a", "b"), "y", 1, freeze([[3, -2], [1, 5]])),
            [Edge("a", (3, 2), -1, 4), Edge("b", (3, 2), 0, 5)],
        ),
        (Pad("y", ("x",), "y", (1, 0), -7), [Edge("x", (2,), 0, 3)]),
        (Concat("y", ("a", "b"), "y", 0), [Edge("a", (2,), -1, 4), Edge("b", (3,), 0, 9)]),
        (ArgMax("y", ("x",), "y", 0), [Edge("x", (3,), -4, 4)]),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_a_range_is_what_inputs_reach(rng, op, edges):
    edge = graph_of(op, *edges).edges["y"]
    assert (edge.lo, edge.hi) == extremes(op, edges, rng)
    assert op.execute([np.zeros((1, *e.shape), np.int64) for e in edges], edges).shape[1:] == edge.shape


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_factors_of_a_sum_run_along_their_axis(rng, axis):
    shape = (2, 3, 4)
    factors = rng.integers(-9, 10, (2, shape[axis]))
    op = ChannelAdd("y", ("a", "b"), "y", axis, freeze(factors))
    edges = [Edge("a", shape, -8, 7), Edge("b", shape, 0, 15)]
    a, b = (rng.integers(edge.lo, edge.hi + 1, (5, *shape)) for edge in edges)
    y = run_graph(graph_of(op, *edges), {"a": a, "b": b})["y"]
    for index in np.ndindex(y.shape):
        m, n = factors[:, index[axis + 1]].tolist()
        assert y[index] == m * int(a[index]) + n * int(b[index])


def test_a_sum_refuses_factors_for_another_number_of_channels():
    op = ChannelAdd("y", ("a", "b"), "y", 0, freeze([[3, -2], [1, 5]]))
    with pytest.raises(Refused, match="2 factors along axis 0"):
        op.infer([Edge("a", (3,), 0, 1), Edge("b", (3,), 0, 1)], [(np.zeros(1), np.ones(1))] * 2)


def test_a_grouped_layer_takes_each_group_from_its_own_channels():
    """Per-channel ranges differ: group 0 reads channels 0 and 1, group 1 channels 2 and 3."""
    op = Conv("y", ("x",), "y", freeze(np.ones((4, 2, 1))), (1,), (0, 0), (1,), 2)
    low, high = np.array([[0], [0], [0], [0]]), np.array([[1], [2], [10], [20]])
    _, (_, top) = op.infer([Edge("x", (4, 3), 0, 20)], [(low, high)])
    assert top.ravel().tolist() == [3, 3, 30, 30]


def test_a_maximum_of_negatives_ignores_the_padding():
    op = MaxPool("y", ("x",), "y", (2, 2), (1, 1), (1, 1, 0, 0))
    graph = graph_of(op, Edge("x", (1, 2, 2), -9, -1))
    assert run_graph(graph, np.array([[[[-5, -7], [-3, -8]]]]))["y"].tolist() == [[[[-5, -5], [-3, -3]]]]


def test_the_first_of_equal_scores():
    graph = graph_of(ArgMax("y", ("x",), "y", 0), Edge("x", (4,), 0, 9))
    assert run_graph(graph, np.array([[1, 7, 7, 0], [5, 5, 5, 5]]))["y"].tolist() == [[1], [0]]


def test_a_transposed_convolution_is_its_loops(rng):
    weight = rng.integers(-4, 5, (2, 3, 3))
    op = ConvTranspose("y", ("x",), "y", freeze(weight), (2,), (1, 0), (1,), (1,))
    x = rng.integers(0, 6, (3, 2, 4))
    y = run_graph(graph_of(op, Edge("x", (2, 4), 0, 5)), x)["y"]
    size = (4 - 1) * 2 - 1 + 2 + 1 + 1
    full = np.zeros((3, 3, size + 3), np.int64)  # room at both ends, cut below
    for n, c, i, o, k in itertools.product(*map(range, (3, 2, 4, 3, 3))):
        full[n, o, i * 2 + k] += x[n, c, i] * weight[c, o, k]
    assert np.array_equal(y, full[:, :, 1 : 1 + size])


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_is_onnxs(rng, mode):
    x = rng.integers(0, 9, (2, 12, 2, 3))
    y = run_graph(graph_of(DepthToSpace("y", ("x",), "y", 2, mode), Edge("x", (12, 2, 3), 0, 9)), x)["y"]
    n, c, h, w = x.shape
    expected = np.zeros((n, 3, 4, 6), np.int64)
    for k, i, j, u, v in itertools.product(*map(range, (3, h, w, 2, 2))):
        source = (u * 2 + v) * 3 + k if mode == "DCR" else k * 4 + u * 2 + v
        expected[:, k, i * 2 + u, j * 2 + v] = x[:, source, i, j]
    assert np.array_equal(y, expected)


def test_rearrangements_by_hand(rng):
    x = rng.integers(0, 9, (2, 2, 3))
    edge = Edge("x", (2, 3), 0, 9)

    def run(op, *edges):
        return run_graph(graph_of(op, *(edges or (edge,))), {e.name: x for e in (edges or (edge,))})["y"]

    assert np.array_equal(run(Transpose("y", ("x",), "y", (1, 0))), x.swapaxes(1, 2))
    assert np.array_equal(run(Reshape("y", ("x",), "y", (3, 2))), x.reshape(2, 3, 2))
    assert np.array_equal(run(Upsample("y", ("x",), "y", (1, 2))), x[:, :, [0, 0, 1, 1, 2, 2]])
    both = run(Concat("y", ("a", "b"), "y", 1), Edge("a", (2, 3), 0, 9), Edge("b", (2, 3), 0, 9))
    assert np.array_equal(both, np.concatenate([x, x], axis=2)) and both.shape == (2, 2, 6)
    cube = graph_of(Transpose("y", ("x",), "y", (2, 0, 1)), Edge("x", (2, 3, 4), 0, 9))
    assert cube.edges["y"].shape == (4, 2, 3)


THRESHOLDS = np.array([[-4, 0, 3], [1, 1, 6]])


@pytest.mark.parametrize("more", [0, 20])  # few thresholds are compared one by one, many are searched
def test_a_step_counts_what_it_has_reached(more):
    thresholds = np.hstack([THRESHOLDS, np.full((2, more), 100)])
    steps = Steps(freeze([1, -1]), freeze(thresholds), None)
    op = Requantise("y", ("x",), "y", 0, -2, 1 + more, steps, freeze([-9, -9]), freeze([9, 9]))
    x = np.arange(-9, 10)
    y = op.execute([np.stack([x, x])[None]], [Edge("x", (2, 19), -9, 9)])[0]
    assert y[0].tolist() == [-2 + sum(int(v >= t) for t in thresholds[0]) for v in x]
    assert y[1].tolist() == [-2 + sum(int(-v >= t) for t in thresholds[1]) for v in x]
    assert [part.tolist() for part in op.reach] == [[-9, -9], [9, 9]]
    shifted = Requantise("y", ("x",), "y", 0, -2, 1 + more, steps, freeze([-9, 2]), freeze([9, 5]))
    assert [part.tolist() for part in shifted.reach] == [[-9, -5], [9, -2]]


def test_an_affine_form_that_would_leave_64_bits_is_not_used():
    """m*x + b of 2**63 wraps round in int64; the thresholds say the same without it."""
    affine = Affine(freeze([1 << 40]), freeze([0]), freeze([60]))
    steps = Steps(freeze([1]), freeze([[1 << 20, 1 << 21, 3 << 20]]), affine)
    op = Requantise("y", ("x",), "y", 0, 0, 3, steps, freeze([0]), freeze([1 << 23]))
    x = np.array([[0], [(1 << 20) - 1], [1 << 20], [1 << 21], [1 << 23]])
    assert op.execute([x], None).ravel().tolist() == [0, 0, 1, 2, 3]


def test_a_table_is_looked_up_per_channel():
    table = Table(freeze([[5, 0, 5], [1, 2, 3]]))
    op = Requantise("y", ("x",), "y", 0, 0, 5, table, freeze([-1, 4]), freeze([1, 6]))
    assert op.execute([np.array([[-1, 4], [0, 5], [1, 6]])], None).tolist() == [[5, 1], [0, 2], [5, 3]]
    with pytest.raises(Refused):
        op.require_steps()


def test_a_window_must_fit():
    assert window_shape((5,), (3,), (2,), (0, 0), (1,)) == (2,)
    assert window_shape((6,), (3,), (2,), (0, 1), (2,)) == (2,)
    with pytest.raises(Refused):
        window_shape((2,), (3,), (1,), (0, 0), (1,))


def test_inputs_at_the_ends_of_their_range_and_one_beyond():
    edge = Edge("x", (1,), -3, 4)
    assert accept_input(edge, np.array([[-3], [4]])).tolist() == [[-3], [4]]
    for wrong in (-4, 5):
        with pytest.raises(GreenedgeError):
            accept_input(edge, np.array([[wrong]]))


def test_the_verifier_says_what_is_wrong():
    op = Dense("y", ("x",), "y", freeze([[2], [-1]]))
    good = graph_of(op, Edge("x", (2,), 0, 3))
    assert find_faults(good) == []

    def claim(lo, hi, shape=(1,)):
        return Graph("one", good.ops, {**good.edges, "y": Edge("y", shape, lo, hi)}, ("y",))

    assert find_faults(claim(-3, 5)) == ["y: its edge claims -3…5; the rule of Dense gives -3…6"]
    assert find_faults(claim(-2, 6)) == ["y: its edge claims -2…6; the rule of Dense gives -3…6"]
    assert find_faults(claim(-3, 6, (2,))) == ["y: its edge has shape (2,); the rule of Dense gives (1,)"]
    steps = Steps(freeze([1]), freeze([[1, 4]]), None)
    for lo, hi, faulty in ((-3, 6, False), (-2, 6, True), (-3, 5, True)):
        step = Requantise("z", ("y",), "z", 0, 0, 2, steps, freeze([lo]), freeze([hi]))
        graph = Graph("two", (*good.ops, step), {**good.edges, "z": Edge("z", (1,), 0, 2)}, ("z",))
        assert bool(find_faults(graph)) == faulty, (lo, hi)


def test_the_onnx_form_computes_the_same(rng):
    """ONNX Runtime on the form of every operation that plain ONNX has."""
    import onnxruntime

    image = Edge("x", (4, 6, 6), -3, 5)
    ops = [
        Conv("y", ("x",), "y", freeze(rng.integers(-3, 4, (4, 2, 3, 3))), (1, 2), (1, 0, 1, 2), (1, 1), 2, 4),
        ConvTranspose(
            "y", ("x",), "y", freeze(rng.integers(-3, 4, (4, 2, 2, 2))), (2, 2), (0, 1, 1, 0), (1, 1), (1, 0)
        ),
        MaxPool("y", ("x",), "y", (2, 3), (1, 1), (0, 1, 0, 1)),
        SumPool("y", ("x",), "y", (2, 2), (2, 2), (1, 1, 1, 1), 2),
        Pad("y", ("x",), "y", (0, 1, 2, 0, 0, 1), -2),
        Reshape("y", ("x",), "y", (4, 36)),
        Transpose("y", ("x",), "y", (2, 0, 1)),
        Upsample("y", ("x",), "y", (1, 2, 3)),
        DepthToSpace("y", ("x",), "y", 2, "CRD"),
        ArgMax("y", ("x",), "y", 0),
    ]
    x = rng.integers(-3, 6, (1, *image.shape))
    for op in ops:
        graph = graph_of(op, image)
        session = onnxruntime.InferenceSession(to_qonnx(graph).SerializeToString())
        (got,) = session.run(None, {"x": x.astype(np.float32)})
        assert np.array_equal(got, run_graph(graph, x)["y"]), op.kind
    assert {op.kind for op in ops} < set(OPS)


@pytest.mark.parametrize(
    ("shape", "pads", "said"),
    [
        ((3, 4), (0, 0), "its input has shape"),
        ((2, 4, 4), (0, 0), "its input has shape"),
        ((2, 2), (2, 2), "leave nothing"),
    ],
)
def test_a_transposed_convolution_that_computes_nothing_is_refused(shape, pads, said):
    op = ConvTranspose("y", ("x",), "y", freeze([[[1, -2]], [[3, 4]]]), (1,), pads, (1,), (0,))
    with pytest.raises(Refused) as error:
        op.infer([Edge("x", shape, 0, 3)], [(np.zeros((1,) * len(shape), int), np.full((1,) * len(shape), 3))])
    assert said in str(error.value.args)


WIDE = np.array([1 << 40])


@pytest.mark.parametrize(
    "op, ranges",
    [
        (Add("s", ("a", "b"), "s", (1 << 63, 3)), [(np.array([0]), np.array([1]))] * 2),
        (Add("s", ("a", "b"), "s", (1 << 24, 1)), [(-WIDE, WIDE)] * 2),  # 2**64 wraps to 0
        (ChannelAdd("s", ("a", "b"), "s", 0, np.full((2, 1), 1 << 24)), [(-WIDE, WIDE)] * 2),
        (Multiply("s", ("a", "b"), "s", (0, 0)), [(np.array([0]), WIDE)] * 2),
    ],
    ids=["factor", "sum", "channels", "product"],
)
def test_a_sum_that_would_wrap_is_refused(op, ranges):
    edges = [Edge(name, (1,), 0, 1) for name in op.inputs]
    with pytest.raises(Refused) as caught:
        op.infer(edges, ranges)
    assert caught.value.kind is ReasonKind.TOO_WIDE and caught.value.rule == "accumulators must stay below 2**47"
