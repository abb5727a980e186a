// y = x held within LO ... HI, in OUT_BITS. Ranges that fill their bits need no comparison, only a look at the high bits.
`default_nettype none
module ge_clip #(
    int unsigned X_BITS   = 12,  // bits of x, signed; at least one more than OUT_BITS
    int          LO       = 0,
    int          HI       = 15,
    int unsigned OUT_BITS = 4
) (
    input  logic [X_BITS-1:0]   x,
    output logic [OUT_BITS-1:0] y
);
    if (LO > HI) $fatal(1, "ge_clip: LO=%0d must not be above HI=%0d", LO, HI);
    if (OUT_BITS < 1 || X_BITS <= OUT_BITS) $fatal(1, "ge_clip: X_BITS=%0d must be more than OUT_BITS=%0d", X_BITS, OUT_BITS);
    if (OUT_BITS < 31 && (LO < 0 ? LO < -(1 << (OUT_BITS-1)) || HI >= (1 << (OUT_BITS-1)) : HI >= (1 << OUT_BITS)))
        $fatal(1, "ge_clip: LO=%0d ... HI=%0d do not fit OUT_BITS=%0d", LO, HI, OUT_BITS);

    logic below, above;
    if (LO == 0) begin : from_zero
        assign below = x[X_BITS-1];
    end else if (LO == -(1 << (OUT_BITS-1))) begin : from_lowest
        assign below = x[X_BITS-1] && !(&x[X_BITS-1:OUT_BITS-1]);
    end else begin : compare_low
        assign below = $signed(x) < $signed(X_BITS'(LO));
    end
    if (LO >= 0 && HI == (1 << OUT_BITS) - 1) begin : to_highest_unsigned
        assign above = !x[X_BITS-1] && (|x[X_BITS-1:OUT_BITS]);
    end else if (LO < 0 && HI == (1 << (OUT_BITS-1)) - 1) begin : to_highest_signed
        assign above = !x[X_BITS-1] && (|x[X_BITS-1:OUT_BITS-1]);
    end else begin : compare_high
        assign above = $signed(x) > $signed(X_BITS'(HI));
    end
    assign y = below ? OUT_BITS'(LO) : above ? OUT_BITS'(HI) : x[OUT_BITS-1:0];
endmodule
`default_nettype wire
