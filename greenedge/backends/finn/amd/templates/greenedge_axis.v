// @target@: the core between the two streams of a DMA engine, one beat of the core in each 32-bit word. A packet is a batch of
// samples, see ge_packet.sv. Verilog, because a block design takes no SystemVerilog module. Made by greenedge.
`default_nettype none
module greenedge_axis (
    (* X_INTERFACE_INFO = "xilinx.com:signal:clock:1.0 aclk CLK" *)
    (* X_INTERFACE_PARAMETER = "ASSOCIATED_BUSIF s_axis:m_axis, ASSOCIATED_RESET aresetn" *)
    input  wire        aclk,
    input  wire        aresetn,
    input  wire [31:0] s_axis_tdata,
    input  wire        s_axis_tvalid,
    input  wire        s_axis_tlast,
    output wire        s_axis_tready,
    output wire [31:0] m_axis_tdata,
    output wire [3:0]  m_axis_tkeep,
    output wire        m_axis_tvalid,
    output wire        m_axis_tlast,
    input  wire        m_axis_tready
);
    wire to_tvalid, to_tready, from_tvalid, from_tready;
    wire [@given@-1:0] result;
    assign m_axis_tdata = result;                                // zeros above
    assign m_axis_tkeep = 4'b1111;
    ge_packet #(.S_BEATS(@s_beats@), .M_BEATS(@m_beats@)) packet (
        .clk(aclk), .rst(!aresetn), .s_tvalid(s_axis_tvalid), .s_tlast(s_axis_tlast), .s_tready(s_axis_tready),
        .core_s_tvalid(to_tvalid), .core_s_tready(to_tready), .core_m_tvalid(from_tvalid), .core_m_tready(from_tready),
        .m_tvalid(m_axis_tvalid), .m_tlast(m_axis_tlast), .m_tready(m_axis_tready));
    @top@ core (
        .clk(aclk), .restart(!aresetn), .s_tdata(s_axis_tdata[@taken@-1:0]), .s_tvalid(to_tvalid), .s_tready(to_tready),
        .m_tdata(result), .m_tvalid(from_tvalid), .m_tready(from_tready));
endmodule
`default_nettype wire
