"""What a unit costs, estimated from its parameters before anything is synthesised.

Cells are sums of what a unit is made of (bits of products, of adders, of buffers …), each with a coefficient in
resources.toml that `benchmarks/finn_resources.py --fit` takes from yosys's counts for ECP5. Blocks of memory follow
from the blocks' shapes. Estimates only: what yosys then counts is reported beside them.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from greenedge.backends.finn.units import Unit, ring_pixels

DATA = Path(__file__).with_name("resources.toml")
Parameters = Mapping[str, int]
Features = tuple[dict[str, float], int]  # (what a unit is made of, blocks of memory)
CELLS = ("lut4", "ccu2c", "ff", "ram16")  # yosys: LUT4, CCU2C, TRELLIS_FF, TRELLIS_DPR16X4
AMD = ("zynq", "zynq-us", "virtex-us")
# family -> (words, widest word) of a block: ECP5 DP16KD, iCE40 SB_RAM40_4K, Gowin BSRAM, RAMB36
_BLOCKS = {
    "ecp5": ((512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2), (16384, 1)),
    "ice40": ((256, 16), (512, 8), (1024, 4), (2048, 2)),
    "gowin": ((512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2), (16384, 1)),
    **dict.fromkeys(AMD, ((512, 72), (1024, 36), (2048, 18), (4096, 9), (8192, 4), (16384, 2), (32768, 1))),
}
BLOCK_BITS = {"ecp5": 18432, "ice40": 4096, "gowin": 18432, **dict.fromkeys(AMD, 36864)}
# Share of a block's bits: yosys builds what would use less of its blocks from cells (seen at 0.055 and 0.07).
_LEAST_USE = 0.06


@dataclass(frozen=True)
class Cost:
    """Cells by yosys's names on ECP5, and blocks of memory."""

    lut4: float = 0
    ccu2c: float = 0
    ff: float = 0
    ram16: float = 0
    blocks: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.lut4 + other.lut4,
            self.ccu2c + other.ccu2c,
            self.ff + other.ff,
            self.ram16 + other.ram16,
            self.blocks + other.blocks,
        )

    @property
    def by_cell(self) -> dict[str, float]:
        """The cells of CELLS."""
        return dict(zip(CELLS, (self.lut4, self.ccu2c, self.ff, self.ram16), strict=True))

    @property
    def logic(self) -> float:
        """Logic cells as nextpnr packs them: a carry cell takes two, a 16×4 memory four; packing wastes some."""
        return 1.15 * (self.lut4 + 2 * self.ccu2c + 4 * self.ram16)


def blocks_of(depth: int, bits: int, family: str = "ecp5") -> int:
    """Blocks of memory for `depth` words of `bits` bits."""
    return min(-(-bits // width) * -(-depth // words) for words, width in _BLOCKS[family])


def estimate(unit: Unit, family: str = "ecp5") -> Cost:
    """The cost of one unit."""
    parts, blocks = features(unit, family)
    known = coefficients().get(kind_of(unit), {})
    cells = {cell: sum(known.get(cell, {}).get(name, 0.0) * amount for name, amount in parts.items()) for cell in CELLS}
    return Cost(**cells, blocks=blocks)


@cache
def coefficients() -> Mapping[str, Mapping[str, Mapping[str, float]]]:
    """{module: {cell: {part: cells per unit of it}}}."""
    units: Mapping[str, Mapping[str, Mapping[str, float]]] = tomllib.loads(DATA.read_text())["units"]
    return units


def kind_of(unit: Unit) -> str:
    """The module whose cells these are: a requantiser with time is another one inside."""
    p = unit.parameters
    serial = unit.module == "ge_requantise" and p["CYCLES"] >= p["M_BITS"] + 2 and p["SHIFT"] > p["M_BITS"]
    return "ge_requantise_serial" if serial else unit.module


def features(unit: Unit, family: str = "ecp5") -> Features:
    """(what the unit is made of, blocks of memory)."""
    parts, blocks = _FEATURES[kind_of(unit)](unit.parameters, family)
    return {**parts, "unit": 1}, blocks


def _rows(depth: int, bits: int) -> float:
    """Bits of 16-deep distributed memory; a memory of a few words is little more than wires."""
    return bits * (-(-depth // 16) if depth > 4 else depth / 16)


def _products(lanes: int, p: Parameters, sums: int) -> dict[str, float]:
    """`lanes` products of a W_BITS-bit weight and an A_BITS-bit activation, added in groups into `sums`
    accumulators."""
    low_rows = (max(p["W_BITS"] - 2, 0) + 1) // 2
    return {
        "digit": lanes * (p["A_BITS"] + 2),
        "row": lanes * low_rows * (p["A_BITS"] + p["W_BITS"]),
        "tree": (lanes - sums) * (p["A_BITS"] + p["W_BITS"] + 1),
        "sum": sums * p["OUT_BITS"],
    }


def _buffer(depth: int, bits: int, family: str) -> tuple[float, int]:
    """(bits of distributed memory, blocks) of a memory that goes where yosys finds it cheaper."""
    blocks = blocks_of(depth, bits, family)
    return (0.0, blocks) if depth * bits >= _LEAST_USE * blocks * BLOCK_BITS[family] else (_rows(depth, bits), 0)


def _mvu(p: Parameters, family: str) -> Features:
    sf, nf = p["K"] // p["SIMD"], p["M"] // p["PE"]
    buffer, blocks = _buffer((2 if sf * nf >= 8 else 4) << (sf - 1).bit_length(), p["SIMD"] * p["A_BITS"], family)
    parts = _products(p["PE"] * p["SIMD"], p, p["PE"]) | {"buffer": buffer, "output": p["PE"] * p["OUT_BITS"]}
    return parts, blocks + blocks_of(sf * nf, p["PE"] * p["SIMD"] * p["W_BITS"], family)


def _depthwise(p: Parameters, family: str) -> Features:
    depth = p["C"] // p["PE"] * p["TAPS"]
    memory, blocks = _buffer(depth, p["PE"] * p["W_BITS"], family)
    return _products(2 * p["PE"], p, p["PE"]) | {"memory": memory}, blocks


def _requantise(p: Parameters, family: str) -> Features:
    folds, field = p["C"] // p["PE"], p["M_BITS"] + p["B_BITS"]
    memory, blocks = _buffer(folds, p["PE"] * field, family)
    return {
        "product": p["PE"] * p["M_BITS"] * (p["X_BITS"] + 2),
        "bias": p["PE"] * p["B_BITS"],
        "memory": memory,
        "out": p["PE"] * p["OUT_BITS"],
    }, blocks


def _serial(p: Parameters, family: str) -> Features:
    folds, field = p["C"] // p["PE"], p["M_BITS"] + p["B_BITS"]
    memory, blocks = (
        (_rows(folds, p["PE"] * field), 0) if folds < 16 else (0.0, blocks_of(folds, p["PE"] * field, family))
    )
    adder = p["PE"] * max(p["X_BITS"] + 1, p["B_BITS"] - p["M_BITS"] - 1)
    return {"adder": adder, "out": p["PE"] * p["OUT_BITS"], "memory": memory}, blocks


def _columns(depth: int, bits: int) -> float:
    """Expected number of different bits of a read-only memory made of look-up tables: equal columns are built once, and
    a few words have few columns (bits drawn at random from the 2**depth there can be)."""
    kinds = 2.0 ** min(depth, 64)
    return -kinds * math.expm1(-bits / kinds)


def _threshold(p: Parameters, family: str) -> Features:
    lanes, folds = p["PE"] * p["STEPS"], p["C"] // p["PE"]
    width = lanes * (p["X_BITS"] + 1) + p["PE"] * p["FALLS"]
    _, blocks = _buffer(folds, width, family)
    columns = 0.0 if blocks else _columns(folds, width)
    return {
        "compare": lanes * (p["X_BITS"] + 1),
        "count": lanes,
        "columns": columns,
        "tables": columns * -(-folds // 16),
        "word": p["PE"] * p["X_BITS"],
    }, blocks


def _search(p: Parameters, family: str) -> Features:
    """Every lane has memories of its own; what travels beside them is held for three cycles a stage."""
    folds, n = p["C"] // p["PE"], p["N"]
    depths = [(folds << s, p["X_BITS"]) for s in range(n)] + [(folds << n, p["OUT_BITS"])]
    parts = [_buffer(depth, bits, family) for depth, bits in depths]
    beside = 3 * n * (p["PE"] * p["X_BITS"] + folds.bit_length()) + 3 * p["PE"] * n * (n + 1) // 2
    return {
        "memory": p["PE"] * sum(rows for rows, _ in parts),
        "compare": p["PE"] * n * p["X_BITS"],
        "beside": beside,
        "out": p["PE"] * p["OUT_BITS"],
    }, p["PE"] * sum(blocks for _, blocks in parts)


def _table(p: Parameters, family: str) -> Features:
    depth = max(1, p["C"] // p["PE"]) * p["SIZE"]
    memory, blocks = _buffer(depth, p["OUT_BITS"] * p["PE"], family)
    return {"memory": memory, "lanes": p["PE"] * (p["X_BITS"] + p["OUT_BITS"])}, blocks


def _window(p: Parameters, family: str) -> Features:
    words = ring_pixels(p) * p["C"] // p["PE"]
    words = words if words <= 64 else 1 << (words - 1).bit_length()
    memory, blocks = _buffer(words, p["PE"] * p["BITS"], family)
    counters = sum(int(p[name]).bit_length() for name in ("H", "W", "KH", "KW")) + (p["C"] // p["PE"]).bit_length()
    # where there is padding each position is compared with the image's edges
    pads = counters if p["PT"] or p["PL"] or p["PB"] or p["PR"] else 0
    return {"memory": memory, "word": p["PE"] * p["BITS"], "counters": counters, "pads": pads}, blocks


def _words(*names: str) -> Callable[[Parameters, str], Features]:
    """Units that are registers and adders over one beat: bits of it."""

    def parts(p: Parameters, family: str) -> Features:
        return {"word": p.get("PE", 1) * sum(p[name] for name in names)}, 0

    return parts


def _multiply(p: Parameters, family: str) -> Features:
    """Bits of the registers of the factors, and of the rows of the multiplier."""
    a, b = p["A_BITS"] + (not p["ASGN"]), p["B_BITS"] + (p["BZERO"] != 0)
    return {"word": p["PE"] * (a + b), "row": p["PE"] * -(-b // 2) * (a + 2), "out": p["PE"] * p["OUT_BITS"]}, 0


def _width(p: Parameters, family: str) -> Features:
    wide = max(p["IN"], p["OUT"])
    return {
        "wide": wide * p["BITS"] if p["IN"] < p["OUT"] else 0,
        "narrow": wide * p["BITS"] if p["IN"] > p["OUT"] else 0,
    }, 0


def _pool(p: Parameters, family: str) -> Features:
    return {"word": p["PE"] * p["OUT_BITS"]}, 0


def _pool_global(p: Parameters, family: str) -> Features:
    memory, blocks = _buffer(p["C"] // p["PE"], p["PE"] * p["OUT_BITS"], family)
    return {"word": p["PE"] * p["OUT_BITS"], "memory": memory}, blocks


def _upsample(p: Parameters, family: str) -> Features:
    memory, blocks = _buffer(2 * p["W"] * p["C"] // p["PE"], p["PE"] * p["BITS"], family)
    return {"word": p["PE"] * p["BITS"], "memory": memory}, blocks


def _reorder(p: Parameters, family: str) -> Features:
    ring, blocks = _buffer(p["DEPTH"], p["WIDTH"], family)
    bits = (p["N"] - 1).bit_length() + (p["DEPTH"] - 1).bit_length() + p["N"].bit_length()
    places, more = _buffer(p["M"], bits, family)
    counters = bits + p["M"].bit_length()
    return {"word": p["WIDTH"], "memory": ring, "places": places, "counters": counters}, blocks + more


def _queue(p: Parameters, family: str) -> Features:
    shallow = p["DEPTH"] <= 64  # as ge_queue chooses
    memory, blocks = (_rows(p["DEPTH"], p["WIDTH"]), 0) if shallow else (0.0, blocks_of(p["DEPTH"], p["WIDTH"], family))
    return {"word": p["WIDTH"], "memory": memory, "counters": int(p["DEPTH"]).bit_length()}, blocks


_FEATURES: dict[str, Callable[[Parameters, str], Features]] = {
    "ge_mvu": _mvu,
    "ge_depthwise": _depthwise,
    "ge_requantise": _requantise,
    "ge_requantise_serial": _serial,
    "ge_threshold": _threshold,
    "ge_search": _search,
    "ge_table": _table,
    "ge_window": _window,
    "ge_pad": _words("BITS"),
    "ge_pool": _pool,
    "ge_pool_global": _pool_global,
    "ge_add": _words("A_BITS", "B_BITS", "OUT_BITS"),
    "ge_multiply": _multiply,
    "ge_fork": _words("WIDTH"),
    "ge_concat": _words("WIDTH"),
    "ge_upsample": _upsample,
    "ge_reorder": _reorder,
    "ge_queue": _queue,
    "ge_width": _width,
    "ge_argmax": _words("BITS", "OUT_BITS"),
}
