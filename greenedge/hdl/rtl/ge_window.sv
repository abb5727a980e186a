// Sliding window over an image (C, H, W): for each output pixel the patch under the kernel, row by row, pads included.
//
// In:  for h, for w, G = C/PE beats of PE channels. Out, one beat per cycle:
//   DEPTHWISE = 0: per output pixel for kh, for kw, G beats              (to ge_mvu, K = KH*KW*C)
//   DEPTHWISE = 1: per output pixel for each of the G groups: for kh, for kw one beat    (to ge_depthwise, ge_pool)
// One dimension: H = KH = 1. Pads must be smaller than the kernel's span, else ge_pad goes before.
//
// Cycles per sample: max(H*W*G, OH*OW*KH*KW*G), the larger of input and output; the next pixels and the next sample are
// received while patches go out. Memory: a ring buffer of pixels, the kernel's rows less one and a piece of a row (3x3,
// stride 1, pads 1: two rows and a few pixels). Where the last window of a sample and the first window of the next have
// no pixels in common (no pads), it holds as much more as lets the first be sent while the next is received.
//
// Positions count pixels since reset, modulo 2**PW; a pixel (y, x) of a sample has position y*W + x also where it lies
// in the pads, so that all steps are constants.
`default_nettype none
module ge_window #(
    int C  = 4,                  // channels
    int H  = 8,                  // image
    int W  = 8,
    int KH = 3,                  // kernel
    int KW = 3,
    int SH = 1,                  // stride
    int SW = 1,
    int DH = 1,                  // dilation
    int DW = 1,
    int PT = 1,                  // pads: top, left, bottom, right
    int PL = 1,
    int PB = 1,
    int PR = 1,
    int PE = 1,                  // channels per beat; divides C
    int BITS = 4,                // bits of an element
    int PAD  = 0,                // what the pads hold
    bit DEPTHWISE = 0,
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
    localparam int G    = C / PE;                                // beats per pixel
    localparam int SPH  = DH*(KH - 1) + 1;                       // rows and columns that a window spans
    localparam int SPW  = DW*(KW - 1) + 1;
    localparam int OH   = (H + PT + PB - SPH) / max(1, SH) + 1;          // output image
    localparam int OW   = (W + PL + PR - SPW) / max(1, SW) + 1;
    localparam bit PADS = (PT | PL | PB | PR) != 0;
    if (PE == 0 || C % PE != 0) $fatal(1, "ge_window: PE=%0d must divide C=%0d", PE, C);
    if (SH < 1) $fatal(1, "ge_window: SH=%0d must be at least 1", SH);
    if (SW < 1) $fatal(1, "ge_window: SW=%0d must be at least 1", SW);
    if (BITS < 1) $fatal(1, "ge_window: BITS=%0d must be at least 1", BITS);
    if (PT < 0 || PL < 0 || PB < 0 || PR < 0 || PT >= SPH || PB >= SPH || PL >= SPW || PR >= SPW)
        $fatal(1, "ge_window: pads %0d, %0d, %0d, %0d must be smaller than the kernel's span %0d x %0d: use ge_pad",
               PT, PL, PB, PR, SPH, SPW);
    if (H + PT + PB < SPH || W + PL + PR < SPW)
        $fatal(1, "ge_window: the kernel's span %0d x %0d is larger than the padded image %0d x %0d",
               SPH, SPW, H + PT + PB, W + PL + PR);
    if (BITS < 31 && (PAD < -(1 << (BITS - 1)) || PAD >= (1 << BITS)))
        $fatal(1, "ge_window: PAD=%0d does not fit BITS=%0d", PAD, BITS);

    // ---- geometry of the ring, in pixels
    localparam int START  = -PT*W - PL;                          // position of the first window
    localparam int LEAD   = (SPH - 1)*W + SPW;                   // from a window's first pixel to its last
    localparam int COLUMN = SW;                                  // from one window to the next
    localparam int ROW    = SH*W - (OW - 1)*SW;                  // ... from the last of a row to the first of the next
    localparam int SAMPLE = H*W - (OH - 1)*SH*W - (OW - 1)*SW;   // ... from the last of a sample
    localparam int FAR    = max(COLUMN, max(OH > 1 ? ROW : 0, SAMPLE));
    localparam int TAPS   = KH*KW;                               // a patch takes the time of so many pixels
    // Where the output sets the pace, the input must be ahead by what the windows advance faster than patches go out;
    // where the input does, there must be room for what patches take longer than the windows advance.
    localparam int AHEAD  = reach(COLUMN - TAPS, ROW - TAPS, SAMPLE - TAPS);
    localparam int BEHIND = reach(TAPS - COLUMN, TAPS - ROW, TAPS - SAMPLE);
    localparam int MARGIN = OH*OW*TAPS < H*W ? TAPS + BEHIND : AHEAD > 0 ? TAPS + AHEAD : FAR;
    localparam int SLACK  = 3 + 10/G;                            // covers the way from release to reception
    localparam int PIXELS = LEAD + MARGIN + SLACK;
    localparam int LEAST  = PIXELS*G;
    localparam int AW     = $clog2(LEAST);
    // a power of two needs no wrapping; taken where it costs no further block of memory
    localparam int DEPTH  = LEAST > 64 && PE*BITS << AW <= 16384 ? 1 << AW : LEAST;
    localparam int PW     = $clog2(H*W + PIXELS + LEAD + W + FAR) + 1;
    localparam int YW     = $clog2(H + PT + PB + SH) + 1;
    localparam int XW     = $clog2(W + PL + PR + SW) + 1;

    // ---- walk through a patch: three nested loops, innermost first; what a step of each adds to address, row, column
    localparam int N0 = DEPTHWISE ? KW : G;
    localparam int N1 = DEPTHWISE ? KH : KW;
    localparam int N2 = DEPTHWISE ? G  : KH;
    localparam int A0 = DEPTHWISE ? DW*G   : 1;
    localparam int A1 = DEPTHWISE ? DH*W*G : DW*G;
    localparam int A2 = DEPTHWISE ? 1      : DH*W*G;
    localparam int W0 = max(1, $clog2(N0));
    localparam int W1 = max(1, $clog2(N1));
    localparam int W2 = max(1, $clog2(N2));

    function automatic int max(int a, int b);
        return a > b ? a : b;
    endfunction

    // the largest sum of consecutive steps, at least 0: a sample is OH rows of OW - 1 steps `column`, with `row` between
    // them, and `sample` follows
    function automatic int reach(int column, int row, int sample);
        int part, rows, ends;
        part  = max(0, (OW - 1)*column);                         // within a row
        rows  = OH > 1 ? row + 2*part + max(0, (OH - 2)*((OW - 1)*column + row)) : part;     // within a sample
        ends  = OH > 1 ? max(part, (OW - 1)*column + rows - part) : part;                     // up to a sample's end
        return max(part, max(rows, 2*ends + sample));
    endfunction

    function automatic int modulo(int a);                        // for constants: 0 <= result < DEPTH
        return (a % DEPTH + DEPTH) % DEPTH;
    endfunction

    // ---- receive
    (* no_rw_check *) logic [PE*BITS-1:0]   ring [DEPTH];        // a word is never read and written at once
    logic [AW-1:0]                          wa;
    logic [$clog2(G > 1 ? G : 2)-1:0]       wg;
    logic [PW-1:0]                          written;             // pixels received
    logic [PW-1:0]                          released;            // `needed` of the oldest window still to be sent
    logic [PW-1:0]                          held;                // pixels in memory, counted from there
    logic                                   room, beat;

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
            held    <= PW'(PIXELS);
            room    <= 1'b0;
        end else begin
            if (beat) begin
                wa <= (wa == AW'(DEPTH - 1)) ? '0 : wa + 1'b1;
                wg <= (int'(wg) == G - 1) ? '0 : wg + 1'b1;
                if (int'(wg) == G - 1) written <= written + 1'b1;
            end
            held <= written - released;
            room <= $signed(held) < $signed(PW'(PIXELS - 2 - LEAD));     // two more may come before this is seen
        end
    end

    // ---- the next window: where it starts, and whether all of it is there
    logic [$clog2(OW > 1 ? OW : 2)-1:0] ox;
    logic [$clog2(OH > 1 ? OH : 2)-1:0] oy;
    logic [PW-1:0]                      needed;                  // position behind its last pixel
    logic [PW-1:0]                      sample_end;
    logic [AW-1:0]                      base, base_step, next_base;      // address of its first pixel
    logic [YW-1:0]                      y0;
    logic [XW-1:0]                      x0;
    logic                               last_ox, last_oy, complete, ready, take;

    // a window that reaches into the pads to the right or below is complete at the latest with the sample
    assign complete = $signed(PW'(written - needed)) >= 0 || (PB + PR > 0 && $signed(PW'(written - sample_end)) >= 0);
    assign last_ox  = (int'(ox) == OW - 1);
    assign last_oy  = (int'(oy) == OH - 1);

    assign base_step = !last_ox ? AW'(modulo(COLUMN*G)) : !last_oy ? AW'(modulo(ROW*G)) : AW'(modulo(SAMPLE*G));
    ge_ring_add #(.DEPTH(DEPTH)) base_add (.a(base), .step(base_step), .y(next_base));

    if (KH*KW*G > 1) begin : long_patch
        always_ff @(posedge clk) ready <= !rst && complete && !take;
    end else begin : single_beat                                 // no time for a register
        assign ready = complete;
    end

    always_ff @(posedge clk) begin
        if (rst) begin
            ox         <= '0;
            oy         <= '0;
            needed     <= PW'(START + LEAD);
            sample_end <= PW'(H*W);
            base       <= AW'(modulo(START*G));
            y0         <= YW'(-PT);
            x0         <= XW'(-PL);
        end else if (take) begin
            ox     <= last_ox ? '0 : ox + 1'b1;
            x0     <= last_ox ? XW'(-PL) : x0 + XW'(SW);
            needed <= needed + (!last_ox ? PW'(COLUMN) : !last_oy ? PW'(ROW) : PW'(SAMPLE));
            base   <= next_base;
            if (last_ox) begin
                oy <= last_oy ? '0 : oy + 1'b1;
                y0 <= last_oy ? YW'(-PT) : y0 + YW'(SH);
                if (last_oy) sample_end <= sample_end + PW'(H*W);
            end
        end
    end

    // ---- the patch that is being sent: one address per cycle while the output buffer has room
    localparam int CREDITS = 8;                                  // covers the way through memory and output buffer
    logic [W0-1:0] i0;
    logic [W1-1:0] i1;
    logic [W2-1:0] i2;
    logic [AW-1:0] ra, ra_step, next_ra;
    logic [YW-1:0] y;
    logic [XW-1:0] x;
    logic          run, open, go, last0, last1, last2, last, in_image;

    assign last0  = (int'(i0) == N0 - 1);
    assign last1  = (int'(i1) == N1 - 1);
    assign last2  = (int'(i2) == N2 - 1);
    assign last   = last0 && last1 && last2;
    assign go     = run && open;
    assign take   = complete && (!run || (go && last));
    assign in_image = !PADS || (y < YW'(H) && x < XW'(W));       // above and left of it: large numbers
    assign ra_step  = !last0 ? AW'(modulo(A0)) : !last1 ? AW'(modulo(A1 - (N0-1)*A0))
                                                        : AW'(modulo(A2 - (N1-1)*A1 - (N0-1)*A0));
    ge_ring_add #(.DEPTH(DEPTH)) ra_add (.a(ra), .step(ra_step), .y(next_ra));

    always_ff @(posedge clk) begin
        if (rst) begin
            run      <= 1'b0;
            i0       <= '0;
            i1       <= '0;
            i2       <= '0;
            released <= PW'(START + LEAD);
        end else begin
            run <= take || (run && !(go && last));
            if (go) begin
                i0 <= last0 ? '0 : i0 + 1'b1;
                if (last0) i1 <= last1 ? '0 : i1 + 1'b1;
                if (last0 && last1) i2 <= last2 ? '0 : i2 + 1'b1;
                if (last) released <= needed;
            end
        end
    end

    always_ff @(posedge clk) begin
        if (take) begin
            ra <= base;
            y  <= y0;
            x  <= x0;
        end else if (go) begin
            ra <= next_ra;
            if (DEPTHWISE) begin
                x <= x + (!last0 ? XW'(DW) : XW'(-(KW-1)*DW));
                if (last0) y <= y + (!last1 ? YW'(DH) : YW'(-(KH-1)*DH));
            end else if (last0) begin
                x <= x + (!last1 ? XW'(DW) : XW'(-(KW-1)*DW));
                if (last1) y <= y + YW'(DH);
            end
        end
    end

    // ---- read: memory, its output register, and the pads
    logic [PE*BITS-1:0] r1, r2;
    logic [2:1]         real_pixel;
    always_ff @(posedge clk) begin
        r1         <= ring[ra];
        r2         <= r1;
        real_pixel <= {real_pixel[1], in_image};
    end

    ge_credit_pipeline #(.WIDTH(PE*BITS), .LATENCY(2), .DEPTH(CREDITS), .EARLY(1)) frame (
        .clk, .rst, .room(open), .take(go), .enter(go), .valid(), .keep(1'b1), .y(real_pixel[2] ? r2 : {PE{BITS'(PAD)}}),
        .m_tdata, .m_tvalid, .m_tready);
`ifdef GE_ASSERT
    ge_stream_assert #(.WIDTH(WIDTH), .NAME("m")) hold_m (.clk, .rst, .tdata(m_tdata), .tvalid(m_tvalid), .tready(m_tready));
`endif
endmodule
`default_nettype wire
