// Global pooling: per channel the largest (MAX = 1) or the sum (MAX = 0) over all PIXELS of an image.
//
// In: per pixel G = C/PE beats of PE channels; out: G beats, those of the last pixel's. PIXELS*G cycles per sample.
// Memory: the G running words form a delay line, each coming out as the next pixel's beat for it comes in: registers up
// to three words, above a small ring with two registers behind it, so that a block RAM's own can serve.
`default_nettype none
module ge_pool_global #(
    int unsigned C        = 4,   // channels
    int unsigned PIXELS   = 16,
    int unsigned PE       = 1,   // channels per beat; divides C
    int unsigned BITS     = 4,   // bits of an element
    bit          SGN      = 0,   // elements are signed
    int unsigned OUT_BITS = 8,   // bits of a result: BITS, or enough for the sum
    bit          MAX      = 0,
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
    if (PE == 0 || C % PE != 0) $fatal(1, "ge_pool_global: PE=%0d must divide C=%0d", PE, C);
    if (PIXELS < 1) $fatal(1, "ge_pool_global: PIXELS=%0d must be at least 1", PIXELS);
    if (BITS < 1) $fatal(1, "ge_pool_global: BITS=%0d must be at least 1", BITS);
    if (OUT_BITS < BITS) $fatal(1, "ge_pool_global: OUT_BITS=%0d must be at least BITS=%0d", OUT_BITS, BITS);

    localparam int unsigned G  = C / PE;
    localparam int unsigned GW = G > 1 ? $clog2(G) : 1;
    localparam int unsigned XW = PIXELS > 1 ? $clog2(PIXELS) : 1;

    logic [GW-1:0] g;
    logic [XW-1:0] pixel;
    logic          first, last, beat;                            // pixel
    assign first    = (pixel == 0);
    assign last     = (pixel == XW'(PIXELS - 1));
    assign s_tready = !last || !m_tvalid || m_tready;
    assign beat     = s_tvalid && s_tready;

    always_ff @(posedge clk) begin
        if (rst) begin
            g        <= '0;
            pixel    <= '0;
            m_tvalid <= 1'b0;
        end else begin
            if (beat) g <= (g == GW'(G - 1)) ? '0 : g + 1'b1;
            if (beat && g == GW'(G - 1)) pixel <= last ? '0 : pixel + 1'b1;
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
        if (!m_tvalid || m_tready) word <= result;
    end
    assign m_tdata = M_WIDTH'(word);

    // ---- delay line: so_far is what `now` was G beats ago, 0 for the first pixel
    if (G <= 3) begin : registers
        logic [G*PE*OUT_BITS-1:0] line;
        always_ff @(posedge clk) begin
            if (rst) line <= '0;
            else if (beat) line <= (G*PE*OUT_BITS)'({line, last ? (PE*OUT_BITS)'(0) : now});
        end
        assign so_far = line[(G-1)*PE*OUT_BITS +: PE*OUT_BITS];
    end else begin : memory
        localparam int unsigned N = G - 1;                       // the two registers behind hold the rest
        (* no_rw_check *) logic [PE*OUT_BITS-1:0] ring [N];
        logic [PE*OUT_BITS-1:0] fetched;
        logic [GW-1:0]    wr, rd;
        logic             next_first;                            // the next beat is of a first pixel
        assign next_first = (g == GW'(G - 1)) ? last : first;
        always_ff @(posedge clk) begin
            if (beat) begin
                ring[wr] <= now;
                fetched  <= ring[rd];
            end
            if (rst || (beat && next_first)) so_far <= '0;
            else if (beat) so_far <= fetched;
        end
        always_ff @(posedge clk) begin
            if (rst) begin
                wr <= '0;
                rd <= GW'(1);
            end else if (beat) begin
                wr <= rd;
                rd <= (rd == GW'(N - 1)) ? '0 : rd + 1'b1;
            end
        end
    end
`ifdef GE_ASSERT
    ge_stream_assert #(.WIDTH(M_WIDTH), .NAME("m")) hold_m (.clk, .rst, .tdata(m_tdata), .tvalid(m_tvalid), .tready(m_tready));
`endif
endmodule
`default_nettype wire
