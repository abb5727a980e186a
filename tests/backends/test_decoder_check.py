"""What the engine refuses is named with its place, the rule, and what would help; what it takes is counted before."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from greenedge.backends.decoder.check import check
from greenedge.backends.decoder.engine import LANES, Engine, describe
from greenedge.backends.decoder.resources import blocks_of, count_blocks, count_multipliers, estimate
from greenedge.errors import GreenedgeError
from greenedge.target import load_target
from tests.decoder.models import random_decoder

# the shape of stories260K
_STORIES = {"heads": 8, "kv_heads": 4, "head_dim": 8, "hidden": 172, "layers": 5, "vocabulary": 512, "context": 256}


def _build(**shape):
    return random_decoder(np.random.default_rng(1), norm_form="table", **{**_STORIES, **shape})


def _say(board: str, lanes: int = LANES, **shape) -> list[str]:
    return [str(reason) for reason in check(_build(**shape), load_target(board).device, lanes)]


def test_the_blocks_of_stories260k_are_those_that_yosys_counts():
    """yosys 0.70 maps 146: of the activations' ten bits two were alike in that model."""
    engine = describe(_build())
    assert sum(count_blocks(engine).values()) == 147
    assert count_blocks(engine)["weights"] == 58 and count_blocks(engine)["cache"] == 64
    multipliers = count_multipliers(dataclasses.replace(engine, reciprocal_bits=23))
    assert sum(multipliers.values()) == 86
    assert _say("ulx3s-85f") == []


@pytest.mark.parametrize(
    ("words", "bits", "blocks"), [(1024, 18, 1), (1025, 18, 2), (512, 36, 1), (2048, 256, 29), (16384, 8, 8)]
)
def test_blocks_of_a_memory(words, bits, blocks):
    assert blocks_of(words, bits) == blocks


@pytest.mark.parametrize(("bits", "products"), [(17, 2), (18, 4), (30, 4)])
def test_a_wide_quotient_takes_more_multipliers(bits, products):
    """25 bits of sums are two parts; 17 bits of the quotient one."""
    engine = dataclasses.replace(describe(_build()), reciprocal_bits=bits)
    assert count_multipliers(engine)["context"] == products


def test_long_contexts_move_the_logits_into_block_ram():
    short, long_ = (describe(_build(layers=1, vocabulary=24, context=n)) for n in (256, 264))
    assert "scores" not in count_blocks(short) and count_blocks(long_)["scores"] == 5
    assert estimate(long_).blocks == sum(count_blocks(long_).values())


@pytest.mark.parametrize(
    ("board", "lanes", "shape", "words"),
    [
        ("ulx3s-45f", 64, {}, r"about 147 block RAMs \(cache 64, weights 58, embedding 16\); .* \(cure: ulx3s-85f\)"),
        (
            "ulx3s-45f",
            64,
            {},
            r"86 multipliers of 18 bits; lfe5u-45f-6bg381c has 72 \(cure: 32 lanes, or a larger part",
        ),
        ("ulx3s-85f", 64, {"weight_bits": 8, "layers": 6}, r"has 205 .* \(cure: 4-bit weights .*--bits 4`\)\)"),
        ("ulx3s-85f", 64, {"context": 1024}, r"cure: a context of 256 \(`--context 256`\)\)"),
        ("ulx3s-85f", 64, {"weight_bits": 8, "context": 512}, r"cure: a context of 256 \(`--context 256`\)\)"),
        ("ulx3s-85f", 64, {"layers": 12}, r"cure: a smaller model"),
        (
            "ulx3s-85f",
            64,
            {"weight_bits": 8, "layers": 7, "context": 512},
            r"cure: 4-bit weights and a context of 128 \(`--bits 4 --context 128`\)",
        ),
        ("ulx3s-85f", 512, {"layers": 1, "vocabulary": 64}, r"534 multipliers .* \(cure: 256 lanes"),
        ("ulx3s-85f", 64, {"layers": 40}, r"a smaller model: no part that greenedge knows holds this one"),
        ("icebreaker", 64, {}, r"family ice40; the engine is made for ECP5 \(cure: take .*ulx3s-85f\)"),
        ("ulx3s-85f", 48, {}, r"48 lanes; lanes are a power of two, at least 8"),
        ("ulx3s-85f", 4, {}, r"4 lanes; lanes are a power of two, at least 8"),
        ("ulx3s-85f", 64, {"head_dim": 6}, r"heads of 6 elements; a head is a power of two"),
        ("ulx3s-85f", 64, {"heads": 1, "kv_heads": 1, "head_dim": 4}, r"a width of 4; a norm takes 8 to 1024"),
        ("ulx3s-85f", 64, {"vocabulary": 11000}, r"embedding: 704,000 words; that memory has at most 655,360"),
    ],
)
def test_what_does_not_go_says_why_and_what_would(board, lanes, shape, words):
    said = _say(board, lanes, **shape)
    assert any(re.search(words, line) for line in said), said


@pytest.mark.parametrize(("heads", "refused"), [(64, False), (65, True)])
def test_a_sum_of_squares_has_40_bits(heads, refused):
    wide = dataclasses.replace(_build(), embedding=np.zeros((24, 16 * heads), np.int8), heads=heads)
    said = "\n".join(map(str, check(wide, load_target("ulx3s-85f").device)))
    assert ("a norm takes 8 to 1024 elements" in said) is refused


def test_roots_by_division_are_refused_by_name():
    decoder = dataclasses.replace(_build(layers=1, vocabulary=24), norm_form="root")
    said = [str(reason) for reason in check(decoder, load_target("ulx3s-85f").device)]
    assert said == [
        "decoder: norm_form 'root'; the engine looks roots up and divides for attention alone "
        '(cure: norm_form "table", trained or scored in that form).'
    ]


def test_an_engine_is_described_whole():
    engine = describe(_build(layers=1), 32)
    assert engine == Engine(32, 512, 64, 8, 4, 172, 1, 256, 4, 4, engine.reciprocal_bits)
    largest = max(layer.context_numerator for layer in _build(layers=1).layers) // 255
    assert largest < 1 << engine.reciprocal_bits <= 2 * largest


def test_check_speaks_of_a_language_model_as_of_any_other(tmp_path, capsys):
    from greenedge import api
    from greenedge.decoder.store import save_decoder

    path = tmp_path / "model.npz"
    save_decoder(path, _build())
    (taken,) = api.check(path, "ulx3s-85f")
    assert (taken.backend, taken.reasons, taken.layers) == ("decoder", (), 5)
    assert any("estimates" in note for note in taken.notes)
    (refused,) = api.check(path, "icebreaker")
    assert "the engine is made for ECP5" in str(refused.reasons[0])
    with pytest.raises(GreenedgeError, match="no back end 'finn' for language models"):
        api.check(path, "ulx3s-85f", backend="finn")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(GreenedgeError, match="is no decoder of greenedge"):
        api.check(tmp_path / "other.npz", "ulx3s-85f")
