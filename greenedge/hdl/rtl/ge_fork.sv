// One stream to two consumers, each at its own pace, at most one word apart. One word per cycle; one register.
`default_nettype none
module ge_fork #(
    int unsigned WIDTH = 8       // bits of tdata
) (
    input  logic             clk,
    input  logic             rst,
    input  logic [WIDTH-1:0] s_tdata,
    input  logic             s_tvalid,
    output logic             s_tready,
    output logic [WIDTH-1:0] m0_tdata,
    output logic             m0_tvalid,
    input  logic             m0_tready,
    output logic [WIDTH-1:0] m1_tdata,
    output logic             m1_tvalid,
    input  logic             m1_tready
);
    if (WIDTH < 1) $fatal(1, "ge_fork: WIDTH=%0d must be at least 1", WIDTH);

    logic [WIDTH-1:0] word;
    assign s_tready = (!m0_tvalid || m0_tready) && (!m1_tvalid || m1_tready);
    assign m0_tdata = word;
    assign m1_tdata = word;

    always_ff @(posedge clk) begin
        if (s_tready) word <= s_tdata;
    end

    always_ff @(posedge clk) begin
        if (rst) begin
            m0_tvalid <= 1'b0;
            m1_tvalid <= 1'b0;
        end else begin
            m0_tvalid <= s_tready ? s_tvalid : m0_tvalid && !m0_tready;
            m1_tvalid <= s_tready ? s_tvalid : m1_tvalid && !m1_tready;
        end
    end
`ifdef GE_ASSERT
    ge_stream_assert #(.WIDTH(WIDTH), .NAME("m0")) hold_m0 (.clk, .rst, .tdata(m0_tdata), .tvalid(m0_tvalid), .tready(m0_tready));
    ge_stream_assert #(.WIDTH(WIDTH), .NAME("m1")) hold_m1 (.clk, .rst, .tdata(m1_tdata), .tvalid(m1_tvalid), .tready(m1_tready));
`endif
endmodule
`default_nettype wire
