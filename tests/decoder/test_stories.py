"""A model of our own: pieces learnt, a decoder trained on stories from a grammar, written and read as others' are."""

from __future__ import annotations

import json

import numpy as np
import pytest

from greenedge.decoder.float_model import Sizes
from greenedge.decoder.learn_pieces import learn_pieces
from greenedge.decoder.store import load_model
from greenedge.decoder.tokenizer import read_tokenizer, write_tokenizer
from greenedge.errors import GreenedgeError
from greenedge.frontends.llama2c import read_llama2c, write_llama2c
from greenedge.train.recipe_module import execute_recipe
from tests.decoder.float_models import llama2c_file, random_model
from tests.decoder.test_verbs import call
from tests.decoder.unplaced import without_placement

SIZES = {"dim": 32, "hidden": 64, "layers": 2, "heads": 4, "kv_heads": 2, "vocabulary": 400, "context": 48}
SHORT = {"train.steps": 120, "train.stories": 400, "quantise.bits": 8, "quantise.steps": 0, "quantise.context": 24}
TINY = {"train.steps": 3, "train.stories": 100, "train.length": 16, "quantise.steps": 2}
TINY_SIZES = {"dim": 16, "hidden": 24, "layers": 1, "heads": 2, "kv_heads": 1, "vocabulary": 350, "context": 16}


def set_words(sizes, settings):
    """Sizes and settings as the command line has them."""
    chosen = {**{f"model.{name}": value for name, value in sizes.items()}, **settings}
    return [word for key, value in chosen.items() for word in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def grammar(repo):
    return execute_recipe(repo / "flows" / "stories-lm" / "recipe.py", "stories-lm")


def test_pieces_are_the_frequent_pairs():
    tokenizer = learn_pieces("aab aab aab ab", 259 + 3 + 3)
    assert tokenizer.pieces[259:] == (b" ", b"a", b"b", b" a", b" aa", b" aab")
    assert tokenizer.encode("aab")[1:] == [264] and tokenizer.decode(tokenizer.encode("aab ab c")) == "aab ab c"
    with pytest.raises(GreenedgeError, match="characters alone need 262"):
        learn_pieces("aab", 261)
    with pytest.raises(GreenedgeError, match="give a longer text"):
        learn_pieces("aab", 999)


def test_stories_are_those_of_their_numbers(grammar):
    stories = [grammar.write_story(number) for number in range(300)]
    assert stories == [grammar.write_story(number) for number in range(300)] and len(set(stories)) > 290
    tokenizer = learn_pieces(" ".join(stories), 400)
    assert all(tokenizer.decode(tokenizer.encode(story)) == story for story in stories)


@pytest.mark.parametrize("shared", [True, False])
def test_what_is_written_is_what_llama2c_writes(rng, tmp_path, shared):
    model = random_model(rng, shared=shared)
    write_llama2c(tmp_path / "a.bin", model)
    assert (tmp_path / "a.bin").read_bytes() == llama2c_file(model, 1)


def test_the_same_seed_trains_the_same_model(rng):
    torch = pytest.importorskip("torch")
    from greenedge.train.decoder.pretrain import train_decoder

    sizes = Sizes(dim=16, hidden=24, layers=1, heads=2, kv_heads=1, vocabulary=20, context=16)
    texts = torch.tensor(np.arange(200).reshape(10, 20) % 17 % 15 + 3)[:, :16]
    one, same, other = (train_decoder(sizes, texts, 3, seed, batch=4) for seed in (1, 1, 2))
    assert (one.layers[0].gate == same.layers[0].gate).all() and (one.embedding != other.embedding).any()


def test_a_float_training_that_was_cut_off_goes_on(rng, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    from greenedge.train.decoder import resume
    from greenedge.train.decoder.pretrain import train_decoder

    sizes = Sizes(dim=16, hidden=24, layers=1, heads=2, kv_heads=1, vocabulary=20, context=16)
    texts = torch.tensor(rng.integers(3, 20, (10, 16)))
    whole = train_decoder(sizes, texts, 6)
    monkeypatch.setattr(resume, "_SAVE_S", 0.0)

    def stop(done, total, text):
        if done == 4:
            raise KeyboardInterrupt

    path = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        train_decoder(sizes, texts, 6, checkpoint=path, progress=stop)
    assert resume.read_steps(path) == 6
    resumed = train_decoder(sizes, texts, 6, checkpoint=path)
    assert (resumed.embedding == whole.embedding).all() and (resumed.layers[0].down == whole.layers[0].down).all()
    with pytest.raises(GreenedgeError, match="other settings, texts or weights"):
        train_decoder(sizes, texts, 7, checkpoint=path)


def test_the_recipe_as_a_run(tmp_path):
    """Trained, quantised, and not repeated; other bits leave the training as it is."""
    words = ("stories-lm", "--until", "decoder", "-o", tmp_path / "run", *set_words(TINY_SIZES, TINY))
    code, told = call("run", *words)
    assert code == 0, told
    score = json.loads((tmp_path / "run" / "3-decoder" / "score.json").read_text())
    decoder, tokenizer = load_model(tmp_path / "run" / "3-decoder" / "decoder.npz")
    assert score["texts"] == 48 and score["before"] > 1 and decoder.weight_bits == 4 and tokenizer is not None
    assert sorted(path.name for path in (tmp_path / "run" / "1-train").iterdir()) == ["model.bin", "tokenizer.bin"]
    code, told = call("run", *words)
    assert code == 0 and told.count("unchanged") == 2
    code, told = call("run", *words, "--set", "quantise.bits=8", "--set", "quantise.steps=0")
    assert code == 0 and told.count("unchanged") == 1, told
    assert load_model(tmp_path / "run" / "3-decoder" / "decoder.npz")[0].weight_bits == 8


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--set", "quantise.bits=5"), "stories-lm/flow.toml: [quantise] has bits 5; set bits to 4 or 8."),
        (("--set", "train.epochs=5"), "--set: unknown key 'train.epochs'; [train] has: length, seed, steps, stories."),
        (("--set", "prune.share=0.5"), "unknown key 'prune'; a recipe has: build, kind, model, name, quantise, title"),
        (("--until", "lower"), "there is no stage 'lower' of stories-lm, a language model; stages are: train, decoder"),
        (("--target", "cortex-m4", "--backend", "tflite"), "tflite"),
        (("--docker", "--until", "train"), "which no tool in docker/ builds; leave --docker out."),
        ((), "no target: say --target NAME"),
    ],
)
def test_what_a_recipe_refuses(words, sentence):
    code, told = call("run", "stories-lm", *words)
    assert code and sentence in " ".join(told.split()), told


def test_a_training_of_other_settings_that_was_cut_off_is_begun_anew(tmp_path, monkeypatch):
    """The same settings go on from the checkpoint, others do not take it."""
    from greenedge.train.decoder import resume

    monkeypatch.setattr(resume, "_SAVE_S", 0.0)
    take, left = resume.pick_texts, [2]

    def stop(*words):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return take(*words)

    monkeypatch.setattr("greenedge.train.decoder.pretrain.pick_texts", stop)
    words = ("run", "stories-lm", "--until", "train", "-o", tmp_path / "run", *set_words(TINY_SIZES, TINY))
    assert call(*words)[0] and (tmp_path / "run" / "1-train.part" / "checkpoint.pt").is_file()
    left[0] = 1
    assert call(*words)[0] == 0  # the last of three steps
    left[0] = 2
    other = (*words, "--set", "train.seed=1")
    assert call(*other)[0]
    left[0] = 3
    assert call(*other, "--set", "train.seed=2")[0] == 0


def test_a_networks_recipe_has_no_decoder():
    code, told = call("run", "digits-mlp", "--until", "decoder")
    assert code == 1 and "there is no stage 'decoder'; stages are: train, export" in " ".join(told.split())


def test_a_sweep_refuses_it():
    code, told = call("sweep", "stories-lm", "--vary", "train.steps=1,2")
    assert code == 1 and "stories-lm trains a language model" in told


def test_a_recipe_that_writes_nothing(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "flow.toml").write_text('name = "mine"\ntitle = "M"\nkind = "language model"\n')
    shape = "@dataclass(frozen=True)\nclass {}Settings:\n    pass\n"
    content = "from dataclasses import dataclass\n" + shape.format("Model") + shape.format("Train")
    (tmp_path / "mine" / "recipe.py").write_text(content)
    code, told = call("run", tmp_path / "mine", "--until", "train", "-o", tmp_path / "run")
    assert code == 1 and "mine/recipe.py: 'train' is missing; it must be a function" in " ".join(told.split())
    (tmp_path / "mine" / "recipe.py").write_text(content + "def train(model, train, folder, progress):\n    pass\n")
    code, told = call("run", tmp_path / "mine", "--until", "train", "-o", tmp_path / "run")
    assert code == 1 and "mine: train() of recipe.py wrote no model.bin; it must write one." in " ".join(told.split())


@pytest.mark.slow
@pytest.mark.tool("g++")
@pytest.mark.tool("verilator")
def test_the_recipe_trains_a_model_that_knows_its_stories(tmp_path, grammar):
    import torch

    from greenedge.train.decoder.float_network import FloatNetwork
    from greenedge.train.decoder.score import score_floats

    run = tmp_path / "run"
    code, told = call("run", "stories-lm", "--target", "linux-x86", "-o", run, *set_words(SIZES, SHORT))
    assert code == 0, told
    summary = json.loads((run / "7-report" / "summary.json").read_text())
    assert summary["bits_per_token"]["texts"] == 48 and summary["verify"][0]["mismatches"] == 0
    assert "bits per token as integers" in (run / "7-report" / "report.html").read_text()
    model, tokenizer = read_llama2c(run / "1-train" / "model.bin"), read_tokenizer(run / "1-train" / "tokenizer.bin")
    write_tokenizer(tmp_path / "tok.bin", tokenizer)
    assert (tmp_path / "tok.bin").read_bytes() == (run / "1-train" / "tokenizer.bin").read_bytes()
    unseen = [tokenizer.encode(grammar.write_story(number))[:30] for number in range(9000, 9020)]
    bits = score_floats(FloatNetwork(model).run, torch.tensor([story for story in unseen if len(story) == 30])).mean()
    assert bits < 5 < np.log2(400) - 3
    _check_stories(run, tmp_path)


def _check_stories(run, folder):
    """One story by numpy, by the run's program, and through a board's pins."""
    model = run / "3-decoder" / "decoder.npz"
    wish = ("--prompt", "One day", "--seed", 3, "--temperature", 0.8, "--tokens", 12)
    code, story = call("chat", model, *wish)
    text = story.splitlines()[0]
    assert code == 0 and text.startswith("One day") and len(text) > 20
    board = folder / "board"
    with without_placement():
        code, told = call("build", model, "--target", "ulx3s-85f", "--set", "build.lanes=16", "-o", board)
        assert code == 0, told
        for place, line in ((run, ()), (board, ("--virtual",))):
            code, told = call("chat", place, *line, *wish)
            assert code == 0 and told.splitlines()[0] == text, (place, told)
