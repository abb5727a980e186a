// UART receiver, 8N1. A bit lasts CLOCK_HZ/BAUD cycles, which need not be whole, but at least 4.
//
// The line passes a majority of three samples, so a spike of one cycle is no edge. A byte whose stop bit is low is
// given out with `bad`; after it the receiver waits for the line to be high again, so a break is one bad byte.
`default_nettype none
module ge_uart_rx #(
    int unsigned CLOCK_HZ = 25_000_000,
    int unsigned BAUD     = 3_000_000
) (
    input  logic       clk,
    input  logic       rst,
    input  logic       rx,
    output logic [7:0] data,
    output logic       valid,       // for one cycle
    output logic       bad
);
    localparam longint unsigned STEP = (64'(BAUD) * 65536 + 64'(CLOCK_HZ) / 2) / 64'(CLOCK_HZ);
    localparam bit [16:0] INC = 17'(STEP);
    if (STEP < 1 || STEP > 16384)
        $fatal(1, "ge_uart_rx: CLOCK_HZ=%0d must be at least 4 times BAUD=%0d and at most 131072 times", CLOCK_HZ, BAUD);

    logic [4:0]  sync;
    logic        line;
    logic [16:0] phase;                                  // overflows in the middle of every bit
    logic [3:0]  left;                                   // bits to come, start bit included; 0: waiting for a start bit
    logic        resting;                                // waiting for a high line after a bad stop bit

    assign line = (sync[2] && sync[3]) || (sync[3] && sync[4]) || (sync[2] && sync[4]);

    // half a bit and the cycle that the edge took; a reset of the register, so that the sum keeps its carry chain
    always_ff @(posedge clk) begin
        if (rst || left == 0) phase <= 17'h08000 + INC;
        else phase <= {1'b0, phase[15:0]} + INC;
    end

    always_ff @(posedge clk) begin
        if (rst) begin
            sync    <= '1;
            left    <= '0;
            resting <= 1'b0;
            valid   <= 1'b0;
            bad     <= 1'b0;
        end else begin
            sync  <= {sync[3:0], rx};
            valid <= 1'b0;
            bad   <= 1'b0;
            if (resting) begin
                resting <= !line;
            end else if (left == 0) begin
                if (!line) left <= 4'd10;
            end else begin
                if (phase[16]) begin
                    left <= left - 1'b1;
                    if (left == 4'd10) begin
                        if (line) left <= '0;            // no start bit, a spike
                    end else if (left == 4'd1) begin
                        valid   <= 1'b1;
                        bad     <= !line;
                        resting <= !line;
                    end else begin
                        data <= {line, data[7:1]};
                    end
                end
            end
        end
    end
endmodule
`default_nettype wire
