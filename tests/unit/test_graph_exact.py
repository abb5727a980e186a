"""Operations at the bounds of their arithmetic and of their windows: exact integers against sums written out."""

from __future__ import annotations

import numpy as np
import pytest

from greenedge.graph import (
    ArgMax,
    Concat,
    Conv,
    ConvTranspose,
    Dense,
    DepthToSpace,
    Edge,
    MaxPool,
    Pad,
    SumPool,
    Upsample,
    freeze,
)
from greenedge.graph.ops.arithmetic import choose_exact_type


def dense(x: list[int], weight: list[int]) -> int:
    """x · weight through Dense.execute, whose arithmetic follows the input's claimed range and the weights."""
    largest = max(abs(v) for v in x)
    layer = Dense("y", ("x",), "y", freeze(np.array(weight)[:, None]))
    return int(layer.execute([np.array([x])], [Edge("x", (len(x),), -largest, largest)])[0, 0])


@pytest.mark.parametrize("total", [2**24 - 1, 2**24, 2**24 + 1, 2**24 + 3, 2**26 - 1, 2**53 - 1, 2**53, 2**53 + 1])
def test_a_dot_product_is_exact_on_both_sides_of_what_floats_hold(total):
    """2**24 + 1 is no float32 and 2**53 + 1 no float64: the sum of a large term and of ones must keep every unit."""
    head = total // 4096 - 1
    terms = [4096, total - 4096 * head - 3, 1, 1, 1]
    weight = [head, 1, 1, 1, 1]
    assert dense(terms, weight) == sum(a * b for a, b in zip(terms, weight, strict=True)) == total
    assert dense([-v for v in terms], weight) == -total


def test_the_type_of_a_sum_changes_at_its_bound():
    assert choose_exact_type(2**24 - 1) is np.float32 and choose_exact_type(2**24) is np.float64
    assert choose_exact_type(2**53 - 1) is np.float64 and choose_exact_type(2**53) is np.int64


def test_random_dot_products_near_the_bound_of_float32(rng):
    for _ in range(200):
        weight = rng.integers(-(2**12), 2**12, 9)
        x = rng.integers(-(2**11), 2**11, 9)
        want = sum(int(a) * int(b) for a, b in zip(x, weight, strict=True))
        assert dense(x.tolist(), weight.tolist()) == want


def test_padding_of_a_max_pool_never_wins():
    """All values are negative: a zero in the padding would."""
    x = -np.arange(1, 6).reshape(1, 1, 5)
    pool = MaxPool("y", ("x",), "y", (3,), (1,), (1, 1))
    assert pool.execute([x], [Edge("x", (1, 5), -5, -1)]).tolist() == [[[-1, -1, -2, -3, -4]]]


def test_the_largest_under_a_dilated_window():
    x = np.array([[[9, 1, 2, 8, 3, 4, 7]]])
    pool = MaxPool("y", ("x",), "y", (2,), (2,), (0, 0), (3,))
    assert pool.execute([x], [Edge("x", (1, 7), 0, 9)]).tolist() == [[[9, 4]]]


def test_a_sum_pool_counts_its_padding_value():
    x = np.array([[[1, 2, 3]]])
    pool = SumPool("y", ("x",), "y", (2,), (2,), (1, 0), 10)
    edge = Edge("x", (1, 3), 0, 3)
    assert pool.execute([x], [edge]).tolist() == [[[11, 5]]]
    shape, (low, high) = pool.infer([edge], [(np.array([[0]]), np.array([[3]]))])
    assert shape == (1, 2) and (low.tolist(), high.tolist()) == ([[0]], [[20]])


def test_the_first_of_equal_values_is_the_largest():
    x = np.array([[[4, 0], [7, 5], [7, 5], [1, 5]]])
    assert ArgMax("y", ("x",), "y", 0).execute([x], None).tolist() == [[[1, 1]]]
    assert ArgMax("y", ("x",), "y", 1).execute([x], None).tolist() == [[[0], [0], [0], [1]]]


def test_branches_are_joined_along_their_axis():
    a, b = np.arange(4).reshape(1, 2, 2), 10 + np.arange(2).reshape(1, 2, 1)
    edges = [Edge("a", (2, 2), 0, 3), Edge("b", (2, 1), 10, 11)]
    ranges = [(np.array([[0, 1]]), np.array([[2, 3]])), (np.array([[10]]), np.array([[11]]))]
    join = Concat("y", ("a", "b"), "y", 1)
    assert join.execute([a, b], edges).tolist() == [[[0, 1, 10], [2, 3, 11]]]
    shape, (low, high) = join.infer(edges, ranges)
    assert shape == (2, 3) and low.tolist() == [[0, 1, 10]] * 2 and high.tolist() == [[2, 3, 11]] * 2


def transpose_convolve(x, weight, stride, pads, dilation, extra):
    """y[o, stride*i + dilation*k - pads[0]] += x[c, i] * weight[c, o, k], of length that ONNX defines."""
    size = (x.shape[1] - 1) * stride + dilation * (weight.shape[2] - 1) + 1 + extra - sum(pads)
    y = np.zeros((weight.shape[1], size), np.int64)
    for (c, i), value in np.ndenumerate(x):
        for o in range(weight.shape[1]):
            for k in range(weight.shape[2]):
                at = stride * i + dilation * k - pads[0]
                if 0 <= at < size:
                    y[o, at] += value * weight[c, o, k]
    return y


@pytest.mark.parametrize("pads, dilation, extra", [((0, 0), 1, 0), ((0, 0), 1, 1), ((1, 0), 1, 1), ((0, 2), 2, 1)])
def test_a_transposed_convolution_with_output_padding(rng, pads, dilation, extra):
    x, weight = rng.integers(0, 8, (2, 2, 4)), rng.integers(-4, 5, (2, 3, 3))
    layer = ConvTranspose("y", ("x",), "y", freeze(weight), (2,), pads, (dilation,), (extra,), 1)
    edge = Edge("x", (2, 4), 0, 7)
    got = layer.execute([x], [edge])
    want = np.stack([transpose_convolve(sample, weight, 2, pads, dilation, extra) for sample in x])
    assert np.array_equal(got, want)
    shape, (low, high) = layer.infer([edge], [(np.zeros((1, 1), np.int64), np.full((1, 1), 7))])
    assert shape == want.shape[1:]
    assert (want >= low).all() and (want <= high).all()


def test_a_grouped_convolution_reads_its_own_channels(rng):
    x, weight = rng.integers(0, 8, (2, 4, 5)), rng.integers(-4, 5, (6, 2, 2))
    layer = Conv("y", ("x",), "y", freeze(weight), (2,), (1, 0), (2,), 2, 3)
    got = layer.execute([x], [Edge("x", (4, 5), 0, 7)])
    padded = np.concatenate([np.full((2, 4, 1), 3), x], axis=2)
    want = np.zeros((2, 6, 2), np.int64)
    for o in range(6):
        for i in range(2):
            for c in range(2):
                for k in range(2):
                    want[:, o, i] += padded[:, 2 * (o // 3) + c, 2 * i + 2 * k] * weight[o, c, k]
    assert np.array_equal(got, want)


def test_pixels_move_as_onnx_says():
    """DCR: channel (b * block + c) * depth + d goes to pixel (b, c) of depth d; CRD: (d * block + b) * block + c."""
    x = np.arange(8).reshape(1, 8, 1, 1)
    dcr, crd = (DepthToSpace("y", ("x",), "y", 2, mode).execute([x], None)[0] for mode in ("DCR", "CRD"))
    assert dcr.tolist() == [[[0, 2], [4, 6]], [[1, 3], [5, 7]]]
    assert crd.tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]


def test_a_pad_and_an_upsampling_along_one_axis():
    x = np.array([[[1, 2]]])
    assert Pad("y", ("x",), "y", (0, 1, 0, 2), 5).execute([x], None).tolist() == [[[5, 1, 2, 5, 5]]]
    assert Upsample("y", ("x",), "y", (1, 2)).execute([x], None).tolist() == [[[1, 1, 2, 2]]]
