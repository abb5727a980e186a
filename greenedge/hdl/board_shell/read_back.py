"""A bitstream read back: the netlist's block RAMs in what was routed, and what was routed in the bitstream.

Neither text is the whole truth: unpacking also prints settings that are the chip's default, and leaves out what sets no
bit. So the routed configuration is packed again and compared byte by byte with the bitstream, and beside that another
program unpacks the bitstream, of which everything that has one spelling is compared with the configuration.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greenedge.errors import GreenedgeError, ToolError
from greenedge.files.atomic_write import atomic_write
from greenedge.files.cache import cache_folder
from greenedge.files.scratch import scratch_folder
from greenedge.hdl.board_shell.bitstream import NETLIST, PRODUCT
from greenedge.tools.discover import find_tool
from greenedge.tools.plan import Command, Plan
from greenedge.tools.run import execute

_VERSION = b"1"  # of the comparison: what another one found equal is compared again
_CURE = "run the build stage again."
_UNUSED = "1" * 16  # a look-up table that is not configured
_INIT_WORDS = [f"INITVAL_{k:02X}" for k in range(64)]

Contents = tuple[str, ...]  # of one block RAM, in the words of its text format
Settings = dict[tuple[str, str], str]  # (place, setting) -> value


@dataclass(frozen=True)
class ReadBack:
    """One static comparison of something built with what it was made from, without running it.

    `what` was compared with `against`: `items` of `unit` ("bits", "lines"); `unread` more could not be found there, and
    nothing is proved of them. `differs` is the first difference in one sentence, None where all are equal.
    """

    what: str
    against: str
    items: int
    unit: str
    unread: int = 0
    differs: str | None = None


@dataclass(frozen=True)
class _Family:
    """How a family's files are called, packed and read."""

    routed: str
    packer: str
    pack: tuple[str, ...]
    unpacker: str
    unpack: tuple[str, ...]
    read: Callable[[str], tuple[list[Contents], Settings]]
    netlist_contents: Callable[[Mapping[str, Any]], list[Contents]]
    words: str


def read_back_bitstream(
    folder: Path, netlist: Mapping[str, Any], family: str, progress: Callable[[str], None]
) -> list[ReadBack]:
    """The comparisons for a family whose bitstreams can be unpacked; none for another. Raises GreenedgeError for files
    that are missing, ToolError."""
    if family not in _FAMILIES:
        return []
    about = _FAMILIES[family]
    try:
        routed, product = (folder / about.routed).read_bytes(), (folder / PRODUCT[family]).read_bytes()
    except OSError as error:
        raise GreenedgeError(f"{error.filename} is missing; {_CURE}") from None
    contents, settings = about.read(routed.decode(errors="replace"))
    found = [_compare_contents(about, about.netlist_contents(netlist), contents)]
    packed = _compare_packed(folder, family, routed, product, progress)
    found.append(packed)
    if packed.differs is None:
        found.append(_compare_unpacked(folder, family, product, contents, settings, progress))
    return found


def _compare_contents(about: _Family, expected: list[Contents], contents: list[Contents]) -> ReadBack:
    """The block RAMs of the netlist with those that were placed, whatever their places."""
    missing = Counter(expected) - Counter(contents)
    differs = None
    if missing or len(expected) != len(contents):
        differs = (
            f"{about.routed} has {len(contents)} block RAMs and {NETLIST} {len(expected)}, of which "
            f"{sum(missing.values())} have no equal in {about.routed}; {_CURE}"
        )
    count = sum(map(len, expected))
    return ReadBack("routed block RAMs", "the netlist", count, about.words, differs=differs)


def _compare_packed(
    folder: Path, family: str, routed: bytes, product: bytes, progress: Callable[[str], None]
) -> ReadBack:
    """The bitstream with what packing the routed configuration gives now."""
    about, name = _FAMILIES[family], PRODUCT[family]
    key = _key(b"packed", str(find_tool(about.packer)).encode(), routed, product)
    differs = None
    if not _was_equal(key):
        progress("packing the routed configuration again")
        again = _run({about.routed: routed}, about.pack, name, progress)
        if again == product:
            _remember_equal(key)
        else:
            place = next((k for k, (a, b) in enumerate(zip(again, product, strict=False)) if a != b), -1)
            where = f"in byte {place}" if place >= 0 else f"in length, {len(product)} bytes for {len(again)}"
            differs = f"{folder / name} differs {where} from what packing {about.routed} gives; {_CURE}"
    return ReadBack("bitstream", "the routed configuration, packed again", len(product), "bytes", differs=differs)


def _compare_unpacked(
    folder: Path,
    family: str,
    product: bytes,
    contents: list[Contents],
    settings: Settings,
    progress: Callable[[str], None],
) -> ReadBack:
    """The bitstream unpacked, with block RAM contents and settings of the routed configuration."""
    about, name = _FAMILIES[family], PRODUCT[family]
    routed = repr((sorted(contents), sorted(settings.items()))).encode()
    key = _key(b"unpacked", str(find_tool(about.unpacker)).encode(), routed, product)
    differs = None
    if not _was_equal(key):
        progress("unpacking the bitstream")
        try:
            text = _run({name: product}, about.unpack, "unpacked.txt", progress).decode(errors="replace")
        except ToolError as error:
            differs = f"{folder / name} cannot be unpacked: {str(error).rstrip('.')}; {_CURE}"
        else:
            differs = _find_difference(folder / name, about, *about.read(text), contents, settings)
        if differs is None:
            _remember_equal(key)
    items = sum(map(len, contents)) + len(settings)
    return ReadBack("bitstream, unpacked", "the routed configuration", items, "words and settings", differs=differs)


def _find_difference(
    path: Path, about: _Family, there: list[Contents], got: Settings, contents: list[Contents], settings: Settings
) -> str | None:
    lost = Counter(contents) - Counter(there)
    if lost:
        return f"{path} holds {sum(lost.values())} block RAMs otherwise than {about.routed}; {_CURE}"
    for place, setting in sorted(settings.keys() | got.keys()):
        value, other = settings.get((place, setting)), got.get((place, setting))
        if value != other:
            return f"{path} has {setting} {other or 'unset'} in {place}, and {about.routed} {value or 'unset'}; {_CURE}"
    return None


def _run(files: Mapping[str, bytes], argv: tuple[str, ...], product: str, progress: Callable[[str], None]) -> bytes:
    with scratch_folder("readback") as scratch:
        folder = scratch / "work"
        command = Command(argv, "tool.log", f"running {argv[0].strip('{}')}", 600)
        execute(Plan(files, (command,), (product,)), folder, progress)
        return (folder / product).read_bytes()


def _key(*parts: bytes) -> Path:
    """Where it is remembered that these bytes were found equal: the comparison is pure, and takes ten seconds."""
    digest = hashlib.sha256(_VERSION)
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return cache_folder("read-back") / digest.hexdigest()


def _was_equal(key: Path) -> bool:
    return key.is_file() and key.read_text() == key.name


def _remember_equal(key: Path) -> None:
    with atomic_write(key) as path:
        path.write_text(key.name)


# -- ECP5: Project Trellis's text configuration


def _read_ecp5(text: str) -> tuple[list[Contents], Settings]:
    """Block RAM contents, 9 bits a word, and what each look-up table holds where it is configured."""
    contents: list[Contents] = []
    settings: Settings = {}
    tile = ""
    words: list[str] | None = None
    for line in text.splitlines():
        if line.startswith("."):
            if words is not None:
                contents.append(tuple(words))
            kind, _, tile = line.partition(" ")
            words = [] if kind == ".bram_init" else None
        elif words is not None:
            words.extend(line.split())
        elif line.startswith("word:") and line.split()[1].endswith(".INIT"):
            _, setting, value = line.split()
            if value != _UNUSED:
                settings[tile, setting] = value
    if words is not None:
        contents.append(tuple(words))
    return contents, settings


def _ecp5_contents(netlist: Mapping[str, Any]) -> list[Contents]:
    found = []
    for parameters in _parameters_of(netlist, "DP16KD"):
        bits = "".join(_reverse_bits(parameters, name, 320) for name in _INIT_WORDS)
        halves = (bits[20 * k + 9 * h : 20 * k + 9 * h + 9] for k in range(1024) for h in (0, 1))
        found.append(tuple(f"{int(half[::-1], 2):03x}" for half in halves))
    return found


def _parameters_of(netlist: Mapping[str, Any], kind: str) -> list[Mapping[str, Any]]:
    """The parameters of all cells of a kind in modules that are hardware."""
    return [
        cell["parameters"]
        for module in netlist["modules"].values()
        if not int(str(module.get("attributes", {}).get("blackbox", "0")), 2)
        for cell in module.get("cells", {}).values()
        if cell["type"] == kind
    ]


def _reverse_bits(parameters: Mapping[str, Any], name: str, size: int) -> str:
    """A parameter's bits, bit 0 first; what is not stated is 0 in the chip."""
    text = str(parameters.get(name, "")).replace("x", "0").rjust(size, "0")
    return text[-size:][::-1]


# -- iCE40: IceStorm's text configuration


def _read_ice40(text: str) -> tuple[list[Contents], Settings]:
    """Block RAM contents, a row of 256 bits a word, and the rows of every tile that is not empty."""
    contents: list[Contents] = []
    settings: Settings = {}
    tile = ""
    rows: list[str] = []

    def close() -> None:
        kind = tile.split(" ")[0]
        if kind == ".ram_data":
            contents.append(tuple(rows))
        elif kind.endswith("_tile"):
            settings.update({(tile, f"row {k}"): row for k, row in enumerate(rows) if "1" in row})

    for line in text.splitlines():
        if line.startswith("."):
            close()
            tile, rows = line.strip(), []
        elif line.strip():
            rows.append(line.strip())
    close()
    return [words for words in contents if any(re.search("[1-9a-f]", word) for word in words)], settings


def _ice40_contents(netlist: Mapping[str, Any]) -> list[Contents]:
    found = []
    for parameters in _parameters_of(netlist, "SB_RAM40_4K"):
        rows = (int(_reverse_bits(parameters, f"INIT_{k:X}", 256)[::-1], 2) for k in range(16))
        found.append(tuple(f"{row:064x}" for row in rows))
    return [words for words in found if any(re.search("[1-9a-f]", word) for word in words)]


_FAMILIES = {
    "ecp5": _Family(
        "top.config",
        "ecppack",
        ("{ecppack}", "--compress", "--input", "top.config", "--bit", "top.bit"),
        "ecpunpack",
        ("{ecpunpack}", "--input", "top.bit", "--textcfg", "unpacked.txt"),
        _read_ecp5,
        _ecp5_contents,
        "words of 9 bits",
    ),
    "ice40": _Family(
        "top.asc",
        "icepack",
        ("{icepack}", "top.asc", "top.bin"),
        "iceunpack",
        ("{iceunpack}", "top.bin", "unpacked.txt"),
        _read_ice40,
        _ice40_contents,
        "rows of 256 bits",
    ),
}
