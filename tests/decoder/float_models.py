"""Random float decoders, and their files as others write them."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from greenedge.decoder.float_model import FloatDecoder, FloatLayer, Sizes

SMALL = Sizes(dim=32, hidden=64, layers=2, heads=4, kv_heads=2, vocabulary=40, context=24)


def random_model(rng: np.random.Generator, sizes: Sizes = SMALL, shared: bool = False) -> FloatDecoder:
    """A model whose logits spread over a few nats."""

    def draw(*shape: int) -> np.ndarray:
        return (rng.normal(0, 1, shape) / np.sqrt(shape[-1])).astype(np.float32)

    def gain() -> np.ndarray:
        return rng.uniform(0.5, 1.5, sizes.dim).astype(np.float32)

    def layer() -> FloatLayer:
        shapes = sizes.layer_shapes()
        return FloatLayer(**{n: gain() if n.endswith("norm") else draw(*shape) for n, shape in shapes.items()})

    embedding = rng.normal(0, 1, (sizes.vocabulary, sizes.dim)).astype(np.float32)
    head = embedding if shared else 2 * draw(sizes.vocabulary, sizes.dim)
    return FloatDecoder(sizes, embedding, tuple(layer() for _ in range(sizes.layers)), gain(), head)


def llama2c_file(model: FloatDecoder, version: int) -> bytes:
    """As `legacy_export` (0) and `version1_export` (1) of llama2.c write it."""
    sizes, shared = model.sizes, model.head is model.embedding
    numbers = [sizes.dim, sizes.hidden, sizes.layers, sizes.heads, sizes.kv_heads, sizes.vocabulary, sizes.context]
    tail = [] if shared else [model.head]

    def stack(*names: str) -> list[np.ndarray]:
        return [getattr(layer, name) for name in names for layer in model.layers]

    matrices = stack("query", "key", "value", "output"), stack("gate", "down", "up")
    if version == 0:
        numbers[5] *= 1 if shared else -1
        header = struct.pack("<7i", *numbers)
        tables = [np.zeros(sizes.context * sizes.head_dim, np.float32)]
        arrays = [model.embedding, *stack("attention_norm"), *matrices[0], *stack("mlp_norm"), *matrices[1]]
        arrays += [model.final_norm, *tables, *tail]
    else:
        header = struct.pack("<Ii7iB", 0x616B3432, version, *numbers, shared).ljust(256, b"\0")
        arrays = [*stack("attention_norm", "mlp_norm"), model.final_norm, model.embedding, *matrices[0], *matrices[1]]
        arrays += tail
    return header + b"".join(array.astype("<f4").tobytes() for array in arrays)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def value(of: Any) -> bytes:
    """Type and value of a metadata entry."""
    if isinstance(of, str):
        return struct.pack("<I", 8) + text(of)
    if isinstance(of, float):
        return struct.pack("<If", 6, of)
    if isinstance(of, int):
        return struct.pack("<II", 4, of)
    inner = value(of[0])[:4]
    return struct.pack("<I", 9) + inner + struct.pack("<Q", len(of)) + b"".join(value(one)[4:] for one in of)


def pack(array: np.ndarray, kind: int) -> bytes:
    """An array in a type of ggml: F32 0, F16 1, Q4_0 2, Q4_1 3, Q8_0 8."""
    if kind < 2:
        return array.astype(["<f4", "<f2"][kind]).tobytes()
    out = b""
    for block in array.reshape(-1, 32):
        low = block.min() if kind == 3 else 0.0
        span = (block.max() - low) / 15 if kind == 3 else np.abs(block).max() / (127 if kind == 8 else 7)
        scale = np.float16(max(span, 1e-4))
        if kind == 8:
            out += scale.tobytes() + np.rint(block / scale).clip(-127, 127).astype(np.int8).tobytes()
            continue
        levels = np.rint((block - low) / scale + (8 if kind == 2 else 0)).clip(0, 15).astype(np.uint8)
        out += scale.tobytes() + (np.float16(low).tobytes() if kind == 3 else b"")
        out += (levels[:16] | levels[16:] << 4).tobytes()
    return out


NAMES = {
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


def gguf_parts(model: FloatDecoder) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(metadata, tensors by name)."""
    sizes = model.sizes
    metadata: dict[str, Any] = {
        "general.architecture": "llama",
        "general.name": "a test",
        "llama.context_length": sizes.context,
        "llama.embedding_length": sizes.dim,
        "llama.block_count": sizes.layers,
        "llama.feed_forward_length": sizes.hidden,
        "llama.rope.dimension_count": sizes.head_dim,
        "llama.attention.head_count": sizes.heads,
        "llama.attention.head_count_kv": sizes.kv_heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", *(f"\u2581{n}" for n in range(sizes.vocabulary - 3))],
        "tokenizer.ggml.scores": [-float(number) for number in range(sizes.vocabulary)],
    }
    tensors = {"token_embd.weight": model.embedding, "output_norm.weight": model.final_norm}
    if model.head is not model.embedding:
        tensors["output.weight"] = model.head
    for number, layer in enumerate(model.layers):
        tensors |= {f"blk.{number}.{short}.weight": getattr(layer, name) for name, short in NAMES.items()}
    return metadata, tensors


def gguf_file(metadata: dict[str, Any], tensors: dict[str, np.ndarray], kind: int = 0) -> bytes:
    """A file of version 3; norms stay F32 as llama.cpp leaves them."""
    content = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, entry in metadata.items():
        content += text(key) + value(entry)
    data = b""
    for name, array in tensors.items():
        this = kind if array.ndim == 2 else 0
        content += text(name) + struct.pack(f"<I{array.ndim}QIQ", array.ndim, *array.shape[::-1], this, len(data))
        data += pack(array, this)
        data += b"\0" * (-len(data) % 32)
    return content + b"\0" * (-len(content) % 32) + data
