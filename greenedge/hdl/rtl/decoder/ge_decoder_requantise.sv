// y = clip((x * m + 2^(s-1)) >> s, limit), a product a cycle, five cycles: product, two steps of the shift, rounding, clip.
// The rounding uses that (p + 2^(s-1)) >> s is ((p >> (s-1)) + 1) >> 1, for every s from 1 on.
`default_nettype none
module ge_decoder_requantise #(
    int unsigned X_BITS = 20,
    int unsigned M_BITS = 18
) (
    input  logic                     clk,
    input  logic signed [X_BITS-1:0] x,
    input  logic signed [M_BITS-1:0] multiplier,
    input  logic [4:0]               shift,      // s - 1
    input  logic [15:0]              limit,      // held until the clip, four cycles later, by its writer
    output logic signed [16:0]       y           // a limit of 65,535 leaves nothing that a sum with 16 bits could tell
);
    if (X_BITS < 2 || M_BITS < 2) $fatal(1, "ge_decoder_requantise: X_BITS=%0d and M_BITS=%0d must be at least 2", X_BITS, M_BITS);
    localparam int unsigned P = X_BITS + M_BITS > 20 ? X_BITS + M_BITS : 20;

    logic signed [P-1:0] product, coarse, fine, rounded;
    logic [4:0]          shift_1;
    logic [2:0]          shift_2;
    always_ff @(posedge clk) begin
        product <= P'(x * multiplier);
        shift_1 <= shift;
        coarse  <= product >>> {shift_1[4:3], 3'b0};
        shift_2 <= shift_1[2:0];
        fine    <= coarse >>> shift_2;
        rounded <= (fine + P'(1)) >>> 1;
        if (rounded > $signed(P'(limit))) y <= {1'b0, limit};
        else if (rounded < -$signed(P'(limit))) y <= -{1'b0, limit};
        else y <= 17'(rounded);
    end
endmodule
`default_nettype wire
