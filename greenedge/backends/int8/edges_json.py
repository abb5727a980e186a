"""What lies beside a built int8 file: how its edges are stored. It may come from anybody, so everything in it is checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from greenedge.backends.int8.proof_record import read_record
from greenedge.errors import GreenedgeError
from greenedge.graph.execute import accept_input
from greenedge.graph.ops import Edge

_FAR = 1 << 31  # no level and no size lies beyond


def stored(about: Mapping, x: np.ndarray | Mapping[str, np.ndarray]) -> Iterator[tuple[Mapping, np.ndarray]]:
    """(what edges.json says, graph integers + offset) of every input, in the file's order. `x` is the first input's array, or a dict.

    Raises GreenedgeError for integers that an input does not take.
    """
    feeds = dict(x) if isinstance(x, Mapping) else {about["inputs"][0]: x}
    for name in about["inputs"]:
        told = about["edges"][name]
        yield (
            told,
            accept_input(Edge(name, tuple(told["shape"]), told["lo"], told["hi"]), feeds.get(name)) + told["offset"],
        )


def read_edges(path: Path, mark: str, whole: tuple[str, ...] = (), lists: tuple[str, ...] = ()) -> dict:
    """edges.json in the format `mark`; each edge has the integers lo, hi, offset and those named in `whole`, the lists of integers shape
    and those in `lists`. Raises GreenedgeError where it is missing or damaged."""
    about = read_record(path)
    if about.get("format") != mark:
        raise damaged(path, f"its format is {about.get('format')!r}")
    edges = about.get("edges")
    if not isinstance(edges, dict) or not all(isinstance(edge, dict) for edge in edges.values()):
        raise damaged(path, "it has no edges")
    for name, edge in edges.items():
        for key in ("lo", "hi", "offset", *whole):
            if not _is_whole(edge.get(key)):
                raise damaged(path, f"{key!r} of {name!r} is no integer")
        for key in ("shape", *lists):
            if not isinstance(edge.get(key), list) or not all(map(_is_whole, edge[key])):
                raise damaged(path, f"{key!r} of {name!r} is no list of integers")
    for key in ("inputs", "outputs"):
        names = about.get(key)
        if (
            not isinstance(names, list)
            or not names
            or not all(isinstance(name, str) and name in edges for name in names)
        ):
            raise damaged(path, f"its {key} are no edges")
    return about


def _is_whole(value: object) -> bool:
    return type(value) is int and -_FAR <= value <= _FAR


def damaged(path: Path, why: str) -> GreenedgeError:
    """The error for such a file."""
    return GreenedgeError(f"{path} is damaged ({why}); run the build stage again.")
