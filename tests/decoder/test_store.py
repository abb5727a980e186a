"""A decoder comes back from its file as it was; a file that was changed anywhere is refused or changes the digest."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from greenedge.decoder.execute import run_sequences
from greenedge.decoder.store import decoder_digest, load_decoder, load_model, save_decoder
from greenedge.decoder.tokenizer import Tokenizer
from greenedge.errors import GreenedgeError
from greenedge.files.arrays import read_archive, write_archive
from tests.decoder.models import random_decoder

PIECES = Tokenizer(tuple(b"piece %d" % number for number in range(24)), tuple(map(float, range(24))))


@pytest.mark.parametrize("tokenizer", [None, PIECES])
def test_what_is_saved_comes_back(rng, tmp_path, tokenizer):
    decoder = random_decoder(rng, norm_form="table")
    save_decoder(tmp_path / "a.npz", decoder, tokenizer)
    back, pieces = load_model(tmp_path / "a.npz")
    assert pieces == tokenizer and decoder_digest(back) == decoder_digest(decoder)
    tokens = rng.integers(0, decoder.vocabulary, (2, 9))
    assert (run_sequences(back, tokens) == run_sequences(decoder, tokens)).all()
    save_decoder(tmp_path / "b.npz", back, pieces)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_every_integer_is_in_the_digest(rng):
    decoder = random_decoder(rng)
    digests = {decoder_digest(decoder)}
    for name in ("residual_shift", "final_norm", "temperature_unit"):
        digests.add(decoder_digest(dataclasses.replace(decoder, **{name: getattr(decoder, name) + 1})))
    layer = decoder.layers[1]
    for name in ("attention_norm", "mlp_norm", "logit_shift", "context_numerator", "product_multiplier"):
        other = dataclasses.replace(layer, **{name: getattr(layer, name) + 1})
        digests.add(decoder_digest(dataclasses.replace(decoder, layers=(decoder.layers[0], other))))
    for name, one in layer.projections.items():
        weights = one.weights.copy()
        weights[-1, -1] ^= 1
        other = dataclasses.replace(layer, **{name: dataclasses.replace(one, weights=weights)})
        digests.add(decoder_digest(dataclasses.replace(decoder, layers=(decoder.layers[0], other))))
    assert len(digests) == 16


def _spoil(arrays):
    """(what is wrong, the arrays of a file in which it is)."""
    for name in arrays:
        yield f"without {name}", {key: value for key, value in arrays.items() if key != name}
        yield f"{name} as float64", {**arrays, name: arrays[name].astype(np.float64)}
        if arrays[name].size:
            yield f"{name} shorter", {**arrays, name: arrays[name][:-1]}
    for name in ("sizes", "constants", "shifts", "query.weights", "up.multipliers", "tokenizer.lengths"):
        yield f"{name} at its limit", {**arrays, name: np.full_like(arrays[name], np.iinfo(arrays[name].dtype).min)}
    yield "one array more", {**arrays, "more": np.zeros(3)}
    yield "scores that are none", {**arrays, "tokenizer.scores": np.full(24, np.nan, np.float32)}


def test_files_that_were_changed_are_refused_in_one_sentence(rng, tmp_path):
    save_decoder(tmp_path / "a.npz", random_decoder(rng), PIECES)
    tried = 0
    for what, arrays in _spoil(read_archive(tmp_path / "a.npz")):
        write_archive(tmp_path / "b.npz", arrays)
        with pytest.raises(GreenedgeError) as caught:
            load_decoder(tmp_path / "b.npz")
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400, what
        tried += 1
    assert tried > 60


def test_a_tokenizer_of_another_model_is_refused(rng, tmp_path):
    with pytest.raises(GreenedgeError, match="24 pieces, the decoder 30 tokens"):
        save_decoder(tmp_path / "a.npz", random_decoder(rng, vocabulary=30), PIECES)
    assert not list(tmp_path.iterdir())
