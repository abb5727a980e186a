"""A decoder gives the same integers step by step and in whole sequences, and those of an oracle in Python integers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenedge.decoder.execute import StepDecoder, isqrt, normalise, run_sequences
from greenedge.decoder.sampling import Sampling, advance, choose, generate, seed_state
from greenedge.errors import GreenedgeError
from tests.decoder.models import random_decoder
from tests.decoder.oracle import Oracle, find_root


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    kv_heads=st.sampled_from([1, 2]),
    group=st.integers(1, 3),
    half=st.integers(1, 4),
    hidden=st.integers(1, 40),
    layers=st.integers(1, 3),
    bits=st.sampled_from([2, 4, 8]),
    form=st.sampled_from(["root", "table"]),
)
def test_steps_and_sequences_are_the_same_integers(seed, kv_heads, group, half, hidden, layers, bits, form):
    rng = np.random.default_rng(seed)
    decoder = random_decoder(
        rng,
        heads=kv_heads * group,
        kv_heads=kv_heads,
        head_dim=2 * half,
        hidden=hidden,
        layers=layers,
        weight_bits=bits,
        norm_form=form,
    )
    tokens = rng.integers(0, decoder.vocabulary, (2, int(rng.integers(1, decoder.context + 1))))
    whole = run_sequences(decoder, tokens)
    for row, logits in zip(tokens, whole, strict=True):
        machine = StepDecoder(decoder)
        assert (np.stack([machine.step(int(token)) for token in row]) == logits).all()
    assert len(np.unique(whole)) > 10


@pytest.mark.parametrize("form", ["root", "table"])
@pytest.mark.parametrize("heads, kv_heads", [(4, 2), (3, 1)])
def test_every_logit_equals_the_definition(rng, form, heads, kv_heads):
    decoder = random_decoder(rng, heads=heads, kv_heads=kv_heads, head_dim=4, norm_form=form)
    machine, oracle = StepDecoder(decoder), Oracle(decoder)
    for token in rng.integers(0, decoder.vocabulary, decoder.context).tolist():
        assert machine.step(token).tolist() == oracle.step(token)


def test_the_generator_is_marsaglias():
    states = [1]
    for _ in range(3):
        states.append(advance(states[-1]))
    assert states[1:3] == [270369, 67634689] and all(0 < state < 2**32 for state in states)
    assert seed_state(0) == 1


def test_tokens_are_drawn_by_the_definition(rng):
    decoder = random_decoder(rng)
    for temperature, state in ((256, 1), (128, 2**31 + 7), (1024, 0xFFFFFFFF)):
        logits = rng.integers(-4000, 4000, decoder.vocabulary)
        unit = decoder.temperature_unit * 256 // temperature
        scaled = [(int(v) * unit + 2**15) >> 16 for v in logits]
        weights = [int(decoder.exponential[min(max(scaled) - v, 255)]) for v in scaled]
        drawn, total, wanted = (state >> 16) * sum(weights) >> 16, 0, -1
        while total <= drawn:
            wanted += 1
            total += weights[wanted]
        assert choose(decoder, logits, temperature, state) == wanted
    assert choose(decoder, np.array([3, 7, 7, 1]), 0, 1) == 1


@pytest.mark.parametrize("form", ["root", "table"])
def test_norms_equal_python_integers(rng, form):
    decoder = random_decoder(rng, heads=2, head_dim=4, norm_form=form)
    rows = [rng.integers(-(2**power), 2**power, (2000, 8)) for power in range(1, 16)]
    rows.append(np.full((1, 8), -32767))
    rows.append(np.zeros((1, 8), np.int64))
    for constant in (1, 4095, decoder.final_norm, 2**60 - 1):
        x = np.concatenate(rows)
        found = normalise(decoder, x, constant)
        for row, levels in zip(x[::7].tolist(), found[::7].tolist(), strict=True):
            root = find_root(max(sum(value * value for value in row), 1), constant, form)
            assert levels == [min(max((value * root + 2**19) >> 20, -127), 127) for value in row]


def test_integer_roots_at_squares():
    edges = np.array([n * n + d for n in (1, 2, 1023, 2**18, 2**26 - 1) for d in (-1, 0, 1)])
    assert isqrt(edges).tolist() == [math.isqrt(int(value)) for value in edges]


def test_the_same_seed_gives_the_same_story_until_the_context_is_full(rng):
    decoder = random_decoder(rng, context=10)
    one = list(generate(decoder, [3, 5], Sampling(256, 7)))
    assert one == list(generate(decoder, [3, 5], Sampling(256, 7)))
    assert len(one) == 9  # the ninth is drawn from the logits behind the tenth position
    assert any(one != list(generate(decoder, [3, 5], Sampling(256, seed))) for seed in range(8, 12))


@pytest.mark.parametrize(
    ("prompt", "words"), [([], "the prompt is empty"), ([99], "the vocabulary is 0 to 23"), ([1] * 13, "13 tokens")]
)
def test_prompts_that_no_decoder_takes(rng, prompt, words):
    with pytest.raises(GreenedgeError, match=words):
        list(generate(random_decoder(rng), prompt, Sampling()))
