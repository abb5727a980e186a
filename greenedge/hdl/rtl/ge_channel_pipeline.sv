// The frame of a unit that treats each channel with parameters of its own: channel c runs 0 ... C-1 and starts again, PE
// of them a beat.
//
// Nothing within has to wait: a beat is taken in only when the output buffer has room for what comes of it. Two cycles
// after it the unit finds it in x, with its channels' parameters beside it (read from memory, through the memory's output
// register); LATENCY cycles after it, it gives the result in y.
//
// FILE: word f holds PE fields of FB bits, channel f*PE in the low bits.
`default_nettype none
module ge_channel_pipeline #(
    int unsigned C        = 16,  // channels
    int unsigned PE       = 1,   // channels per beat; divides C
    int unsigned X_BITS   = 16,  // input bits
    int unsigned FB       = 40,  // bits of a channel's parameters
    int unsigned OUT_BITS = 4,   // output bits
    int unsigned LATENCY  = 6,   // from a beat to its y, at least 3
    parameter    FILE     = "",
    localparam int unsigned S_WIDTH = (PE*X_BITS + 7) / 8 * 8,
    localparam int unsigned M_WIDTH = (PE*OUT_BITS + 7) / 8 * 8
) (
    input  logic                   clk,
    input  logic                   rst,
    input  logic [S_WIDTH-1:0]     s_tdata,
    input  logic                   s_tvalid,
    output logic                   s_tready,
    output logic [PE*X_BITS-1:0]   x,
    output logic [PE*FB-1:0]       fields,
    input  logic [PE*OUT_BITS-1:0] y,
    output logic [M_WIDTH-1:0]     m_tdata,
    output logic                   m_tvalid,
    input  logic                   m_tready
);
    if (PE == 0 || C % PE != 0) $fatal(1, "ge_channel_pipeline: PE=%0d must divide C=%0d", PE, C);
    if (X_BITS < 1) $fatal(1, "ge_channel_pipeline: X_BITS=%0d must be at least 1", X_BITS);
    if (FB < 1) $fatal(1, "ge_channel_pipeline: FB=%0d must be at least 1", FB);
    if (OUT_BITS < 1) $fatal(1, "ge_channel_pipeline: OUT_BITS=%0d must be at least 1", OUT_BITS);
    if (LATENCY < 3) $fatal(1, "ge_channel_pipeline: LATENCY=%0d must be at least 3", LATENCY);

    localparam int unsigned CF    = C / PE;
    localparam int unsigned CW    = CF > 1 ? $clog2(CF) : 1;
    localparam int unsigned DEPTH = 1 << $clog2(LATENCY + 4);        // covers the way there and back

    // ---- take in
    logic          beat;
    logic [CW-1:0] c;
    assign beat = s_tvalid && s_tready;
    always_ff @(posedge clk) begin
        if (rst) c <= '0;
        else if (beat) c <= (c == CW'(CF - 1)) ? '0 : c + 1'b1;
    end

    // ---- read the channels' parameters
    logic [PE*FB-1:0] memory [CF];
    initial $readmemh(FILE, memory);
    logic [PE*FB-1:0] fields_1;
    logic [PE*X_BITS-1:0] x_1;
    always_ff @(posedge clk) begin
        fields_1 <= memory[c];
        fields   <= fields_1;
        x_1      <= s_tdata[PE*X_BITS-1:0];
        x        <= x_1;
    end

    ge_credit_pipeline #(.WIDTH(PE*OUT_BITS), .LATENCY(LATENCY), .DEPTH(DEPTH)) frame (
        .clk, .rst, .room(s_tready), .take(beat), .enter(beat), .valid(), .keep(1'b1), .y, .m_tdata, .m_tvalid, .m_tready);
endmodule
`default_nettype wire
