// One step of a pool, without a register: the larger (MAX = 1) or the sum of x and what came before. A pool starts with
// so_far = 0: signed values are compared with their sign bit turned, so that 0 is the smallest, and `result` turns it back.
`default_nettype none
module ge_accumulate #(
    int unsigned BITS     = 4,   // bits of x
    bit          SGN      = 0,   // x is signed
    int unsigned OUT_BITS = 8,   // bits of the result, at least BITS
    bit          MAX      = 1
) (
    input  logic [BITS-1:0]     x,
    input  logic [OUT_BITS-1:0] so_far,
    output logic [OUT_BITS-1:0] now,
    output logic [OUT_BITS-1:0] result
);
    if (BITS < 1) $fatal(1, "ge_accumulate: BITS=%0d must be at least 1", BITS);
    if (OUT_BITS < BITS) $fatal(1, "ge_accumulate: OUT_BITS=%0d must be at least BITS=%0d", OUT_BITS, BITS);

    localparam logic [OUT_BITS-1:0] TURN = OUT_BITS'(MAX && SGN) << (OUT_BITS - 1);
    logic [OUT_BITS-1:0] xw;
    if (SGN) begin : with_sign
        assign xw = OUT_BITS'($signed(x)) ^ TURN;
    end else begin : without_sign
        assign xw = OUT_BITS'(x);
    end
    if (MAX) begin : largest
        logic [OUT_BITS:0] difference;                           // written out, a short comparison is a carry chain too
        assign difference = {1'b0, xw} - {1'b0, so_far};
        assign now = difference[OUT_BITS] ? so_far : xw;
    end else begin : sum
        assign now = so_far + xw;
    end
    assign result = now ^ TURN;
endmodule
`default_nettype wire
