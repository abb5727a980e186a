"""The core with its layers' values brought out, for simulation alone: where a result is wrong, which layer is first.

A layer's value is on its net some cycles after its sample's entry; shift registers keep it until the result of that
sample leaves the pipeline, so that a beat of every probe belongs to a beat of the output.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from greenedge.errors import GreenedgeError
from greenedge.graph import Edge
from greenedge.hdl.axi_stream import Stream
from greenedge.hdl.axi_stream.core import TOP, head

MODULE = "probed"
_MOST_CYCLES = 1 << 16


@dataclass(frozen=True)
class Probe:
    """A layer's edge, the net of the kernel that carries it, and how many cycles after the sample's entry."""

    edge: str
    net: str
    at: int


def read_probes(streams: Mapping[str, Any], edges: Mapping[str, Edge]) -> tuple[list[Probe], int]:
    """(probes, the pipeline's cycles) as generate wrote them to streams.json. Raises GreenedgeError for other data."""
    try:
        probes = [Probe(str(p["edge"]), str(p["net"]), int(p["at"])) for p in streams["probes"]]
        latency = int(streams["latency"])
    except (KeyError, TypeError, ValueError) as error:
        raise GreenedgeError(f"streams.json names no layers ({error!r}); run the build stage again.") from None
    sound = all(p.edge in edges and re.fullmatch(r"edge\d{1,9}", p.net) and 0 <= p.at < latency for p in probes)
    if not sound or latency > _MOST_CYCLES:
        raise GreenedgeError("streams.json names layers that the graph has not; run the build stage again.")
    return probes, latency


def write_tapped_core(
    probes: Sequence[Probe], latency: int, source: Stream, output: Stream, edges: Mapping[str, Edge]
) -> tuple[str, list[Stream]]:
    """(module `probed` around the core, the streams of the probes), with the core's own ports."""
    streams = [_stream(k, edges[probe.edge]) for k, probe in enumerate(probes)]
    body = "\n".join(_write_tap(probe, stream, latency) for probe, stream in zip(probes, streams, strict=True))
    return (
        f"""// Simulation only: the core with the values of its layers, each beside the result that it led to.
`default_nettype none
{head(MODULE, source, output)}
    {TOP} core (.*);
    logic [{output.width - 1}:0] {output.name}_tdata;
    logic {output.name}_tvalid, {output.name}_tready, leaves;
    assign {output.name}_tdata  = core.{output.name}_tdata;
    assign {output.name}_tvalid = core.{output.name}_tvalid;
    assign {output.name}_tready = core.{output.name}_tready;
    assign leaves = core.moving[{latency - 1}];
{body}
endmodule
`default_nettype wire
""",
        streams,
    )


def _stream(k: int, edge: Edge) -> Stream:
    count = math.prod(edge.shape)
    return Stream(f"probe{k}", edge.name, edge.bits, edge.has_sign, count, 1, edge.shape, layout=((count, 1),))


def _write_tap(probe: Probe, stream: Stream, latency: int) -> str:
    """The net as it was `latency - at` cycles ago."""
    name, cycles = stream.name, latency - probe.at
    used = stream.elements * stream.bits
    return f"""    logic [{stream.width - 1}:0] {name}_tdata, {name}_was [{cycles}];
    logic {name}_tvalid, {name}_tready;
    always_ff @(posedge clk) begin
        {name}_was[0] <= {stream.width}'(core.kernel.{probe.net}[{used - 1}:0]);
        for (int k = 1; k < {cycles}; k++) {name}_was[k] <= {name}_was[k - 1];
    end
    assign {name}_tdata  = {name}_was[{cycles - 1}];
    assign {name}_tvalid = leaves;
    assign {name}_tready = 1'b1;"""
