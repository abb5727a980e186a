"""A build read back without running it: memory files against the graph, the netlist's memories against those files, and
the bitstream against what was routed.

What is compared, and with what:

memory files   rtl/ as it lies there, byte by byte, with what stitching the graph again gives
netlist        every memory in netlist.json, bit by bit, with the words of its memory file (rom_read.py)
routed         the block RAMs' contents in what nextpnr wrote, with those of the netlist
bitstream      what packing the routed configuration again gives, byte by byte; and the bitstream unpacked, of which
               block RAM contents (and on ECP5 look-up tables, on iCE40 every line) are compared with that configuration
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from greenedge.backends.finn import build_dir
from greenedge.backends.finn.amd import REQUEST
from greenedge.backends.finn.design import describe_damage, read_design
from greenedge.backends.finn.rom_read import Bit, RomReader, list_drivers
from greenedge.backends.finn.stitch import Stitched, build_files, stitch
from greenedge.backends.finn.topfile import Instance
from greenedge.backends.finn.units import FOLDER
from greenedge.errors import GreenedgeError
from greenedge.graph import Graph
from greenedge.graph.ops.base import Ints
from greenedge.hdl.board_shell.read_back import ReadBack, read_back_bitstream
from greenedge.hdl.netlist import NETLIST
from greenedge.progress import ProgressFn, no_progress

_CURE = "run the build stage again."
_SEARCH = re.compile(r"_search_(\d+|levels)\.mem$")


def read_back(graph: Graph, folder: Path, progress: ProgressFn = no_progress) -> tuple[ReadBack, ...]:
    """Every comparison that the files of the build allow. Raises GreenedgeError for a damaged one, ToolError."""
    network, folding = read_design(graph, folder)
    try:
        stitched = stitch(network, folding)
        files = build_files(graph, network.name, stitched)
    except (KeyError, ValueError, AssertionError) as error:
        raise describe_damage(folder, error) from None
    if (folder / REQUEST).is_file():  # units packed for AMD: their memories are the tool's
        return ()
    progress(0, 0, "reading memory files back")
    found = [compare_memory_files(folder, files)]
    if (folder / NETLIST).is_file():
        netlist = build_dir.read(folder, NETLIST)
        progress(0, 0, "reading the netlist's memories back")
        found.append(compare_netlist(netlist, build_dir.read(folder, "streams.json")["top"], stitched))
        family = build_dir.read(folder, "shell.json")["family"]
        found += read_back_bitstream(folder, netlist, family, lambda line: progress(0, 0, line))
    return tuple(found)


def compare_memory_files(folder: Path, expected: Mapping[str, bytes]) -> ReadBack:
    """Every file below rtl/ with what it must hold."""
    rtl, count = folder / FOLDER, 0
    try:
        there = {path.name: path.read_bytes() for path in sorted(rtl.iterdir())}
    except OSError as error:
        raise GreenedgeError(f"{error.filename} is missing; {_CURE}") from None
    differs = None
    for name in sorted(expected.keys() | there.keys()):
        content, got = expected.get(name), there.get(name)
        if content is None or got is None:
            what = "missing" if got is None else "no file of this build"
            differs = differs or f"{rtl / name} is {what}; {_CURE}"
        elif content != got:
            differs = differs or f"{rtl / name} {_first_line(content, got)}; {_CURE}"
        elif name.endswith(".mem"):
            count += len(content.split())
    return ReadBack("memory files and RTL", "the integer graph, stitched again", count, "memory words", differs=differs)


def _first_line(expected: bytes, got: bytes) -> str:
    """The first differing line of two files, in words."""
    lines, theirs = expected.splitlines(), got.splitlines()
    for k, (line, there) in enumerate(zip(lines, theirs, strict=False)):
        if line != there:
            shown = there[:40].decode(errors="replace")
            return f"has {shown!r} in line {k + 1} where the graph says {line[:40].decode()!r}"
    return f"has {len(theirs)} lines, and {len(lines)} by the graph" if len(lines) != len(theirs) else "differs"


def compare_netlist(netlist: Mapping[str, Any], module: str, stitched: Stitched) -> ReadBack:
    """Every memory of the core's netlist with the words of its file. Raises GreenedgeError for a damaged netlist."""
    try:
        core = netlist["modules"][module]
        drivers = list_drivers(core)
        names = {name: about["bits"] for name, about in core["netnames"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise GreenedgeError(f"{NETLIST} is damaged ({type(error).__name__}: {error}); {_CURE}") from None
    read = unread = 0
    differs = None
    for instance in stitched.instances:
        for file, (rows, bits) in (instance.unit.memories() if instance.unit else {}).items():
            rom = RomReader(core, drivers, len(rows))
            for place in range(rows.shape[1] * bits):
                if place % bits == 0:
                    rom.set_address(_find_address(names, instance, file, place // bits))
                found = _read_bit(rom, names, _data_names(instance, file, place, bits))
                if found is None:
                    unread += len(rows)
                    continue
                read += len(rows)
                wrong = np.flatnonzero(found[0] != _column(rows, bits, place))
                if len(wrong) and differs is None:
                    word = int(wrong[0])
                    differs = (
                        f"{NETLIST} has {int(found[0][word])} for bit {place} of word {word} of {file}, in {found[1]}, "
                        f"and the file says {1 - int(found[0][word])}; {_CURE}"
                    )
    return ReadBack("netlist memories", "the memory files", read, "bits", unread, differs)


def _read_bit(rom: RomReader, names: Mapping[str, list[Bit]], places: Iterator[tuple[str, int]]) -> Any:
    for name, index in places:
        bits = names.get(name)
        if bits is not None and index < len(bits):
            found = rom.read(bits[index])
            if found is not None:
                return found
    return None


def _column(rows: Ints, bits: int, place: int) -> Any:
    """Bit `place` of every word."""
    element, bit = divmod(place, bits)
    return np.array([(int(row[element]) >> bit) & 1 for row in rows], bool)


def _find_address(names: Mapping[str, list[Bit]], instance: Instance, file: str, element: int) -> list[Bit]:
    """The nets of the address register of the memory that gives this element of a word, as far as they are found."""
    if stage := _SEARCH.search(file):  # each lane has its own
        at = "" if stage[1] == "levels" else f"stage[{stage[1]}]."
        return names.get(f"{instance.name}.{at}lane[{element}].address", [])
    return next((names[name] for name in _address_names(instance, file) if name in names), [])


def _address_names(instance: Instance, file: str) -> Iterator[str]:
    """Where the address register of a memory may be found in the netlist, flattened by yosys under the units' names."""
    unit = instance.name
    if file.endswith("_weights.mem"):
        yield f"{unit}.wa"
    elif file.endswith("_correction.mem"):
        yield from (f"{unit}.correction.cn", f"{unit}.correction.g")
    elif file.endswith("_table.mem"):
        yield f"{unit}.lane[0].address"
    elif file.endswith("_places.mem"):
        yield from (f"{unit}.next_j", f"{unit}.j")
    else:
        yield from (f"{unit}.parallel.frame.c", f"{unit}.serial.unit.c", f"{unit}.frame.c")


def _data_names(instance: Instance, file: str, place: int, bits: int) -> Iterator[tuple[str, int]]:
    """(net, bit) that may carry bit `place` of the word that is read, nearest to its use first."""
    unit, (element, bit) = instance.name, divmod(place, bits)
    assert instance.unit is not None
    parameters = instance.unit.parameters
    if file.endswith("_weights.mem"):
        if "SIMD" in parameters:
            neuron, lane = divmod(element, parameters["SIMD"])
            yield f"{unit}.neuron[{neuron}].lane[{lane}].mul.w", bit
        else:
            yield f"{unit}.channel[{element}].mul.w", bit
        yield from ((f"{unit}.{name}", place) for name in ("w2", "w1"))
    elif file.endswith("_correction.mem"):
        yield f"{unit}.acc_init", place
    elif file.endswith("_table.mem"):
        yield f"{unit}.lane[{element}].v1", bit
    elif stage := _SEARCH.search(file):
        at = f"{unit}.lane[{element}].v_1" if stage[1] == "levels" else f"{unit}.stage[{stage[1]}].lane[{element}].t_2"
        yield at, bit
    elif file.endswith("_places.mem"):
        yield f"{unit}.word", bit
    elif file.endswith("_thresholds.mem"):
        yield f"{unit}.lane[{element}].field", bit
        yield from ((f"{unit}.frame.{name}", place) for name in ("fields", "fields_1"))
    else:
        yield from _parameter_names(unit, parameters, element, bit, place)


def _parameter_names(
    unit: str, parameters: Mapping[str, int], element: int, bit: int, place: int
) -> Iterator[tuple[str, int]]:
    """Of ge_requantise: b below m; m goes into a tree of ge_scale, which halves it until two bits are left."""
    wide, lane = parameters["B_BITS"], f"{unit}.parallel.lane[{element}]"
    if bit < wide:
        yield f"{lane}.b", bit
    else:
        index, size, path = bit - wide, parameters["M_BITS"], f"{lane}.scale"
        levels = (((size + 1) // 2) - 1).bit_length()
        yield f"{lane}.m", index
        yield f"{path}.m", index
        for level in range(levels, 0, -1):
            low = min(size, 2 << (level - 1))
            if index < low:
                path, size = f"{path}.node.l", low
            else:
                path, size, index = f"{path}.node.both.h", size - low, index - low
            yield f"{path}.m", index
    yield from ((f"{unit}.parallel.{name}", place) for name in ("fields", "frame.fields", "frame.fields_1"))
    yield from ((f"{unit}.serial.unit.{name}", place) for name in ("parameters", "block.p1", "p1"))
