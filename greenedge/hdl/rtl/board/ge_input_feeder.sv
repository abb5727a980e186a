// Carries out the requests in the buffer, in order: feeds samples to the core, hands every answer to the sender as a job.
//
// DATA and LOOP are measured first (whole number of samples?), by counting: no divider. LOOP waits until the core is
// empty and then reads the same samples again and again. OPEN holds `restart` for RESTART cycles, which resets the core
// and everything behind it; nothing that was under way can come out afterwards. Nothing keeps an OPEN waiting either: what is
// under way when it arrives, be it two thousand million passes of a LOOP, is broken off.
`default_nettype none
module ge_input_feeder
    import ge_protocol_pkg::*;
#(
    int unsigned AW      = 11,       // the request buffer has 2**AW bytes
    int unsigned S_BYTES = 1,        // bytes of a beat into the core
    int unsigned IN      = 32,       // bytes of a sample
    int unsigned OUT     = 10,       // bytes of its output
    int unsigned RESTART = 64
) (
    input  logic                 clk,
    input  logic                 rst,
    // frames
    input  logic                 committed,
    input  logic                 opens,              // with `committed`: that frame is OPEN
    output logic [AW:0]          rd,                 // everything before is free
    output logic [AW-1:0]        raddr,
    output logic                 ren,
    input  logic [7:0]           rdata,
    // core
    output logic                 restart,
    output logic                 opened,
    output logic [8*S_BYTES-1:0] m_tdata,
    output logic                 m_tvalid,
    input  logic                 m_tready,
    input  logic                 idle,               // no sample in the core, no job not yet answered
    output logic [31:0]          drop_passes,        // outputs of so many passes are not answered
    output logic [15:0]          drop_samples,       // samples of a pass
    output logic                 drop_load,
    // marker
    output logic                 marker,
    output logic                 marked,             // for one cycle: the marker has changed
    // answer
    output logic [7:0]           job_kind,
    output logic [15:0]          job_seq,
    output logic [15:0]          job_length,
    output logic [31:0]          job_argument,
    output logic                 job_valid,
    input  logic                 job_ready
);
    if (S_BYTES == 0 || IN % S_BYTES != 0) $fatal(1, "ge_input_feeder: S_BYTES=%0d must divide IN=%0d", S_BYTES, IN);
    if (OUT < 1) $fatal(1, "ge_input_feeder: OUT=%0d must be at least 1", OUT);
    if (AW > 16 || (1 << AW) < IN + 9)
        $fatal(1, "ge_input_feeder: AW=%0d gives a buffer that is too small for a LOOP of one sample of IN=%0d bytes", AW, IN);
    if (RESTART < 36)
        $fatal(1, "ge_input_feeder: RESTART=%0d must be at least 36, in which ge_counters clears its counters", RESTART);

    localparam int unsigned PW = $clog2(RESTART + 1);

    typedef enum logic [3:0] {WAIT, HEAD, LOOK, ARGUMENT, MEASURE, DECIDE, SETTLE, RESET, ANSWER, FEED, FREE} state_t;

    state_t        state;
    logic [AW:0]   frames;                           // whole frames in the buffer
    logic [AW:0]   rp;                               // next byte to read
    logic [AW:0]   samples_at;                       // where the samples begin
    logic [7:0]    q;
    logic          q_valid, take, fetch;
    logic [2:0]    n;
    logic [7:0]    kind;
    logic [15:0]   seq, length, body, left, count;   // body: bytes of samples; left: bytes still to fetch of this pass
    logic [16:0]   measured;
    logic [15:0]   answer;                           // bytes of the answer to DATA
    logic [31:0]   argument, passes;
    logic [7:0]    code;
    logic [PW-1:0] pause;
    logic          freed;
    logic [AW:0]   opening;                          // OPENs in the buffer, well-formed or not

    // ---- a byte a cycle out of the buffer and into a register, held until it is taken
    logic [15:0]   unread;
    logic          fetched, move;                    // the buffer's output is a byte that is not in `q` yet
    assign move  = fetched && (!q_valid || take);
    assign fetch = (unread != 0) && (!fetched || move);
    assign raddr = rp[AW-1:0];
    assign ren   = fetch;
    always_ff @(posedge clk) begin
        if (move) q <= rdata;
    end

    // ---- beats for the core
    localparam int unsigned NB = S_BYTES > 1 ? $clog2(S_BYTES) : 1;
    logic [8*S_BYTES-1:0] word;
    logic [NB-1:0]        filled;
    logic                 whole, room;
    assign room     = !whole || m_tready;
    assign m_tdata  = word;
    assign m_tvalid = whole;

    assign take = q_valid && ((state == HEAD) || (state == ARGUMENT) || (state == FEED && room));

    assign job_kind     = (code != 0) ? KIND_ERROR : kind | ANSWER_BIT;
    assign job_seq      = seq;
    assign job_argument = (code != 0) ? {24'd0, code} : (kind == KIND_MARK) ? 32'(REGISTER_MARKS) : argument;
    always_comb begin
        unique case (job_kind)
            KIND_OPENED, KIND_MARKED: job_length = 16'd4;
            KIND_VALUES: job_length = {6'd0, argument[15:8], 2'd0};
            KIND_ERROR:  job_length = 16'd1;
            default:     job_length = answer;
        endcase
    end
    assign job_valid = (state == ANSWER);
    assign restart   = (state == RESET);
    assign freed     = (state == FREE);

    always_ff @(posedge clk) begin
        drop_load <= 1'b0;
        marked    <= 1'b0;
        if (rst) begin
            state   <= WAIT;
            opening <= '0;
            frames  <= '0;
            rd      <= '0;
            rp      <= '0;
            unread  <= '0;
            q_valid <= 1'b0;
            fetched <= 1'b0;
            whole   <= 1'b0;
            filled  <= '0;
            opened  <= 1'b0;
            marker  <= 1'b0;
            marked  <= 1'b0;
            n       <= '0;
        end else begin
            if ((committed && opens) != (freed && kind == KIND_OPEN)) opening <= freed && kind == KIND_OPEN ? opening - 1'b1 : opening + 1'b1;
            if (committed != freed) frames <= committed ? frames + 1'b1 : frames - 1'b1;
            if (fetch) begin
                rp     <= rp + 1'b1;
                unread <= unread - 1'b1;
            end
            fetched <= fetch || (fetched && !move);
            q_valid <= move || (q_valid && !take);
            if (whole && m_tready) whole <= 1'b0;

            unique case (state)
                WAIT: begin
                    n    <= '0;
                    code <= '0;
                    argument <= '0;
                    if (frames != 0) begin
                        unread <= 16'(HEADER_BYTES);
                        state  <= HEAD;
                    end
                end
                HEAD: if (take) begin
                    n <= n + 1'b1;
                    if (n == 3'd0) kind         <= q;
                    if (n == 3'd1) seq[7:0]     <= q;
                    if (n == 3'd2) seq[15:8]    <= q;
                    if (n == 3'd3) length[7:0]  <= q;
                    if (n == 3'd4) begin
                        length[15:8] <= q;
                        state <= LOOK;
                    end
                end
                LOOK: begin                              // rp stands at the payload
                    n        <= '0;
                    measured <= '0;
                    answer   <= '0;
                    count    <= '0;
                    passes   <= 32'd1;
                    body     <= length;
                    state    <= ARGUMENT;
                    unique case (kind)
                        KIND_OPEN:    if (length == 16'd4) unread <= 16'd4; else code <= ERROR_BAD_LENGTH;
                        KIND_READ:    if (length == 16'd2) unread <= 16'd2; else code <= ERROR_BAD_LENGTH;
                        KIND_MARK:    if (length == 16'd1) unread <= 16'd1; else code <= ERROR_BAD_LENGTH;
                        KIND_LOOP:    if (length > 16'd4) unread <= 16'd4; else code <= ERROR_BAD_LENGTH;
                        KIND_DATA:    if (length != 0) state <= MEASURE; else code <= ERROR_BAD_LENGTH;
                        default: code <= ERROR_UNKNOWN;
                    endcase
                end
                ARGUMENT: if (code != 0) state <= DECIDE;
                else if (take) begin
                    n <= n + 1'b1;
                    argument <= (kind == KIND_READ) ? {16'd0, q, argument[15:8]} : {q, argument[31:8]};
                    if (unread == 0 && !fetched) state <= (kind == KIND_LOOP) ? MEASURE : DECIDE;
                    if (kind == KIND_LOOP) body <= length - 16'd4;
                end
                MEASURE: begin
                    samples_at <= rp;
                    if (measured < {1'b0, body}) begin
                        measured <= measured + 17'(IN);
                        answer   <= answer + 16'(OUT);
                        count    <= count + 1'b1;
                    end else begin
                        if (measured != {1'b0, body}) code <= ERROR_BAD_LENGTH;
                        state <= DECIDE;
                    end
                end
                DECIDE: begin
                    if (code == 0 && (kind == KIND_DATA || kind == KIND_LOOP) && !opened) code <= ERROR_NOT_OPEN;
                    if (code == 0 && kind == KIND_LOOP && argument == 0) code <= ERROR_BAD_LENGTH;
                    if (code == 0 && kind == KIND_MARK) begin
                        marker <= argument[24];
                        marked <= (marker != argument[24]);
                    end
                    passes <= (kind == KIND_LOOP) ? argument : 32'd1;
                    pause  <= PW'(RESTART);
                    state  <= (code == 0 && kind == KIND_OPEN) ? RESET : SETTLE;
                end
                RESET: begin
                    opened <= 1'b1;
                    whole  <= 1'b0;
                    filled <= '0;
                    pause  <= pause - 1'b1;
                    if (pause == 0) state <= ANSWER;
                end
                SETTLE: begin                            // only LOOP needs the core for itself
                    if (code != 0 || kind != KIND_LOOP || idle) begin
                        drop_load <= (code == 0) && (kind == KIND_LOOP);
                        state     <= ANSWER;
                    end
                end
                ANSWER: if (job_ready) begin
                    unread <= (code == 0 && (kind == KIND_DATA || kind == KIND_LOOP)) ? body : 16'd0;
                    state  <= (code == 0 && (kind == KIND_DATA || kind == KIND_LOOP)) ? FEED : FREE;
                end
                FEED: begin
                    if (take) begin
                        word[8*filled +: 8] <= q;
                        filled <= (filled == NB'(S_BYTES - 1)) ? '0 : filled + 1'b1;
                        if (filled == NB'(S_BYTES - 1)) whole <= 1'b1;
                    end
                    if (unread == 0 && !fetched && !q_valid) begin
                        if (passes != 1) begin
                            passes <= passes - 1'b1;
                            rp     <= samples_at;
                            unread <= body;
                        end else begin
                            state <= FREE;
                        end
                    end
                end
                FREE: begin                              // also what was never read of a frame that was refused
                    rp      <= rd + (AW+1)'(HEADER_BYTES) + (AW+1)'(length);
                    rd      <= rd + (AW+1)'(HEADER_BYTES) + (AW+1)'(length);
                    unread  <= '0;
                    fetched <= 1'b0;
                    q_valid <= 1'b0;
                    state   <= WAIT;
                end
                default: state <= WAIT;
            endcase
            if (opening != 0 && kind != KIND_OPEN && (state == SETTLE || state == ANSWER || state == FEED)) state <= FREE;
        end
    end

    always_ff @(posedge clk) drop_passes <= passes - 1'b1;    // `passes` is set two cycles before drop_load
    assign drop_samples = count;
`ifdef GE_ASSERT
    ge_stream_assert #(.WIDTH(8*S_BYTES), .NAME("m")) hold_m (
        .clk, .rst(rst || restart), .tdata(m_tdata), .tvalid(m_tvalid), .tready(m_tready));
`endif
endmodule
`default_nettype wire
