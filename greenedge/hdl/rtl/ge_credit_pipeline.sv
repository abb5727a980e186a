// The frame of a unit within which nothing waits: credits, what travels beside the data, and the output buffer.
//
// The unit reserves a place in the output buffer (`take`, while `room`) for every result before it starts to work on it. Its
// pipeline then needs no clock enable: LATENCY cycles after `enter` the result is in `y`, and if `keep` says that it is whole it
// goes into the buffer, where its place is free. A place is free again when its result has left the buffer's memory.
`default_nettype none
module ge_credit_pipeline #(
    int unsigned WIDTH   = 8,    // bits of a result
    int unsigned LATENCY = 4,    // from `enter` to `y`
    int unsigned DEPTH   = 8,    // places; more than LATENCY + 3 for a result every cycle
    bit          EARLY   = 0,    // `room` comes from a register
    localparam int unsigned M_WIDTH = (WIDTH + 7) / 8 * 8
) (
    input  logic               clk,
    input  logic               rst,
    output logic               room,       // a place is free
    input  logic               take,       // reserve it
    input  logic               enter,      // something enters the pipeline
    output logic [LATENCY:1]   valid,      // it did so many cycles ago
    input  logic               keep,       // with valid[LATENCY]: y is a whole result
    input  logic [WIDTH-1:0]   y,
    output logic [M_WIDTH-1:0] m_tdata,
    output logic               m_tvalid,
    input  logic               m_tready
);
    if (WIDTH < 1) $fatal(1, "ge_credit_pipeline: WIDTH=%0d must be at least 1", WIDTH);
    if (LATENCY < 1) $fatal(1, "ge_credit_pipeline: LATENCY=%0d must be at least 1", LATENCY);
    if (DEPTH < 1) $fatal(1, "ge_credit_pipeline: DEPTH=%0d must be at least 1", DEPTH);

    localparam int unsigned CW = $clog2(DEPTH + 1);
    logic [CW-1:0] credit;
    logic          freed;

    always_ff @(posedge clk) valid <= rst ? '0 : LATENCY'({valid, enter});

    logic [WIDTH-1:0] word;
    ge_fifo #(.WIDTH(WIDTH), .DEPTH(DEPTH)) out (
        .clk, .rst, .push(valid[LATENCY] && keep), .push_data(y), .freed, .m_tdata(word), .m_tvalid, .m_tready);
    assign m_tdata = M_WIDTH'(word);

    if (EARLY) begin : early
        logic [CW-1:0] credit_next;
        assign credit_next = credit + freed - take;
        always_ff @(posedge clk) begin
            if (rst) begin
                credit <= CW'(DEPTH);
                room   <= 1'b0;
            end else begin
                credit <= credit_next;
                room   <= (credit_next != 0);
            end
        end
    end else begin : direct
        assign room = (credit != 0);
        // plus or minus one by the register `freed`, not by `take`, which comes late: eight LUT4 less in ge_add
        always_ff @(posedge clk) begin
            if (rst) credit <= CW'(DEPTH);
            else if (take != freed) credit <= credit + ({CW{!freed}} | CW'(1));
        end
    end
endmodule
`default_nettype wire
