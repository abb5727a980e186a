// One of each memory and multiplier that yosys maps to ECP5's cells, all fed from the same words: what the cell models are
// compared with.
`default_nettype none
module memories (
    input  logic         clk,
    input  logic [77:0]  s,          // {enable, reset, byte enables, data, write address, read address}
    output logic [215:0] m
);
    logic        ce, clear, write;
    logic [3:0]  be;
    logic [35:0] d;
    logic [13:0] wa, ra;
    assign {ce, clear, be, write, d, wa, ra} = s[70:0];

    (* ram_style = "block", rom_style = "block" *) logic [35:0] rom36 [512];
    (* ram_style = "block", rom_style = "block" *) logic [17:0] rom18 [1024];
    (* ram_style = "block", rom_style = "block" *) logic [8:0]  rom9  [2048];
    (* ram_style = "block", rom_style = "block" *) logic [3:0]  rom4  [4096];
    (* ram_style = "block", rom_style = "block" *) logic [1:0]  rom2  [8192];
    (* ram_style = "block", rom_style = "block" *) logic        rom1  [16384];
    (* ram_style = "block" *) logic [35:0] ram36 [512];
    (* ram_style = "block" *) logic [17:0] ram18 [1024];
    (* ram_style = "block" *) logic [8:0]  ram9  [2048];
    (* ram_style = "distributed" *) logic [7:0] few [16];
    initial begin
        $readmemh("rom36.mem", rom36);
        $readmemh("rom18.mem", rom18);
        $readmemh("rom9.mem", rom9);
        $readmemh("rom4.mem", rom4);
        $readmemh("rom2.mem", rom2);
        $readmemh("rom1.mem", rom1);
        $readmemh("rom36.mem", ram36);
        $readmemh("rom18.mem", ram18);
        $readmemh("rom9.mem", ram9);
        $readmemh("few.mem", few);
    end

    // ---- read-only, with a second rank that fits into the RAM's output register
    logic [35:0] a36, b36;
    logic [17:0] a18, b18;
    logic [8:0]  a9, b9;
    logic [3:0]  a4;
    logic [1:0]  a2;
    logic        a1;
    always_ff @(posedge clk) begin
        a36 <= rom36[ra[8:0]];
        b36 <= a36;
        a18 <= rom18[ra[9:0]];
        b18 <= a18;
        a2  <= rom2[ra[12:0]];
        a1  <= rom1[ra];
        if (clear) a9 <= '0;
        else if (ce) a9 <= rom9[ra[10:0]];
        b9  <= a9;
    end
    always_ff @(posedge clk or posedge clear) begin
        if (clear) a4 <= '0;
        else a4 <= rom4[ra[11:0]];
    end

    // ---- written by bytes, read at another address
    logic [35:0] q36;
    logic [17:0] q18;
    logic [8:0]  q9;
    logic [7:0]  q8;
    logic signed [35:0] product;
    logic        [35:0] positive;
    always_ff @(posedge clk) begin
        for (int i = 0; i < 4; i++) if (write && be[i]) ram36[wa[8:0]][9*i +: 9] <= d[9*i +: 9];
        for (int i = 0; i < 2; i++) if (write && be[i]) ram18[wa[9:0]][9*i +: 9] <= d[9*i +: 9];
        if (write) few[wa[3:0]] <= d[7:0];
        q36 <= ram36[ra[8:0]];
        q18 <= ram18[ra[9:0]];
        q8  <= few[ra[3:0]];
    end
`ifdef RAM_ONLY
    assign {q9, product, positive} = '0;
`else
    // one port that shows what it writes
    always_ff @(posedge clk) begin
        if (write) ram9[wa[10:0]] <= d[8:0];
        q9 <= write ? d[8:0] : ram9[wa[10:0]];
    end

    // ---- multiplied
    always_ff @(posedge clk) begin
        product  <= $signed(d[17:0]) * $signed(d[35:18]);
        positive <= d[16:0] * {wa, ra[2:0]};
    end
`endif

    assign m = {3'b0, product, positive, q8, q9, q18, q36, a1, a2, a4, b9, b18, b36};
endmodule
`default_nettype wire
