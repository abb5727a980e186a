// y = x held within LO ... HI, as OB bits. Ranges that fill their bits need no comparison, only a look at the high bits.
module ge_clip #(
    int unsigned XB = 12,        // bits of x, signed; at least one more than OB
    int          LO = 0,
    int          HI = 15,
    int unsigned OB = 4
) (
    input  logic [XB-1:0] x,
    output logic [OB-1:0] y
);
    logic below, above;
    if (LO == 0) begin : from_zero
        assign below = x[XB-1];
    end else if (LO == -(1 << (OB-1))) begin : from_lowest
        assign below = x[XB-1] && !(&x[XB-1:OB-1]);
    end else begin : compare_low
        assign below = $signed(x) < $signed(XB'(LO));
    end
    if (LO >= 0 && HI == (1 << OB) - 1) begin : to_highest_unsigned
        assign above = !x[XB-1] && (|x[XB-1:OB]);
    end else if (LO < 0 && HI == (1 << (OB-1)) - 1) begin : to_highest_signed
        assign above = !x[XB-1] && (|x[XB-1:OB-1]);
    end else begin : compare_high
        assign above = $signed(x) > $signed(XB'(HI));
    end
    assign y = below ? OB'(LO) : above ? OB'(HI) : x[OB-1:0];
endmodule
