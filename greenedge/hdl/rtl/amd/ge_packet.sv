// AXI4-Stream packets around a core that knows none: a packet is any number of samples, its last beat in has TLAST, and so
// has the last beat out that belongs to it. A DMA engine moves a batch as one packet.
//
// Beats are counted; each sample's TLAST waits in a queue until its last beat leaves. That beat is held back until the
// sample has come in whole, for only then it is known whether it ends the packet (a core may be done before its last input,
// where it reads not all of an image).
`default_nettype none
module ge_packet #(
    int unsigned S_BEATS = 64,   // beats of a sample, in and out
    int unsigned M_BEATS = 10,
    int unsigned DEPTH   = 64    // samples that may be within the core; more wait outside
) (
    input  logic clk,
    input  logic rst,
    // from the DMA engine, and to the core
    input  logic s_tvalid,
    input  logic s_tlast,
    output logic s_tready,
    output logic core_s_tvalid,
    input  logic core_s_tready,
    // from the core, and to the DMA engine
    input  logic core_m_tvalid,
    output logic core_m_tready,
    output logic m_tvalid,
    output logic m_tlast,
    input  logic m_tready
);
    if (S_BEATS < 1) $fatal(1, "ge_packet: S_BEATS=%0d must be at least 1", S_BEATS);
    if (M_BEATS < 1) $fatal(1, "ge_packet: M_BEATS=%0d must be at least 1", M_BEATS);
    if (DEPTH < 1) $fatal(1, "ge_packet: DEPTH=%0d must be at least 1", DEPTH);

    localparam int unsigned SW = S_BEATS > 1 ? $clog2(S_BEATS) : 1;
    localparam int unsigned MW = M_BEATS > 1 ? $clog2(M_BEATS) : 1;

    logic [SW-1:0] sn;
    logic [MW-1:0] mn;
    logic          s_end, m_end, room, known, ends;
    logic [7:0]    flag_in, flag_out;

    assign s_end         = (sn == SW'(S_BEATS - 1));
    assign core_s_tvalid = s_tvalid && (!s_end || room);
    assign s_tready      = core_s_tready && (!s_end || room);
    assign m_end         = (mn == MW'(M_BEATS - 1));
    assign m_tvalid      = core_m_tvalid && (!m_end || known);
    assign m_tlast       = m_end && ends;
    assign core_m_tready = m_tready && (!m_end || known);

    always_ff @(posedge clk) begin
        if (rst) begin
            sn <= '0;
            mn <= '0;
        end else begin
            if (s_tvalid && s_tready) sn <= s_end ? '0 : sn + 1'b1;
            if (m_tvalid && m_tready) mn <= m_end ? '0 : mn + 1'b1;
        end
    end

    assign flag_in = {7'b0, s_tlast};
    assign ends    = flag_out[0];
    ge_queue #(.WIDTH(8), .DEPTH(DEPTH)) flags (
        .clk, .rst, .s_tdata(flag_in), .s_tvalid(s_tvalid && core_s_tready && s_end), .s_tready(room),
        .m_tdata(flag_out), .m_tvalid(known), .m_tready(core_m_tvalid && m_tready && m_end));
`ifdef GE_ASSERT
    ge_stream_assert #(.WIDTH(1), .NAME("m")) hold_m (.clk, .rst, .tdata(m_tlast), .tvalid(m_tvalid), .tready(m_tready));
    ge_stream_assert #(.WIDTH(1), .NAME("core_s")) hold_core_s (
        .clk, .rst, .tdata(1'b0), .tvalid(core_s_tvalid), .tready(core_s_tready));
`endif
endmodule
`default_nettype wire
