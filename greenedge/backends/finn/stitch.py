"""From FINN+'s layer chain to one design: top.sv that wires the units, their memory files, io.json for whoever runs it.

    python -m greenedge.backends.finn.stitch      in the build folder, after the FINN+ worker

Reads job.json, arrays/ and finn.json; writes rtl/ (all that is synthesised), sim/sim_top.sv and io.json.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path

from greenedge.backends.finn.job import edge_of, read_job
from greenedge.backends.finn.memory import correction_words, parameter_words, weight_words
from greenedge.backends.finn.network import MatVec, Step
from greenedge.backends.finn.patches import patched
from greenedge.backends.finn.simulation import sim_top
from greenedge.backends.finn.streams import Stream
from greenedge.errors import GreenedgeError
from greenedge.graph import Edge

RTL = Path(__file__).resolve().parents[2] / "rtl"
UNITS = ("ge_fifo.sv", "ge_adder_tree.sv", "ge_product.sv", "ge_mvu.sv", "ge_scale.sv", "ge_clip.sv", "ge_requantise.sv",
         "ge_width.sv")


@dataclass
class Design:
    """What the stitcher has so far; `at` is the stream that the next unit reads."""

    at: Stream
    text: list[str] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)

    def unit(self, module: str, out: Stream, note: str, **parameters) -> None:
        """Instantiates one of our units between the current stream and `out`."""
        settings = ",\n".join(f"        .{key}({_literal(value)})" for key, value in parameters.items())
        self._wires(out, note)
        self.text.append(f"    {module} #(\n{settings}\n    ) {out.name}_unit (\n        .clk, .rst,\n"
                         f"        .s_tdata({self.at.name}_tdata), .s_tvalid({self.at.name}_tvalid), "
                         f".s_tready({self.at.name}_tready),\n"
                         f"        .m_tdata({out.name}_tdata), .m_tvalid({out.name}_tvalid), .m_tready({out.name}_tready)\n"
                         "    );\n")
        self.at = out

    def finn_unit(self, node: dict, out: Stream, note: str, parameters: str = "", tied: str = "") -> None:
        """Instantiates FINN+'s own RTL of a node."""
        self._wires(out, note)
        self.text.append(f"    {node['rtl']['top']} {parameters}{out.name}_unit (\n        .ap_clk(clk), .ap_rst_n(!rst),{tied}\n"
                         f"        .in0_V_TDATA({self.at.name}_tdata), .in0_V_TVALID({self.at.name}_tvalid), "
                         f".in0_V_TREADY({self.at.name}_tready),\n"
                         f"        .out0_V_TDATA({out.name}_tdata), .out0_V_TVALID({out.name}_tvalid), "
                         f".out0_V_TREADY({out.name}_tready)\n    );\n")
        self.at = out

    def _wires(self, out: Stream, note: str) -> None:
        self.text.append(f"    // ---- {out.name}: {note}\n    logic [{out.width - 1}:0] {out.name}_tdata;\n"
                         f"    logic {out.name}_tvalid, {out.name}_tready;")


def _literal(value) -> str:
    return f'"{value}"' if isinstance(value, str) else str(int(value))


def stitch(folder: Path) -> None:
    """Writes the design of the chain in `folder`."""
    job, layers = read_job(folder)
    nodes = json.loads((folder / "finn.json").read_text())["layers"]
    by_name = {layer.name: layer for layer in layers}
    source = _source_stream(edge_of(job["source"]), nodes[0], job["target_cycles"])
    design = Design(source)
    for node in nodes:
        layer = by_name.get(node["name"])
        if layer is None:
            _converter(design, node, folder)
            continue
        _fit_input(design, layer, node)
        if isinstance(layer, MatVec):
            _matvec(design, layer, node)
        else:
            _step(design, layer, node, folder)
    _write(folder, job, source, design, sum(node["cycles"] for node in nodes))


def _source_stream(edge: Edge, node: dict, target_cycles: int) -> Stream:
    """The narrowest input stream that keeps up with the folding asked for: as many elements per beat as that needs."""
    size, wide = math.prod(edge.shape), node["in_elements"]
    fits = [n for n in range(1, wide + 1) if wide % n == 0 and size // n <= max(target_cycles, node["cycles"])]
    elements = fits[0] if fits else wide
    return Stream("input", edge.name, edge.bits, edge.signed, elements, size // elements, edge.shape)


def _fit_input(design: Design, layer: MatVec | Step, node: dict) -> None:
    if design.at.elements == node["in_elements"]:
        return
    _width(design, f"{layer.name}_in", node["in_elements"])


def _width(design: Design, name: str, elements: int) -> None:
    at = design.at
    out = Stream(name, "", at.bits, at.signed, elements, at.elements * at.beats // elements, at.shape)
    design.unit("ge_width", out, f"{at.elements} to {elements} elements per beat", BITS=at.bits, IN=at.elements, OUT=elements)


def _converter(design: Design, node: dict, folder: Path) -> None:
    """A width converter or FIFO that FINN+ put between two layers: ours where one width divides the other."""
    wide, narrow = max(node["in_elements"], node["out_elements"]), min(node["in_elements"], node["out_elements"])
    if node["op"] == "StreamingDataWidthConverter" and wide % narrow == 0:
        _width(design, node["name"], node["out_elements"])
        return
    at = design.at
    out = Stream(node["name"], "", at.bits, at.signed, node["out_elements"],
                 at.elements * at.beats // node["out_elements"], at.shape)
    _take_finn_rtl(design, node, folder)
    design.finn_unit(node, out, f"FINN+ {node['op']}")


def _matvec(design: Design, layer: MatVec, node: dict) -> None:
    k, m = layer.weight.shape
    pe, simd = node["PE"], node["SIMD"]
    out = Stream(layer.name, layer.edge.name, layer.bits, True, pe, m // pe * layer.vectors, layer.edge.shape,
                 () if layer.correct else tuple(int(c) for c in layer.correction))
    design.files[f"rtl/{layer.name}_weights.mem"] = weight_words(layer, pe, simd)
    files = {"WEIGHTS_FILE": f"rtl/{layer.name}_weights.mem"}
    if layer.correct:
        design.files[f"rtl/{layer.name}_correction.mem"] = correction_words(layer, pe)
        files["CORRECTION_FILE"] = f"rtl/{layer.name}_correction.mem"
    design.unit("ge_mvu", out, f"{k} inputs, {m} neurons, {layer.weight_bits}-bit weights, {node['cycles']} cycles",
                K=k, M=m, PE=pe, SIMD=simd, WB=layer.weight_bits, AB=layer.in_bits, ASGN=layer.in_signed, OB=layer.bits,
                CORRECT=layer.correct, **files)
    design.streams.append(out)


def _step(design: Design, layer: Step, node: dict, folder: Path) -> None:
    pe = node["PE"]
    out = Stream(layer.name, layer.edge.name, layer.bits, layer.edge.signed, pe, layer.channels // pe * layer.vectors,
                 layer.edge.shape)
    if layer.affine is None:
        _take_finn_rtl(design, node, folder)
        tied = "".join(f"\n        .s_axilite_{port}('0)," for port in
                       ("AWVALID", "AWADDR", "WVALID", "WDATA", "WSTRB", "BREADY", "ARVALID", "ARADDR", "RREADY"))
        design.finn_unit(node, out, f"FINN+ thresholds of {layer.channels} channels",
                         f'#(.THRESHOLDS_PATH("rtl/{node["name"]}_")) ', f"{tied}\n        .in1_V_TVALID('0), .in1_V_TDATA('0),")
        design.streams.append(out)
        return
    m, b, shift = layer.affine
    scale_bits = max(1, int(m.max()).bit_length())
    ends = [int(mm) * x + int(bb) for mm, bb in zip(m, b) for x in (layer.x_lo, layer.x_hi)]
    offset_bits = max(Edge("", (), min(min(ends), int(b.min()), -1), max(max(ends), int(b.max()))).bits,
                      shift + layer.bits + 2)
    name = f"rtl/{layer.name}_parameters.mem"
    design.files[name] = parameter_words(layer, pe, scale_bits, offset_bits)
    design.unit("ge_requantise", out, f"{layer.channels} channels to {layer.edge.lo} ... {layer.edge.hi}",
                C=layer.channels, PE=pe, XB=layer.in_bits, XSGN=layer.in_signed, MB=scale_bits, BB=offset_bits, SHIFT=shift,
                LO=layer.edge.lo, HI=layer.edge.hi, OB=layer.bits, PARAMETERS_FILE=name)
    design.streams.append(out)


def _take_finn_rtl(design: Design, node: dict, folder: Path) -> None:
    for file in sorted((folder / "finn" / node["name"]).iterdir()):
        if file.suffix == ".dat":
            design.files[f"rtl/{file.name}"] = file.read_bytes()
    for name in node["rtl"]["files"]:
        text = patched(name, (folder / "finn" / node["name"] / name).read_text())
        design.files[f"rtl/{name}"] = text.encode()
        if f"rtl/{name}" not in design.sources:
            design.sources.append(f"rtl/{name}")


def _write(folder: Path, job: dict, source: Stream, design: Design, cycles: int) -> None:
    sources = [*design.sources, *(f"rtl/{name}" for name in UNITS), "rtl/top.sv"]
    for name in UNITS:
        design.files[f"rtl/{name}"] = (RTL / name).read_bytes()
    design.files["rtl/top.sv"] = _top(job["name"], source, design).encode()
    streams = [design.streams[-1], *design.streams[:-1]]
    design.files["sim/sim_top.sv"] = sim_top("top", source, streams).encode()
    design.files["sources.f"] = "".join(f"{name}\n" for name in sources).encode()
    io = {"source": source.plain(), "streams": [s.plain() for s in streams], "aliases": job["aliases"], "sources": sources,
          "patience": 10_000 + 8 * cycles, "memories": sorted(name for name in design.files if name.startswith("rtl/") and name not in sources)}
    design.files["io.json"] = (json.dumps(io, indent=1) + "\n").encode()
    for name, content in design.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _top(name: str, source: Stream, design: Design) -> str:
    last = design.at
    body = "\n".join(design.text)
    return f"""// {name}: made by greenedge from the integer graph, FINN+'s folding and greenedge's units.
//
// One valid/ready stream in, one out; element 0 in the low bits, beats padded to whole bytes.
//   s: {source.beats} beats of {source.elements} x {source.bits} bits{" signed" if source.signed else ""} per inference
//   m: {last.beats} beats of {last.elements} x {last.bits} bits{" signed" if last.signed else ""} per inference
module top (
    input  logic clk,
    input  logic [{source.width - 1}:0] s_tdata,
    input  logic s_tvalid,
    output logic s_tready,
    output logic [{last.width - 1}:0] m_tdata,
    output logic m_tvalid,
    input  logic m_tready
);
    // ---- reset: the first 16 cycles after configuration
    logic [3:0] awake = '0;
    logic rst = 1'b1;
    always_ff @(posedge clk) begin
        if (awake != '1) awake <= awake + 1'b1;
        rst <= (awake != '1);
    end

    // ---- {source.edge}: the input
    logic [{source.width - 1}:0] input_tdata;
    logic input_tvalid, input_tready;
    assign input_tdata  = s_tdata;
    assign input_tvalid = s_tvalid && !rst;
    assign s_tready     = input_tready && !rst;

{body}
    assign m_tdata  = {last.name}_tdata;
    assign m_tvalid = {last.name}_tvalid && !rst;
    assign {last.name}_tready = m_tready;
endmodule
"""


def main() -> int:
    try:
        stitch(Path("."))
    except (GreenedgeError, OSError) as error:
        print(f"error: {error}")
        return 1
    print("rtl/top.sv is written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
