// Between a stream of requests and the engine, so that a decoder hangs on a board's shell like any core: a beat in is one
// token, a beat out its answer. A request changes nothing that asking again would not give again, so a host that lost an
// answer asks once more. Little endian:
//   in, 16 bytes    0 flags: bit 0 sample, bit 1 follow (the token that came out at the position before); 1 to 3 token;
//                   4, 5 position; 8 to 11 unit; 12 to 15 state                      (unit, state: ge_decoder)
//   out, 8 bytes    0 status: 0 done, 1 no such token, 2 no such position; 1 to 3 the next token; 4 to 7 cycles
// A refused request computes nothing. Followers may wait in the shell's buffer: the board then tells a story alone.
`default_nettype none
module ge_decoder_stream #(
    int unsigned VOCABULARY = 512,
    int unsigned CONTEXT    = 256,
    localparam int unsigned VW = $clog2(VOCABULARY),
    localparam int unsigned TW = $clog2(CONTEXT > 1 ? CONTEXT : 2)
) (
    input  logic          clk,
    input  logic          rst,
    input  logic [127:0]  s_tdata,
    input  logic          s_tvalid,
    output logic          s_tready,
    output logic [63:0]   m_tdata,
    output logic          m_tvalid,
    input  logic          m_tready,
    // the engine
    input  logic          ready,
    output logic          start,
    output logic [VW-1:0] token,
    output logic [TW-1:0] at,
    output logic          sample,
    output logic [31:0]   unit,
    output logic [31:0]   state,
    input  logic          done,
    input  logic [VW-1:0] next,
    input  logic [31:0]   cycles
);
    if (VOCABULARY < 2 || VOCABULARY > (1 << 24)) $fatal(1, "ge_decoder_stream: VOCABULARY=%0d must be 2 to 16777216", VOCABULARY);
    if (CONTEXT < 1 || CONTEXT > (1 << 16)) $fatal(1, "ge_decoder_stream: CONTEXT=%0d must be 1 to 65536", CONTEXT);

    typedef enum logic [2:0] {TAKE, CHECK, START, RUN, GIVE} phase_t;
    phase_t        phase;
    logic          follow, no_position, no_token;
    logic [23:0]   asked;
    logic [15:0]   position;
    logic [VW-1:0] came, told [CONTEXT];           // by position, for followers
    assign s_tready = phase == TAKE && !rst;
    assign no_position = 32'(position) >= CONTEXT || (follow && position == '0);
    assign no_token    = !follow && 32'(asked) >= VOCABULARY;
    assign start       = phase == START;
    assign at          = TW'(position);
    always_ff @(posedge clk) begin
        came <= told[TW'(position - 1'b1)];
        if (phase == RUN && done) told[at] <= next;
        case (phase)
            TAKE: if (s_tvalid) begin
                {state, unit} <= s_tdata[127:64];
                position      <= s_tdata[47:32];
                asked         <= s_tdata[31:8];
                {follow, sample} <= s_tdata[1:0];
                phase         <= CHECK;
            end
            CHECK: begin                           // `came` is read meanwhile
                phase   <= no_position || no_token ? GIVE : START;
                m_tdata <= {32'd0, 24'd0, no_position ? 8'd2 : 8'd1};
            end
            START: if (ready) phase <= RUN;
            RUN: if (done) begin
                phase   <= GIVE;
                m_tdata <= {cycles, 24'(next), 8'd0};
            end
            GIVE: if (m_tready) phase <= TAKE;
            default: phase <= TAKE;
        endcase
        if (rst) phase <= TAKE;
    end
    assign token    = follow ? came : VW'(asked);
    assign m_tvalid = phase == GIVE;
`ifdef GE_ASSERT
    ge_stream_assert #(.WIDTH(64), .NAME("m")) hold_m (.clk, .rst, .tdata(m_tdata), .tvalid(m_tvalid), .tready(m_tready));
`endif
endmodule
`default_nettype wire
