// product = a * b, a signed and b without sign, wider than one multiplier of 18 bits: operands, products of 17-bit parts and
// their sum each have a register. Latency three cycles, a new product every cycle.
`default_nettype none
module ge_decoder_multiply #(
    int unsigned A_BITS = 25,
    int unsigned B_BITS = 22
) (
    input  logic                            clk,
    input  logic [A_BITS-1:0]               a,
    input  logic [B_BITS-1:0]               b,
    output logic signed [A_BITS+B_BITS-1:0] product
);
    if (A_BITS < 2 || B_BITS < 1) $fatal(1, "ge_decoder_multiply: A_BITS=%0d must be at least 2 and B_BITS=%0d at least 1", A_BITS, B_BITS);
    localparam int unsigned P  = A_BITS + B_BITS;
    localparam int unsigned NA = (A_BITS + 15) / 17, NB = (B_BITS + 16) / 17;   // the highest part of a has 18 bits, one the sign

    logic signed [17*NA:0] a_1;
    logic [17*NB-1:0]      b_1;
    logic signed [P-1:0]   parts [NA*NB];
    logic signed [P-1:0]   total;
    for (genvar i = 0; i < NA; i++) begin : row
        for (genvar j = 0; j < NB; j++) begin : column
            logic signed [17:0] x, y;
            logic signed [35:0] xy;
            assign x = i == NA - 1 ? a_1[17*i +: 18] : {1'b0, a_1[17*i +: 17]};
            assign y = {1'b0, b_1[17*j +: 17]};
            always_ff @(posedge clk) xy <= x * y;
            assign parts[i*NB + j] = P'(xy) <<< 17*(i + j);
        end
    end
    always_comb begin
        total = '0;
        for (int k = 0; k < NA*NB; k++) total = total + parts[k];
    end
    always_ff @(posedge clk) begin
        a_1     <= (17*NA + 1)'($signed(a));
        b_1     <= (17*NB)'(b);
        product <= total;
    end
endmodule
`default_nettype wire
