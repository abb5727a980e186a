// Bytes from the line into whole frames in the request buffer (protocol.py has the format).
//
// Header and payload are written to the buffer as they come; `wr` moves over them only when length and both checks
// agree, so the reader sees whole frames alone. A frame that does not fit is dropped whole.
`default_nettype none
module ge_frame_rx
    import ge_protocol_pkg::*;
#(
    int unsigned AW = 11                                 // the buffer has 2**AW bytes
) (
    input  logic          clk,
    input  logic          rst,
    input  logic [7:0]    data,
    input  logic          valid,
    input  logic          bad,
    input  logic [AW:0]   rd,                            // the reader has freed everything before this position
    output logic          we,
    output logic [AW-1:0] waddr,
    output logic [7:0]    wdata,
    output logic          committed,                     // for one cycle: one more whole frame
    output logic          opens,                         // with `committed`: it is OPEN
    output logic          dropped,                       // for one cycle: what came was no frame
    output logic          overflowed                     // for one cycle: a frame had no room
);
    if (AW < 4 || AW > 16) $fatal(1, "ge_frame_rx: AW=%0d must be 4 to 16", AW);

    typedef enum logic [1:0] {HEAD, PAYLOAD, CHECKS, DONE} phase_t;

    phase_t       phase;
    logic [15:0]  left, length;                          // bytes left of this phase, payload length
    logic [AW:0]  wr, at;                                // end of the committed frames; where the next byte goes
    logic         escaped, broken, full, is_open;
    logic         begun;                                 // at least one byte since the last flag
    logic [15:0]  a, b, a_next, b_next;
    logic [7:0]   plain;
    logic         flag, byte_in, body;

    always_ff @(posedge clk) opens <= is_open;
    assign flag    = valid && !bad && data == BYTE_FLAG;
    assign byte_in = valid && !bad && !is_reserved(data);
    assign plain   = escaped ? data ^ BYTE_FLIP : data;
    assign body    = byte_in && (phase == HEAD || phase == PAYLOAD);
    assign we      = body && !full;
    assign waddr   = at[AW-1:0];
    assign wdata   = plain;
    always_ff @(posedge clk) full <= (at - rd) == (AW+1)'(1 << AW);   // bytes come many cycles apart

    ge_crc #(.POLY(CHECK_A_POLY)) check_a (.crc(a), .data(plain), .next(a_next));
    ge_crc #(.POLY(CHECK_B_POLY)) check_b (.crc(b), .data(plain), .next(b_next));

    logic overflow;                                      // in the present frame
    logic wrong;                                         // the check byte that has just come

    assign wrong = plain != (left == 16'd4 ? a[7:0] : left == 16'd3 ? a[15:8] : left == 16'd2 ? b[7:0] : b[15:8]);

    always_ff @(posedge clk) begin
        committed  <= 1'b0;
        dropped    <= 1'b0;
        overflowed <= 1'b0;
        if (rst) begin
            phase <= HEAD;
            left  <= 16'(HEADER_BYTES);
            wr    <= '0;
            at    <= '0;
            begun <= 1'b0;
            escaped  <= 1'b0;
            broken   <= 1'b0;
            overflow <= 1'b0;
            a <= CHECK_INIT;
            b <= CHECK_INIT;
        end else if (flag) begin
            phase <= HEAD;
            left  <= 16'(HEADER_BYTES);
            begun <= 1'b0;
            escaped  <= 1'b0;
            broken   <= 1'b0;
            overflow <= 1'b0;
            a <= CHECK_INIT;
            b <= CHECK_INIT;
            at <= wr;
            if (begun) begin
                if (phase != DONE || broken || escaped) dropped <= 1'b1;
                else if (overflow) overflowed <= 1'b1;
                else begin
                    committed <= 1'b1;
                    wr <= at;
                    at <= at;
                end
            end
        end else if (valid && (bad || data != BYTE_IDLE)) begin
            begun   <= 1'b1;
            escaped <= !bad && data == BYTE_ESCAPE;
            if (bad || data == BYTE_ESCAPE_TO || (data == BYTE_ESCAPE && escaped)) broken <= 1'b1;
            if (body) begin
                if (phase == HEAD && left == 16'(HEADER_BYTES)) is_open <= (plain == KIND_OPEN);
                a <= a_next;
                b <= b_next;
                if (full) overflow <= 1'b1;
                else at <= at + 1'b1;
            end
            if (byte_in) begin
                left <= left - 1'b1;
                unique case (phase)
                    HEAD: begin
                        if (left == 16'd2) length[7:0] <= plain;
                        if (left == 16'd1) begin
                            length[15:8] <= plain;
                            phase <= ({plain, length[7:0]} == 0) ? CHECKS : PAYLOAD;
                            left  <= ({plain, length[7:0]} == 0) ? 16'(CHECK_BYTES) : {plain, length[7:0]};
                        end
                    end
                    PAYLOAD: if (left == 16'd1) begin
                        phase <= CHECKS;
                        left  <= 16'(CHECK_BYTES);
                    end
                    CHECKS: begin
                        if (wrong) broken <= 1'b1;
                        if (left == 16'd1) phase <= DONE;
                    end
                    DONE: broken <= 1'b1;                // more bytes than the length says
                endcase
            end
        end
    end
endmodule
`default_nettype wire
