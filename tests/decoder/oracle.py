"""One token of a decoder in Python's own integers, written from the docstring of greenedge/decoder/record.py."""

from __future__ import annotations

import math


def clip(value: int, limit: int) -> int:
    return min(max(value, -limit), limit)


def scale(one, x: list[int]) -> list[int]:
    sums = [sum(int(w) * v for w, v in zip(row, x, strict=True)) for row in one.weights.tolist()]
    pairs = zip(sums, one.multipliers.tolist(), strict=True)
    return [(total * m + 2 ** (one.shift - 1)) >> one.shift for total, m in pairs]


def find_root(squares: int, constant: int, form: str) -> int:
    """R of a norm."""
    if form == "root":
        return min(math.isqrt(constant // squares), 2**17 - 1)
    half = 0
    while squares >> 2 * half >= 1024:
        half += 1
    entry = math.isqrt(2**40 // max(squares >> 2 * half, 256))
    return min((entry * (math.isqrt(constant) >> 12) >> 8) >> half, 2**17 - 1)


def normalise(x: list[int], constant: int, form: str) -> list[int]:
    root = find_root(max(sum(v * v for v in x), 1), constant, form)
    return [clip((v * root + 2**19) >> 20, 127) for v in x]


class Oracle:
    """step(token) gives the logits; keys and values of every position are kept, by layer."""

    def __init__(self, decoder) -> None:
        self.one = decoder
        self.kept: list[list[tuple[list[list[int]], list[list[int]]]]] = [[] for _ in decoder.layers]

    def rotate(self, u: list[int], t: int) -> list[list[int]]:
        """By heads."""
        width = self.one.head_dim
        heads = [u[at : at + width] for at in range(0, len(u), width)]
        for head in heads:
            for i in range(width // 2):
                a, b = head[2 * i], head[2 * i + 1]
                c, s = int(self.one.cosine[t, i]), int(self.one.sine[t, i])
                head[2 * i] = clip((a * c - b * s + 2**17) >> 18, 127)
                head[2 * i + 1] = clip((a * s + b * c + 2**17) >> 18, 127)
        return heads

    def attend(self, number: int, layer, h: list[int]) -> list[int]:
        one, kept = self.one, self.kept[number]
        t, width = len(kept), one.head_dim
        limit = lambda values: [clip(v, 2047) for v in values]  # noqa: E731
        query = self.rotate(limit(scale(layer.query, h)), t)
        key = self.rotate(limit(scale(layer.key, h)), t)
        flat = [clip(v, 127) for v in scale(layer.value, h)]
        kept.append((key, [flat[at : at + width] for at in range(0, len(flat), width)]))
        context: list[int] = []
        for head in range(one.heads):
            group = head * one.kv_heads // one.heads
            half = 2 ** (layer.logit_shift - 1)
            logits = [
                (sum(a * b for a, b in zip(query[head], keys[group], strict=True)) + half) >> layer.logit_shift
                for keys, _ in kept
            ]
            weights = [int(one.exponential[min(max(logits) - a, 255)]) for a in logits]
            for c in range(width):
                mixed = sum(e * values[group][c] for e, (_, values) in zip(weights, kept, strict=True))
                context.append(clip((layer.context_numerator // sum(weights) * mixed + 2**27) >> 28, 127))
        return context

    def step(self, token: int) -> list[int]:
        one, form = self.one, self.one.norm_form
        x = [int(v) << one.residual_shift for v in one.embedding[token]]
        for number, layer in enumerate(one.layers):
            context = self.attend(number, layer, normalise(x, layer.attention_norm, form))
            x = [clip(a + b, 32767) for a, b in zip(x, scale(layer.output, context), strict=True)]
            h = normalise(x, layer.mlp_norm, form)
            gates = [int(layer.activation[clip(v, 127) + 127]) for v in scale(layer.gate, h)]
            ups = [clip(v, 127) for v in scale(layer.up, h)]
            z = [clip((a * b * layer.product_multiplier + 2**15) >> 16, 127) for a, b in zip(gates, ups, strict=True)]
            x = [clip(a + b, 32767) for a, b in zip(x, scale(layer.down, z), strict=True)]
        y = normalise(x, one.final_norm, form)
        return [sum(int(w) * v for w, v in zip(row, y, strict=True)) for row in one.head.tolist()]
