"""Quantisers have the gradients of their definition; training resumes bit for bit; what is exported computes what was
trained."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from greenedge.decoder.execute import run_sequences
from greenedge.decoder.store import decoder_digest
from greenedge.errors import GreenedgeError
from tests.decoder.float_models import random_model

torch = pytest.importorskip("torch")

from greenedge.train.decoder.calibrate import calibrate, fit_scales  # noqa: E402
from greenedge.train.decoder.export import export_decoder  # noqa: E402
from greenedge.train.decoder.fit import FitSettings, choose_settings, fit  # noqa: E402
from greenedge.train.decoder.float_network import FloatNetwork, attend  # noqa: E402
from greenedge.train.decoder.network import QuantisedNetwork, _table_error, quantise  # noqa: E402
from greenedge.train.decoder.resume import pick_texts, read_steps  # noqa: E402
from greenedge.train.decoder.score import compare_bits, score_floats, score_integers  # noqa: E402


def test_gradients_of_a_quantiser(rng):
    x = torch.tensor(rng.normal(0, 3, (5, 40)), requires_grad=True)
    for shape in ((), (5, 1)):
        scale = torch.full(shape, math.log(0.5), dtype=torch.float64, requires_grad=True)
        x.grad = None
        quantise(x, scale, 7).backward(gradient := torch.tensor(rng.normal(0, 1, (5, 40))))
        ratio = (x / scale.exp()).detach()
        inside = ratio.abs() <= 7
        slope = torch.where(inside, ratio.round() - ratio, ratio.sign() * 7) * 0.5 * gradient
        assert torch.equal(x.grad, gradient * inside)
        wanted = slope.sum(-1, keepdim=True) if shape else slope.sum()
        assert torch.allclose(scale.grad, wanted)


def test_scales_have_the_least_error(rng):
    rows = torch.tensor(rng.normal(0, 1, (3, 500)))
    scales = fit_scales(rows, 7)

    def error(scale):
        return ((rows / scale).round().clamp(-7, 7) * scale - rows).pow(2).sum(-1)

    assert (error(scales) < error(rows.abs().amax(-1, keepdim=True) / 7)).all()
    assert (error(scales) <= error(scales * 1.1) + 1e-9).all() and (error(scales) <= error(scales * 0.9) + 1e-9).all()


def test_the_error_of_a_table_is_that_of_the_integers():
    from greenedge.decoder.execute import ROOT_TABLE

    squares = np.unique(np.geomspace(1, 2**38, 4000).astype(np.int64))
    found = _table_error(torch.tensor(squares, dtype=torch.float64))
    for value, error in zip(squares.tolist(), found.tolist(), strict=True):
        half = 0
        while value >> 2 * half >= 1024:
            half += 1
        root = float(ROOT_TABLE[max(value >> 2 * half, 256)]) / 2.0**half
        assert error == pytest.approx(root / (2**20 / math.sqrt(value)), rel=1e-4)  # entries have 15 bits and more


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("form", ["root", "table"])
def test_integers_compute_what_was_trained(rng, bits, form):
    """Not equal, for floats round otherwise at ties; near enough that any scale that is wrong is found."""
    network = QuantisedNetwork(random_model(rng), bits, form)
    texts = torch.tensor(rng.integers(0, 40, (6, 24)))
    calibrate(network, texts)
    decoder = export_decoder(network)
    with torch.no_grad():
        floats = network(texts).numpy()
    integers = run_sequences(decoder, texts.numpy()) * (decoder.temperature_unit / 2**20)
    assert np.corrcoef(floats.ravel(), integers.ravel())[0, 1] > 0.999
    assert np.polyfit(floats.ravel(), integers.ravel(), 1)[0] == pytest.approx(1, abs=0.01)
    assert decoder_digest(export_decoder(network)) == decoder_digest(decoder)


def _train(model, texts, settings, checkpoint=None, stop=None):
    network, teacher = QuantisedNetwork(model, 4, "table"), FloatNetwork(model)
    calibrate(network, texts[:4])

    def progress(done, total, text):
        if done == stop:
            raise KeyboardInterrupt

    fit(network, teacher, texts, settings, checkpoint, progress)
    return network


def test_training_helps_and_resumes_bit_for_bit(rng, tmp_path, monkeypatch):
    from greenedge.train.decoder import resume as module

    model = random_model(rng)
    teacher = FloatNetwork(model)
    texts, held = teacher.write(48, 24, 1), teacher.write(48, 24, 1000)
    settings = FitSettings(steps=16, batch=6, rate=2e-3)
    whole = _train(model, texts, settings)
    monkeypatch.setattr(module, "_SAVE_S", 0.0)
    path = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        _train(model, texts, settings, path, stop=9)
    assert read_steps(path) == 16
    resumed = _train(model, texts, settings, path)
    assert decoder_digest(export_decoder(resumed)) == decoder_digest(export_decoder(whole))
    before = score_floats(teacher.run, held)
    untrained = QuantisedNetwork(model, 4, "table")
    calibrate(untrained, texts[:4])
    worse, better = (compare_bits(before, score_integers(export_decoder(one), held)) for one in (untrained, resumed))
    assert better.increase < worse.increase
    with pytest.raises(GreenedgeError, match="other settings, texts or weights"):
        _train(model, texts, dataclasses.replace(settings, seed=1), path)


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"\x80\x04cos\nsystem\n(S'true'\ntR."])
def test_checkpoints_that_are_none(rng, tmp_path, content):
    (tmp_path / "state").write_bytes(content)
    with pytest.raises(GreenedgeError, match="is no training state"):
        read_steps(tmp_path / "state")


def test_steps_have_texts_of_their_own():
    picked = [pick_texts(1000, 4, seed, step).tolist() for seed in (0, 1) for step in range(5)]
    assert len({tuple(one) for one in picked}) == 10 and picked[3] == pick_texts(1000, 4, 0, 3).tolist()


def test_an_interval_holds_the_difference(rng):
    hits = 0
    for _ in range(200):
        before = rng.uniform(1, 3, 48)
        found = compare_bits(before, before + rng.normal(0.04, 0.05, 48))
        hits += abs(found.increase - 0.04 / before.mean()) < found.half_width
    assert 180 <= hits <= 198


def test_cached_steps_write_what_whole_texts_say(rng):
    teacher = FloatNetwork(random_model(rng))
    tokens = teacher.write(3, 20, 0)
    cache = teacher._make_cache(3, 20)
    steps = torch.cat([teacher._run(tokens[:, t : t + 1], cache, t) for t in range(20)], 1)
    assert torch.allclose(steps, teacher.run(tokens), atol=1e-4)  # float32, summed in another order
    assert (tokens[:, 0] == 1).all() and torch.equal(tokens, teacher.write(3, 20, 0))


@pytest.mark.parametrize("length", [1, 31, 32, 33, 70])
def test_attention_is_torchs(rng, length):
    query = torch.tensor(rng.normal(0, 1, (2, 6, length, 4)))
    key, value = (torch.tensor(rng.normal(0, 1, (2, 3, length, 4))) for _ in range(2))
    repeated = (one.repeat_interleave(2, 1) for one in (key, value))
    wanted = torch.nn.functional.scaled_dot_product_attention(query, *repeated, is_causal=True)
    assert torch.allclose(attend(query, key, value), wanted)  # float64, summed in another order


def test_a_rotated_residual_is_the_same_function(rng):
    from greenedge.train.decoder.rotate import CANDIDATES, choose_rotation, draw_rotation, rotate_residual

    model = random_model(rng)
    rotation = draw_rotation(model.sizes.dim, 3)
    assert np.allclose(rotation @ rotation.T, np.eye(model.sizes.dim))
    rotated = rotate_residual(model, rotation)
    rotated.check()
    tokens = torch.tensor(rng.integers(0, model.sizes.vocabulary, (3, 12)))
    was, now = (FloatNetwork(one).run(tokens) for one in (model, rotated))
    assert not np.allclose(model.embedding, rotated.embedding, atol=1e-2)
    assert torch.allclose(was, now, rtol=1e-3, atol=1e-4)  # float32, summed in another order
    tried: list[float] = []

    def judge(one):
        tried.append(float(np.abs(one.embedding).max()))
        return tried[-1]

    chosen = choose_rotation(model, judge)
    assert len(tried) == CANDIDATES + 1 and float(np.abs(chosen.embedding).max()) == min(tried)


def test_the_rate_of_many_steps_is_low():
    rates = [choose_settings(steps).rate for steps in (1, 600, 2400, 9600)]
    assert rates == sorted(rates, reverse=True) and rates[2] == 4 * rates[3]
    assert choose_settings(7, 5) == FitSettings(7, 5)


def test_errors_of_columns_are_made_good(rng):
    from greenedge.train.decoder.compensate import round_columns

    mixing = rng.normal(0, 1, (12, 12))
    x = torch.tensor(rng.normal(0, 1, (400, 12)) @ mixing)  # inputs that depend on each other
    weights = torch.tensor(rng.normal(0, 1, (30, 12)))
    scales = fit_scales(weights, 7)
    nearest = (weights / scales).round().clamp(-7, 7) * scales
    rounded = round_columns(weights, scales, x.T @ x, 7)
    levels = rounded / scales
    assert torch.allclose(levels, levels.round()) and levels.abs().max() <= 7.001

    def error(found):
        return float((x @ (found - weights).T).pow(2).sum())

    assert error(rounded) < 0.6 * error(nearest)
    assert torch.allclose(round_columns(weights, scales, torch.eye(12).double(), 7), nearest)


def test_students_quantiles():
    from greenedge.train.decoder.score import _student_95

    for freedom, wanted in ((9, 2.262), (30, 2.042), (47, 2.012)):  # tables of the t distribution
        assert _student_95(freedom) == pytest.approx(wanted, abs=0.004)
