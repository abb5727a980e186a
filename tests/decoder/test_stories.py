"""A model of our own: pieces learnt, a decoder trained on stories from a grammar, written and read as others' are."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from greenedge.decoder.float_model import Sizes
from greenedge.decoder.learn_pieces import learn_pieces
from greenedge.decoder.tokenizer import read_tokenizer, write_tokenizer
from greenedge.errors import GreenedgeError
from greenedge.frontends.llama2c import read_llama2c, write_llama2c
from tests.decoder.float_models import llama2c_file, random_model
from tests.decoder.test_verbs import call
from tests.decoder.unplaced import without_placement

SHORT = "--steps 120 --stories 400 --dim 32 --hidden 64 --layers 2 --heads 4 --kv-heads 2 --vocabulary 400 --context 48"


@pytest.fixture(scope="module")
def grammar(repo):
    spec = importlib.util.spec_from_file_location("grammar", repo / "flows" / "stories-lm" / "grammar.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


@pytest.mark.slow
@pytest.mark.tool("verilator")
def test_the_recipe_trains_a_model_that_knows_its_stories(repo, tmp_path, grammar):
    import torch

    from greenedge.train.decoder.float_network import FloatNetwork
    from greenedge.train.decoder.score import score_floats

    script = str(repo / "flows" / "stories-lm" / "train.py")
    argv = [sys.executable, script, "model.bin", "tok.bin", *SHORT.split()]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(repo)})
    assert done.returncode == 0, done.stderr
    model, tokenizer = read_llama2c(tmp_path / "model.bin"), read_tokenizer(tmp_path / "tok.bin")
    write_tokenizer(tmp_path / "again.bin", tokenizer)
    assert (tmp_path / "again.bin").read_bytes() == (tmp_path / "tok.bin").read_bytes()
    unseen = [tokenizer.encode(grammar.write_story(number))[:30] for number in range(9000, 9020)]
    bits = score_floats(FloatNetwork(model).run, torch.tensor([story for story in unseen if len(story) == 30])).mean()
    assert bits < 5 < np.log2(400) - 3
    _check_chain(tmp_path)


def _check_chain(folder):
    """From the recipe's model to a program and to a board: one story by numpy, by the program, through the pins."""
    words = ("--tokenizer", folder / "tok.bin", "--data-free", "--context", 24, "-o", folder / "stories.npz")
    code, told = call("quantise", folder / "model.bin", *words)
    assert code == 0 and "bits per token" in told, told
    wish = ("--prompt", "One day", "--seed", 3, "--temperature", 0.8, "--tokens", 12)
    code, story = call("chat", folder / "stories.npz", *wish)
    text = story.splitlines()[0]
    assert code == 0 and text.startswith("One day") and len(text) > 20
    board = ("--target", "ulx3s-85f", "--set", "build.lanes=16")
    with without_placement():
        for name, how, line in (("program", ("--target", "linux-x86"), ()), ("board", board, ("--virtual",))):
            code, told = call("build", folder / "stories.npz", *how, "-o", folder / name)
            assert code == 0, told
            code, told = call("chat", folder / name, *line, *wish)
            assert code == 0 and told.splitlines()[0] == text, (name, told)
