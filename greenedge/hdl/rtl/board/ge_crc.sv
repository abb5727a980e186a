// One byte through a CRC of 16 bits, most significant bit first.
`default_nettype none
module ge_crc #(
    bit [15:0] POLY = ge_protocol_pkg::CHECK_A_POLY
) (
    input  logic [15:0] crc,
    input  logic [7:0]  data,
    output logic [15:0] next
);
    if (!POLY[0]) $fatal(1, "ge_crc: POLY=%0h must end in 1, or the check is one bit shorter", POLY);

    always_comb begin
        next = crc ^ {data, 8'h00};
        for (int i = 0; i < 8; i++) next = next[15] ? {next[14:0], 1'b0} ^ POLY : {next[14:0], 1'b0};
    end
endmodule
`default_nettype wire
