// Bytes of a frame's body onto the line: flags around, reserved bytes escaped, both checks behind (protocol.py).
`default_nettype none
module ge_frame_tx
    import ge_protocol_pkg::*;
(
    input  logic       clk,
    input  logic       rst,
    input  logic [7:0] s_data,
    input  logic       s_last,
    input  logic       s_valid,
    output logic       s_ready,
    output logic [7:0] data,
    output logic       valid,
    input  logic       ready
);
    typedef enum logic [1:0] {IDLE, BODY, CHECKS, CLOSE} phase_t;

    phase_t      phase;
    logic [1:0]  n;                                      // which check byte
    logic        second;                                 // the byte after an escape
    logic [15:0] a, b, a_next, b_next;
    logic [7:0]  plain;
    logic        reserved, taken;

    always_comb begin
        unique case (n)
            2'd0: plain = a[7:0];
            2'd1: plain = a[15:8];
            2'd2: plain = b[7:0];
            2'd3: plain = b[15:8];
        endcase
        if (phase == BODY) plain = s_data;
    end

    assign reserved = is_reserved(plain);
    assign valid    = (phase == BODY) ? s_valid : (phase == IDLE) ? s_valid : 1'b1;
    assign data     = (phase == IDLE || phase == CLOSE) ? BYTE_FLAG : !reserved ? plain : second ? plain ^ BYTE_FLIP : BYTE_ESCAPE;
    assign taken    = valid && ready && (!reserved || second);    // the plain byte has gone out
    assign s_ready  = (phase == BODY) && ready && (!reserved || second);

    ge_crc #(.POLY(CHECK_A_POLY)) check_a (.crc(a), .data(s_data), .next(a_next));
    ge_crc #(.POLY(CHECK_B_POLY)) check_b (.crc(b), .data(s_data), .next(b_next));

    always_ff @(posedge clk) begin
        if (rst) begin
            phase  <= IDLE;
            n      <= '0;
            second <= 1'b0;
        end else if (valid && ready) begin
            second <= (phase == BODY || phase == CHECKS) && reserved && !second;
            unique case (phase)
                IDLE: begin
                    phase <= BODY;
                    a     <= CHECK_INIT;
                    b     <= CHECK_INIT;
                end
                BODY: if (taken) begin
                    a <= a_next;
                    b <= b_next;
                    n <= '0;
                    if (s_last) phase <= CHECKS;
                end
                CHECKS: if (taken) begin
                    n <= n + 1'b1;
                    if (n == 2'd3) phase <= CLOSE;
                end
                CLOSE: phase <= IDLE;
            endcase
        end
    end
`ifdef GE_ASSERT
    ge_stream_assert #(.WIDTH(8), .NAME("data")) hold_data (.clk, .rst, .tdata(data), .tvalid(valid), .tready(ready));
`endif
endmodule
`default_nettype wire
