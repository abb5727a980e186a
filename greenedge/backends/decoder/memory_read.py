"""The memories of a decoder in the block RAMs of a netlist: every bit of them, in the order of its words.

How yosys lays a memory out over block RAMs is not assumed. A bit of the words of one bank is a column; the contents of
every DP16KD are cut into columns in each shape that the RAM has, and the memory's column must be among those, cut to
their length and filled with zeros. So a changed bit of a weight is seen, also of one that no token reaches; that the
columns are wired to their places is for the simulation of the netlist to show.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greenedge.hdl.board_shell.read_back import ReadBack

Bits = NDArray[np.uint8]
_WORDS, _WORD_BITS, _STORED_BITS = 1024, 18, 20  # of a DP16KD; INITVALs keep 18 bits in 20
_LOGIC = ("exponential", "layers")  # rom_style = "logic" in ge_decoder_sample, ge_decoder_weigh and ge_decoder
_SHAPES = (36, 18, 9, 4, 2, 1)  # bits of a port; up to 4 they see the low eight of nine


def read_memories(netlist: Mapping[str, Any], memories: Mapping[str, bytes], widths: Mapping[str, int]) -> ReadBack:
    """Every bit of `memories` (write_memories, list_widths) in the netlist's block RAMs.

    Those that the units ask for in look-up tables, and bits that are alike in all words, are counted as unread where
    they are not there.
    """
    columns = _list_columns(netlist)
    read, unread, differs = 0, 0, None
    for name, content in sorted(memories.items()):
        for number, column in enumerate(read_bits(content, widths[name.partition(".")[0]]).T):
            if name not in _LOGIC and _is_there(column, columns):
                read += len(column)
            elif name in _LOGIC or not (column != column[0]).any():
                unread += len(column)
            else:
                differs = differs or (
                    f"netlist.json has bit {number} of the words of memory {name} in no block RAM as the decoder has "
                    "it; run the build stage again."
                )
    return ReadBack("netlist memories", "the decoder's weights and tables", read, "bits", unread, differs)


def read_bits(content: bytes, width: int) -> Bits:
    """(words, width) of a memory file, bit 0 first."""
    lines = content.split()
    size = -(-len(lines[0]) // 2)
    data = b"".join(int(line, 16).to_bytes(size, "little") for line in lines)
    return np.unpackbits(np.frombuffer(data, np.uint8).reshape(len(lines), size), axis=1, bitorder="little")[:, :width]


def _is_there(column: Bits, columns: Mapping[int, set[bytes]]) -> bool:
    for depth, there in columns.items():
        parts = np.concatenate([column, np.zeros(-len(column) % depth, np.uint8)]).reshape(-1, depth)
        if all(np.packbits(part).tobytes() in there for part in parts):
            return True
    return False


def _list_columns(netlist: Mapping[str, Any]) -> dict[int, set[bytes]]:
    """{words: columns of that length in any block RAM}."""
    found: dict[int, set[bytes]] = {}
    for words in _list_contents(netlist):
        nine = words.reshape(-1, 9)
        for size in _SHAPES:
            view = (words if size > 9 else nine if size == 9 else nine[:, :8]).reshape(-1, size)
            found.setdefault(len(view), set()).update(np.packbits(column).tobytes() for column in view.T)
    return found


def _list_contents(netlist: Mapping[str, Any]) -> Iterator[Bits]:
    """(1024, 18) of every DP16KD in modules that are hardware."""
    for module in netlist["modules"].values():
        if int(str(module.get("attributes", {}).get("blackbox", "0")), 2):
            continue
        for cell in module.get("cells", {}).values():
            if cell["type"] == "DP16KD":
                texts = (str(cell["parameters"].get(f"INITVAL_{k:02X}", "")) for k in range(64))
                text = "".join(_reverse(text) for text in texts)
                stored = (np.frombuffer(text.encode(), np.uint8) == ord("1")).astype(np.uint8)
                yield stored.reshape(_WORDS, _STORED_BITS)[:, :_WORD_BITS]


def _reverse(text: str) -> str:
    """320 bits, bit 0 first; what is not stated is 0 in the chip."""
    return text[-320:].rjust(320, "0")[::-1]
