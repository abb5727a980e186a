"""A stream's order in time: loops where they run through it, else the index of every element."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from greenedge.hdl.axi_stream import Stream, layout_of, pack, unpack

PLAIN = Stream("s", "x", 5, False, 2, 12, (3, 4, 2))


@pytest.mark.parametrize("perm", [(0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1)])
def test_loops_run_through_axes_in_any_order(perm):
    order = np.arange(24).reshape(3, 4, 2).transpose(perm).ravel()
    layout = layout_of(order.tolist())
    assert layout is not None
    assert np.array_equal(replace(PLAIN, layout=layout).order, order)


@pytest.mark.parametrize(
    "order",
    [
        [0, 1, 3, 2],  # of one length, with unlike steps
        [0, 1, 2, 3, 5],  # of a length that the first loop does not divide
        [0, 1, 2, 4, 5, 7],
        np.moveaxis(np.arange(48).reshape(3, 4, 4), 0, -1).ravel().tolist()[:24],
    ],
    ids=str,
)
def test_what_no_loops_enumerate(order):
    layout = layout_of(order)
    assert layout is None or replace(PLAIN, layout=layout).order.tolist() == order


def test_any_order_is_kept_in_json_and_on_the_wire(rng):
    order = rng.permutation(24)
    assert layout_of(order.tolist()) is None
    stream = replace(PLAIN, places=tuple(order.tolist()))
    assert "places" not in PLAIN.plain()
    again = Stream.from_plain(json.loads(json.dumps(stream.plain())))
    assert again == stream and np.array_equal(again.order, order)
    x = rng.integers(0, 32, (4, 3, 4, 2))
    assert np.array_equal(unpack(again, pack(stream, x), 4), x)
