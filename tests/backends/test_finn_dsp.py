"""FINN's DSP-packed matrix-vector core behind our streams: the same integers as our own unit, at the same pace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from greenedge.backends.finn.finnplus.environment import finn_packages
from greenedge.backends.finn.library import FILES, core_files
from greenedge.errors import ToolError
from tests.backends.test_finn_units_sums import integers
from tests.backends.unit_bench import RTL, Bench, Case, Port

# DSP, K, M, PE, SIMD, weight bits, activation bits, signed activations, narrow weights, corrected
CASES = [
    (2, 16, 8, 2, 4, 4, 4, 0, 0, 0),
    (1, 12, 6, 3, 2, 4, 4, 0, 1, 1),
    (2, 9, 5, 1, 1, 8, 8, 1, 0, 0),
    (2, 8, 4, 4, 8, 2, 3, 0, 0, 0),
    (1, 10, 10, 5, 5, 8, 8, 0, 1, 0),
]


@pytest.fixture(scope="module")
def packages():
    return finn_packages(lambda line: None)


def case(rng, dsp, k, m, pe, simd, wb, ab, signed, narrow, correct, samples=12):
    weight = integers(rng, wb, True, (k, m))
    weight = np.maximum(weight, 1 - (1 << (wb - 1))) if narrow else weight
    x = integers(rng, ab, signed, (samples, k))
    left_out = (weight < 0).sum(0) << max(wb - 2, 0)
    bits = int((np.abs(weight).sum(0) * (1 << ab) + left_out).max()).bit_length() + 1
    words = weight.T.reshape(m // pe, pe, k // simd, simd).transpose(0, 2, 1, 3).reshape(-1, pe * simd)
    values = dict(
        DSP=dsp,
        NARROW=narrow,
        K=k,
        M=m,
        PE=pe,
        SIMD=simd,
        W_BITS=wb,
        A_BITS=ab,
        ASGN=signed,
        OUT_BITS=bits,
        CORRECT=correct,
    )
    return Case(
        "ge_mvu_dsp",
        values,
        [Port("s", ab, bool(signed), simd, x)],
        [Port("m", bits, True, pe, x @ weight - (0 if correct else left_out))],
        cycles=k // simd * (m // pe),
        memories={"WEIGHTS_FILE": (words, wb), "OFFSET_FILE": (left_out.reshape(-1, pe), bits)},
    )


@pytest.mark.tool("verilator")
@pytest.mark.tool("finn")
@pytest.mark.slow
def test_the_core_computes_what_our_unit_computes(rng, tmp_path, packages):
    unit = {"ge_mvu_dsp.sv": (RTL / "amd" / "ge_mvu_dsp.sv").read_bytes()}
    bench = Bench([case(rng, *values) for values in CASES], tmp_path, {**core_files(packages), **unit})
    bench.check()
    weights = tmp_path / "0_WEIGHTS_FILE.mem"
    first, rest = weights.read_text().split("\n", 1)
    weights.write_text(f"{int(first, 16) ^ 1:0{len(first)}x}\n{rest}")
    assert [text.split(":")[0] for text in bench.differences()] == ["ge_mvu_dsp_0_m"]


@pytest.mark.tool("finn")
def test_another_finn_is_refused(tmp_path, packages):
    folder = tmp_path / "finn" / "finn-rtllib" / "mvu"
    folder.mkdir(parents=True)
    for name in FILES:
        content = (packages / "finn" / "finn-rtllib" / "mvu" / name).read_bytes()
        (folder / name).write_bytes(content.replace(b"// Adder Tree", b"// Tree"))
    with pytest.raises(
        ToolError,
        match=r"add_multi.sv is not as finn-plus 1.6.1 has it \('// Compute the count of decendents' is not there\).",
    ):
        core_files(tmp_path)
    (folder / "add_multi.sv").unlink()
    with pytest.raises(ToolError, match="add_multi.sv cannot be read .*; greenedge wants finn-plus 1.6.1."):
        core_files(tmp_path)


@pytest.mark.tool("verilator")
@pytest.mark.slow
def test_packets_end_with_the_sample_that_ended_them(rng, tmp_path):
    """Batches of one to five samples: TLAST comes out on the last beat of the last sample, and nowhere else."""
    ends = np.zeros(60, np.int64)
    ends[np.cumsum(rng.integers(1, 6, 12)) - 1] = 1
    ends[-1] = 1
    values = rng.integers(0, 128, (60, 4))
    last_in, last_out = np.zeros((60, 4), np.int64), np.zeros((60, 2), np.int64)
    last_in[:, 3], last_out[:, 1] = ends, ends
    case = Case(
        "amd_packets",
        {},
        [Port("s", 16, False, 1, values * 2 + last_in)],
        [Port("m", 16, False, 1, (values[:, ::2] + values[:, 1::2]) % 256 * 2 + last_out)],
    )
    more = {
        name: path.read_bytes()
        for name, path in (
            ("ge_packet.sv", RTL / "amd" / "ge_packet.sv"),
            ("amd_packets.sv", Path(__file__).with_name("amd_packets.sv")),
        )
    }
    bench = Bench([case], tmp_path, more)
    bench.check()
