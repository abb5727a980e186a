"""Memory files: one hexadecimal word per line, as $readmemh reads them; field 0 of a word in its low bits."""

from __future__ import annotations

import numpy as np

from greenedge.backends.finn.network import MatVec, Step


def words(fields: np.ndarray, bits: int) -> bytes:
    """Each row of `fields` (words, n) as one word of n*bits bits, two's complement."""
    rows = np.asarray(fields).reshape(len(fields), -1)
    planes = ((rows[..., None].astype(np.int64) >> np.arange(bits)) & 1).astype(np.uint8).reshape(len(rows), -1)
    digits = (planes.shape[1] + 3) // 4
    padded = np.zeros((len(rows), (digits + 1) // 2 * 8), np.uint8)
    padded[:, :planes.shape[1]] = planes
    data = np.packbits(padded, axis=1, bitorder="little")[:, ::-1]
    return "".join(row.tobytes().hex()[-digits:] + "\n" for row in data).encode()


def weight_words(layer: MatVec, pe: int, simd: int) -> bytes:
    """The weights in the order in which ge_mvu reads them: word nf*SF + sf, field pe*SIMD + simd."""
    k, m = layer.weight.shape
    values = layer.weight if layer.weight_bits > 1 else (layer.weight < 0).astype(np.int64)
    ordered = values.T.reshape(m // pe, pe, k // simd, simd).transpose(0, 2, 1, 3)
    return words(ordered.reshape(-1, pe * simd), layer.weight_bits)


def correction_words(layer: MatVec, pe: int) -> bytes:
    """What ge_mvu adds to each accumulator where no later unit does: word nf, field pe."""
    return words(layer.correction.reshape(-1, pe), layer.bits)


def parameter_words(layer: Step, pe: int, scale_bits: int, offset_bits: int) -> bytes:
    """m and b of each channel for ge_requantise: word f, field channel % pe, b in the low bits of a field."""
    m, b, _ = layer.affine
    planes = np.concatenate([_bit_planes(b, offset_bits), _bit_planes(m, scale_bits)], axis=1)
    return words(planes.reshape(len(m) // pe, -1), 1)


def _bit_planes(values: np.ndarray, bits: int) -> np.ndarray:
    return (values[:, None] >> np.arange(bits)) & 1
