"""Stores an integer graph as two files without code in them, graph.json and graph.npz, and reads them back.

graph.json holds the structure, graph.npz the arrays (int64, no pickles). Together they have a digest that does not
depend on when or where they were written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np

from greenedge.errors import GreenedgeError
from greenedge.files.atomic_write import atomic_write
from greenedge.graph.ops import OPS, Affine, Edge, Graph, Op, frozen

FORMAT = "greenedge-graph/1"
_MAX_BYTES = 2 << 30  # of arrays in one graph: checked in the archive's index before anything is unpacked


def save_graph(graph: Graph, folder: Path) -> None:
    """Writes graph.json and graph.npz into `folder`, each whole or not at all."""
    structure, arrays = _split(graph)
    with atomic_write(folder / "graph.npz") as path, open(path, "wb") as file:
        np.savez_compressed(file, **arrays)
    with atomic_write(folder / "graph.json") as path:
        path.write_text(json.dumps(structure, indent=1) + "\n")


def load_graph(folder: Path) -> Graph:
    """The graph stored in `folder`. Raises GreenedgeError when a file is missing, foreign or damaged."""
    try:
        structure = json.loads((folder / "graph.json").read_text())
        if structure.get("format") != FORMAT:
            raise GreenedgeError(f"{folder / 'graph.json'}: format {structure.get('format')!r}, expected {FORMAT!r}.")
        arrays = _load_arrays(folder / "graph.npz")
        return _join(structure, arrays)
    except FileNotFoundError as error:
        raise GreenedgeError(f"{error.filename} is missing; run the lower stage again.") from None
    except (ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
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


def _split(graph: Graph) -> tuple[dict, dict[str, np.ndarray]]:
    arrays: dict[str, np.ndarray] = {}

    def plain(value, key):
        if isinstance(value, np.ndarray):
            arrays[key] = value
            return {"array": key}
        if isinstance(value, Affine):
            return {part: plain(getattr(value, part), f"{key}.{part}") for part in ("m", "b", "s")}
        return list(value) if isinstance(value, tuple) else value

    ops = []
    for k, op in enumerate(graph.ops):
        fields = {f.name: plain(getattr(op, f.name), f"{k}.{f.name}") for f in dataclasses.fields(op)}
        ops.append({"op": type(op).__name__, **fields})
    edges = [dataclasses.asdict(edge) | {"shape": list(edge.shape)} for edge in graph.edges.values()]
    return {"format": FORMAT, "name": graph.name, "outputs": list(graph.outputs), "edges": edges, "ops": ops}, arrays


def _load_arrays(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        size = sum(info.file_size for info in archive.infolist())
    if size > _MAX_BYTES:
        raise GreenedgeError(f"{path} would unpack to {size:,} bytes; at most {_MAX_BYTES:,} are accepted.")
    with np.load(path, allow_pickle=False) as archive:
        return {key: frozen(archive[key]) for key in archive.files}


def _join(structure: dict, arrays: dict[str, np.ndarray]) -> Graph:
    def rich(value):
        if isinstance(value, dict):
            return (
                arrays[value["array"]] if "array" in value else Affine(*(rich(value[part]) for part in ("m", "b", "s")))
            )
        return tuple(value) if isinstance(value, list) else value

    ops: list[Op] = []
    for entry in structure["ops"]:
        fields = {key: rich(value) for key, value in entry.items() if key != "op"}
        ops.append(OPS[entry["op"]](**fields))
    edges = {e["name"]: Edge(e["name"], tuple(e["shape"]), int(e["lo"]), int(e["hi"])) for e in structure["edges"]}
    return Graph(structure["name"], tuple(ops), edges, tuple(structure["outputs"]))
