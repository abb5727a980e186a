// A memory of constants in block RAM, read in two cycles: the second register is the block's own.
//
// It is cut into banks of BANK words, whose registers come before the choice between them; a choice behind the RAM's array
// would keep the register out of the block and cost 5 ns. Bank b is read from FILE.b, with b one character from '0' on.
`default_nettype none
module ge_decoder_rom #(
    int unsigned DEPTH = 1024,
    int unsigned WIDTH = 18,
    int unsigned BANK  = 1024,
    parameter    FILE  = "",
    localparam int unsigned AW = DEPTH > 1 ? $clog2(DEPTH) : 1
) (
    input  logic             clk,
    input  logic [AW-1:0]    address,
    output logic [WIDTH-1:0] word
);
    localparam int unsigned BANKS = (DEPTH + BANK - 1) / BANK;
    localparam int unsigned BW    = $clog2(BANK);
    if (BANK < 2 || BANK != (1 << BW)) $fatal(1, "ge_decoder_rom: BANK=%0d must be a power of two of at least 2", BANK);
    if (DEPTH < 1 || BANKS > 40) $fatal(1, "ge_decoder_rom: DEPTH=%0d must need 1 to 40 banks of BANK=%0d", DEPTH, BANK);

    logic [WIDTH-1:0] words [BANKS];
    for (genvar b = 0; b < BANKS; b++) begin : bank
        localparam int unsigned WORDS = b == BANKS - 1 ? DEPTH - b*BANK : BANK;
        localparam logic [7:0]  NAME  = 8'(48 + b);
        (* ram_style = "block", rom_style = "block" *) logic [WIDTH-1:0] memory [WORDS];
        initial $readmemh({FILE, ".", NAME}, memory);
        logic [WIDTH-1:0] read;
        always_ff @(posedge clk) begin
            read     <= memory[$clog2(WORDS > 1 ? WORDS : 2)'(address)];
            words[b] <= read;
        end
    end
    if (BANKS == 1) begin : single
        assign word = words[0];
    end else begin : several
        logic [AW-BW-1:0] bank_1, bank_2;
        always_ff @(posedge clk) begin
            bank_1 <= address[AW-1:BW];
            bank_2 <= bank_1;
        end
        assign word = words[bank_2];
    end
endmodule
`default_nettype wire
