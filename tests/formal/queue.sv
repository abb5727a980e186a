// ge_queue never loses, doubles or reorders a word; it holds at least DEPTH and at most WORDS + 2. Nothing is assumed of
// either side. `mark` may be high with any word: that word is followed, `ahead` words before it.
`default_nettype none
module formal_queue #(
    int unsigned WIDTH = 1,
    int unsigned DEPTH = 5
) (
    input logic             clk,
    input logic             reset,
    input logic [WIDTH-1:0] s_tdata,
    input logic             s_tvalid,
    input logic             mark,
    input logic             m_tready
);
    localparam int unsigned WORDS = DEPTH < 4 ? 4 : DEPTH;
    localparam int unsigned N = $clog2(WORDS + 3) + 1;
    logic             rst = 1'b1, fresh;               // fresh: the cycle after a reset, in which no room is offered yet
    logic             s_tready, m_tvalid;
    logic [WIDTH-1:0] m_tdata;
    ge_queue #(.WIDTH(WIDTH), .DEPTH(DEPTH)) dut (.clk, .rst, .s_tdata, .s_tvalid, .s_tready, .m_tdata, .m_tvalid, .m_tready);

    logic [N-1:0]     held, ahead, place;
    logic             marked = 1'b0, done = 1'b0;
    logic [1:0]       waited;                          // cycles in which a word was inside and none was offered
    logic [WIDTH-1:0] word;
    logic             enters, leaves;
    assign enters = s_tvalid && s_tready;
    assign leaves = m_tvalid && m_tready;

    always_ff @(posedge clk) begin
        rst   <= reset;
        fresh <= rst;
        if (rst) begin
            held   <= '0;
            marked <= 1'b0;
            done   <= 1'b0;
            waited <= '0;
        end else begin
            held   <= held + N'(enters) - N'(leaves);
            waited <= (held != 0 && !m_tvalid) ? waited + 1'b1 : '0;
            if (leaves) ahead <= ahead - 1'b1;
            if (leaves && marked && ahead == 0) begin
                marked <= 1'b0;
                done   <= 1'b1;
            end
            if (enters && mark && !marked && !done) begin
                marked <= 1'b1;
                word   <= s_tdata;
                ahead  <= held - N'(leaves);
            end
        end
    end

    always_ff @(posedge clk) begin
        if (!rst) begin
            assert (held <= WORDS + 2);
            assert (!m_tvalid || held != 0);
            assert (!(marked && ahead == 0 && m_tvalid) || m_tdata == word);
            assert (waited <= 2'd2);                                                 // what is inside comes out
            assert (fresh || held >= DEPTH || s_tready);                             // it takes DEPTH words
            assert (fresh ? !s_tready && held == 0 : s_tready == (dut.used != WORDS));
            assert (dut.used <= WORDS);
            assert (!marked || ahead < held);
            cover (done && held == (DEPTH <= 64 ? WORDS + 1 : 3));                   // full would take 67 steps
        end
    end

    // why: where every word lies
    if (DEPTH <= 64) begin : distributed
        localparam int unsigned AW = $clog2(WORDS);
        assign place = ahead - N'(m_tvalid);
        always_ff @(posedge clk) begin
            if (!rst) begin
                assert (dut.used == dut.distributed.fifo.fill + dut.distributed.fifo.freed);
                assert (held == dut.distributed.fifo.fill + N'(m_tvalid));
                assert (dut.distributed.fifo.wr == dut.distributed.fifo.rd + AW'(dut.distributed.fifo.fill));
                assert (dut.distributed.fifo.fill <= WORDS);
                assert (!(marked && ahead >= N'(m_tvalid))
                        || dut.distributed.fifo.mem[dut.distributed.fifo.rd + AW'(place)] == word);
                assert (waited == 0 || m_tvalid);
            end
        end
    end else begin : block
        localparam int unsigned AW = $clog2(WORDS);
        logic [AW:0] behind, at;                       // place in memory, counted from rd; its address
        assign place  = ahead - N'(m_tvalid);
        assign behind = (AW+1)'(place - N'(dut.block.held));
        assign at     = dut.block.rd + behind >= WORDS ? dut.block.rd + behind - (AW+1)'(WORDS) : dut.block.rd + behind;
        always_ff @(posedge clk) begin
            if (!rst) begin
                assert (held == dut.used + N'(dut.block.held) + N'(m_tvalid));
                assert (dut.block.some == (dut.used != 0));
                assert (dut.block.rd < WORDS && dut.block.wr < WORDS);
                assert (dut.block.wr == (dut.block.rd + dut.used >= WORDS ? dut.block.rd + dut.used - WORDS
                                                                          : dut.block.rd + dut.used));
                assert (!(marked && ahead >= N'(m_tvalid) && place == 0 && dut.block.held) || dut.block.fetched == word);
                assert (!(marked && ahead >= N'(m_tvalid) && place >= N'(dut.block.held))
                        || dut.block.mem[at[AW-1:0]] == word);
                assert (waited != 1 || dut.block.held || m_tvalid);
                assert (waited != 2 || m_tvalid);
            end
        end
    end
endmodule
`default_nettype wire
