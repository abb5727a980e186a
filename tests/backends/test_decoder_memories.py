"""A decoder's memories in the block RAMs of a netlist: each bit is found, in any shape, and a changed one named."""

from __future__ import annotations

import numpy as np
import pytest

from greenedge.backends.decoder.memory_read import read_bits, read_memories

_WIDTHS = {"exponential": 8, "weights": 1}


def _ram(words: np.ndarray) -> dict:
    """A DP16KD that holds (1024, 18) bits."""
    stored = np.zeros((1024, 20), np.uint8)
    stored[:, :18] = words
    text = "".join(map(str, stored.ravel()))
    parameters = {f"INITVAL_{k:02X}": text[320 * k : 320 * (k + 1)][::-1] for k in range(64)}
    return {"type": "DP16KD", "parameters": parameters}


def _netlist(*rams: np.ndarray) -> dict:
    cells = {f"ram{k}": _ram(words) for k, words in enumerate(rams)}
    dark = {"attributes": {"blackbox": "1"}, "cells": {"x": _ram(np.ones((1024, 18), np.uint8))}}
    return {"modules": {"top": {"cells": {**cells, "y": {"type": "LUT4"}}}, "DP16KD": dark}}


def _file(bits: np.ndarray) -> bytes:
    digits = -(-bits.shape[1] // 4)
    return b"".join(b"%0*x\n" % (digits, sum(int(bit) << k for k, bit in enumerate(row))) for row in bits)


@pytest.mark.parametrize(("depth", "width"), [(512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2), (16384, 1)])
def test_a_memory_is_found_in_every_shape(rng, depth, width):
    words = depth - 5  # the last words of the RAM belong to nobody
    bits = rng.integers(0, 2, (words, width)).astype(np.uint8)
    whole = np.zeros((depth, width), np.uint8)
    whole[:words] = bits
    if width > 9:
        ram = whole.reshape(1024, 18)
    else:
        nine = np.zeros((2048, 9), np.uint8)
        nine[:, : width if width == 9 else 8] = whole.reshape(2048, -1)
        ram = nine.reshape(1024, 18)
    other = rng.integers(0, 2, (1024, 18)).astype(np.uint8)
    found = read_memories(_netlist(other, ram), {"weights.0": _file(bits)}, {"weights": width})
    assert (found.differs, found.items) == (None, bits.size)
    place = np.flatnonzero(ram.ravel() == 1)[3]  # a bit of the memory, whatever the shape
    ram.ravel()[place] ^= 1
    found = read_memories(_netlist(other, ram), {"weights.0": _file(bits)}, {"weights": width})
    assert found.differs is not None and "of the words of memory weights.0 in no block RAM" in found.differs
    assert found.items == bits.size - words


def test_what_lies_in_logic_is_unread(rng):
    bits = rng.integers(0, 2, (256, 8)).astype(np.uint8)
    found = read_memories(_netlist(), {"exponential": _file(bits), "weights.0": b"0\n0\n"}, _WIDTHS)
    assert (found.differs, found.items, found.unread) == (None, 0, 256 * 8 + 2)
    assert "weights.0" in str(read_memories(_netlist(), {"weights.0": b"0\n1\n"}, _WIDTHS).differs)
    assert read_bits(b"81\n7f\n", 8).tolist() == [[1, 0, 0, 0, 0, 0, 0, 1], [1, 1, 1, 1, 1, 1, 1, 0]]
