// Requantisation: y = clip((m[c]*x + b[c]) >> SHIFT, LO, HI), exact integers; channel c runs 0 ... C-1 and starts again.
//
// PE channels at a time. Where the stream leaves enough cycles per beat (CYCLES), one adder per channel multiplies bit by
// bit: a tenth of the area (ge_requantise_serial). Else a new beat is taken every cycle; the multiplier is then a pipeline
// of look-up tables because an unregistered DSP block is the slowest path of such a design (research: 117 to 131 MHz with
// it, 139 to 170 MHz without).
//
// PARAMETERS_FILE: word f holds PE fields of {m, b}, channel f*PE in the low bits; m unsigned in MB bits, b signed in BB.
module ge_requantise #(
    int unsigned C     = 16,     // channels
    int unsigned PE    = 1,      // channels per cycle; divides C
    int unsigned XB    = 16,     // input bits
    bit          XSGN  = 1,      // input is signed
    int unsigned MB    = 12,
    int unsigned BB    = 28,     // wide enough for m*x + b
    int unsigned SHIFT = 16,
    int          LO    = 0,
    int          HI    = 15,
    int unsigned OB    = 4,      // output bits
    int unsigned CYCLES = 1,     // per beat that the stream leaves this unit
    parameter    PARAMETERS_FILE = "",
    localparam int unsigned S_WIDTH = (PE*XB + 7) / 8 * 8,
    localparam int unsigned M_WIDTH = (PE*OB + 7) / 8 * 8
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
    if (CYCLES >= MB + 2 && SHIFT > MB) begin : serial
        ge_requantise_serial #(
            .C(C), .PE(PE), .XB(XB), .XSGN(XSGN), .MB(MB), .BB(BB), .SHIFT(SHIFT), .LO(LO), .HI(HI), .OB(OB),
            .PARAMETERS_FILE(PARAMETERS_FILE)) unit (.*);
    end else begin : parallel
        localparam int unsigned FB      = MB + BB;                   // bits of one parameter field
        localparam int unsigned XS      = XSGN ? XB : XB + 1;
        localparam int unsigned LEVELS  = $clog2((MB + 1) / 2);
        localparam int unsigned SCALE   = 1 + LEVELS;
        localparam int unsigned LATENCY = 2 + SCALE + 2;             // memory, product, bias, clip

        logic [PE*XB-1:0] xs;
        logic [PE*FB-1:0] fields;
        logic [PE*OB-1:0] y;
        ge_by_channel #(.C(C), .PE(PE), .XB(XB), .FB(FB), .OB(OB), .LATENCY(LATENCY), .FILE(PARAMETERS_FILE)) frame (
            .clk, .rst, .s_tdata, .s_tvalid, .s_tready, .x(xs), .fields, .y, .m_tdata, .m_tvalid, .m_tready);

        // ---- scale, add, shift, clip
        for (genvar p = 0; p < PE; p++) begin : lane
            logic [XS-1:0]          x;
            logic [MB-1:0]          m;
            logic [BB-1:0]          b;
            logic [SCALE*BB-1:0]    b_wait;                          // b, until its product is there
            logic [XS+MB-1:0]       product;
            logic signed [BB-1:0]   sum;
            logic [OB-1:0]          level;
            assign {m, b} = fields[p*FB +: FB];
            if (XSGN) begin : with_sign
                assign x = xs[p*XB +: XB];
            end else begin : without_sign
                assign x = {1'b0, xs[p*XB +: XB]};
            end
            ge_scale #(.XB(XS), .MB(MB), .LEVELS(LEVELS)) scale (.clk, .x, .m, .p(product));
            always_ff @(posedge clk) b_wait <= (SCALE*BB)'({b_wait, b});
            always_ff @(posedge clk) sum <= BB'($signed(product)) + b_wait[(SCALE-1)*BB +: BB];
            ge_clip #(.XB(BB - SHIFT), .LO(LO), .HI(HI), .OB(OB)) clip (.x(sum[BB-1:SHIFT]), .y(level));
            always_ff @(posedge clk) y[p*OB +: OB] <= level;
        end
    end
endmodule
