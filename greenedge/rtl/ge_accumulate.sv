// One step of a pool, without a register: x itself for the first value, then the larger (MAX = 1) or the sum.
module ge_accumulate #(
    int unsigned BITS = 4,       // bits of x
    bit          SGN  = 0,       // x is signed
    int unsigned OB   = 8,       // bits of the result, at least BITS
    bit          MAX  = 1
) (
    input  logic [BITS-1:0] x,
    input  logic            first,
    input  logic [OB-1:0]   so_far,
    output logic [OB-1:0]   now
);
    logic [OB-1:0] xw;
    if (SGN) begin : with_sign
        assign xw = OB'($signed(x));
    end else begin : without_sign
        assign xw = OB'(x);
    end
    if (MAX) begin : largest
        // the sign bit turned, signed numbers have the order of unsigned ones
        localparam logic [OB-1:0] TURN = OB'(SGN) << (OB - 1);
        assign now = (first || (xw ^ TURN) > (so_far ^ TURN)) ? xw : so_far;
    end else begin : sum
        assign now = (first ? '0 : so_far) + xw;
    end
endmodule
