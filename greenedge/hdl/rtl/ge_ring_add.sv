// Address arithmetic in a ring: y = (a + step) modulo DEPTH, for a and step below DEPTH. The two possible results are
// added side by side, so that no comparison comes after an addition; a power of two needs one addition only.
`default_nettype none
module ge_ring_add #(
    int unsigned DEPTH = 10,
    localparam int unsigned AW = $clog2(DEPTH)
) (
    input  logic [AW-1:0] a,
    input  logic [AW-1:0] step,
    output logic [AW-1:0] y
);
    if (DEPTH < 2) $fatal(1, "ge_ring_add: DEPTH=%0d must be at least 2", DEPTH);

    logic [AW-1:0] ahead;
    assign ahead = a + step;
    if (DEPTH == 2**AW) begin : power_of_two
        assign y = ahead;
    end else begin : other
        logic [AW:0] wrapped;                                    // negative: no need to wrap
        assign wrapped = {1'b0, a} + ({1'b0, step} - (AW+1)'(DEPTH));
        assign y = wrapped[AW] ? ahead : wrapped[AW-1:0];
    end
endmodule
`default_nettype wire
