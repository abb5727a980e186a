"""Integers to and from the bytes of a hardware stream: element 0 in the low bits, every beat padded to whole bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Stream:
    """One valid/ready stream of the built design and the edge of the integer graph that it carries.

    `elements` per beat, `beats` per sample; `shape` is the edge's, without the batch. `offset` holds one integer per
    channel that the hardware leaves out and `unpack` adds (a matrix-vector unit's correction), or is empty. `layout` says which
    element travels when, as loops (size, stride in the row-major edge), outermost first; empty: channels last, row by row.
    """

    name: str
    edge: str
    bits: int
    signed: bool
    elements: int
    beats: int
    shape: tuple[int, ...]
    offset: tuple[int, ...] = ()
    layout: tuple[tuple[int, int], ...] = ()

    @property
    def width(self) -> int:
        """Bits of tdata."""
        return 8 * self.bytes

    @property
    def bytes(self) -> int:
        """Bytes of tdata."""
        return (self.elements * self.bits + 7) // 8

    @property
    def order(self) -> np.ndarray:
        """Row-major index in the edge of every element, as they travel."""
        if not self.layout:
            row_major = np.arange(int(np.prod(self.shape))).reshape(self.shape)
            return np.moveaxis(row_major, 0, -1).ravel() if len(self.shape) > 1 else row_major.ravel()
        index = np.zeros(1, np.int64)
        for size, stride in self.layout:
            index = (index[:, None] + np.arange(size) * stride).ravel()
        return index

    def plain(self) -> dict:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def from_plain(cls, data: dict) -> Stream:
        """From what `plain` gave."""
        return cls(
            **{
                **data,
                **{key: tuple(data[key]) for key in ("shape", "offset") if key in data},
                "layout": tuple(tuple(loop) for loop in data.get("layout", ())),
            }
        )


def pack(stream: Stream, x: np.ndarray) -> bytes:
    """The beats that carry `x`, of shape (samples, *shape), as the hardware takes them."""
    ordered = x.reshape(len(x), -1)[:, stream.order].reshape(len(x), stream.beats, stream.elements, 1).astype(np.int64)
    bits = ((ordered >> np.arange(stream.bits)) & 1).astype(np.uint8).reshape(len(x) * stream.beats, -1)
    padded = np.zeros((len(bits), stream.width), np.uint8)
    padded[:, : bits.shape[1]] = bits
    return np.packbits(padded, axis=1, bitorder="little").tobytes()


def unpack(stream: Stream, data: bytes, samples: int) -> np.ndarray:
    """The int64 values, of shape (samples, *shape), that those beats carry. ValueError for another number of bytes."""
    beats = np.frombuffer(data, np.uint8).reshape(samples * stream.beats, stream.bytes)
    bits = np.unpackbits(beats, axis=1, bitorder="little")[:, : stream.elements * stream.bits]
    bits = bits.reshape(-1, stream.bits).astype(np.int64)
    weights = 1 << np.arange(stream.bits, dtype=np.int64)
    if stream.signed:
        weights[-1] = -weights[-1]
    travelled = (bits @ weights).reshape(samples, -1)
    if stream.offset:
        travelled = travelled + np.resize(stream.offset, travelled.shape[1])
    values = np.empty_like(travelled)
    values[:, stream.order] = travelled
    return values.reshape(samples, *stream.shape)


def seen_as(stream: Stream, values: np.ndarray, view: Stream) -> np.ndarray:
    """The values of a stream's edge as another edge that it carries too."""
    seen = np.empty((len(values), values[0].size if len(values) else 0), np.int64)
    seen[:, view.order] = values.reshape(len(values), -1)[:, stream.order]
    return seen.reshape(len(values), *view.shape)


def layout_of(order: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """The loops (size, stride), outermost first, that count through `order`."""
    order, loops = np.asarray(order), []
    while len(order) > 1:
        stride = int(order[1] - order[0])
        breaks = np.flatnonzero(np.diff(order) != stride)
        size = int(breaks[0]) + 1 if breaks.size else len(order)
        loops.insert(0, (size, stride))
        order = order.reshape(-1, size)[:, 0]
    return tuple(loops) or ((1, 1),)
