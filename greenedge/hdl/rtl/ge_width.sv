// Stream width conversion between IN and OUT elements per beat, where one divides the other; order is kept, element 0 in
// the low bits. One beat per cycle on the narrow side.
`default_nettype none
module ge_width #(
    int unsigned BITS = 4,       // bits of an element
    int unsigned IN   = 1,
    int unsigned OUT  = 4,
    localparam int unsigned S_WIDTH = (IN*BITS + 7) / 8 * 8,
    localparam int unsigned M_WIDTH = (OUT*BITS + 7) / 8 * 8
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
    if (BITS < 1) $fatal(1, "ge_width: BITS=%0d must be at least 1", BITS);
    if (IN < 1 || OUT < 1 || (IN % OUT != 0 && OUT % IN != 0))
        $fatal(1, "ge_width: one of IN=%0d and OUT=%0d must divide the other", IN, OUT);

    if (IN <= OUT) begin : widen
        localparam int unsigned N  = OUT / IN;
        localparam int unsigned NW = N > 1 ? $clog2(N) : 1;
        logic [OUT*BITS-1:0] gathered, word;
        logic [NW-1:0]       n;
        logic                full, beat;                         // `gathered` holds a whole word
        assign s_tready = !full || !m_tvalid || m_tready;
        assign beat     = s_tvalid && s_tready;
        always_ff @(posedge clk) begin
            if (beat) gathered <= (OUT*BITS)'({s_tdata[IN*BITS-1:0], gathered} >> IN*BITS);
            if (!m_tvalid || m_tready) word <= gathered;
        end
        always_ff @(posedge clk) begin
            if (rst) begin
                n        <= '0;
                full     <= 1'b0;
                m_tvalid <= 1'b0;
            end else begin
                if (beat) n <= (n == NW'(N - 1)) ? '0 : n + 1'b1;
                full <= (beat && n == NW'(N - 1)) || (full && m_tvalid && !m_tready);
                if (!m_tvalid || m_tready) m_tvalid <= full;
            end
        end
        assign m_tdata = M_WIDTH'(word);
    end else begin : narrow
        localparam int unsigned N  = IN / OUT;
        localparam int unsigned NW = $clog2(N);
        logic [IN*BITS-1:0] word;
        logic [NW-1:0]      n;
        logic               last;                                // n is N - 1; a register, or its comparison ends up in every bit
        assign s_tready = !m_tvalid || (m_tready && last);
        always_ff @(posedge clk) begin
            if (s_tready || m_tready) word <= (!m_tvalid || last) ? s_tdata[IN*BITS-1:0] : word >> OUT*BITS;
        end
        always_ff @(posedge clk) begin
            if (rst) begin
                n        <= '0;
                last     <= 1'b0;
                m_tvalid <= 1'b0;
            end else begin
                if (m_tvalid && m_tready) begin
                    n    <= last ? '0 : n + 1'b1;
                    last <= (n == NW'(N - 2));
                end
                if (s_tready) m_tvalid <= s_tvalid;
            end
        end
        assign m_tdata = M_WIDTH'(word[OUT*BITS-1:0]);
    end
`ifdef GE_ASSERT
    ge_stream_assert #(.WIDTH(M_WIDTH), .NAME("m")) hold_m (.clk, .rst, .tdata(m_tdata), .tvalid(m_tvalid), .tready(m_tready));
`endif
endmodule
`default_nettype wire
