// clip((activation[gate] * up * multiplier + 2^15) >> 16, 127). Rows arrive as gate 0, up 0, gate 1, up 1 …; the result of a
// pair leaves five cycles after its second.
`default_nettype none
module ge_decoder_gate #(
    int unsigned LAYERS = 2,
    int unsigned INDEX  = 10,
    parameter    PREFIX = "",
    localparam int unsigned LW = $clog2(LAYERS + 1)
) (
    input  logic             clk,
    input  logic             rst,
    input  logic [LW-1:0]    layer,
    input  logic [ge_decoder_pkg::PRODUCT_BITS-1:0] multiplier,
    input  logic             s_valid,
    input  logic [INDEX-1:0] s_index,         // of the row; bit 0 says which of the pair
    input  logic [7:0]       s_data,
    output logic             m_valid,
    output logic [INDEX-2:0] m_index,
    output logic [7:0]       m_data
);
    if (LAYERS < 1) $fatal(1, "ge_decoder_gate: LAYERS=%0d must be at least 1", LAYERS);
    localparam int unsigned WORDS = LAYERS * 256;
    localparam int unsigned AW    = $clog2(WORDS);

    logic [AW-1:0] address;
    logic [9:0]    left;
    ge_decoder_rom #(.DEPTH(WORDS), .WIDTH(10), .BANK(2048), .FILE({PREFIX, "activations"})) activations (
        .clk, .address, .word(left));

    logic signed [7:0]  up [1:2];
    logic [4:1]         valid;
    logic [INDEX-2:0]   index [1:4];
    logic signed [17:0] product;
    logic signed [35:0] wide;
    logic signed [19:0] level;
    assign level = 20'((wide + 36'sd32768) >>> 16);
    always_ff @(posedge clk) begin
        if (s_valid && !s_index[0]) address <= AW'({layer, s_data});
        up[1]    <= s_data;
        up[2]    <= up[1];
        valid    <= rst ? '0 : {valid[3:1], s_valid && s_index[0]};
        index[1] <= s_index[INDEX-1:1];
        for (int s = 2; s <= 4; s++) index[s] <= index[s-1];
        product  <= $signed(left) * up[2];
        wide     <= product * $signed({1'b0, multiplier});
        m_data   <= level > 20'sd127 ? 8'd127 : level < -20'sd127 ? 8'h81 : level[7:0];
        m_valid  <= valid[4] && !rst;
        m_index  <= index[4];
    end
endmodule
`default_nettype wire
