"""Writes the files that edge_latency.py times, each with an input and its output; timing needs only the runtimes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from edge_runtimes import ABOUT, FORMAT, open_file
from float_tflite import float_tflite
from mlperf_tiny import NETWORKS, autoencoder

from greenedge.backends.int8.onnxruntime import edges_of as onnx_edges
from greenedge.backends.int8.onnxruntime import encode_inputs as onnx_inputs
from greenedge.backends.int8.onnxruntime.emit import write_file as write_onnx
from greenedge.backends.int8.proof_record import certificate, summary
from greenedge.backends.int8.tflite import PASSES, edges_of, encode_inputs
from greenedge.backends.int8.tflite.emit import write_file
from greenedge.graph import Graph
from greenedge.legalise import legalise_graph
from greenedge.lower import lower_file
from greenedge.runtimes import open_runtime
from greenedge.runtimes.floats import float_model
from greenedge.runtimes.torch import describe_model


def prepare(folder: Path, reference: Path | None) -> None:
    """Fills `folder`: prepared.json, and a folder of files for each network."""
    folder.mkdir(parents=True, exist_ok=True)
    networks = [
        _comparison(name, make, shape, folder, reference if name == "DS-CNN" else None)
        for name, (make, shape) in NETWORKS.items()
    ]
    networks.append(_storage(folder))
    (folder / ABOUT).write_text(json.dumps({"format": FORMAT, "networks": networks}, indent=1) + "\n")


def _graph(make, name: str, folder: Path) -> Graph:
    (folder / name).mkdir(exist_ok=True)
    make(folder / name / "source.onnx")
    return legalise_graph(lower_file(folder / name / "source.onnx").graph, PASSES)


def _comparison(name: str, make, shape, folder: Path, reference: Path | None) -> dict:
    graph = _graph(make, name, folder)
    levels = np.random.default_rng(0).integers(-128, 128, (1, *shape))
    emitted, onnx_int8, onnx_float = write_file(graph), write_onnx(graph), float_model(graph)
    float_x = np.asarray(levels, np.float32)
    (float_y,) = open_runtime("onnxruntime-float", graph).run(levels).values()
    place = folder / name
    held = [
        _store(
            place,
            "LiteRT int8 (ours)",
            "litert",
            "ours.tflite",
            emitted.content,
            *encode_inputs(edges_of(graph, emitted), levels),
        ),
        _store(place, "LiteRT float", "litert", "float.tflite", float_tflite(onnx_float), _last(float_x), float_y),
    ]
    if reference is not None:
        x = np.random.default_rng(0).integers(-128, 128, (1, 49, 10, 1)).astype(np.int8)
        held.append(
            _store(place, "MLPerf Tiny reference int8", "litert", "reference.tflite", reference.read_bytes(), x)
        )
    int8_x = onnx_inputs(onnx_edges(graph, onnx_int8), levels)
    held += [
        _store(place, "ONNX Runtime int8 (ours)", "onnxruntime", "ours.onnx", onnx_int8.content, *int8_x),
        _store(
            place, "ONNX Runtime float", "onnxruntime", "float.onnx", onnx_float.SerializeToString(), float_x, float_y
        ),
        _module(place, "PyTorch float", onnx_float, float_x, float_y),
    ]
    return {"name": name, "weights": _weights(graph), "base": held[0]["name"], "contenders": held, "told": []}


def _storage(folder: Path) -> dict:
    """Dense weights of 4 bits in half a byte each, against the same in int8."""
    graph = _graph(autoencoder, "autoencoder w4a4", folder)
    levels = np.random.default_rng(0).integers(-128, 128, (1, 640))
    held, told = [], []
    for storage, emitted in (("int8", write_file(graph)), ("int4-dense", write_file(graph, int4=True))):
        x = encode_inputs(edges_of(graph, emitted), levels)
        held.append(
            _store(
                folder / "autoencoder w4a4", f"storage={storage}", "litert", f"{storage}.tflite", emitted.content, *x
            )
        )
        proved = summary(certificate(emitted.layers), "xnnpack")
        told.append(
            f"storage={storage}: {proved['certified']:,} of {proved['channels']:,} channels certified, "
            f"{proved['differing_accumulators']:,} accumulators differ"
        )
    return {
        "name": "autoencoder w4a4",
        "weights": _weights(graph),
        "base": held[1]["name"],
        "contenders": held,
        "told": told,
    }


def _weights(graph: Graph) -> int:
    return sum(op.weight.size for op in graph.ops if hasattr(op, "weight"))


def _last(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


def _store(
    place: Path, name: str, runtime: str, file: str, content: bytes, x: np.ndarray, y: np.ndarray | None = None
) -> dict:
    """Writes a file and, beside it, its input and expected output: `y` of a float file, else the output on this
    machine."""
    (place / file).write_bytes(content)
    about = {
        "name": name,
        "runtime": runtime,
        "file": f"{place.name}/{file}",
        "bytes": len(content),
        "exact": y is None,
    }
    if y is None:
        np.savez(place / f"{file}.npz", x=x, y=np.zeros(0))
        y = open_file(place.parent, about).output
    np.savez(place / f"{file}.npz", x=x, y=y)
    return about


def _module(place: Path, name: str, model, x: np.ndarray, y: np.ndarray) -> dict:
    """The float network as JSON and arrays, from which torch rebuilds it without onnx."""
    described, arrays = describe_model(model)
    np.savez(place / "constants.npz", **{f"c{k}": values for k, values in enumerate(arrays.values())})
    content = json.dumps({**described, "constants": list(arrays)}).encode()
    return {**_store(place, name, "torch", "module.json", content, x, y), "bytes": None}
