"""The engine on an FPGA gives the decoder's integers: residual behind every layer, logits, tokens, in Verilator."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from greenedge.backends.decoder.engine import describe
from greenedge.backends.decoder.memories import pack, write_memories
from greenedge.backends.decoder.simulate import (
    Story,
    Trace,
    compare,
    compile_engine,
    execute_story,
    run_stories,
    simulate_stories,
)
from greenedge.decoder.record import Decoder
from greenedge.decoder.sampling import Sampling
from greenedge.errors import GreenedgeError, VerificationError
from tests.decoder.models import random_decoder

_LANES = 8
_STORIES = (Story((3,), 22, Sampling(256, 7)), Story((1, 5, 2), 9), Story((4, 4), 20, Sampling(90, 8)))


def _build(seed: int = 1, **shape: int) -> Decoder:
    # two words a row, a hidden width that fills no word, a context that ends inside a word of keys and of values
    base = {"heads": 4, "kv_heads": 2, "head_dim": 4, "hidden": 19, "vocabulary": 24, "context": 22, "layers": 2}
    return random_decoder(np.random.default_rng(seed), norm_form="table", **{**base, **shape})


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return _build()


@pytest.mark.tool("verilator")
@pytest.mark.tool("g++")
def test_the_rtl_tells_the_same_stories(decoder):
    found = simulate_stories(decoder, _STORIES, _LANES)
    compared = [compare(execute_story(decoder, story), trace) for story, trace in zip(_STORIES, found, strict=True)]
    positions = [len(story.prompt) + story.length - 1 for story in _STORIES]
    assert compared == [places * 2 * 16 + story.length * 25 for places, story in zip(positions, _STORIES, strict=True)]
    assert len(set(found[0].tokens)) > 5  # drawn, not stuck


@pytest.mark.tool("verilator")
@pytest.mark.tool("g++")
def test_the_engine_may_wake_up_with_anything(decoder):
    """Whatever registers and memories hold before the reset; the weights of the head lie beside what is written."""
    engine, story = describe(decoder, _LANES), _STORIES[0]
    model, expected = compile_engine(engine), execute_story(decoder, story)
    for seed in range(1, 41):
        found, _ = run_stories(model, decoder, engine, [story], write_memories(decoder, engine), seed)
        assert compare(expected, found[0]) > 1000, seed


@pytest.mark.tool("verilator")
@pytest.mark.tool("g++")
def test_a_prompt_costs_no_head(decoder):
    cycles = simulate_stories(decoder, [Story((1, 5, 2), 2)], _LANES)[0].cycles
    assert cycles[1] + 2 * decoder.vocabulary <= cycles[2]


@pytest.mark.tool("verilator")
@pytest.mark.tool("g++")
@pytest.mark.parametrize(
    ("file", "row", "bit", "words"),
    [
        # row 2 * (16 + 8 + 8 + 16 + 38) + 16 * 3 words are a layer's; its last row is of element 15
        ("weights.0", 2 * 86 + 3 * 15, 2, "position 0, layer 0: 1 of 16 integers, first element 15"),
        ("weights.0", 2 * (2 * 86 + 48) - 1, 1, "layer 1: 1 of 16 integers, first element 15"),
        ("multipliers.0", 16 + 8 + 8 + 5, 15, "position 0, layer 0: 1[0-6] of 16 integers, first element [05]"),
        ("embedding.0", 3 * 16 + 9, 6, "position 0, layer 0"),
        ("root.0", 300, 15, "position [0-9]+, layer [01]"),
    ],
)
def test_a_memory_fault_is_noticed_where_it_acts(decoder, file, row, bit, words):
    engine = describe(decoder, _LANES)
    lines = write_memories(decoder, engine)[file].decode().splitlines()
    rows = range(len(lines)) if file == "root.0" else [row]
    for at in rows:
        lines[at] = f"{int(lines[at], 16) ^ (1 << bit):0{len(lines[at])}x}"
    spoiled = {file: ("\n".join(lines) + "\n").encode()}
    story = _STORIES[0]
    found = simulate_stories(decoder, [story], _LANES, memories=spoiled)[0]
    with pytest.raises(VerificationError, match=words):
        compare(execute_story(decoder, story), found)


def test_every_sort_of_difference_is_named(decoder):
    trace = execute_story(decoder, _STORIES[1])
    assert compare(trace, trace) == trace.residuals.size + trace.logits.size + 9

    def spoil(name: str, at: tuple[int, ...]) -> Trace:
        values = getattr(trace, name).copy()
        values[at] += 1
        return dataclasses.replace(trace, **{name: values})

    with pytest.raises(VerificationError, match="position 7, layer 1: 1 of 16 integers, first element 3: expected"):
        compare(trace, spoil("residuals", (7, 1, 3)))
    with pytest.raises(VerificationError, match="position 2, logits: 1 of 24 integers, first element 11"):
        compare(trace, spoil("logits", (0, 11)))
    other = dataclasses.replace(trace, tokens=(*trace.tokens[:8], (trace.tokens[8] + 1) % 24))
    with pytest.raises(VerificationError, match="position 10, token"):
        compare(trace, other)


def test_fewer_integers_are_no_pass(decoder):
    trace = execute_story(decoder, _STORIES[1])
    with pytest.raises(VerificationError, match=r"rtl gave tokens of shape \(8,\); the decoder gives \(9,\)"):
        compare(trace, dataclasses.replace(trace, tokens=trace.tokens[1:]))
    none = Trace((), (), trace.residuals[:0], trace.logits[:0])
    with pytest.raises(VerificationError, match="none is no pass"):
        compare(none, none)


@pytest.mark.parametrize(
    ("prompt", "length", "words"),
    [
        ((), 3, "3 tokens behind 0 of a prompt"),
        ((1,), 0, "0 tokens behind 1 of a prompt"),
        ((1, 2), 22, "23 tokens: the context has 22"),
        ((24,), 1, "the vocabulary is 0 to 23"),
    ],
)
def test_stories_that_cannot_be_told(decoder, prompt, length, words):
    with pytest.raises(GreenedgeError, match=words):
        simulate_stories(decoder, [Story(prompt, length)], _LANES)


def test_words_hold_lane_0_in_their_low_bits():
    assert list(pack(np.array([1, -1, 7], np.int8), 2, 4)) == [0xF1, 0x07]


@pytest.mark.slow
@pytest.mark.tool("verilator")
@pytest.mark.tool("g++")
@pytest.mark.parametrize(
    ("lanes", "shape"),
    [
        (4, {"head_dim": 2, "heads": 3, "kv_heads": 1, "hidden": 5, "layers": 1, "context": 7}),
        (16, {"head_dim": 16, "heads": 2, "kv_heads": 2, "hidden": 40, "weight_bits": 8, "context": 37}),
        (32, {"head_dim": 8, "heads": 4, "kv_heads": 4, "hidden": 33, "weight_bits": 2, "vocabulary": 67}),
        (64, {"head_dim": 8, "heads": 8, "kv_heads": 4, "hidden": 172, "layers": 5, "context": 256, "vocabulary": 512}),
    ],
    ids=["smallest words", "one head a word", "2-bit", "stories260K"],
)
def test_other_shapes(lanes, shape):
    decoder = _build(5, **shape)
    stories = [Story((2,), decoder.context, Sampling(300, 1))]
    for story, trace in zip(stories, simulate_stories(decoder, stories, lanes), strict=True):
        assert compare(execute_story(decoder, story), trace)
