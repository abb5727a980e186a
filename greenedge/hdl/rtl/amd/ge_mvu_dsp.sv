// Matrix-vector unit on AMD's DSP slices: FINN's packed compute core (mvu_vvu_axi, several products per slice), fed from
// embedded weights. In place of ge_mvu, with the same streams, the same weight file and the same result:
//
//     y[m] = sum over k of W[m][k] * x[k] - C[m]
//
// The core computes whole products. What ge_mvu leaves out is subtracted here, so that whatever follows is the same for
// both: OFFSET_FILE holds C (word nf: neurons nf*PE ..., OUT_BITS each). With CORRECT = 1 nothing is left out, C is 0.
// K/SIMD * M/PE cycles per vector.
//
// The core reads a vector as it comes and keeps it for the other groups of neurons; the queue before it takes the next vector
// in meanwhile, as ge_mvu does. The weights lie in block memory with its output register. The core takes a word whenever it has an input, so the two read
// ranks are kept filled: they advance together when the core takes one.
`default_nettype none
module ge_mvu_dsp #(
    int unsigned DSP      = 2,   // 1: DSP48E1 (7 series), 2: DSP48E2 (UltraScale+)
    bit          NARROW   = 0,   // no weight is -2**(W_BITS-1)
    int unsigned K        = 16,
    int unsigned M        = 8,
    int unsigned PE       = 2,
    int unsigned SIMD     = 4,
    int unsigned W_BITS   = 4,   // 2 or more
    int unsigned A_BITS   = 4,   // 2 or more
    bit          ASGN     = 0,
    int unsigned OUT_BITS = 16,  // accumulator bits, signed
    bit          CORRECT  = 0,
    parameter    WEIGHTS_FILE = "",
    parameter    OFFSET_FILE = "",
    localparam int unsigned S_WIDTH = (SIMD*A_BITS + 7) / 8 * 8,
    localparam int unsigned M_WIDTH = (PE*OUT_BITS + 7) / 8 * 8
) (
    input  logic               clk,
    input  logic               rst,
    input  logic [S_WIDTH-1:0] s_tdata,
    input  logic               s_tvalid,
    output logic               s_tready,
    output logic [M_WIDTH-1:0] m_tdata,
    output logic               m_tvalid,
    input  logic               m_tready
);
    if (SIMD == 0 || K % SIMD != 0) $fatal(1, "ge_mvu_dsp: SIMD=%0d must divide K=%0d", SIMD, K);
    if (PE == 0 || M % PE != 0) $fatal(1, "ge_mvu_dsp: PE=%0d must divide M=%0d", PE, M);
    if (DSP != 1 && DSP != 2) $fatal(1, "ge_mvu_dsp: DSP=%0d must be 1 (DSP48E1) or 2 (DSP48E2)", DSP);
    if (DSP == 1 && !NARROW)
        $fatal(1, "ge_mvu_dsp: NARROW=%0d must be 1 for a DSP48E1, which has no room for the widest negative product", NARROW);
    if (W_BITS < 2 || A_BITS < 2) $fatal(1, "ge_mvu_dsp: W_BITS=%0d and A_BITS=%0d must be at least 2", W_BITS, A_BITS);
    if (OUT_BITS < 1) $fatal(1, "ge_mvu_dsp: OUT_BITS=%0d must be at least 1", OUT_BITS);

    localparam int unsigned NF    = M / PE;
    localparam int unsigned WORDS = K / SIMD * NF;
    localparam int unsigned WW    = WORDS > 1 ? $clog2(WORDS) : 1;
    localparam int unsigned NW    = NF > 1 ? $clog2(NF) : 1;
    // the core wants room for one product
    localparam int unsigned CB    = OUT_BITS > W_BITS + A_BITS ? OUT_BITS : W_BITS + A_BITS;
    localparam int unsigned C_WIDTH = (PE*CB + 7) / 8 * 8;
    localparam int unsigned W_WIDTH = (PE*SIMD*W_BITS + 7) / 8 * 8;

    // ---- the next vector waits here
    logic [S_WIDTH-1:0] x_tdata;
    logic               x_tvalid, x_tready;
    ge_queue #(.WIDTH(S_WIDTH), .DEPTH(K/SIMD)) next (
        .clk, .rst, .s_tdata, .s_tvalid, .s_tready, .m_tdata(x_tdata), .m_tvalid(x_tvalid), .m_tready(x_tready));

    // ---- weights: address, memory, output register; all move on when the core takes a word
    (* rom_style = "block" *) logic [PE*SIMD*W_BITS-1:0] weights [WORDS];
    initial $readmemh(WEIGHTS_FILE, weights);

    logic [PE*SIMD*W_BITS-1:0] w1, w2;
    logic [WW-1:0]         wa;
    logic [2:1]            filled;
    logic                  taken, step;
    assign step = taken || !filled[2];
    always_ff @(posedge clk) begin
        if (step) begin
            w1 <= weights[wa];
            w2 <= w1;
        end
    end
    always_ff @(posedge clk) begin
        if (rst) begin
            wa     <= '0;
            filled <= '0;
        end else if (step) begin
            wa     <= (wa == WW'(WORDS - 1)) ? '0 : wa + 1'b1;
            filled <= {filled[1], 1'b1};
        end
    end

    // ---- FINN's core
    logic               ready;
    logic [C_WIDTH-1:0] sums;
    assign taken = filled[2] && ready;
    mvu_vvu_axi #(
        .IS_MVU(1), .VERSION(DSP), .MW(K), .MH(M), .PE(PE), .SIMD(SIMD), .ACTIVATION_WIDTH(A_BITS), .WEIGHT_WIDTH(W_BITS),
        .ACCU_WIDTH(CB), .NARROW_WEIGHTS(NARROW), .SIGNED_ACTIVATIONS(ASGN)
    ) core (
        .ap_clk(clk), .ap_clk2x(clk), .ap_rst_n(!rst),
        .s_axis_weights_tdata(W_WIDTH'(w2)), .s_axis_weights_tvalid(filled[2]), .s_axis_weights_tready(ready),
        .s_axis_input_tdata(x_tdata), .s_axis_input_tvalid(x_tvalid), .s_axis_input_tready(x_tready),
        .m_axis_output_tdata(sums), .m_axis_output_tvalid(m_tvalid), .m_axis_output_tready(m_tready));

    // ---- what ge_mvu leaves out
    logic [PE*OUT_BITS-1:0] left_out, word;
    if (CORRECT) begin : whole
        assign left_out = '0;
    end else begin : offset
        logic [PE*OUT_BITS-1:0] offsets [NF];
        initial $readmemh(OFFSET_FILE, offsets);
        logic [NW-1:0]    nf;
        always_ff @(posedge clk) begin
            if (rst) nf <= '0;
            else if (m_tvalid && m_tready) nf <= (nf == NW'(NF - 1)) ? '0 : nf + 1'b1;
        end
        assign left_out = offsets[nf];
    end
    for (genvar p = 0; p < PE; p++) begin : neuron
        assign word[p*OUT_BITS +: OUT_BITS] = sums[p*CB +: OUT_BITS] - left_out[p*OUT_BITS +: OUT_BITS];
    end
    assign m_tdata = M_WIDTH'(word);
`ifdef GE_ASSERT
    ge_stream_assert #(.WIDTH(M_WIDTH), .NAME("m")) hold_m (.clk, .rst, .tdata(m_tdata), .tvalid(m_tvalid), .tready(m_tready));
`endif
endmodule
`default_nettype wire
