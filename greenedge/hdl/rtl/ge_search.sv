// Search: y = LEVELS[c][j], j being how many of the channel's thresholds x has reached, found by bisection; channel c runs
// 0 ... C-1 and starts again.
//
// For functions without affine form and of many levels, rising, falling or both: N comparisons where ge_threshold has 2**N.
// One beat per cycle. Memory: for each lane of a beat one of every stage, twice as deep as that of the stage before, read
// through two registers; and one of the levels.
//
// FILES is what the files' names begin with. FILES_0.mem ... of stage s: word f*2**s + i holds PE thresholds of X_BITS bits,
// channel f*PE in the low bits: the (2*i + 1) * 2**(N-s-1)-th of the channel's 2**N - 1 rising ones, from 1 on.
// FILES_levels.mem: word f*2**N + j holds PE levels.
`default_nettype none
module ge_search #(
    int unsigned C        = 8,   // channels
    int unsigned PE       = 1,   // channels per beat; divides C
    int unsigned X_BITS   = 12,  // input bits
    bit          XSGN     = 1,   // input is signed
    int unsigned N        = 4,   // stages, at most 10
    int unsigned OUT_BITS = 4,   // output bits
    parameter    FILES    = "",
    localparam int unsigned S_WIDTH = (PE*X_BITS + 7) / 8 * 8,
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
    if (PE == 0 || C % PE != 0) $fatal(1, "ge_search: PE=%0d must divide C=%0d", PE, C);
    if (X_BITS < 1) $fatal(1, "ge_search: X_BITS=%0d must be at least 1", X_BITS);
    if (N < 1 || N > 10) $fatal(1, "ge_search: N=%0d must be 1 to 10", N);
    if (OUT_BITS < 1) $fatal(1, "ge_search: OUT_BITS=%0d must be at least 1", OUT_BITS);

    localparam int unsigned CF      = C / PE;
    localparam int unsigned CW      = CF > 1 ? $clog2(CF) : 1;
    localparam int unsigned LATENCY = 1 + 3*N + 2;               // take in; per stage memory, comparison; levels
    localparam int unsigned DEPTH   = LATENCY + 4;               // covers the way there and back

    // ---- take in; what stands in place s belongs to what enters stage s
    logic          beat;
    logic [CW-1:0] first;
    localparam int unsigned XW = PE*X_BITS, NW = PE*N;
    logic [(N+1)*CW-1:0] c;                                      // channels
    logic [(N+1)*XW-1:0] x;
    logic [(N+1)*NW-1:0] nodes;                                  // of every lane N bits, of which stage s has found s
    assign beat = s_tvalid && s_tready;
    always_ff @(posedge clk) begin
        if (rst) first <= '0;
        else if (beat) first <= (first == CW'(CF - 1)) ? '0 : first + 1'b1;
        c[CW-1:0] <= first;
        x[XW-1:0] <= s_tdata[XW-1:0];
    end

    // ---- search
    assign nodes[NW-1:0] = '0;
    for (genvar s = 0; s < N; s++) begin : stage
        localparam     FILE  = {FILES, "_", 8'("0" + s), ".mem"};
        localparam int WORDS = CF << s;
        localparam int AW    = WORDS > 1 ? $clog2(WORDS) : 1;
        logic [CW-1:0] c_1, c_2;
        logic [XW-1:0] x_1, x_2;
        always_ff @(posedge clk) begin
            c_1                <= c[s*CW +: CW];
            c_2                <= c_1;
            c[(s+1)*CW +: CW]  <= c_2;
            x_1                <= x[s*XW +: XW];
            x_2                <= x_1;
            x[(s+1)*XW +: XW]  <= x_2;
        end
        for (genvar p = 0; p < PE; p++) begin : lane
            logic [XW-1:0] thresholds [WORDS];                   // of each word only this lane's bits are kept
            initial $readmemh(FILE, thresholds);
            logic [N-1:0]      node, node_1, node_2;
            logic [AW-1:0]     address;
            logic [X_BITS-1:0] t_1, t_2, now;
            logic              reached;
            assign node    = nodes[s*NW + p*N +: N];
            assign address = AW'({c[s*CW +: CW], {s{1'b0}}}) | AW'(node);
            assign now     = x_2[p*X_BITS +: X_BITS];
            // the sign bit turned, signed numbers have the order of unsigned ones
            assign reached = (now ^ (X_BITS'(XSGN) << (X_BITS - 1))) >= (t_2 ^ (X_BITS'(XSGN) << (X_BITS - 1)));
            always_ff @(posedge clk) begin
                t_1    <= thresholds[address][p*X_BITS +: X_BITS];
                t_2    <= t_1;
                node_1 <= node;
                node_2 <= node_1;
                nodes[(s+1)*NW + p*N +: N] <= N'({node_2, reached});
            end
        end
    end

    // ---- levels
    logic [PE*OUT_BITS-1:0] y;
    for (genvar p = 0; p < PE; p++) begin : lane
        localparam     FILE  = {FILES, "_levels.mem"};
        localparam int WORDS = CF << N;
        localparam int AW    = $clog2(WORDS);
        logic [PE*OUT_BITS-1:0] levels [WORDS];
        initial $readmemh(FILE, levels);
        logic [AW-1:0]       address;
        logic [OUT_BITS-1:0] v_1;
        assign address = AW'({c[N*CW +: CW], {N{1'b0}}}) | AW'(nodes[N*NW + p*N +: N]);
        always_ff @(posedge clk) begin
            v_1                       <= levels[address][p*OUT_BITS +: OUT_BITS];
            y[p*OUT_BITS +: OUT_BITS] <= v_1;
        end
    end

    ge_credit_pipeline #(.WIDTH(PE*OUT_BITS), .LATENCY(LATENCY), .DEPTH(DEPTH)) frame (
        .clk, .rst, .room(s_tready), .take(beat), .enter(beat), .valid(), .keep(1'b1), .y, .m_tdata, .m_tvalid, .m_tready);
`ifdef GE_ASSERT
    ge_stream_assert #(.WIDTH(M_WIDTH), .NAME("m")) hold_m (.clk, .rst, .tdata(m_tdata), .tvalid(m_tvalid), .tready(m_tready));
`endif
endmodule
`default_nettype wire
