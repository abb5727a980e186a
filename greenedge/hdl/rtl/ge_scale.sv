// x * m for signed x, and m unsigned or (MSGN = 1) signed, in look-up tables: gated pairs of rows, then a registered tree.
// The top bit of a signed m counts negatively: its row is subtracted from the row that it is paired with.
// Latency: 1 + LEVELS cycles, a new product every cycle. Use it with LEVELS = $clog2((M_BITS+1)/2).
`default_nettype none
module ge_scale #(
    int unsigned X_BITS = 14,
    int unsigned M_BITS = 12,
    int unsigned LEVELS = 3,
    bit          MSGN   = 0
) (
    input  logic                     clk,
    input  logic [X_BITS-1:0]        x,
    input  logic [M_BITS-1:0]        m,
    output logic [X_BITS+M_BITS-1:0] p
);
    if (X_BITS < 1) $fatal(1, "ge_scale: X_BITS=%0d must be at least 1", X_BITS);
    if (M_BITS < 1) $fatal(1, "ge_scale: M_BITS=%0d must be at least 1", M_BITS);
    if (M_BITS > (2 << LEVELS)) $fatal(1, "ge_scale: LEVELS=%0d are too few for M_BITS=%0d", LEVELS, M_BITS);

    localparam int unsigned LOW  = M_BITS < (2 << (LEVELS - 1)) ? M_BITS : (2 << (LEVELS - 1));
    localparam int unsigned HIGH = M_BITS - LOW;

    if (LEVELS == 0) begin : leaf                                // M_BITS is 1 or 2
        logic signed [X_BITS-1:0] one;
        logic signed [X_BITS:0]   top;                           // the row of the top bit, where that is not the only unsigned one
        if (M_BITS > 1) begin : pair
            assign one = m[0] ? x : '0;
            assign top = m[M_BITS-1] ? {x, 1'b0} : '0;
        end else begin : single
            assign one = m[0] && !MSGN ? x : '0;
            assign top = m[0] && MSGN ? {x[X_BITS-1], x} : '0;
        end
        if (MSGN) begin : minus
            always_ff @(posedge clk) p <= (X_BITS+M_BITS)'(one - $signed({top[X_BITS], top}));
        end else begin : plus
            always_ff @(posedge clk) p <= (X_BITS+M_BITS)'(one + $signed({top[X_BITS], top}));
        end
    end else begin : node
        logic [X_BITS+LOW-1:0] low;
        ge_scale #(.X_BITS(X_BITS), .M_BITS(LOW), .LEVELS(LEVELS-1), .MSGN(MSGN && HIGH == 0)) l (.clk, .x, .m(m[LOW-1:0]), .p(low));
        if (HIGH > 0) begin : both
            logic [X_BITS+HIGH-1:0] high;
            ge_scale #(.X_BITS(X_BITS), .M_BITS(HIGH), .LEVELS(LEVELS-1), .MSGN(MSGN)) h (.clk, .x, .m(m[M_BITS-1:LOW]), .p(high));
            always_ff @(posedge clk) p <= (X_BITS+M_BITS)'($signed(low)) + {high, {LOW{1'b0}}};
        end else begin : alone
            always_ff @(posedge clk) p <= low;
        end
    end
endmodule
`default_nettype wire
