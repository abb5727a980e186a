"""Merges the register behind a block RAM into the RAM: ECP5's DP16KD has an output register that yosys does not use.

    python -m greenedge.hdl.board_shell.ram_registers synthesised.json netlist.json

In nextpnr's timing, clock to output falls from 5.8 to 1.0 ns, and the flip-flops are saved. A port is changed only
where every output bit that is read goes to one plain flip-flop (no enable, no reset, initial value 0) on the RAM's read
clock, and the port has no reset. Its behaviour is then the same in every cycle, which the netlist simulation checks.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from greenedge.files.atomic_write import atomic_write


@dataclass(frozen=True)
class Merged:
    """Counts: RAMs of a netlist, RAMs with a merged register, flip-flops removed."""

    rams: int
    changed: int
    flip_flops: int


def merge_output_registers(netlist: Mapping) -> Merged:
    """Changes a yosys JSON netlist in place, module by module."""
    rams = changed = flip_flops = 0
    for module in netlist["modules"].values():
        cells = module.get("cells", {})
        blocks = [cell for cell in cells.values() if cell["type"] == "DP16KD"]
        rams += len(blocks)
        if blocks:
            readers = _readers(module)
            for cell in blocks:
                count = _merge(cell, cells, readers)
                changed += bool(count)
                flip_flops += count
    return Merged(rams, changed, flip_flops)


def _readers(module: Mapping) -> dict[int, list[tuple[str, str]]]:
    """The connections of each net: (cell, port), or ("", port) for a port of the module."""
    found: dict[int, list[tuple[str, str]]] = {}
    for name, cell in module["cells"].items():
        for port, bits in cell["connections"].items():
            for bit in bits:
                found.setdefault(bit, []).append((name, port))
    for port, about in module["ports"].items():
        for bit in about["bits"]:
            found.setdefault(bit, []).append(("", port))
    return found


def _merge(ram: dict, cells: dict, readers: Mapping) -> int:
    """Merges registers into the ports of one RAM; returns the number of flip-flops removed."""
    wide = _number(ram, "DATA_WIDTH_B") == 36
    return sum(_merge_port(ram, sides, cells, readers) for sides in (("AB",) if wide else ("A", "B")))


def _merge_port(ram: dict, sides: str, cells: dict, readers: Mapping) -> int:
    """The same for one port ("AB": both sides of a 36-bit port); 0 where a condition above does not hold."""
    clock_side = sides[-1]  # a 36-bit read belongs to port B's clock
    connections = ram["connections"]
    if connections.get(f"RST{clock_side}", ["0"]) != ["0"] or any(
        _text(ram, f"REGMODE_{side}", "NOREG") != "NOREG" for side in sides
    ):
        return 0
    clock = (connections[f"CLK{clock_side}"], _text(ram, f"CLK{clock_side}MUX", f"CLK{clock_side}") == "INV")
    moves: dict[str, str] = {}
    for port, bits in connections.items():
        if not port.startswith("DO") or port[2] not in sides:
            continue
        using = [
            reader
            for bit in bits
            if not isinstance(bit, str)
            for reader in readers[bit]
            if reader[1] != port or cells.get(reader[0]) is not ram
        ]
        if not using:
            continue
        name, pin = using[0]
        if len(using) != 1 or pin != "DI" or not _is_plain(cells.get(name), clock):
            return 0
        moves[port] = name
    for port, name in moves.items():
        connections[port] = cells.pop(name)["connections"]["Q"]
    for side in sides if moves else "":
        ram["parameters"][f"REGMODE_{side}"] = "OUTREG"
        connections[f"OCE{side}"] = ["1"]
        ram["port_directions"][f"OCE{side}"] = "input"
    return len(moves)


def _is_plain(cell: Mapping | None, clock: tuple[list, bool]) -> bool:
    """Whether the cell is a flip-flop without enable and reset on that clock (net, inverted) with initial value 0."""
    if cell is None or cell["type"] != "TRELLIS_FF":
        return False
    connections = cell["connections"]
    return (
        _text(cell, "CEMUX", "1") == "1"
        and connections.get("LSR", ["0"]) == ["0"]
        and _text(cell, "LSRMUX", "LSR") == "LSR"
        and _text(cell, "REGSET", "RESET") == "RESET"
        and (connections["CLK"], _text(cell, "CLKMUX", "CLK") == "INV") == clock
    )


def _text(cell: Mapping, name: str, default: str) -> str:
    # yosys appends a blank to a text that looks like a number
    return str(cell["parameters"].get(name, default)).strip()


def _number(cell: Mapping, name: str) -> int:
    value = cell["parameters"].get(name, "0")
    return int(value, 2) if isinstance(value, str) else int(value)


def main(source: str, result: str) -> int:
    """Reads one netlist, writes the other and prints the counts; the exit status."""
    try:
        netlist = json.loads(Path(source).read_bytes())
        merged = merge_output_registers(netlist)
        with atomic_write(Path(result)) as path:
            path.write_text(json.dumps(netlist))
    except (OSError, ValueError, KeyError) as error:
        print(f"error: {source} could not be turned into {result}: {type(error).__name__}: {error}")
        return 1
    print(f"{merged.flip_flops} flip-flops moved into {merged.changed} of {merged.rams} block RAMs")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
