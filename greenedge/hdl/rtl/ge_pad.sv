// Constant padding of an image (C, H, W): the pads hold PAD. One beat per cycle out, (H+PT+PB) * (W+PL+PR) * C/PE per
// sample; no memory, one output register. Any pads, also larger than the image.
`default_nettype none
module ge_pad #(
    int unsigned C  = 4,         // channels
    int unsigned H  = 8,         // image
    int unsigned W  = 8,
    int unsigned PT = 1,         // pads: top, left, bottom, right
    int unsigned PL = 1,
    int unsigned PB = 1,
    int unsigned PR = 1,
    int unsigned PE = 1,         // channels per beat; divides C
    int unsigned BITS = 4,       // bits of an element
    int          PAD  = 0,
    localparam int unsigned WIDTH = (PE*BITS + 7) / 8 * 8
) (
    input  logic             clk,
    input  logic             rst,
    input  logic [WIDTH-1:0] s_tdata,
    input  logic             s_tvalid,
    output logic             s_tready,
    output logic [WIDTH-1:0] m_tdata,
    output logic             m_tvalid,
    input  logic             m_tready
);
    if (PE == 0 || C % PE != 0) $fatal(1, "ge_pad: PE=%0d must divide C=%0d", PE, C);
    if (H < 1) $fatal(1, "ge_pad: H=%0d must be at least 1", H);
    if (W < 1) $fatal(1, "ge_pad: W=%0d must be at least 1", W);
    if (BITS < 1) $fatal(1, "ge_pad: BITS=%0d must be at least 1", BITS);
    if (BITS < 31 && (PAD < -(1 << (BITS - 1)) || PAD >= (1 << BITS)))
        $fatal(1, "ge_pad: PAD=%0d does not fit BITS=%0d", PAD, BITS);

    localparam int unsigned G  = C / PE;                         // beats per pixel
    localparam int unsigned GW = G > 1 ? $clog2(G) : 1;
    localparam int unsigned YW = $clog2(H + PT + PB) + 1;
    localparam int unsigned XW = $clog2(W + PL + PR) + 1;

    logic [GW-1:0] g;
    logic [YW-1:0] y;                                            // 0 is the first row, PT the image's first
    logic [XW-1:0] x;
    logic          last_x, last_y, in_image, begun, next, step;
    assign last_x   = (x == XW'(W + PL + PR - 1));
    assign last_y   = (y == YW'(H + PT + PB - 1));
    assign in_image = y >= YW'(PT) && y < YW'(PT + H) && x >= XW'(PL) && x < XW'(PL + W);
    assign next     = !m_tvalid || m_tready;
    assign s_tready = next && in_image;
    assign begun    = g != 0 || x != 0 || y != 0;                // no pads of a sample before its first beat is there
    assign step     = next && (s_tvalid || (!in_image && begun));

    always_ff @(posedge clk) begin
        if (rst) begin
            g        <= '0;
            x        <= '0;
            y        <= '0;
            m_tvalid <= 1'b0;
        end else begin
            if (step) g <= (g == GW'(G - 1)) ? '0 : g + 1'b1;
            if (step && g == GW'(G - 1)) begin
                x <= last_x ? '0 : x + 1'b1;
                if (last_x) y <= last_y ? '0 : y + 1'b1;
            end
            if (next) m_tvalid <= step;
        end
    end

    logic [PE*BITS-1:0] word;
    always_ff @(posedge clk) begin
        if (next) word <= in_image ? s_tdata[PE*BITS-1:0] : {PE{BITS'(PAD)}};
    end
    assign m_tdata = WIDTH'(word);
`ifdef GE_ASSERT
    ge_stream_assert #(.WIDTH(WIDTH), .NAME("m")) hold_m (.clk, .rst, .tdata(m_tdata), .tvalid(m_tvalid), .tready(m_tready));
`endif
endmodule
`default_nettype wire
