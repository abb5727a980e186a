"""`greenedge quantise` of a language model and `greenedge chat`, as they are typed."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from greenedge.cli import app
from greenedge.decoder.sampling import Sampling, generate
from greenedge.decoder.store import load_model, save_decoder
from greenedge.decoder.tokenizer import Tokenizer
from tests.decoder.float_models import gguf_file, gguf_parts, llama2c_file, random_model
from tests.decoder.models import random_decoder
from tests.decoder.test_tokenizer import write

PIECES = Tokenizer(
    (b"<unk>", b"\n<s>\n", b"\n</s>\n", b" ", *(bytes([97 + n]) for n in range(26)), *(b" %d" % n for n in range(10))),
    tuple(-float(n) for n in range(40)),
)


def call(*words) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(word) for word in words])
    return done.exit_code, done.output


@pytest.fixture
def files(rng, tmp_path):
    """(checkpoint, tokenizer, folder)."""
    (tmp_path / "model.bin").write_bytes(llama2c_file(random_model(rng), 1))
    (tmp_path / "tok.bin").write_bytes(write(PIECES))
    return tmp_path / "model.bin", tmp_path / "tok.bin", tmp_path


def test_a_checkpoint_writes_after_quantising(files):
    model, tok, folder = files
    code, told = call("quantise", model, "--data-free", "--tokenizer", tok, "--context", 16, "-o", folder / "q.npz")
    assert code == 0, told
    assert "bits per token as floats" in told and "± " in told and "(95 %, 48 texts)" in told
    decoder, pieces = load_model(folder / "q.npz")
    assert pieces == PIECES and decoder.context == 16 and decoder.weight_bits == 8
    code, told = call("chat", folder / "q.npz", "--prompt", "ab", "--seed", 3, "--temperature", 1, "--json")
    assert code == 0, told
    said = json.loads(told)
    tokens = []
    for token in generate(decoder, PIECES.encode("ab"), Sampling(256, 3)):
        if token in (1, 2):
            break
        tokens.append(token)
    assert said["text"] == b"".join(PIECES.spell(5, token) for token in tokens).decode()
    assert said["tokens"] == len(tokens) and said["prompt_tokens"] == len(PIECES.encode("ab"))
    code, told = call("chat", folder / "q.npz", "--prompt", "ab", "--seed", 3, "--tokens", 1)
    assert code == 0 and told.startswith("ab") and "1 tokens behind" in told and "a second here" in told


def test_training_of_four_bits_and_a_text(files):
    model, tok, folder = files
    (folder / "t.txt").write_text("abc 1 bca 2 cab 3 " * 250)
    words = ["--tokenizer", tok, "--text", folder / "t.txt", "--bits", 4, "--minutes", 0.01, "--json"]
    code, told = call("quantise", model, *words, "-o", folder / "q.npz")
    assert code == 0, told
    found = json.loads(told[told.index("{") :])
    assert found["steps"] >= 1 and found["weight_bits"] == 4 and found["bits"]["texts"] > 10
    assert not list(folder.glob("*.part"))


@pytest.mark.slow
def test_gguf_brings_its_tokenizer(rng, tmp_path):
    (tmp_path / "m.gguf").write_bytes(gguf_file(*gguf_parts(random_model(rng)), 8))
    code, told = call("quantise", tmp_path / "m.gguf", "--data-free", "-o", tmp_path / "q.npz")
    assert code == 0, told
    assert load_model(tmp_path / "q.npz")[1] is not None


def test_what_cannot_be_done_is_said(files):
    model, tok, folder = files
    out = ("-o", folder / "q.npz")
    (folder / "cut.bin").write_bytes(model.read_bytes()[:-8])
    (folder / "short.txt").write_text("abc")
    (folder / "other.bin").write_bytes(write(Tokenizer(PIECES.pieces[:9], PIECES.scores[:9])))
    (folder / "net.onnx").write_bytes(b"none")
    for words, wanted in (
        (("quantise", model, *out), "say --data-free, or --text T.txt"),
        (("quantise", model, "--data-free", "--text", tok, *out), "say --data-free, or --text T.txt"),
        (("quantise", model, "--data-free", "--calibrate", tok, *out), "no --calibrate"),
        (("quantise", folder / "cut.bin", "--data-free", *out), "its header asks for"),
        (("quantise", folder / "net.onnx", "--data-free", *out), "as ONNX it needs --calibrate"),
        (("quantise", folder / "net.onnx", *out), "as ONNX it needs --calibrate"),
        (("quantise", model, "--data-free", "--bits", 5, *out), "4 or 8 bits"),
        (("quantise", model, "--data-free", "--minutes", -1, *out), "--minutes -1: 0 to"),
        (("quantise", model, "--data-free", "--context", 99, *out), "trained for 24 positions"),
        (("quantise", model, "--data-free", "--context", 2, *out), "at least 8 positions"),
        (("quantise", model, "--data-free", "--tokenizer", folder / "other.bin", *out), "9 pieces"),
        (("quantise", model, "--text", folder / "short.txt", *out), "without a tokenizer"),
        (("quantise", model, "--tokenizer", tok, "--text", folder / "short.txt", *out), "give a longer text"),
        (("quantise", model, "--tokenizer", tok, "--text", folder / "no.txt", *out), "there is no file"),
        (("check", model, "--target", "cortex-m4"), "greenedge quantise"),
        (("chat", model), "is no decoder of greenedge"),
        (("chat", folder / "no.npz"), "there is no file"),
    ):
        code, told = call(*words)
        assert code == 1 and wanted in told.replace("\n", " "), (words, told)
        assert len([line for line in told.splitlines() if line.startswith("greenedge:")]) == 1
    assert not (folder / "q.npz").exists()


def test_words_that_chat_does_not_take(rng, tmp_path):
    folder = tmp_path
    decoder = random_decoder(rng, vocabulary=40)
    save_decoder(folder / "mute.npz", decoder)
    save_decoder(folder / "q.npz", decoder, PIECES)
    for words, wanted in (
        ((folder / "mute.npz",), "has no tokenizer"),
        ((folder / "q.npz", "--temperature", 9), "0 to 4 is possible"),
        ((folder / "q.npz", "--seed", -1), "seed -1"),
        ((folder / "q.npz", "--tokens", 0), "at least one is written"),
        ((folder / "q.npz", "--prompt", "a" * 50), "the prompt has"),
    ):
        code, told = call("chat", *words)
        assert code == 1 and wanted in told, told
