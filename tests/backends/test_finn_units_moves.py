"""The units that move elements about without changing them, against numpy, with random pauses on every stream."""

from __future__ import annotations

import numpy as np
import pytest

from greenedge.graph.execute import _padded, _windows
from tests.backends.unit_bench import STALLS, Bench, Case, Port

pytestmark = [pytest.mark.tool("verilator"), pytest.mark.tool("g++")]
# C, H, W, kernel, strides, dilations, pads (top, left, bottom, right), PE, bits, depthwise
WINDOWS = [
    (4, 6, 5, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 2, 4, 0),
    (2, 4, 6, (2, 2), (2, 2), (1, 1), (0, 0, 0, 0), 2, 8, 1),    # input and output equally fast
    (6, 7, 7, (3, 2), (2, 3), (2, 1), (2, 0, 1, 1), 3, 3, 1),
    (1, 1, 9, (1, 3), (1, 2), (1, 1), (0, 1, 0, 1), 1, 1, 0),    # one dimension
    (3, 5, 4, (1, 1), (2, 2), (1, 1), (0, 0, 0, 0), 3, 5, 0),    # subsampling: most pixels are dropped
    (2, 3, 3, (3, 3), (1, 1), (1, 1), (0, 0, 0, 0), 1, 4, 0),    # the kernel is the image
]


def window_case(rng, c, h, w, kernel, strides, dilations, pads, pe, bits, depthwise, samples=6):
    x = rng.integers(0, 1 << bits, (samples, c, h, w))
    fill = int(rng.integers(0, 1 << bits)) if any(pads) else 0
    patches = _windows(_padded(x, pads, fill), kernel, strides, dilations)           # (N, C, OH, OW, KH, KW)
    n, _, oh, ow, kh, kw = patches.shape
    grouped = patches.reshape(n, c // pe, pe, oh, ow, kh, kw)
    order = (0, 3, 4, 1, 5, 6, 2) if depthwise else (0, 3, 4, 5, 6, 1, 2)
    values = dict(C=c, H=h, W=w, KH=kh, KW=kw, SH=strides[0], SW=strides[1], DH=dilations[0], DW=dilations[1],
                  PT=pads[0], PL=pads[1], PB=pads[2], PR=pads[3], PE=pe, BITS=bits, PAD=fill, DEPTHWISE=depthwise)
    return Case("ge_window", values, [Port("s", bits, False, pe, x.transpose(0, 2, 3, 1).reshape(n, -1))],
                [Port("m", bits, False, pe, grouped.transpose(order).reshape(n, -1))],
                cycles=c // pe * max(h * w, oh * ow * kh * kw))


def random_window(rng):
    while True:
        kernel, strides, dilations = (tuple(int(v) for v in rng.integers(1, top + 1, 2)) for top in (4, 4, 3))
        span = [d * (k - 1) + 1 for k, d in zip(kernel, dilations)]
        pads = tuple(int(rng.integers(0, s)) for s in (*span, *span))
        h, w = (int(v) for v in rng.integers(1, 12, 2))
        if h + pads[0] + pads[2] >= span[0] and w + pads[1] + pads[3] >= span[1]:
            pe = int(rng.integers(1, 4))
            return (pe * int(rng.integers(1, 5)), h, w, kernel, strides, dilations, pads, pe, int(rng.integers(1, 9)), int(rng.integers(0, 2)))


def fork_case(rng, width):
    x = rng.integers(0, 256, (4, 10 * width // 8))
    return Case("ge_fork", dict(WIDTH=width), [Port("s", 8, False, width // 8, x)],
                [Port(name, 8, False, width // 8, x) for name in ("m0", "m1")], cycles=10)


def test_units_that_move_elements(rng, tmp_path):
    bench = Bench([*(window_case(rng, *sizes) for sizes in WINDOWS), fork_case(rng, 24)], tmp_path)
    for stall in STALLS:
        bench.run(stall, check_cycles=stall == STALLS[0])


@pytest.mark.slow
@pytest.mark.parametrize("part", range(2))
def test_windows_of_many_shapes(rng, tmp_path, part):
    sizes = np.random.default_rng(part)
    bench = Bench([window_case(rng, *random_window(sizes), samples=8) for _ in range(40)], tmp_path)
    for stall in STALLS:
        bench.run(stall, check_cycles=stall == STALLS[0])
