// Between a byte link and a streaming core: requests in, answers out (protocol.py). One clock for all.
`default_nettype none
module ge_host
    import ge_protocol_pkg::*;
#(
    int unsigned CLOCK_HZ  = 25_000_000,
    int unsigned BAUD      = 3_000_000,
    int unsigned AW        = 11,     // the request buffer has 2**AW bytes
    int unsigned FW        = 9,      // the answer store has 2**FW bytes
    int unsigned S_BYTES   = 1,      // bytes of a beat into the core, beats of a sample
    int unsigned S_BEATS   = 32,
    int unsigned M_BYTES   = 1,
    int unsigned M_BEATS   = 10,
    bit [255:0]  MODEL     = '0
) (
    input  logic                 clk,
    input  logic                 rst,
    // link
    input  logic [7:0]           rx_data,
    input  logic                 rx_valid,
    input  logic                 rx_bad,
    output logic [7:0]           tx_data,
    output logic                 tx_valid,
    input  logic                 tx_ready,
    // core
    output logic                 core_rst,
    output logic [8*S_BYTES-1:0] m_tdata,
    output logic                 m_tvalid,
    input  logic                 m_tready,
    input  logic [8*M_BYTES-1:0] s_tdata,
    input  logic                 s_tvalid,
    output logic                 s_tready,
    // people
    output logic                 opened,
    output logic                 busy,
    output logic                 marker
);
    localparam int unsigned IN  = S_BYTES * S_BEATS;
    localparam int unsigned OUT = M_BYTES * M_BEATS;
    if (S_BYTES < 1) $fatal(1, "ge_host: S_BYTES=%0d must be at least 1", S_BYTES);
    if (S_BEATS < 1) $fatal(1, "ge_host: S_BEATS=%0d must be at least 1", S_BEATS);
    if (M_BYTES < 1) $fatal(1, "ge_host: M_BYTES=%0d must be at least 1", M_BYTES);
    if (M_BEATS < 1) $fatal(1, "ge_host: M_BEATS=%0d must be at least 1", M_BEATS);
    if (IN > 32000 || OUT > 32000)
        $fatal(1, "ge_host: samples of %0d bytes in and %0d bytes out must be at most 32000 to fit a frame", IN, OUT);

    // ---- requests
    logic [AW:0]   rd;
    logic [AW-1:0] waddr, raddr;
    logic [7:0]    wdata, rdata;
    logic          we, ren, committed, opens, dropped, overflowed;
    logic [7:0]    buffer [2**AW];

    ge_frame_rx #(.AW(AW)) frame_rx (
        .clk, .rst, .data(rx_data), .valid(rx_valid), .bad(rx_bad), .rd, .we, .waddr, .wdata, .committed, .opens, .dropped, .overflowed);

    always_ff @(posedge clk) begin
        if (we) buffer[waddr] <= wdata;
    end
    always_ff @(posedge clk) begin
        if (ren) rdata <= buffer[raddr];
    end

    // ---- carry them out
    logic        restart, idle, drop_load, job_valid, job_ready, empty, sample, marked;
    logic [31:0] drop_passes, job_argument;
    logic [15:0] drop_samples, job_seq, job_length;
    logic [7:0]  job_kind;

    ge_input_feeder #(.AW(AW), .S_BYTES(S_BYTES), .IN(IN), .OUT(OUT)) feeder (
        .clk, .rst, .committed, .opens, .rd, .raddr, .ren, .rdata, .restart, .opened, .m_tdata, .m_tvalid, .m_tready, .idle,
        .drop_passes, .drop_samples, .drop_load, .marker, .marked, .job_kind, .job_seq, .job_length, .job_argument,
        .job_valid, .job_ready);

    assign core_rst = rst || restart;

    // ---- outputs
    logic [7:0] out_data;
    logic       out_valid, out_ready;
    ge_collector #(.M_BYTES(M_BYTES), .BEATS(M_BEATS), .FW(FW)) collector (
        .clk, .rst(core_rst), .s_tdata, .s_tvalid, .s_tready, .sample, .drop_passes, .drop_samples, .drop_load,
        .data(out_data), .valid(out_valid), .ready(out_ready), .empty);

    // ---- registers
    logic [31:0] value;
    logic [4:0]  address;
    logic        want, found;
    ge_counters #(.CLOCK_HZ(CLOCK_HZ), .BAUD(BAUD), .IN(IN), .OUT(OUT), .BEATS(S_BEATS), .CREDIT(2**AW), .MODEL(MODEL)) counters (
        .clk, .rst, .restart, .opened, .beat_in(m_tvalid && m_tready), .sample_out(sample), .stall(s_tvalid && !s_tready),
        .busy, .committed, .dropped, .overflowed, .line_error(rx_valid && rx_bad), .marked,
        .address, .want, .value, .valid(found));

    // ---- answers: one waits while one is sent
    typedef enum logic [1:0] {REST, HEAD, BODY} state_t;
    state_t      state;
    logic        queued;
    logic [7:0]  q_kind, kind;
    logic [15:0] q_seq, seq, q_length, length, left;
    logic [31:0] q_argument, word;
    logic [2:0]  n;
    logic [1:0]  k;                                      // byte of a word
    logic [7:0]  body;
    logic        body_last, body_valid, body_ready;
    logic        loaded;                                 // `word` holds the register that is being sent

    assign job_ready = !queued;
    assign idle      = !busy && !m_tvalid && empty && !queued && (state == REST);
    assign want      = (state == BODY) && !loaded;

    always_comb begin
        body      = word[7:0];
        body_last = (state == BODY) && (left == 16'd1);
        if (state == HEAD) begin
            unique case (n)
                3'd0: body = kind;
                3'd1: body = seq[7:0];
                3'd2: body = seq[15:8];
                3'd3: body = length[7:0];
                default: body = length[15:8];
            endcase
            body_last = (n == 3'd4) && (length == 0);
        end else if (kind == KIND_RESULT || kind == KIND_LOOPED) body = out_data;
        body_valid = (state == HEAD) || (state == BODY && ((kind == KIND_RESULT || kind == KIND_LOOPED) ? out_valid : loaded));
    end
    assign out_ready = (state == BODY) && (kind == KIND_RESULT || kind == KIND_LOOPED) && body_ready;

    always_ff @(posedge clk) begin
        if (core_rst) begin
            state  <= REST;
            queued <= 1'b0;
        end else begin
            if (job_valid && !queued) begin
                queued     <= 1'b1;
                q_kind     <= job_kind;
                q_seq      <= job_seq;
                q_length   <= job_length;
                q_argument <= job_argument;
            end
            unique case (state)
                REST: if (queued) begin
                    queued  <= 1'b0;
                    kind    <= q_kind;
                    seq     <= q_seq;
                    length  <= q_length;
                    left    <= q_length;
                    word    <= q_argument;
                    address <= q_argument[4:0];
                    n       <= '0;
                    k       <= '0;
                    loaded  <= (q_kind != KIND_VALUES) && (q_kind != KIND_MARKED);
                    state   <= HEAD;
                end
                HEAD: if (body_ready) begin
                    n <= n + 1'b1;
                    if (n == 3'd4) state <= (length == 0) ? REST : BODY;
                end
                BODY: if (!loaded) begin                 // a register moves on while its bytes go out
                    word   <= value;
                    loaded <= found;
                end else if (body_valid && body_ready) begin
                    left <= left - 1'b1;
                    k    <= k + 1'b1;
                    word <= {8'd0, word[31:8]};
                    if (k == 2'd3) begin
                        address <= address + 1'b1;
                        loaded  <= (kind != KIND_VALUES);
                    end
                    if (left == 16'd1) state <= REST;
                end
                default: state <= REST;
            endcase
        end
    end

    // a byte waits between choosing and sending it, and a new one comes when it has gone: the line is slow, the clock is not
    logic [7:0] waiting;
    logic       waiting_last, waits, sent;
    assign body_ready = !waits;
    always_ff @(posedge clk) begin
        if (body_ready) begin
            waiting      <= body;
            waiting_last <= body_last;
        end
        if (core_rst) waits <= 1'b0;
        else waits <= waits ? !sent : body_valid;
    end

    ge_frame_tx frame_tx (
        .clk, .rst(core_rst), .s_data(waiting), .s_last(waiting_last), .s_valid(waits), .s_ready(sent),
        .data(tx_data), .valid(tx_valid), .ready(tx_ready));
endmodule
`default_nettype wire
