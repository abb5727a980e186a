"""What the FINN+ worker and the stitcher are told: one JSON file and plain .npy arrays, the same bytes for the same chain."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from greenedge.backends.finn.network import Chain, MatVec, Step
from greenedge.graph import Edge, frozen

# A Versal part, because only there FINN+ has RTL for every width; nothing of it reaches our hardware.
VIRTUAL_PART = "xcvc1902-vsva2197-2MP-e-S"
WEIGHT_BITS_PER_PE = 4096  # let FINN+ unfold inputs (SIMD) first: an adder tree is cheaper than another accumulator


def job_files(chain: Chain, target_cycles: int, clock_hz: int, folding: dict[str, dict[str, int]]) -> dict[str, bytes]:
    """job.json and arrays/*.npy. `folding` fixes PE and SIMD of layers by name; the others are FINN+'s choice."""
    arrays: dict[str, bytes] = {}
    layers = []
    for layer in chain.layers:
        entry = _matvec(layer, arrays) if isinstance(layer, MatVec) else _step(layer, arrays)
        layers.append(entry | {"folding": folding.get(layer.name, {})})
    first = chain.layers[0]
    job = {"name": chain.name, "part": VIRTUAL_PART, "clock_ns": round(1e9 / clock_hz, 6), "target_cycles": target_cycles,
           "weight_bits_per_pe": WEIGHT_BITS_PER_PE, "source": _edge(chain.source), "aliases": chain.aliases,
           "input": {"type": chain.source.dtype, "vectors": [first.vectors],
                     "channels": first.weight.shape[0] if isinstance(first, MatVec) else first.channels},
           "layers": layers}
    return {"job.json": (json.dumps(job, indent=1) + "\n").encode(), **arrays}


def _edge(edge: Edge) -> dict:
    return {"name": edge.name, "shape": list(edge.shape), "lo": edge.lo, "hi": edge.hi}


def _put(arrays: dict[str, bytes], name: str, values: np.ndarray) -> str:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(values, np.int64))
    arrays[f"arrays/{name}.npy"] = buffer.getvalue()
    return f"arrays/{name}.npy"


def _int_type(bits: int, signed: bool) -> str:
    return f"{'INT' if signed else 'UINT'}{bits}"


def _matvec(layer: MatVec, arrays: dict[str, bytes]) -> dict:
    return {"name": layer.name, "op": "MVAU", "edge": _edge(layer.edge), "channels": layer.channels,
            "vectors": [layer.vectors], "input_type": _int_type(layer.in_bits, layer.in_signed),
            "data_type": _int_type(max(2, layer.weight_bits), True), "output_type": _int_type(layer.bits, True),
            "data": _put(arrays, f"{layer.name}_weight", layer.weight), "weight_bits": layer.weight_bits,
            "correction": _put(arrays, f"{layer.name}_correction", layer.correction), "correct": layer.correct}


def _step(layer: Step, arrays: dict[str, bytes]) -> dict:
    """FINN+ is told thresholds also where our affine unit will do the work: it then folds and converts around them.

    Where the layer has none (beyond a table's reach) one never-reached threshold stands for them; only the affine form,
    which is exact, is built then.
    """
    thresholds = layer.thresholds if layer.thresholds is not None else np.full((1, 1), layer.x_hi + 1)
    span = Edge("", (), min(layer.x_lo, int(thresholds.min())), max(layer.x_hi, int(thresholds.max())))
    entry = {"name": layer.name, "op": "Thresholding", "edge": _edge(layer.edge), "channels": layer.channels,
             "vectors": [layer.vectors], "input_type": _int_type(layer.in_bits, layer.in_signed),
             "data_type": _int_type(max(span.bits, layer.in_bits), layer.in_signed), "lowest": layer.edge.lo,
             "output_type": layer.edge.dtype, "data": _put(arrays, f"{layer.name}_thresholds", thresholds),
             "x_lo": layer.x_lo, "x_hi": layer.x_hi, "rtl": layer.affine is None, "shift": None}
    if layer.affine is not None:
        m, b, shift = layer.affine
        entry |= {"m": _put(arrays, f"{layer.name}_m", m), "b": _put(arrays, f"{layer.name}_b", b), "shift": shift}
    return entry


def read_job(folder: Path) -> tuple[dict, tuple[MatVec | Step, ...]]:
    """job.json and the layers it describes, as `job_files` was given them."""
    job = json.loads((folder / "job.json").read_text())
    return job, tuple(_read_layer(folder, entry) for entry in job["layers"])


def edge_of(data: dict) -> Edge:
    """The edge that a job describes."""
    return Edge(data["name"], tuple(data["shape"]), data["lo"], data["hi"])


def _read_layer(folder: Path, entry: dict) -> MatVec | Step:
    def array(key: str) -> np.ndarray:
        return frozen(np.load(folder / entry[key], allow_pickle=False))

    in_signed, in_bits = entry["input_type"].startswith("INT"), int(entry["input_type"].lstrip("UINT"))
    bits, vectors, edge = int(entry["output_type"].lstrip("UINT")), entry["vectors"][0], edge_of(entry["edge"])
    if entry["op"] == "MVAU":
        return MatVec(entry["name"], edge, array("data"), entry["weight_bits"], in_bits, in_signed, bits, vectors,
                      array("correction"), entry["correct"])
    affine = None if entry["shift"] is None else (array("m"), array("b"), entry["shift"])
    step = Step(entry["name"], edge, entry["channels"], vectors, in_bits, in_signed, affine, array("data"),
                entry["x_lo"], entry["x_hi"])
    assert step.bits == bits, "the job's output type is its edge's"
    return replace(step)
