// SPI slave, mode 0, most significant bit first, as a byte link. SCK is sampled: at most a sixth of the clock.
//
// The master reads by writing: while there is nothing to say it gets IDLE bytes (7C), which no frame contains.
`default_nettype none
module ge_spi
    import ge_protocol_pkg::*;
(
    input  logic       clk,
    input  logic       rst,
    input  logic       sck,
    input  logic       mosi,
    output logic       miso,
    input  logic       cs_n,
    output logic [7:0] rx_data,
    output logic       rx_valid,    // for one cycle
    input  logic [7:0] tx_data,
    input  logic       tx_valid,
    output logic       tx_ready
);
    logic [2:0] sck_s, cs_s;
    logic [1:0] mosi_s;
    logic [7:0] out;
    logic [2:0] n;
    logic       rise, fall, select, load;

    assign select = !cs_s[1];
    assign rise   = select && sck_s[1] && !sck_s[2];
    assign fall   = select && !sck_s[1] && sck_s[2];
    assign load   = (select && cs_s[2]) || (fall && n == 0);      // before the first bit of every byte
    assign tx_ready = load;
    assign miso   = out[7];

    always_ff @(posedge clk) begin
        sck_s    <= {sck_s[1:0], sck};
        cs_s     <= {cs_s[1:0], cs_n};
        mosi_s   <= {mosi_s[0], mosi};
        rx_valid <= 1'b0;
        if (load) out <= tx_valid ? tx_data : BYTE_IDLE;
        else if (fall) out <= {out[6:0], 1'b0};
        if (rst || !select) begin
            n <= '0;
        end else if (rise) begin
            n        <= n + 1'b1;
            rx_data  <= {rx_data[6:0], mosi_s[1]};
            rx_valid <= (n == 3'd7);
        end
        if (rst) begin
            sck_s    <= '0;
            cs_s     <= '1;
            rx_valid <= 1'b0;
        end
    end
endmodule
`default_nettype wire
