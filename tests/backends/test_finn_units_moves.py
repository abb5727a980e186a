"""The units that move elements about without changing them, against numpy, with random pauses on every stream."""

from __future__ import annotations

import numpy as np
import pytest

from greenedge.backends.finn.dialect import ops as hw
from greenedge.backends.finn.dialect.layer import Fold, Wire
from greenedge.backends.finn.units import unit_of
from greenedge.graph.ops.arithmetic import pad_array, slide_windows
from tests.backends.unit_bench import Bench, Case, Port

pytestmark = [pytest.mark.tool("verilator"), pytest.mark.tool("g++")]
# C, H, W, kernel, strides, dilations, pads (top, left, bottom, right), PE, bits, depthwise
WINDOWS = [
    (4, 6, 5, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 2, 4, 0),
    (2, 4, 6, (2, 2), (2, 2), (1, 1), (0, 0, 0, 0), 2, 8, 1),  # input and output equally fast
    (6, 7, 7, (3, 2), (2, 3), (2, 1), (2, 0, 1, 1), 3, 3, 1),
    (1, 1, 9, (1, 3), (1, 2), (1, 1), (0, 1, 0, 1), 1, 1, 0),  # one dimension
    (3, 5, 4, (1, 1), (2, 2), (1, 1), (0, 0, 0, 0), 3, 5, 0),  # subsampling: most pixels are dropped
    (2, 3, 3, (3, 3), (1, 1), (1, 1), (0, 0, 0, 0), 1, 4, 0),  # the kernel is the image
]


def window_case(rng, c, h, w, kernel, strides, dilations, pads, pe, bits, depthwise, samples=6):
    x = rng.integers(0, 1 << bits, (samples, c, h, w))
    fill = int(rng.integers(0, 1 << bits)) if any(pads) else 0
    patches = slide_windows(pad_array(x, pads, fill), kernel, strides, dilations)  # (N, C, OH, OW, KH, KW)
    n, _, oh, ow, kh, kw = patches.shape
    grouped = patches.reshape(n, c // pe, pe, oh, ow, kh, kw)
    order = (0, 3, 4, 1, 5, 6, 2) if depthwise else (0, 3, 4, 5, 6, 1, 2)
    values = dict(
        C=c,
        H=h,
        W=w,
        KH=kh,
        KW=kw,
        SH=strides[0],
        SW=strides[1],
        DH=dilations[0],
        DW=dilations[1],
        PT=pads[0],
        PL=pads[1],
        PB=pads[2],
        PR=pads[3],
        PE=pe,
        BITS=bits,
        PAD=fill,
        DEPTHWISE=depthwise,
    )
    return Case(
        "ge_window",
        values,
        [_image("s", x, pe, bits)],
        [Port("m", bits, False, pe, grouped.transpose(order).reshape(n, -1))],
        cycles=c // pe * max(h * w, oh * ow * kh * kw),
    )


def random_window(rng):
    while True:
        kernel, strides, dilations = (tuple(int(v) for v in rng.integers(1, top + 1, 2)) for top in (4, 4, 3))
        span = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
        pads = tuple(int(rng.integers(0, s)) for s in (*span, *span))
        h, w = (int(v) for v in rng.integers(1, 12, 2))
        if h + pads[0] + pads[2] >= span[0] and w + pads[1] + pads[3] >= span[1]:
            pe = int(rng.integers(1, 4))
            c, bits, depthwise = pe * int(rng.integers(1, 5)), int(rng.integers(1, 9)), int(rng.integers(0, 2))
            return c, h, w, kernel, strides, dilations, pads, pe, bits, depthwise


def pad_case(rng, c, h, w, pads, pe, bits, samples=6):
    x = rng.integers(0, 1 << bits, (samples, c, h, w))
    fill = int(rng.integers(0, 1 << bits))
    y = pad_array(x, pads, fill)
    values = dict(C=c, H=h, W=w, PT=pads[0], PL=pads[1], PB=pads[2], PR=pads[3], PE=pe, BITS=bits, PAD=fill)
    return Case("ge_pad", values, [_image("s", x, pe, bits)], [_image("m", y, pe, bits)], cycles=y[0].size // pe)


def upsample_case(rng, c, h, w, factors, pe, bits, samples=6):
    x = rng.integers(0, 1 << bits, (samples, c, h, w))
    y = x.repeat(factors[0], 2).repeat(factors[1], 3)
    values = dict(C=c, H=h, W=w, FH=factors[0], FW=factors[1], PE=pe, BITS=bits)
    return Case("ge_upsample", values, [_image("s", x, pe, bits)], [_image("m", y, pe, bits)], cycles=y[0].size // pe)


def fork_case(rng, width, beats=10):
    x = rng.integers(0, 256, (6, beats * width // 8))
    return Case(
        "ge_fork",
        dict(WIDTH=width),
        [_bytes("s", x, width)],
        [_bytes("m0", x, width), _bytes("m1", x, width)],
        cycles=beats,
    )


def concat_case(rng, a, b, turns, width):
    xa, xb = (rng.integers(0, 256, (6, turns, n * width // 8)) for n in (a, b))
    y = np.concatenate([xa, xb], 2)
    return Case(
        "ge_concat",
        dict(A=a, B=b, WIDTH=width),
        [_bytes("a", xa.reshape(6, -1), width), _bytes("b", xb.reshape(6, -1), width)],
        [_bytes("m", y.reshape(6, -1), width)],
        cycles=turns * (a + b),
    )


def split_case(rng, a, b, turns, width):
    xa, xb = (rng.integers(0, 256, (6, turns, n * width // 8)) for n in (a, b))
    return Case(
        "ge_split",
        dict(A=a, B=b, WIDTH=width),
        [_bytes("s", np.concatenate([xa, xb], 2).reshape(6, -1), width)],
        [_bytes("a", xa.reshape(6, -1), width), _bytes("b", xb.reshape(6, -1), width)],
        cycles=turns * (a + b),
    )


def queue_case(rng, depth, width):
    x = rng.integers(0, 256, (6, 50 * width // 8))
    return Case("ge_queue", dict(DEPTH=depth, WIDTH=width), [_bytes("s", x, width)], [_bytes("m", x, width)], cycles=50)


def reorder_case(rng, size, places, turns, lanes, bits):
    """Beats of `lanes` elements; of every `size` those at `places` go."""
    index = (np.asarray(places) + np.arange(turns)[:, None] * size).ravel()
    x = rng.integers(0, 1 << bits, (6, turns * size, lanes))
    counts = (turns * size * lanes, index.size * lanes)
    source, result = (Wire("w", "", (n,), np.arange(n), lanes, 0, (1 << bits) - 1) for n in counts)
    layer = hw.Reorder("order", (source,), (result,), (index[:, None] * lanes + np.arange(lanes)).ravel())
    unit = unit_of(layer, Fold(lanes))
    (memory,) = unit.memories().values()
    return Case(
        "ge_reorder",
        unit.parameters,
        [Port("s", bits, False, lanes, x.reshape(6, -1))],
        [Port("m", bits, False, lanes, x[:, index].reshape(6, -1))],
        cycles=layer.cycles(Fold(lanes)),
        memories={"PLACES_FILE": memory},
    )


def _image(name, x, pe, bits):
    return Port(name, bits, False, pe, x.transpose(0, 2, 3, 1).reshape(len(x), -1))


def _bytes(name, x, width):
    return Port(name, 8, False, width // 8, x)


def test_units_that_move_elements(rng, tmp_path):
    bench = Bench(
        [
            *(window_case(rng, *sizes) for sizes in WINDOWS),
            pad_case(rng, 4, 3, 2, (1, 0, 2, 5), 2, 3),
            pad_case(rng, 1, 1, 4, (0, 1, 0, 1), 1, 8),
            pad_case(rng, 2, 2, 2, (0, 0, 0, 0), 1, 4),
            upsample_case(rng, 4, 2, 3, (2, 2), 2, 4),
            upsample_case(rng, 3, 1, 5, (1, 3), 3, 5),
            upsample_case(rng, 2, 3, 1, (3, 1), 1, 1),
            fork_case(rng, 24),
            concat_case(rng, 1, 1, 5, 8),
            concat_case(rng, 4, 3, 3, 16),
            split_case(rng, 1, 1, 5, 8),
            split_case(rng, 4, 3, 3, 16),
            queue_case(rng, 2, 8),
            queue_case(rng, 20, 40),
            queue_case(rng, 67, 8),
            reorder_case(rng, 4, [1], 5, 2, 4),  # one in four
            reorder_case(rng, 6, [5, 4, 3, 2, 1, 0], 3, 1, 7),  # backwards
            reorder_case(rng, 8, rng.permutation(8), 1, 3, 3),
            reorder_case(rng, 40, rng.permutation(40)[:25], 1, 1, 8),  # out of order, some left out
            reorder_case(rng, 5, [0, 0, 4, 2, 4, 4, 1], 4, 2, 1),  # some more than once
            reorder_case(rng, 1, [0], 30, 1, 4),
            reorder_case(rng, 3, [0, 1], 9, 4, 2),
            reorder_case(rng, 64, np.arange(64).reshape(8, 8).T.ravel(), 1, 1, 4),  # a square turned over
        ],
        tmp_path,
    )
    bench.check()


@pytest.mark.slow
@pytest.mark.parametrize("part", range(2))
def test_windows_of_many_shapes(rng, tmp_path, part):
    sizes = np.random.default_rng(part)
    Bench([window_case(rng, *random_window(sizes), samples=8) for _ in range(40)], tmp_path).check()


@pytest.mark.slow
def test_many_pads_upsamplings_queues(rng, tmp_path):
    sizes = np.random.default_rng(2)

    def some(lo, hi, count=None):
        return (
            int(sizes.integers(lo, hi + 1))
            if count is None
            else tuple(int(v) for v in sizes.integers(lo, hi + 1, count))
        )

    cases = []
    for _ in range(10):
        pe, depth = some(1, 3), some(1, 130)
        cases += [
            pad_case(rng, pe * some(1, 4), *some(1, 6, 2), some(0, 4, 4), pe, some(1, 8)),
            upsample_case(rng, pe * some(1, 4), *some(1, 6, 2), some(1, 4, 2), pe, some(1, 8)),
            concat_case(rng, some(1, 6), some(1, 6), some(1, 8), 8 * some(1, 4)),
            split_case(rng, some(1, 6), some(1, 6), some(1, 8), 8 * some(1, 4)),
            queue_case(rng, depth, 8 * some(1, 5)),
        ]
    Bench(cases, tmp_path).check()
