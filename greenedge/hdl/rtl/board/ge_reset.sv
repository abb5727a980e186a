// Reset of the whole board: at power-up, while the PLL is not locked, and while the button is pressed.
//
// Asserted at once, released 4,096 cycles after the last cause has gone. The button counts when it has been pressed for
// 256 cycles, so that a spike on its wire resets nothing.
`default_nettype none
module ge_reset (
    input  logic clk,
    input  logic locked,
    input  logic button,        // pressed: high
    output logic rst
);
    logic [1:0]  locked_s = '0, button_s = '0;
    logic [7:0]  pressed  = '0;
    logic [12:0] wait_count = '0;

    always_ff @(posedge clk) begin
        locked_s <= {locked_s[0], locked};
        button_s <= {button_s[0], button};
        pressed  <= !button_s[1] ? '0 : (pressed == '1) ? pressed : pressed + 1'b1;
        if (!locked_s[1] || pressed == '1) wait_count <= '0;
        else if (!wait_count[12]) wait_count <= wait_count + 1'b1;
        rst <= !wait_count[12];
    end

    initial rst = 1'b1;
endmodule
`default_nettype wire
