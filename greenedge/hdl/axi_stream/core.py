"""The module around every core as SystemVerilog: its ports, which the shell connects, and its own reset."""

from __future__ import annotations

from greenedge.hdl.axi_stream import Stream

TOP = "top"
_RESET_CYCLES = 15


def head(name: str, source: Stream, output: Stream) -> str:
    """The module header with the ports of a core, also for a wrapper around one."""
    return f"""module {name} (
    input  logic        clk,
    input  logic        restart,
    input  logic [{source.width - 1}:0] s_tdata,
    input  logic        s_tvalid,
    output logic        s_tready,
    output logic [{output.width - 1}:0] m_tdata,
    output logic        m_tvalid,
    input  logic        m_tready
);"""


def reset() -> str:
    """The signal `rst`: high for the first cycles after configuration and after `restart`."""
    return f"""    // reset for the first cycles after configuration and after `restart`
    logic [3:0] age = '0;
    logic       rst = 1'b1;
    always_ff @(posedge clk) begin
        if (restart) age <= '0;
        else if (age != {_RESET_CYCLES}) age <= age + 1'b1;
        rst <= restart || (age != {_RESET_CYCLES});
    end
"""


def core(comment: str, source: Stream, output: Stream, body: str) -> str:
    """Module `top` around `body`, which uses the reset `rst` and drives the stream named `output.name`.

    The core resets itself after configuration and while `restart` is high; its output is not valid meanwhile.
    """
    return f"""{comment}
`default_nettype none
{head(TOP, source, output)}
{reset()}
{body}
    assign m_tdata  = {output.name}_tdata;
    assign m_tvalid = {output.name}_tvalid && !rst;
    assign {output.name}_tready = m_tready && !rst;
endmodule
`default_nettype wire
"""
