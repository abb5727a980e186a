"""edges.json beside a built int8 file: how its edges are stored. Anybody may have written it, so everything in it is
checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from greenedge.backends.int8.proof_record import Record, read_record
from greenedge.backends.interface import Feeds
from greenedge.errors import GreenedgeError
from greenedge.graph.execute import accept_input
from greenedge.graph.ops import Edge
from greenedge.graph.ops.base import Ints

WIDE = "int32"  # the type of accumulators
_FAR = 1 << 31  # no level and no size lies beyond


def offset_inputs(about: Record, x: Feeds) -> Iterator[tuple[Record, Ints]]:
    """(entry of edges.json, graph integers + offset) of every input, in the file's order. `x` is the first input's
    array, or a dict.

    Raises GreenedgeError for integers that an input does not take.
    """
    feeds = dict(x) if isinstance(x, Mapping) else {about["inputs"][0]: x}
    for name in about["inputs"]:
        entry = about["edges"][name]
        edge = Edge(name, tuple(entry["shape"]), entry["lo"], entry["hi"])
        yield entry, accept_input(edge, feeds.get(name)) + entry["offset"]


def read_edges(path: Path, mark: str, kind: str, whole: tuple[str, ...] = (), lists: tuple[str, ...] = ()) -> Record:
    """edges.json in the format `mark`; each edge has the integers lo, hi, offset and those named in `whole`, the
    lists of integers shape and those in `lists`, and the type in which it is stored: `kind`, where none is named, or
    int32. Raises GreenedgeError where it is missing or damaged."""
    about = read_record(path)
    if about.get("format") != mark:
        raise damage_error(path, f"its format is {about.get('format')!r}")
    edges = about.get("edges")
    if not isinstance(edges, dict) or not all(isinstance(edge, dict) for edge in edges.values()):
        raise damage_error(path, "it has no edges")
    for name, edge in edges.items():
        for key in ("lo", "hi", "offset", *whole):
            if not _is_whole(edge.get(key)):
                raise damage_error(path, f"{key!r} of {name!r} is no integer")
        for key in ("shape", *lists):
            if not isinstance(edge.get(key), list) or not all(map(_is_whole, edge[key])):
                raise damage_error(path, f"{key!r} of {name!r} is no list of integers")
        if edge.setdefault("type", kind) not in (kind, WIDE):
            raise damage_error(path, f"{name!r} is stored as neither {kind} nor {WIDE}")
    for key in ("inputs", "outputs"):
        names = about.get(key)
        if (
            not isinstance(names, list)
            or not names
            or not all(isinstance(name, str) and name in edges for name in names)
        ):
            raise damage_error(path, f"its {key} are no edges")
    return about


def _is_whole(value: object) -> bool:
    return type(value) is int and -_FAR <= value <= _FAR


def damage_error(path: Path, why: str) -> GreenedgeError:
    """The error for such a file."""
    return GreenedgeError(f"{path} is damaged ({why}); run the build stage again.")
