"""From FINN+'s folding to RTL: memory files, the stitched top, and streams.json that says what every stream carries.

    python -m greenedge.backends.finn.stitch        in the build folder, after the worker: reads graph.*, finn.json

The units are those of greenedge/rtl; the top is plain SystemVerilog in which every stream is called after its layer.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from greenedge.backends.finn.network import Chain, MatVec, Step, chain_of
from greenedge.backends.finn.streams import Stream
from greenedge.errors import GreenedgeError
from greenedge.files import write_aside
from greenedge.graph import load_graph

RTL = Path(__file__).resolve().parents[2] / "rtl"
FOLDER = "rtl"
UNITS = ("ge_fifo.sv", "ge_adder_tree.sv", "ge_product.sv", "ge_scale.sv", "ge_clip.sv", "ge_mvu.sv", "ge_requantise_serial.sv", "ge_requantise.sv", "ge_width.sv")
TOP = "top"
_RESET_CYCLES = 15
_PIN_BITS = 32  # of the top's input and output streams: wider layers are fed through a converter, packages have few pins


@dataclass(frozen=True)
class Instance:
    """One unit in the top: its module, parameters, and the streams on both sides."""

    name: str
    module: str
    parameters: dict[str, int | str]
    source: Stream
    result: Stream


def stitch(chain: Chain, folding: dict[str, dict]) -> tuple[dict[str, bytes], list[Stream]]:
    """(files below rtl/, streams with the input first and the output last) for a chain and FINN's folding of its layers."""
    files = {name: (RTL / name).read_bytes() for name in UNITS}
    instances: list[Instance] = []
    first = _elements_in(chain.layers[0], folding[chain.layers[0].name])
    narrow = _through_pins(first, chain.source.bits)
    stream = Stream("s", chain.source.name, chain.source.bits, chain.source.signed, narrow, int(np.prod(chain.source.shape)) // narrow,
                    chain.source.shape)
    streams = [stream]
    for layer in chain.layers:
        wanted = _elements_in(layer, folding[layer.name])
        stream = _adapted(instances, stream, wanted, layer.name)
        made, memories = (_matvec if isinstance(layer, MatVec) else _step)(layer, folding[layer.name], stream)
        files |= memories
        instances.append(made)
        stream = made.result
        streams.append(stream)
    streams[-1] = _adapted(instances, stream, _through_pins(stream.elements, stream.bits), "result")
    files[f"{TOP}.sv"] = top(chain.name, instances, streams[0], streams[-1]).encode()
    return files, streams


def _through_pins(elements: int, bits: int) -> int:
    """The most elements per beat that divide `elements` and fit the pins of the top."""
    return max(d for d in range(1, elements + 1) if elements % d == 0 and (d == 1 or d * bits <= _PIN_BITS))


def _elements_in(layer: MatVec | Step, fold: dict) -> int:
    return fold["SIMD"] if isinstance(layer, MatVec) else fold["PE"]


def _adapted(instances: list[Instance], stream: Stream, wanted: int, layer: str) -> Stream:
    """The stream with `wanted` elements per beat: at most two converters, by way of the greatest common divisor."""
    for elements in dict.fromkeys((math.gcd(stream.elements, wanted), wanted)):
        if elements == stream.elements:
            continue
        name = f"{layer}_in" if elements == wanted else f"{layer}_by_{elements}"
        result = Stream(name, stream.edge, stream.bits, stream.signed, elements, stream.beats * stream.elements // elements,
                        stream.shape, stream.offset)
        instances.append(Instance(f"{name}_width", "ge_width", {"BITS": stream.bits, "IN": stream.elements, "OUT": elements},
                                  stream, result))
        stream = result
    return stream


def _matvec(layer: MatVec, fold: dict, source: Stream) -> tuple[Instance, dict[str, bytes]]:
    k, m = layer.weight.shape
    pe, simd = fold["PE"], fold["SIMD"]
    words = layer.weight.T.reshape(m // pe, pe, k // simd, simd).transpose(0, 2, 1, 3).reshape(-1, pe * simd)
    if layer.weight_bits == 1:
        words = (words < 0).astype(np.int64)
    weights = f"{layer.name}_weights.mem"
    parameters = {"K": k, "M": m, "PE": pe, "SIMD": simd, "WB": layer.weight_bits, "AB": source.bits, "ASGN": int(source.signed),
                  "OB": layer.bits, "CORRECT": int(layer.correct), "WEIGHTS_FILE": f"{FOLDER}/{weights}"}
    files = {weights: _memory(words, layer.weight_bits)}
    if layer.correct:
        # the unit starts each accumulator at this constant
        parameters["CORRECTION_FILE"] = f"{FOLDER}/{layer.name}_correction.mem"
        files[f"{layer.name}_correction.mem"] = _memory(layer.correction.reshape(-1, pe), layer.bits)
    offset = () if layer.correct else tuple(int(c) for c in layer.correction)
    result = Stream(layer.name, layer.edge.name, layer.bits, True, pe, m // pe * layer.vectors, layer.edge.shape, offset)
    return Instance(f"{layer.name}_unit", "ge_mvu", parameters, source, result), files


def _step(layer: Step, fold: dict, source: Stream) -> tuple[Instance, dict[str, bytes]]:
    m, b, shift = layer.affine
    pe, edge = fold["PE"], layer.edge
    ends = np.concatenate([m * layer.x_lo + b, m * layer.x_hi + b, b])
    mb = max(1, int(m.max()).bit_length())
    bb = max(int(np.abs(ends).max()).bit_length() + 1, shift + 2)
    fields = (m.astype(object) << bb) | (b.astype(object) & ((1 << bb) - 1))
    memory = f"{layer.name}_parameters.mem"
    parameters = {"C": layer.channels, "PE": pe, "XB": source.bits, "XSGN": int(source.signed), "MB": mb, "BB": bb, "SHIFT": shift,
                  "LO": edge.lo, "HI": edge.hi, "OB": edge.bits, "PARAMETERS_FILE": f"{FOLDER}/{memory}"}
    result = Stream(layer.name, edge.name, edge.bits, edge.signed, pe, layer.channels // pe * layer.vectors, edge.shape)
    return Instance(f"{layer.name}_unit", "ge_requantise", parameters, source, result), {memory: _memory(fields.reshape(-1, pe), mb + bb)}


def _memory(rows: np.ndarray, bits: int) -> bytes:
    """One hexadecimal word a line; element 0 of a row in the low bits."""
    mask = (1 << bits) - 1
    digits = (rows.shape[1] * bits + 3) // 4
    lines = (f"{sum((int(v) & mask) << (i * bits) for i, v in enumerate(row)):0{digits}x}" for row in rows)
    return ("\n".join(lines) + "\n").encode()


def top(model: str, instances: list[Instance], source: Stream, result: Stream) -> str:
    """The stitched top. It resets itself after configuration, and whenever `restart` is high."""
    body = "\n".join(_wires(instance) + _instance(instance) for instance in instances)
    return f"""// {_comment(model)}: one unit per layer, joined by valid/ready streams called after the layer that writes them.
// Stitched by greenedge from FINN+'s folding; these files are what is simulated and what is synthesised.
module {TOP} (
    input  logic        clk,
    input  logic        restart,
    input  logic [{source.width - 1}:0] s_tdata,
    input  logic        s_tvalid,
    output logic        s_tready,
    output logic [{result.width - 1}:0] m_tdata,
    output logic        m_tvalid,
    input  logic        m_tready
);
    // reset for the first cycles after configuration and after `restart`
    logic [3:0] age = '0;
    logic       rst = 1'b1;
    always_ff @(posedge clk) begin
        if (restart) age <= '0;
        else if (age != {_RESET_CYCLES}) age <= age + 1'b1;
        rst <= restart || (age != {_RESET_CYCLES});
    end

    logic [{source.width - 1}:0] s_gated_tdata;
    logic s_gated_tvalid, s_gated_tready;
    assign s_gated_tdata  = s_tdata;
    assign s_gated_tvalid = s_tvalid && !rst;
    assign s_tready       = s_gated_tready && !rst;

{body}
    assign m_tdata  = {result.name}_tdata;
    assign m_tvalid = {result.name}_tvalid && !rst;
    assign {result.name}_tready = m_tready && !rst;
endmodule
"""


def _comment(text: str) -> str:
    """A model's name comes from a stranger: only plain characters reach the file."""
    return "".join(c if c.isalnum() or c in "-_. " else "?" for c in text)[:80]


def _wires(instance: Instance) -> str:
    stream = instance.result
    return (f"    logic [{stream.width - 1}:0] {stream.name}_tdata;\n"
            f"    logic {stream.name}_tvalid, {stream.name}_tready;\n")


def _instance(instance: Instance) -> str:
    source = "s_gated" if instance.source.name == "s" else instance.source.name
    values = ", ".join(f'.{key}("{value}")' if isinstance(value, str) else f".{key}({value})" for key, value in instance.parameters.items())
    result = instance.result.name
    return (f"    {instance.module} #({values}) {instance.name} (\n"
            f"        .clk, .rst,\n"
            f"        .s_tdata({source}_tdata), .s_tvalid({source}_tvalid), .s_tready({source}_tready),\n"
            f"        .m_tdata({result}_tdata), .m_tvalid({result}_tvalid), .m_tready({result}_tready));\n")


def main() -> int:
    """Stitches what lies in the working directory."""
    here = Path(".")
    try:
        chain = chain_of(load_graph(here))
        finn = json.loads((here / "finn.json").read_text())
        folding = {layer["name"]: layer for layer in finn["layers"]}
        files, streams = stitch(chain, folding)
        for name, content in files.items():
            with write_aside(here / FOLDER / name) as path:
                path.write_bytes(content)
        about = {"top": TOP, "sources": [*UNITS, f"{TOP}.sv"], "streams": [stream.plain() for stream in streams],
                 "aliases": chain.aliases, "estimated_cycles": finn["estimated_cycles"], "finn_plus": finn["finn_plus"]}
        with write_aside(here / "streams.json") as path:
            path.write_text(json.dumps(about, indent=1) + "\n")
    except (GreenedgeError, OSError, ValueError, KeyError) as error:
        print(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
