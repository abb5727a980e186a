// ge_ring_add is addition modulo DEPTH, for every address and step below it.
`default_nettype none
module formal_ring_add #(
    int unsigned DEPTH = 10,
    localparam int unsigned AW = $clog2(DEPTH)
) (
    input logic          clk,
    input logic [AW-1:0] a,
    input logic [AW-1:0] step
);
    logic [AW-1:0] y;
    ge_ring_add #(.DEPTH(DEPTH)) dut (.a, .step, .y);
    always_ff @(posedge clk) begin
        assume (a < DEPTH && step < DEPTH);
        assert (y == (a + step >= DEPTH ? a + step - DEPTH : a + step));
        cover (a + step >= DEPTH);
    end
endmodule
`default_nettype wire
