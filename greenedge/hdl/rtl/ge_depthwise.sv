// Depthwise convolution with its weights in memory: y[c] = sum over taps t of W[c][t] * x[c][t] - Z[c].
//
// In: the beats of ge_window with DEPTHWISE = 1, TAPS per group of PE channels; out: one beat of PE accumulators per
// group. One beat per cycle in, so C/PE * TAPS cycles per output pixel. Products flow through without waiting: a group
// is begun only when the output buffer has a free word for it.
//
// Z[c] = 2**max(W_BITS-2, 0) * (number of negative weights of channel c) is what ge_product leaves out, as in ge_mvu; the
// next unit adds it within its own bias, or with CORRECT = 1 this unit starts its accumulators there.
//
// WEIGHTS_FILE: word g*TAPS + t holds PE weights of W_BITS bits, channel g*PE in the low bits. CORRECTION_FILE: word g holds
// Z of these channels in OUT_BITS each. Memory: read in order through two registers, so that a block RAM's own can serve.
`default_nettype none
module ge_depthwise #(
    int unsigned C        = 8,   // channels
    int unsigned TAPS     = 9,   // pixels under the kernel
    int unsigned PE       = 2,   // channels per beat; divides C
    int unsigned W_BITS   = 4,   // weight bits, two's complement; 1: signs
    int unsigned A_BITS   = 4,   // activation bits
    bit          ASGN     = 0,   // activations are signed
    int unsigned OUT_BITS = 12,  // accumulator bits, signed
    bit          CORRECT  = 0,
    parameter    WEIGHTS_FILE = "",
    parameter    CORRECTION_FILE = "",
    localparam int unsigned S_WIDTH = (PE*A_BITS + 7) / 8 * 8,
    localparam int unsigned M_WIDTH = (PE*OUT_BITS + 7) / 8 * 8
) (
    input  logic               clk,
    input  logic               rst,
    input  logic [S_WIDTH-1:0] s_tdata,
    input  logic               s_tvalid,
    output logic               s_tready,
    output logic [M_WIDTH-1:0] m_tdata,
    output logic               m_tvalid,
    input  logic               m_tready
);
    if (PE == 0 || C % PE != 0) $fatal(1, "ge_depthwise: PE=%0d must divide C=%0d", PE, C);
    if (TAPS < 1) $fatal(1, "ge_depthwise: TAPS=%0d must be at least 1", TAPS);
    if (W_BITS < 1) $fatal(1, "ge_depthwise: W_BITS=%0d must be at least 1", W_BITS);
    if (A_BITS < 1) $fatal(1, "ge_depthwise: A_BITS=%0d must be at least 1", A_BITS);
    if (OUT_BITS < 1) $fatal(1, "ge_depthwise: OUT_BITS=%0d must be at least 1", OUT_BITS);

    localparam int unsigned G  = C / PE;                         // groups per pixel
    localparam int unsigned GW = G > 1 ? $clog2(G) : 1;
    localparam int unsigned TW = TAPS > 1 ? $clog2(TAPS) : 1;
    localparam int unsigned WW = G*TAPS > 1 ? $clog2(G*TAPS) : 1;
    localparam int unsigned PB = A_BITS + W_BITS;
    localparam int unsigned ROWS    = 1 + ((W_BITS > 2 ? W_BITS - 2 : 0) + 1) / 2;
    localparam int unsigned PRODUCT = W_BITS <= 3 ? 1 : 1 + $clog2(ROWS); // latency of ge_product
    localparam int unsigned LATENCY = 2 + PRODUCT + 1;                   // memory, product, accumulator
    // covers the way there and back; TAPS=0 must get as far as its refusal
    localparam int unsigned DEPTH   = 1 << $clog2(2 + (LATENCY + 3) / (TAPS == 0 ? 1 : TAPS));

    // ---- take in: the first tap of a group needs a credit, the others follow
    logic          beat, room, first, last;
    logic [TW-1:0] tap;
    logic [WW-1:0] wa;
    assign first    = (tap == 0);
    assign last     = (tap == TW'(TAPS - 1));
    assign s_tready = !first || room;
    assign beat     = s_tvalid && s_tready;

    always_ff @(posedge clk) begin
        if (rst) begin
            tap <= '0;
            wa  <= '0;
        end else if (beat) begin
            tap <= last ? '0 : tap + 1'b1;
            wa  <= (wa == WW'(G*TAPS - 1)) ? '0 : wa + 1'b1;
        end
    end

    // ---- read weights: memory, then its output register
    logic [PE*W_BITS-1:0] weights [G*TAPS];
    initial $readmemh(WEIGHTS_FILE, weights);

    logic [PE*W_BITS-1:0]   w1, w2;
    logic [PE*A_BITS-1:0]   x1, x2;
    logic [LATENCY:1]   valid, firsts, lasts;                    // travel beside the data
    always_ff @(posedge clk) begin
        w1     <= weights[wa];
        w2     <= w1;
        x1     <= s_tdata[PE*A_BITS-1:0];
        x2     <= x1;
        firsts <= {firsts[LATENCY-1:1], first};
        lasts  <= {lasts[LATENCY-1:1], last};
    end

    // ---- multiply, accumulate
    logic [PE*OUT_BITS-1:0] acc_init, acc;
    for (genvar p = 0; p < PE; p++) begin : channel
        logic [PB-1:0]        product;
        logic signed [OUT_BITS-1:0] a, base;
        ge_product #(.W_BITS(W_BITS), .A_BITS(A_BITS), .ASGN(ASGN)) mul (
            .clk, .w(w2[p*W_BITS +: W_BITS]), .a(x2[p*A_BITS +: A_BITS]), .p(product));
        assign base = firsts[LATENCY-1] ? acc_init[p*OUT_BITS +: OUT_BITS] : a;
        always_ff @(posedge clk) begin
            if (valid[LATENCY-1]) a <= base + OUT_BITS'($signed(product));
        end
        assign acc[p*OUT_BITS +: OUT_BITS] = a;
    end

    if (CORRECT) begin : correction
        logic [PE*OUT_BITS-1:0] constants [G];
        initial $readmemh(CORRECTION_FILE, constants);
        logic [GW-1:0]    g;
        always_ff @(posedge clk) begin
            if (rst) g <= '0;
            else if (valid[LATENCY-1] && lasts[LATENCY-1]) g <= (g == GW'(G - 1)) ? '0 : g + 1'b1;
        end
        assign acc_init = constants[g];
    end else begin : no_correction
        assign acc_init = '0;
    end

    ge_credit_pipeline #(.WIDTH(PE*OUT_BITS), .LATENCY(LATENCY), .DEPTH(DEPTH)) frame (
        .clk, .rst, .room, .take(beat && first), .enter(beat), .valid, .keep(lasts[LATENCY]), .y(acc),
        .m_tdata, .m_tvalid, .m_tready);
`ifdef GE_ASSERT
    ge_stream_assert #(.WIDTH(M_WIDTH), .NAME("m")) hold_m (.clk, .rst, .tdata(m_tdata), .tvalid(m_tvalid), .tready(m_tready));
`endif
endmodule
`default_nettype wire
