"""Llama-shaped models in GGUF: architecture `llama`, without biases, mixtures of experts or stretched rotations.

llama.cpp's converter permutes the rows of query and key from Hugging Face's pairs (i, i + head_dim / 2) to adjacent
ones (`permute` of convert_hf_to_gguf.py, for this architecture alone), so that they are taken as they lie here.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from greenedge.decoder.float_model import MAX_CONTEXT, FloatDecoder, FloatLayer, Floats, Sizes
from greenedge.decoder.tokenizer import MAX_PIECES, Tokenizer
from greenedge.errors import GreenedgeError
from greenedge.frontends.gguf_file import GgufFile, Value, open_gguf

_LAYER = {
    "attention_norm": "attn_norm",
    "query": "attn_q",
    "key": "attn_k",
    "value": "attn_v",
    "output": "attn_output",
    "mlp_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}
_CURE = "a llama without biases, experts or stretched rotation can be read"


def read_gguf(path: Path) -> tuple[FloatDecoder, Tokenizer | None]:
    """The model, and its tokenizer where that is SentencePiece's (`tokenizer.ggml.model = llama`).

    Raises GreenedgeError for a file that is missing, damaged, of another architecture, or of types that are not read.
    """
    file = open_gguf(path)
    if (found := file.metadata.get("general.architecture")) != "llama":
        raise GreenedgeError(f"{path} is a model of architecture {str(found)[:40]!r}; {_CURE}.")
    sizes = _read_sizes(file)
    sizes.check(path)
    wanted = _list_shapes(sizes)
    tied = "output.weight" not in file.tensors
    if tied:
        del wanted["output.weight"]
    _check_tensors(file, wanted)
    arrays = {name: file.read(file.tensors[name]) for name in wanted}
    model = FloatDecoder(
        sizes,
        arrays["token_embd.weight"],
        tuple(_gather_layer(arrays, number) for number in range(sizes.layers)),
        arrays["output_norm.weight"],
        arrays["token_embd.weight" if tied else "output.weight"],
        _read_real(file, "llama.rope.freq_base", 10000.0),
        _read_real(file, "llama.attention.layer_norm_rms_epsilon", 1e-5),
    )
    model.check(path)
    return model, _read_tokenizer(file, sizes)


def _read_sizes(file: GgufFile) -> Sizes:
    """Sizes of the metadata; what would change the arithmetic is refused."""
    heads = _read_whole(file, "llama.attention.head_count")
    dim = _read_whole(file, "llama.embedding_length")
    head_dim = dim // max(heads, 1)
    for key in ("llama.rope.dimension_count", "llama.attention.key_length", "llama.attention.value_length"):
        if (found := _read_whole(file, key, head_dim)) != head_dim:
            raise GreenedgeError(f"{file.path}: {key} is {found}, a head's width {head_dim}; {_CURE}.")
    if (experts := _read_whole(file, "llama.expert_count", 0)) > 0:
        raise GreenedgeError(f"{file.path} mixes {experts} experts; {_CURE}.")
    if str(scaling := file.metadata.get("llama.rope.scaling.type", "none"))[:40] != "none":
        raise GreenedgeError(f"{file.path} stretches its rotation ({str(scaling)[:40]}); {_CURE}.")
    table = file.tensors.get("token_embd.weight")
    if table is None or len(table.shape) != 2:
        raise GreenedgeError(f"{file.path} has no matrix token_embd.weight; {_CURE}.")
    return Sizes(
        dim=dim,
        hidden=_read_whole(file, "llama.feed_forward_length"),
        layers=_read_whole(file, "llama.block_count"),
        heads=heads,
        kv_heads=_read_whole(file, "llama.attention.head_count_kv", heads),
        vocabulary=table.shape[0],
        context=min(_read_whole(file, "llama.context_length"), MAX_CONTEXT),
    )


def _list_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (sizes.vocabulary, sizes.dim),
        "output_norm.weight": (sizes.dim,),
        "output.weight": (sizes.vocabulary, sizes.dim),
    }
    for number in range(sizes.layers):
        for field, shape in sizes.layer_shapes().items():
            shapes[f"blk.{number}.{_LAYER[field]}.weight"] = shape
    return shapes


def _check_tensors(file: GgufFile, wanted: dict[str, tuple[int, ...]]) -> None:
    if missing := sorted(set(wanted) - set(file.tensors)):
        raise GreenedgeError(f"{file.path} has no tensor {missing[0]!r}; {_CURE}.")
    if extra := sorted(set(file.tensors) - set(wanted)):
        raise GreenedgeError(f"{file.path} has a tensor {extra[0][:80]!r} that a plain llama has not; {_CURE}.")
    for name, shape in wanted.items():
        if file.tensors[name].shape != shape:
            raise GreenedgeError(f"{file.path}: {name} has shape {file.tensors[name].shape}, {shape} is wanted.")


def _gather_layer(arrays: dict[str, Floats], number: int) -> FloatLayer:
    return FloatLayer(**{field: arrays[f"blk.{number}.{name}.weight"] for field, name in _LAYER.items()})


def _read_whole(file: GgufFile, key: str, default: int | None = None) -> int:
    value = file.metadata.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise GreenedgeError(f"{file.path}: {key} is {_describe(value)}, a whole number is wanted; {_CURE}.")
    return value


def _read_real(file: GgufFile, key: str, default: float) -> float:
    value = file.metadata.get(key, default)
    if not isinstance(value, float) or not math.isfinite(value):
        raise GreenedgeError(f"{file.path}: {key} is {_describe(value)}, a finite number is wanted; {_CURE}.")
    return value


def _describe(value: Value | None) -> str:
    return "absent" if value is None else f"{str(value)[:40]!r}"


def _read_tokenizer(file: GgufFile, sizes: Sizes) -> Tokenizer | None:
    """The tokenizer of SentencePiece; None for one of another kind."""
    pieces, scores = file.metadata.get("tokenizer.ggml.tokens"), file.metadata.get("tokenizer.ggml.scores")
    if file.metadata.get("tokenizer.ggml.model") != "llama" or not isinstance(pieces, list):
        return None
    fits = len(pieces) == sizes.vocabulary <= MAX_PIECES and isinstance(scores, list) and len(scores) == len(pieces)
    if not fits or not all(isinstance(piece, str) for piece in pieces):
        raise GreenedgeError(
            f"{file.path}: its tokenizer has {len(pieces):,} pieces for {sizes.vocabulary:,} tokens, or no score for "
            "each; convert the model again."
        )
    assert isinstance(scores, list)
    if not all(isinstance(score, float) for score in scores):
        raise GreenedgeError(f"{file.path}: its tokenizer's scores are no numbers; convert the model again.")
    tokenizer = Tokenizer(
        tuple(str(piece).replace("\u2581", " ").encode() for piece in pieces),
        tuple(np.array(scores, np.float32).tolist()),
        _read_whole(file, "tokenizer.ggml.bos_token_id", 1),
        _read_whole(file, "tokenizer.ggml.eos_token_id", 2),
        _read_whole(file, "tokenizer.ggml.unknown_token_id", 0),
    )
    tokenizer.check(file.path)
    return tokenizer
