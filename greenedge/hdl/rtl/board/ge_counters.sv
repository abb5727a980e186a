// Cycle counters of a session and the status registers of the whole board (protocol.py, REGISTERS), all in one memory.
//
// A walk over 16 counters takes two cycles for each: one reads a counter and adds up the one before, one writes that
// sum back. What happens between two visits waits in a few bits: events of the line are at least a byte, 40 cycles,
// apart and need one bit. A register is therefore up to 36 cycles old when it is read. Constants are the memory's
// initial content. The walk waits a cycle while a host's READ is served, and nothing is ever read while something is
// written: no block memory then needs logic around it.
`default_nettype none
module ge_counters
    import ge_protocol_pkg::*;
#(
    int unsigned  CLOCK_HZ = 25_000_000,
    int unsigned  BAUD     = 3_000_000,
    int unsigned  IN       = 32,
    int unsigned  OUT      = 10,
    int unsigned  BEATS    = 1,      // beats of an input sample
    int unsigned  CREDIT   = 2048,
    bit [255:0]   MODEL    = '0      // first byte of the digest in the high bits
) (
    input  logic        clk,
    input  logic        rst,         // at least 36 cycles: the walk clears the counters
    input  logic        restart,     // so does this with those of the session
    input  logic        opened,
    input  logic        beat_in,     // a beat went into the core
    input  logic        sample_out,  // the last beat of a sample came out
    input  logic        stall,       // an output waits
    output logic        busy,        // a sample is in the core
    input  logic        committed, dropped, overflowed, line_error, marked,
    input  logic [4:0]  address,
    input  logic        want,        // the register at `address` is asked for, until `valid`
    output logic [31:0] value,
    output logic        valid
);
    if (CLOCK_HZ < 1) $fatal(1, "ge_counters: CLOCK_HZ=%0d must be at least 1", CLOCK_HZ);
    if (BAUD < 1) $fatal(1, "ge_counters: BAUD=%0d must be at least 1", BAUD);
    if (IN < 1) $fatal(1, "ge_counters: IN=%0d must be at least 1", IN);
    if (OUT < 1) $fatal(1, "ge_counters: OUT=%0d must be at least 1", OUT);
    if (BEATS < 1) $fatal(1, "ge_counters: BEATS=%0d must be at least 1", BEATS);
    if (CREDIT < 1) $fatal(1, "ge_counters: CREDIT=%0d must be at least 1", CREDIT);

    localparam int unsigned BW = BEATS > 1 ? $clog2(BEATS) : 1;

    // ---- what happens
    logic [BW-1:0] beat;
    logic [15:0]   pending;                              // samples in the core
    logic          entered, left, waited; // beat_in, sample_out, stall, a cycle later: short paths to the core
    logic          occupied, first, last, restarted;
    logic [31:0]   since_in, since_out, interval;
    logic          alone, timing, fresh;                 // `fresh`: since_in is a latency that has not been written yet

    assign first    = entered && (beat == 0);
    assign last     = (beat == BW'(BEATS - 1));
    assign occupied = (pending != 0);
    assign busy     = occupied || entered;

    always_ff @(posedge clk) begin
        entered <= beat_in;
        left    <= sample_out;
        waited  <= stall;
    end

    // ---- the walk
    logic        write = 1'b0;                           // second cycle of a visit
    logic [3:0]  slot  = 4'd0;                           // read
    logic [3:0]  late  = 4'd15;                          // the one before: summed up and written
    logic        carry, latency_now;

    logic        asked, serve, add;
    assign serve = !write && want && !asked;
    assign add   = !write && !serve;                     // first cycle of a visit
    assign latency_now = add && (late == 4'(REGISTER_LATENCY));
    always_ff @(posedge clk) begin
        write <= add;
        if (write) slot <= slot + 1'b1;
        if (write) late <= slot;
    end

    // a slot's address: 16 ... 30, and 7 for the marks
    function automatic logic [4:0] place(input logic [3:0] of);
        return (of == 4'd15) ? REGISTER_MARKS : {1'b1, of};
    endfunction

    always_ff @(posedge clk) begin
        if (rst || restart) begin
            beat     <= '0;
            pending  <= '0;
            interval <= '0;
            alone    <= 1'b0;
            timing   <= 1'b0;
            fresh    <= 1'b0;
        end else begin
            if (entered) beat <= last ? '0 : beat + 1'b1;
            if (first != left) pending <= first ? pending + 1'b1 : pending - 1'b1;
            since_out <= left ? 32'd1 : since_out + 1'b1;
            if (left) interval <= since_out;
            if (timing) since_in <= since_in + 1'b1;
            if (latency_now) fresh <= 1'b0;
            if (left && alone && pending == 16'd1) begin
                since_in <= since_in;
                timing   <= 1'b0;
                fresh    <= timing;
            end
            if (first) begin
                alone <= !occupied;
                if (!occupied) begin
                    since_in <= 32'd2;
                    timing   <= 1'b1;
                    fresh    <= 1'b0;
                end
            end
        end
    end

    // ---- what waits for its slot
    logic [5:0] passed, was_busy, was_stalled, came_in, came_out;
    logic [5:0] events, set;                             // frames, bad frames, line errors, overflows, opens; marks
    assign set = {marked, restart && !restarted, overflowed, line_error, dropped, committed};

    always_ff @(posedge clk) begin
        restarted   <= restart;
        passed      <= ((add && late == 4'(REGISTER_CYCLES)) ? 6'd0 : passed) + 6'd1;
        was_busy    <= ((add && late == 4'(REGISTER_BUSY)) ? 6'd0 : was_busy) + 6'(busy);
        was_stalled <= ((add && late == 4'(REGISTER_STALLED)) ? 6'd0 : was_stalled) + 6'(waited);
        came_in     <= ((add && late == 4'(REGISTER_SAMPLES_IN)) ? 6'd0 : came_in) + 6'(first);
        came_out    <= ((add && late == 4'(REGISTER_SAMPLES_OUT)) ? 6'd0 : came_out) + 6'(left);
        if (rst || restart) begin
            passed      <= '0;
            was_busy    <= '0;
            was_stalled <= '0;
            came_in     <= '0;
            came_out    <= '0;
        end
        for (int i = 0; i < 6; i++) events[i] <= set[i] || (events[i] && !(add && late == 4'(32'(REGISTER_FRAMES) + i)));
        if (rst) events <= '0;
        if (rst) restarted <= 1'b0;
    end

    logic [5:0] more;
    always_comb begin
        unique case (late)
            4'(REGISTER_CYCLES):      more = passed;
            4'(REGISTER_BUSY):        more = was_busy;
            4'(REGISTER_STALLED):     more = was_stalled;
            4'(REGISTER_SAMPLES_IN):  more = came_in;
            4'(REGISTER_SAMPLES_OUT): more = came_out;
            4'(REGISTER_LATENCY), 4'(REGISTER_INTERVAL): more = '0;
            4'(REGISTER_CYCLES + 1), 4'(REGISTER_BUSY + 1), 4'(REGISTER_STALLED + 1): more = {5'd0, carry};
            default: more = {5'd0, events[late - 4'(REGISTER_FRAMES)]};
        endcase
    end

    // ---- the memory
    (* ram_style = "block" *) logic [31:0] registers [32];
    logic [31:0] held, found, sum, next, total;
    logic        over, clear;

    initial begin
        for (int i = 0; i < 32; i++) registers[i] = '0;
        registers[REGISTER_MAGIC]        = MAGIC;
        registers[REGISTER_VERSION]      = VERSION;
        registers[REGISTER_CLOCK_HZ]     = 32'(CLOCK_HZ);
        registers[REGISTER_BAUD]         = 32'(BAUD);
        registers[REGISTER_INPUT_BYTES]  = 32'(IN);
        registers[REGISTER_OUTPUT_BYTES] = 32'(OUT);
        registers[REGISTER_CREDIT]       = 32'(CREDIT);
        for (int i = 0; i < 8; i++)                      // each word of the digest with its first byte low
            registers[REGISTER_MODEL + i] = {MODEL[32*(7-i) +: 8], MODEL[32*(7-i)+8 +: 8], MODEL[32*(7-i)+16 +: 8],
                                             MODEL[32*(7-i)+24 +: 8]};
    end

    assign {over, sum} = {1'b0, found} + 33'(more);
    assign clear = rst || (restart && late < 4'(REGISTER_FRAMES));
    always_comb begin
        next = sum;
        if (late == 4'(REGISTER_LATENCY) && fresh) next = since_in;
        if (late == 4'(REGISTER_INTERVAL)) next = interval;
        if (clear) next = '0;
    end

    always_ff @(posedge clk) begin
        if (write) registers[place(late)] <= total;
    end
    always_ff @(posedge clk) begin
        if (!write) held <= registers[serve ? address : place(slot)];
    end
    always_ff @(posedge clk) begin
        if (write) found <= held;                        // the memory is slow to answer: a register before the adder
        if (add) total <= next;
        if (add) carry <= over && !clear;
        asked <= serve;
    end
    assign valid = asked && want;
    assign value = (address == REGISTER_STATE) ? {30'd0, busy, opened} : held;
endmodule
`default_nettype wire
