// Simulation only (GE_ASSERT): what a stream has offered stays, and stays the same, until it is taken. A stream that breaks
// this ends the simulation with a sentence that names it. `rst` is that of whoever drives the stream: within it nothing counts.
//
// verilator tracing_off
`default_nettype none
module ge_stream_assert #(
    int unsigned WIDTH = 8,
    parameter    NAME  = "m"     // the stream, in that sentence
) (
    input  logic             clk,
    input  logic             rst,
    input  logic [WIDTH-1:0] tdata,
    input  logic             tvalid,
    input  logic             tready
);
    hold_valid: assert property (@(posedge clk) disable iff (rst) tvalid && !tready |=> tvalid)
        else $fatal(1, "stream %s (%m) took a beat back before it was taken", NAME);
    hold_data: assert property (@(posedge clk) disable iff (rst) tvalid && !tready |=> $stable(tdata))
        else $fatal(1, "stream %s (%m) changed a beat before it was taken", NAME);
endmodule
`default_nettype wire
// verilator tracing_on
