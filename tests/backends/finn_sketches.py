"""Small networks with every layer that the finn back end builds, and random ones."""

from __future__ import annotations

import dataclasses

import numpy as np

from greenedge.backends.finn import BACKEND
from greenedge.backends.finn.dialect.lower import require_network
from greenedge.backends.finn.dialect.ops import Network
from greenedge.graph import Edge, Graph, Requantise, Table, freeze
from greenedge.legalise import legalise_graph
from tests.backends.graphs import RANGES, Sketch
from tests.backends.nets import requantise

ALL = slice(None)  # along an axis


def table(s: Sketch, source: str, per_channel: bool = True) -> str:
    """A function that is not monotone: random levels for every value."""
    edge, count = s.edges[source], s.edges[source].shape[0] if per_channel else 1
    low, high = np.full(count, edge.lo), np.full(count, edge.hi)
    name = f"table{len(s.ops)}"
    levels = s.rng.integers(0, 16, (count, edge.hi - edge.lo + 1))
    s.ops.append(
        Requantise(
            name,
            (source,),
            name,
            0,
            0,
            15,
            Table(freeze(levels)),
            freeze(low),
            freeze(high),
        )
    )
    s.edges[name] = Edge(name, edge.shape, 0, 15)
    return name


def curve(s: Sketch, source: str, levels: str = "u4", per_channel: bool = True) -> str:
    """SiLU, at another place and pace in every channel, over all that a sum can be."""
    low, high = s.reach[source]
    if not per_channel:
        low, high = low.min(keepdims=True), high.max(keepdims=True)
    (lo, hi), count, span = RANGES[levels], len(low), int((high - low).max()) + 1
    x = np.minimum(low[:, None] + np.arange(span), high[:, None])
    pace = s.rng.uniform(0.2, 0.6, (count, 1)) * (high - low)[:, None] / 8
    z = x / pace + s.rng.uniform(-1, 1, (count, 1))
    y = z / (1 + np.exp(-z))
    rounded = np.clip(np.round(y * (hi - lo) / 8 + (lo if lo < 0 else 2)), lo, hi).astype(np.int64)
    name = f"curve{len(s.ops)}"
    op = Requantise(name, (source,), name, 0, lo, hi, Table(freeze(rounded)), freeze(low), freeze(high))
    s.ops.append(op)
    s.edges[name] = Edge(name, s.edges[source].shape, lo, hi)
    return name


def convolutions(rng) -> Graph:
    """Strides, dilation, uneven pads, a padding value that is none of the input's, flatten, dense."""
    s = Sketch(rng, (3, 7, 6), "u4")
    a = s.step(s.conv("x", 4, (3, 3), pads=(1, 1, 1, 1), pad_value=-2), "u4")
    b = s.step(s.conv(a, 6, (3, 2), strides=(2, 1), dilations=(1, 2), pads=(1, 0, 0, 1)), "s4")
    return s.graph(s.dense(s.reshape(b, int(np.prod(s.edges[b].shape))), 5))


def sequence(rng) -> Graph:
    """One dimension; 1-bit and 8-bit weights; average pool; a transposition that is no hardware."""
    s = Sketch(rng, (2, 20), "s8")
    a = s.step(s.conv("x", 6, (5,), strides=(2,), pads=(2, 2), bits=8), "u4")
    a = s.step(s.conv(a, 4, (3,), dilations=(2,), bits=1), "u1")
    a = s.sum_pool(a, (2,))
    return s.graph(s.transpose(s.step(s.dense(s.transpose(s.step(a, "u4"), 1, 0), 3, bits=2), "n4"), 1, 0))


def residual(rng) -> Graph:
    """A deep branch and a bare one, scaled; then three branches into one addition; max and global pools."""
    s = Sketch(rng, (4, 6, 6), "u4")
    a = s.step(s.conv("x", 4, (3, 3), pads=(1, 1, 1, 1)), "s4")
    b = s.step(s.conv(a, 4, (3, 3), pads=(1, 1, 1, 1), groups=4), "u4")
    b = s.step(s.conv(b, 4, (1, 1)), "s4")
    c = s.step(s.add(a, b, multipliers=(3, -1)), "u4")
    d = s.step(s.conv(c, 4, (1, 1)), "n4")
    e = s.step(s.add(c, d, s.max_pool(c, (3, 3), strides=(1, 1), pads=(1, 1, 1, 1)), multipliers=(1, 2, 1)), "u4")
    return s.graph(s.dense(s.reshape(s.step(s.sum_pool(s.max_pool(e, (2, 2)), (3, 3)), "u8"), 4), 3))


def accumulators(rng) -> Graph:
    """Sums that are added before anything is quantised: what the matrix units leave out must travel along."""
    s = Sketch(rng, (3, 4, 4), "s4")
    total = s.add(s.conv("x", 4, (3, 3), pads=(1, 1, 1, 1)), s.conv("x", 4, (1, 1)), multipliers=(1, -2))
    return s.graph(s.max_pool(s.step(total, "s4", axis=0), (2, 3), strides=(2, 1)))


def joined(rng) -> Graph:
    """Concatenation along channels, rows and columns; nearest upsampling; different types on the two sides."""
    s = Sketch(rng, (2, 4, 4), "u4")
    a, b = s.step(s.conv("x", 4, (1, 1)), "s2"), s.step(s.conv("x", 2, (3, 3), pads=(1, 1, 1, 1)), "u4")
    both = s.concat(a, b, "x")
    small = s.step(s.conv(both, 2, (2, 2), strides=(2, 2)), "u4")
    wide = s.concat(s.upsample(small, 1, 2, 2), "x", axis=2)
    return s.graph(s.concat(wide, wide, axis=1))


def grouped(rng) -> Graph:
    """Groups, and a depthwise convolution with two outputs per channel."""
    s = Sketch(rng, (4, 5, 5), "n4")
    a = s.step(s.conv("x", 6, (2, 2), groups=2), "u4")
    a = s.step(s.conv(a, 12, (3, 3), pads=(1, 1, 1, 1), groups=6, bits=3), "u4")
    return s.graph(s.conv(a, 3, (4, 4)))


def functions(rng) -> Graph:
    """Steps that fall, a table, thresholds of two levels; an accumulator that is tabulated."""
    s = Sketch(rng, (3, 3, 4), "u4")
    a = s.step(s.conv("x", 4, (2, 2)), "s4", falling=True)
    a = table(s, a)
    a = table(s, s.conv(a, 3, (1, 1), bits=2))
    return s.graph(s.step(a, "u1"))


def padded(rng) -> Graph:
    """A Pad, pads beyond the kernel, strides beyond it, a padded average."""
    s = Sketch(rng, (2, 5, 4), "s4")
    a = s.pad("x", (0, 1, 0, 0, 0, 2), value=-9)
    a = s.step(s.conv(a, 4, (1, 1), strides=(2, 3), pads=(1, 1, 1, 1), pad_value=1), "s4")
    return s.graph(s.step(s.sum_pool(a, (2, 2), strides=(1, 1), pads=(1, 0, 0, 1), pad_value=3), "u8"))


def vectors(rng) -> Graph:
    """Dense layers in two branches of which one is longer, joined."""
    s = Sketch(rng, (12,), "s8")
    a = s.step(s.dense("x", 8), "u4")
    b = s.step(s.dense(s.step(s.dense("x", 6, bits=8), "s8"), 4), "s4")
    return s.graph(s.step(s.dense(s.concat(a, b), 6, bits=3), "n8"))


def flattened(rng) -> Graph:
    """Accumulators flattened before their quantiser, which has a function for every element; then a dense layer."""
    s = Sketch(rng, (3, 4, 4), "n4")
    a = s.step(s.reshape(s.conv("x", 4, (3, 3)), 16), "s4", axis=0)
    return s.graph(s.step(s.dense(s.step(a, "u4"), 6), "n4"))


def labelled(rng) -> Graph:
    """The class of every pixel: the first largest of signed sums, whose matrix unit must add what it leaves out."""
    s = Sketch(rng, (3, 4, 5), "s4")
    return s.graph(s.arg_max(s.conv(s.step(s.conv("x", 4, (3, 3), pads=(1, 1, 1, 1)), "u4"), 6, (1, 1), bits=2)))


def classified(rng) -> Graph:
    """One class a sample, of few levels, so that many are equal."""
    s = Sketch(rng, (10,), "u4")
    return s.graph(s.arg_max(s.step(s.dense(s.step(s.dense("x", 8), "u4"), 7), "s2")))


def shortcut(rng) -> Graph:
    """The bare branch must hold a vector of two beats before the other one, which needs it whole, gives anything."""
    s = Sketch(rng, (24,), "u4")
    a = s.step(s.dense("x", 2), "u4")
    return s.graph(s.step(s.add(a, s.step(s.dense(a, 2), "u4")), "u4"))


def digits_like(rng) -> Graph:
    """The layers of the recipe digits-cnn with random weights and straight steps, so that affine forms exist."""
    s = Sketch(rng, (1, 8, 8), "u4")
    a = line(s, s.conv("x", 16, (3, 3), pads=(1, 1, 1, 1)))
    b = line(s, s.conv(a, 16, (3, 3), pads=(1, 1, 1, 1), groups=16))
    b = line(s, s.conv(b, 16, (1, 1)), "s8")
    c = s.max_pool(line(s, s.add(line(s, a, "u7"), b)), (2, 2))
    d = line(s, s.sum_pool(line(s, s.conv(c, 32, (3, 3), pads=(1, 1, 1, 1))), (4, 4)))
    return s.graph(line(s, s.dense(s.reshape(d, 32), 10), "s8"))


def narrow(rng) -> Graph:
    """Quantisers whose ends no sum reaches, so that the proved range needs fewer bits than the levels: a straight line,
    thresholds that rise, thresholds that fall, and a table."""
    s = Sketch(rng, (3, 4, 4), "u4")
    a = _narrow(s, line(s, s.conv("x", 4, (3, 3), pads=(1, 1, 1, 1)), "s8"))
    a = _narrow(s, line(s, s.conv(a, 3, (1, 1)), "u8"))
    a = _narrow(s, s.step(s.conv(a, 5, (1, 1), bits=2), "s4"))
    a = _narrow(s, s.step(s.conv(a, 4, (1, 1)), "s8", falling=True))
    return s.graph(s.step(table(s, s.conv(a, 3, (1, 1), bits=1)), "u4"))


def constant(rng) -> Graph:
    """A branch that is always 0, the largest of its levels, added to one that is not."""
    s = Sketch(rng, (2, 3, 3), "u4")
    a = s.step(s.conv("x", 3, (1, 1)), "s4")
    op, flat = s.ops[-1], "flat"
    thresholds = np.repeat(op.x_lo[:, None] - 5, 8, axis=1)
    s.ops.append(dataclasses.replace(op.with_steps(thresholds=freeze(thresholds)), name=flat, output=flat, lo=-8, hi=0))
    s.edges[flat] = Edge(flat, s.edges[a].shape, 0, 0)
    return s.graph(s.step(s.add(a, flat), "u4"))


def _narrow(s: Sketch, name: str) -> str:
    """The quantiser `name` with an eighth of its slope where it is a straight line, else with its thresholds pushed
    apart; its edge's range becomes what its rule then proves."""
    op = s.ops.pop()
    steps, affine, levels = op.steps, op.affine, np.arange(op.lo + 1, op.hi + 1)
    if affine is not None:
        affine = dataclasses.replace(affine, s=freeze(affine.s + 3))
        m, b, shift = (values[:, None] for values in (affine.m, affine.b, affine.s))
        thresholds = -((b - (levels << shift)) // m)
    else:
        zero = steps.thresholds[:, [max(0, -1 - op.lo)]]
        thresholds = zero + 9 * (steps.thresholds - zero + levels - max(levels[0], 0))
    s.ops.append(op.with_steps(thresholds=freeze(thresholds), affine=affine))
    shape, (low, high) = s.ops[-1].infer([s.edges[op.inputs[0]]], [])
    s.edges[name] = Edge(name, shape, int(low.min()), int(high.max()))
    assert s.edges[name].bits < Edge("", (), op.lo, op.hi).bits
    return name


def line(s: Sketch, source: str, levels: str = "u4") -> str:
    """A quantiser whose affine form is known, as `Sketch.step` makes none."""
    edge = s.edges[source]
    count = edge.shape[0]
    low, high = s.reach.get(source, (np.array([edge.lo]), np.array([edge.hi])))
    low, high = (
        np.full(count, v.min() if side else v.max()) if len(v) != count else v for side, v in ((1, low), (0, high))
    )
    name = f"line{len(s.ops)}"
    op = requantise(s.rng, name, source, low, high, *RANGES[levels])
    s.ops.append(op)
    s.edges[name] = Edge(name, edge.shape, *RANGES[levels])
    return name


def selected(rng) -> Graph:
    """A split into halves, one of them shuffled, a stride, a flip; pixels from channels; an output that is turned."""
    s = Sketch(rng, (8, 6, 6), "u4")
    first, second = s.gather("x", slice(4), ALL, ALL), s.gather("x", (6, 4, 5, 7), ALL, slice(None, None, -1))
    a = s.step(s.conv(s.concat(first, second), 4, (3, 3), pads=(1, 1, 1, 1)), "s4")
    large = s.conv(s.depth_to_space(a, 2), 2, (3, 3), (2, 2), (1, 1, 1, 1))
    return s.graph(s.transpose(s.gather(s.step(large), ALL, slice(1, None, 2), ALL), 2, 0, 1))


def turned(rng) -> Graph:
    """Layers on axes that have changed places, branches that come in different orders, pixels that become channels."""
    s = Sketch(rng, (4, 6, 4), "u4")
    a = s.step(s.conv(s.transpose("x", 2, 1, 0), 4, (3, 3), pads=(1, 1, 1, 1)), "s4")
    b = s.step(s.add(s.transpose(a, 2, 1, 0), "x", multipliers=(1, 2)))
    blocks = s.transpose(s.reshape(b, 4, 3, 2, 2, 2), 0, 2, 4, 1, 3)
    c = s.step(s.conv(s.reshape(blocks, 16, 3, 2), 3, (2, 2)))
    return s.graph(s.step(s.dense(c, 3), axis=2))


def tokens(rng) -> Graph:
    """Sums of vectors that stand side by side, joined behind one another and each with its own; a mean over them."""
    s = Sketch(rng, (3, 2, 4), "u4")
    a, b = (s.step(s.conv("x", n, (1, 1))) for n in (4, 2))
    rows = [s.transpose(s.reshape(one, s.edges[one].shape[0], 8), 1, 0) for one in (a, b)]
    both = s.step(s.dense(s.concat(*rows, axis=1), 5), axis=1)
    return s.graph(s.dense(s.concat(both, both, axis=0), 3))


def gated(rng) -> Graph:
    """Squeeze and excite: a gate per channel that is known when its frame has passed; then one per pixel, and one for
    all."""
    s = Sketch(rng, (3, 5, 4), "u4")
    a = s.step(s.conv("x", 4, (3, 3), pads=(1, 1, 1, 1)), "s4")
    gate = s.step(s.conv(s.step(s.sum_pool(a, (5, 4)), "u4"), 4, (1, 1)), "u4")
    b = s.step(s.multiply(a, gate, zeros=(-2, 0)), "u4")
    b = s.step(s.multiply(s.step(s.conv(b, 1, (1, 1)), "n4"), b), "u4")
    return s.graph(s.multiply(s.max_pool(s.conv(b, 1, (1, 1)), (5, 4)), b, zeros=(0, 9)))


def products(rng) -> Graph:
    """Vectors multiplied with one another, with themselves, and with one number; sums of products."""
    s = Sketch(rng, (12,), "s8")
    a, b = s.step(s.dense("x", 6), "u8"), s.step(s.dense("x", 6), "s8")
    total = s.add(s.multiply(a, b, zeros=(128, -3)), s.multiply(b, b), multipliers=(1, -1))
    c = s.step(total, "u4", per_channel=False)
    return s.graph(s.step(s.multiply(c, s.step(s.dense(c, 1), "up")), "n8", axis=0))


def enlarged(rng) -> Graph:
    """Transposed convolutions: with overlap, in groups; with gaps, cut short; on a sequence; sums as they are."""
    s = Sketch(rng, (2, 2, 3), "s4")
    a = s.step(s.conv_transpose("x", 4, (4, 3), (2, 2), (1, 1, 1, 1), (0, 1), groups=2), "u4")
    b = s.step(s.conv_transpose(a, 3, (2, 2), (2, 2), (1, 0, 0, 1), (0, 0)), "s4", per_channel=False)
    c = s.step(s.conv(b, 2, (2, 2), (2, 2)))
    rows = s.reshape(c, 2, int(np.prod(s.edges[c].shape[1:])))
    return s.graph(s.conv_transpose(rows, 2, (3,), (2,), (1, 1), (1,)))


def curved(rng) -> Graph:
    """Functions that fall and rise again over more values than a table has: of few levels, which are counted, one for
    all channels, and of many, which are searched. What the matrix unit leaves out of its sums shifts them."""
    s = Sketch(rng, (6, 4, 3), "u8")
    a = curve(s, s.conv("x", 4, (3, 3), pads=(1, 1, 1, 1), bits=6))
    b = curve(s, s.conv(a, 5, (2, 2), bits=8), "s4", per_channel=False)
    return s.graph(curve(s, s.conv(b, 3, (2, 1), bits=8), "s8"))


def several(rng) -> Graph:
    """Three inputs of other shapes and types; outputs of two kinds, one of which another layer reads."""
    s = Sketch(rng, (3, 4, 3), "u4")
    gate, rest = s.input("gate", (4, 1, 1), "s8"), s.input("rest", (5,), "n4")
    a = s.step(s.conv("x", 4, (3, 3), pads=(1, 1, 1, 1)), "s4")
    b = s.step(s.multiply(a, gate, zeros=(0, 3)), "u4")
    flat = s.concat(s.reshape(s.step(s.sum_pool(b, (4, 3)), "u4"), 4), rest)
    return s.graph(b, s.dense(flat, 3), rest)


SKETCHES = (
    convolutions,
    sequence,
    residual,
    accumulators,
    joined,
    grouped,
    functions,
    padded,
    vectors,
    flattened,
    labelled,
    classified,
    shortcut,
    narrow,
    constant,
    selected,
    turned,
    tokens,
    gated,
    products,
    enlarged,
    curved,
)


def finn_network(graph: Graph) -> Network:
    """The network that the finn back end makes of this graph."""
    return require_network(legalise_graph(graph, BACKEND.passes))


def random_network(rng) -> Graph:
    """Three to six random layers on a small image or sequence."""
    dims = int(rng.integers(1, 3))
    s = Sketch(
        rng,
        (int(rng.integers(1, 5)), *(int(v) for v in rng.integers(5, 9, dims))),
        str(rng.choice(["u4", "s4", "n4", "u8"])),
    )
    last = "x"
    for _ in range(int(rng.integers(3, 7))):
        last = _grown(s, last, dims)
    return s.graph(last if last != "x" else _grown(s, last, dims))


def _grown(s: Sketch, last: str, dims: int) -> str:
    """One more layer, quantised, on `last`."""
    rng, shape = s.rng, s.edges[last].shape
    levels = str(rng.choice(["u1", "u4", "s2", "s4", "n4"]))
    fits = min(shape[1:]) >= 3
    kind = rng.choice(["conv", "deep", "pool", "add", "concat", "up", "mean"] if fits else ["point", "add", "concat"])
    same = (1,) * (2 * dims)
    if kind == "conv":
        stride = (int(rng.integers(1, 3)),) * dims
        return s.step(
            s.conv(last, int(rng.integers(1, 7)), (3,) * dims, stride, same, bits=int(rng.choice([1, 2, 4, 8]))), levels
        )
    if kind == "deep":
        return s.step(s.conv(last, shape[0], (3,) * dims, pads=same, groups=shape[0]), levels)
    if kind == "pool":
        return s.max_pool(last, (2,) * dims)
    if kind == "mean":
        return s.step(s.sum_pool(last, (2,) * dims, (1,) * dims), levels)
    if kind == "up":
        return s.upsample(last, 1, *(2,) * dims) if max(shape[1:]) < 9 else last
    branch = s.step(s.conv(last, shape[0], (3,) * dims if fits else (1,) * dims, pads=same if fits else None), levels)
    if kind == "concat":
        return s.concat(last, branch)
    return s.step(s.add(last, branch), levels) if kind == "add" else branch
