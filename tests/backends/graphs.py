"""Random integer graphs with every operation, built by hand: a Sketch adds one operation after another and knows the
ranges."""

from __future__ import annotations

import numpy as np

from greenedge.graph import (
    Add,
    ArgMax,
    ChannelAdd,
    Concat,
    Conv,
    ConvTranspose,
    Dense,
    DepthToSpace,
    Edge,
    Gather,
    Graph,
    Input,
    MaxPool,
    Multiply,
    Pad,
    Requantise,
    Reshape,
    Steps,
    SumPool,
    Transpose,
    Upsample,
    freeze,
    run_graph,
)

RANGES = {
    "u1": (0, 1),
    "u4": (0, 15),
    "u7": (0, 127),
    "u8": (0, 255),
    "s2": (-2, 1),
    "s4": (-8, 7),
    "n4": (-7, 7),
    "s8": (-128, 127),
    "n8": (-127, 127),
    "up": (3, 12),
    "down": (-12, -3),
    "skew": (-3, 11),
}


class Sketch:
    """A graph in the making; every method returns the new edge's name."""

    def __init__(self, rng, shape, levels="u4"):
        self.rng, self.ops, self.edges, self.reach = rng, [], {}, {}
        self.input("x", shape, levels)

    def input(self, name, shape, levels="u4"):
        self.ops.append(Input(name, (), name))
        self.edges[name] = Edge(name, tuple(shape), *RANGES[levels])
        return name

    def graph(self, *outputs) -> Graph:
        return Graph("sketch", tuple(self.ops), dict(self.edges), outputs)

    def values(self, graph, samples):
        """Random inputs, both ends of the range among them."""
        feeds = {}
        for name in graph.inputs:
            edge = graph.edges[name]
            feeds[name] = self.rng.integers(edge.lo, edge.hi + 1, (samples, *edge.shape))
            feeds[name][0], feeds[name][-1] = edge.lo, edge.hi
        return feeds

    def _add(self, op, low=None, high=None):
        """Appends `op`; its shape is what executing it gives, its range what is said or what its inputs have."""
        ends = [self.edges[e] for e in op.inputs]
        small = Graph(
            "one",
            (*(Input(e.name, (), e.name) for e in ends), op),
            {**{e.name: e for e in ends}, op.output: Edge(op.output, (), 0, 0)},
            (op.output,),
        )
        shape = run_graph(small, {e.name: np.full((1, *e.shape), e.lo) for e in ends})[op.output].shape[1:]
        low = min(e.lo for e in ends) if low is None else low
        high = max(e.hi for e in ends) if high is None else high
        self.ops.append(op)
        self.edges[op.output] = Edge(op.output, shape, int(np.min(low)), int(np.max(high)))
        self.reach[op.output] = (np.atleast_1d(low).astype(np.int64), np.atleast_1d(high).astype(np.int64))
        return op.output

    def _name(self, kind):
        return f"{kind}{len(self.ops)}"

    def weights(self, shape, bits=4):
        top = max(1, (1 << (bits - 1)) - 1)
        return freeze(self.rng.choice([-1, 1], shape) if bits == 1 else self.rng.integers(-top, top + 1, shape))

    def _products(self, source, weight, axes, *levels):
        edge = self.edges[source]
        ends = np.stack([weight * v for v in (edge.lo, edge.hi, *levels)])
        return ends.min(0).sum(axes), ends.max(0).sum(axes)

    def dense(self, source, units, bits=4):
        weight = self.weights((self.edges[source].shape[-1], units), bits)
        name = self._name("dense")
        return self._add(Dense(name, (source,), name, weight), *self._products(source, weight, 0))

    def conv(self, source, channels, kernel, strides=None, pads=None, dilations=None, groups=1, bits=4, pad_value=0):
        n, per_in = len(kernel), self.edges[source].shape[0] // groups
        weight = self.weights((channels, per_in, *kernel), bits)
        name = self._name("conv")
        pads = pads or (0,) * 2 * n
        op = Conv(name, (source,), name, weight, strides or (1,) * n, pads, dilations or (1,) * n, groups, pad_value)
        extra = (pad_value,) if any(pads) else ()
        return self._add(op, *self._products(source, weight, tuple(range(1, weight.ndim)), *extra))

    def conv_transpose(self, source, channels, kernel, strides, pads, output_padding, dilations=None, groups=1):
        n = len(kernel)
        weight = self.weights((self.edges[source].shape[0], channels // groups, *kernel))
        name = self._name("turned")
        op = ConvTranspose(name, (source,), name, weight, strides, pads, dilations or (1,) * n, output_padding, groups)
        split = weight.reshape(groups, -1, channels // groups, *kernel)
        low, high = self._products(source, split, (1, *range(3, split.ndim)), 0)
        return self._add(op, low.reshape(-1), high.reshape(-1))

    def arg_max(self, source, axis=0):
        name = self._name("index")
        return self._add(ArgMax(name, (source,), name, axis), 0, self.edges[source].shape[axis] - 1)

    def sum_pool(self, source, kernel, strides=None, pads=None, pad_value=0):
        name, n = self._name("sum"), len(kernel)
        op = SumPool(name, (source,), name, kernel, strides or kernel, pads or (0,) * 2 * n, pad_value)
        low, high = self._products(source, np.ones(kernel, np.int64), None, *((pad_value,) if pads else ()))
        channels = self.edges[source].shape[0]
        return self._add(op, np.full(channels, low), np.full(channels, high))

    def add(self, *sources, multipliers=None):
        multipliers = multipliers or (1,) * len(sources)
        ends = np.array(
            [[m * self.edges[s].lo, m * self.edges[s].hi] for m, s in zip(multipliers, sources, strict=True)]
        )
        name = self._name("add")
        return self._add(Add(name, sources, name, multipliers), ends.min(1).sum(), ends.max(1).sum())

    def channel_add(self, first, second, factors, axis=0):
        """`factors` is (2, C)."""
        ends = [
            np.stack([m * self.edges[s].lo, m * self.edges[s].hi])
            for m, s in zip(factors, (first, second), strict=True)
        ]
        low, high = sum(end.min(0) for end in ends), sum(end.max(0) for end in ends)
        name = self._name("sum")
        return self._add(ChannelAdd(name, (first, second), name, axis, freeze(factors)), low, high)

    def multiply(self, first, second, zeros=(0, 0)):
        edges = (self.edges[first], self.edges[second])
        low, high = (np.array([edge.lo, edge.hi]) - zero for edge, zero in zip(edges, zeros, strict=True))
        corners = np.outer(low, high)
        name = self._name("product")
        return self._add(Multiply(name, (first, second), name, zeros), corners.min(), corners.max())

    def max_pool(self, source, kernel, strides=None, pads=None):
        name = self._name("max")
        return self._add(MaxPool(name, (source,), name, kernel, strides or kernel, pads or (0,) * 2 * len(kernel)))

    def concat(self, *sources, axis=0):
        name = self._name("joined")
        return self._add(Concat(name, sources, name, axis))

    def pad(self, source, pads, value=0):
        name = self._name("pad")
        return self._add(Pad(name, (source,), name, pads, value))

    def reshape(self, source, *shape):
        name = self._name("shaped")
        return self._add(Reshape(name, (source,), name, shape))

    def transpose(self, source, *perm):
        name = self._name("moved")
        return self._add(Transpose(name, (source,), name, perm))

    def gather(self, source, *indices):
        name = self._name("taken")
        places = zip(indices, self.edges[source].shape, strict=True)
        whole = tuple(tuple(range(size))[one] if isinstance(one, slice) else tuple(one) for one, size in places)
        return self._add(Gather(name, (source,), name, whole))

    def upsample(self, source, *factors):
        name = self._name("up")
        return self._add(Upsample(name, (source,), name, factors))

    def depth_to_space(self, source, block, mode="DCR"):
        name = self._name("space")
        return self._add(DepthToSpace(name, (source,), name, block, mode))

    def step(self, source, levels="u4", axis=None, per_channel=True, falling=False):
        """A quantiser: rounded straight lines with fractional offsets, one per channel."""
        shape, (lo, hi) = self.edges[source].shape, RANGES[levels]
        low, high = self.reach.get(source, (np.array([self.edges[source].lo]), np.array([self.edges[source].hi])))
        axis = (len(shape) - 1 if isinstance(self.ops[-1], Dense) else 0) if axis is None else axis
        count = shape[axis] if per_channel else 1
        low = np.full(count, low.min()) if len(low) != count else low
        high = np.full(count, high.max()) if len(high) != count else high
        sign = self.rng.choice([-1, 1], count) if falling else np.ones(count, np.int64)
        x_lo, x_hi = np.where(sign > 0, low, -high), np.where(sign > 0, high, -low)
        slope = (hi - lo + 1) / np.maximum((x_hi - x_lo) * self.rng.uniform(0.3, 0.9, count), 1)
        centre = (x_lo + x_hi) / 2 + self.rng.uniform(-3, 3, count)
        k = np.arange(lo + 1, hi + 1)
        thresholds = np.ceil(centre[:, None] + (k - 0.5 - (lo + hi) / 2) / slope[:, None]).astype(np.int64)
        thresholds = np.clip(thresholds, x_lo[:, None], x_hi[:, None] + 1)
        name = self._name("step")
        op = Requantise(
            name,
            (source,),
            name,
            axis,
            lo,
            hi,
            Steps(freeze(sign), freeze(thresholds), None),
            freeze(low),
            freeze(high),
        )
        self.ops.append(op)
        self.edges[name] = Edge(name, shape, lo, hi)
        return name


def list_built(rules) -> str:
    """The operations that a back end has rules for, as its refusals name them: whatever they are by now."""
    return ", ".join(kind.__name__ for kind in rules if kind is not Input)
