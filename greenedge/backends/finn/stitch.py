"""From layers and their folding to RTL: memory files, the stitched top, and what every stream carries (streams.json).

    python -m greenedge.backends.finn.stitch        in the build folder

It reads graph.* and folding.json, and writes rtl/ and streams.json.

The units are those of greenedge/hdl/rtl; the top is plain SystemVerilog, each stream called after its layer.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from greenedge.backends.finn import amd
from greenedge.backends.finn.design import read_design
from greenedge.backends.finn.dialect.layer import Fold, Layer, Wire
from greenedge.backends.finn.dialect.ops import Network
from greenedge.backends.finn.folding import conversions, through_pins
from greenedge.backends.finn.named_streams import NAME, SOURCES, NamedStreams, name_streams, write_top
from greenedge.backends.finn.topfile import Instance, top
from greenedge.backends.finn.units import FOLDER, Unit, memory_file, unit_of
from greenedge.errors import GreenedgeError
from greenedge.files.atomic_write import atomic_write
from greenedge.graph import Graph, load_graph
from greenedge.hdl import RTL
from greenedge.hdl.axi_stream import Stream, layout_of
from greenedge.hdl.axi_stream.core import TOP


@dataclass(frozen=True)
class Stitched:
    """The instances of the top in order, and the streams: the input first, the output last, one per edge between."""

    instances: tuple[Instance, ...]
    streams: tuple[Stream, ...]

    @property
    def sources(self) -> tuple[str, ...]:
        """The units' files, each after what it needs."""
        modules = dict.fromkeys(instance.unit.module for instance in self.instances if instance.unit)
        return tuple(dict.fromkeys(f"{name}.sv" for module in modules for name in _with_parts(module)))


def source_of(name: str) -> Path:
    """Where a source of ours lies."""
    return next(path for path in (RTL / name, RTL / "amd" / name) if path.is_file())


@cache
def _with_parts(module: str) -> tuple[str, ...]:
    """The modules of ours that a module is made of, then itself; not what only simulations have (GE_ASSERT)."""
    code = re.sub(r"//.*", "", source_of(f"{module}.sv").read_text())
    code = re.sub(r"^`ifdef GE_ASSERT$.*?^`endif$", "", code, flags=re.MULTILINE | re.DOTALL)
    parts = dict.fromkeys(re.findall(r"\b(ge_\w+) #?\(", code))
    return tuple(dict.fromkeys([*(name for part in parts if part != module for name in _with_parts(part)), module]))


class _Stitcher:
    """Adds one layer after another; puts converters where two layers differ in width or type."""

    def __init__(self, network: Network, folding: Mapping[str, Fold]) -> None:
        queued = {queue.result.name for queue in network.queues}
        self.behind = {
            wire.name: layer.elements(folding[layer.name])[0]
            for layer in network.layers
            if not layer.passes_beats
            for wire in layer.sources
            if wire.name in queued
        }
        self.instances: list[Instance] = []
        self.streams: dict[str, Stream] = {}
        self.taken = {network.source.name, *(wire.name for layer in network.layers for wire in layer.results)}

    def add(self, layer: Layer, fold: Fold | None) -> None:
        """Appends a layer's unit and the converters before it; without a fold it passes beats on."""
        inward, outward = layer.ports
        if fold is None:
            fold = self.pass_on(layer)
        taken, given = layer.elements(fold)
        ports = {}
        for k, port in enumerate(inward):
            stem = layer.name if len(inward) == 1 else f"{layer.name}_{port}"
            ports[port] = self.adapt(self.streams[layer.sources[k].name], layer.sources[k], taken, stem)
        for port, wire in zip(outward, layer.results, strict=True):
            ports[port] = self.streams[wire.name] = stream_of(wire, given)
        self.instances.append(Instance(self.fresh(f"{layer.name}_unit"), unit_of(layer, fold), ports, outward))

    def pass_on(self, layer: Layer) -> Fold:
        """How many integers per beat a fork or a queue has: as they come; a queue before a wider layer holds its.

        What joins two branches may take them in turn, each at full speed. A converter behind the queue would then give
        beats at the pace of its narrower side, and between its turns it would wait with one beat in it.
        """
        given, taken = self.streams[layer.source.name].elements, self.behind.get(layer.result.name)
        return Fold(given if taken is None or given % taken == 0 else taken)

    def fresh(self, wanted: str) -> str:
        """A name that nothing else in the top has."""
        while wanted in self.taken:
            wanted += "_"
        self.taken.add(wanted)
        return wanted

    def adapt(self, stream: Stream, wanted: Wire, count: int, stem: str) -> Stream:
        """The stream in the type of `wanted`, `count` elements per beat: at most two converters."""
        if (stream.bits, stream.signed) != (wanted.bits, wanted.signed):
            result = replace(stream, name=self.fresh(f"{stem}_wide"), bits=wanted.bits, signed=wanted.signed)
            self.instances.append(Instance(result.name, None, {"s": stream, "m": result}, ("m",)))
            stream = result
        for size in conversions(stream.elements, count):
            name = self.fresh(f"{stem}_in" if size == count else f"{stem}_by_{size}")
            result = replace(stream, name=name, elements=size, beats=stream.beats * stream.elements // size)
            unit = Unit("ge_width", {"BITS": stream.bits, "IN": stream.elements, "OUT": size})
            self.instances.append(Instance(self.fresh(f"{name}_width"), unit, {"s": stream, "m": result}, ("m",)))
            stream = result
        return stream


def stream_of(wire: Wire, count: int) -> Stream:
    """The stream of a wire, `count` elements per beat."""
    offset = tuple(int(v) for v in wire.offset) if np.any(wire.offset) else ()
    stream = Stream(wire.name, wire.edge, wire.bits, wire.signed, count, wire.total // count, wire.shape, offset)
    if np.array_equal(stream.order, wire.order):
        return stream
    order = wire.order.tolist()
    layout = layout_of(order)
    return replace(stream, places=tuple(order)) if layout is None else replace(stream, layout=layout)


def stitch(network: Network, folding: Mapping[str, Fold]) -> Stitched:
    """The units of a network (with its queues) and the streams between them."""
    stitcher = _Stitcher(network, folding)
    reader = network.reader(network.source)
    first = network.source.channels if reader.passes_beats else reader.elements(folding[reader.name])[0]
    source = stitcher.streams[network.source.name] = stream_of(network.source, through_pins(first, network.source.bits))
    for layer in network.layers:
        stitcher.add(layer, folding.get(layer.name))
    result = replace(
        stitcher.streams[network.result.name],
        edge=network.result.edge,
        shape=network.result.shape,
        layout=(),
        places=(),
    )
    result = stitcher.adapt(result, network.result, through_pins(result.elements, result.bits), "result")
    edges = {source.edge, result.edge, ""}
    between = []
    for stream in stitcher.streams.values():
        if stream.edge not in edges:
            edges.add(stream.edge)
            between.append(stream)
    return Stitched(tuple(stitcher.instances), (source, *between, result))


def rtl_files(name: str, stitched: Stitched) -> dict[str, bytes]:
    """{file below rtl/: content} of the core: the units that are used, their memories, and the top."""
    files = {source: source_of(source).read_bytes() for source in stitched.sources}
    for instance in stitched.instances:
        if instance.unit:
            files |= {file: memory_file(*content) for file, content in instance.unit.memories().items()}
    files[f"{TOP}.sv"] = top(name, stitched.instances, stitched.streams[0], stitched.streams[-1]).encode()
    return files


def build_files(graph: Graph, name: str, stitched: Stitched) -> dict[str, bytes]:
    """The same of a whole build: of several inputs or outputs there is a top with a stream for each too."""
    files = rtl_files(name, stitched)
    if (named := name_ends(graph, stitched)) is not None:
        files |= {source: source_of(source).read_bytes() for source in SOURCES}
        files[f"{NAME}.sv"] = write_top(named).encode()
    return files


def name_ends(graph: Graph, stitched: Stitched) -> NamedStreams | None:
    """The streams of top_streams; None for one input and one output."""
    return name_streams(graph, stitched.streams[0], stitched.streams[-1])


def about(network: Network, stitched: Stitched, core: tuple[str, ...] = ()) -> dict[str, Any]:
    """What streams.json says; `core` are sources of FINN's, which come first."""
    views = [stream_of(view, 1).plain() for view in network.views]  # under the name of the stream that carries them
    return {
        "top": TOP,
        "sources": [*core, *stitched.sources, f"{TOP}.sv"],
        "streams": [stream.plain() for stream in stitched.streams],
        "views": views,
    }


def main() -> int:
    """Stitches what lies in the working directory."""
    here = Path(".")
    try:
        graph = load_graph(here)
        network, folding = read_design(graph, here)
        stitched = stitch(network, folding)
        core: dict[str, bytes] = {}
        if (here / amd.REQUEST).is_file():
            stitched, core = amd.pack_units(stitched, json.loads((here / amd.REQUEST).read_text()))
        for name, content in (build_files(graph, network.name, stitched) | core).items():
            with atomic_write(here / FOLDER / name) as path:
                path.write_bytes(content)
        with atomic_write(here / "streams.json") as path:
            named = name_ends(graph, stitched)
            streams = about(network, stitched, tuple(core)) | (named.plain() if named is not None else {})
            path.write_text(json.dumps(streams, indent=1) + "\n")
    except (GreenedgeError, OSError, ValueError, KeyError) as error:
        print(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
