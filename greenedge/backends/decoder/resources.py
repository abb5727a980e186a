"""What an engine costs on an ECP5, estimated from its parameters before anything is synthesised.

Blocks and multipliers follow from widths and depths as yosys divides them; at most one block in fifty is counted too
many (a table whose high bits are alike). Logic is a sum with coefficients from one synthesis;
`benchmarks/decoder_engine.py` shows it beside yosys's own counts. Estimates only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from greenedge.backends.decoder.engine import Engine

BLOCK_BITS = 18432
# (words, widest word) of a DP16KD; the first is read and written by one port each
_SHAPES = ((512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2), (16384, 1))
# Logic of what is there once, of a lane, and of a bit of the GROUPS logits that are weighed at once. Set by what the
# parts are made of so that their sum is yosys's count for the shape of stories260K (11,646): one point, so no more than
# a guide for other shapes.
_LOGIC = {"once": 4500.0, "lane": 66.0, "weigh": 18.0}


@dataclass(frozen=True)
class Cost:
    """LUT4 (a carry cell counts as two, a 16×4 memory as four), DP16KD, MULT18X18D: estimated."""

    logic: int
    blocks: int
    multipliers: int


def estimate(engine: Engine) -> Cost:
    """The cost of an engine."""
    return Cost(
        round(_LOGIC["once"] + _LOGIC["lane"] * engine.lanes + _LOGIC["weigh"] * engine.groups * _score_bits(engine)),
        sum(count_blocks(engine).values()),
        sum(count_multipliers(engine).values()),
    )


def count_blocks(engine: Engine) -> dict[str, int]:
    """{memory: DP16KD}."""
    sizes = {
        "weights": _banks(engine.weight_rows, 2048, engine.lanes * engine.weight_bits),
        "embedding": _banks(engine.vocabulary * engine.dim, 16384, 8),
        "multipliers": _banks(engine.layers * engine.rows, 1024, 18),
        "angles": _banks(engine.context * engine.head_dim // 2, 1024, 32),
        "activations": _banks(engine.layers * 256, 2048, 10),
        "root": [(1024, 17)],
        "logits": [(engine.vocabulary, max(_logit_bits(engine), (255 * engine.vocabulary).bit_length()))],
    }
    if 2 * -(-engine.context // engine.groups) > 64:  # as ge_decoder_weigh chooses
        sizes["scores"] = [(2 * -(-engine.context // engine.groups), engine.groups * _score_bits(engine))]
    # every byte of the cache is written alone
    cache = engine.lanes * blocks_of(engine.cache_rows, 8)
    return {"cache": cache, **{name: sum(blocks_of(*one) for one in parts) for name, parts in sizes.items()}}


def count_multipliers(engine: Engine) -> dict[str, int]:
    """{unit: MULT18X18D}."""
    sums = 7 + engine.weight_bits + (max(engine.dim, engine.hidden) - 1).bit_length()
    mixed = 17 + (engine.context - 1).bit_length()
    return {
        "lanes": engine.lanes,
        "norm": min(4, engine.head_dim) + 2,
        "rotate": 4,
        "gate": 2,
        "requantise": _tiles(sums),
        "context": _count_parts(mixed, engine.reciprocal_bits),
        "sample": _count_parts(_logit_bits(engine), 32) + 1,
    }


def blocks_of(words: int, bits: int) -> int:
    """Blocks for `words` words of `bits` bits, in the shape that takes the fewest."""
    return min(-(-words // depth) * -(-bits // width) for depth, width in _SHAPES)


def _banks(words: int, bank: int, bits: int) -> list[tuple[int, int]]:
    """[(words, bits)] of the banks of ge_decoder_rom."""
    return list(_cut(words, bank, bits))


def _cut(words: int, bank: int, bits: int) -> Iterator[tuple[int, int]]:
    for begin in range(0, words, bank):
        yield min(bank, words - begin), bits


def _tiles(bits: int) -> int:
    """Multipliers of 18 bits for a factor: yosys leaves a rest of one bit to logic."""
    return 1 if bits <= 18 else 1 + -(-(bits - 19) // 17)


def _count_parts(a_bits: int, b_bits: int) -> int:
    """Products of 17-bit parts, as ge_decoder_multiply cuts its factors."""
    return (a_bits + 15) // 17 * ((b_bits + 16) // 17)


def _logit_bits(engine: Engine) -> int:
    return 15 + (engine.dim - 1).bit_length()


def _score_bits(engine: Engine) -> int:
    return 17 + (engine.head_dim - 1).bit_length()
