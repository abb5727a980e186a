// Draws the next token from the logits as they arrive, one a cycle at most, index after index.
//
// unit = 0: the largest logit, the lowest index among equals. Else, behind `draw`: l = (logit * unit + 2^15) >> 16, e =
// exponential[min(max l - l, 255)]; their running sums C take the logits' places in the memory; r = ((state >> 16) * Z) >> 16
// after a step of xorshift32 (shifts 13, 17, 5), and the token is the number of C that are at most r, found by halving.
// VOCABULARY + 3 log2(VOCABULARY) + 19 cycles; 2 with unit = 0. `state` is taken with `load`; 0 counts as 1.
`default_nettype none
module ge_decoder_sample #(
    int unsigned VOCABULARY = 512,
    int unsigned LOGIT_BITS = 24,
    parameter    PREFIX     = "",
    localparam int unsigned VW = $clog2(VOCABULARY)
) (
    input  logic                         clk,
    input  logic                         rst,
    input  logic                         load,
    input  logic [31:0]                  state,
    input  logic [31:0]                  unit,
    input  logic                         s_valid,
    input  logic [VW-1:0]                s_index,
    input  logic signed [LOGIT_BITS-1:0] s_logit,
    input  logic                         draw,
    output logic                         ready,         // with token, for one cycle
    output logic [VW-1:0]                token
);
    if (VOCABULARY < 2) $fatal(1, "ge_decoder_sample: VOCABULARY=%0d must be at least 2", VOCABULARY);
    localparam int unsigned ZB = $clog2(255*VOCABULARY + 1);
    localparam int unsigned MB = LOGIT_BITS > ZB ? LOGIT_BITS : ZB;
    localparam int unsigned LB = LOGIT_BITS + 32 - 16;           // of l
    localparam int unsigned KW = $clog2(VW + 1);

    typedef enum logic [2:0] {IDLE, LARGEST, WEIGH, DRAIN, SEARCH} state_t;
    state_t        phase;
    logic [31:0]   random, mixed_1, mixed_2, mixed_3;
    assign mixed_1 = random ^ random << 13;
    assign mixed_2 = mixed_1 ^ mixed_1 >> 17;
    assign mixed_3 = mixed_2 ^ mixed_2 << 5;

    // ---- logits, then their running sums
    (* ram_style = "block", no_rw_check *) logic [MB-1:0] memory [VOCABULARY];
    logic          write;
    logic [VW-1:0] write_at, read_at;
    logic [MB-1:0] write_word, read_1, read_2;
    always_ff @(posedge clk) begin
        if (write) memory[write_at] <= write_word;
        read_1 <= memory[read_at];
        read_2 <= read_1;
    end

    logic signed [LOGIT_BITS-1:0] largest;
    logic [VW-1:0]                largest_at;
    logic                         better;
    assign better = s_index == '0 || s_logit > largest;
    always_ff @(posedge clk) if (s_valid && better) begin
        largest    <= s_logit;
        largest_at <= s_index;
    end

    // ---- 1, 2 read, 3 to 5 product, 6 distance, 7 exponential, 8 running sum, 9 written
    (* rom_style = "logic", ram_style = "logic" *) logic [7:0] exponential [256];
    initial $readmemh({PREFIX, "exponential"}, exponential);
    logic [VW-1:0]                i, at [1:8];
    logic [8:1]                   valid;
    logic signed [LOGIT_BITS+31:0] product;
    logic signed [LB-1:0]         l, top;
    logic signed [LB:0]           below;
    logic [7:0]                   distance, e;
    logic [ZB-1:0]                running, drawn;
    logic [ZB+15:0]               scaled;
    logic [KW-1:0]                bit_left;
    logic [3:0]                   wait_;
    logic [VW:0]                  found, probe;
    logic                         is_below;
    ge_decoder_multiply #(.A_BITS(LOGIT_BITS), .B_BITS(32)) scale (
        .clk, .a(phase == LARGEST ? largest : LOGIT_BITS'(read_2)), .b(unit), .product);
    assign l     = LB'((product + (LOGIT_BITS+32)'(32768)) >>> 16);
    assign below = (LB+1)'(top) - (LB+1)'(l);
    assign probe = found + ((VW+1)'(1) << bit_left);           // one more than the address that is asked
    assign is_below = probe <= (VW+1)'(VOCABULARY) && ZB'(read_2) <= drawn;
    always_comb begin
        read_at = i;
        if (phase == SEARCH) read_at = probe <= (VW+1)'(VOCABULARY) ? VW'(probe - 1'b1) : '0;
        write = s_valid || valid[8];
        write_at = s_valid ? s_index : at[8];
        write_word = s_valid ? MB'(s_logit) : MB'(running);
    end
    always_ff @(posedge clk) begin
        ready <= 1'b0;
        valid <= rst ? '0 : {valid[7:1], phase == WEIGH};
        at[1] <= i;
        for (int s = 2; s <= 8; s++) at[s] <= at[s-1];
        if (phase == LARGEST) top <= l;
        distance <= |below[LB:8] ? 8'd255 : below[7:0];
        e        <= exponential[distance];
        if (phase == LARGEST) running <= '0;
        else if (valid[7]) running <= running + ZB'(e);
        scaled <= random[31:16] * running;
        drawn  <= scaled[16 +: ZB];
        wait_  <= wait_ + 1'b1;
        case (phase)
            IDLE: if (draw) begin
                random <= mixed_3;
                wait_  <= '0;
                i      <= '0;
                if (unit == '0) begin
                    ready <= 1'b1;
                    token <= largest_at;
                end else phase <= LARGEST;
            end
            LARGEST: if (wait_ == 4) phase <= WEIGH;
            WEIGH: begin
                i <= i + 1'b1;
                if (i == VW'(VOCABULARY - 1)) begin
                    phase <= DRAIN;
                    wait_ <= '0;
                end
            end
            DRAIN: if (wait_ == 11) begin                      // the last sum is written, and drawn follows from it
                phase    <= SEARCH;
                wait_    <= '0;
                found    <= '0;
                bit_left <= KW'(VW - 1);
            end
            SEARCH: if (wait_ == 2) begin
                wait_    <= '0;
                bit_left <= bit_left - 1'b1;
                if (is_below) found <= probe;
                if (bit_left == '0) begin
                    phase <= IDLE;
                    ready <= 1'b1;
                    token <= VW'(is_below ? probe : found);
                end
            end
            default: phase <= IDLE;
        endcase
        if (load) random <= state == '0 ? 32'd1 : state;
        if (rst) begin
            phase  <= IDLE;
            random <= 32'd1;
        end
    end
endmodule
`default_nettype wire
