// x * m for signed x and unsigned m, in look-up tables: gated pairs of rows, then a registered tree.
// Latency: 1 + LEVELS cycles, a new product every cycle. Use it with LEVELS = $clog2((MB+1)/2).
module ge_scale #(
    int unsigned XB     = 14,
    int unsigned MB     = 12,
    int unsigned LEVELS = 3
) (
    input  logic             clk,
    input  logic [XB-1:0]    x,
    input  logic [MB-1:0]    m,
    output logic [XB+MB-1:0] p
);
    localparam int unsigned LOW  = MB < (2 << (LEVELS - 1)) ? MB : (2 << (LEVELS - 1));
    localparam int unsigned HIGH = MB - LOW;

    if (LEVELS == 0) begin : leaf                                // MB is 1 or 2
        logic signed [XB-1:0] one;
        logic signed [XB:0]   two;
        assign one = m[0] ? x : '0;
        if (MB > 1) begin : pair
            assign two = m[MB-1] ? {x, 1'b0} : '0;
        end else begin : single
            assign two = '0;
        end
        always_ff @(posedge clk) p <= (XB+MB)'(one + $signed({two[XB], two}));
    end else begin : node
        logic [XB+LOW-1:0] low;
        ge_scale #(.XB(XB), .MB(LOW), .LEVELS(LEVELS-1)) l (.clk, .x, .m(m[LOW-1:0]), .p(low));
        if (HIGH > 0) begin : both
            logic [XB+HIGH-1:0] high;
            ge_scale #(.XB(XB), .MB(HIGH), .LEVELS(LEVELS-1)) h (.clk, .x, .m(m[MB-1:LOW]), .p(high));
            always_ff @(posedge clk) p <= (XB+MB)'($signed(low)) + {high, {LOW{1'b0}}};
        end else begin : alone
            always_ff @(posedge clk) p <= low;
        end
    end
endmodule
