// Integer addition of two streams of the same shape: m = AM*a + BM*b, with constant multipliers.
//
// A multiplier becomes its signed digits (-1, 0, 1; no two neighbours), one shifted copy of the operand for each; all
// copies are summed by one registered tree. Negative copies are complemented, and the missing ones are one more copy.
// One beat per cycle; no memory but the output buffer. A beat is taken when both streams have one.
`default_nettype none
module ge_add #(
    int unsigned PE       = 1,   // elements per beat
    int unsigned A_BITS   = 4,   // bits of a, of b
    bit          ASGN     = 0,   // a is signed, b is signed
    int unsigned B_BITS   = 4,
    bit          BSGN     = 0,
    int          AM       = 1,
    int          BM       = 1,
    int unsigned OUT_BITS = 6,   // result bits, signed
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
    if (PE < 1) $fatal(1, "ge_add: PE=%0d must be at least 1", PE);
    if (A_BITS < 1) $fatal(1, "ge_add: A_BITS=%0d must be at least 1", A_BITS);
    if (B_BITS < 1) $fatal(1, "ge_add: B_BITS=%0d must be at least 1", B_BITS);
    if (OUT_BITS < 1) $fatal(1, "ge_add: OUT_BITS=%0d must be at least 1", OUT_BITS);
    if (AM == 0 && BM == 0) $fatal(1, "ge_add: one of AM=%0d and BM=%0d must not be 0", AM, BM);

    // the k-th signed digit of m that is not zero, with its weight; 0 where there is none
    function automatic int digit(int m, int k);
        int rest, d;
        rest = m;
        for (int place = 0; place < 32; place++) begin
            d = (rest & 1) == 0 ? 0 : (rest & 2) == 0 ? 1 : -1;
            if (d != 0 && k == 0) return d <<< place;
            if (d != 0) k = k - 1;
            rest = (rest - d) >>> 1;
        end
        return 0;
    endfunction

    function automatic int count(int m, bit negative);           // digits, or negative digits only
        int n;
        n = 0;
        for (int k = 0; k < 32; k++) if (negative ? digit(m, k) < 0 : digit(m, k) != 0) n++;
        return n;
    endfunction

    localparam int ACOPIES = count(AM, 0);
    localparam int COPIES  = ACOPIES + count(BM, 0);
    localparam int MISSING = count(AM, 1) + count(BM, 1);
    localparam int ROWS    = COPIES + (MISSING != 0 ? 1 : 0);
    localparam int unsigned LATENCY = 1 + $clog2(ROWS);          // input register, tree
    localparam int unsigned DEPTH   = 1 << $clog2(LATENCY + 4);  // covers the way there and back

    // ---- take in
    logic beat, room;
    assign beat     = a_tvalid && b_tvalid && room;
    assign a_tready = b_tvalid && room;
    assign b_tready = a_tvalid && room;

    // ---- add
    logic [PE*OUT_BITS-1:0] sums;
    for (genvar p = 0; p < PE; p++) begin : lane
        logic [OUT_BITS-1:0]      a, b;
        logic [ROWS*OUT_BITS-1:0] rows;
        logic [OUT_BITS+$clog2(ROWS)-1:0] sum;
        always_ff @(posedge clk) begin
            a <= OUT_BITS'($signed({ASGN & a_tdata[p*A_BITS+A_BITS-1], a_tdata[p*A_BITS +: A_BITS]}));
            b <= OUT_BITS'($signed({BSGN & b_tdata[p*B_BITS+B_BITS-1], b_tdata[p*B_BITS +: B_BITS]}));
        end
        for (genvar r = 0; r < ROWS; r++) begin : copy
            localparam int D = r < ACOPIES ? digit(AM, r) : digit(BM, r - ACOPIES);
            if (r == COPIES) begin : ones
                assign rows[r*OUT_BITS +: OUT_BITS] = OUT_BITS'(MISSING);
            end else if (D > 0) begin : plus
                assign rows[r*OUT_BITS +: OUT_BITS] = (r < ACOPIES ? a : b) << $clog2(D);
            end else begin : minus
                assign rows[r*OUT_BITS +: OUT_BITS] = ~((r < ACOPIES ? a : b) << $clog2(-D));
            end
        end
        ge_adder_tree #(.N(ROWS), .WIDTH(OUT_BITS)) tree (.clk, .x(rows), .sum);
        assign sums[p*OUT_BITS +: OUT_BITS] = sum[OUT_BITS-1:0];
    end

    ge_credit_pipeline #(.WIDTH(PE*OUT_BITS), .LATENCY(LATENCY), .DEPTH(DEPTH)) frame (
        .clk, .rst, .room, .take(beat), .enter(beat), .valid(), .keep(1'b1), .y(sums), .m_tdata, .m_tvalid, .m_tready);
`ifdef GE_ASSERT
    ge_stream_assert #(.WIDTH(M_WIDTH), .NAME("m")) hold_m (.clk, .rst, .tdata(m_tdata), .tvalid(m_tvalid), .tready(m_tready));
`endif
endmodule
`default_nettype wire
