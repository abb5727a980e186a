// Split of a stream in two: A beats to a, then B beats to b, and again. One beat per cycle; one register, so that either
// output waits for the other.
`default_nettype none
module ge_split #(
    int unsigned A     = 1,      // beats to a per turn
    int unsigned B     = 1,      // beats to b per turn
    int unsigned WIDTH = 8       // bits of tdata
) (
    input  logic             clk,
    input  logic             rst,
    input  logic [WIDTH-1:0] s_tdata,
    input  logic             s_tvalid,
    output logic             s_tready,
    output logic [WIDTH-1:0] a_tdata,
    output logic             a_tvalid,
    input  logic             a_tready,
    output logic [WIDTH-1:0] b_tdata,
    output logic             b_tvalid,
    input  logic             b_tready
);
    if (A < 1) $fatal(1, "ge_split: A=%0d must be at least 1", A);
    if (B < 1) $fatal(1, "ge_split: B=%0d must be at least 1", B);
    if (WIDTH < 1) $fatal(1, "ge_split: WIDTH=%0d must be at least 1", WIDTH);

    localparam int unsigned NW = $clog2(A > B ? A : B) + 1;
    logic [NW-1:0]    n;                                         // beats of this part still to come, less one
    logic [WIDTH-1:0] word;
    logic             to_b;
    assign s_tready = (!a_tvalid || a_tready) && (!b_tvalid || b_tready);
    assign a_tdata  = word;
    assign b_tdata  = word;

    always_ff @(posedge clk) begin
        if (s_tready) word <= s_tdata;
    end

    always_ff @(posedge clk) begin
        if (rst) begin
            n        <= NW'(A - 1);
            to_b     <= 1'b0;
            a_tvalid <= 1'b0;
            b_tvalid <= 1'b0;
        end else if (s_tready) begin
            if (s_tvalid) begin
                n    <= n != 0 ? n - 1'b1 : to_b ? NW'(A - 1) : NW'(B - 1);
                to_b <= to_b ^ (n == 0);
            end
            a_tvalid <= s_tvalid && !to_b;
            b_tvalid <= s_tvalid && to_b;
        end
    end
`ifdef GE_ASSERT
    ge_stream_assert #(.WIDTH(WIDTH), .NAME("a")) hold_a (.clk, .rst, .tdata(a_tdata), .tvalid(a_tvalid), .tready(a_tready));
    ge_stream_assert #(.WIDTH(WIDTH), .NAME("b")) hold_b (.clk, .rst, .tdata(b_tdata), .tvalid(b_tvalid), .tready(b_tready));
`endif
endmodule
`default_nettype wire
