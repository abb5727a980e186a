// Takes the core's outputs: counts samples, drops those of the passes that nobody asked for, keeps the others as bytes.
//
// `s_tready` is a register, so that no path runs from here into the core and back. `drop_load` comes while nothing is
// in the core or here: what is dropped never waits for room.
`default_nettype none
module ge_collector #(
    int unsigned M_BYTES = 1,        // bytes of a beat
    int unsigned BEATS   = 1,        // beats of a sample
    int unsigned FW      = 9         // the store has 2**FW bytes, at least M_BYTES + 2
) (
    input  logic                 clk,
    input  logic                 rst,
    input  logic [8*M_BYTES-1:0] s_tdata,
    input  logic                 s_tvalid,
    output logic                 s_tready,
    output logic                 sample,              // for one cycle: the last beat of a sample was taken
    input  logic [31:0]          drop_passes,
    input  logic [15:0]          drop_samples,
    input  logic                 drop_load,
    output logic [7:0]           data,
    output logic                 valid,
    input  logic                 ready,
    output logic                 empty
);
    if (M_BYTES < 1) $fatal(1, "ge_collector: M_BYTES=%0d must be at least 1", M_BYTES);
    if (BEATS < 1) $fatal(1, "ge_collector: BEATS=%0d must be at least 1", BEATS);
    if (FW > 30 || (1 << FW) < M_BYTES + 2)
        $fatal(1, "ge_collector: FW=%0d gives a store that is too small for M_BYTES=%0d and two more", FW, M_BYTES);

    localparam int unsigned BW = BEATS > 1 ? $clog2(BEATS) : 1;
    localparam int unsigned NW = $clog2(M_BYTES + 1);

    logic [8*M_BYTES-1:0] word;
    logic [NW-1:0]        bytes_left;
    logic [BW-1:0]        beat;
    logic [31:0]          passes;
    logic [15:0]          left, pass_size;               // samples left of this pass
    logic                 drop, last, push, keep;

    logic [7:0]    store [2**FW];
    logic [FW-1:0] wr, rd;
    logic [FW:0]   fill;
    logic [7:0]    mid;                                  // what the memory gives, before its register
    logic          pop, move, mid_valid;

    assign last   = (beat == BW'(BEATS - 1));
    assign sample = s_tvalid && s_tready && last;
    assign keep   = s_tvalid && s_tready && !drop;
    assign push   = (bytes_left != 0);
    assign move   = mid_valid && (!valid || ready);
    assign pop    = (fill != 0) && (!mid_valid || move);
    assign empty  = (bytes_left == 0) && (fill == 0) && !mid_valid && !valid;

    always_ff @(posedge clk) begin
        if (push) store[wr] <= word[7:0];
    end

    always_ff @(posedge clk) begin
        if (pop) mid <= store[rd];
        if (move) data <= mid;
    end

    always_ff @(posedge clk) begin
        if (rst) begin
            bytes_left <= '0;
            beat       <= '0;
            passes     <= '0;
            left       <= '0;
            drop       <= 1'b0;
            s_tready   <= 1'b0;
            wr         <= '0;
            rd         <= '0;
            fill       <= '0;
            mid_valid  <= 1'b0;
            valid      <= 1'b0;
        end else begin
            if (push) begin
                wr         <= wr + 1'b1;
                word       <= word >> 8;
                bytes_left <= bytes_left - 1'b1;
            end
            if (s_tvalid && s_tready) begin
                beat <= last ? '0 : beat + 1'b1;
                if (!drop) begin
                    word       <= s_tdata;
                    bytes_left <= NW'(M_BYTES);
                end
            end
            // two bytes that are here already may have to be stored before the word that comes then
            s_tready <= (keep ? M_BYTES == 1 : bytes_left <= 2) && fill <= (FW+1)'(2**FW - M_BYTES - 2);
            if (pop) rd <= rd + 1'b1;
            if (push != pop) fill <= push ? fill + 1'b1 : fill - 1'b1;
            mid_valid <= pop || (mid_valid && !move);
            valid     <= move || (valid && !ready);
            if (drop_load) begin
                passes    <= drop_passes;
                drop      <= (drop_passes != 0);
                pass_size <= drop_samples;
                left      <= drop_samples;
            end else if (sample && drop) begin
                left <= (left == 16'd1) ? pass_size : left - 1'b1;
                if (left == 16'd1) begin
                    passes <= passes - 1'b1;
                    drop   <= (passes != 32'd1);
                end
            end
        end
    end
`ifdef GE_ASSERT
    ge_stream_assert #(.WIDTH(8), .NAME("data")) hold_data (.clk, .rst, .tdata(data), .tvalid(valid), .tready(ready));
`endif
endmodule
`default_nettype wire
