"""A decoder, with its tokenizer where there is one, as a file: an .npz of plain arrays, one for all layers each.

The same decoder gives the same bytes. Reading executes nothing; what comes out has passed `Decoder.check`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greenedge.decoder.record import Decoder, Layer, NormForm, Projection
from greenedge.decoder.tokenizer import MAX_PIECES, Tokenizer, join_pieces
from greenedge.errors import GreenedgeError
from greenedge.files.arrays import is_archive, read_archive, write_archive
from greenedge.files.atomic_write import atomic_write

FORMAT = "greenedge decoder 1"
_NORM_FORMS: tuple[NormForm, ...] = ("root", "table")
_SIZES = ("heads", "kv_heads", "weight_bits", "norm_form", "residual_shift", "final_norm", "temperature_unit")
_CONSTANTS = ("attention_norm", "logit_shift", "context_numerator", "mlp_norm", "product_multiplier")
_PROJECTIONS = ("query", "key", "value", "output", "gate", "up", "down")
_MOST_LAYERS = 1 << 10
_TABLES: Mapping[str, tuple[type, int]] = {  # name: (element, axes)
    "embedding": (np.int8, 2),
    "head": (np.int8, 2),
    "cosine": (np.int16, 2),
    "sine": (np.int16, 2),
    "exponential": (np.uint8, 1),
    "activation": (np.int16, 2),
    "sizes": (np.int64, 1),
    "constants": (np.int64, 2),
    "shifts": (np.int64, 2),
    **{f"{name}.weights": (np.int8, 3) for name in _PROJECTIONS},
    **{f"{name}.multipliers": (np.int32, 2) for name in _PROJECTIONS},
}
_PIECES: Mapping[str, tuple[type, int]] = {
    "tokenizer.bytes": (np.uint8, 1),
    "tokenizer.lengths": (np.int32, 1),
    "tokenizer.scores": (np.float32, 1),
    "tokenizer.special": (np.int64, 1),
}


def save_decoder(path: Path, decoder: Decoder, tokenizer: Tokenizer | None = None) -> None:
    """Writes the file, whole or not at all. Raises GreenedgeError for a decoder or tokenizer that breaks a bound."""
    decoder.check()
    arrays = {"format": _to_bytes(FORMAT.encode()), **_to_arrays(decoder)}
    if tokenizer is not None:
        _check_pair(decoder, tokenizer, "the tokenizer")
        arrays |= _tokenizer_arrays(tokenizer)
    with atomic_write(path) as aside:
        write_archive(aside, arrays)


def load_decoder(path: Path) -> Decoder:
    """The decoder alone; see load_model()."""
    return load_model(path)[0]


def load_model(path: Path) -> tuple[Decoder, Tokenizer | None]:
    """What save_decoder wrote. Raises GreenedgeError for a file that is missing, another, or damaged."""
    if not is_archive(path):
        raise GreenedgeError(f"{path} is no decoder of greenedge; write one with `greenedge quantise MODEL.bin`.")
    arrays = read_archive(path)
    if arrays.pop("format", np.zeros(0)).tobytes() != FORMAT.encode():
        raise GreenedgeError(f"{path} is no decoder of greenedge; write one with `greenedge quantise MODEL.bin`.")
    kinds = {**_TABLES, **(_PIECES if set(arrays) & set(_PIECES) else {})}
    if odd := sorted(set(arrays) ^ set(kinds)):
        raise GreenedgeError(f"{path} is a damaged decoder: array {odd[0]!r} is missing or unknown; quantise again.")
    for name, (kind, axes) in kinds.items():
        if arrays[name].dtype != kind or arrays[name].ndim != axes:
            raise GreenedgeError(
                f"{path} is a damaged decoder: {name} is {arrays[name].dtype} with {arrays[name].ndim} axes, "
                f"{np.dtype(kind)} with {axes} is wanted; quantise again."
            )
    decoder = _from_arrays(arrays, path)
    decoder.check(path)
    if "tokenizer.bytes" not in arrays:
        return decoder, None
    tokenizer = _read_tokenizer(arrays, path)
    _check_pair(decoder, tokenizer, path)
    return decoder, tokenizer


def decoder_digest(decoder: Decoder) -> str:
    """Hex sha256 over every integer: name, type, shape, bytes."""
    digest = hashlib.sha256(FORMAT.encode())
    for name, array in _to_arrays(decoder).items():
        digest.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _to_bytes(content: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(content, np.uint8)


def _to_arrays(decoder: Decoder) -> dict[str, NDArray[Any]]:
    layers = decoder.layers
    sizes = [_NORM_FORMS.index(decoder.norm_form) if name == "norm_form" else getattr(decoder, name) for name in _SIZES]
    arrays: dict[str, NDArray[Any]] = {
        "sizes": np.array(sizes, np.int64),
        "constants": np.array([[getattr(layer, name) for name in _CONSTANTS] for layer in layers], np.int64),
        "shifts": np.array([[layer.projections[name].shift for name in _PROJECTIONS] for layer in layers], np.int64),
        "activation": np.stack([layer.activation for layer in layers]).astype(np.int16),
    }
    for name in ("embedding", "head", "cosine", "sine", "exponential"):
        arrays[name] = getattr(decoder, name).astype(_TABLES[name][0])
    for name in _PROJECTIONS:
        matrices = [layer.projections[name] for layer in layers]
        arrays[f"{name}.weights"] = np.stack([one.weights for one in matrices]).astype(np.int8)
        arrays[f"{name}.multipliers"] = np.stack([one.multipliers for one in matrices]).astype(np.int32)
    return arrays


def _from_arrays(arrays: Mapping[str, NDArray[Any]], path: Path) -> Decoder:
    """Shapes that the record's check cannot see, since they are gone there, are checked here."""
    count = len(arrays["constants"])
    stacks = [
        "shifts",
        "activation",
        *(f"{name}.{part}" for name in _PROJECTIONS for part in ("weights", "multipliers")),
    ]
    wrong = [name for name in stacks if len(arrays[name]) != count]
    if arrays["constants"].shape[1:] != (len(_CONSTANTS),) or arrays["shifts"].shape[1:] != (len(_PROJECTIONS),):
        wrong.append("constants")
    if arrays["sizes"].shape != (len(_SIZES),) or not 1 <= count <= _MOST_LAYERS:
        wrong.append("sizes")
    sizes = dict(zip(_SIZES, arrays["sizes"].tolist(), strict=False))
    if wrong or not 0 <= (form := sizes["norm_form"]) < len(_NORM_FORMS):
        raise GreenedgeError(
            f"{path} is a damaged decoder: {(wrong or ['norm_form'])[0]} does not fit {count} layers; quantise again."
        )
    sizes["norm_form"] = _NORM_FORMS[form]
    tables = {name: arrays[name] for name in ("embedding", "head", "cosine", "sine", "exponential")}
    fields: dict[str, Any] = {**sizes, **tables}
    return Decoder(**fields, layers=tuple(_read_layer(arrays, number) for number in range(count)))


def _read_layer(arrays: Mapping[str, NDArray[Any]], number: int) -> Layer:
    constants = dict(zip(_CONSTANTS, arrays["constants"][number].tolist(), strict=True))
    shifts = arrays["shifts"][number].tolist()
    matrices = {
        name: Projection(arrays[f"{name}.weights"][number], arrays[f"{name}.multipliers"][number], shift)
        for name, shift in zip(_PROJECTIONS, shifts, strict=True)
    }
    fields: dict[str, Any] = {**constants, **matrices}
    return Layer(**fields, activation=arrays["activation"][number])


def _tokenizer_arrays(tokenizer: Tokenizer) -> dict[str, NDArray[Any]]:
    content, lengths = join_pieces(tokenizer.pieces)
    return {
        "tokenizer.bytes": _to_bytes(content),
        "tokenizer.lengths": np.array(lengths, np.int32),
        "tokenizer.scores": np.array(tokenizer.scores, np.float32),
        "tokenizer.special": np.array([tokenizer.begin, tokenizer.end, tokenizer.unknown], np.int64),
    }


def _read_tokenizer(arrays: Mapping[str, NDArray[Any]], path: Path) -> Tokenizer:
    content, lengths = arrays["tokenizer.bytes"].tobytes(), arrays["tokenizer.lengths"].astype(np.int64)
    special = arrays["tokenizer.special"].tolist()
    if lengths.size > MAX_PIECES or (lengths < 0).any() or lengths.sum() != len(content) or len(special) != 3:
        raise GreenedgeError(f"{path} is a damaged decoder: its tokenizer's lengths do not fit; quantise again.")
    ends = np.cumsum(lengths).tolist()
    pieces = tuple(content[end - length : end] for end, length in zip(ends, lengths.tolist(), strict=True))
    return Tokenizer(pieces, tuple(arrays["tokenizer.scores"].tolist()), *special)


def _check_pair(decoder: Decoder, tokenizer: Tokenizer, shown: object) -> None:
    tokenizer.check(shown)
    if len(tokenizer.pieces) != decoder.vocabulary:
        raise GreenedgeError(
            f"{shown}: the tokenizer has {len(tokenizer.pieces):,} pieces, the decoder {decoder.vocabulary:,} tokens; "
            "give the tokenizer that the model was trained with."
        )
