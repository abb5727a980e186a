// A llama-shaped decoder in integers (greenedge/decoder/record.py with norm_form "table"): one token at a time, everything in
// block RAM. LANES multipliers are shared by all matrices and by attention; weights lie in execution order.
//
// Protocol. While `ready` is high, `start` takes `token` at position `at`; `ready` falls until `done`, which is high for one
// cycle. Keys and values of the positions below must be there: every position once, from 0 on; to take one again, or to go
// back, is no harm, and gives the same. `sample` says whether the token behind it is wanted: then `next` is valid with `done`
// and until the next start; without (the prompt but for its last token) the head is left out. `unit` is temperature_unit * 256
// // temperature, or 0 for the largest logit, held from start to done; `state` is that of xorshift32 before it advances for
// this token (greenedge.decoder.sampling). `cycles` counts from start to done. `watch_…` show what is written: the residual
// (all of it between two watch_layer), and the logits; they cost nothing where nothing is connected.
`default_nettype none
module ge_decoder
    import ge_decoder_pkg::*;
#(
    int unsigned LANES       = 64,
    int unsigned VOCABULARY  = 512,
    int unsigned DIM         = 64,
    int unsigned HEADS       = 8,
    int unsigned KV_HEADS    = 4,
    int unsigned HIDDEN      = 172,
    int unsigned LAYERS      = 5,
    int unsigned CONTEXT     = 256,
    int unsigned WEIGHT_BITS = 4,
    int unsigned RESIDUAL_SHIFT  = 4,
    int unsigned RECIPROCAL_BITS = 23,
    parameter    PREFIX      = "",
    localparam int unsigned VW = $clog2(VOCABULARY),
    localparam int unsigned TW = $clog2(CONTEXT > 1 ? CONTEXT : 2),
    localparam int unsigned XW = $clog2(DIM),
    localparam int unsigned ACC_BITS = 17 + $clog2(DIM > CONTEXT ? (DIM > HIDDEN ? DIM : HIDDEN) : CONTEXT > HIDDEN ? CONTEXT : HIDDEN)
) (
    input  logic                clk,
    input  logic                rst,
    output logic                ready,
    input  logic                start,
    input  logic [VW-1:0]       token,
    input  logic [TW-1:0]       at,
    input  logic                sample,
    input  logic [31:0]         unit,
    input  logic [31:0]         state,
    output logic                done,
    output logic [VW-1:0]       next,
    output logic [31:0]         cycles,
    output logic                watch_x,
    output logic [XW-1:0]       watch_x_index,
    output logic signed [15:0]  watch_x_value,
    output logic                watch_layer,
    output logic                watch_logit,
    output logic [VW-1:0]       watch_logit_index,
    output logic signed [ACC_BITS-1:0] watch_logit_value
);
    localparam int unsigned HEAD_DIM = DIM / HEADS, GROUPS = LANES / HEAD_DIM, NARROW = KV_HEADS * HEAD_DIM;
    localparam int unsigned PE       = HEAD_DIM < 4 ? HEAD_DIM : 4;
    if (DIM != HEADS * HEAD_DIM) $fatal(1, "ge_decoder: HEADS=%0d must divide DIM=%0d", HEADS, DIM);
    if (HEADS % KV_HEADS != 0) $fatal(1, "ge_decoder: KV_HEADS=%0d must divide HEADS=%0d", KV_HEADS, HEADS);
    if (HEAD_DIM < 2 || HEAD_DIM != (1 << $clog2(HEAD_DIM))) $fatal(1, "ge_decoder: DIM / HEADS = %0d must be a power of two of at least 2", HEAD_DIM);
    if (LANES < 4 || LANES != (1 << $clog2(LANES)) || LANES < HEAD_DIM) $fatal(1, "ge_decoder: LANES=%0d must be a power of two, at least 4 and DIM / HEADS = %0d", LANES, HEAD_DIM);

    // ---- where things lie
    localparam int unsigned X_CHUNKS = (DIM + LANES - 1) / LANES, Z_CHUNKS = (HIDDEN + LANES - 1) / LANES;
    localparam int unsigned K_WORDS  = (CONTEXT + GROUPS - 1) / GROUPS, V_WORDS = (CONTEXT + LANES - 1) / LANES;
    localparam int unsigned V_BASE   = LAYERS * KV_HEADS * K_WORDS, HEAD_BASE = V_BASE + LAYERS * NARROW * V_WORDS;
    localparam int unsigned CACHE_ROWS  = HEAD_BASE + VOCABULARY * X_CHUNKS;
    localparam int unsigned ROWS        = 2*DIM + 2*NARROW + 2*HIDDEN + DIM;       // with a multiplier, of a layer
    localparam int unsigned WEIGHT_ROWS = LAYERS * ((2*DIM + 2*NARROW + 2*HIDDEN) * X_CHUNKS + DIM * Z_CHUNKS);
    localparam int unsigned SLOTS = X_CHUNKS + Z_CHUNKS, E_SLOTS = 2 * V_WORDS;
    localparam int unsigned LONGEST = VOCABULARY > 2*HIDDEN ? VOCABULARY : 2*HIDDEN;
    localparam int unsigned LONGER  = LONGEST > 2*DIM ? LONGEST : 2*DIM;
    localparam int unsigned IW = $clog2(LONGER > K_WORDS ? LONGER : K_WORDS);
    localparam int unsigned WW = $clog2(WEIGHT_ROWS > 1 ? WEIGHT_ROWS : 2), CW = $clog2(CACHE_ROWS), MW = $clog2(LAYERS * ROWS);
    localparam int unsigned AW = $clog2(SLOTS), EW = $clog2(E_SLOTS), HW = $clog2(HEADS > 1 ? HEADS : 2), LW = $clog2(LANES);
    localparam int unsigned LYW = $clog2(LAYERS + 1), DW = $clog2(HEAD_DIM), BW = $clog2(K_WORDS > 1 ? K_WORDS : 2);
    localparam int unsigned CHW = $clog2((X_CHUNKS > Z_CHUNKS ? X_CHUNKS : Z_CHUNKS) > V_WORDS ? (X_CHUNKS > Z_CHUNKS ? X_CHUNKS : Z_CHUNKS) + 1 : V_WORDS + 1);
    localparam int unsigned SW = 17 + DW;
    localparam int unsigned WIDEST = DIM > HIDDEN ? DIM : HIDDEN;
    localparam int unsigned PROJECTION_BITS = 7 + WEIGHT_BITS + $clog2(WIDEST);     // |sum| < 2^7 * 2^(WEIGHT_BITS-1) * WIDEST
    // ---- cycles behind the issue register
    localparam int unsigned SCORES = 4 + (DW + 2) / 3, SUM = SCORES + ($clog2(GROUPS) + 2) / 3 + 1;
    localparam int unsigned SCALED = SUM + 5, ROTATED = SCALED + 6;
    // waits, counted from the last issue, until what it wrote can be read again; see `age`
    localparam int unsigned WAIT_CACHE = ROTATED, WAIT_RESIDUAL = SCALED + 3, WAIT_GATE = SCALED + 4, WAIT_MIX = SUM + 3, WAIT_HEAD = SUM;

    typedef enum logic [2:0] {IDLE, EMBED, NORM, MULTIPLY, ATTEND, DRAIN, DRAW} state_t;
    state_t          phase;
    kind_t           kind;
    logic [LYW-1:0]  layer;
    logic [IW-1:0]   row, last_row;
    logic [CHW-1:0]  chunk, last_chunk;
    logic [XW:0]     element;
    logic [5:0]      age, age_qk, age_v;                         // cycles since anything, a query or key, a value was issued
    logic [WW-1:0]   weight_at;
    logic [CW-1:0]   head_at, key_base, value_base, key_at, value_at, value_row;
    logic [HW:0]     scored, mixed;                              // heads whose passes are issued
    logic [HW-1:0]   score_share, mix_share;                     // heads of the same keys so far
    logic            burst, mixing, wanted;
    logic [TW-1:0]   t;
    logic [BW-1:0]   last_block;
    logic [CHW-1:0]  t_chunk;

    (* rom_style = "logic", ram_style = "logic" *) logic [$bits(layer_t)-1:0] layer_memory [LAYERS + 1];
    initial $readmemh({PREFIX, "layers"}, layer_memory);
    layer_t constants;
    always_ff @(posedge clk) constants <= layer_memory[layer];

    // ---- issue: one word of weights or of the cache a cycle
    typedef struct packed {
        logic          valid;
        kind_t         kind;
        logic [IW-1:0] index;
        logic          first, last;
    } tag_t;
    tag_t            issue;
    tag_t            tags [0:SUM];
    logic [WW-1:0]   weight_address;
    logic [CW-1:0]   cache_address, cache_next;
    logic [AW-1:0]   slot;
    logic [EW-1:0]   e_slot;
    logic [HW-1:0]   query_head;
    logic            use_cache, use_query, use_e, tail;
    always_comb begin
        case (kind)
            KEY, VALUE: last_row = IW'(NARROW - 1);
            GATE_UP:    last_row = IW'(2*HIDDEN - 1);
            HEAD:       last_row = IW'(VOCABULARY - 1);
            default:    last_row = IW'(DIM - 1);
        endcase
        last_chunk = kind == DOWN ? CHW'(Z_CHUNKS - 1) : CHW'(X_CHUNKS - 1);
        issue = '{valid: 1'b0, kind: kind, index: row, first: chunk == '0, last: chunk == last_chunk};
        cache_next = head_at;
        if (phase == MULTIPLY) issue.valid = 1'b1;
        if (phase == ATTEND) begin
            issue.valid = burst;
            issue.kind  = mixing ? MIX : SCORE;
            issue.first = mixing ? chunk == '0 : row == '0;
            issue.last  = mixing ? chunk == t_chunk : row[BW-1:0] == last_block;
            if (mixing) issue.index = IW'({mixed[HW-1:0], row[DW-1:0]});
            cache_next = mixing ? value_row + CW'(chunk) : key_at + CW'(row);
        end
    end
    always_ff @(posedge clk) begin
        tags[0]        <= issue;
        for (int s = 1; s <= SUM; s++) tags[s] <= tags[s-1];
        weight_address <= weight_at;
        cache_address  <= cache_next;
        slot           <= kind == DOWN ? AW'(X_CHUNKS + 32'(chunk)) : AW'(chunk);
        e_slot         <= EW'((mixed[0] ? V_WORDS : 0) + 32'(chunk));
        query_head     <= scored[HW-1:0];
        use_cache      <= issue.kind == HEAD || issue.kind == SCORE || issue.kind == MIX;
        use_query      <= issue.kind == SCORE;
        use_e          <= issue.kind == MIX;
        tail           <= chunk == t_chunk;
        if (rst) for (int s = 0; s <= SUM; s++) tags[s].valid <= 1'b0;
    end

    // ---- the sequencer
    logic       norm_start, norm_ready, draw, drawn, age_enough, restart;
    logic [1:0] mix_ready, mix_taken;
    logic [5:0] wait_for;
    logic       score_now, mix_now;
    always_comb begin
        case (kind)
            OUTPUT, DOWN: wait_for = 6'(WAIT_RESIDUAL);
            GATE_UP:      wait_for = 6'(WAIT_GATE);
            MIX:          wait_for = 6'(WAIT_MIX);
            default:      wait_for = 6'(WAIT_HEAD);
        endcase
    end
    assign age_enough = age >= wait_for;
    assign score_now  = scored != (HW+1)'(HEADS) && scored <= mixed + 1'b1 && age_qk >= 6'(WAIT_CACHE);
    assign mix_now    = !score_now && mixed != scored && mix_ready[mixed[0]] && age_v >= 6'(WAIT_CACHE);
    assign mix_taken  = phase == ATTEND && !burst && mix_now ? 2'b01 << mixed[0] : 2'b00;
    assign last_block = BW'(32'(t) / GROUPS);
    assign t_chunk    = CHW'(32'(t) / LANES);
    assign ready      = phase == IDLE && !done && !rst;

    function automatic logic [5:0] grow(input logic [5:0] a, input logic again);
        grow = again ? '0 : &a ? a : a + 1'b1;
    endfunction

    always_ff @(posedge clk) begin
        done        <= 1'b0;
        watch_layer <= 1'b0;
        norm_start  <= 1'b0;
        draw        <= 1'b0;
        restart     <= 1'b0;
        age    <= grow(age, issue.valid || phase == EMBED);
        age_qk <= grow(age_qk, issue.valid && (issue.kind == QUERY || issue.kind == KEY));
        age_v  <= grow(age_v, issue.valid && issue.kind == VALUE);
        if (phase != IDLE) cycles <= cycles + 1'b1;
        case (phase)
            IDLE: if (start && ready) begin
                phase      <= EMBED;
                kind       <= DOWN;                              // what a norm in front of the first layer waits as
                layer      <= '0;
                element    <= '0;
                weight_at  <= '0;
                head_at    <= CW'(HEAD_BASE);
                key_base   <= '0;
                value_base <= CW'(V_BASE);
                wanted     <= sample;
                t          <= at;
                cycles     <= 32'd1;
            end
            EMBED: begin
                element <= element + 1'b1;
                if (element == (XW+1)'(DIM - 1)) begin
                    phase   <= DRAIN;
                    element <= '1;                               // the embedding is not a layer's end
                end
            end
            NORM: if (norm_ready) begin
                phase <= MULTIPLY;
                row   <= '0;
                chunk <= '0;
            end
            MULTIPLY: begin
                if (kind == HEAD) head_at <= head_at + 1'b1;
                else weight_at <= weight_at + 1'b1;
                chunk <= issue.last ? '0 : chunk + 1'b1;
                if (issue.last) row <= row + 1'b1;
                if (issue.last && row == last_row) begin
                    row <= '0;
                    case (kind)
                        QUERY:   kind <= KEY;
                        KEY:     kind <= VALUE;
                        VALUE:   phase <= ATTEND;
                        default: phase <= DRAIN;
                    endcase
                    if (kind == VALUE) begin
                        {scored, mixed, score_share, mix_share, burst} <= '0;
                        key_at   <= key_base;
                        value_at <= value_base;
                        restart  <= 1'b1;
                    end
                end
            end
            ATTEND: if (!burst) begin
                row       <= '0;
                chunk     <= '0;
                mixing    <= !score_now;
                value_row <= value_at;
                burst     <= score_now || mix_now;
                if (mixed == (HW+1)'(HEADS)) begin
                    phase      <= DRAIN;
                    kind       <= MIX;
                    key_base   <= key_base + CW'(KV_HEADS * K_WORDS);
                    value_base <= value_base + CW'(NARROW * V_WORDS);
                end
            end else if (!mixing) begin
                row <= row + 1'b1;
                if (issue.last) begin
                    burst  <= 1'b0;
                    scored <= scored + 1'b1;
                    score_share <= score_share == HW'(HEADS / KV_HEADS - 1) ? '0 : score_share + 1'b1;
                    if (score_share == HW'(HEADS / KV_HEADS - 1)) key_at <= key_at + CW'(K_WORDS);
                end
            end else begin
                chunk <= issue.last ? '0 : chunk + 1'b1;
                if (issue.last) begin
                    row       <= row + 1'b1;
                    value_row <= value_row + CW'(V_WORDS);
                    if (row == IW'(HEAD_DIM - 1)) begin
                        burst <= 1'b0;
                        mixed <= mixed + 1'b1;
                        mix_share <= mix_share == HW'(HEADS / KV_HEADS - 1) ? '0 : mix_share + 1'b1;
                        if (mix_share == HW'(HEADS / KV_HEADS - 1)) value_at <= value_at + CW'(HEAD_DIM * V_WORDS);
                    end
                end
            end
            DRAIN: if (age_enough) begin
                row   <= '0;
                chunk <= '0;
                case (kind)
                    MIX: begin
                        kind  <= OUTPUT;
                        phase <= MULTIPLY;
                    end
                    GATE_UP: begin
                        kind  <= DOWN;
                        phase <= MULTIPLY;
                    end
                    OUTPUT: begin
                        kind       <= GATE_UP;
                        phase      <= NORM;
                        norm_start <= 1'b1;
                    end
                    HEAD: begin
                        phase <= DRAW;
                        draw  <= 1'b1;
                    end
                    default: begin                               // DOWN, or the embedding
                        element     <= '0;
                        watch_layer <= element == '0;
                        if (element == '0) layer <= layer + 1'b1;
                        if (element == '0 && layer == LYW'(LAYERS - 1) && !wanted) begin
                            phase    <= IDLE;
                            done     <= 1'b1;
                                        end else begin
                            kind       <= element == '0 && layer == LYW'(LAYERS - 1) ? HEAD : QUERY;
                            phase      <= NORM;
                            norm_start <= 1'b1;
                        end
                    end
                endcase
            end
            DRAW: if (drawn) begin
                phase    <= IDLE;
                done     <= 1'b1;
                next     <= choice;
                end
            default: phase <= IDLE;
        endcase
        if (rst) begin
            phase    <= IDLE;
            kind     <= QUERY;
            cycles   <= '0;
            {burst, norm_start, draw, done} <= '0;
            {age, age_qk, age_v} <= '0;
        end
    end

    // ---- the embedding: three cycles from the token to the residual
    localparam int unsigned EMBED_WORDS = VOCABULARY * DIM;
    logic [$clog2(EMBED_WORDS)-1:0] embed_base, embed_address;
    logic [7:0]                     embedded;
    logic [3:0]                     embed;
    logic [XW-1:0]                  embed_index [0:3];
    ge_decoder_rom #(.DEPTH(EMBED_WORDS), .WIDTH(8), .BANK(16384), .FILE({PREFIX, "embedding"})) embeddings (
        .clk, .address(embed_address), .word(embedded));
    always_ff @(posedge clk) begin
        if (start && ready) embed_base <= $clog2(EMBED_WORDS)'(32'(token) * DIM);
        embed_address  <= embed_base + $clog2(EMBED_WORDS)'(element);
        embed          <= rst ? '0 : {embed[2:0], phase == EMBED};
        embed_index[0] <= element[XW-1:0];
        for (int s = 1; s <= 3; s++) embed_index[s] <= embed_index[s-1];
    end

    // ---- lanes
    logic [GROUPS*SW-1:0]       scores;
    logic signed [ACC_BITS-1:0] sum;
    logic                       write_several, write_one, e_write, query_write, key_write, value_write;
    logic [LW-1:0]              write_lane, e_lane, pair_lane;
    logic [AW-1:0]              write_slot;
    logic [EW-1:0]              e_write_slot;
    logic [PE*8-1:0]            write_values;
    logic [GROUPS*8-1:0]        e_values;
    logic [CW-1:0]              cache_write_address;
    logic [15:0]                pair;
    logic [IW-1:0]              pair_index;
    ge_decoder_lanes #(
        .LANES(LANES), .HEAD_DIM(HEAD_DIM), .HEADS(HEADS), .WEIGHT_BITS(WEIGHT_BITS), .WEIGHT_ROWS(WEIGHT_ROWS),
        .CACHE_ROWS(CACHE_ROWS), .SLOTS(SLOTS), .E_SLOTS(E_SLOTS), .PE(PE), .ACC_BITS(ACC_BITS), .PREFIX(PREFIX)
    ) lanes (
        .clk, .rst, .weight_address, .cache_address, .slot, .e_slot, .query_head, .use_cache, .use_query, .use_e, .tail,
        .last_lane(LW'(t)), .first(tags[SUM-1].first || tags[SUM-1].kind == SCORE), .scores, .sum,
        .write_several, .write_one, .write_lane, .write_slot, .write_values,
        .e_write, .e_write_lane(e_lane), .e_write_slot, .e_values,
        .query_write, .key_write, .value_write, .pair_lane, .query_write_head(HW'(pair_index >> DW)), .cache_write_address, .pair);

    // ---- projections: the multiplier of a row comes with its sum
    tag_t                row_tag;
    logic [MW-1:0]       multiplier_at;
    logic signed [17:0]  multiplier;
    logic [4:0]          shift;
    logic [15:0]         limit;
    logic signed [16:0]  y;
    tag_t                scaled [1:5];
    logic                count_row;
    assign row_tag   = tags[SUM-2];
    assign count_row = row_tag.valid && row_tag.last && row_tag.kind <= DOWN;
    ge_decoder_rom #(.DEPTH(LAYERS*ROWS), .WIDTH(18), .BANK(1024), .FILE({PREFIX, "multipliers"})) multipliers (
        .clk, .address(multiplier_at), .word(multiplier));
    always_ff @(posedge clk) begin
        if (phase == IDLE) multiplier_at <= '0;
        else if (count_row) multiplier_at <= multiplier_at + 1'b1;
        case (tags[SUM-1].kind)
            QUERY:   shift <= constants.query;
            KEY:     shift <= constants.key;
            VALUE:   shift <= constants.value;
            OUTPUT:  shift <= constants.output_;
            DOWN:    shift <= constants.down;
            default: shift <= tags[SUM-1].index[0] ? constants.up : constants.gate;
        endcase
        scaled[1] <= tags[SUM];
        if (!(tags[SUM].last && tags[SUM].kind <= DOWN) || rst) scaled[1].valid <= 1'b0;
        for (int s = 2; s <= 5; s++) scaled[s] <= scaled[s-1];
        if (rst) for (int s = 2; s <= 5; s++) scaled[s].valid <= 1'b0;
    end
    always_comb begin
        case (scaled[4].kind)
            QUERY, KEY:   limit = 16'd2047;
            OUTPUT, DOWN: limit = 16'hffff;
            default:      limit = 16'd127;
        endcase
    end
    ge_decoder_requantise #(.X_BITS(PROJECTION_BITS), .M_BITS(18)) requantise (
        .clk, .x(sum[PROJECTION_BITS-1:0]), .multiplier, .shift, .limit, .y);

    // ---- queries, keys, values
    logic [IW-1:0] kv_head;
    ge_decoder_rotate #(.CONTEXT(CONTEXT), .HEAD_DIM(HEAD_DIM), .INDEX(IW), .PREFIX(PREFIX)) rotate (
        .clk, .rst, .position(t), .s_query(scaled[5].valid && scaled[5].kind == QUERY),
        .s_key(scaled[5].valid && scaled[5].kind == KEY), .s_value(scaled[5].valid && scaled[5].kind == VALUE),
        .s_index(scaled[5].index), .s_data(y[11:0]),
        .m_query(query_write), .m_key(key_write), .m_value(value_write), .m_index(pair_index), .m_pair(pair));
    assign kv_head = pair_index >> DW;
    always_comb begin
        if (value_write) begin
            pair_lane = LW'(t);
            cache_write_address = value_base + CW'(32'(pair_index) * V_WORDS) + CW'(t_chunk);
        end else begin
            pair_lane = LW'((query_write ? 0 : 32'(t) % GROUPS * HEAD_DIM) + 32'(pair_index) % HEAD_DIM);
            cache_write_address = key_base + CW'(32'(kv_head) * K_WORDS) + CW'(last_block);
        end
    end

    // ---- attention
    logic [RECIPROCAL_BITS-1:0] reciprocal [2];
    ge_decoder_weigh #(
        .CONTEXT(CONTEXT), .GROUPS(GROUPS), .LANES(LANES), .SCORE_BITS(SW), .RECIPROCAL_BITS(RECIPROCAL_BITS), .MIX_CYCLES(SUM + 1), .PREFIX(PREFIX)
    ) weigh (
        .clk, .rst, .restart, .position(t), .shift(constants.logit_shift), .numerator(constants.context_numerator),
        .s_valid(tags[SCORES].valid && tags[SCORES].kind == SCORE), .s_odd(odd[SCORES]), .s_first(tags[SCORES].first),
        .s_last(tags[SCORES].last), .s_index(tags[SCORES].index[BW-1:0]), .scores,
        .e_write, .e_lane, .e_slot(e_write_slot), .e_values, .mix_ready, .mix_taken, .reciprocal);
    logic [SCORES:0] odd;                                          // of the head whose scores pass
    always_ff @(posedge clk) odd <= {odd[SCORES-1:0], scored[0]};

    localparam int unsigned MIX_BITS = 17 + $clog2(CONTEXT), NB = MIX_BITS + RECIPROCAL_BITS;
    logic signed [NB-1:0] mix_product, mix_rounded;
    logic [4:1]           mix_valid;
    logic [XW-1:0]        mix_index [1:4];
    logic [7:0]           mix_level;
    ge_decoder_multiply #(.A_BITS(MIX_BITS), .B_BITS(RECIPROCAL_BITS)) mix (
        .clk, .a(sum[MIX_BITS-1:0]), .b(reciprocal[tags[SUM].index[DW]]), .product(mix_product));
    assign mix_rounded = mix_product >>> 27;                       // one bit more than is kept, for the rounding
    always_ff @(posedge clk) begin
        mix_valid    <= rst ? '0 : {mix_valid[3:1], tags[SUM].valid && tags[SUM].last && tags[SUM].kind == MIX};
        mix_index[1] <= tags[SUM].index[XW-1:0];
        for (int s = 2; s <= 4; s++) mix_index[s] <= mix_index[s-1];
        mix_level    <= mix_rounded > 253 ? 8'd127 : mix_rounded < -255 ? 8'h81 : 8'((mix_rounded + 1) >>> 1);
    end

    // ---- the gated product, the residual and its norms
    logic            gated;
    logic [IW-2:0]   gated_index;
    logic [7:0]      gated_level;
    ge_decoder_gate #(.LAYERS(LAYERS), .INDEX(IW), .PREFIX(PREFIX)) gate (
        .clk, .rst, .layer, .multiplier(constants.product_multiplier), .s_valid(scaled[5].valid && scaled[5].kind == GATE_UP),
        .s_index(scaled[5].index), .s_data(y[7:0]), .m_valid(gated), .m_index(gated_index), .m_data(gated_level));

    logic            levels_valid;
    logic [XW-1:0]   levels_index;
    logic [PE*8-1:0] levels;
    ge_decoder_residual #(.DIM(DIM), .PE(PE), .SHIFT(RESIDUAL_SHIFT), .PREFIX(PREFIX)) residual (
        .clk, .rst, .fresh(start && ready), .embed(embed[2]), .add(scaled[5].valid && (scaled[5].kind == OUTPUT || scaled[5].kind == DOWN)),
        .index(embed[2] ? embed_index[2] : scaled[5].index[XW-1:0]), .value(embed[2] ? 17'($signed(embedded)) : y),
        .start(norm_start), .gain(kind == GATE_UP ? constants.mlp_gain : constants.attention_gain),
        .m_valid(levels_valid), .m_index(levels_index), .m_levels(levels), .ready(norm_ready),
        .watch_valid(watch_x), .watch_index(watch_x_index), .watch_value(watch_x_value));
    assign write_several = levels_valid;
    assign write_one     = gated || mix_valid[4];
    always_comb begin
        write_lane   = levels_valid ? LW'(levels_index) : gated ? LW'(gated_index) : LW'(mix_index[4]);
        write_slot   = levels_valid ? AW'(32'(levels_index) / LANES) : gated ? AW'(X_CHUNKS + 32'(gated_index) / LANES) : AW'(32'(mix_index[4]) / LANES);
        write_values = levels_valid ? levels : (PE*8)'(gated ? gated_level : mix_level);
    end

    // ---- logits and the next token
    logic [VW-1:0] choice;
    assign watch_logit       = tags[SUM].valid && tags[SUM].last && tags[SUM].kind == HEAD;
    assign watch_logit_index = tags[SUM].index[VW-1:0];
    assign watch_logit_value = sum;
    ge_decoder_sample #(.VOCABULARY(VOCABULARY), .LOGIT_BITS(15 + $clog2(DIM)), .PREFIX(PREFIX)) sampler (
        .clk, .rst, .load(start && ready), .state, .unit, .s_valid(watch_logit), .s_index(watch_logit_index),
        .s_logit(sum[14 + $clog2(DIM):0]), .draw, .ready(drawn), .token(choice));
endmodule
`default_nettype wire
