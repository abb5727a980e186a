"""Packs integers into the bytes of a hardware stream and back: element 0 in the low bits, beats padded to whole
bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Stream:
    """One valid/ready stream of the built design and the edge of the integer graph that it carries.

    `elements` per beat, `beats` per sample; `shape` is the edge's, without the batch. `offset` has an integer for each
    channel that the hardware omits and `unpack` adds (a matrix-vector unit's correction), or is empty. `layout` is the
    order of the elements in time, as loops (size, stride in the row-major edge), outermost first; empty: channels last,
    row by row. Where no loops run through them, as behind a view that mixes axes, `places` has the index of each.
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
    places: tuple[int, ...] = ()

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
        """(n,) row-major index in the edge of every element, in the order of the stream."""
        if self.places:
            return np.array(self.places, np.int64)
        if not self.layout:
            row_major = np.arange(int(np.prod(self.shape))).reshape(self.shape)
            return np.moveaxis(row_major, 0, -1).ravel() if len(self.shape) > 1 else row_major.ravel()
        index = np.zeros(1, np.int64)
        for size, stride in self.layout:
            index = (index[:, None] + np.arange(size) * stride).ravel()
        return index

    def plain(self) -> dict:
        """The JSON form."""
        return {key: value for key, value in asdict(self).items() if key != "places" or value}

    @classmethod
    def from_plain(cls, data: dict) -> Stream:
        """The inverse of `plain`."""
        return cls(
            **{
                **data,
                **{key: tuple(data[key]) for key in ("shape", "offset", "places") if key in data},
                "layout": tuple(tuple(loop) for loop in data.get("layout", ())),
            }
        )


def pack(stream: Stream, x: np.ndarray) -> bytes:
    """The bytes of the beats that carry `x`, integers of shape (samples, *shape)."""
    ordered = x.reshape(len(x), -1)[:, stream.order].reshape(len(x), stream.beats, stream.elements, 1).astype(np.int64)
    bits = ((ordered >> np.arange(stream.bits)) & 1).astype(np.uint8).reshape(len(x) * stream.beats, -1)
    padded = np.zeros((len(bits), stream.width), np.uint8)
    padded[:, : bits.shape[1]] = bits
    return np.packbits(padded, axis=1, bitorder="little").tobytes()


def unpack(stream: Stream, data: bytes, samples: int) -> np.ndarray:
    """The int64 values, of shape (samples, *shape), of these beats. Raises ValueError for another number of bytes."""
    beats = np.frombuffer(data, np.uint8).reshape(samples * stream.beats, stream.bytes)
    bits = np.unpackbits(beats, axis=1, bitorder="little")[:, : stream.elements * stream.bits]
    bits = bits.reshape(-1, stream.bits).astype(np.int64)
    weights = 1 << np.arange(stream.bits, dtype=np.int64)
    if stream.signed:
        weights[-1] = -weights[-1]
    in_order = (bits @ weights).reshape(samples, -1)
    if stream.offset:
        in_order = in_order + np.resize(stream.offset, in_order.shape[1])
    values = np.empty_like(in_order)
    values[:, stream.order] = in_order
    return values.reshape(samples, *stream.shape)


def view_stream(stream: Stream, values: np.ndarray, view: Stream) -> np.ndarray:
    """The values (samples, *shape) of a stream's edge as those of another edge `view` that it carries too."""
    seen = np.empty((len(values), values[0].size if len(values) else 0), np.int64)
    seen[:, view.order] = values.reshape(len(values), -1)[:, stream.order]
    return seen.reshape(len(values), *view.shape)


def layout_of(order: Sequence[int]) -> tuple[tuple[int, int], ...] | None:
    """The loops (size, stride), outermost first, that enumerate `order`; None where there are none."""
    rest = np.asarray(order)
    loops: list[tuple[int, int]] = []
    while len(rest) > 1:
        stride = int(rest[1] - rest[0])
        breaks = np.flatnonzero(np.diff(rest) != stride)
        size = int(breaks[0]) + 1 if breaks.size else len(rest)
        if len(rest) % size:
            return None
        rows = rest.reshape(-1, size)
        if (np.diff(rows, axis=1) != stride).any():
            return None
        loops.insert(0, (size, stride))
        rest = rows[:, 0]
    return tuple(loops) or ((1, 1),)
