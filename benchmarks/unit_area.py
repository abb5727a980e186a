"""Area and clock of single hardware units on an ECP5 (85F, speed grade 6): the table of greenedge/hdl/rtl/README.md.

    python benchmarks/unit_area.py [-o FOLDER] [--no-clock] [PATTERN…]

Every unit stands between registers, and its own cells are counted after synthesis: LUT4, CCU2C (carry; takes the place
of two LUT4), FF, LUTRAM (16 words of 4 bits), DP16KD, MULT18. Fmax is nextpnr's figure after routing, one seed, a
figure of the tool and not of silicon. Memory contents are random.
"""

import argparse
import json
import random
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from greenedge.errors import GreenedgeError  # noqa: E402
from greenedge.tools.plan import Command, Plan  # noqa: E402
from greenedge.tools.run import execute  # noqa: E402

RTL = Path(__file__).resolve().parent.parent / "greenedge" / "hdl" / "rtl"
CELLS = ("LUT4", "CCU2C", "TRELLIS_FF", "TRELLIS_DPR16X4", "DP16KD", "MULT18X18D")


@dataclass(frozen=True)
class Example:
    """A unit, its parameters, the bits that each stream carries, and its memory files as (words, bits)."""

    unit: str
    parameters: dict[str, int]
    inputs: dict[str, int]
    outputs: dict[str, int]
    memories: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.unit + "".join(f" {key}={value}" for key, value in self.parameters.items())


def window(c, side, kernel, stride, pad, pe, bits, depthwise):
    values = dict(
        C=c,
        H=side,
        W=side,
        KH=kernel,
        KW=kernel,
        SH=stride,
        SW=stride,
        DH=1,
        DW=1,
        PT=pad,
        PL=pad,
        PB=pad,
        PR=pad,
        PE=pe,
        BITS=bits,
        DEPTHWISE=depthwise,
    )
    return Example("ge_window", values, {"s": pe * bits}, {"m": pe * bits})


def depthwise(c, taps, pe, wb, ab, ob):
    return Example(
        "ge_depthwise",
        dict(C=c, TAPS=taps, PE=pe, W_BITS=wb, A_BITS=ab, OUT_BITS=ob),
        {"s": pe * ab},
        {"m": pe * ob},
        {"WEIGHTS_FILE": (c // pe * taps, pe * wb)},
    )


EXAMPLES = [
    Example(
        "ge_mvu",
        dict(K=64, M=32, PE=4, SIMD=8, W_BITS=4, A_BITS=4, OUT_BITS=14),
        {"s": 32},
        {"m": 56},
        {"WEIGHTS_FILE": (64, 128)},
    ),
    Example(
        "ge_requantise",
        dict(C=32, PE=1, X_BITS=14, M_BITS=12, B_BITS=26, SHIFT=16, OUT_BITS=4),
        {"s": 14},
        {"m": 4},
        {"PARAMETERS_FILE": (32, 38)},
    ),
    window(8, 8, 3, 1, 1, 2, 4, 0),
    window(16, 16, 3, 1, 1, 4, 4, 1),
    window(64, 32, 3, 1, 1, 16, 4, 0),
    window(32, 28, 2, 2, 0, 8, 4, 1),
    depthwise(16, 9, 4, 4, 4, 12),
    depthwise(128, 9, 8, 8, 8, 20),
    Example("ge_pool", dict(C=16, TAPS=4, PE=4, BITS=4, SGN=0, OUT_BITS=4, MAX=1), {"s": 16}, {"m": 16}),
    Example("ge_pool", dict(C=16, TAPS=9, PE=4, BITS=8, SGN=1, OUT_BITS=12, MAX=0), {"s": 32}, {"m": 48}),
    Example("ge_pool_global", dict(C=16, PIXELS=64, PE=1, BITS=4, OUT_BITS=10), {"s": 4}, {"m": 10}),
    Example("ge_pool_global", dict(C=512, PIXELS=49, PE=2, BITS=8, OUT_BITS=14), {"s": 16}, {"m": 28}),
    Example("ge_add", dict(PE=4, A_BITS=4, B_BITS=4, AM=1, BM=1, OUT_BITS=6), {"a": 16, "b": 16}, {"m": 24}),
    Example("ge_add", dict(PE=1, A_BITS=8, B_BITS=8, AM=117, BM=-59, OUT_BITS=17), {"a": 8, "b": 8}, {"m": 17}),
    Example("ge_fork", dict(WIDTH=16), {"s": 16}, {"m0": 16, "m1": 16}),
    Example("ge_queue", dict(WIDTH=16, DEPTH=32), {"s": 16}, {"m": 16}),
    Example("ge_queue", dict(WIDTH=16, DEPTH=1500), {"s": 16}, {"m": 16}),
    Example(
        "ge_threshold",
        dict(C=16, PE=1, X_BITS=12, STEPS=3, OUT_BITS=2),
        {"s": 12},
        {"m": 2},
        {"THRESHOLDS_FILE": (16, 39)},
    ),
    Example(
        "ge_threshold",
        dict(C=64, PE=2, X_BITS=14, STEPS=15, OUT_BITS=4),
        {"s": 28},
        {"m": 8},
        {"THRESHOLDS_FILE": (32, 450)},
    ),
    Example("ge_concat", dict(A=4, B=2, WIDTH=16), {"a": 16, "b": 16}, {"m": 16}),
    Example("ge_split", dict(A=4, B=2, WIDTH=16), {"s": 16}, {"a": 16, "b": 16}),
    Example("ge_pad", dict(C=16, H=16, W=16, PE=4, BITS=4), {"s": 16}, {"m": 16}),
    Example("ge_upsample", dict(C=16, H=8, W=8, PE=4, BITS=4), {"s": 16}, {"m": 16}),
    Example("ge_argmax", dict(N=10, BITS=12, OUT_BITS=4), {"s": 12}, {"m": 4}),
    Example(
        "ge_table",
        dict(C=1, PE=2, X_BITS=8, XLO=-128, SIZE=256, OUT_BITS=8),
        {"s": 16},
        {"m": 16},
        {"TABLE_FILE": (256, 16)},
    ),
    Example("ge_width", dict(BITS=4, IN=2, OUT=8), {"s": 8}, {"m": 32}),
]


def wrap_unit(example: Example) -> str:
    """The unit between registers that a few pins fill and empty."""
    streams = [
        *((name, bits, True) for name, bits in example.inputs.items()),
        *((name, bits, False) for name, bits in example.outputs.items()),
    ]
    body, ports, total = [], [], 0
    for name, bits, is_input in streams:
        width = (bits + 7) // 8 * 8
        ports.append(f".{name}_tdata({name}_d), .{name}_tvalid({name}_v), .{name}_tready({name}_r)")
        body.append(f"    logic [{width - 1}:0] {name}_d, {name}_q;\n    logic {name}_v, {name}_r, {name}_f;\n")
        if is_input:
            body.append(
                f"    always_ff @(posedge clk) begin {name}_q <= {{{name}_q, pin[{total}]}}; "
                f"{name}_v <= pin[{total + 1}]; "
                f"{name}_f <= {name}_r; end\n"
                f"    assign {name}_d = {name}_q;\n    assign out[{total // 2}] = {name}_f;\n"
            )
        else:
            body.append(
                f"    always_ff @(posedge clk) begin {name}_q <= pin[{total}] ? {name}_d : {name}_q >> 1; "
                f"{name}_r <= pin[{total + 1}]; {name}_f <= {name}_v; end\n"
                f"    assign out[{total // 2}] = {name}_f ^ {name}_q[0];\n"
            )
        total += 2
    values = [f".{key}({value})" for key, value in example.parameters.items()] + [
        f'.{key}("{key}.mem")' for key in example.memories
    ]
    return (
        f"module bench (input logic clk, input logic reset, input logic [{total - 1}:0] pin, "
        f"output logic [{total // 2 - 1}:0] out);\n"
        f"    logic rst;\n    always_ff @(posedge clk) rst <= reset;\n{''.join(body)}"
        f"    {example.unit} #({', '.join(values)}) unit (.clk, .rst, {', '.join(ports)});\nendmodule\n"
    )


def plan(example: Example, clock: bool) -> Plan:
    """Synthesis with the unit kept apart, so that its cells can be counted, then everything flat for place and
    route."""
    draw = random.Random(1)
    sources = {path.name: path.read_bytes() for path in sorted(RTL.glob("*.sv"))}
    files = {**sources, "bench.sv": wrap_unit(example).encode()}
    for key, (words, bits) in example.memories.items():
        files[f"{key}.mem"] = "".join(f"{draw.getrandbits(bits):x}\n" for _ in range(words)).encode()
    read = "read_slang --threads 1 --ignore-assertions --best-effort-hierarchy --top bench"
    script = f"""{read} {" ".join(sources)} bench.sv
setattr -mod -set keep_hierarchy 1 {example.unit}$bench.unit
synth_ecp5 -abc9 -top bench
tee -q -o area.json stat -json
setattr -mod -unset keep_hierarchy *
flatten
opt_clean
write_json bench.json
"""
    files["area.ys"] = script.encode()
    yosys = Command(("{yosys}", "-q", "-l", "yosys.log", "-s", "area.ys"), "yosys.txt", "synthesis with yosys", 900)
    route = Command(
        (
            "{nextpnr-ecp5}",
            "--85k",
            "--package",
            "CABGA381",
            "--speed",
            "6",
            "--json",
            "bench.json",
            "--seed",
            "1",
            "--freq",
            "150",
            "--lpf-allow-unconstrained",
            "--timing-allow-fail",
            "--report",
            "report.json",
            "--textcfg",
            "bench.config",
        ),
        "nextpnr.log",
        "place and route with nextpnr-ecp5",
        900,
    )
    return Plan(files, (yosys, route) if clock else (yosys,), ("area.json", "report.json") if clock else ("area.json",))


def row(example: Example, folder: Path, clock: bool) -> str:
    """Builds one unit and gives its line of the table."""
    execute(plan(example, clock), folder, lambda line: print(f"  {example.name}: {line}", file=sys.stderr))
    modules = json.loads((folder / "area.json").read_text())["modules"]
    cells = next(module["num_cells_by_type"] for name, module in modules.items() if "$bench.unit" in name)
    fmax = "-"
    if clock:
        fmax = f"{min(c['achieved'] for c in json.loads((folder / 'report.json').read_text())['fmax'].values()):.0f}"
    parameters = " ".join(f"{key}={value}" for key, value in example.parameters.items())
    return f"| {example.unit} | {parameters} | {' | '.join(str(cells.get(cell, 0)) for cell in CELLS)} | {fmax} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", default="build/units")
    parser.add_argument("--no-clock", action="store_true", help="synthesis only")
    parser.add_argument(
        "patterns", nargs="*", help="regular expressions: only units whose name and parameters one of them matches"
    )
    arguments = parser.parse_args()
    print(
        "| unit | parameters | LUT4 | CCU2C | FF | LUTRAM | DP16KD | MULT18 | Fmax MHz |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )
    failed = 0
    for index, example in enumerate(EXAMPLES):
        if arguments.patterns and not any(re.search(pattern, example.name) for pattern in arguments.patterns):
            continue
        try:
            print(row(example, Path(arguments.o) / f"{index}", not arguments.no_clock), flush=True)
        except GreenedgeError as error:
            failed = 1
            print(f"| {example.unit} | {error} |", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
