// Stream FIFO for branches: holds at least DEPTH words. One word per cycle in and out; input and output are registered.
//
// Memory: up to 64 words distributed memory (ge_fifo), above block memory with the two registers it wants: its own at
// the read port and one behind it, each holding a word of its own.
`default_nettype none
module ge_queue #(
    int unsigned WIDTH = 8,      // bits of tdata
    int unsigned DEPTH = 16
) (
    input  logic             clk,
    input  logic             rst,
    input  logic [WIDTH-1:0] s_tdata,
    input  logic             s_tvalid,
    output logic             s_tready,
    output logic [WIDTH-1:0] m_tdata,
    output logic             m_tvalid,
    input  logic             m_tready
);
    if (WIDTH < 1) $fatal(1, "ge_queue: WIDTH=%0d must be at least 1", WIDTH);
    if (DEPTH < 1) $fatal(1, "ge_queue: DEPTH=%0d must be at least 1", DEPTH);

    localparam int unsigned WORDS = DEPTH < 4 ? 4 : DEPTH;       // fewer could not keep one word per cycle
    localparam int unsigned AW    = $clog2(WORDS);

    logic        beat, leave, room;
    logic [AW:0] used, used_next;                                // places taken
    assign s_tready  = room;
    assign beat      = s_tvalid && room;
    assign used_next = used + beat - leave;
    always_ff @(posedge clk) begin
        used <= rst ? '0 : used_next;
        room <= !rst && (used_next != (AW+1)'(WORDS));
    end

    if (DEPTH <= 64) begin : distributed
        ge_fifo #(.WIDTH(WIDTH), .DEPTH(WORDS)) fifo (
            .clk, .rst, .push(beat), .push_data(s_tdata), .freed(leave), .m_tdata, .m_tvalid, .m_tready);
    end else begin : block
        (* ram_style = "block", no_rw_check *) logic [WIDTH-1:0] mem [WORDS];
        logic [WIDTH-1:0] fetched;
        logic [AW-1:0]    wr, rd;
        logic             some, held, move1, move2;              // a word in memory, in `fetched`; which registers move on
        assign move2 = !m_tvalid || m_tready;
        assign move1 = !held || move2;
        assign leave = move1 && some;
        always_ff @(posedge clk) begin
            if (beat) mem[wr] <= s_tdata;
            if (move1) fetched <= mem[rd];
            if (move2) m_tdata <= fetched;
        end
        always_ff @(posedge clk) begin
            if (rst) begin
                wr       <= '0;
                rd       <= '0;
                some     <= 1'b0;
                held     <= 1'b0;
                m_tvalid <= 1'b0;
            end else begin
                if (beat)  wr <= (wr == AW'(WORDS - 1)) ? '0 : wr + 1'b1;
                if (leave) rd <= (rd == AW'(WORDS - 1)) ? '0 : rd + 1'b1;
                some <= (used_next != 0);
                if (move1) held <= some;
                if (move2) m_tvalid <= held;
            end
        end
    end
`ifdef GE_ASSERT
    ge_stream_assert #(.WIDTH(WIDTH), .NAME("m")) hold_m (.clk, .rst, .tdata(m_tdata), .tvalid(m_tvalid), .tready(m_tready));
`endif
endmodule
`default_nettype wire
