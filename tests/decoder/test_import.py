"""Checkpoints of llama2.c and GGUF give the arrays that were written; whatever else is one sentence."""

from __future__ import annotations

import dataclasses
import struct

import numpy as np
import pytest

from greenedge.errors import GreenedgeError
from greenedge.frontends.gguf import read_gguf
from greenedge.frontends.gguf_file import open_gguf
from greenedge.frontends.llama2c import is_llama2c, read_llama2c
from tests.decoder.float_models import SMALL, gguf_file, gguf_parts, llama2c_file, pack, random_model


def arrays_of(model):
    yield from (model.embedding, model.final_norm, model.head)
    for layer in model.layers:
        yield from vars(layer).values()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("version", [0, 1])
def test_checkpoints_come_back(rng, tmp_path, version, shared):
    model = random_model(rng, shared=shared)
    path = tmp_path / "model.bin"
    path.write_bytes(llama2c_file(model, version))
    back = read_llama2c(path)
    assert back.sizes == model.sizes and is_llama2c(path)
    assert all((a == b).all() for a, b in zip(arrays_of(back), arrays_of(model), strict=True))


@pytest.mark.parametrize("kind", [0, 1, 2, 3, 8])
def test_gguf_comes_back_within_its_type(rng, tmp_path, kind):
    model = random_model(rng, shared=kind == 1)
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_file(*gguf_parts(model), kind))
    back, tokenizer = read_gguf(path)
    assert back.sizes == model.sizes and tokenizer is not None and tokenizer.pieces[5] == b" 2"
    bound = {0: 0.0, 1: 1e-3, 2: 0.09, 3: 0.07, 8: 0.005}[kind]
    for ours, theirs in zip(arrays_of(back), arrays_of(model), strict=True):
        assert np.abs(ours - theirs).max() <= bound * np.abs(theirs).max()


@pytest.mark.parametrize("kind", [2, 3, 8])
def test_blocks_are_those_of_the_gguf_package(rng, tmp_path, kind):
    """Also where a nibble lies: the package's own formulas on the same bytes."""
    quants = pytest.importorskip("gguf.quants")
    constants = pytest.importorskip("gguf.constants")
    model = random_model(rng)
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_file(*gguf_parts(model), kind))
    file = open_gguf(path)
    for name, array in gguf_parts(model)[1].items():
        if array.ndim == 2:
            content = np.frombuffer(pack(array, kind), np.uint8)
            theirs = quants.dequantize(content, constants.GGMLQuantizationType(kind)).reshape(array.shape)
            assert (file.read(file.tensors[name]) == theirs).all()


@pytest.mark.parametrize(
    ("kind", "content", "wanted"),
    [
        (2, np.float16(0.5).tobytes() + bytes([0x80] * 15 + [0xF1]), [-4.0] * 15 + [-3.5] + [0.0] * 15 + [3.5]),
        (3, np.float16([0.5, 1]).tobytes() + bytes([0x80] * 15 + [0xF1]), [1.0] * 15 + [1.5] + [5.0] * 15 + [8.5]),
        (8, np.float16(0.5).tobytes() + bytes([0xFF] * 31 + [4]), [-0.5] * 31 + [2.0]),
    ],
)
def test_a_block_by_hand(tmp_path, kind, content, wanted):
    path = tmp_path / "one.gguf"
    head = gguf_file({"general.architecture": "llama"}, {"t": np.zeros((1, 32), np.float32)}, kind)
    path.write_bytes(head[: -(-(len(head) - len(content)) // 32) * 32 - 32] + content.ljust(64, b"\0"))
    file = open_gguf(path)
    assert file.read(file.tensors["t"]).ravel().tolist() == wanted


def test_rows_that_llama_cpp_permutes_turn_as_the_trained_ones(rng):
    """Hugging Face turns pairs (i, i + head_dim / 2); what its converter permutes gives the same logits of attention
    by adjacent pairs."""
    import torch

    from greenedge.train.decoder.float_network import make_rotation, split_heads

    def permute(weights, heads):  # of llama.cpp's converter
        half = weights.shape[0] // heads // 2
        return weights.reshape(heads, 2, half, -1).swapaxes(1, 2).reshape(weights.shape)

    def turn_halves(x, rotation):
        cosine, sine = (torch.cat([t, t], -1)[: x.shape[-2]] for t in (rotation.turns.real, rotation.turns.imag))
        first, second = x.chunk(2, -1)
        return x * cosine + torch.cat([-second, first], -1) * sine

    rotation, width = make_rotation(SMALL, 10000.0), SMALL.head_dim
    query, key = rng.normal(0, 1, (32, 32)), rng.normal(0, 1, (16, 32))
    x = torch.from_numpy(rng.normal(0, 1, (1, 20, 32)))

    def attend(query, key, turn):
        q = turn(split_heads(x @ torch.from_numpy(query).T, width))
        k = turn(split_heads(x @ torch.from_numpy(key).T, width)).repeat_interleave(2, 1)
        return q @ k.transpose(-1, -2)

    theirs = attend(query, key, lambda u: turn_halves(u, rotation))
    ours = attend(permute(query, 4), permute(key, 2), rotation.turn)
    assert torch.allclose(ours, theirs, atol=1e-4)  # float32 tables against each other
    assert not torch.allclose(attend(query, key, rotation.turn), theirs, atol=1)


def checkpoints(model):
    """(what is wrong, bytes)."""
    for version in (0, 1):
        content = llama2c_file(model, version)
        start = 0 if version == 0 else 8
        for place in range(7):
            for number in (0, -1, 2**31 - 1, -(2**31), 3):
                if (version, place, number) == (1, 6, 3):
                    continue  # a context of 3 is one, where no tables lie in the file
                at = start + 4 * place
                yield (
                    f"v{version}, number {place} is {number}",
                    content[:at] + struct.pack("<i", number) + content[at + 4 :],
                )
        yield f"v{version}, cut", content[:-4]
        yield f"v{version}, longer", content + b"\0\0\0\0"
        yield f"v{version}, the header alone", content[:28]
        yield f"v{version}, half the header", content[:20]
        for number in (np.nan, np.inf, -np.inf, 1e30):
            middle = len(content) // 8 * 4
            yield f"v{version}, {number}", content[:middle] + struct.pack("<f", number) + content[middle + 4 :]
    yield "version 2", content[:4] + struct.pack("<i", 2) + content[8:]
    yield "a flag of 7", content[:36] + b"\7" + content[37:]
    yield "nothing", b""
    yield "a pickle", b"\x80\x04\x95" + b"cos\nsystem\n" * 50
    yield "an archive", b"PK\3\4" + bytes(5000)


def test_checkpoints_that_are_none(rng, tmp_path):
    model, tried = random_model(rng), 0
    for what, content in checkpoints(model):
        (tmp_path / "model.bin").write_bytes(content)
        with pytest.raises(GreenedgeError) as caught:
            read_llama2c(tmp_path / "model.bin")
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400, what
        tried += 1
    assert tried >= 80
    with pytest.raises(GreenedgeError, match="there is no file"):
        is_llama2c(tmp_path / "none.bin")


def ggufs(model):
    """(what is wrong, bytes)."""
    metadata, tensors = gguf_parts(model)
    content = gguf_file(metadata, tensors)
    for key, wrong in {
        "general.architecture": "qwen2",
        "llama.block_count": 3,
        "llama.embedding_length": 64,
        "llama.attention.head_count": 0,
        "llama.attention.head_count_kv": 3,
        "llama.rope.dimension_count": 4,
        "llama.feed_forward_length": 2**31,
        "llama.expert_count": 8,
        "llama.rope.scaling.type": "yarn",
        "llama.rope.freq_base": float("nan"),
        "llama.attention.layer_norm_rms_epsilon": "small",
        "llama.context_length": 0,
        "general.alignment": 0,
        "tokenizer.ggml.tokens": ["a"],
        "tokenizer.ggml.scores": ["a"] * 40,
        "tokenizer.ggml.bos_token_id": 99,
    }.items():
        yield f"{key} is {wrong}", gguf_file({**metadata, key: wrong}, tensors)
    for name in ("token_embd.weight", "blk.1.ffn_up.weight", "output_norm.weight"):
        yield f"without {name}", gguf_file(metadata, {k: v for k, v in tensors.items() if k != name})
        yield f"{name} smaller", gguf_file(metadata, {**tensors, name: tensors[name][:8]})
        yield f"{name} is none", gguf_file(metadata, {**tensors, name: np.full_like(tensors[name], np.nan)})
    yield "a bias", gguf_file(metadata, {**tensors, "blk.0.attn_q.bias": np.zeros(32, np.float32)})
    for size in (4, 8, 23, 24, 40, 300, len(content) // 2, len(content) - 64):
        yield f"cut at {size}", content[:size]
    for at in (4, 8, 16, 24, 60, 68):
        yield f"ones at {at}", content[:at] + b"\xff" * 8 + content[at + 8 :]
    yield "big-endian", b"GGUF" + content[4:8][::-1] + content[8:]
    yield "another magic", b"GGML" + content[4:]
    place = content.index(b"blk.0.attn_q.weight") + 19
    for number, what in ((0, "no axes"), (5, "five axes"), (2**32 - 1, "many axes")):
        yield what, content[:place] + struct.pack("<I", number) + content[place + 4 :]
    for kind in (12, 30, 99):
        yield f"type {kind}", content[: place + 20] + struct.pack("<I", kind) + content[place + 24 :]
    for number in (2**40, 2**63, 0):
        yield f"{number} rows", content[: place + 4] + struct.pack("<Q", number) + content[place + 12 :]
    yield "an offset beyond", content[: place + 24] + struct.pack("<Q", 2**62) + content[place + 32 :]


def test_ggufs_that_are_none(rng, tmp_path):
    tried = 0
    for what, content in ggufs(random_model(rng)):
        (tmp_path / "model.gguf").write_bytes(content)
        with pytest.raises(GreenedgeError) as caught:
            read_gguf(tmp_path / "model.gguf")
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400, what
        tried += 1
    assert tried >= 45


def test_random_changes_end_in_a_model_or_a_sentence(rng, tmp_path):
    files = {"a.bin": llama2c_file(random_model(rng), 1), "a.gguf": gguf_file(*gguf_parts(random_model(rng)), 2)}
    for name, content in files.items():
        for _ in range(150):
            spoiled = bytearray(content)
            for place in rng.integers(0, 3000, 3):
                spoiled[place] = rng.integers(256)
            (tmp_path / name).write_bytes(spoiled)
            try:
                (read_llama2c if name == "a.bin" else read_gguf)(tmp_path / name)
            except GreenedgeError as error:
                assert "\n" not in str(error)


def test_sizes_are_refused_before_memory_is_spent(rng, tmp_path):
    huge = dataclasses.replace(SMALL, dim=1 << 15, hidden=1 << 16, layers=64)
    with pytest.raises(GreenedgeError, match="parameters; at most"):
        huge.check("model.bin")
