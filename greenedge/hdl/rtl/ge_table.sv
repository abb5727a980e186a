// Look-up table per channel: y = table[c][x - XLO], for functions of few values that are not monotone; channel c runs
// 0 ... C-1 and starts again. C = 1: one table serves all channels, whatever PE is.
//
// One beat per cycle. Memory: each lane of a beat has a memory of its own, read through two registers.
//
// TABLE_FILE: word f*SIZE + i holds PE values of OUT_BITS bits for x = XLO + i, channel f*PE in the low bits.
`default_nettype none
module ge_table #(
    int unsigned C        = 1,   // tables
    int unsigned PE       = 1,   // elements per beat; divides C, or C is 1
    int unsigned X_BITS   = 6,   // input bits
    bit          XSGN     = 1,   // input is signed
    int          XLO      = -32, // smallest x
    int unsigned SIZE     = 64,  // values of x
    int unsigned OUT_BITS = 4,   // output bits
    parameter    TABLE_FILE = "",
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
    if (C != 1 && (PE == 0 || C % PE != 0)) $fatal(1, "ge_table: PE=%0d must divide C=%0d, or C be 1", PE, C);
    if (PE < 1) $fatal(1, "ge_table: PE=%0d must be at least 1", PE);
    if (X_BITS < 1) $fatal(1, "ge_table: X_BITS=%0d must be at least 1", X_BITS);
    if (SIZE < 1) $fatal(1, "ge_table: SIZE=%0d must be at least 1", SIZE);
    if (OUT_BITS < 1) $fatal(1, "ge_table: OUT_BITS=%0d must be at least 1", OUT_BITS);
    if (X_BITS < 31 && (XLO < (XSGN ? -(1 << (X_BITS-1)) : 0) || XLO + int'(SIZE) > (XSGN ? 1 << (X_BITS-1) : 1 << X_BITS)))
        $fatal(1, "ge_table: XLO=%0d and SIZE=%0d go beyond X_BITS=%0d", XLO, SIZE, X_BITS);

    localparam int unsigned CF      = C > PE ? C / PE : 1;
    localparam int unsigned WORDS   = CF*SIZE;
    localparam int unsigned AW      = WORDS > 1 ? $clog2(WORDS) : 1;
    localparam int unsigned LATENCY = 3;                         // address, memory, output register
    localparam int unsigned DEPTH   = 8;                         // covers the way there and back

    // ---- take in
    logic          beat;
    logic [AW-1:0] base;                                         // of the channel's table
    assign beat = s_tvalid && s_tready;
    always_ff @(posedge clk) begin
        if (rst) base <= '0;
        else if (beat) base <= (base == AW'(WORDS - SIZE)) ? '0 : base + AW'(SIZE);
    end

    // ---- look up
    logic [PE*OUT_BITS-1:0] y;
    for (genvar p = 0; p < PE; p++) begin : lane
        logic [PE*OUT_BITS-1:0] values [WORDS];                  // of each word only this lane's bits are kept
        initial $readmemh(TABLE_FILE, values);
        logic [AW-1:0]    address, offset;
        logic [OUT_BITS-1:0]    v1;
        assign offset = AW'($signed({XSGN & s_tdata[p*X_BITS+X_BITS-1], s_tdata[p*X_BITS +: X_BITS]}));
        always_ff @(posedge clk) begin
            address       <= base + offset - AW'(XLO);
            v1            <= values[address][p*OUT_BITS +: OUT_BITS];
            y[p*OUT_BITS +: OUT_BITS] <= v1;
        end
    end

    ge_credit_pipeline #(.WIDTH(PE*OUT_BITS), .LATENCY(LATENCY), .DEPTH(DEPTH)) frame (
        .clk, .rst, .room(s_tready), .take(beat), .enter(beat), .valid(), .keep(1'b1), .y, .m_tdata, .m_tvalid, .m_tready);
`ifdef GE_ASSERT
    ge_stream_assert #(.WIDTH(M_WIDTH), .NAME("m")) hold_m (.clk, .rst, .tdata(m_tdata), .tvalid(m_tvalid), .tready(m_tready));
`endif
endmodule
`default_nettype wire
