"""A decoder as an ONNX model of integer operators that takes one token; every number is record.py's.

token    (1,) int64        position (1,) int64, tokens before this one
keys.N   (kv_heads, head_dim, position) uint8, values.N (kv_heads, position, head_dim) uint8, levels + 128
logits   (1, vocabulary) int32                     keys.N.next, values.N.next: the same with this token's
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto

from greenedge.decoder.execute import ROOT_TABLE
from greenedge.decoder.onnx_operators import ZERO, IntegerGraph, finish, name_tensor
from greenedge.decoder.record import RESIDUAL_LIMIT, ROOT_LIMIT, Decoder, Layer, Projection

_ROTATED = 2047  # the clip before a rotation
_LEVELS = 127
_MOST_SQUARES = 48  # bits of a sum of squares: 2^17 numbers of 16 bits with sign
_ISQRT_LIMIT = 1 << 36  # its root is above ROOT_LIMIT, and float64's root of what is below it is exact


def write_onnx(decoder: Decoder) -> onnx.ModelProto:
    """The model. Raises GreenedgeError for a decoder that breaks a bound."""
    decoder.check()
    return _Writer(decoder).write()


class _Writer:
    """The graph of one decoder while it grows."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder, self.graph = decoder, IntegerGraph()

    def write(self) -> onnx.ModelProto:
        one, g = self.decoder, self.graph
        inputs = [name_tensor(name, TensorProto.INT64, [1]) for name in ("token", "position")]
        outputs = {}
        cosine, sine = self._pick_angles()
        embedding = g.add("Gather", g.constant(one.embedding, np.int8), "token", axis=0)
        x = g.add("Mul", g.cast(embedding, TensorProto.INT64), g.constant(1 << one.residual_shift))
        for number, layer in enumerate(one.layers):
            for name, shape in self._cache_shapes().items():
                inputs.append(name_tensor(f"{name}.{number}", TensorProto.UINT8, shape))
            x, keys, values = self._attend(x, layer, (cosine, sine), f"keys.{number}", f"values.{number}")
            for name, grown in (("keys", keys), ("values", values)):
                longer = ["next" if axis == "position" else axis for axis in self._cache_shapes()[name]]
                outputs[grown] = name_tensor(f"{name}.{number}.next", TensorProto.UINT8, longer)
            x = self._gate(x, layer)
        head = g.constant(one.head.T.astype(np.int16) + ZERO, np.uint8)
        logits = g.multiply(self._normalise(x, one.final_norm), head)
        shown = {logits: name_tensor("logits", TensorProto.INT32, [1, one.vocabulary])}
        return finish(g, "decoder", inputs, {**shown, **outputs})

    def _cache_shapes(self) -> dict[str, tuple[int | str, ...]]:
        heads, width = self.decoder.kv_heads, self.decoder.head_dim
        return {"keys": (heads, width, "position"), "values": (heads, "position", width)}

    def _pick_angles(self) -> tuple[str, str]:
        """Cosine (1, pairs, 1), sine (1, pairs, 2) of this position; the sine of a pair's first number is negative."""
        g, one = self.graph, self.decoder
        sines = np.stack([-one.sine, one.sine], -1)
        return (
            g.add("Gather", g.constant(one.cosine[..., None]), "position", axis=0),
            g.add("Gather", g.constant(sines), "position", axis=0),
        )

    def _scale(self, projection: Projection, x: str) -> tuple[str, int]:
        """The sums of products times the multipliers, and a bound of them."""
        most = 2 ** (self.decoder.weight_bits - 1) * _LEVELS * projection.columns
        reach = most * int(np.abs(projection.multipliers.astype(np.int64)).max())
        return self.graph.multiply_rows(x, projection.weights, projection.multipliers), reach

    def _requantise(self, projection: Projection, x: str) -> str:
        """As uint8 levels."""
        product, reach = self._scale(projection, x)
        return self.graph.as_levels(product, projection.shift, reach)

    def _add(self, projection: Projection, x: str, levels: str) -> str:
        g = self.graph
        product, reach = self._scale(projection, levels)
        total = g.add("Add", x, g.shift(product, projection.shift, reach))
        return g.clip(total, -RESIDUAL_LIMIT, RESIDUAL_LIMIT)

    def _turn(self, projection: Projection, x: str, angles: tuple[str, str]) -> str:
        """Rotated levels of a query or key: (heads, pairs, 2) uint8."""
        g = self.graph
        product, reach = self._scale(projection, x)
        rotated = g.clip(g.shift(product, projection.shift, reach), -_ROTATED, _ROTATED)
        pairs = g.add("Reshape", rotated, g.constant([-1, self.decoder.head_dim // 2, 2]))
        return g.rotate(pairs, *angles, 18, 2 * _ROTATED << 14)

    def _attend(self, x: str, layer: Layer, angles: tuple[str, str], keys: str, values: str) -> tuple[str, str, str]:
        """The residual, and both caches with this token."""
        one, g = self.decoder, self.graph
        h, group = self._normalise(x, layer.attention_norm), one.heads // one.kv_heads
        query = g.add("Reshape", self._turn(layer.query, h, angles), g.constant([one.kv_heads, group, one.head_dim]))
        key = g.add("Reshape", self._turn(layer.key, h, angles), g.constant([one.kv_heads, one.head_dim, 1]))
        value = g.add("Reshape", self._requantise(layer.value, h), g.constant([one.kv_heads, 1, one.head_dim]))
        keys, values = g.add("Concat", keys, key, axis=2), g.add("Concat", values, value, axis=1)
        sums = g.cast(g.multiply(query, keys), TensorProto.INT64)
        logits = g.shift(sums, layer.logit_shift, _LEVELS**2 * one.head_dim)
        weights = g.weigh(logits, one.exponential)
        total = g.sum_last(g.cast(weights, TensorProto.INT64))
        mixed = g.cast(g.multiply(weights, values, 0), TensorProto.INT64)
        share = g.add("Div", g.constant(layer.context_numerator), total)
        reach = layer.context_numerator * _LEVELS  # a mean of values, each at most 127, times the numerator
        context = g.as_levels(g.add("Mul", share, mixed), 28, reach)
        flat = g.add("Reshape", context, g.constant([1, one.dim]))
        return self._add(layer.output, x, flat), keys, values

    def _gate(self, x: str, layer: Layer) -> str:
        g = self.graph
        h = self._normalise(x, layer.mlp_norm)
        gate = g.cast(self._requantise(layer.gate, h), TensorProto.INT64)
        up = g.add("Sub", g.cast(self._requantise(layer.up, h), TensorProto.INT64), g.constant(ZERO))
        index = g.add("Sub", gate, g.constant(ZERO - _LEVELS))
        left = g.look_up(layer.activation.astype(np.int64) * layer.product_multiplier, index)
        reach = int(np.abs(layer.activation).max()) * layer.product_multiplier * _LEVELS
        return self._add(layer.down, x, g.as_levels(g.add("Mul", left, up), 16, reach))

    def _normalise(self, x: str, constant: int) -> str:
        """As uint8 levels (1, dim)."""
        g = self.graph
        squares = g.add("Max", g.sum_last(g.add("Mul", x, x)), g.constant(1))
        root = (self._take_root if self.decoder.norm_form == "root" else self._look_up_root)(squares, constant)
        product = g.add("Mul", x, g.add("Min", root, g.constant(ROOT_LIMIT)))
        return g.as_levels(product, 20, RESIDUAL_LIMIT * ROOT_LIMIT)

    def _take_root(self, squares: str, constant: int) -> str:
        g = self.graph
        ratio = g.add("Min", g.add("Div", g.constant(constant), squares), g.constant(_ISQRT_LIMIT))
        return g.cast(g.add("Floor", g.add("Sqrt", g.cast(ratio, TensorProto.DOUBLE))), TensorProto.INT64)

    def _look_up_root(self, squares: str, constant: int) -> str:
        g, halves = self.graph, np.arange((_MOST_SQUARES - 10) // 2 + 1)
        reached = g.add("GreaterOrEqual", squares, g.constant(1 << (10 + 2 * halves)))
        half = g.sum_last(g.cast(reached, TensorProto.INT64))
        places = np.append(halves, len(halves))
        mantissa = g.add("Div", squares, g.look_up(1 << 2 * places, half))
        table = np.where(np.arange(1024) < 256, ROOT_TABLE[256], ROOT_TABLE) * (math.isqrt(constant) >> 12)
        return g.add("Div", g.look_up(table, mantissa), g.look_up(1 << (8 + places), half))
