// The softmax of attention for one head after another: logits from sums, their maximum, exponentials, one division.
//
// GROUPS positions arrive a cycle (`s_valid`; block s_index of a head, `s_last` with its last), logit = (score + 2^(s-1)) >> s.
// They are kept until the maximum is known; then e = exponential[min(max - logit, 255)] leaves, GROUPS a cycle, for the lanes,
// and reciprocal = numerator / sum of e is divided, three bits a cycle. Heads of even and odd number have places of their own
// for logits, maxima and quotients: the sums of one arrive while the other is weighed. `mix_ready` says that the head's
// products with the values may be issued: the quotient will be there when the first of them arrives MIX_CYCLES later.
`default_nettype none
module ge_decoder_weigh #(
    int unsigned CONTEXT         = 256,
    int unsigned GROUPS          = 8,
    int unsigned LANES           = 64,
    int unsigned SCORE_BITS      = 20,
    int unsigned RECIPROCAL_BITS = 23,
    int unsigned MIX_CYCLES      = 8,
    parameter    PREFIX          = "",
    localparam int unsigned TW = $clog2(CONTEXT > 1 ? CONTEXT : 2),
    localparam int unsigned BLOCKS = (CONTEXT + GROUPS - 1) / GROUPS,
    localparam int unsigned BW = $clog2(BLOCKS > 1 ? BLOCKS : 2),
    localparam int unsigned CHUNKS = (CONTEXT + LANES - 1) / LANES,
    localparam int unsigned EW = $clog2(2*CHUNKS),
    localparam int unsigned LW = $clog2(LANES)
) (
    input  logic                         clk,
    input  logic                         rst,
    input  logic                         restart,         // before the first head of a layer
    input  logic [TW-1:0]                position,
    input  logic [ge_decoder_pkg::LOGIT_SHIFT_BITS-1:0] shift,     // s - 1
    input  logic [ge_decoder_pkg::NUMERATOR_BITS-1:0]   numerator,
    input  logic                         s_valid, s_odd, s_first, s_last,
    input  logic [BW-1:0]                s_index,
    input  logic [GROUPS*SCORE_BITS-1:0] scores,
    output logic                         e_write,
    output logic [LW-1:0]                e_lane,
    output logic [EW-1:0]                e_slot,
    output logic [GROUPS*8-1:0]          e_values,
    output logic [1:0]                   mix_ready,                 // by parity; held until taken
    input  logic [1:0]                   mix_taken,
    output logic [RECIPROCAL_BITS-1:0]   reciprocal [2]
);
    import ge_decoder_pkg::*;
    if (GROUPS < 1 || GROUPS != (1 << $clog2(GROUPS))) $fatal(1, "ge_decoder_weigh: GROUPS=%0d must be a power of two", GROUPS);
    localparam int unsigned GW    = $clog2(GROUPS);
    localparam int unsigned ZB    = $clog2(255*CONTEXT + 1);
    localparam int unsigned STEPS = (NUMERATOR_BITS + 2) / 3;
    localparam int unsigned EARLY = STEPS < MIX_CYCLES + 2 ? STEPS : MIX_CYCLES + 2;
    localparam int unsigned NW    = $clog2(STEPS + 1);
    localparam logic signed [SCORE_BITS-1:0] LEAST = {1'b1, {(SCORE_BITS-1){1'b0}}};

    function automatic logic is_reached(input logic [BW-1:0] block, input int unsigned j, input logic [TW-1:0] last);
        is_reached = 32'(block) * GROUPS + j <= 32'(last);
    endfunction

    // ---- 1, 2: logits; then they are stored, and the maximum is found, one comparison a cycle
    logic signed [SCORE_BITS-1:0] coarse [GROUPS];
    logic [GROUPS*SCORE_BITS-1:0] logits;
    logic signed [SCORE_BITS-1:0] larger [GW+1][GROUPS];
    logic [GW+2:1]                valid, odd, first, last;
    logic [BW-1:0]                index [1:2];
    logic signed [SCORE_BITS-1:0] maximum [2];
    logic [1:0]                   known, known_taken;
    always_comb begin
        for (int j = 0; j < GROUPS; j++)
            larger[0][j] = is_reached(index[2], j, position) ? $signed(logits[SCORE_BITS*j +: SCORE_BITS]) : LEAST;
    end
    always_ff @(posedge clk) begin
        for (int j = 0; j < GROUPS; j++) begin
            coarse[j] <= $signed(scores[SCORE_BITS*j +: SCORE_BITS]) >>> {shift[3:2], 2'b0};
            logits[SCORE_BITS*j +: SCORE_BITS] <= SCORE_BITS'(((SCORE_BITS+1)'(coarse[j] >>> shift[1:0]) + (SCORE_BITS+1)'(1)) >>> 1);
        end
        for (int k = 0; k < GW; k++)
            for (int j = 0; j < GROUPS >> (k + 1); j++)
                larger[k+1][j] <= larger[k][2*j] > larger[k][2*j+1] ? larger[k][2*j] : larger[k][2*j+1];
        valid <= rst ? '0 : {valid[GW+1:1], s_valid};
        odd   <= {odd[GW+1:1], s_odd};
        first <= {first[GW+1:1], s_first};
        last  <= {last[GW+1:1], s_last};
        index[1] <= s_index;
        index[2] <= index[1];
        if (valid[GW+2] && (first[GW+2] || larger[GW][0] > maximum[odd[GW+2]])) maximum[odd[GW+2]] <= larger[GW][0];
        known <= rst ? '0 : (known & ~known_taken) | (2'(valid[GW+2] && last[GW+2]) << odd[GW+2]);
    end

    // ---- a head is weighed, block by block
    logic            running, parity;
    logic [BW-1:0]   block;
    logic            dividing;
    logic [NW-1:0]   left;
    logic            go;
    logic [GROUPS*SCORE_BITS-1:0] kept;
    logic signed [SCORE_BITS-1:0] top;
    logic [BW-1:0]   last_block;
    // six cycles or more pass from here to the sum: a division may still be at its end
    assign go = !running && !(|busy) && !load && known[parity] && (!dividing || left < NW'(5));
    assign known_taken = go ? 2'b01 << parity : 2'b00;
    assign last_block = BW'(32'(position) / GROUPS);
    logic [4:1]      busy, ending;
    logic [BW-1:0]   at [1:2];
    always_ff @(posedge clk) begin
        if (go) begin
            running <= 1'b1;
            top     <= maximum[parity];
            block   <= '0;
        end else if (running) begin
            block   <= block + 1'b1;
            running <= block != last_block;
        end
        if (restart) parity <= 1'b0;
        else if (ending[4]) parity <= !parity;
        busy   <= {busy[3:1], running};
        ending <= {ending[3:1], running && block == last_block};
        at[1]  <= block;
        at[2]  <= at[1];
        if (rst) {running, busy, ending, parity} <= '0;
    end
    if (2 * BLOCKS <= 64) begin : distributed
        (* ram_style = "distributed" *) logic [GROUPS*SCORE_BITS-1:0] memory [2*BLOCKS];
        always_ff @(posedge clk) begin
            if (valid[2]) memory[32'(odd[2])*BLOCKS + 32'(index[2])] <= logits;
            kept <= memory[32'(parity)*BLOCKS + 32'(block)];
        end
    end else begin : block_ram
        (* ram_style = "block", no_rw_check *) logic [GROUPS*SCORE_BITS-1:0] memory [2*BLOCKS];
        always_ff @(posedge clk) begin
            if (valid[2]) memory[32'(odd[2])*BLOCKS + 32'(index[2])] <= logits;
            kept <= memory[32'(parity)*BLOCKS + 32'(block)];
        end
    end

    // ---- distances, exponentials, their sum
    (* rom_style = "logic", ram_style = "logic" *) logic [7:0] exponential [256];
    initial $readmemh({PREFIX, "exponential"}, exponential);
    logic [7:0]      distance [GROUPS];
    logic [GROUPS-1:0] reached;
    logic [8+GW-1:0] part, sum_of;
    logic [ZB-1:0]   z;
    logic            begun;
    always_comb begin
        sum_of = '0;
        for (int j = 0; j < GROUPS; j++) sum_of = sum_of + (8+GW)'(e_values[8*j +: 8]);
    end
    always_ff @(posedge clk) begin
        for (int j = 0; j < GROUPS; j++) begin
            automatic logic signed [SCORE_BITS:0] d = (SCORE_BITS+1)'(top) - (SCORE_BITS+1)'($signed(kept[SCORE_BITS*j +: SCORE_BITS]));
            distance[j] <= |d[SCORE_BITS:8] ? 8'd255 : d[7:0];
            reached[j]  <= is_reached(at[1], j, position);
            e_values[8*j +: 8] <= reached[j] ? exponential[distance[j]] : 8'd0;
        end
        e_write <= busy[2] && !rst;
        e_lane  <= LW'(32'(at[2]) * GROUPS);
        e_slot  <= EW'(32'(parity) * CHUNKS + 32'(at[2]) * GROUPS / LANES);
        part    <= sum_of;
        begun   <= busy[4];
        if (busy[4]) z <= begun ? z + ZB'(part) : ZB'(part);
    end

    // ---- numerator / z, three bits a cycle, the highest first
    logic                            load, for_odd;
    logic [3*STEPS-1:0]              quotient, quotient_next;
    logic [ZB-1:0]                   remainder, remainder_next;
    always_comb begin
        remainder_next = remainder;
        quotient_next  = quotient;
        for (int i = 0; i < 3; i++) begin
            automatic logic [ZB:0] r = {remainder_next, quotient_next[3*STEPS-1]};
            automatic logic        fits = r >= {1'b0, z_kept};
            remainder_next = ZB'(fits ? r - {1'b0, z_kept} : r);
            quotient_next  = {quotient_next[3*STEPS-2:0], fits};
        end
    end
    logic [ZB-1:0] z_kept;
    always_ff @(posedge clk) begin
        load <= ending[4] && !rst;
        if (load) begin
            z_kept    <= z;
            quotient  <= (3*STEPS)'(numerator);
            remainder <= '0;
            for_odd   <= !parity;                    // it has moved on
            left      <= NW'(STEPS);
        end else if (dividing) begin
            quotient  <= quotient_next;
            remainder <= remainder_next;
            left      <= left - 1'b1;
            if (left == 1) reciprocal[for_odd] <= quotient_next[RECIPROCAL_BITS-1:0];
        end
        dividing  <= !rst && (load || (dividing && left != 1));
        mix_ready <= rst ? '0 : (mix_ready & ~mix_taken) | (2'(dividing && left == NW'(EARLY)) << for_odd);
    end
endmodule
`default_nettype wire
