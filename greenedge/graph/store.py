"""Stores an integer graph as two files without code in them, graph.json and graph.npz, and reads them back.

graph.json holds the structure, graph.npz the arrays (int64, no pickles). Together they have a digest that does not
depend on when or where they were written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from greenedge.errors import GreenedgeError
from greenedge.files.arrays import read_stream
from greenedge.files.atomic_write import atomic_write
from greenedge.files.json_file import read_json
from greenedge.graph.graph import Graph
from greenedge.graph.ops import OPS, Edge, Op, freeze
from greenedge.graph.ops.base import Ints

FORMAT = "greenedge-graph/1"
_MAX_BYTES = 2 << 30  # of arrays in one graph: checked in the archive's index before anything is unpacked


def save_graph(graph: Graph, folder: Path) -> None:
    """Writes graph.json and graph.npz into `folder`, each whole or not at all."""
    structure, arrays = _split(graph)
    with atomic_write(folder / "graph.npz") as path, open(path, "wb") as file:
        named: dict[str, Any] = {**arrays}  # numpy's stubs take every keyword for `allow_pickle`
        np.savez_compressed(file, **named)
    with atomic_write(folder / "graph.json") as path:
        path.write_text(json.dumps(structure, indent=1) + "\n")


_DAMAGED = (  # what zipfile, zlib and the fields of a foreign graph raise
    *(ValueError, KeyError, TypeError, AttributeError, OSError, EOFError, NotImplementedError, RuntimeError),
    *(OverflowError, zipfile.BadZipFile, zlib.error),
)


def load_graph(folder: Path) -> Graph:
    """The graph stored in `folder`. Raises GreenedgeError when a file is missing, foreign or damaged."""
    try:
        structure = read_json(folder / "graph.json")
        if structure.get("format") != FORMAT:
            raise GreenedgeError(f"{folder / 'graph.json'}: format {structure.get('format')!r}, expected {FORMAT!r}.")
        arrays = _load_arrays(folder / "graph.npz")
        return _join(structure, arrays)
    except FileNotFoundError as error:
        raise GreenedgeError(f"{error.filename} is missing; run the lower stage again.") from None
    except _DAMAGED as error:
        raise GreenedgeError(
            f"{folder}: the stored integer graph is damaged ({error}); run the lower stage again."
        ) from None


def graph_digest(graph: Graph) -> str:
    """sha256 over structure and arrays: two graphs with the same digest compute the same integers."""
    structure, arrays = _split(graph)
    digest = hashlib.sha256(json.dumps(structure, sort_keys=True).encode())
    for key in sorted(arrays):
        digest.update(f"{key}{arrays[key].shape}".encode() + np.ascontiguousarray(arrays[key]).astype("<i8").tobytes())
    return digest.hexdigest()


def _split(graph: Graph) -> tuple[dict[str, Any], dict[str, Ints]]:
    arrays: dict[str, Ints] = {}

    def plain(value: object, key: str) -> object:
        if isinstance(value, np.ndarray):
            arrays[key] = value
            return {"array": key}
        if isinstance(value, Mapping):
            return {part: plain(inner, f"{key}.{part}") for part, inner in value.items()}
        return list(value) if isinstance(value, tuple) else value

    ops = []
    for k, op in enumerate(graph.ops):
        ops.append({"op": op.kind} | {name: plain(value, f"{k}.{name}") for name, value in op.list_fields().items()})
    edges = [_describe_edge(edge) for edge in graph.edges.values()]
    return {"format": FORMAT, "name": graph.name, "outputs": list(graph.outputs), "edges": edges, "ops": ops}, arrays


def _describe_edge(edge: Edge) -> dict[str, Any]:
    """An edge as it is stored; a zero of 0 is left out."""
    fields = dataclasses.asdict(edge) | {"shape": list(edge.shape)}
    return fields if edge.zero else {name: value for name, value in fields.items() if name != "zero"}


def _load_arrays(path: Path) -> dict[str, Ints]:
    with zipfile.ZipFile(path) as archive:
        size = sum(info.file_size for info in archive.infolist())
        if size > _MAX_BYTES:
            raise GreenedgeError(f"{path} would unpack to {size:,} bytes; at most {_MAX_BYTES:,} are accepted.")
        arrays: dict[str, Ints] = {}
        for info in archive.infolist():
            with archive.open(info) as file:
                arrays[info.filename.removesuffix(".npy")] = freeze(read_stream(file, info.file_size, path))
    return arrays


def _join(structure: dict[str, Any], arrays: dict[str, Ints]) -> Graph:
    def rich(value: Any) -> Any:
        if isinstance(value, dict):
            if "array" in value:
                return arrays[value["array"]]
            return {part: rich(inner) for part, inner in value.items()}
        return tuple(value) if isinstance(value, list) else value

    ops: list[Op] = []
    for entry in structure["ops"]:
        ops.append(OPS[entry["op"]].from_fields({key: rich(value) for key, value in entry.items() if key != "op"}))
    edges = {
        e["name"]: Edge(e["name"], tuple(e["shape"]), int(e["lo"]), int(e["hi"]), int(e.get("zero", 0)))
        for e in structure["edges"]
    }
    return Graph(structure["name"], tuple(ops), edges, tuple(structure["outputs"]))
