// UART transmitter, 8N1; bytes follow each other without a gap while `valid` stays high.
`default_nettype none
module ge_uart_tx #(
    int unsigned CLOCK_HZ = 25_000_000,
    int unsigned BAUD     = 3_000_000
) (
    input  logic       clk,
    input  logic       rst,
    input  logic [7:0] data,
    input  logic       valid,
    output logic       ready,
    output logic       tx
);
    localparam longint unsigned STEP = (64'(BAUD) * 65536 + 64'(CLOCK_HZ) / 2) / 64'(CLOCK_HZ);
    localparam bit [16:0] INC = 17'(STEP);
    if (STEP < 1 || STEP > 16384)
        $fatal(1, "ge_uart_tx: CLOCK_HZ=%0d must be at least 4 times BAUD=%0d and at most 131072 times", CLOCK_HZ, BAUD);

    logic [16:0] phase;
    logic [3:0]  left;                                   // bits still to go out, the present one included
    logic [8:0]  bits;                                   // those after the present one

    assign ready = (left == 0) || (left == 4'd1 && phase[16]);

    // a reset of the register, not a choice before the sum: the sum keeps its carry chain
    always_ff @(posedge clk) begin
        if (rst || left == 0) phase <= INC;
        else phase <= {1'b0, phase[15:0]} + INC;
    end

    always_ff @(posedge clk) begin
        if (rst) begin
            left  <= '0;
            tx    <= 1'b1;
        end else begin
            if (ready && valid) begin
                left <= 4'd10;
                tx   <= 1'b0;
                bits <= {1'b1, data};
            end else if (left != 0 && phase[16]) begin
                left <= left - 1'b1;
                tx   <= (left == 4'd1) ? 1'b1 : bits[0];
                bits <= {1'b1, bits[8:1]};
            end
        end
    end
endmodule
`default_nettype wire
