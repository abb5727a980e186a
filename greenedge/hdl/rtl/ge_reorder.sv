// Beats in another order, some left out, some more than once: of every N beats that come, M go, beat j being that at place
// PLACES[j].
//
// max(N, M) cycles per turn where DEPTH is large enough (dialect/reorder.py counts it). Memory: a ring of DEPTH beats; the places,
// read through one register.
//
// PLACES_FILE: word j holds the place (P_BITS bits, low), the place modulo DEPTH (A_BITS), and how many beats of the turn
// nothing needs any more once beat j has gone (F_BITS): N at the last.
`default_nettype none
module ge_reorder #(
    int unsigned N     = 4,      // beats of a turn, in
    int unsigned M     = 4,      // out
    int unsigned DEPTH = 16,     // beats in the ring
    int unsigned WIDTH = 8,      // bits of a beat
    parameter    PLACES_FILE = ""
) (
    input  logic             clk,
    input  logic             rst,
    input  logic [WIDTH-1:0] s_tdata,
    input  logic             s_tvalid,
    output logic             s_tready,
    output logic [WIDTH-1:0] m_tdata,
    output logic             m_tvalid,
    input  logic             m_tready
);
    if (N < 1) $fatal(1, "ge_reorder: N=%0d must be at least 1", N);
    if (M < 1) $fatal(1, "ge_reorder: M=%0d must be at least 1", M);
    if (DEPTH < 4) $fatal(1, "ge_reorder: DEPTH=%0d must be at least 4", DEPTH);
    if (WIDTH < 1) $fatal(1, "ge_reorder: WIDTH=%0d must be at least 1", WIDTH);

    localparam int unsigned P_BITS = N > 1 ? $clog2(N) : 1;
    localparam int unsigned A_BITS = $clog2(DEPTH);
    localparam int unsigned F_BITS = $clog2(N + 1);
    localparam int unsigned J_BITS = M > 1 ? $clog2(M) : 1;
    localparam int unsigned C_BITS = $clog2(N + DEPTH + 1) + 1;  // of a count of beats since reset, modulo 2**C_BITS

    // ---- receive
    (* no_rw_check *) logic [WIDTH-1:0] ring [DEPTH];            // a word is never read and written at once
    logic [A_BITS-1:0] wa;
    logic [C_BITS-1:0] written, released, held;                  // held is negative while beats come that nothing needs
    logic              room, beat;
    assign held     = written - released;
    assign s_tready = room;
    assign beat     = s_tvalid && room;

    always_ff @(posedge clk) begin
        if (beat) ring[wa] <= s_tdata;
    end

    always_ff @(posedge clk) begin
        if (rst) begin
            wa      <= '0;
            written <= '0;
            room    <= 1'b0;
        end else begin
            if (beat) begin
                wa      <= (wa == A_BITS'(DEPTH - 1)) ? '0 : wa + 1'b1;
                written <= written + 1'b1;
            end
            room <= held[C_BITS-1] || held < C_BITS'(DEPTH - 1);
        end
    end

    // ---- send: the beat at the next place as soon as it is there and the output buffer has room
    localparam int unsigned W_BITS = F_BITS + A_BITS + P_BITS;
    logic [W_BITS-1:0] places [M];
    initial $readmemh(PLACES_FILE, places);

    logic [W_BITS-1:0] word;
    logic [J_BITS-1:0] j, next_j;
    logic [C_BITS-1:0] turn, ahead;                              // beats before this turn; beats there beyond the place
    logic [A_BITS-1:0] turn_a, ra, next_turn_a;                  // the turn's first beat in the ring
    logic              open, go, last;

    assign last   = (j == J_BITS'(M - 1));
    assign ahead  = written - turn - C_BITS'(word[P_BITS-1:0]) - 1'b1;
    assign go     = open && !ahead[C_BITS-1];
    assign next_j = rst ? '0 : !go ? j : last ? '0 : j + 1'b1;
    ge_ring_add #(.DEPTH(DEPTH)) ra_add (.a(turn_a), .step(word[P_BITS +: A_BITS]), .y(ra));
    ge_ring_add #(.DEPTH(DEPTH)) turn_add (.a(turn_a), .step(A_BITS'(N % DEPTH)), .y(next_turn_a));

    always_ff @(posedge clk) begin
        word <= places[next_j];
        j    <= next_j;
        if (rst) begin
            turn     <= '0;
            turn_a   <= '0;
            released <= '0;
        end else if (go) begin
            released <= turn + C_BITS'(word[P_BITS + A_BITS +: F_BITS]);
            if (last) begin
                turn   <= turn + C_BITS'(N);
                turn_a <= next_turn_a;
            end
        end
    end

    // ---- read: memory, then its output register
    logic [WIDTH-1:0] r1, r2;
    always_ff @(posedge clk) begin
        r1 <= ring[ra];
        r2 <= r1;
    end

    localparam int unsigned CREDITS = 8;                         // covers the way through memory and output buffer
    logic [(WIDTH + 7) / 8 * 8 - 1:0] padded;
    ge_credit_pipeline #(.WIDTH(WIDTH), .LATENCY(2), .DEPTH(CREDITS), .EARLY(1)) frame (
        .clk, .rst, .room(open), .take(go), .enter(go), .valid(), .keep(1'b1), .y(r2), .m_tdata(padded), .m_tvalid,
        .m_tready);
    assign m_tdata = padded[WIDTH-1:0];
`ifdef GE_ASSERT
    ge_stream_assert #(.WIDTH(WIDTH), .NAME("m")) hold_m (.clk, .rst, .tdata(m_tdata), .tvalid(m_tvalid), .tready(m_tready));
`endif
endmodule
`default_nettype wire
