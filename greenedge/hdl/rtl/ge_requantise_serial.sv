// ge_requantise for a stream that leaves M_BITS + 2 cycles per beat: y = clip((m[c]*x + b[c]) >> SHIFT, LO, HI), one adder per
// channel of a beat.
//
// Step i adds bit i of b and, where bit i of m is set, x; then everything moves one place right. What falls out below is
// never needed: floor((floor((b + m0*x)/2) + m1*x)/2) = floor((b + m0*x + 2*m1*x)/4). After M_BITS steps one more adds what is
// left of b, its bits from M_BITS on. So the accumulator is little wider than x. The input is held by its writer meanwhile.
//
// Parameters, ports and PARAMETERS_FILE as in ge_requantise, which chooses; needs SHIFT > M_BITS.
`default_nettype none
module ge_requantise_serial #(
    int unsigned C        = 16,
    int unsigned PE       = 1,
    int unsigned X_BITS   = 16,
    bit          XSGN     = 1,
    int unsigned M_BITS   = 12,
    int unsigned B_BITS   = 28,
    int unsigned SHIFT    = 16,
    int          LO       = 0,
    int          HI       = 15,
    int unsigned OUT_BITS = 4,
    parameter    PARAMETERS_FILE = "",
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
    if (PE == 0 || C % PE != 0) $fatal(1, "ge_requantise_serial: PE=%0d must divide C=%0d", PE, C);
    if (X_BITS < 1) $fatal(1, "ge_requantise_serial: X_BITS=%0d must be at least 1", X_BITS);
    if (M_BITS < 1) $fatal(1, "ge_requantise_serial: M_BITS=%0d must be at least 1", M_BITS);
    if (SHIFT <= M_BITS) $fatal(1, "ge_requantise_serial: SHIFT=%0d must be more than M_BITS=%0d", SHIFT, M_BITS);
    if (B_BITS <= SHIFT + OUT_BITS)
        $fatal(1, "ge_requantise_serial: B_BITS=%0d must be more than SHIFT=%0d and OUT_BITS=%0d together",
               B_BITS, SHIFT, OUT_BITS);

    localparam int unsigned CF   = C / PE;
    localparam int unsigned CW   = CF > 1 ? $clog2(CF) : 1;
    localparam int unsigned FB   = M_BITS + B_BITS;
    localparam int unsigned XS   = XSGN ? X_BITS : X_BITS + 1;
    localparam int unsigned LAST = B_BITS - M_BITS - 1;          // bits of (m*x + b) >> (M_BITS+1), where the last step ends
    localparam int unsigned AW   = XS + 1 > LAST ? XS + 1 : LAST;
    localparam int unsigned TW   = $clog2(M_BITS + 2);
    localparam int unsigned DONE = M_BITS + 1;                   // the step that hands the result over

    // ---- steps 0 ... M_BITS-1 multiply, M_BITS adds the rest of b, DONE hands over
    logic [TW-1:0] step;
    logic          go, add_high, done;
    assign add_high = (step == TW'(M_BITS));
    assign done     = (step == TW'(DONE));
    assign s_tready = add_high;                                  // x is not looked at any more
    assign go       = (step == '0) ? s_tvalid : done ? (!m_tvalid || m_tready) : 1'b1;

    always_ff @(posedge clk) begin
        if (rst) step <= '0;
        else if (go) step <= done ? '0 : step + 1'b1;
    end

    // ---- the channel's parameters; block RAM has an address and an output register, which the last two steps cover
    logic [PE*FB-1:0] parameters;
    logic [CW-1:0]    c;
    logic             advance;
    if (CF >= 16) begin : block
        (* ram_style = "block", rom_style = "block" *) logic [PE*FB-1:0] mem [CF];
        initial $readmemh(PARAMETERS_FILE, mem);
        logic [PE*FB-1:0] p1;
        always_ff @(posedge clk) begin
            p1         <= mem[c];
            parameters <= p1;
        end
        assign advance = go && (step == TW'(M_BITS - 1));
    end else begin : distributed
        logic [PE*FB-1:0] mem [CF];
        initial $readmemh(PARAMETERS_FILE, mem);
        assign parameters = mem[c];
        assign advance = go && done;
    end
    always_ff @(posedge clk) begin
        if (rst) c <= '0;
        else if (advance) c <= (c == CW'(CF - 1)) ? '0 : c + 1'b1;
    end

    // ---- add and move right
    logic [PE*OUT_BITS-1:0] y;
    for (genvar p = 0; p < PE; p++) begin : lane
        logic [M_BITS-1:0]        m, b_low;
        logic [LAST:0]        b_high;
        logic signed [XS-1:0] x;
        logic signed [AW:0]   addend, sum;
        logic signed [AW-1:0] acc;
        logic                 m_bit, b_bit;
        assign {m, b_high, b_low} = parameters[p*FB +: FB];
        if (XSGN) begin : with_sign
            assign x = s_tdata[p*X_BITS +: X_BITS];
        end else begin : without_sign
            assign x = {1'b0, s_tdata[p*X_BITS +: X_BITS]};
        end
        assign m_bit  = m[step];
        assign b_bit  = b_low[step] && !add_high;
        assign addend = add_high ? (AW+1)'($signed(b_high)) : m_bit ? (AW+1)'(x) : '0;
        assign sum    = (AW+1)'(acc) + addend + $signed({1'b0, b_bit});
        always_ff @(posedge clk) begin
            if (rst || (done && go)) acc <= '0;
            else if (go) acc <= AW'(sum >>> 1);
        end
        ge_clip #(.X_BITS(B_BITS-SHIFT), .LO(LO), .HI(HI), .OUT_BITS(OUT_BITS)) clip (
            .x(acc[SHIFT-M_BITS-1 +: B_BITS-SHIFT]), .y(y[p*OUT_BITS +: OUT_BITS]));
    end

    // ---- hand over
    logic [PE*OUT_BITS-1:0] word;
    always_ff @(posedge clk) begin
        if (done && go) word <= y;
        if (rst) m_tvalid <= 1'b0;
        else if (!m_tvalid || m_tready) m_tvalid <= done;
    end
    assign m_tdata = M_WIDTH'(word);
endmodule
`default_nettype wire
