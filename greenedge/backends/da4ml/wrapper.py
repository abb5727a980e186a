"""The core around da4ml's pipeline: valid/ready streams, credits instead of a clock enable, one sample a cycle.

The pipeline has no stall. So a sample enters only when there is room for its result in the FIFO behind; a chain of
valid bits as long as the pipeline says when a result leaves it.
"""

from __future__ import annotations

from greenedge.backends.da4ml.pipeline import KERNEL
from greenedge.graph import Edge
from greenedge.hdl.axi_stream import Stream
from greenedge.hdl.axi_stream.core import core

UNITS = ("ge_fifo.sv", "ge_credit_pipeline.sv", "ge_width.sv")
MOST_BITS = 256  # of a beat: wider samples come in several
_ROUND_TRIP = 6  # cycles from a word's leaving the FIFO to the sample that takes its place, its register included


def streams_of(source: Edge, output: Edge) -> tuple[Stream, Stream]:
    """The core's streams: as many elements in a beat as fit MOST_BITS and divide the sample."""
    return (_stream("s", source), _stream("result", output))


def _stream(name: str, edge: Edge) -> Stream:
    count = 1
    for size in edge.shape:
        count *= size
    elements = max(d for d in range(1, count + 1) if count % d == 0 and (d == 1 or d * edge.bits <= MOST_BITS))
    return Stream(name, edge.name, edge.bits, edge.has_sign, elements, count // elements, edge.shape)


def top(latency: int, source: Stream, output: Stream) -> str:
    """The core in SystemVerilog around a kernel `latency` cycles deep: restart, s_… and m_… as the shell wants."""
    n_in, n_out = source.elements * source.beats, output.elements * output.beats
    wide_in, wide_out = _bytes(n_in * source.bits), _bytes(n_out * output.bits)
    depth = latency + _ROUND_TRIP
    comment = f"// da4ml's pipeline between two streams, {latency} cycles deep; a sample enters in every cycle."
    return core(
        comment,
        source,
        output,
        f"""    logic [{wide_in - 1}:0] sample;
    logic sample_valid, sample_ready;
{_gather(source, n_in, wide_in)}
    // as many samples are under way as the FIFO has places
    logic take, room;
    logic [{latency - 1}:0] moving;
    assign sample_ready = room && !rst;
    assign take = sample_valid && sample_ready;

    logic [{wide_out - 1}:0] answer, word;
    logic word_valid, word_ready;
{_zeros(n_out * output.bits, wide_out)}    {KERNEL} kernel (
        .clk, .sample(sample[{n_in * source.bits - 1}:0]), .answer(answer[{n_out * output.bits - 1}:0]));
    ge_credit_pipeline #(.WIDTH({wide_out}), .LATENCY({latency}), .DEPTH({depth})) frame (
        .clk, .rst, .room, .take, .enter(take), .valid(moving), .keep(1'b1), .y(answer),
        .m_tdata(word), .m_tvalid(word_valid), .m_tready(word_ready));

    logic [{output.width - 1}:0] result_tdata;
    logic result_tvalid, result_tready;
{_scatter(output, n_out)}""",
    )


def _bytes(bits: int) -> int:
    """Bits, padded to whole bytes."""
    return (bits + 7) // 8 * 8


def _zeros(bits: int, wide: int) -> str:
    return f"    assign answer[{wide - 1}:{bits}] = '0;\n" if wide > bits else ""


def _gather(source: Stream, count: int, wide: int) -> str:
    if source.beats == 1:
        return (
            "    assign sample = s_tdata;\n    assign sample_valid = s_tvalid && !rst;\n"
            "    assign s_tready = sample_ready;\n"
        )
    return f"""    logic gate_ready;
    ge_width #(.BITS({source.bits}), .IN({source.elements}), .OUT({count})) gather (
        .clk, .rst, .s_tdata, .s_tvalid(s_tvalid && !rst), .s_tready(gate_ready),
        .m_tdata(sample), .m_tvalid(sample_valid), .m_tready(sample_ready));
    assign s_tready = gate_ready && !rst;
"""


def _scatter(output: Stream, count: int) -> str:
    if output.beats == 1:
        return (
            "    assign result_tdata = word;\n    assign result_tvalid = word_valid;\n"
            "    assign word_ready = result_tready;\n"
        )
    return f"""    ge_width #(.BITS({output.bits}), .IN({count}), .OUT({output.elements})) scatter (
        .clk, .rst, .s_tdata(word), .s_tvalid(word_valid), .s_tready(word_ready),
        .m_tdata(result_tdata), .m_tvalid(result_tvalid), .m_tready(result_tready));
"""
