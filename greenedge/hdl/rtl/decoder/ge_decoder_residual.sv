// The residual of a token: takes the embedding, adds projections with saturation, keeps the sum of squares, and normalises.
//
// `add` and `embed` take one element a cycle (never both); the sum has its square four cycles later. `start` ends
// the sum: R = min(((table[m] * gain) >> 8) >> half, 2^17-1), half the smallest with s >> 2*half < 1024 and m = s >> 2*half
// (table "root"); then PE levels a cycle, clip((x * R + 2^19) >> 20, 127), element 0 first; `ready` with the last of them.
`default_nettype none
module ge_decoder_residual #(
    int unsigned DIM    = 64,
    int unsigned PE     = 4,
    int unsigned SHIFT  = 4,       // of the embedding
    parameter    PREFIX = "",
    localparam int unsigned XW = $clog2(DIM)
) (
    input  logic                 clk,
    input  logic                 rst,
    input  logic                 fresh,            // a token begins: no squares yet
    input  logic                 embed, add,
    input  logic [XW-1:0]        index,
    input  logic signed [16:0]   value,
    input  logic                 start,
    input  logic [ge_decoder_pkg::GAIN_BITS-1:0] gain,
    output logic                 m_valid,
    output logic [XW-1:0]        m_index,
    output logic [PE*8-1:0]      m_levels,
    output logic                 ready,
    output logic                 watch_valid,      // every element that is written
    output logic [XW-1:0]        watch_index,
    output logic signed [15:0]   watch_value
);
    if (PE != (1 << $clog2(PE)) || DIM % PE != 0 || DIM <= PE) $fatal(1, "ge_decoder_residual: PE=%0d must be a power of two that divides DIM=%0d, and less", PE, DIM);
    if (DIM > 1024) $fatal(1, "ge_decoder_residual: DIM=%0d must be at most 1024: a sum of squares has 40 bits", DIM);
    localparam int unsigned ROWS = DIM / PE;
    localparam int unsigned RW   = $clog2(ROWS);
    localparam int unsigned PW   = $clog2(PE);

    // ---- elements: read, add, write and square
    logic [RW-1:0]      read_row, write_row;
    logic [PE-1:0]      write;
    logic signed [15:0] x [PE];
    logic signed [15:0] read [PE];
    for (genvar p = 0; p < PE; p++) begin : bank
        logic [15:0] memory [ROWS];
        assign x[p] = memory[read_row];
        always_ff @(posedge clk) begin
            read[p] <= x[p];
            if (write[p]) memory[write_row] <= watch_value;
        end
    end
    logic               embed_1, add_1, square_1;
    logic [XW-1:0]      index_1;
    logic signed [16:0] value_1;
    logic signed [17:0] changed;
    logic signed [31:0] square;
    logic [39:0]        squares;
    assign changed = 18'(value_1) + (add_1 ? 18'(read[PW > 0 ? index_1 % PE : 0]) : 18'sd0);
    assign write_row = watch_index[XW-1:PW];
    always_comb for (int p = 0; p < PE; p++) write[p] = watch_valid && int'(watch_index) % PE == p;
    always_ff @(posedge clk) begin
        embed_1 <= embed && !rst;
        add_1   <= add && !rst;
        index_1 <= index;
        value_1 <= embed ? value <<< SHIFT : value;
        watch_valid <= (embed_1 || add_1) && !rst;
        watch_index <= index_1;
        watch_value <= changed > 18'sd32767 ? 16'sd32767 : changed < -18'sd32767 ? -16'sd32767 : 16'(changed);
        square_1 <= watch_valid && !rst;
        square   <= watch_value * watch_value;
        if (rst || start || fresh) squares <= '0;
        else if (square_1) squares <= squares + 40'($unsigned(square));
    end

    // ---- from the sum of squares to R, one step a cycle
    logic [5:1]  step;
    logic [39:0] half_1;
    logic [3:0]  half [1:5];
    logic [9:0]  mantissa;
    logic [16:0] root;
    logic [34:0] product;
    logic [16:0] r;
    logic [39:0] sum_1, sum_8;
    logic [23:0] sum_4;
    logic [11:0] sum_2;
    logic        by_8, by_4, by_2, by_1;
    logic [26:0] moved;
    assign by_8  = |sum_1[39:24];
    assign sum_8 = by_8 ? sum_1 >> 16 : sum_1;                 // below 2^24
    assign by_4  = |sum_8[23:16];
    assign by_2  = |half_1[15:12];
    assign sum_2 = by_2 ? half_1[15:4] : half_1[11:0];
    assign by_1  = |sum_2[11:10];
    assign moved = product[34:8] >> half[5];
    ge_decoder_rom #(.DEPTH(1024), .WIDTH(17), .BANK(1024), .FILE({PREFIX, "root"})) roots (.clk, .address(mantissa), .word(root));
    always_ff @(posedge clk) begin
        step   <= rst ? '0 : {step[4:1], start};
        if (start) sum_1 <= squares;
        half_1 <= by_4 ? sum_8 >> 8 : sum_8;                   // below 2^16
        half[1] <= {by_8, by_4, 2'b0};
        mantissa <= by_1 ? sum_2[11:2] : sum_2[9:0];
        half[2]  <= half[1] | {2'b0, by_2, by_1};
        for (int s = 3; s <= 5; s++) half[s] <= half[s-1];
        product  <= root * gain;
        r        <= |moved[26:17] ? '1 : moved[16:0];
    end

    // ---- levels
    logic               scaling, scaled_1, scaled_2, last_1, last_2;
    logic [RW-1:0]      row, row_1, row_2;
    logic signed [33:0] wide [PE];
    assign read_row = scaling ? row : index[XW-1:PW];
    always_ff @(posedge clk) begin
        if (rst) scaling <= 1'b0;
        else if (step[5]) scaling <= 1'b1;
        else if (row == RW'(ROWS - 1)) scaling <= 1'b0;
        row <= scaling ? row + 1'b1 : '0;
        scaled_1 <= scaling && !rst;
        last_1   <= scaling && row == RW'(ROWS - 1);
        row_1    <= row;
        scaled_2 <= scaled_1 && !rst;
        last_2   <= last_1;
        row_2    <= row_1;
        m_valid  <= scaled_2 && !rst;
        ready    <= scaled_2 && last_2 && !rst;
        m_index  <= XW'(row_2) << PW;
    end
    for (genvar p = 0; p < PE; p++) begin : scale
        logic signed [14:0] level;
        assign level = 15'((wide[p] + 34'sd524288) >>> 20);
        always_ff @(posedge clk) begin
            wide[p] <= read[p] * $signed({1'b0, r});
            m_levels[8*p +: 8] <= level > 15'sd127 ? 8'd127 : level < -15'sd127 ? 8'h81 : level[7:0];
        end
    end
endmodule
`default_nettype wire
