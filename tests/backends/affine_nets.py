"""Small integer graphs whose every quantiser has its affine form, for the back ends that multiply, add and shift."""

from __future__ import annotations

from greenedge.graph import Affine, Graph, Requantise, freeze
from greenedge.graph.affine import fit_affine
from tests.backends.graphs import Sketch


def fit_affine_forms(graph: Graph) -> Graph:
    """The same graph; its rising steps get the multiply, add and shift that the lowering would find."""
    return Graph(
        graph.name,
        tuple(_fit(op) if isinstance(op, Requantise) else op for op in graph.ops),
        graph.edges,
        graph.outputs,
    )


def _fit(op: Requantise) -> Requantise:
    found = fit_affine(op.require_steps().thresholds, op.lo, op.hi, op.x_lo, op.x_hi)
    assert found is not None, op.name
    return op.with_steps(affine=Affine(freeze(found.m), freeze(found.b), freeze(found.s)))


def vectors(rng):
    """Dense layers with binary and 4-bit weights, ranges that no fixed-point type saturates at, signed outputs."""
    sketch = Sketch(rng, (8,))
    a = sketch.step(sketch.dense("x", 6), "skew")
    return sketch, sketch.step(sketch.dense(a, 3, bits=1), "n4")


def residual(rng):
    """A strided convolution, a depthwise one beside it, their sum, a padded max pool, a dilated convolution, sums, a
    dense layer.
    """
    sketch = Sketch(rng, (2, 7, 7))
    a = sketch.step(sketch.conv("x", 4, (3, 3), strides=(2, 2), pads=(1, 1, 1, 1)))
    b = sketch.step(sketch.conv(a, 4, (3, 3), pads=(1, 1, 1, 1), groups=4), "s4")
    c = sketch.step(sketch.add(a, b, multipliers=(1, 2)), per_channel=False)
    d = sketch.max_pool(c, (2, 2), (1, 1), (0, 0, 1, 1))
    e = sketch.step(sketch.conv(d, 3, (2, 2), dilations=(2, 2)))
    f = sketch.step(sketch.sum_pool(e, (2, 2)))
    return sketch, sketch.dense(sketch.reshape(f, 3), 2, bits=2)


def streamed(rng):
    """What a residual network has that can be streamed: pools whose windows lie side by side."""
    sketch = Sketch(rng, (2, 8, 8))
    a = sketch.step(sketch.conv("x", 4, (3, 3), strides=(2, 2), pads=(1, 1, 1, 1)))
    b = sketch.step(sketch.conv(a, 4, (3, 3), pads=(1, 1, 1, 1), groups=4), "s4")
    c = sketch.step(sketch.add(a, b, multipliers=(1, 2)), per_channel=False)
    d = sketch.step(sketch.sum_pool(sketch.max_pool(c, (2, 2)), (2, 2)))
    return sketch, sketch.dense(sketch.reshape(d, 4), 2, bits=2)


def sequence(rng):
    """1-d convolutions with groups, a pool, joined channels."""
    sketch = Sketch(rng, (2, 9), "s4")
    a = sketch.step(sketch.conv("x", 4, (3,), pads=(1, 1), groups=2))
    b = sketch.concat(a, sketch.step(sketch.conv("x", 2, (1,))))
    c = sketch.max_pool(b, (3,))
    return sketch, sketch.step(sketch.dense(sketch.reshape(c, 18), 3, bits=2), "s4")


def make_graph(rng, build, samples: int = 40):
    """(graph, inputs with both ends of the range among them)."""
    sketch, output = build(rng)
    graph = fit_affine_forms(sketch.graph(output))
    return graph, sketch.values(graph, samples)["x"]


def moves(rng):
    """Padding with a zero point, upsampling, three branches joined of which two are one, a transposition, a view that
    moves values, dense layers over the last axis."""
    sketch = Sketch(rng, (2, 4, 3))
    a = sketch.step(sketch.conv("x", 2, (3, 3), pads=(1, 1, 1, 1), pad_value=3))
    b = sketch.upsample(sketch.pad(a, (0, 1, 0, 0, 0, 1), value=2), 1, 1, 2)
    c = sketch.concat(b, b, sketch.step(sketch.conv(b, 1, (1, 1)), "s4"))
    d = sketch.step(sketch.dense(sketch.transpose(c, 2, 1, 0), 2, bits=3))
    e = sketch.step(sketch.dense(sketch.reshape(d, 10, 8), 2))
    return sketch, sketch.dense(sketch.reshape(e, 20), 2, bits=2)


def selections(rng):
    """Channels out of order, a strided and flipped map, and of a vector some elements, one of them twice."""
    sketch = Sketch(rng, (3, 4, 4))
    a = sketch.step(sketch.conv(sketch.gather("x", (2, 0), slice(None), slice(None)), 2, (2, 2)))
    b = sketch.step(sketch.conv(sketch.gather(a, slice(None), (2, 0), (2, 1, 0)), 2, (1, 1)))
    c = sketch.step(sketch.dense(sketch.reshape(b, 12), 6))
    return sketch, sketch.step(sketch.dense(sketch.gather(c, (5, 0, 0, 3)), 3, bits=2), "s4")


def moved_sequence(rng):
    """The same with one axis, and a vector that becomes a sequence."""
    sketch = Sketch(rng, (6,), "s4")
    a = sketch.reshape(sketch.step(sketch.dense("x", 6)), 2, 3)
    b = sketch.step(sketch.conv(a, 3, (2,), pads=(1, 0), pad_value=-1), "s4")
    c = sketch.transpose(sketch.upsample(b, 1, 3), 1, 0)
    d = sketch.step(sketch.dense(c, 4))
    return sketch, sketch.step(sketch.dense(sketch.reshape(d, 36), 3, bits=2), "s4")
