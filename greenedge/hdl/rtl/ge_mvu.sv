// Folded matrix-vector unit with its weights in block memory: y[m] = sum over k of W[m][k] * x[k] - C[m].
//
// PE neurons times SIMD inputs per cycle, so K/SIMD * M/PE cycles per vector. One vector is computed while the next one
// is received. Nothing in the pipeline waits: a group of PE neurons is started only when the output buffer has room for
// it, so there is no clock enable and every memory read has its output register.
//
// C[m] = 2**max(W_BITS-2, 0) * (number of negative weights of neuron m) is what ge_product leaves out. The next unit adds it
// within its own bias, where it costs nothing; with CORRECT = 1 this unit adds it itself from CORRECTION_FILE.
//
// Streams: element 0 in the low bits of tdata, tdata padded to whole bytes.
// WEIGHTS_FILE: one hexadecimal word per cycle of a vector, in order; element [pe*SIMD + simd] of the word in cycle
// nf*SF + sf is W[nf*PE + pe][sf*SIMD + simd]. CORRECTION_FILE: word nf holds C of neurons nf*PE ... in OUT_BITS each.
`default_nettype none
module ge_mvu #(
    int unsigned K        = 16,  // inputs
    int unsigned M        = 8,   // neurons
    int unsigned PE       = 2,   // neurons per cycle; divides M
    int unsigned SIMD     = 4,   // inputs per cycle; divides K
    int unsigned W_BITS   = 4,   // weight bits, two's complement; 1: signs
    int unsigned A_BITS   = 4,   // activation bits
    bit          ASGN     = 0,   // activations are signed
    int unsigned OUT_BITS = 16,  // accumulator bits, signed
    bit          CORRECT  = 0,
    parameter    WEIGHTS_FILE = "",
    parameter    CORRECTION_FILE = "",
    localparam int unsigned S_WIDTH = (SIMD*A_BITS + 7) / 8 * 8,
    localparam int unsigned M_WIDTH = (PE*OUT_BITS + 7) / 8 * 8
) (
    input  logic               clk,
    input  logic               rst,
    input  logic [S_WIDTH-1:0] s_tdata,
    input  logic               s_tvalid,
    output logic               s_tready,
    output logic [M_WIDTH-1:0] m_tdata,
    output logic               m_tvalid,
    input  logic               m_tready
);
    if (SIMD == 0 || K % SIMD != 0) $fatal(1, "ge_mvu: SIMD=%0d must divide K=%0d", SIMD, K);
    if (PE == 0 || M % PE != 0) $fatal(1, "ge_mvu: PE=%0d must divide M=%0d", PE, M);
    if (W_BITS < 1) $fatal(1, "ge_mvu: W_BITS=%0d must be at least 1", W_BITS);
    if (A_BITS < 1) $fatal(1, "ge_mvu: A_BITS=%0d must be at least 1", A_BITS);
    if (OUT_BITS < 1) $fatal(1, "ge_mvu: OUT_BITS=%0d must be at least 1", OUT_BITS);

    localparam int unsigned SF = K / SIMD;                       // cycles per group of neurons
    localparam int unsigned NF = M / PE;                         // groups per vector
    localparam int unsigned SW = SF > 1 ? $clog2(SF) : 1;
    localparam int unsigned NW = NF > 1 ? $clog2(NF) : 1;
    localparam int unsigned WW = SF*NF > 1 ? $clog2(SF*NF) : 1;
    localparam int unsigned BANKS = SF*NF >= 8 ? 2 : 4;
    localparam int unsigned BW = $clog2(BANKS);
    localparam int unsigned ROWS     = 1 + ((W_BITS > 2 ? W_BITS - 2 : 0) + 1) / 2;
    localparam int unsigned PRODUCT  = W_BITS <= 3 ? 1 : 1 + $clog2(ROWS); // latency of ge_product
    localparam int unsigned PB       = A_BITS + W_BITS;
    localparam int unsigned DOT      = PRODUCT + $clog2(SIMD);           // latency of a dot product
    localparam int unsigned LATENCY  = 2 + DOT + 1;                      // memory, dot product, accumulator
    localparam int unsigned GROUPS   = 2 + (LATENCY + 3) / SF;           // output words that cover the way there and back
    localparam int unsigned DEPTH    = 1 << $clog2(GROUPS);

    // ---- receive: memory for two vectors (four where a vector takes only a few cycles), written word by word
    logic [SIMD*A_BITS-1:0]         inputs [BANKS << SW];
    logic [SW-1:0]              ws;
    logic [BW-1:0]              wbank;
    logic [$clog2(BANKS+1)-1:0] held;                            // banks that may not be written yet
    logic                       full;                            // held == BANKS, from a register: the writers wait for it
    logic                       beat, received, released;

    assign s_tready = !full;
    assign beat     = s_tvalid && s_tready;
    assign received = beat && (ws == SW'(SF - 1));

    always_ff @(posedge clk) begin
        if (beat) inputs[{wbank, ws}] <= s_tdata[SIMD*A_BITS-1:0];
    end

    always_ff @(posedge clk) begin
        if (rst) begin
            ws    <= '0;
            wbank <= '0;
            held  <= '0;
            full  <= 1'b0;
        end else begin
            if (beat) ws <= received ? '0 : ws + 1'b1;
            if (received) wbank <= wbank + 1'b1;
            if (received != released) begin
                held <= received ? held + 1'b1 : held - 1'b1;
                full <= received && (held == BANKS - 1);
            end
        end
    end

    // ---- issue: a group starts when its vector is there and the output buffer has a free word for it
    logic                       run, start, last_sf, last_group, room;
    logic [SW-1:0]              sf;
    logic [NW-1:0]              nf;                              // the next group
    logic [WW-1:0]              wa;
    logic [BW-1:0]              rbank, next_bank;
    logic [$clog2(BANKS+1)-1:0] waiting;                         // vectors whose last group has not started

    assign last_sf = (sf == SW'(SF - 1));
    assign start   = (!run || last_sf) && room && (waiting != 0);

    always_ff @(posedge clk) begin
        if (rst) begin
            run        <= 1'b0;
            sf         <= '0;
            nf         <= '0;
            wa         <= '0;
            rbank      <= '0;
            next_bank  <= '0;
            last_group <= 1'b0;
            released   <= 1'b0;
            waiting    <= '0;
        end else begin
            run      <= start || (run && !last_sf);
            // the writer may follow as soon as the last group reads: it is never faster than one word a cycle
            released <= start && (nf == NW'(NF - 1));
            if (start) begin
                nf         <= (nf == NW'(NF - 1)) ? '0 : nf + 1'b1;
                last_group <= (nf == NW'(NF - 1));
                rbank      <= next_bank;
                if (nf == NW'(NF - 1)) next_bank <= next_bank + 1'b1;
            end
            if (run) begin
                sf <= last_sf ? '0 : sf + 1'b1;
                wa <= (last_sf && last_group) ? '0 : wa + 1'b1;
            end
            if (received != (start && nf == NW'(NF - 1))) waiting <= received ? waiting + 1'b1 : waiting - 1'b1;
        end
    end

    // ---- read weights and inputs: memory, then its output register
    (* ram_style = "block", rom_style = "block" *) logic [PE*SIMD*W_BITS-1:0] weights [SF*NF];
    initial $readmemh(WEIGHTS_FILE, weights);

    logic [PE*SIMD*W_BITS-1:0] w1, w2;
    logic [SIMD*A_BITS-1:0]    a1, a2;
    always_ff @(posedge clk) begin
        w1 <= weights[wa];
        w2 <= w1;
        a1 <= inputs[{rbank, sf}];
        a2 <= a1;
    end

    // ---- what travels beside the data: valid, first and last of a group
    logic [LATENCY:1] valid, first, last;
    always_ff @(posedge clk) begin
        first <= {first[LATENCY-1:1], sf == 0};
        last  <= {last[LATENCY-1:1], last_sf};
    end

    // ---- multiply, add, accumulate
    logic [PE*OUT_BITS-1:0] acc_init;                            // where each accumulator starts
    logic [PE*OUT_BITS-1:0] acc;
    for (genvar p = 0; p < PE; p++) begin : neuron
        logic [SIMD*PB-1:0]             products;
        logic [PB+$clog2(SIMD)-1:0]     dot;
        logic signed [OUT_BITS-1:0]           a, base;
        for (genvar i = 0; i < SIMD; i++) begin : lane
            ge_product #(.W_BITS(W_BITS), .A_BITS(A_BITS), .ASGN(ASGN)) mul (
                .clk, .w(w2[(p*SIMD+i)*W_BITS +: W_BITS]), .a(a2[i*A_BITS +: A_BITS]), .p(products[i*PB +: PB]));
        end
        ge_adder_tree #(.N(SIMD), .WIDTH(PB)) tree (.clk, .x(products), .sum(dot));
        assign base = first[LATENCY-1] ? acc_init[p*OUT_BITS +: OUT_BITS] : a;
        always_ff @(posedge clk) a <= base + OUT_BITS'($signed(dot));
        assign acc[p*OUT_BITS +: OUT_BITS] = a;
    end

    if (CORRECT) begin : correction
        logic [PE*OUT_BITS-1:0] constants [NF];
        initial $readmemh(CORRECTION_FILE, constants);
        logic [NW-1:0]    cn;
        always_ff @(posedge clk) begin
            if (rst) cn <= '0;
            else if (valid[LATENCY-1] && last[LATENCY-1]) cn <= (cn == NW'(NF - 1)) ? '0 : cn + 1'b1;
        end
        assign acc_init = constants[cn];
    end else begin : no_correction
        assign acc_init = '0;
    end

    ge_credit_pipeline #(.WIDTH(PE*OUT_BITS), .LATENCY(LATENCY), .DEPTH(DEPTH)) frame (
        .clk, .rst, .room, .take(start), .enter(run), .valid, .keep(last[LATENCY]), .y(acc), .m_tdata, .m_tvalid, .m_tready);
`ifdef GE_ASSERT
    ge_stream_assert #(.WIDTH(M_WIDTH), .NAME("m")) hold_m (.clk, .rst, .tdata(m_tdata), .tvalid(m_tvalid), .tready(m_tready));
`endif
endmodule
`default_nettype wire
