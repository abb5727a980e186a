// Product of two streams of the same shape: m = (a - AZERO) * (b - BZERO), element by element.
//
// The zero points go as a beat is taken in; a multiplier of look-up tables follows (ge_scale), which is cheapest where b is
// the factor of fewer bits, and where that is never negative. One beat per cycle; no memory but the output buffer. A beat
// is taken when both streams have one.
`default_nettype none
module ge_multiply #(
    int unsigned PE       = 1,   // elements per beat
    int unsigned A_BITS   = 4,   // bits of a, of b
    bit          ASGN     = 0,   // a is signed, b is signed
    int          AZERO    = 0,   // what counts as 0 of a, of b
    int unsigned B_BITS   = 4,
    bit          BSGN     = 0,
    int          BZERO    = 0,
    int unsigned OUT_BITS = 8,   // result bits
    localparam int unsigned A_WIDTH = (PE*A_BITS + 7) / 8 * 8,
    localparam int unsigned B_WIDTH = (PE*B_BITS + 7) / 8 * 8,
    localparam int unsigned M_WIDTH = (PE*OUT_BITS + 7) / 8 * 8
) (
    input  logic               clk,
    input  logic               rst,
    input  logic [A_WIDTH-1:0] a_tdata,
    input  logic               a_tvalid,
    output logic               a_tready,
    input  logic [B_WIDTH-1:0] b_tdata,
    input  logic               b_tvalid,
    output logic               b_tready,
    output logic [M_WIDTH-1:0] m_tdata,
    output logic               m_tvalid,
    input  logic               m_tready
);
    if (PE < 1) $fatal(1, "ge_multiply: PE=%0d must be at least 1", PE);
    if (A_BITS < 1 || A_BITS > 24) $fatal(1, "ge_multiply: A_BITS=%0d must be 1 to 24", A_BITS);
    if (B_BITS < 1 || B_BITS > 24) $fatal(1, "ge_multiply: B_BITS=%0d must be 1 to 24", B_BITS);
    if (AZERO < -(1 << 24) || AZERO > 1 << 24) $fatal(1, "ge_multiply: AZERO=%0d must fit 25 bits", AZERO);
    if (BZERO < -(1 << 24) || BZERO > 1 << 24) $fatal(1, "ge_multiply: BZERO=%0d must fit 25 bits", BZERO);
    if (OUT_BITS < 1) $fatal(1, "ge_multiply: OUT_BITS=%0d must be at least 1", OUT_BITS);

    // bits of low ... high, unsigned or in two's complement
    function automatic int unsigned width(int low, int high);
        int unsigned below, above;
        below = $clog2(-low);
        above = $clog2(high + 1);
        return low >= 0 ? (high < 1 ? 1 : above) : 1 + (high >= 0 && above > below ? above : below);
    endfunction

    // ---- factors
    localparam int ALO = (ASGN ? -(1 << (A_BITS-1)) : 0) - AZERO;
    localparam int AHI = (ASGN ? 1 << (A_BITS-1) : 1 << A_BITS) - 1 - AZERO;
    localparam int BLO = (BSGN ? -(1 << (B_BITS-1)) : 0) - BZERO;
    localparam int BHI = (BSGN ? 1 << (B_BITS-1) : 1 << B_BITS) - 1 - BZERO;
    localparam int unsigned X_BITS = width(ALO < 0 ? ALO : -1, AHI); // ge_scale wants x signed
    localparam int unsigned N_BITS = width(BLO, BHI);

    localparam int unsigned LEVELS  = $clog2((N_BITS + 1) / 2);
    localparam int unsigned LATENCY = 1 + 1 + LEVELS;            // zero points, product
    localparam int unsigned DEPTH   = 1 << $clog2(LATENCY + 4);  // covers the way there and back

    // ---- take in
    logic beat, room;
    assign beat     = a_tvalid && b_tvalid && room;
    assign a_tready = b_tvalid && room;
    assign b_tready = a_tvalid && room;

    // ---- multiply
    logic [PE*OUT_BITS-1:0] y;
    for (genvar p = 0; p < PE; p++) begin : lane
        logic [X_BITS-1:0]        x;
        logic [N_BITS-1:0]        n;
        logic [X_BITS+N_BITS-1:0] product;
        always_ff @(posedge clk) begin
            x <= X_BITS'($signed({ASGN & a_tdata[p*A_BITS+A_BITS-1], a_tdata[p*A_BITS +: A_BITS]})) - X_BITS'(AZERO);
            n <= N_BITS'($signed({BSGN & b_tdata[p*B_BITS+B_BITS-1], b_tdata[p*B_BITS +: B_BITS]})) - N_BITS'(BZERO);
        end
        ge_scale #(.X_BITS(X_BITS), .M_BITS(N_BITS), .LEVELS(LEVELS), .MSGN(BLO < 0)) scale (
            .clk, .x, .m(n), .p(product));
        assign y[p*OUT_BITS +: OUT_BITS] = OUT_BITS'($signed(product));
    end

    ge_credit_pipeline #(.WIDTH(PE*OUT_BITS), .LATENCY(LATENCY), .DEPTH(DEPTH)) frame (
        .clk, .rst, .room, .take(beat), .enter(beat), .valid(), .keep(1'b1), .y, .m_tdata, .m_tvalid, .m_tready);
`ifdef GE_ASSERT
    ge_stream_assert #(.WIDTH(M_WIDTH), .NAME("m")) hold_m (.clk, .rst, .tdata(m_tdata), .tvalid(m_tvalid), .tready(m_tready));
`endif
endmodule
`default_nettype wire
