"""The units that compute, against numpy, with random pauses on every stream; and a flipped weight, which must be seen."""

from __future__ import annotations

import numpy as np
import pytest

from tests.backends.unit_bench import STALLS, Bench, Case, Port

pytestmark = [pytest.mark.tool("verilator"), pytest.mark.tool("g++")]
# C, taps, PE, weight bits, activation bits, signed activations, corrected by the unit
DEPTHWISE = [(8, 9, 2, 4, 4, 0, 1), (3, 1, 3, 1, 2, 1, 0), (4, 2, 1, 3, 8, 1, 1), (6, 4, 3, 8, 1, 0, 0)]
# C, taps, PE, bits, signed, largest
POOLS = [(4, 4, 2, 4, 0, 1), (3, 9, 1, 8, 1, 1), (6, 3, 3, 5, 1, 0), (2, 1, 2, 1, 0, 0)]


def integers(rng, bits, signed, shape):
    """Any value of that type, both ends in the first sample and the last."""
    lo, hi = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    x = rng.integers(lo, hi + 1, shape)
    x[0], x[-1] = lo, hi
    return x


def sum_bits(count, bits, signed):
    """Bits that hold the sum of `count` values."""
    return int(count * (1 << (bits - (1 if signed else 0)))).bit_length() + (1 if signed else 0)


def depthwise_case(rng, c, taps, pe, wb, ab, signed, correct, samples=20):
    weight = rng.choice([-1, 1], (c, taps)) if wb == 1 else integers(rng, wb, True, (c, taps))
    x = integers(rng, ab, signed, (samples, c // pe, taps, pe))
    y = np.einsum("ngtp,gpt->ngp", x, weight.reshape(c // pe, pe, taps)).reshape(samples, c)
    left_out = (weight < 0).sum(1) << max(wb - 2, 0)
    bits = int((np.abs(weight).sum(1) * (1 << ab) + left_out).max()).bit_length() + 1
    words = weight.reshape(c // pe, pe, taps).transpose(0, 2, 1).reshape(-1, pe)
    values = dict(C=c, TAPS=taps, PE=pe, WB=wb, AB=ab, ASGN=signed, OB=bits, CORRECT=correct)
    return Case("ge_depthwise", values, [Port("s", ab, bool(signed), pe, x.reshape(samples, -1))],
                [Port("m", bits, True, pe, y if correct else y - left_out)], cycles=c // pe * taps,
                memories={"WEIGHTS_FILE": ((words < 0).astype(int) if wb == 1 else words, wb),
                          "CORRECTION_FILE": (left_out.reshape(-1, pe), bits)})


def pool_case(rng, c, taps, pe, bits, signed, largest, samples=20):
    x = integers(rng, bits, signed, (samples, c // pe, taps, pe))
    ob = bits if largest else sum_bits(taps, bits, signed)
    values = dict(C=c, TAPS=taps, PE=pe, BITS=bits, SGN=signed, OB=ob, MAX=largest)
    y = (x.max(2) if largest else x.sum(2)).reshape(samples, c)
    return Case("ge_pool", values, [Port("s", bits, bool(signed), pe, x.reshape(samples, -1))], [Port("m", ob, bool(signed), pe, y)],
                cycles=c // pe * taps)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    rng = np.random.default_rng(1)
    return Bench([*(depthwise_case(rng, *sizes) for sizes in DEPTHWISE), *(pool_case(rng, *sizes) for sizes in POOLS)],
                 tmp_path_factory.mktemp("units"))


@pytest.mark.parametrize("stall", STALLS, ids=str)
def test_units_that_compute(bench, stall):
    bench.run(stall, check_cycles=stall == STALLS[0])


def test_one_flipped_weight_bit_is_seen(bench):
    path = bench.folder / "0_WEIGHTS_FILE.mem"
    good = path.read_text()
    path.write_text(f"{int(good[0], 16) ^ 1:x}{good[1:]}")
    try:
        with pytest.raises(AssertionError, match="ge_depthwise_0_m .* differ"):
            bench.run(STALLS[0])
    finally:
        path.write_text(good)
