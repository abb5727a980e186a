// Small first-in first-out buffer in distributed memory with a registered output.
//
// The writer must know that there is room: there is no `ready` on the input. Our units count credits instead, so that
// their pipelines need no clock enable. `freed` is high for one cycle when a word has left the memory and its place may
// be used again.
`default_nettype none
module ge_fifo #(
    int unsigned WIDTH = 8,
    int unsigned DEPTH = 4       // words of memory; the output register holds one more
) (
    input  logic             clk,
    input  logic             rst,
    input  logic             push,
    input  logic [WIDTH-1:0] push_data,
    output logic             freed,
    output logic [WIDTH-1:0] m_tdata,
    output logic             m_tvalid,
    input  logic             m_tready
);
    if (WIDTH < 1) $fatal(1, "ge_fifo: WIDTH=%0d must be at least 1", WIDTH);
    if (DEPTH < 1) $fatal(1, "ge_fifo: DEPTH=%0d must be at least 1", DEPTH);

    localparam int unsigned AW = DEPTH > 1 ? $clog2(DEPTH) : 1;

    logic [WIDTH-1:0] mem [2**AW];
    logic [AW-1:0]    wr, rd;
    logic [AW:0]      fill;
    logic             pop;

    assign pop = (fill != 0) && (!m_tvalid || m_tready);

    always_ff @(posedge clk) begin
        if (push) mem[wr] <= push_data;
    end

    always_ff @(posedge clk) begin
        if (!m_tvalid || m_tready) m_tdata <= mem[rd];
    end

    always_ff @(posedge clk) begin
        if (rst) begin
            wr       <= '0;
            rd       <= '0;
            fill     <= '0;
            freed    <= 1'b0;
            m_tvalid <= 1'b0;
        end else begin
            if (push) wr <= wr + 1'b1;
            if (pop)  rd <= rd + 1'b1;
            if (push != pop) fill <= push ? fill + 1'b1 : fill - 1'b1;
            freed <= pop;
            if (!m_tvalid || m_tready) m_tvalid <= pop;
        end
    end
endmodule
`default_nettype wire
