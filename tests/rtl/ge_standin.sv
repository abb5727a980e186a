// A small core for the tests of what is around cores: the running sum of every sample's six elements of 5 bits. Samples
// that lose their place give wrong sums. Takes PAUSE cycles after every sample.
`default_nettype none
module ge_standin #(
    int unsigned PAUSE = 20
) (
    input  logic        clk,
    input  logic        restart,
    input  logic [15:0] s_tdata,     // two elements, three beats
    input  logic        s_tvalid,
    output logic        s_tready,
    output logic [15:0] m_tdata,     // one sum of 9 bits, six beats
    output logic        m_tvalid,
    input  logic        m_tready
);
    logic [8:0]  sum;
    logic [9:0]  word;
    logic [1:0]  beat;
    logic [1:0]  left;               // elements of the word still to go out
    logic [7:0]  pause;
    assign s_tready = (left == 0) && (pause == 0);
    assign m_tvalid = (left != 0);
    assign m_tdata  = {7'd0, sum + 9'(word[4:0])};
    always_ff @(posedge clk) begin
        if (restart) begin
            sum   <= '0;
            beat  <= '0;
            left  <= '0;
            pause <= '0;
        end else begin
            if (pause != 0) pause <= pause - 1'b1;
            if (s_tvalid && s_tready) begin
                word <= s_tdata[9:0];
                left <= 2'd2;
                beat <= (beat == 2'd2) ? '0 : beat + 1'b1;
            end
            if (m_tvalid && m_tready) begin
                word <= word >> 5;
                left <= left - 1'b1;
                sum  <= sum + 9'(word[4:0]);
                if (left == 2'd1 && beat == 0) begin
                    sum   <= '0;
                    pause <= 8'(PAUSE);
                end
            end
        end
    end
endmodule
`default_nettype wire
