// Thresholds: y = LO + how many of the channel's STEPS thresholds x has reached; channel c runs 0 ... C-1 and starts again.
//
// For functions without affine form, and for few levels, where STEPS comparisons are smaller than ge_requantise's
// multiplier. One beat per cycle. Memory: STEPS thresholds per channel, read through two registers.
//
// THRESHOLDS_FILE: word f holds PE fields, channel f*PE in the low bits; a field holds STEPS thresholds of X_BITS + 1 bits
// (the largest x plus one is never reached), and above them FALLS bits: those of its thresholds of which the channel counts
// that x has not reached them. FALLS = 1: one bit for all of a channel; FALLS = STEPS: a bit for each, so that a function
// may rise and fall, and LO + STEPS, which no x reaches then, may lie beyond OUT_BITS.
`default_nettype none
module ge_threshold #(
    int unsigned C        = 8,   // channels
    int unsigned PE       = 1,   // channels per beat; divides C
    int unsigned X_BITS   = 12,  // input bits
    bit          XSGN     = 1,   // input is signed
    int          LO       = 0,
    int unsigned STEPS    = 3,   // levels - 1
    int unsigned OUT_BITS = 2,   // output bits
    int unsigned FALLS    = 0,   // bits that say which thresholds fall: 0, 1 or STEPS
    parameter    THRESHOLDS_FILE = "",
    localparam int unsigned S_WIDTH = (PE*X_BITS + 7) / 8 * 8,
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
    localparam int unsigned TB      = X_BITS + 1;
    localparam int unsigned FB      = STEPS*TB + FALLS;          // bits of a field
    localparam int unsigned LATENCY = 2 + 1 + $clog2(STEPS) + 1; // memory, comparison, count, LO
    if (PE == 0 || C % PE != 0) $fatal(1, "ge_threshold: PE=%0d must divide C=%0d", PE, C);
    if (X_BITS < 1) $fatal(1, "ge_threshold: X_BITS=%0d must be at least 1", X_BITS);
    if (STEPS < 1) $fatal(1, "ge_threshold: STEPS=%0d must be at least 1", STEPS);
    if (FALLS > 1 && FALLS != STEPS) $fatal(1, "ge_threshold: FALLS=%0d must be 0, 1 or STEPS=%0d", FALLS, STEPS);
    if (FALLS < 2 && OUT_BITS < 31 && LO + int'(STEPS) >= (LO < 0 ? 1 << (OUT_BITS-1) : 1 << OUT_BITS))
        $fatal(1, "ge_threshold: LO=%0d and STEPS=%0d give levels beyond OUT_BITS=%0d", LO, STEPS, OUT_BITS);
    if (FALLS < 2 && OUT_BITS < 31 && LO < -(1 << (OUT_BITS-1))) $fatal(1, "ge_threshold: LO=%0d does not fit OUT_BITS=%0d", LO, OUT_BITS);

    logic [PE*X_BITS-1:0] xs;
    logic [PE*FB-1:0] fields;
    logic [PE*OUT_BITS-1:0] y;
    ge_channel_pipeline #(
        .C(C), .PE(PE), .X_BITS(X_BITS), .FB(FB), .OUT_BITS(OUT_BITS), .LATENCY(LATENCY), .FILE(THRESHOLDS_FILE)) frame (
        .clk, .rst, .s_tdata, .s_tvalid, .s_tready, .x(xs), .fields, .y, .m_tdata, .m_tvalid, .m_tready);

    // ---- compare, count
    for (genvar p = 0; p < PE; p++) begin : lane
        logic [FB-1:0]      field;
        logic [2*STEPS-1:0] reached;                             // 0 or 1 as signed words for the tree
        logic [1+$clog2(STEPS):0] count;
        logic [TB-1:0]      x;
        // the sign bit turned, signed numbers have the order of unsigned ones
        assign field = fields[p*FB +: FB];
        assign x     = {XSGN & ~xs[p*X_BITS+X_BITS-1], xs[p*X_BITS +: X_BITS]};
        for (genvar k = 0; k < STEPS; k++) begin : step
            logic [TB-1:0] t;
            logic          falls;
            assign t = field[k*TB +: TB] ^ (TB'(XSGN) << (TB - 1));
            if (FALLS == 0) begin : never
                assign falls = 1'b0;
            end else begin : some
                assign falls = field[STEPS*TB + (FALLS > 1 ? k : 0)];
            end
            always_ff @(posedge clk) reached[2*k +: 2] <= {1'b0, (x >= t) ^ falls};
        end
        ge_adder_tree #(.N(STEPS), .WIDTH(2)) tree (.clk, .x(reached), .sum(count));
        always_ff @(posedge clk) y[p*OUT_BITS +: OUT_BITS] <= OUT_BITS'(LO) + OUT_BITS'(count);
    end
`ifdef GE_ASSERT
    ge_stream_assert #(.WIDTH(M_WIDTH), .NAME("m")) hold_m (.clk, .rst, .tdata(m_tdata), .tvalid(m_tvalid), .tready(m_tready));
`endif
endmodule
`default_nettype wire
