"""The memory files of the engine: weights in execution order, tables and constants, as hexadecimal words.

A word holds `lanes` numbers, that of lane 0 in the low bits; a row that is no multiple of the lanes ends in zeros.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from greenedge.backends.decoder.engine import Engine
from greenedge.decoder.execute import ROOT_TABLE
from greenedge.decoder.record import Decoder, Layer

# bits of a layer's constants, the first in the high bits, as ge_decoder_pkg::layer_t; every shift is stored less one
_SHIFTS = ("down", "up", "gate", "output", "value", "key", "query")
_BANKS = {"weights": 2048, "embedding": 16384, "multipliers": 1024, "angles": 1024, "activations": 2048, "root": 1024}


def write_memories(decoder: Decoder, engine: Engine) -> dict[str, bytes]:
    """{file: content}; memories of several banks have a file each, ".0" on (ge_decoder_rom)."""
    files: dict[str, bytes] = {}
    for name, (bits, words) in _list_memories(decoder, engine).items():
        rows = [f"{word & ((1 << bits) - 1):0{-(-bits // 4)}x}\n" for word in words]
        bank = _BANKS.get(name, 0)
        if not bank:
            files[name] = "".join(rows).encode()
        for number, begin in enumerate(range(0, len(rows), bank) if bank else ()):
            files[f"{name}.{chr(48 + number)}"] = "".join(rows[begin : begin + bank]).encode()
    return files


def list_widths(decoder: Decoder, engine: Engine) -> dict[str, int]:
    """{memory: bits of a word}; a memory of several banks has the same name for all."""
    return {name: bits for name, (bits, _) in _list_memories(decoder, engine).items()}


def _list_memories(decoder: Decoder, engine: Engine) -> dict[str, tuple[int, Iterable[int]]]:
    """{memory: (bits of a word, words)}."""
    lanes, bits = engine.lanes, decoder.weight_bits
    return {
        "weights": (lanes * bits, (word for row in _rows(decoder) for word in pack(row, lanes, bits))),
        "cache": (8 * lanes, _cache(decoder, engine)),
        "embedding": (8, decoder.embedding.ravel().tolist()),
        "multipliers": (18, _multipliers(decoder)),
        "angles": (32, _angles(decoder)),
        "activations": (10, (word for layer in decoder.layers for word in _activation(layer))),
        "root": (17, ROOT_TABLE.tolist()),
        "exponential": (8, decoder.exponential.tolist()),
        "layers": (engine.constant_bits, _constants(decoder)),
    }


def pack(row: NDArray[np.int8], lanes: int, bits: int) -> Iterator[int]:
    """The words of one row of `bits`-bit numbers."""
    padded = np.concatenate([row, np.zeros(-len(row) % lanes, row.dtype)]).astype(np.int64) & ((1 << bits) - 1)
    for word in padded.reshape(-1, lanes):
        yield sum(int(value) << bits * lane for lane, value in enumerate(word))


def _rows(decoder: Decoder) -> Iterator[NDArray[np.int8]]:
    """Rows of weights in the order of a token: those of gate and up alternate."""
    for layer in decoder.layers:
        for name, one in layer.projections.items():
            if name == "gate":
                for pair in zip(one.weights, layer.up.weights, strict=True):
                    yield from pair
            elif name != "up":
                yield from one.weights


def _multipliers(decoder: Decoder) -> Iterator[int]:
    """A multiplier for every row of _rows()."""
    for layer in decoder.layers:
        for name, one in layer.projections.items():
            if name == "gate":
                yield from np.stack([one.multipliers, layer.up.multipliers], -1).ravel().tolist()
            elif name != "up":
                yield from one.multipliers.tolist()


def _cache(decoder: Decoder, engine: Engine) -> Iterator[int]:
    """Keys and values begin as zeros; the head lies behind them."""
    yield from (0 for _ in range(engine.head_base))
    for row in decoder.head:
        yield from pack(row, engine.lanes, 8)


def _angles(decoder: Decoder) -> Iterator[int]:
    for cosine, sine in zip(decoder.cosine.ravel().tolist(), decoder.sine.ravel().tolist(), strict=True):
        yield (cosine & 0xFFFF) << 16 | sine & 0xFFFF


def _activation(layer: Layer) -> list[int]:
    """256 words, addressed by the gate's eight bits; the record's table begins at -127, and -128 does not occur."""
    table = layer.activation.tolist()
    return [*table[127:], 0, *table[:127]]


def _constants(decoder: Decoder) -> Iterator[int]:
    """A word a layer, and one more for the final norm."""
    for layer in decoder.layers:
        fields = [
            (math.isqrt(layer.attention_norm) >> 12, 18),
            (math.isqrt(layer.mlp_norm) >> 12, 18),
            (layer.product_multiplier, 17),
            (layer.context_numerator, 30),
            (layer.logit_shift - 1, 4),
            *((layer.projections[name].shift - 1, 5) for name in _SHIFTS),
        ]
        word = 0
        for value, width in fields:
            word = word << width | value
        yield word
    yield (math.isqrt(decoder.final_norm) >> 12) << (18 + 17 + 30 + 4 + 5 * len(_SHIFTS))
