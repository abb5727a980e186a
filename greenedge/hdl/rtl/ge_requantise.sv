// Requantisation: y = clip((m[c]*x + b[c]) >> SHIFT, LO, HI), exact integers; channel c runs 0 ... C-1 and starts again.
//
// PE channels at a time. Where the stream leaves enough cycles per beat (CYCLES), one adder per channel multiplies bit by
// bit: a tenth of the area (ge_requantise_serial). Else a new beat is taken every cycle; the multiplier is then a pipeline
// of look-up tables because an unregistered DSP block is the slowest path of such a design (research: 117 to 131 MHz with
// it, 139 to 170 MHz without).
//
// PARAMETERS_FILE: word f holds PE fields of {m, b}, channel f*PE in the low bits; m unsigned (M_BITS), b signed (B_BITS).
`default_nettype none
module ge_requantise #(
    int unsigned C        = 16,  // channels
    int unsigned PE       = 1,   // channels per cycle; divides C
    int unsigned X_BITS   = 16,  // input bits
    bit          XSGN     = 1,   // input is signed
    int unsigned M_BITS   = 12,
    int unsigned B_BITS   = 28,  // wide enough for m*x + b
    int unsigned SHIFT    = 16,
    int          LO       = 0,
    int          HI       = 15,
    int unsigned OUT_BITS = 4,   // output bits
    int unsigned CYCLES   = 1,   // per beat that the stream leaves this unit
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
    if (PE == 0 || C % PE != 0) $fatal(1, "ge_requantise: PE=%0d must divide C=%0d", PE, C);
    if (X_BITS < 1) $fatal(1, "ge_requantise: X_BITS=%0d must be at least 1", X_BITS);
    if (M_BITS < 1) $fatal(1, "ge_requantise: M_BITS=%0d must be at least 1", M_BITS);
    if (CYCLES < 1) $fatal(1, "ge_requantise: CYCLES=%0d must be at least 1", CYCLES);
    if (B_BITS <= SHIFT + OUT_BITS)
        $fatal(1, "ge_requantise: B_BITS=%0d must be more than SHIFT=%0d and OUT_BITS=%0d together", B_BITS, SHIFT, OUT_BITS);

    if (CYCLES >= M_BITS + 2 && SHIFT > M_BITS) begin : serial
        ge_requantise_serial #(
            .C(C), .PE(PE), .X_BITS(X_BITS), .XSGN(XSGN), .M_BITS(M_BITS), .B_BITS(B_BITS), .SHIFT(SHIFT),
            .LO(LO), .HI(HI), .OUT_BITS(OUT_BITS), .PARAMETERS_FILE(PARAMETERS_FILE)) unit (.*);
    end else begin : parallel
        localparam int unsigned FB      = M_BITS + B_BITS;           // bits of one parameter field
        localparam int unsigned XS      = XSGN ? X_BITS : X_BITS + 1;
        localparam int unsigned LEVELS  = $clog2((M_BITS + 1) / 2);
        localparam int unsigned SCALE   = 1 + LEVELS;
        localparam int unsigned LATENCY = 2 + SCALE + 2;             // memory, product, bias, clip

        logic [PE*X_BITS-1:0] xs;
        logic [PE*FB-1:0] fields;
        logic [PE*OUT_BITS-1:0] y;
        ge_channel_pipeline #(
            .C(C), .PE(PE), .X_BITS(X_BITS), .FB(FB), .OUT_BITS(OUT_BITS), .LATENCY(LATENCY), .FILE(PARAMETERS_FILE)) frame (
            .clk, .rst, .s_tdata, .s_tvalid, .s_tready, .x(xs), .fields, .y, .m_tdata, .m_tvalid, .m_tready);

        // ---- scale, add, shift, clip
        for (genvar p = 0; p < PE; p++) begin : lane
            logic [XS-1:0]          x;
            logic [M_BITS-1:0]          m;
            logic [B_BITS-1:0]          b;
            logic [SCALE*B_BITS-1:0]    b_wait;                      // b, until its product is there
            logic [XS+M_BITS-1:0]       product;
            logic signed [B_BITS-1:0]   sum;
            logic [OUT_BITS-1:0]          level;
            assign {m, b} = fields[p*FB +: FB];
            if (XSGN) begin : with_sign
                assign x = xs[p*X_BITS +: X_BITS];
            end else begin : without_sign
                assign x = {1'b0, xs[p*X_BITS +: X_BITS]};
            end
            ge_scale #(.X_BITS(XS), .M_BITS(M_BITS), .LEVELS(LEVELS)) scale (.clk, .x, .m, .p(product));
            always_ff @(posedge clk) b_wait <= (SCALE*B_BITS)'({b_wait, b});
            always_ff @(posedge clk) sum <= B_BITS'($signed(product)) + b_wait[(SCALE-1)*B_BITS +: B_BITS];
            ge_clip #(.X_BITS(B_BITS - SHIFT), .LO(LO), .HI(HI), .OUT_BITS(OUT_BITS)) clip (.x(sum[B_BITS-1:SHIFT]), .y(level));
            always_ff @(posedge clk) y[p*OUT_BITS +: OUT_BITS] <= level;
        end
    end
`ifdef GE_ASSERT
    ge_stream_assert #(.WIDTH(M_WIDTH), .NAME("m")) hold_m (.clk, .rst, .tdata(m_tdata), .tvalid(m_tvalid), .tready(m_tready));
`endif
endmodule
`default_nettype wire
