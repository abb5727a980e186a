// Concatenation of two streams: A beats of a, then B beats of b, and again. Along channels a turn is a pixel, along rows
// a row, along the height an image. One beat per cycle; one register, the two streams wait for each other.
`default_nettype none
module ge_concat #(
    int unsigned A     = 1,      // beats of a per turn
    int unsigned B     = 1,      // beats of b per turn
    int unsigned WIDTH = 8       // bits of tdata
) (
    input  logic             clk,
    input  logic             rst,
    input  logic [WIDTH-1:0] a_tdata,
    input  logic             a_tvalid,
    output logic             a_tready,
    input  logic [WIDTH-1:0] b_tdata,
    input  logic             b_tvalid,
    output logic             b_tready,
    output logic [WIDTH-1:0] m_tdata,
    output logic             m_tvalid,
    input  logic             m_tready
);
    if (A < 1) $fatal(1, "ge_concat: A=%0d must be at least 1", A);
    if (B < 1) $fatal(1, "ge_concat: B=%0d must be at least 1", B);
    if (WIDTH < 1) $fatal(1, "ge_concat: WIDTH=%0d must be at least 1", WIDTH);

    localparam int unsigned NW = $clog2(A > B ? A : B) + 1;
    logic [NW-1:0] n;                                            // beats of this part still to come, less one
    logic          from_b, next, beat;
    assign next     = !m_tvalid || m_tready;
    assign a_tready = next && !from_b;
    assign b_tready = next && from_b;
    assign beat     = next && (from_b ? b_tvalid : a_tvalid);

    always_ff @(posedge clk) begin
        if (next) m_tdata <= from_b ? b_tdata : a_tdata;
    end

    always_ff @(posedge clk) begin
        if (rst) begin
            n        <= NW'(A - 1);
            from_b   <= 1'b0;
            m_tvalid <= 1'b0;
        end else begin
            if (beat) begin
                n      <= n != 0 ? n - 1'b1 : from_b ? NW'(A - 1) : NW'(B - 1);
                from_b <= from_b ^ (n == 0);
            end
            if (next) m_tvalid <= beat;
        end
    end
`ifdef GE_ASSERT
    ge_stream_assert #(.WIDTH(WIDTH), .NAME("m")) hold_m (.clk, .rst, .tdata(m_tdata), .tvalid(m_tvalid), .tready(m_tready));
`endif
endmodule
`default_nettype wire
