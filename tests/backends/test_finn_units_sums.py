"""The units that compute, against numpy, with random pauses; flipped bits and wrong parameters must be seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from greenedge.errors import ToolError
from tests.backends.test_finn_units_moves import pad_case, window_case
from tests.backends.unit_bench import Bench, Case, Port

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
    values = dict(C=c, TAPS=taps, PE=pe, W_BITS=wb, A_BITS=ab, ASGN=signed, OUT_BITS=bits, CORRECT=correct)
    return Case(
        "ge_depthwise",
        values,
        [Port("s", ab, bool(signed), pe, x.reshape(samples, -1))],
        [Port("m", bits, True, pe, y if correct else y - left_out)],
        cycles=c // pe * taps,
        memories={
            "WEIGHTS_FILE": ((words < 0).astype(int) if wb == 1 else words, wb),
            "CORRECTION_FILE": (left_out.reshape(-1, pe), bits),
        },
    )


def pool_case(rng, c, taps, pe, bits, signed, largest, samples=20):
    x = integers(rng, bits, signed, (samples, c // pe, taps, pe))
    ob = bits if largest else sum_bits(taps, bits, signed)
    values = dict(C=c, TAPS=taps, PE=pe, BITS=bits, SGN=signed, OUT_BITS=ob, MAX=largest)
    y = (x.max(2) if largest else x.sum(2)).reshape(samples, c)
    return Case(
        "ge_pool",
        values,
        [Port("s", bits, bool(signed), pe, x.reshape(samples, -1))],
        [Port("m", ob, bool(signed), pe, y)],
        cycles=c // pe * taps,
    )


def pool_global_case(rng, c, pixels, pe, bits, signed, largest, samples=10):
    x = integers(rng, bits, signed, (samples, pixels, c))
    ob = bits if largest else sum_bits(pixels, bits, signed)
    values = dict(C=c, PIXELS=pixels, PE=pe, BITS=bits, SGN=signed, OUT_BITS=ob, MAX=largest)
    return Case(
        "ge_pool_global",
        values,
        [Port("s", bits, bool(signed), pe, x.reshape(samples, -1))],
        [Port("m", ob, bool(signed), pe, x.max(1) if largest else x.sum(1))],
        cycles=c // pe * pixels,
    )


def add_case(rng, pe, a_bits, a_signed, b_bits, b_signed, am, bm, samples=10, count=6):
    a, b = (
        integers(rng, a_bits, a_signed, (samples, count * pe)),
        integers(rng, b_bits, b_signed, (samples, count * pe)),
    )
    ob = int(abs(am) * (1 << a_bits) + abs(bm) * (1 << b_bits)).bit_length() + 1
    values = dict(PE=pe, A_BITS=a_bits, ASGN=a_signed, B_BITS=b_bits, BSGN=b_signed, AM=am, BM=bm, OUT_BITS=ob)
    return Case(
        "ge_add",
        values,
        [Port("a", a_bits, bool(a_signed), pe, a), Port("b", b_bits, bool(b_signed), pe, b)],
        [Port("m", ob, True, pe, am * a + bm * b)],
        cycles=count,
    )


def multiply_case(rng, pe, a_bits, a_signed, a_zero, b_bits, b_signed, b_zero, samples=10, count=6):
    a, b = (
        integers(rng, a_bits, a_signed, (samples, count * pe)),
        integers(rng, b_bits, b_signed, (samples, count * pe)),
    )
    a[1], b[1] = a[0], b[-1]  # the ends crosswise too
    a[2], b[2] = a[-1], b[0]
    y = (a - a_zero) * (b - b_zero)
    ob = int(np.abs(y).max()).bit_length() + 1
    values = dict(PE=pe, A_BITS=a_bits, ASGN=a_signed, AZERO=a_zero, B_BITS=b_bits, BSGN=b_signed, BZERO=b_zero)
    return Case(
        "ge_multiply",
        values | dict(OUT_BITS=ob),
        [Port("a", a_bits, bool(a_signed), pe, a), Port("b", b_bits, bool(b_signed), pe, b)],
        [Port("m", ob, True, pe, y)],
        cycles=count,
    )


def threshold_case(rng, c, pe, xb, signed, lo, steps, falls, samples=12):
    """`falls`: 0 none, 1 a channel's thresholds may all fall, 2 each of them may."""
    x = integers(rng, xb, signed, (samples, c))
    start = -(1 << (xb - 1)) if signed else 0
    thresholds = np.sort(rng.integers(start, start + (1 << xb) + 1, (c, steps)))  # the last value is never reached
    thresholds[0, 0], thresholds[-1, -1] = start, start + (1 << xb)  # always, never
    falling = rng.integers(0, 2, (c, steps if falls > 1 else 1)) * (falls > 0)
    y = lo + ((x[:, :, None] >= thresholds) ^ falling).sum(2)
    ob = max(int(lo + steps).bit_length() + (lo < 0), int(-lo - 1).bit_length() + 1 if lo < 0 else 1)
    fields = [
        sum((int(t) & ((2 << xb) - 1)) << (k * (xb + 1)) for k, t in enumerate(row))
        | sum(int(v) << (steps * (xb + 1) + k) for k, v in enumerate(falling[i]))
        for i, row in enumerate(thresholds)
    ]
    falls = min(falls, 1) * falling.shape[1]
    values = dict(C=c, PE=pe, X_BITS=xb, XSGN=signed, LO=lo, STEPS=steps, OUT_BITS=ob, FALLS=falls)
    return Case(
        "ge_threshold",
        values,
        [Port("s", xb, bool(signed), pe, x)],
        [Port("m", ob, lo < 0, pe, y)],
        cycles=c // pe,
        memories={"THRESHOLDS_FILE": (np.array(fields, object).reshape(-1, pe), steps * (xb + 1) + falls)},
    )


def search_case(rng, c, pe, xb, signed, n, ob):
    """Every threshold of every channel, and the value below it, are among the values searched for."""
    start, count = -(1 << (xb - 1)) if signed else 0, (1 << n) - 1
    thresholds = np.stack([np.sort(rng.permutation(np.arange(start + 1, start + (1 << xb)))[:count]) for _ in range(c)])
    levels = rng.integers(0, 1 << ob, (c, count + 1))
    levels[:, 1:] += levels[:, 1:] == levels[:, :-1]  # neighbours differ
    levels %= 1 << ob
    x = np.tile(np.concatenate([thresholds, thresholds - 1], axis=1), 4).T
    y = np.take_along_axis(levels, (x.T[:, :, None] >= thresholds[:, None]).sum(2), axis=1).T
    memories = {"FILES_levels": (levels.reshape(c // pe, pe, -1).transpose(0, 2, 1).reshape(-1, pe), ob)}
    for s in range(n):
        places = (2 * np.arange(1 << s) + 1) * (1 << (n - s - 1)) - 1
        words = thresholds[:, places].reshape(c // pe, pe, -1).transpose(0, 2, 1).reshape(-1, pe)
        memories[f"FILES_{s}"] = (words, xb)
    values = dict(C=c, PE=pe, X_BITS=xb, XSGN=signed, N=n, OUT_BITS=ob)
    return Case(
        "ge_search",
        values,
        [Port("s", xb, bool(signed), pe, x)],
        [Port("m", ob, False, pe, y)],
        cycles=c // pe,
        memories=memories,
    )


def table_case(rng, c, tables, pe, xb, signed, lo, size, ob, samples=12):
    table = rng.integers(0, 1 << ob, (tables, size))
    x = rng.integers(lo, lo + size, (samples, c))
    x[0], x[-1] = lo, lo + size - 1
    y = table[np.arange(c) % tables, x - lo]
    words = np.broadcast_to(table, (max(tables, pe), size)).reshape(-1, pe, size).transpose(0, 2, 1).reshape(-1, pe)
    values = dict(C=tables, PE=pe, X_BITS=xb, XSGN=signed, XLO=lo, SIZE=size, OUT_BITS=ob)
    return Case(
        "ge_table",
        values,
        [Port("s", xb, bool(signed), pe, x)],
        [Port("m", ob, False, pe, y)],
        cycles=c // pe,
        memories={"TABLE_FILE": (words, ob)},
    )


def argmax_case(rng, n, bits, signed, samples=20):
    x = integers(rng, bits, signed, (samples, n))
    ob = max(1, (n - 1).bit_length())
    return Case(
        "ge_argmax",
        dict(N=n, BITS=bits, SGN=signed, OUT_BITS=ob),
        [Port("s", bits, bool(signed), 1, x)],
        [Port("m", ob, False, 1, x.argmax(1)[:, None])],
        cycles=n,
    )


GLOBAL_POOLS = [(4, 9, 4, 4, 0, 0), (6, 3, 2, 8, 1, 1), (8, 5, 1, 3, 1, 0), (4, 2, 1, 5, 0, 1), (2, 1, 1, 4, 0, 0)]
# PE, bits and sign of a and b, multipliers
ADDS = [(2, 4, 0, 4, 0, 1, 1), (1, 5, 1, 3, 0, -7, 100), (3, 2, 1, 8, 1, 1, -1), (1, 3, 0, 1, 0, 12, 0)]
# PE, bits, sign and zero point of a, and of b
PRODUCTS = [
    *[(2, 4, 0, 0, 4, 0, 0), (1, 8, 0, 131, 8, 1, 0), (3, 5, 1, -3, 3, 0, 7), (1, 8, 1, 0, 8, 0, 0)],
    *[(2, 2, 0, 0, 1, 0, 0), (1, 3, 0, 9, 1, 0, 1), (1, 16, 1, 0, 11, 1, -700), (1, 7, 0, -4, 2, 1, 1)],
]
# C, PE, input bits, signed, lowest level, steps, a channel may fall
THRESHOLDS = [
    *[(4, 2, 8, 1, 0, 3, 0), (3, 1, 5, 0, -4, 7, 1), (2, 2, 12, 1, -1, 1, 1), (1, 1, 1, 0, 0, 2, 0)],
    *[(4, 2, 9, 1, -5, 11, 2), (1, 1, 7, 0, 1, 40, 2)],
]
# channels, PE, input bits, signed, stages, output bits
SEARCHES = [(6, 2, 8, 1, 3, 4), (1, 1, 6, 0, 4, 3), (3, 1, 10, 1, 1, 8), (4, 4, 9, 0, 5, 8)]
# channels, tables, PE, input bits, signed, lowest x, values of x, output bits
TABLES = [(6, 1, 2, 6, 1, -20, 37, 4), (4, 4, 2, 4, 0, 3, 9, 8), (3, 3, 1, 5, 1, -16, 32, 1)]
ARGMAXES = [(10, 8, 1), (7, 2, 0), (1, 4, 1)]
CASES = [
    (depthwise_case, DEPTHWISE),
    (pool_case, POOLS),
    (pool_global_case, GLOBAL_POOLS),
    (add_case, ADDS),
    (multiply_case, PRODUCTS),
    (threshold_case, THRESHOLDS),
    (search_case, SEARCHES),
    (table_case, TABLES),
    (argmax_case, ARGMAXES),
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    rng = np.random.default_rng(1)
    return Bench([case(rng, *sizes) for case, many in CASES for sizes in many], tmp_path_factory.mktemp("units"))


def test_units_that_compute(bench):
    bench.check()


def test_a_flipped_bit_in_any_memory_is_seen(bench):
    for index, case in enumerate(bench.cases):
        for parameter in case.memories:
            if parameter == "CORRECTION_FILE" and not case.parameters["CORRECT"]:
                continue
            path = bench.folder / f"{index}_{parameter}.mem"
            good = path.read_text()
            first, rest = good.split("\n", 1)
            path.write_text(f"{int(first, 16) ^ 1:x}\n{rest}")
            found = bench.differences()
            path.write_text(good)
            assert len(found) == 1 and found[0].startswith(f"{case.module}_{index}_m: "), (index, parameter, found)


def test_a_wrong_parameter_is_seen(rng, tmp_path):
    """Each unit told something else than its neighbours: the streams keep their shape, the values must be noticed."""
    wrong = [
        (window_case(rng, 2, 3, 3, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 1, 4, 0), "PAD", lambda v: v ^ 1),
        (pad_case(rng, 2, 3, 2, (1, 0, 2, 1), 1, 4), "PAD", lambda v: v ^ 1),
        (depthwise_case(rng, 2, 4, 1, 4, 4, 0, 0), "ASGN", lambda v: 1),
        (pool_case(rng, 2, 4, 1, 4, 0, 1), "MAX", lambda v: 0),
        (pool_global_case(rng, 2, 4, 1, 4, 0, 1), "SGN", lambda v: 1),
        (add_case(rng, 1, 4, 0, 4, 0, 3, -2), "BM", lambda v: v + 1),
        (multiply_case(rng, 1, 4, 0, 3, 4, 1, 0), "AZERO", lambda v: v - 1),
        (multiply_case(rng, 1, 4, 0, 0, 4, 1, 0), "BSGN", lambda v: 0),
        (threshold_case(rng, 2, 1, 6, 0, 0, 2, 0), "LO", lambda v: v + 1),
        (table_case(rng, 2, 2, 1, 4, 0, 3, 9, 4), "XLO", lambda v: v - 1),
        (argmax_case(rng, 8, 4, 1), "SGN", lambda v: 0),
    ]
    bench = Bench(
        [
            replace(case, parameters={**case.parameters, name: change(case.parameters[name])})
            for case, name, change in wrong
        ],
        tmp_path,
    )
    assert [line.split(":")[0] for line in bench.differences()] == [
        f"{case.module}_{i}_m" for i, (case, _, _) in enumerate(wrong)
    ]


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"PE": 4}, "ge_window: PE=4 must divide C=6"),
        ({"PT": 3}, "ge_window: pads 3, 1, 1, 1 must be smaller than the kernel's span 3 x 3: use ge_pad"),
    ],
)
def test_parameters_that_cannot_be_are_refused(rng, tmp_path, change, reason):
    case = window_case(rng, 6, 4, 4, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 2, 4, 0)
    with pytest.raises(ToolError, match=reason):
        Bench([replace(case, parameters={**case.parameters, **change})], tmp_path)


@pytest.mark.slow
def test_units_that_compute_with_many_parameters(rng, tmp_path):
    sizes = np.random.default_rng(3)

    def some(lo, hi):
        return int(sizes.integers(lo, hi + 1))

    cases = []
    for _ in range(8):
        pe, bits, signed = some(1, 4), some(2, 8), some(0, 1)
        c, lo = pe * some(1, 6), some(-9, 9)
        multipliers = [int(m) for m in sizes.integers(-300, 300, 2)]
        cases += [
            depthwise_case(rng, c, some(1, 12), pe, some(1, 8), bits, signed, some(0, 1)),
            pool_case(rng, c, some(1, 12), pe, bits, signed, some(0, 1)),
            pool_global_case(rng, c, some(1, 20), pe, bits, signed, some(0, 1)),
            add_case(rng, pe, bits, signed, some(2, 8), some(0, 1), *multipliers),
            multiply_case(rng, pe, bits, signed, some(-9, 140), some(1, 12), some(0, 1), some(-300, 9)),
            threshold_case(rng, c, pe, bits, signed, lo, some(1, 15), some(0, 2)),
            search_case(rng, c, pe, some(6, 12), signed, some(1, 5), some(2, 8)),
            table_case(rng, c, *((c, pe) if some(0, 1) else (1, pe)), 8, 1, some(-128, 0), some(1, 128), some(1, 8)),
            argmax_case(rng, some(1, 20), bits, signed),
        ]
    Bench(cases, tmp_path).check()
