"""Integers to and from the bytes of a hardware stream: element 0 in the low bits, every beat padded to whole bytes."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Stream:
    """One valid/ready stream of the built design and the edge of the integer graph that it carries.

    `elements` per beat, `beats` per sample; `shape` is the edge's, without the batch. `offset` holds one integer per
    channel that the hardware leaves out and `unpack` adds (a matrix-vector unit's correction), or is empty.
    """

    name: str
    edge: str
    bits: int
    signed: bool
    elements: int
    beats: int
    shape: tuple[int, ...]
    offset: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Bits of tdata."""
        return 8 * self.bytes

    @property
    def bytes(self) -> int:
        """Bytes of tdata."""
        return (self.elements * self.bits + 7) // 8

    def plain(self) -> dict:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def from_plain(cls, data: dict) -> Stream:
        """From what `plain` gave."""
        return cls(**{**data, "shape": tuple(data["shape"]), "offset": tuple(data["offset"])})


def pack(stream: Stream, x: np.ndarray) -> bytes:
    """The beats that carry `x`, of shape (samples, *shape), as the hardware takes them: channels last, row by row."""
    ordered = _channels_last(x).reshape(len(x), stream.beats, stream.elements, 1).astype(np.int64)
    bits = ((ordered >> np.arange(stream.bits)) & 1).astype(np.uint8).reshape(len(x) * stream.beats, -1)
    padded = np.zeros((len(bits), stream.width), np.uint8)
    padded[:, :bits.shape[1]] = bits
    return np.packbits(padded, axis=1, bitorder="little").tobytes()


def unpack(stream: Stream, data: bytes, samples: int) -> np.ndarray:
    """The int64 values, of shape (samples, *shape), that those beats carry. ValueError for another number of bytes."""
    beats = np.frombuffer(data, np.uint8).reshape(samples * stream.beats, stream.bytes)
    bits = np.unpackbits(beats, axis=1, bitorder="little")[:, :stream.elements * stream.bits]
    bits = bits.reshape(-1, stream.bits).astype(np.int64)
    weights = 1 << np.arange(stream.bits, dtype=np.int64)
    if stream.signed:
        weights[-1] = -weights[-1]
    values = (bits @ weights).reshape(samples, *_channels_last_shape(stream.shape))
    if stream.offset:
        values = values + np.array(stream.offset, np.int64)
    return np.moveaxis(values, -1, 1) if len(stream.shape) > 1 else values


def _channels_last(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, 1, -1) if x.ndim > 2 else x


def _channels_last_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[1:], shape[0])
