"""Checkpoints of llama2.c, of version 0 (seven int32 and weights) and 1 (a header of 256 bytes): float32 throughout.

The order of the weights is that of `legacy_export` and `version1_export` in llama2.c's export.py.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from greenedge.decoder.float_model import FloatDecoder, FloatLayer, Floats, Sizes
from greenedge.errors import GreenedgeError
from greenedge.files.atomic_write import atomic_write

MAGIC = 0x616B3432
_SIZES = struct.Struct("<7i")
_HEADER_BYTES = 256  # of version 1
_MATRICES = ("query", "key", "value", "output")
_MLP = ("gate", "down", "up")  # w1, w2, w3
Shapes = Mapping[str, tuple[int, ...]]


def is_llama2c(path: Path) -> bool:
    """Whether a file begins as a checkpoint whose size fits its header. Raises GreenedgeError where it is missing."""
    try:
        _read_layout(path)
    except GreenedgeError:
        if not path.is_file():
            raise
        with open(path, "rb") as file:
            return file.read(4) == MAGIC.to_bytes(4, "little")
    return True


def read_llama2c(path: Path) -> FloatDecoder:
    """The model. Raises GreenedgeError for a file that is missing, of another kind or size than its header says, or
    that holds numbers no model has."""
    sizes, start, shapes = _read_layout(path)
    content = np.fromfile(path, "<f4", offset=start).astype(np.float32, copy=False)
    arrays: dict[str, Floats] = {}
    place = 0
    for name, shape in shapes.items():
        count = math.prod(shape)
        arrays[name] = content[place : place + count].reshape(shape)
        place += count
    names = sizes.layer_shapes()
    layers = tuple(FloatLayer(**{name: arrays[name][number] for name in names}) for number in range(sizes.layers))
    head = arrays.get("head", arrays["embedding"])
    model = FloatDecoder(sizes, arrays["embedding"], layers, arrays["final_norm"], head)
    model.check(path)
    return model


def _read_layout(path: Path) -> tuple[Sizes, int, dict[str, tuple[int, ...]]]:
    """(sizes, byte where the weights begin, {array: shape} in the file's order); the file's size fits them."""
    if not path.is_file():
        raise GreenedgeError(f"there is no file {path}.")
    with open(path, "rb") as file:
        header = file.read(_HEADER_BYTES)
    if len(header) < _SIZES.size:
        raise GreenedgeError(f"{path} has {len(header)} bytes and is no checkpoint of llama2.c.")
    sizes, start, order, shared = (_read_v1 if header[:4] == MAGIC.to_bytes(4, "little") else _read_v0)(header, path)
    sizes.check(f"{path}, read as a checkpoint of llama2.c,")
    shapes = order(sizes, shared)
    wanted, found = start + 4 * sum(map(math.prod, shapes.values())), path.stat().st_size
    if wanted != found:
        raise GreenedgeError(
            f"{path} is no checkpoint of llama2.c, or not whole: its header asks for {wanted:,} bytes, it has "
            f"{found:,}; export it again with llama2.c's export.py --version 1."
        )
    return sizes, start, shapes


Order = Callable[[Sizes, bool], dict[str, tuple[int, ...]]]


def _read_v0(header: bytes, path: Path) -> tuple[Sizes, int, Order, bool]:
    """A negative vocabulary says that the head has weights of its own."""
    dim, hidden, layers, heads, kv_heads, vocabulary, context = _SIZES.unpack_from(header)
    return Sizes(dim, hidden, layers, heads, kv_heads, abs(vocabulary), context), _SIZES.size, _order_v0, vocabulary > 0


def _read_v1(header: bytes, path: Path) -> tuple[Sizes, int, Order, bool]:
    if len(header) < _HEADER_BYTES:
        raise GreenedgeError(f"{path} has {len(header)} bytes; the header of llama2.c alone has {_HEADER_BYTES}.")
    version = int.from_bytes(header[4:8], "little", signed=True)
    if version != 1:
        raise GreenedgeError(
            f"{path} is a checkpoint of llama2.c's version {version}; 0 and 1 hold floats and are read: export it "
            "again with export.py --version 1."
        )
    if header[36] > 1:
        raise GreenedgeError(f"{path} says {header[36]} where its head is shared or not; 0 or 1 is wanted.")
    return Sizes(*_SIZES.unpack_from(header, 8)), _HEADER_BYTES, _order_v1, header[36] == 1


def _order_v0(sizes: Sizes, shared: bool) -> dict[str, tuple[int, ...]]:
    stacks = _stack(sizes)
    unused = (sizes.context, sizes.head_dim // 2)  # cosines and sines, computed anew here
    shapes = {"embedding": (sizes.vocabulary, sizes.dim), "attention_norm": stacks["attention_norm"]}
    shapes |= {name: stacks[name] for name in (*_MATRICES, "mlp_norm", *_MLP)}
    shapes |= {"final_norm": (sizes.dim,), "cosine": unused, "sine": unused}
    return shapes if shared else {**shapes, "head": (sizes.vocabulary, sizes.dim)}


def _order_v1(sizes: Sizes, shared: bool) -> dict[str, tuple[int, ...]]:
    stacks = _stack(sizes)
    shapes: dict[str, tuple[int, ...]] = {name: stacks[name] for name in ("attention_norm", "mlp_norm")}
    shapes |= {"final_norm": (sizes.dim,), "embedding": (sizes.vocabulary, sizes.dim)}
    shapes |= {name: stacks[name] for name in (*_MATRICES, *_MLP)}
    return shapes if shared else {**shapes, "head": (sizes.vocabulary, sizes.dim)}


def _stack(sizes: Sizes) -> Shapes:
    return {name: (sizes.layers, *shape) for name, shape in sizes.layer_shapes().items()}


def write_llama2c(path: Path, model: FloatDecoder) -> None:
    """Writes a checkpoint of version 1. Raises GreenedgeError for a model that breaks a bound."""
    model.check()
    sizes, shared = model.sizes, model.head is model.embedding
    numbers = (sizes.dim, sizes.hidden, sizes.layers, sizes.heads, sizes.kv_heads, sizes.vocabulary, sizes.context)
    header = struct.pack("<Ii7iB", MAGIC, 1, *numbers, shared).ljust(_HEADER_BYTES, b"\0")
    with atomic_write(path) as aside, open(aside, "wb") as file:
        file.write(header)
        for name in _order_v1(sizes, shared):
            arrays = [getattr(layer, name) for layer in model.layers] if name in sizes.layer_shapes() else []
            for array in arrays or [getattr(model, name)]:
                file.write(array.astype("<f4").tobytes())
