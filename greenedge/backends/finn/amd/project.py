"""What goes to Vivado and to the board, from templates: projects, Verilog around the core, driver, golden samples."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from greenedge.graph import Graph, run_graph
from greenedge.graph.joined_inputs import join_inputs
from greenedge.graph.joined_outputs import join_outputs
from greenedge.hdl import RTL
from greenedge.hdl.axi_stream import Stream

FOLDER = "vivado"
_TEMPLATES = Path(__file__).with_name("templates")
_PACKETS = ("ge_fifo.sv", "ge_queue.sv", "amd/ge_packet.sv")  # what greenedge_axis.v needs beside the core
_LANE_BYTES = 4  # of a word of the DMA engine
_SAMPLES, _SEED = 32, 1


def project_files(request: Mapping[str, Any], about: Mapping[str, Any], graph: Graph) -> dict[str, bytes]:
    """{"vivado/…": content} for what amd.json and streams.json say."""
    first, last = (Stream.from_plain(about["streams"][k]) for k in (0, -1))
    assert max(first.bytes, last.bytes) <= _LANE_BYTES, (
        "a beat of the core is at most as wide as a word of the DMA engine"
    )
    values = {
        **request,
        "top": about["top"],
        "sources": " ".join(f"rtl/{name}" for name in about["sources"]),
        "s_beats": first.beats,
        "m_beats": last.beats,
        "taken": first.width,
        "given": last.width,
        "mhz": f"{request['clock_hz'] / 1e6:g}",
        "period_ns": f"{1e9 / request['clock_hz']:.3f}",
        "digest": request["model"],
    }
    names = ["core.tcl", "core.xdc", "memories.tcl"]
    files: dict[str, bytes] = {}
    if request["shell"] == "vivado_zynq":
        names += ["overlay.tcl", "greenedge_axis.v", "driver.py"]
        packets = {name.rpartition("/")[2]: (RTL / name).read_bytes() for name in _PACKETS}
        packets = {f"{FOLDER}/{name}": content for name, content in packets.items() if name not in about["sources"]}
        values |= {**_driver(first, last), "packets": " ".join(packets)}
        files |= packets
        files[f"{FOLDER}/golden.npz"] = _write_golden_samples(graph)
    return {**files, **{f"{FOLDER}/{name}": _fill_template(name, values) for name in names}}


def _fill_template(name: str, values: Mapping[str, Any]) -> bytes:
    template = _TEMPLATES / f"{name}.in" if name.endswith(".py") else _TEMPLATES / name
    text = template.read_text(encoding="utf-8")
    return re.sub(r"@(\w+)@", lambda match: str(values[match[1]]), text).encode()


def _driver(first: Stream, last: Stream) -> dict[str, object]:
    values: dict[str, object] = {
        "out_signed": last.signed,
        "in_shape": first.shape,
        "out_shape": last.shape,
        "out_offset": tuple(int(v) for v in np.resize(last.offset or (0,), last.elements * last.beats)),
    }
    for way, stream in (("in", first), ("out", last)):
        values |= {
            f"{way}_bits": stream.bits,
            f"{way}_elements": stream.elements,
            f"{way}_beats": stream.beats,
            f"{way}_order": [int(k) for k in stream.order],
        }
    return values


def _write_golden_samples(graph: Graph) -> bytes:
    """Random samples, both ends of the range among them, and what the integer graph says to them."""
    rng, levels = np.random.default_rng(_SEED), {}
    for edge in map(graph.edges.__getitem__, graph.inputs):
        x = levels[edge.name] = rng.integers(edge.lo, edge.hi + 1, (_SAMPLES, *edge.shape))
        x[0], x[-1] = edge.lo, edge.hi
    expected, buffer = run_graph(graph, levels), io.BytesIO()
    y = expected[graph.outputs[0]] if len(expected) == 1 else join_outputs(graph, expected)
    np.savez(buffer, x=join_inputs(graph, levels).astype(np.int16), y=y)
    return buffer.getvalue()
