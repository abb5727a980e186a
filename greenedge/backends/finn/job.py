"""What the FINN+ worker is asked: the chain of layers in FINN's terms, as job.json and one array per layer."""

from __future__ import annotations

import io
import json

import numpy as np

from greenedge.backends.finn.network import Chain, MatVec
from greenedge.graph import Edge

# FINN+ asks for an AMD part; this one has none of its rules on weight ranges. Our own units take its place.
VIRTUAL_PART = "xczu3eg-sbva484-1-e"
WEIGHT_BITS_PER_PE = 1024


def job_files(chain: Chain, target_cycles: int, clock_hz: int) -> dict[str, bytes]:
    """{"job.json": …, "job/LAYER.npy": …} for the worker."""
    layers, files = [], {}
    kind = chain.source.dtype
    for layer in chain.layers:
        if isinstance(layer, MatVec):
            data, op = layer.weight, "MVAU"
            data_type, out = _two_bits(data), Edge("", (), *_signed_span(layer.bits)).dtype
            extra = {}
        else:
            data, op = layer.thresholds, "Thresholding"
            data = np.broadcast_to(data, (layer.channels, data.shape[1]))
            data_type, out = Edge("", (), min(int(data.min()), -1), int(data.max())).dtype, layer.edge.dtype
            extra = {"lowest": layer.edge.lo}
        name = f"job/{layer.name}.npy"
        files[name] = _npy(data)
        layers.append({"name": layer.name, "op": op, "data": name, "data_type": data_type, "input_type": kind, "output_type": out,
                       "vectors": [1] if layer.vectors == 1 else [1, layer.vectors], "channels": layer.channels, "rtl": False, **extra})
        kind = out
    vectors = chain.layers[0].vectors
    job = {"input": {"type": chain.source.dtype, "vectors": [1] if vectors == 1 else [1, vectors], "channels": chain.source.shape[-1]},
           "layers": layers, "part": VIRTUAL_PART, "clock_ns": 1e9 / clock_hz, "target_cycles": target_cycles,
           "weight_bits_per_pe": WEIGHT_BITS_PER_PE}
    return {"job.json": (json.dumps(job, indent=1) + "\n").encode(), **files}


def _two_bits(weight: np.ndarray) -> str:
    """FINN's RTL unit wants signed weights of at least two bits."""
    return Edge("", (), min(int(weight.min()), -2), max(int(weight.max()), 1)).dtype


def _signed_span(bits: int) -> tuple[int, int]:
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array))
    return buffer.getvalue()
