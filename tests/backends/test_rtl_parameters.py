"""Every unit refuses parameters that cannot be, where it is elaborated: by Verilator and by yosys's slang front end."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from greenedge.hdl import RTL
from greenedge.tools.discover import find_tool

# unit -> what an instance must have beside the module's own defaults, and (changes, what is said) for each check in it
_ALIKE = {"PE": 3, "C": 4}
CASES: dict[str, tuple[Mapping[str, int], list[tuple[Mapping[str, int], str]]]] = {
    "ge_accumulate": (
        {},
        [({"BITS": 0}, "BITS=0 must be at least 1"), ({"OUT_BITS": 3}, "OUT_BITS=3 must be at least BITS=4")],
    ),
    "ge_add": (
        {},
        [
            *(({name: 0}, f"{name}=0 must be at least 1") for name in ("PE", "A_BITS", "B_BITS", "OUT_BITS")),
            ({"AM": 0, "BM": 0}, "one of AM=0 and BM=0 must not be 0"),
        ],
    ),
    "ge_adder_tree": ({}, [({name: 0}, f"{name}=0 must be at least 1") for name in ("N", "WIDTH")]),
    "ge_argmax": (
        {},
        [
            *(({name: 0}, f"{name}=0 must be at least 1") for name in ("N", "BITS")),
            ({"N": 17}, "OUT_BITS=4 must hold an index below N=17"),
        ],
    ),
    "ge_channel_pipeline": (
        {},
        [
            (_ALIKE, "PE=3 must divide C=4"),
            ({"PE": 0}, "PE=0 must divide C=16"),
            *(({name: 0}, f"{name}=0 must be at least 1") for name in ("X_BITS", "FB", "OUT_BITS")),
            ({"LATENCY": 2}, "LATENCY=2 must be at least 3"),
        ],
    ),
    "ge_clip": (
        {},
        [
            ({"LO": 3, "HI": 2}, "LO=3 must not be above HI=2"),
            ({"X_BITS": 4}, "X_BITS=4 must be more than OUT_BITS=4"),
            ({"HI": 16}, "LO=0 ... HI=16 do not fit OUT_BITS=4"),
            ({"LO": -1, "HI": 8}, "LO=-1 ... HI=8 do not fit OUT_BITS=4"),
            ({"LO": -9, "HI": 7}, "LO=-9 ... HI=7 do not fit OUT_BITS=4"),
        ],
    ),
    "ge_concat": ({}, [({name: 0}, f"{name}=0 must be at least 1") for name in ("A", "B", "WIDTH")]),
    "ge_credit_pipeline": ({}, [({name: 0}, f"{name}=0 must be at least 1") for name in ("WIDTH", "LATENCY", "DEPTH")]),
    "ge_decoder": (
        {},
        [
            ({"HEADS": 7}, "HEADS=7 must divide DIM=64"),
            ({"KV_HEADS": 3}, "KV_HEADS=3 must divide HEADS=8"),
            ({"DIM": 48}, "DIM / HEADS = 6 must be a power of two of at least 2"),
            ({"LANES": 48}, "LANES=48 must be a power of two, at least 4 and DIM / HEADS = 8"),
        ],
    ),
    "ge_decoder_gate": ({}, [({"LAYERS": 0}, "LAYERS=0 must be at least 1")]),
    "ge_decoder_lanes": (
        {},
        [
            ({"LANES": 48}, "LANES=48 must be a power of two of at least HEAD_DIM=8"),
            ({"HEAD_DIM": 6}, "HEAD_DIM=6 must be a power of two of at least 2"),
            ({"WEIGHT_BITS": 9}, "WEIGHT_BITS=9 must be 2 to 8"),
        ],
    ),
    "ge_decoder_multiply": ({}, [({"B_BITS": 0}, "A_BITS=25 must be at least 2 and B_BITS=0 at least 1")]),
    "ge_decoder_requantise": ({}, [({"X_BITS": 1}, "X_BITS=1 and M_BITS=18 must be at least 2")]),
    "ge_decoder_residual": (
        {},
        [
            ({"PE": 3}, "PE=3 must be a power of two that divides DIM=64, and less"),
            ({"DIM": 2048}, "DIM=2048 must be at most 1024: a sum of squares has 40 bits"),
        ],
    ),
    "ge_decoder_rom": (
        {},
        [
            ({"BANK": 1000}, "BANK=1000 must be a power of two of at least 2"),
            ({"DEPTH": 41000}, "DEPTH=41000 must need 1 to 40 banks of BANK=1024"),
        ],
    ),
    "ge_decoder_rotate": ({}, [({"HEAD_DIM": 6}, "HEAD_DIM=6 must be a power of two of at least 2")]),
    "ge_decoder_sample": ({}, [({"VOCABULARY": 1}, "VOCABULARY=1 must be at least 2")]),
    "ge_decoder_stream": (
        {},
        [
            ({"VOCABULARY": 1}, "VOCABULARY=1 must be 2 to 16777216"),
            ({"CONTEXT": 0}, "CONTEXT=0 must be 1 to 65536"),
        ],
    ),
    "ge_decoder_tree": ({}, [({"N": 6}, "N=6 must be a power of two")]),
    "ge_decoder_weigh": ({}, [({"GROUPS": 6}, "GROUPS=6 must be a power of two")]),
    "ge_depthwise": (
        {},
        [
            (_ALIKE, "PE=3 must divide C=4"),
            *(({name: 0}, f"{name}=0 must be at least 1") for name in ("TAPS", "W_BITS", "A_BITS", "OUT_BITS")),
        ],
    ),
    "ge_fifo": ({}, [({name: 0}, f"{name}=0 must be at least 1") for name in ("WIDTH", "DEPTH")]),
    "ge_fork": ({}, [({"WIDTH": 0}, "WIDTH=0 must be at least 1")]),
    "ge_mvu": (
        {},
        [
            ({"K": 17, "SIMD": 4}, "SIMD=4 must divide K=17"),
            ({"M": 8, "PE": 3}, "PE=3 must divide M=8"),
            *(({name: 0}, f"{name}=0 must be at least 1") for name in ("W_BITS", "A_BITS", "OUT_BITS")),
        ],
    ),
    "ge_multiply": (
        {},
        [
            *(({name: 0}, f"{name}=0 must be at least 1") for name in ("PE", "OUT_BITS")),
            *(({name: n}, f"{name}={n} must be 1 to 24") for name in ("A_BITS", "B_BITS") for n in (0, 25)),
            *(({name: n}, f"{name}={n} must fit 25 bits") for name in ("AZERO", "BZERO") for n in (-(2**25), 2**25)),
        ],
    ),
    "ge_pad": (
        {},
        [
            (_ALIKE, "PE=3 must divide C=4"),
            *(({name: 0}, f"{name}=0 must be at least 1") for name in ("H", "W", "BITS")),
            ({"PAD": 16}, "PAD=16 does not fit BITS=4"),
            ({"PAD": -9}, "PAD=-9 does not fit BITS=4"),
        ],
    ),
    "ge_pool": (
        {},
        [
            (_ALIKE, "PE=3 must divide C=4"),
            *(({name: 0}, f"{name}=0 must be at least 1") for name in ("TAPS", "BITS")),
            ({"OUT_BITS": 3}, "OUT_BITS=3 must be at least BITS=4"),
        ],
    ),
    "ge_pool_global": (
        {},
        [
            (_ALIKE, "PE=3 must divide C=4"),
            *(({name: 0}, f"{name}=0 must be at least 1") for name in ("PIXELS", "BITS")),
            ({"OUT_BITS": 3}, "OUT_BITS=3 must be at least BITS=4"),
        ],
    ),
    "ge_product": ({}, [({name: 0}, f"{name}=0 must be at least 1") for name in ("W_BITS", "A_BITS")]),
    "ge_queue": ({}, [({name: 0}, f"{name}=0 must be at least 1") for name in ("WIDTH", "DEPTH")]),
    "ge_requantise": (
        {},
        [
            (_ALIKE, "PE=3 must divide C=4"),
            *(({name: 0}, f"{name}=0 must be at least 1") for name in ("X_BITS", "M_BITS", "CYCLES")),
            ({"B_BITS": 20}, "B_BITS=20 must be more than SHIFT=16 and OUT_BITS=4 together"),
        ],
    ),
    "ge_requantise_serial": (
        {},
        [
            (_ALIKE, "PE=3 must divide C=4"),
            *(({name: 0}, f"{name}=0 must be at least 1") for name in ("X_BITS", "M_BITS")),
            ({"SHIFT": 12}, "SHIFT=12 must be more than M_BITS=12"),
            ({"B_BITS": 20}, "B_BITS=20 must be more than SHIFT=16 and OUT_BITS=4 together"),
        ],
    ),
    "ge_ring_add": ({}, [({"DEPTH": 1}, "DEPTH=1 must be at least 2")]),
    "ge_scale": (
        {},
        [
            *(({name: 0}, f"{name}=0 must be at least 1") for name in ("X_BITS", "M_BITS")),
            ({"M_BITS": 17}, "LEVELS=3 are too few for M_BITS=17"),
        ],
    ),
    "ge_search": (
        {},
        [
            (_ALIKE, "PE=3 must divide C=4"),
            *(({name: 0}, f"{name}=0 must be at least 1") for name in ("X_BITS", "OUT_BITS")),
            *(({"N": n}, f"N={n} must be 1 to 10") for n in (0, 11)),
        ],
    ),
    "ge_split": ({}, [({name: 0}, f"{name}=0 must be at least 1") for name in ("A", "B", "WIDTH")]),
    "ge_table": (
        {},
        [
            ({"C": 4, "PE": 3}, "PE=3 must divide C=4, or C be 1"),
            *(({name: 0}, f"{name}=0 must be at least 1") for name in ("PE", "X_BITS", "SIZE", "OUT_BITS")),
            ({"SIZE": 65}, "XLO=-32 and SIZE=65 go beyond X_BITS=6"),
            ({"XSGN": 0}, "XLO=-32 and SIZE=64 go beyond X_BITS=6"),
        ],
    ),
    "ge_threshold": (
        {},
        [
            (_ALIKE, "PE=3 must divide C=4"),
            *(({name: 0}, f"{name}=0 must be at least 1") for name in ("X_BITS", "STEPS")),
            ({"FALLS": 2}, "FALLS=2 must be 0, 1 or STEPS=3"),
            ({"STEPS": 4}, "LO=0 and STEPS=4 give levels beyond OUT_BITS=2"),
            ({"LO": -1}, "LO=-1 and STEPS=3 give levels beyond OUT_BITS=2"),
            ({"LO": -3}, "LO=-3 does not fit OUT_BITS=2"),
        ],
    ),
    "ge_reorder": (
        {},
        [
            *(({name: 0}, f"{name}=0 must be at least 1") for name in ("N", "M", "WIDTH")),
            ({"DEPTH": 3}, "DEPTH=3 must be at least 4"),
        ],
    ),
    "ge_upsample": (
        {},
        [
            (_ALIKE, "PE=3 must divide C=4"),
            *(({name: 0}, f"{name}=0 must be at least 1") for name in ("H", "W", "FH", "FW", "BITS")),
        ],
    ),
    "ge_width": (
        {},
        [
            ({"BITS": 0}, "BITS=0 must be at least 1"),
            ({"IN": 4, "OUT": 6}, "one of IN=4 and OUT=6 must divide the other"),
            ({"IN": 6, "OUT": 4}, "one of IN=6 and OUT=4 must divide the other"),
        ],
    ),
    "ge_window": (
        {},
        [
            (_ALIKE, "PE=3 must divide C=4"),
            *(({name: 0}, f"{name}=0 must be at least 1") for name in ("SH", "SW", "BITS")),
            ({"PT": 3}, "pads 3, 1, 1, 1 must be smaller than the kernel's span 3 x 3: use ge_pad"),
            ({"H": 2, "PT": 0, "PB": 0}, "the kernel's span 3 x 3 is larger than the padded image 2 x 10"),
            ({"PAD": 16}, "PAD=16 does not fit BITS=4"),
        ],
    ),
    "ge_mvu_dsp": (
        {},
        [
            ({"K": 17, "SIMD": 4}, "SIMD=4 must divide K=17"),
            ({"M": 8, "PE": 3}, "PE=3 must divide M=8"),
            ({"DSP": 3}, "DSP=3 must be 1 (DSP48E1) or 2 (DSP48E2)"),
            ({"DSP": 1}, "NARROW=0 must be 1 for a DSP48E1, which has no room for the widest negative product"),
            ({"W_BITS": 1}, "W_BITS=1 and A_BITS=4 must be at least 2"),
            ({"OUT_BITS": 0}, "OUT_BITS=0 must be at least 1"),
        ],
    ),
    "ge_packet": ({}, [({name: 0}, f"{name}=0 must be at least 1") for name in ("S_BEATS", "M_BEATS", "DEPTH")]),
    "ge_collector": (
        {},
        [
            *(({name: 0}, f"{name}=0 must be at least 1") for name in ("M_BYTES", "BEATS")),
            ({"M_BYTES": 7, "FW": 3}, "FW=3 gives a store that is too small for M_BYTES=7 and two more"),
        ],
    ),
    "ge_counters": (
        {},
        [({name: 0}, f"{name}=0 must be at least 1") for name in ("CLOCK_HZ", "BAUD", "IN", "OUT", "BEATS", "CREDIT")],
    ),
    "ge_crc": ({}, [({"POLY": 0x1020}, "POLY=1020 must end in 1, or the check is one bit shorter")]),
    "ge_frame_rx": ({}, [({"AW": 3}, "AW=3 must be 4 to 16"), ({"AW": 17}, "AW=17 must be 4 to 16")]),
    "ge_host": (
        {},
        [
            *(({name: 0}, f"{name}=0 must be at least 1") for name in ("S_BYTES", "S_BEATS", "M_BYTES", "M_BEATS")),
            (
                {"S_BYTES": 127, "S_BEATS": 252, "AW": 16},
                "samples of 32004 bytes in and 10 bytes out must be at most 32000 to fit a frame",
            ),
        ],
    ),
    "ge_input_feeder": (
        {},
        [
            ({"S_BYTES": 3}, "S_BYTES=3 must divide IN=32"),
            ({"OUT": 0}, "OUT=0 must be at least 1"),
            ({"AW": 5}, "AW=5 gives a buffer that is too small for a LOOP of one sample of IN=32 bytes"),
            ({"RESTART": 35}, "RESTART=35 must be at least 36, in which ge_counters clears its counters"),
        ],
    ),
    "ge_led": ({}, [({"CLOCK_HZ": 8}, "CLOCK_HZ=8 must be at least 9")]),
    **{
        unit: (
            {},
            [
                (
                    {"CLOCK_HZ": 11_000_000},
                    "CLOCK_HZ=11000000 must be at least 4 times BAUD=3000000 and at most 131072 times",
                )
            ],
        )
        for unit in ("ge_uart_rx", "ge_uart_tx")
    },
}
_PACKAGES = (RTL / "board" / "ge_protocol_pkg.sv", RTL / "decoder" / "ge_decoder_pkg.sv")
_LINT = ("--lint-only", "-Wno-lint", "-Wno-style", "+libext+.sv")
WITHOUT_PARAMETERS = {"ge_frame_tx", "ge_reset", "ge_spi"}
# the ports of FINN's core, which ge_mvu_dsp instantiates and which is not ours to ship
_FINN_CORE = """module mvu_vvu_axi #(
    IS_MVU = 1, VERSION = 1, MW = 1, MH = 1, PE = 1, SIMD = 1, ACTIVATION_WIDTH = 1, WEIGHT_WIDTH = 1, ACCU_WIDTH = 1,
    NARROW_WEIGHTS = 0, SIGNED_ACTIVATIONS = 0
) (
    input logic ap_clk, ap_clk2x, ap_rst_n,
    input logic [PE*SIMD*WEIGHT_WIDTH-1:0] s_axis_weights_tdata, input logic s_axis_weights_tvalid,
    output logic s_axis_weights_tready,
    input logic [SIMD*ACTIVATION_WIDTH-1:0] s_axis_input_tdata, input logic s_axis_input_tvalid,
    output logic s_axis_input_tready, output logic [PE*ACCU_WIDTH-1:0] m_axis_output_tdata,
    output logic m_axis_output_tvalid, input logic m_axis_output_tready
);
endmodule
"""


def _lint(unit: str, parameters: Mapping[str, int], folder: Path) -> subprocess.CompletedProcess[str]:
    """Verilator's lint of one unit as the top, these parameters in place of the module's defaults."""
    (folder / "mvu_vvu_axi.sv").write_text(_FINN_CORE)
    tool = find_tool("verilator")
    folders = [
        word for place in (RTL, RTL / "amd", RTL / "board", RTL / "decoder", folder) for word in ("-y", str(place))
    ]
    values = [f"-G{name}={value}" for name, value in parameters.items()]
    source = next(RTL.rglob(f"{unit}.sv"))
    return subprocess.run(
        [
            *tool.argv,
            "--lint-only",
            "-Wno-lint",
            "-Wno-style",
            "+libext+.sv",
            *folders,
            *values,
            "--top-module",
            unit,
            *map(str, _PACKAGES),
            str(source),
        ],
        env={**os.environ, **tool.env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.tool("verilator")
@pytest.mark.parametrize("unit", CASES)
def test_wrong_parameters_are_refused_where_the_unit_is_elaborated(unit, tmp_path):
    common, refusals = CASES[unit]
    good = _lint(unit, common, tmp_path)
    assert good.returncode == 0, good.stderr
    for changes, said in refusals:
        bad = _lint(unit, {**common, **changes}, tmp_path)
        assert bad.returncode != 0 and f": {unit}: {said}\n" in bad.stderr, (changes, bad.stderr)


def test_every_check_of_every_unit_has_a_case():
    """A check without a case above, or a unit without a check, is an omission here or there."""
    for path in sorted(path for path in RTL.rglob("ge_*.sv") if path.parent.name != "sim" and path not in _PACKAGES):
        checks = re.findall(r'\$fatal\(1, "(\w+): (.*?)"', path.read_text())
        assert {unit for unit, _ in checks} <= {path.stem}
        if not re.search(r"^module \w+\s(\s+import \w+::\*;\s)?#\($", path.read_text(), re.MULTILINE):
            assert path.stem in WITHOUT_PARAMETERS and not checks, path
            continue
        patterns = [re.sub(r"%0[dh]", r"[-0-9a-f]+", re.escape(text)) for _, text in checks]
        said = [text for _, text in CASES[path.stem][1]]
        assert checks and all(any(re.fullmatch(pattern, text) for text in said) for pattern in patterns), path


@pytest.mark.tool("yosys")
@pytest.mark.parametrize("simd", [4, 5])
def test_synthesis_refuses_them_too(simd, tmp_path):
    """yosys's slang front end elaborates the same check with the same text."""
    names = ("ge_mvu", "ge_product", "ge_adder_tree", "ge_credit_pipeline", "ge_fifo")
    for name in names:
        (tmp_path / f"{name}.sv").write_bytes((RTL / f"{name}.sv").read_bytes())
    (tmp_path / "weights.mem").write_text("0\n" * 16)
    (tmp_path / "top.sv").write_text(
        f"""module top (
    input logic clk, rst, input logic [{(simd * 4 + 7) // 8 * 8 - 1}:0] s_tdata, input logic s_tvalid, m_tready,
    output logic s_tready, m_tvalid, output logic [31:0] m_tdata);
    ge_mvu #(.SIMD({simd}), .WEIGHTS_FILE("weights.mem")) unit (.*);
endmodule
"""
    )
    sources = " ".join(f"{name}.sv" for name in (*names, "top"))
    (tmp_path / "read.ys").write_text(f"read_slang --threads 1 --top top {sources}\n")
    tool = find_tool("yosys")
    done = subprocess.run(
        [*tool.argv, "-q", "-s", "read.ys"],
        cwd=tmp_path,
        env={**os.environ, **tool.env},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if simd == 4:
        assert done.returncode == 0, done.stdout + done.stderr
    else:
        assert done.returncode != 0 and "ge_mvu: SIMD=5 must divide K=16" in done.stdout + done.stderr


def test_no_net_is_declared_by_a_misspelt_name():
    """`default_nettype none` before every module of ours, and `wire` again behind it for what is read after it."""
    for path in sorted((*RTL.rglob("*.sv"), *Path(__file__).parent.parent.rglob("*.sv"))):
        text = path.read_text()
        assert re.search(r"^`default_nettype none\n(module|package) ", text, re.MULTILINE), path
        assert text.endswith("`default_nettype wire\n") or text.endswith(
            "`default_nettype wire\n// verilator tracing_on\n"
        ), path
        assert text.count("default_nettype") == 2, path
