// One LED: blinks slowly until the host has opened the board, then shines, and goes dark for a moment with every sample.
`default_nettype none
module ge_led #(
    int unsigned CLOCK_HZ = 25_000_000
) (
    input  logic clk,
    input  logic rst,
    input  logic opened,
    input  logic busy,
    output logic led
);
    if (CLOCK_HZ < 9) $fatal(1, "ge_led: CLOCK_HZ=%0d must be at least 9", CLOCK_HZ);

    localparam int unsigned W = $clog2(CLOCK_HZ);        // bit W-1 changes every half second or so
    logic [W-1:0] n;
    logic [W-4:0] dark;

    always_ff @(posedge clk) begin
        if (rst) begin
            n    <= '0;
            dark <= '0;
            led  <= 1'b0;
        end else begin
            n <= n + 1'b1;
            if (busy && dark == 0) dark <= '1;
            else if (dark != 0) dark <= dark - 1'b1;
            led <= opened ? !dark[W-4] : n[W-1];
        end
    end
endmodule
`default_nettype wire
