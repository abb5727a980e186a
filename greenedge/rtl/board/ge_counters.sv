// Cycle counters of a session and the status registers of the whole board (protocol.py, REGISTERS).
module ge_counters #(
    int unsigned  CLOCK_HZ = 25_000_000,
    int unsigned  BAUD     = 3_000_000,
    int unsigned  IN       = 32,
    int unsigned  OUT      = 10,
    int unsigned  BEATS    = 1,      // beats of an input sample
    int unsigned  CREDIT   = 2048,
    bit [255:0]   MODEL    = '0      // first byte of the digest in the high bits
) (
    input  logic        clk,
    input  logic        rst,
    input  logic        restart,
    input  logic        opened,
    input  logic        beat_in,     // a beat went into the core
    input  logic        sample_out,  // the last beat of a sample came out
    input  logic        stall,       // an output waits
    output logic        busy,        // a sample is in the core
    input  logic        committed, dropped, overflowed, line_error,
    input  logic [31:0] marks,
    input  logic [4:0]  address,
    input  logic        latch,       // the word at `address` is read now
    output logic [31:0] value
);
    localparam int unsigned BW = BEATS > 1 ? $clog2(BEATS) : 1;

    logic [47:0]   cycles, busy_cycles, stalled;
    logic [31:0]   samples_in, samples_out, latency, interval, since_in, since_out, frames, bad_frames, line_errors;
    logic [31:0]   overflows, opens;
    logic [15:0]   kept;
    logic [BW-1:0] beat;
    logic [15:0]   pending;
    logic          first, last, alone, restarted;

    assign first = beat_in && (beat == 0);
    assign last  = (beat == BW'(BEATS - 1));
    assign busy  = (pending != 0);

    always_ff @(posedge clk) begin
        if (rst || restart) begin
            cycles      <= '0;
            busy_cycles <= '0;
            stalled     <= '0;
            samples_in  <= '0;
            samples_out <= '0;
            latency     <= '0;
            interval    <= '0;
            beat        <= '0;
            pending      <= '0;
            alone       <= 1'b0;
        end else begin
            cycles <= cycles + 1'b1;
            if (busy || first) busy_cycles <= busy_cycles + 1'b1;
            if (stall) stalled <= stalled + 1'b1;
            if (beat_in) beat <= last ? '0 : beat + 1'b1;
            if (first) samples_in <= samples_in + 1'b1;
            if (first != sample_out) pending <= first ? pending + 1'b1 : pending - 1'b1;
            since_in  <= since_in + 1'b1;
            since_out <= since_out + 1'b1;
            if (first) begin
                alone <= (pending == 0);
                if (pending == 0) since_in <= 32'd2;
            end
            if (sample_out) begin
                samples_out <= samples_out + 1'b1;
                interval    <= since_out;
                since_out   <= 32'd1;
                if (alone && pending == 16'd1) latency <= since_in;
            end
        end
    end

    always_ff @(posedge clk) begin
        restarted <= restart;
        if (rst) begin
            frames      <= '0;
            bad_frames  <= '0;
            line_errors <= '0;
            overflows   <= '0;
            opens       <= '0;
            restarted   <= 1'b0;
        end else begin
            if (committed)  frames      <= frames + 1'b1;
            if (dropped)    bad_frames  <= bad_frames + 1'b1;
            if (line_error) line_errors <= line_errors + 1'b1;
            if (overflowed) overflows   <= overflows + 1'b1;
            if (restart && !restarted) opens <= opens + 1'b1;
        end
    end

    always_ff @(posedge clk) begin
        if (latch && address == 5'd16) kept <= cycles[47:32];
        if (latch && address == 5'd18) kept <= busy_cycles[47:32];
        if (latch && address == 5'd20) kept <= stalled[47:32];
    end

    logic [31:0] word;                                   // of the digest, its first byte low
    always_comb begin
        word = MODEL[32*(7 - address[2:0]) +: 32];
        unique case (address)
            5'd0:  value = 32'h31424547;                 // "GEB1"
            5'd1:  value = 32'd1;
            5'd2:  value = 32'(CLOCK_HZ);
            5'd3:  value = 32'(BAUD);
            5'd4:  value = 32'(IN);
            5'd5:  value = 32'(OUT);
            5'd6:  value = 32'(CREDIT);
            5'd7:  value = marks;
            5'd16: value = cycles[31:0];
            5'd18: value = busy_cycles[31:0];
            5'd20: value = stalled[31:0];
            5'd17, 5'd19, 5'd21: value = {16'd0, kept};
            5'd22: value = samples_in;
            5'd23: value = samples_out;
            5'd24: value = latency;
            5'd25: value = interval;
            5'd26: value = frames;
            5'd27: value = bad_frames;
            5'd28: value = line_errors;
            5'd29: value = overflows;
            5'd30: value = opens;
            5'd31: value = {30'd0, busy, opened};
            default: value = {word[7:0], word[15:8], word[23:16], word[31:24]};
        endcase
    end
endmodule
