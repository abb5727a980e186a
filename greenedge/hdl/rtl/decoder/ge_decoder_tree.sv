// Sum of N signed words, N a power of two, three levels of adders to a register: latency ceil(log2(N) / 3) cycles.
`default_nettype none
module ge_decoder_tree #(
    int unsigned N     = 8,
    int unsigned WIDTH = 17
) (
    input  logic                           clk,
    input  logic [N*WIDTH-1:0]             x,
    output logic [WIDTH+$clog2(N)-1:0]     sum
);
    if (N < 1 || N != (1 << $clog2(N))) $fatal(1, "ge_decoder_tree: N=%0d must be a power of two", N);
    localparam int unsigned R    = N < 8 ? N : 8;
    localparam int unsigned NEXT = WIDTH + $clog2(R);

    if (N == 1) begin : leaf
        assign sum = x;
    end else begin : rank
        logic [N/R*NEXT-1:0] sums;
        for (genvar i = 0; i < N/R; i++) begin : part
            logic signed [NEXT-1:0] total;
            always_comb begin
                total = '0;
                for (int j = 0; j < R; j++) total = total + NEXT'($signed(x[(i*R+j)*WIDTH +: WIDTH]));
            end
            always_ff @(posedge clk) sums[i*NEXT +: NEXT] <= total;
        end
        ge_decoder_tree #(.N(N/R), .WIDTH(NEXT)) rest (.clk, .x(sums), .sum);
    end
endmodule
`default_nettype wire
