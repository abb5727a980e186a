// ge_fifo never loses, doubles or reorders a word, and holds at most DEPTH + 1. Its writer counts credits, as every unit of
// ours does; that is the one assumption. `mark` may be high with any word: that word is followed, `ahead` words before it.
`default_nettype none
module formal_fifo #(
    int unsigned WIDTH = 2,
    int unsigned DEPTH = 4
) (
    input logic             clk,
    input logic             reset,
    input logic             push,
    input logic [WIDTH-1:0] push_data,
    input logic             mark,
    input logic             m_tready
);
    localparam int unsigned N  = $clog2(DEPTH + 2) + 1;
    localparam int unsigned AW = DEPTH > 1 ? $clog2(DEPTH) : 1;
    logic             rst = 1'b1;
    logic             freed, m_tvalid;
    logic [WIDTH-1:0] m_tdata;
    ge_fifo #(.WIDTH(WIDTH), .DEPTH(DEPTH)) dut (.clk, .rst, .push, .push_data, .freed, .m_tdata, .m_tvalid, .m_tready);

    logic [N-1:0]     credit, held, ahead;
    logic             marked = 1'b0, done = 1'b0;
    logic             was_held;                        // a word was inside and none has left since
    logic [WIDTH-1:0] word;
    logic             leaves;
    assign leaves = m_tvalid && m_tready;

    always_ff @(posedge clk) begin
        rst <= reset;
        if (rst) begin
            credit   <= N'(DEPTH);
            held     <= '0;
            marked   <= 1'b0;
            done     <= 1'b0;
            was_held <= 1'b0;
        end else begin
            credit   <= credit + N'(freed) - N'(push);
            held     <= held + N'(push) - N'(leaves);
            was_held <= held != 0 && !leaves;
            if (leaves) ahead <= ahead - 1'b1;
            if (leaves && marked && ahead == 0) begin
                marked <= 1'b0;
                done   <= 1'b1;
            end
            if (push && mark && !marked && !done) begin
                marked <= 1'b1;
                word   <= push_data;
                ahead  <= held - N'(leaves);
            end
        end
    end

    logic [N-1:0] place;                               // of the marked word behind the output register
    assign place = ahead - N'(m_tvalid);
    always_ff @(posedge clk) begin
        if (!rst) begin
            assume (!push || credit != 0);
            // what must hold
            assert (held <= DEPTH + 1);                                              // bounded depth
            assert (!m_tvalid || held != 0);                                         // nothing comes from nowhere
            assert (!(marked && ahead == 0 && m_tvalid) || m_tdata == word);         // in its turn, unchanged
            assert (!was_held || m_tvalid);                                          // what is inside comes out
            // why: where every word lies
            assert (credit + dut.fill + N'(freed) == DEPTH);
            assert (held == dut.fill + N'(m_tvalid));
            assert (dut.wr == dut.rd + AW'(dut.fill));
            assert (!marked || ahead < held);
            assert (!(marked && ahead >= N'(m_tvalid)) || dut.mem[dut.rd + AW'(place)] == word);
            cover (done && held == DEPTH + 1);
        end
    end
endmodule
`default_nettype wire
