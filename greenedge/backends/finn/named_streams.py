"""A top in which every input and output of the model is a stream of its own: for designs that the core is put into.

The core has one stream each way, as the boards' shells have: the inputs of a sample one after another, and the outputs
(graph/joined_inputs.py, graph/joined_outputs.py). `rtl/top_streams.sv` puts joins before it and splits behind it. Each
stream is called after its edge and carries it row by row (row-major, not channels last) in the edge's own type, as many
elements a beat as all of them and the core's stream have in common.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, count
from typing import Any

import numpy as np

from greenedge.backends.finn.topfile import Instance, declare_stream, place_unit
from greenedge.backends.finn.units import Unit
from greenedge.graph import Edge, Graph
from greenedge.hdl.axi_stream import Stream
from greenedge.hdl.axi_stream.core import TOP, head, reset

NAME, BENCH = "top_streams", "bench"
SOURCES = ("ge_concat.sv", "ge_split.sv", "ge_width.sv")  # what it has beside the core
_ENTRY = "named"  # of streams.json
_PORTS = ",\n"


@dataclass(frozen=True)
class NamedStreams:
    """The ports of `top_streams`: a stream for every input and output, under the port's name. `core` are the two of the
    core, the input first."""

    core: tuple[Stream, Stream]
    inputs: tuple[Stream, ...]
    outputs: tuple[Stream, ...]

    def plain(self) -> dict[str, Any]:
        """The entry in streams.json."""
        ends = {"inputs": self.inputs, "outputs": self.outputs}
        ports = {end: [one.plain() for one in streams] for end, streams in ends.items()}
        return {_ENTRY: {"top": NAME, "sources": [*SOURCES, f"{NAME}.sv"], **ports}}


def read_named(about: Mapping[str, Any]) -> NamedStreams | None:
    """The inverse of `plain` from the whole streams.json; None for a core with one stream each way."""
    if _ENTRY not in about:
        return None
    core = (Stream.from_plain(about["streams"][0]), Stream.from_plain(about["streams"][-1]))
    ends = ([Stream.from_plain(one) for one in about[_ENTRY][end]] for end in ("inputs", "outputs"))
    return NamedStreams(core, *map(tuple, ends))


def name_streams(graph: Graph, source: Stream, result: Stream) -> NamedStreams | None:
    """The ports for a graph whose core has these two streams; None for one input and one output."""
    if len(graph.inputs) == len(graph.outputs) == 1:
        return None
    taken: set[str] = set()
    inputs = _name_end("s", source, [graph.edges[edge] for edge in graph.inputs], taken)
    outputs = _name_end("m", result, [graph.edges[edge] for edge in graph.outputs], taken)
    return NamedStreams((source, result), inputs, outputs)


def _name_end(prefix: str, core: Stream, edges: Sequence[Edge], taken: set[str]) -> tuple[Stream, ...]:
    """The ports of one end: the core's own stream under another name, or a part of it for every edge."""
    if len(edges) == 1:
        return (replace(core, name=_find_name(prefix, edges[0].name, taken)),)
    sizes = [math.prod(edge.shape) for edge in edges]
    elements, ends = math.gcd(core.elements, *sizes), list(accumulate(sizes))
    offsets = np.resize(core.offset, ends[-1]).tolist() if core.offset else []
    ports = []
    for edge, size, end in zip(edges, sizes, ends, strict=True):
        offset = tuple(offsets[end - size : end])
        bits, signed = (core.bits, core.signed) if offset else (edge.bits, edge.lo < 0)
        name, loop = _find_name(prefix, edge.name, taken), ((size, 1),)
        ports.append(Stream(name, edge.name, bits, signed, elements, size // elements, edge.shape, offset, loop))
    return tuple(ports)


def _find_name(prefix: str, edge: str, taken: set[str]) -> str:
    """A port's name. An edge's name comes from a stranger: only plain characters are kept."""
    plain = f"{prefix}_{re.sub(r'[^0-9A-Za-z]+', '_', edge).strip('_')[:60]}"
    name = next(one for one in chain([plain], (f"{plain}_{k}" for k in count(2))) if one not in taken)
    taken.add(name)
    return name


def join(streams: Sequence[Stream], wanted: Stream, stem: str) -> list[Instance]:
    """The units that put these streams, one after another, into the type, the width and the name of `wanted`."""
    wide = [replace(one, name=f"{one.name}__wide", bits=wanted.bits, signed=wanted.signed) for one in streams]
    instances = [
        Instance(f"{one.name}_unit", None, {"s": stream, "m": one}, ("m",))
        for stream, one in zip(streams, wide, strict=True)
    ]
    total = wide[0]
    for k, one in enumerate(wide[1:], start=1):
        both = replace(total, name=f"{stem}_joined_{k}", beats=total.beats + one.beats)
        unit = Unit("ge_concat", {"A": total.beats, "B": one.beats, "WIDTH": total.width})
        instances.append(Instance(f"{both.name}_unit", unit, {"a": total, "b": one, "m": both}, ("m",)))
        total = both
    unit = Unit("ge_width", {"BITS": wanted.bits, "IN": total.elements, "OUT": wanted.elements})
    return [*instances, Instance(f"{wanted.name}_unit", unit, {"s": total, "m": wanted}, ("m",))]


def split(given: Stream, streams: Sequence[Stream], stem: str) -> list[Instance]:
    """The units that take `given` apart again: the inverse of `join`."""
    parts = [replace(one, name=f"{one.name}__wide", bits=given.bits, signed=given.signed) for one in streams]
    total = replace(parts[0], name=f"{stem}_split_0", beats=sum(part.beats for part in parts))
    unit = Unit("ge_width", {"BITS": given.bits, "IN": given.elements, "OUT": total.elements})
    instances = [Instance(f"{total.name}_unit", unit, {"s": given, "m": total}, ("m",))]
    for k, part in enumerate(parts[:-1], start=1):
        rest = replace(total, name=f"{stem}_split_{k}", beats=total.beats - part.beats)
        unit = Unit("ge_split", {"A": part.beats, "B": rest.beats, "WIDTH": total.width})
        instances.append(Instance(f"{rest.name}_unit", unit, {"s": total, "a": part, "b": rest}, ("a", "b")))
        total = rest
    return [
        *instances,
        *(
            Instance(f"{part.name}_unit", None, {"s": part, "m": stream}, ("m",))
            for part, stream in zip([*parts[:-1], total], streams, strict=True)
        ),
    ]


def write_top(named: NamedStreams) -> str:
    """`top_streams.sv`: the ports, the joins, the core, the splits."""
    source, result = (replace(one, name=name) for one, name in zip(named.core, ("core_s", "core_m"), strict=True))
    held = {one.name: replace(one, name=f"{one.name}__held") for one in (*named.inputs, *named.outputs)}
    before = join([held[one.name] for one in named.inputs], source, "inputs")
    behind = split(result, [held[one.name] for one in named.outputs], "outputs")
    declared = "".join(declare_stream(held[one.name]) for one in named.inputs) + declare_stream(result)
    ports = [
        *(_write_port(one, "input ", "output") for one in named.inputs),
        *(_write_port(one, "output", "input ") for one in named.outputs),
    ]
    gates = [
        *(_connect(one.name, held[one.name].name) for one in named.inputs),
        *(_connect(held[one.name].name, one.name) for one in named.outputs),
    ]
    return f"""// The core with a stream of its own for every input and output; see streams.json, "{_ENTRY}".
// Written by greenedge for designs that the core is put into; simulated with random pauses at both ends.
`default_nettype none
module {NAME} (
    input  logic clk,
    input  logic restart,
{_PORTS.join(ports)}
);
{reset()}
{declared}
{write_body(before)}
    {TOP} core (
        .clk, .restart,
        .s_tdata({source.name}_tdata), .s_tvalid({source.name}_tvalid), .s_tready({source.name}_tready),
        .m_tdata({result.name}_tdata), .m_tvalid({result.name}_tvalid), .m_tready({result.name}_tready));

{write_body(behind)}
{"".join(gates)}endmodule
`default_nettype wire
"""


def write_bench(named: NamedStreams) -> str:
    """Module `bench`, simulation only: `top_streams` between the core's own two streams, so that what drives the core
    drives it. The named streams can be watched by their ports' names."""
    source, result = (replace(one, name=name) for one, name in zip(named.core, ("s_held", "m_held"), strict=True))
    before, behind = split(source, named.inputs, "inputs"), join(named.outputs, result, "outputs")
    declared = "".join(map(declare_stream, (source, *named.outputs)))
    ports = ", ".join(
        f".{one.name}_{part}({one.name}_{part})"
        for one in (*named.inputs, *named.outputs)
        for part in ("tdata", "tvalid", "tready")
    )
    return f"""`default_nettype none
{head(BENCH, *named.core)}
{reset()}
{declared}
{_connect("s", source.name)}
{write_body(before)}
    {NAME} streams (.clk, .restart, {ports});

{write_body(behind)}
{_connect(result.name, "m")}endmodule
`default_nettype wire
"""


def write_body(instances: Iterable[Instance]) -> str:
    """The declarations and the units."""
    return "\n".join(
        "".join(declare_stream(one.ports[port]) for port in one.gives) + place_unit(one) for one in instances
    )


def _connect(given: str, taken: str) -> str:
    """Wires from one stream to another that hold it back during the reset."""
    return (
        f"    assign {taken}_tdata  = {given}_tdata;\n"
        f"    assign {taken}_tvalid = {given}_tvalid && !rst;\n"
        f"    assign {given}_tready = {taken}_tready && !rst;\n"
    )


def _write_port(stream: Stream, there: str, back: str) -> str:
    sign = "signed" if stream.signed else "unsigned"
    return (
        f"    // {stream.elements} x {stream.bits} bits {sign}, {stream.beats:,} beats a sample\n"
        f"    {there} logic [{stream.width - 1}:0] {stream.name}_tdata,\n"
        f"    {there} logic {stream.name}_tvalid,\n"
        f"    {back} logic {stream.name}_tready"
    )
