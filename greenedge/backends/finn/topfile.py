"""The stitched top as SystemVerilog text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from greenedge.backends.finn.units import Unit
from greenedge.hdl.axi_stream import Stream
from greenedge.hdl.axi_stream.core import core


@dataclass(frozen=True)
class Instance:
    """One unit in the top with the streams at its ports; it writes those named in `gives`. No unit: wiring only."""

    name: str
    unit: Unit | None
    ports: Mapping[str, Stream]
    gives: tuple[str, ...]


def top(model: str, instances: Sequence[Instance], source: Stream, result: Stream) -> str:
    """The stitched top."""
    body = "\n".join(
        "".join(declare_stream(instance.ports[port]) for port in instance.gives) + place_unit(instance)
        for instance in instances
    )
    comment = (
        f"// {_comment(model)}: one unit per layer, joined by valid/ready streams called after the layer that writes "
        "them.\n"
        "// Stitched by greenedge; these files are what is simulated and what is synthesised."
    )
    return core(
        comment,
        source,
        result,
        f"""    logic [{source.width - 1}:0] s_gated_tdata;
    logic s_gated_tvalid, s_gated_tready;
    assign s_gated_tdata  = s_tdata;
    assign s_gated_tvalid = s_tvalid && !rst;
    assign s_tready       = s_gated_tready && !rst;

{body}""",
    )


def _comment(text: str) -> str:
    """A model's name comes from a stranger: only plain characters reach the file."""
    return "".join(c if c.isascii() and c.isalnum() or c in "-_. " else "?" for c in text)[:80]


def declare_stream(stream: Stream) -> str:
    """Its three signals, with what a beat has."""
    sign = "signed" if stream.signed else "unsigned"
    beat = f"{stream.elements} x {stream.bits} bits {sign}, {stream.beats:,} beats a sample"
    return (
        f"    logic [{stream.width - 1}:0] {stream.name}_tdata;  // {beat}\n"
        f"    logic {stream.name}_tvalid, {stream.name}_tready;\n"
    )


def _name(stream: Stream) -> str:
    return "s_gated" if stream.name == "s" else stream.name


def place_unit(instance: Instance) -> str:
    """The unit with its parameters and its streams by name; the wires where there is no unit."""
    if instance.unit is None:
        return _wiring(instance.ports["s"], instance.ports["m"])
    unit = instance.unit
    numbers = [f".{key}({value})" for key, value in unit.parameters.items()]
    values = ", ".join([*numbers, *(f'.{key}("{file}")' for key, file in unit.files.items())])
    rows = (
        ", ".join(f".{port}_{part}({_name(stream)}_{part})" for part in ("tdata", "tvalid", "tready"))
        for port, stream in instance.ports.items()
    )
    ports = ",\n        ".join((".clk, .rst", *rows))
    return f"    {unit.module} #({values}) {instance.name} (\n        {ports});\n"


def _wiring(source: Stream, result: Stream) -> str:
    """Every element in more bits."""
    lanes = "".join(
        f"    assign {result.name}_tdata[{k * result.bits} +: {result.bits}] = {result.bits}'("
        f"{'$signed' if source.signed else ''}({_name(source)}_tdata[{k * source.bits} +: {source.bits}]));\n"
        for k in range(source.elements)
    )
    used = source.elements * result.bits
    rest = f"    assign {result.name}_tdata[{result.width - 1}:{used}] = '0;\n" if used < result.width else ""
    return (
        f"{lanes}{rest}    assign {result.name}_tvalid = {_name(source)}_tvalid;\n"
        f"    assign {_name(source)}_tready = {result.name}_tready;\n"
    )
