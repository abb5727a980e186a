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
    logic                       beat, freed;
    logic [$clog2(DEPTH+1)-1:0] credit;
    logic [CW-1:0]              c;
    logic [LATENCY:1]           valid;
    assign s_tready = (credit != 0);
    assign beat     = s_tvalid && s_tready;
    always_ff @(posedge clk) begin
        if (rst) begin
            credit <= ($clog2(DEPTH+1))'(DEPTH);
            c      <= '0;
        end else begin
            if (beat != freed) credit <= beat ? credit - 1'b1 : credit + 1'b1;
            if (beat) c <= (c == CW'(CF - 1)) ? '0 : c + 1'b1;
        end
        valid <= rst ? '0 : {valid[LATENCY-1:1], beat};
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

    // ---- hand over
    logic [PE*OUT_BITS-1:0] word;
    ge_fifo #(.WIDTH(PE*OUT_BITS), .DEPTH(DEPTH)) out (
        .clk, .rst, .push(valid[LATENCY]), .push_data(y), .freed, .m_tdata(word), .m_tvalid, .m_tready);
    assign m_tdata = M_WIDTH'(word);
endmodule
`default_nettype wire
