// ge_fork gives every word to both consumers, once and in order, and neither is more than one word ahead of the other.
// Nothing is assumed of any side. `mark` may be high with any word: that word is followed on both ways.
`default_nettype none
module formal_fork #(
    int unsigned WIDTH = 2
) (
    input logic             clk,
    input logic             reset,
    input logic [WIDTH-1:0] s_tdata,
    input logic             s_tvalid,
    input logic             mark,
    input logic             m0_tready,
    input logic             m1_tready
);
    logic             rst = 1'b1;
    logic             s_tready, m0_tvalid, m1_tvalid;
    logic [WIDTH-1:0] m0_tdata, m1_tdata;
    ge_fork #(.WIDTH(WIDTH)) dut (
        .clk, .rst, .s_tdata, .s_tvalid, .s_tready, .m0_tdata, .m0_tvalid, .m0_tready, .m1_tdata, .m1_tvalid, .m1_tready);

    logic [1:0]       held0, held1;                    // words taken in and not yet given to this consumer
    logic             marked0 = 1'b0, marked1 = 1'b0, seen = 1'b0;
    logic [WIDTH-1:0] word;
    logic             enters, leaves0, leaves1;
    assign enters  = s_tvalid && s_tready;
    assign leaves0 = m0_tvalid && m0_tready;
    assign leaves1 = m1_tvalid && m1_tready;

    always_ff @(posedge clk) begin
        rst <= reset;
        if (rst) begin
            held0   <= '0;
            held1   <= '0;
            marked0 <= 1'b0;
            marked1 <= 1'b0;
            seen    <= 1'b0;
        end else begin
            held0 <= held0 + 2'(enters) - 2'(leaves0);
            held1 <= held1 + 2'(enters) - 2'(leaves1);
            if (leaves0) marked0 <= 1'b0;
            if (leaves1) marked1 <= 1'b0;
            if (enters && mark && !seen) begin
                seen    <= 1'b1;
                marked0 <= 1'b1;
                marked1 <= 1'b1;
                word    <= s_tdata;
            end
        end
    end

    always_ff @(posedge clk) begin
        if (!rst) begin
            assert (held0 <= 1 && held1 <= 1);
            assert (m0_tvalid == (held0 != 0) && m1_tvalid == (held1 != 0));
            assert (!marked0 || (m0_tvalid && m0_tdata == word));
            assert (!marked1 || (m1_tvalid && m1_tdata == word));
            assert (held0 != 0 || held1 != 0 || s_tready);       // empty, it takes a word
            cover (seen && !marked0 && marked1 && s_tvalid && !s_tready);
            cover (seen && marked0 && !marked1);
        end
    end
endmodule
`default_nettype wire
