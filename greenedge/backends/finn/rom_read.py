"""Reads a ROM out of a synthesised netlist: what stands on its data nets for every value of its address register.

Nothing is assumed of how yosys laid the memory out. Each data net is followed back through plain flip-flops, look-up
tables and read-only block RAMs until only the address register's bits and constants are left; whatever else is met
makes the net unreadable. So a ROM in look-up tables is read in the same way as one in a block RAM.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Bit = int | str  # of a yosys netlist: a net's number, or "0", "1", "x", "z"
Cell = Mapping[str, Any]
_LUT_INPUTS = {
    "LUT4": ("INIT", "ABCD"),
    "SB_LUT4": ("LUT_INIT", ("I0", "I1", "I2", "I3")),
    "LUT1": ("INIT", ("I0",)),
    "LUT2": ("INIT", ("I0", "I1")),
    "LUT3": ("INIT", ("I0", "I1", "I2")),
}
_GOWIN_LUT4 = ("INIT", ("I0", "I1", "I2", "I3"))
# kind -> (select, where it is 0, where it is 1)
_MUXES = {
    "PFUMX": ("C0", "BLUT", "ALUT"),
    "L6MUX21": ("SD", "D0", "D1"),
    **{f"MUX2_LUT{k}": ("S0", "I0", "I1") for k in (5, 6, 7, 8)},
}
# kind -> (data, synchronous reset or None, what the reset gives); yosys makes resets of a ROM's own logic
_REGISTERS = {
    "SB_DFF": ("D", None, False),
    "SB_DFFSR": ("D", "R", False),
    "SB_DFFSS": ("D", "S", True),
    "DFF": ("D", None, False),
    "DFFR": ("D", "RESET", False),
    "DFFS": ("D", "SET", True),
}
_CONSTANTS = {"GND": False, "VCC": True}
_GOWIN_RAM = {
    "SP": (8, "BIT_WIDTH", "AD"),
    "SPX9": (9, "BIT_WIDTH", "AD"),
    "SDPB": (8, "BIT_WIDTH_1", "ADB"),
    "SDPX9B": (9, "BIT_WIDTH_1", "ADB"),
}


class _UnreadableError(Exception):
    """A net depends on more than the address."""


class RomReader:
    """One ROM of a module of a yosys JSON netlist; `address` are the nets of its address register, bit 0 first."""

    def __init__(self, module: Mapping[str, Any], drivers: Mapping[int, tuple[str, str, int]], words: int) -> None:
        self._cells, self._drivers, self.words = module["cells"], drivers, words
        self._known: dict[Bit, tuple[Bools, int | None]] = {}
        self._unknown: set[Bit] = set()

    def set_address(self, nets: Sequence[Bit]) -> None:
        """The address register holds 0 … words-1 in turn."""
        for k, net in enumerate(nets):
            self._known[net] = ((np.arange(self.words) >> k & 1).astype(bool), 0)

    def read(self, net: Bit) -> tuple[Bools, str] | None:
        """(the net's value for every address, the cell that gives it, registers apart); None where it depends on
        something else."""
        try:
            values, _ = self._value(net, 0)
        except (_UnreadableError, RecursionError):
            return None
        name = "a constant"
        while isinstance(net, int) and net in self._drivers:
            name = self._drivers[net][0]
            cell = self._cells[name]
            data = "DI" if cell["type"] == "TRELLIS_FF" else _REGISTERS.get(cell["type"], ("", None, False))[0]
            if not data:
                break
            net = cell["connections"][data][0]
        return values, name

    def _value(self, net: Bit, deep: int) -> tuple[Bools, int | None]:
        """(value for every address, registers behind the address; None for a constant)."""
        if isinstance(net, str):
            if net not in "01":
                raise _UnreadableError
            return np.full(self.words, net == "1"), None
        if net not in self._known:
            if net in self._unknown or deep > 60 or net not in self._drivers:
                raise _UnreadableError
            self._unknown.add(net)  # until its value is known; a loop ends here
            name, port, index = self._drivers[net]
            self._known[net] = self._compute(self._cells[name], port, index, deep + 1)
        return self._known[net]

    def _compute(self, cell: Cell, port: str, index: int, deep: int) -> tuple[Bools, int | None]:
        kind, pins = cell["type"], cell["connections"]
        if kind in _CONSTANTS:
            return np.full(self.words, _CONSTANTS[kind]), None
        if kind in _LUT_INPUTS:
            parameter, names = _LUT_INPUTS[kind]
            names = _GOWIN_LUT4[1] if kind == "LUT4" and "I0" in pins else names
            return self._look_up(_bits_of(cell, parameter), [pins[name][0] for name in names if name in pins], deep)
        if kind in _MUXES:
            select, low, high = (self._value(pins[name][0], deep) for name in _MUXES[kind])
            return np.where(select[0], high[0], low[0]), _same_depth(select, low, high)
        if kind in _REGISTERS or kind == "TRELLIS_FF":
            return self._register(cell, deep)
        if kind in _MEMORIES:
            return _MEMORIES[kind](cell, port, index, lambda bit: self._value(bit, deep))
        raise _UnreadableError

    def _register(self, cell: Cell, deep: int) -> tuple[Bools, int | None]:
        """A flip-flop that takes its input, or its reset, in every cycle and for every address."""
        pins, turned = cell["connections"], False
        reset: str | None
        if cell["type"] == "TRELLIS_FF":
            data, reset, level = "DI", "LSR", _text(cell, "REGSET", "RESET") == "SET"
            turned = _text(cell, "LSRMUX", "LSR") == "INV"
            enable = _text(cell, "CEMUX", "1")
            if enable not in ("1", "CE", "INV"):
                raise _UnreadableError
            if enable != "1" and not (self._value(pins["CE"][0], deep)[0] ^ (enable == "INV")).all():
                raise _UnreadableError
            if _text(cell, "SRMODE", "LSR_OVER_CE") != "LSR_OVER_CE" and pins.get("LSR", ["0"]) != ["0"]:
                raise _UnreadableError  # asynchronous
        else:
            data, reset, level = _REGISTERS[cell["type"]]
        value = self._value(pins[data][0], deep)
        if reset is not None and reset in pins:
            to = self._value(pins[reset][0], deep)
            value = np.where(to[0] ^ turned, level, value[0]), _same_depth(value, to)
        return _spread(*value, 1)

    def _look_up(self, table: str, inputs: Sequence[Bit], deep: int) -> tuple[Bools, int | None]:
        known = [self._value(bit, deep) for bit in inputs]
        place = np.zeros(self.words, np.int64)
        for k, (value, _) in enumerate(known):
            place |= value.astype(np.int64) << k
        bits = np.array([bit == "1" for bit in reversed(table)])
        return bits[place], _same_depth(*known)


def _same_depth(*known: tuple[Bools, int | None]) -> int | None:
    """The registers behind the address, which all inputs must share: else they show different addresses."""
    depths = {depth for _, depth in known if depth is not None}
    if len(depths) > 1:
        raise _UnreadableError
    return depths.pop() if depths else None


def _bits_of(cell: Cell, name: str) -> str:
    value = cell["parameters"][name]
    if isinstance(value, int):
        raise _UnreadableError
    return str(value)


def _number(cell: Cell, name: str) -> int:
    value = cell["parameters"].get(name, "0")
    return int(value, 2) if isinstance(value, str) else int(value)


def _text(cell: Cell, name: str, default: str) -> str:
    return str(cell["parameters"].get(name, default)).strip()


Read = Callable[[Bit], tuple[Bools, int | None]]


def _address(bits: Sequence[Bit], read: Read) -> tuple[NDArray[np.int64], int | None]:
    known = [read(bit) for bit in bits]
    place = sum((value.astype(np.int64) << k for k, (value, _) in enumerate(known)), np.zeros(1, np.int64))
    return place, _same_depth(*known)


def _init_bits(cell: Cell, names: Sequence[str], each: int) -> list[str]:
    """The initial bits of a block RAM, bit 0 of the first parameter first; "x" where nothing is stated."""
    bits: list[str] = []
    for name in names:
        text = str(cell["parameters"].get(name, "x" * each)).rjust(each, "0")
        bits.extend(reversed(text[-each:]))
    return bits


def _pick(bits: Sequence[str], places: NDArray[np.int64]) -> Bools:
    chosen = [bits[int(place)] for place in places]
    if any(bit not in "01" for bit in chosen):
        raise _UnreadableError
    return np.array([bit == "1" for bit in chosen])


_HEX = [f"{k:02X}" for k in range(64)]


def _ecp5_ram(cell: Cell, port: str, index: int, read: Read) -> tuple[Bools, int | None]:
    """DP16KD, as hdl/cells/dp16kd.v says: 1,024 words of 18 bits, each in 20 bits of the initial values."""
    pins, side, bit = cell["connections"], port[2], int(port[3:])
    if any(pins.get(f"WE{s}", ["0"]) != ["0"] and pins.get(f"CE{s}", ["1"]) != ["0"] for s in "AB"):
        raise _UnreadableError  # it may be written
    wide = _number(cell, "DATA_WIDTH_B") == 36
    width = 36 if wide else _number(cell, f"DATA_WIDTH_{side}")
    from_side = "B" if wide else side
    first = {36: 5, 18: 4, 9: 3, 4: 2, 2: 1, 1: 0}[width]  # the lowest address bit that counts
    place, depth = _address([pins[f"AD{from_side}{k}"][0] for k in range(first, 14)], read)
    bits = _init_bits(cell, [f"INITVAL_{name}" for name in _HEX], 320)
    if width == 36:
        word, offset = 2 * place + (side == "B"), np.full(len(place), bit)
    elif width == 18:
        word, offset = place, np.full(len(place), bit)
    else:
        byte, within = np.divmod(place, {9: 1, 4: 2, 2: 4, 1: 8}[width])
        word, offset = byte // 2, 9 * (byte % 2) + within * width + bit
    registered = _text(cell, f"REGMODE_{side}", "NOREG") == "OUTREG"
    return _spread(_pick(bits, 20 * word + offset), depth, 1 + registered)


def _ice40_ram(cell: Cell, port: str, index: int, read: Read) -> tuple[Bools, int | None]:
    """SB_RAM40_4K: 256 words of 16 bits, of which a narrow port shows every second, fourth or eighth."""
    pins, mode = cell["connections"], _number(cell, "READ_MODE")
    if port != "RDATA" or (pins.get("WCLKE", ["1"]) != ["0"] and pins.get("WE", ["0"]) != ["0"]):
        raise _UnreadableError
    place, depth = _address(pins["RADDR"][: 8 + mode], read)
    group = 1 << mode
    start = index if mode == 0 else index - {1: 0, 2: 1, 3: 3}[mode]  # the first of the bits that a pin shows in turn
    if start % group:
        raise _UnreadableError
    bits = _init_bits(cell, [f"INIT_{k:X}" for k in range(16)], 256)
    return _spread(_pick(bits, 16 * (place & 255) + start + (place >> 8)), depth, 1)


def _gowin_ram(cell: Cell, port: str, index: int, read: Read) -> tuple[Bools, int | None]:
    """Gowin's block RAM, as hdl/cells/gowin_ram.v says: 2,048 bytes, four, two, one or a part of one at a time."""
    unit, width_name, address_name = _GOWIN_RAM[cell["type"]]
    width, pins = _number(cell, width_name), cell["connections"]
    place, depth = _address(pins[address_name], read)
    size = width // unit
    if size:
        first = place >> 3 & ~(size - 1)
        places = unit * (first + index // unit) + index % unit
    else:
        places = unit * (place >> 3) + (place & 7 & ~(width - 1)) + index
    bits = _init_bits(cell, [f"INIT_RAM_{name}" for name in _HEX], 32 * unit)
    return _spread(_pick(bits, places), depth, 1)


def _spread(values: Bools, depth: int | None, registers: int) -> tuple[Bools, int | None]:
    return values, None if depth is None else depth + registers


_MEMORIES = {"DP16KD": _ecp5_ram, "SB_RAM40_4K": _ice40_ram, **dict.fromkeys(_GOWIN_RAM, _gowin_ram)}


def list_drivers(module: Mapping[str, Any]) -> dict[int, tuple[str, str, int]]:
    """{net: (cell, port, index within the port)} of every net that a cell of the module drives."""
    return {
        bit: (name, port, index)
        for name, cell in module["cells"].items()
        for port, bits in cell["connections"].items()
        if cell.get("port_directions", {}).get(port) == "output"
        for index, bit in enumerate(bits)
        if isinstance(bit, int)
    }
