// The index of the largest of N values, the first of them where several are equal. N cycles per sample; no memory.
`default_nettype none
module ge_argmax #(
    int unsigned N        = 10,  // values per sample, one per beat
    int unsigned BITS     = 8,   // bits of a value
    bit          SGN      = 1,   // values are signed
    int unsigned OUT_BITS = 4,   // bits of the index
    localparam int unsigned S_WIDTH = (BITS + 7) / 8 * 8,
    localparam int unsigned M_WIDTH = (OUT_BITS + 7) / 8 * 8
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
    if (N < 1) $fatal(1, "ge_argmax: N=%0d must be at least 1", N);
    if (BITS < 1) $fatal(1, "ge_argmax: BITS=%0d must be at least 1", BITS);
    if (OUT_BITS < 1 || $clog2(N) > OUT_BITS) $fatal(1, "ge_argmax: OUT_BITS=%0d must hold an index below N=%0d", OUT_BITS, N);

    localparam int unsigned NW = N > 1 ? $clog2(N) : 1;
    logic [NW-1:0]   i, at, at_now, index;
    logic [BITS-1:0] x, largest;
    logic            last, better, beat;
    // the sign bit turned, signed numbers have the order of unsigned ones
    assign x        = s_tdata[BITS-1:0] ^ (BITS'(SGN) << (BITS - 1));
    assign last     = (i == NW'(N - 1));
    assign better   = (i == 0) || (x > largest);
    assign at_now   = better ? i : at;
    assign s_tready = !last || !m_tvalid || m_tready;
    assign beat     = s_tvalid && s_tready;

    always_ff @(posedge clk) begin
        if (beat && better) largest <= x;
        if (beat) at <= at_now;
        if (!m_tvalid || m_tready) index <= at_now;
    end

    always_ff @(posedge clk) begin
        if (rst) begin
            i        <= '0;
            m_tvalid <= 1'b0;
        end else begin
            if (beat) i <= last ? '0 : i + 1'b1;
            if (!m_tvalid || m_tready) m_tvalid <= beat && last;
        end
    end
    assign m_tdata = M_WIDTH'(index);
`ifdef GE_ASSERT
    ge_stream_assert #(.WIDTH(M_WIDTH), .NAME("m")) hold_m (.clk, .rst, .tdata(m_tdata), .tvalid(m_tvalid), .tready(m_tready));
`endif
endmodule
`default_nettype wire
