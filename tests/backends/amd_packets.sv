// A core without packets (two beats in for one out: their sum), in packets; TLAST travels as bit 0 of each beat.
`default_nettype none
module amd_packets (
    input  logic        clk,
    input  logic        rst,
    input  logic [15:0] s_tdata,
    input  logic        s_tvalid,
    output logic        s_tready,
    output logic [15:0] m_tdata,
    output logic        m_tvalid,
    input  logic        m_tready
);
    logic       cs_valid, cs_ready, cm_valid, cm_ready, last, half;
    logic [7:0] first, sum;
    ge_packet #(.S_BEATS(4), .M_BEATS(2), .DEPTH(4)) packet (
        .clk, .rst, .s_tvalid, .s_tlast(s_tdata[0]), .s_tready, .core_s_tvalid(cs_valid), .core_s_tready(cs_ready),
        .core_m_tvalid(cm_valid), .core_m_tready(cm_ready), .m_tvalid, .m_tlast(last), .m_tready);
    assign cs_ready = !half || !cm_valid || cm_ready;
    always_ff @(posedge clk) begin
        if (rst) begin
            half     <= 1'b0;
            cm_valid <= 1'b0;
        end else begin
            if (cm_valid && cm_ready) cm_valid <= 1'b0;
            if (cs_valid && cs_ready) begin
                half <= !half;
                if (half) cm_valid <= 1'b1;
            end
        end
    end
    always_ff @(posedge clk) begin
        if (cs_valid && cs_ready && !half) first <= s_tdata[8:1];
        if (cs_valid && cs_ready && half)  sum   <= first + s_tdata[8:1];
    end
    assign m_tdata = {7'b0, sum, last};
endmodule
`default_nettype wire
