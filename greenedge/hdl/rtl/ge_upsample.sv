// Nearest-neighbour upsampling of an image (C, H, W): each pixel FW times in its row, each row FH times.
//
// One beat per cycle out, FH*FW*H*W*C/PE per sample; the next row is received while this one goes out. Memory: a ring of
// one row and a few pixels; with FH = 1 a few pixels.
`default_nettype none
module ge_upsample #(
    int C  = 4,                  // channels
    int H  = 4,                  // image; all rows are alike, so H is not used
    int W  = 4,
    int FH = 2,                  // factors
    int FW = 2,
    int PE = 1,                  // channels per beat; divides C
    int BITS = 4,                // bits of an element
    localparam int WIDTH = (PE*BITS + 7) / 8 * 8
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
    if (PE == 0 || C % PE != 0) $fatal(1, "ge_upsample: PE=%0d must divide C=%0d", PE, C);
    if (H < 1) $fatal(1, "ge_upsample: H=%0d must be at least 1", H);
    if (W < 1) $fatal(1, "ge_upsample: W=%0d must be at least 1", W);
    if (FH < 1) $fatal(1, "ge_upsample: FH=%0d must be at least 1", FH);
    if (FW < 1) $fatal(1, "ge_upsample: FW=%0d must be at least 1", FW);
    if (BITS < 1) $fatal(1, "ge_upsample: BITS=%0d must be at least 1", BITS);

    localparam int G = C / PE;                                   // beats per pixel

    localparam int SLACK  = 2 + 10/G;                            // covers the way from release to reception
    localparam int PIXELS = (FH > 1 ? W : 0) + SLACK;
    localparam int DEPTH  = PIXELS*G;
    localparam int AW     = $clog2(DEPTH);
    localparam int PW     = $clog2(PIXELS + 1);

    // ---- receive; positions count pixels since reset, modulo 2**PW
    (* no_rw_check *) logic [PE*BITS-1:0] ring [DEPTH];          // a word is never read and written at once
    logic [AW-1:0]                    wa;
    logic [$clog2(G > 1 ? G : 2)-1:0] wg;
    logic [PW-1:0]                    written, released;
    logic                             room, beat;
    assign s_tready = room;
    assign beat     = s_tvalid && room;

    always_ff @(posedge clk) begin
        if (beat) ring[wa] <= s_tdata[PE*BITS-1:0];
    end

    always_ff @(posedge clk) begin
        if (rst) begin
            wa      <= '0;
            wg      <= '0;
            written <= '0;
            room    <= 1'b0;
        end else begin
            if (beat) begin
                wa <= (wa == AW'(DEPTH - 1)) ? '0 : wa + 1'b1;
                wg <= (int'(wg) == G - 1) ? '0 : wg + 1'b1;
                if (int'(wg) == G - 1) written <= written + 1'b1;
            end
            room <= PW'(written - released) < PW'(PIXELS - 1);
        end
    end

    // ---- send: one address per cycle while its pixel is there and the output buffer has room
    localparam int CREDITS = 8;                                  // covers the way through memory and output buffer
    logic [$clog2(G > 1 ? G : 2)-1:0]   g;
    logic [$clog2(FW > 1 ? FW : 2)-1:0] fw;
    logic [$clog2(W > 1 ? W : 2)-1:0]   x;
    logic [$clog2(FH > 1 ? FH : 2)-1:0] fh;
    logic [PW-1:0]                      pixel;                   // position of the one that is sent
    logic [AW-1:0]                      ra, ra_step, next_ra;
    logic                               open, go, last_g, last_fw, last_x, last_fh, again;

    assign last_g  = (int'(g) == G - 1);
    assign last_fw = (int'(fw) == FW - 1);
    assign last_x  = (int'(x) == W - 1);
    assign last_fh = (int'(fh) == FH - 1);
    assign again   = last_x && !last_fh;                         // the same row once more
    assign go      = open && (pixel != written);
    assign ra_step = (last_g && !last_fw) ? AW'(DEPTH + 1 - G) : (last_g && again) ? AW'(DEPTH + 1 - W*G) : AW'(1);
    ge_ring_add #(.DEPTH(DEPTH)) ra_add (.a(ra), .step(ra_step), .y(next_ra));

    always_ff @(posedge clk) begin
        if (rst) begin
            g        <= '0;
            fw       <= '0;
            x        <= '0;
            fh       <= '0;
            pixel    <= '0;
            released <= '0;
            ra       <= '0;
        end else if (go) begin
            g  <= last_g ? '0 : g + 1'b1;
            ra <= next_ra;
            if (last_g) fw <= last_fw ? '0 : fw + 1'b1;
            if (last_g && last_fw) begin
                x     <= last_x ? '0 : x + 1'b1;
                pixel <= pixel + (again ? PW'(1 - W) : PW'(1));
                if (last_x) fh <= last_fh ? '0 : fh + 1'b1;
                if (last_fh) released <= pixel + 1'b1;
            end
        end
    end

    // ---- read: memory, then its output register
    logic [PE*BITS-1:0] r1, r2;
    always_ff @(posedge clk) begin
        r1 <= ring[ra];
        r2 <= r1;
    end

    ge_credit_pipeline #(.WIDTH(PE*BITS), .LATENCY(2), .DEPTH(CREDITS), .EARLY(1)) frame (
        .clk, .rst, .room(open), .take(go), .enter(go), .valid(), .keep(1'b1), .y(r2), .m_tdata, .m_tvalid, .m_tready);
`ifdef GE_ASSERT
    ge_stream_assert #(.WIDTH(WIDTH), .NAME("m")) hold_m (.clk, .rst, .tdata(m_tdata), .tvalid(m_tvalid), .tready(m_tready));
`endif
endmodule
`default_nettype wire
