// Takes the core's outputs: counts samples, drops those of the passes that nobody asked for, keeps the others as bytes.
module ge_collector #(
    int unsigned M_BYTES = 1,        // bytes of a beat
    int unsigned BEATS   = 1,        // beats of a sample
    int unsigned FW      = 9         // the store has 2**FW bytes, at least M_BYTES
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
    localparam int unsigned BW = BEATS > 1 ? $clog2(BEATS) : 1;
    localparam int unsigned NW = $clog2(M_BYTES + 1);

    logic [8*M_BYTES-1:0] word;
    logic [NW-1:0]        bytes_left;
    logic [BW-1:0]        beat;
    logic [31:0]          passes;
    logic [15:0]          in_pass, pass_size;
    logic                 drop, last, push;

    logic [7:0]    store [2**FW];
    logic [FW-1:0] wr, rd;
    logic [FW:0]   fill;
    logic [7:0]    mid;                                  // what the memory gives, before its register
    logic          pop, move, mid_valid;

    assign drop     = (passes != 0);
    assign s_tready = drop || (bytes_left <= 1 && fill + (FW+1)'(M_BYTES) + (FW+1)'(2) <= (FW+1)'(2**FW));
    assign last     = (beat == BW'(BEATS - 1));
    assign sample   = s_tvalid && s_tready && last;
    assign push     = (bytes_left != 0);
    assign move     = mid_valid && (!valid || ready);
    assign pop      = (fill != 0) && (!mid_valid || move);
    assign empty    = (bytes_left == 0) && (fill == 0) && !mid_valid && !valid;

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
            in_pass    <= '0;
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
            if (pop) rd <= rd + 1'b1;
            if (push != pop) fill <= push ? fill + 1'b1 : fill - 1'b1;
            mid_valid <= pop || (mid_valid && !move);
            valid     <= move || (valid && !ready);
            if (drop_load) begin
                passes    <= drop_passes;
                pass_size <= drop_samples;
                in_pass   <= '0;
            end else if (sample && drop) begin
                in_pass <= (in_pass + 1'b1 == pass_size) ? '0 : in_pass + 1'b1;
                if (in_pass + 1'b1 == pass_size) passes <= passes - 1'b1;
            end
        end
    end
endmodule
