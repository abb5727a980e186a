// Pooling: the largest (MAX = 1) or the sum (MAX = 0) of TAPS values, for PE channels at a time.
//
// In: the beats of ge_window with DEPTHWISE = 1, TAPS per group of PE channels; out: one beat per group. TAPS cycles per
// group. Memory: none, one register per channel of a beat; the last tap goes straight to the output register.
`default_nettype none
module ge_pool #(
    int unsigned C        = 4,   // channels
    int unsigned TAPS     = 4,   // pixels under the kernel
    int unsigned PE       = 1,   // channels per beat; divides C
    int unsigned BITS     = 4,   // bits of an element
    bit          SGN      = 0,   // elements are signed
    int unsigned OUT_BITS = 4,   // bits of a result: BITS, or enough for the sum
    bit          MAX      = 1,
    localparam int unsigned S_WIDTH = (PE*BITS + 7) / 8 * 8,
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
    if (PE == 0 || C % PE != 0) $fatal(1, "ge_pool: PE=%0d must divide C=%0d", PE, C);
    if (TAPS < 1) $fatal(1, "ge_pool: TAPS=%0d must be at least 1", TAPS);
    if (BITS < 1) $fatal(1, "ge_pool: BITS=%0d must be at least 1", BITS);
    if (OUT_BITS < BITS) $fatal(1, "ge_pool: OUT_BITS=%0d must be at least BITS=%0d", OUT_BITS, BITS);

    localparam int unsigned TW = TAPS > 1 ? $clog2(TAPS) : 1;

    logic [TW-1:0] tap;
    logic          last, beat;
    assign last     = (tap == TW'(TAPS - 1));
    assign s_tready = !last || !m_tvalid || m_tready;
    assign beat     = s_tvalid && s_tready;

    always_ff @(posedge clk) begin
        if (rst) begin
            tap      <= '0;
            m_tvalid <= 1'b0;
        end else begin
            if (beat) tap <= last ? '0 : tap + 1'b1;
            if (!m_tvalid || m_tready) m_tvalid <= beat && last;
        end
    end

    logic [PE*OUT_BITS-1:0] so_far, now, result, word;
    for (genvar p = 0; p < PE; p++) begin : lane
        ge_accumulate #(.BITS(BITS), .SGN(SGN), .OUT_BITS(OUT_BITS), .MAX(MAX)) step (
            .x(s_tdata[p*BITS +: BITS]), .so_far(so_far[p*OUT_BITS +: OUT_BITS]), .now(now[p*OUT_BITS +: OUT_BITS]),
            .result(result[p*OUT_BITS +: OUT_BITS]));
    end
    always_ff @(posedge clk) begin
        if (rst || (beat && last)) so_far <= '0;
        else if (beat) so_far <= now;
        if (!m_tvalid || m_tready) word <= result;
    end
    assign m_tdata = M_WIDTH'(word);
`ifdef GE_ASSERT
    ge_stream_assert #(.WIDTH(M_WIDTH), .NAME("m")) hold_m (.clk, .rst, .tdata(m_tdata), .tvalid(m_tvalid), .tready(m_tready));
`endif
endmodule
`default_nettype wire
