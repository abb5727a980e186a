"""Operators that pick elements at constant places: the integer graph against ONNX's definitions, element by element."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from greenedge.errors import UnsupportedError
from greenedge.graph import Gather, run_graph, verify_graph
from greenedge.lower import lower_file
from greenedge.lower.float_io import run_prologue
from tests.lower.models import Model

LAST, FIRST = 2**63 - 1, -(2**63)
FACTORS = np.array([1.0, 2.0, 0.5, 4.0])


def ints(m, *values):
    return [m.constant(value, np.int64) for value in values]


def take(m, indices, axis):
    m.node("Gather", *ints(m, indices), axis=axis)


def cut(m, *bounds):
    m.node("Slice", *ints(m, *bounds))


def split(m, sizes, axis, more=(), **attrs):
    """A Split whose parts are joined backwards."""
    given = ints(m, sizes) if sizes else []
    m.node("Split", *given, axis=axis, **attrs)
    count = len(sizes) if sizes else attrs["num_outputs"]
    m.nodes[-1].output[:] = parts = [f"part{k}" for k in range(count)]
    m.node("Concat", *parts[-2::-1], source=parts[-1], axis=axis)


def expect_split(x, sizes, axis):
    """ONNX: part k has the sizes[k] elements behind those of the parts before it."""
    ends = list(itertools.accumulate(sizes))
    taken = [range(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    parts = [np.stack([x.take(i, axis) for i in places], axis) for places in taken]
    return np.concatenate(parts[::-1], axis)


def expect_gather(x, indices, axis):
    """ONNX: output[i, …, j, …] = x[i, …, indices[j], …], the axes of the indices in place of the axis."""
    indices = np.asarray(indices)
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    y = np.empty(shape)
    for place in np.ndindex(*indices.shape):
        one = (*(slice(None),) * axis, *place)
        y[one] = x[(*(slice(None),) * axis, int(indices[place]))]
    return y


def expect_space_to_depth(x, block, channel):
    n, c, h, w = x.shape
    y = np.empty((n, c * block**2, h // block, w // block))
    for k, row, column in itertools.product(range(c), range(block), range(block)):
        y[:, channel(k, row, column)] = x[:, k, row::block, column::block]
    return y


def roll(m, by, axis):
    """As torch exports it: the end, then the beginning."""
    whole = m.tensor
    m.node("Slice", *ints(m, [-by], [LAST], [axis]))
    end = m.tensor
    m.node("Slice", *ints(m, [0], [-by], [axis]), source=whole)
    m.node("Concat", m.tensor, source=end, axis=axis)


def focus(m):
    whole, parts = m.tensor, []
    for row, column in ((0, 0), (1, 0), (0, 1), (1, 1)):
        m.node("Slice", *ints(m, [row], [LAST], [2], [2]), source=whole)
        m.node("Slice", *ints(m, [column], [LAST], [3], [2]))
        parts.append(m.tensor)
    m.node("Concat", *parts[1:], source=parts[0], axis=1)


def pixel_unshuffle(m):
    m.node("Reshape", *ints(m, [-1, 4, 3, 2, 2, 2])).node("Transpose", perm=[0, 1, 3, 5, 2, 4])
    m.node("Reshape", *ints(m, [-1, 16, 3, 2]))


def expect_focus(x):
    return np.concatenate([x[..., row::2, column::2] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))], 1)


def depth_of_onnx(c, row, column):
    return (2 * row + column) * 4 + c


def depth_of_torch(c, row, column):
    return 4 * c + 2 * row + column


TABLE = [[0, 5], [2, 2], [6, 1]]
IMAGE, SEQUENCE, VECTOR = (1, 4, 6, 4), (1, 4, 7), (1, 9)
CASES = {
    "split": (IMAGE, lambda m: split(m, [2, 2], 1), lambda x: expect_split(x, [2, 2], 1)),
    "split unequal": (VECTOR, lambda m: split(m, [1, 5, 3], -1), lambda x: expect_split(x, [1, 5, 3], 1)),
    "split rows": (IMAGE, lambda m: split(m, [1, 2, 3], 2), lambda x: expect_split(x, [1, 2, 3], 2)),
    "split by number": (SEQUENCE, lambda m: split(m, None, 2, num_outputs=3), lambda x: expect_split(x, [3, 3, 1], 2)),
    "one index": (IMAGE, lambda m: take(m, 2, 1), lambda x: expect_gather(x, 2, 1)),
    "the last": (SEQUENCE, lambda m: take(m, -1, -1), lambda x: expect_gather(x, 6, 2)),
    "a list": (IMAGE, lambda m: take(m, [3, 0, -1, 0], 1), lambda x: expect_gather(x, [3, 0, 3, 0], 1)),
    "a table": (SEQUENCE, lambda m: take(m, TABLE, 2), lambda x: expect_gather(x, TABLE, 2)),
    "chomp": (SEQUENCE, lambda m: cut(m, [0], [-2], [2]), lambda x: x[:, :, :-2]),
    "flip": (IMAGE, lambda m: cut(m, [-1, -1], [FIRST, FIRST], [2, 3], [-1, -1]), lambda x: x[:, :, ::-1, ::-1]),
    "roll": (SEQUENCE, lambda m: roll(m, 3, 2), lambda x: np.roll(x, 3, 2)),
    "focus": (IMAGE, focus, expect_focus),
    "space to depth": (
        IMAGE,
        lambda m: m.node("SpaceToDepth", blocksize=2),
        lambda x: expect_space_to_depth(x, 2, depth_of_onnx),
    ),
    "pixel unshuffle": (IMAGE, pixel_unshuffle, lambda x: expect_space_to_depth(x, 2, depth_of_torch)),
}


@pytest.mark.parametrize("per_channel", [False, True], ids=["one scale", "scales per channel"])
@pytest.mark.parametrize("name", CASES)
def test_elements_as_onnx_defines_them(rng, tmp_path, name, per_channel):
    shape, emit, expect = CASES[name]
    factors = FACTORS[np.arange(shape[1]) % 4].reshape(-1, *(1,) * (len(shape) - 2)) if per_channel else np.ones(())
    m = Model(shape, opset=18 if "number" in name else 13).quant(0.25, 4)
    if per_channel:
        m.node("Mul", m.constant(factors))
    emit(m)
    path = m.quant(0.75, 5).save(tmp_path / "m.onnx")
    x = rng.normal(0, 1, (20, *shape[1:])).astype(np.float32)
    real = np.clip(np.rint(x / 0.25), -8, 7) * 0.25 * factors
    expected = np.clip(np.rint(expect(real) / 0.75), -16, 15)
    try:
        lowered = lower_file(path)
    except UnsupportedError as refusal:  # a table of one axis cannot say which element has which scale
        assert per_channel and name == "pixel unshuffle" and "varies along 2 axes" in str(refusal), refusal
        return
    verify_graph(lowered.graph)
    (got,) = run_graph(lowered.graph, run_prologue(lowered, x)).values()
    assert np.array_equal(got, expected)


def test_parts_of_quantised_weights_stay_quantised(rng, tmp_path):
    """One constant for two layers, cut in two by Split, Gather and Slice."""
    m = Model((1, 4)).quant(0.25, 4)
    x, weight = m.tensor, rng.integers(-7, 8, (4, 6))
    grid = m.weight(weight * 0.5)
    m.node("Split", *ints(m, [2, 4]), source=grid, axis=1)
    m.nodes[-1].output[:] = ["left", "right"]
    m.node("Gather", *ints(m, [3, 1]), source="right", axis=1)
    m.node("Concat", m.tensor, source="left", axis=1)
    m.node("Slice", *ints(m, [3], [FIRST], [1], [-1]), source="right")
    m.node("MatMul", m.tensor, source=x).quant(1.0, 6)
    lowered = lower_file(m.save(tmp_path / "m.onnx"))
    values = rng.normal(0, 1, (20, 4)).astype(np.float32)
    sums = np.clip(np.rint(values / 0.25), -8, 7) * 0.25 @ (weight[:, 5:1:-1] * 0.5)
    (got,) = run_graph(lowered.graph, run_prologue(lowered, values)).values()
    assert np.array_equal(got, np.clip(np.rint(sums), -32, 31))
    assert not any(isinstance(op, Gather) for op in lowered.graph.ops)


@pytest.mark.parametrize(
    "emit, says",
    [
        (
            lambda m: m.node("Gather", *ints(m, [1, 9]), axis=1, name="cut"),
            "cut: index 9 of axis 1, which has 9; indices lie inside the tensor, and there is one at least",
        ),
        (lambda m: m.node("Gather", *ints(m, []), axis=1, name="cut"), "cut: no index at all; indices lie inside"),
        (
            lambda m: m.node("Gather", *ints(m, [0]), axis=0, name="cut"),
            "cut: axis 0; the batch axis stays where it is (cure: keep the batch axis first)",
        ),
        (
            lambda m: split(m, [4, 6], 1),
            "Split_2: a split of axis 1, which has 9, into 2 parts of [4, 6]; every part takes something, and together",
        ),
        (lambda m: split(m, None, 1, num_outputs=6), "into 6 parts of [2, 2, 2, 2, 1, -1]; every part takes something"),
        (
            lambda m: m.node("Reshape", *ints(m, [-1, 3, 3])).node("SpaceToDepth", blocksize=3, name="cut"),
            "cut: blocks of 3 in a tensor of shape (3, 3); blocks fill an image of channels, height and width",
        ),
    ],
)
def test_what_takes_no_elements_of_the_tensor(tmp_path, emit, says):
    m = Model(VECTOR, opset=18).quant(0.25, 4)
    emit(m)
    with pytest.raises(UnsupportedError) as refusal:
        lower_file(m.quant(1.0, 4).save(tmp_path / "m.onnx"))
    assert says in str(refusal.value)
