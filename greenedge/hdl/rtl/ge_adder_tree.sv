// Sum of N signed words, one register rank per level of a binary tree: latency $clog2(N) cycles, a new sum every cycle.
// Words grow by one bit per level, so nothing overflows.
`default_nettype none
module ge_adder_tree #(
    int unsigned N     = 4,
    int unsigned WIDTH = 8
) (
    input  logic                           clk,
    input  logic [N*WIDTH-1:0]             x,
    output logic [WIDTH+$clog2(N)-1:0]     sum
);
    if (N < 1) $fatal(1, "ge_adder_tree: N=%0d must be at least 1", N);
    if (WIDTH < 1) $fatal(1, "ge_adder_tree: WIDTH=%0d must be at least 1", WIDTH);

    localparam int unsigned HALF = (N + 1) / 2;

    if (N <= 1) begin : leaf
        assign sum = x;
    end else begin : level
        logic [HALF*(WIDTH+1)-1:0] pairs;
        for (genvar i = 0; i < HALF; i++) begin : pair
            logic signed [WIDTH-1:0] a, b;
            logic signed [WIDTH:0]   s;
            assign a = x[2*i*WIDTH +: WIDTH];
            if (2*i + 1 < N) begin : both
                assign b = x[(2*i+1)*WIDTH +: WIDTH];
            end else begin : single
                assign b = '0;
            end
            always_ff @(posedge clk) s <= a + b;
            assign pairs[i*(WIDTH+1) +: WIDTH+1] = s;
        end
        ge_adder_tree #(.N(HALF), .WIDTH(WIDTH+1)) rest (.clk, .x(pairs), .sum);
    end
endmodule
`default_nettype wire
