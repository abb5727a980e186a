"""Constraint files: the pins of the board's signals, their electrical standard, the clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from greenedge.errors import TargetError


def constraint_file(
    family: str, pins: Mapping[str, str], io: Mapping[str, Sequence[str]], clock_hz: int
) -> tuple[str, bytes]:
    """(name, content) for signals {port: pin}. `io` has settings per signal in the tool's notation
    ("IO_TYPE=LVCMOS33"), "default" for the other signals. Raises TargetError for a family without a writer."""
    name, write = constraint_name(family), _WRITERS[family][1]
    settings = {port: tuple(io.get(port, io.get("default", ()))) for port in pins}
    return name, "".join(f"{line}\n" for line in write(pins, settings, clock_hz)).encode()


def constraint_name(family: str) -> str:
    """The name of the family's constraint file. Raises TargetError for a family without a writer."""
    if family not in _WRITERS:
        raise TargetError(f"greenedge writes no constraints for family {family!r}; it knows {', '.join(_WRITERS)}.")
    return _WRITERS[family][0]


def _lpf(pins: Mapping[str, str], settings: Mapping[str, Sequence[str]], clock_hz: int) -> list[str]:
    lines = []
    for port, pin in pins.items():
        lines.append(f'LOCATE COMP "{port}" SITE "{pin}";')
        if settings[port]:
            lines.append(f'IOBUF PORT "{port}" {" ".join(settings[port])};')
    return [*lines, f'FREQUENCY PORT "clk" {clock_hz / 1e6:g} MHZ;']


def _pcf(pins: Mapping[str, str], settings: Mapping[str, Sequence[str]], clock_hz: int) -> list[str]:
    return [
        *(" ".join(("set_io", *settings[port], port, pin)) for port, pin in pins.items()),
        f"set_frequency clk {clock_hz / 1e6:g}",
    ]


def _cst(pins: Mapping[str, str], settings: Mapping[str, Sequence[str]], clock_hz: int) -> list[str]:
    lines = []
    for port, pin in pins.items():
        lines.append(f'IO_LOC "{port}" {pin};')
        if settings[port]:
            lines.append(f'IO_PORT "{port}" {" ".join(settings[port])};')
    return lines


_WRITERS = {"ecp5": ("board.lpf", _lpf), "ice40": ("board.pcf", _pcf), "gowin": ("board.cst", _cst)}
