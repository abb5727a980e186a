// LANES multipliers with their memories: weights, the cache of keys and values with the head behind it, and activations.
//
// A word of weights or of the head meets a slot of activations, a word of keys (LANES / HEAD_DIM positions) the query of a
// head, a word of values (LANES positions of one element) the exponentials. Read in two cycles, an operand register, the
// product, a tree with the sums over HEAD_DIM lanes on its way (`scores`, cycle SCORES behind the address), and an
// accumulator (cycle SUM). The memory of weights is read in execution order; nothing here waits.
`default_nettype none
module ge_decoder_lanes #(
    int unsigned LANES       = 64,
    int unsigned HEAD_DIM    = 8,
    int unsigned HEADS       = 8,
    int unsigned WEIGHT_BITS = 4,
    int unsigned WEIGHT_ROWS = 4096,
    int unsigned CACHE_ROWS  = 2048,
    int unsigned SLOTS       = 4,      // of LANES activations
    int unsigned E_SLOTS     = 8,      // of LANES exponentials
    int unsigned PE          = 4,      // activations of a norm that arrive at once
    int unsigned ACC_BITS    = 26,
    parameter    PREFIX      = "",
    localparam int unsigned GROUPS = LANES / HEAD_DIM,
    localparam int unsigned SW = 17 + $clog2(HEAD_DIM),
    localparam int unsigned WW = $clog2(WEIGHT_ROWS > 1 ? WEIGHT_ROWS : 2),
    localparam int unsigned CW = $clog2(CACHE_ROWS),
    localparam int unsigned AW = $clog2(SLOTS > 1 ? SLOTS : 2),
    localparam int unsigned EW = $clog2(E_SLOTS),
    localparam int unsigned HW = $clog2(HEADS > 1 ? HEADS : 2),
    localparam int unsigned LW = $clog2(LANES)
) (
    input  logic                       clk,
    input  logic                       rst,
    input  logic [WW-1:0]              weight_address,
    input  logic [CW-1:0]              cache_address,
    input  logic [AW-1:0]              slot,
    input  logic [EW-1:0]              e_slot,
    input  logic [HW-1:0]              query_head,
    input  logic                       use_cache, use_query, use_e,
    input  logic                       tail,            // of the exponentials, only lanes up to last_lane count
    input  logic [LW-1:0]              last_lane,
    input  logic                       first,           // one cycle before the sum: it begins anew
    output logic [GROUPS*SW-1:0]       scores,
    output logic signed [ACC_BITS-1:0] sum,
    // activations: PE at once from lane write_lane on, or one
    input  logic                       write_several, write_one,
    input  logic [LW-1:0]              write_lane,
    input  logic [AW-1:0]              write_slot,
    input  logic [PE*8-1:0]            write_values,
    // exponentials: GROUPS at once
    input  logic                       e_write,
    input  logic [LW-1:0]              e_write_lane,
    input  logic [EW-1:0]              e_write_slot,
    input  logic [GROUPS*8-1:0]        e_values,
    // queries and keys in pairs, values alone
    input  logic                       query_write, key_write, value_write,
    input  logic [LW-1:0]              pair_lane,       // of a query: the element
    input  logic [HW-1:0]              query_write_head,
    input  logic [CW-1:0]              cache_write_address,
    input  logic [15:0]                pair
);
    if (LANES != (1 << LW) || LANES < HEAD_DIM) $fatal(1, "ge_decoder_lanes: LANES=%0d must be a power of two of at least HEAD_DIM=%0d", LANES, HEAD_DIM);
    if (HEAD_DIM < 2 || HEAD_DIM != (1 << $clog2(HEAD_DIM))) $fatal(1, "ge_decoder_lanes: HEAD_DIM=%0d must be a power of two of at least 2", HEAD_DIM);
    if (WEIGHT_BITS < 2 || WEIGHT_BITS > 8) $fatal(1, "ge_decoder_lanes: WEIGHT_BITS=%0d must be 2 to 8", WEIGHT_BITS);
    localparam int unsigned PAIRS = HEAD_DIM / 2;

    // ---- cycle 2: what was read
    logic [LANES*WEIGHT_BITS-1:0] weights;
    ge_decoder_rom #(.DEPTH(WEIGHT_ROWS), .WIDTH(LANES*WEIGHT_BITS), .BANK(2048), .FILE({PREFIX, "weights"})) weight_memory (
        .clk, .address(weight_address), .word(weights));

    // Written words are read many cycles later: the sequencer waits for what is on its way. The head, which nothing writes
    // again, lies here too: no register may write before the reset, whatever it wakes up with.
    (* ram_style = "block", no_rw_check *) logic [LANES*8-1:0] cache [CACHE_ROWS];
    initial $readmemh({PREFIX, "cache"}, cache);
    logic [LANES*8-1:0] cache_read, cached, cache_data;
    logic [LANES-1:0]   cache_enable = '0;
    logic [CW-1:0]      cache_row;
    always_ff @(posedge clk) begin
        cache_read <= cache[cache_address];
        cached     <= cache_read;
        for (int g = 0; g < LANES; g++) begin
            cache_enable[g] <= !rst && ((key_write && pair_lane[LW-1:1] == (LW-1)'(g/2)) || (value_write && pair_lane == LW'(g)));
            cache_data[8*g +: 8] <= value_write || g%2 == 0 ? pair[7:0] : pair[15:8];
            if (cache_enable[g]) cache[cache_row][8*g +: 8] <= cache_data[8*g +: 8];
        end
        cache_row <= cache_write_address;
    end

    logic [AW-1:0]       slot_1;
    logic [EW-1:0]       e_slot_1;
    logic [HW-1:0]       head_1;
    logic [2:0]          from_cache, from_query, from_e, in_tail;     // by cycle, as they go along
    logic [HEAD_DIM*8-1:0] query;
    for (genvar i = 0; i < PAIRS; i++) begin : of_query
        logic [15:0] memory [HEADS];
        always_ff @(posedge clk) begin
            query[16*i +: 16] <= memory[head_1];
            if (query_write && int'(pair_lane[LW-1:1]) % PAIRS == i) memory[query_write_head] <= pair;
        end
    end
    always_ff @(posedge clk) begin
        slot_1     <= slot;
        e_slot_1   <= e_slot;
        head_1     <= query_head;
        from_cache <= {from_cache[1:0], use_cache};
        from_query <= {from_query[1:0], use_query};
        from_e     <= {from_e[1:0], use_e};
        in_tail    <= {in_tail[1:0], tail};
    end

    // ---- cycle 3 the operands, 4 the products
    logic [LANES*17-1:0] products;
    logic [AW-1:0]       write_slot_1;
    logic [EW-1:0]       e_write_slot_1;
    logic [PE*8-1:0]     write_values_1;
    logic [GROUPS*8-1:0] e_values_1;
    logic                several_1;
    always_ff @(posedge clk) begin
        write_slot_1   <= write_slot;
        e_write_slot_1 <= e_write_slot;
        write_values_1 <= write_values;
        e_values_1     <= e_values;
        several_1      <= write_several;
    end
    for (genvar g = 0; g < LANES; g++) begin : lane
        logic [7:0] activations [SLOTS];
        logic [7:0] exponentials [E_SLOTS];
        logic       enable, e_enable, reached;
        logic [7:0] activation, exponential;
        logic signed [8:0]  a;
        logic signed [7:0]  b;
        logic signed [16:0] product;
        always_ff @(posedge clk) begin
            enable      <= write_several ? int'(write_lane) / PE == g / PE : write_one && write_lane == LW'(g);
            e_enable    <= e_write && int'(e_write_lane) / GROUPS == g / GROUPS;
            reached     <= LW'(g) <= last_lane;
            activation  <= activations[slot_1];
            exponential <= exponentials[e_slot_1];
            if (enable) activations[write_slot_1] <= write_values_1[several_1 ? 8*(g%PE) : 0 +: 8];
            if (e_enable) exponentials[e_write_slot_1] <= e_values_1[8*(g%GROUPS) +: 8];
            if (from_e[1]) a <= in_tail[1] && !reached ? '0 : {1'b0, exponential};
            else if (from_query[1]) a <= 9'($signed(query[8*(g%HEAD_DIM) +: 8]));
            else a <= 9'($signed(activation));
            b <= from_cache[1] ? cached[8*g +: 8] : 8'($signed(weights[WEIGHT_BITS*g +: WEIGHT_BITS]));
            product <= a * b;
        end
        assign products[17*g +: 17] = product;
    end

    // ---- sums
    logic signed [SW+$clog2(GROUPS)-1:0] total;
    for (genvar j = 0; j < GROUPS; j++) begin : score
        ge_decoder_tree #(.N(HEAD_DIM), .WIDTH(17)) of_head (.clk, .x(products[17*HEAD_DIM*j +: 17*HEAD_DIM]), .sum(scores[SW*j +: SW]));
    end
    ge_decoder_tree #(.N(GROUPS), .WIDTH(SW)) of_all (.clk, .x(scores), .sum(total));
    always_ff @(posedge clk) sum <= first ? ACC_BITS'(total) : sum + ACC_BITS'(total);
endmodule
`default_nettype wire
