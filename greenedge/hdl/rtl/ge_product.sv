// One weight times one activation in look-up tables, minus a constant: p = w*a - (w < 0 ? 2**max(W_BITS-2, 0) : 0).
//
// The two top bits of a two's-complement weight are a digit of {-2, -1, 0, 1}; times `a` that is {~2a, ~a, 0, a} plus
// one where the digit is negative: one LUT4 a bit and no carry chain. The missing ones depend on the weights alone, so
// whoever reads the accumulators adds them once per neuron instead of once per product (see ge_mvu). The bits below are
// added as gated pairs. A one-bit weight is a sign: 0 is +1, 1 is -1.
//
// Latency: 1 cycle up to W_BITS = 3, then one more per level of the tree over the pairs (LATENCY below).
`default_nettype none
module ge_product #(
    int unsigned W_BITS = 4,     // weight bits
    int unsigned A_BITS = 4,     // activation bits
    bit          ASGN   = 0,     // activations are signed
    localparam int unsigned PB = A_BITS + W_BITS // bits of the result, signed
) (
    input  logic              clk,
    input  logic [W_BITS-1:0] w,
    input  logic [A_BITS-1:0] a,
    output logic [PB-1:0]     p
);
    if (W_BITS < 1) $fatal(1, "ge_product: W_BITS=%0d must be at least 1", W_BITS);
    if (A_BITS < 1) $fatal(1, "ge_product: A_BITS=%0d must be at least 1", A_BITS);

    localparam int unsigned LOW  = W_BITS > 2 ? W_BITS - 2 : 0; // bits below the top digit
    localparam int unsigned ROWS = 1 + (LOW + 1) / 2;

    logic signed [A_BITS:0] ax;                                 // activation with its sign
    assign ax = {ASGN & a[A_BITS-1], a};

    logic [A_BITS+1:0] top;                                     // the top digit's multiple of a, one's complement
    if (W_BITS == 1) begin : sign
        assign top = w[0] ? ~{ax[A_BITS], ax} : {ax[A_BITS], ax};
    end else begin : digit
        for (genvar k = 0; k < A_BITS + 2; k++) begin : bits
            localparam int unsigned K1 = k > A_BITS ? A_BITS : k;
            logic one, two;
            assign one = ax[K1];
            if (k == 0) begin : first
                assign two = 1'b0;
            end else begin : other
                assign two = ax[k-1];
            end
            // {w1, w0}: 00 -> 0, 01 -> a, 10 -> ~2a, 11 -> ~a
            assign top[k] = w[W_BITS-1] ? ~(w[W_BITS-2] ? one : two) : (w[W_BITS-2] & one);
        end
    end

    if (ROWS == 1) begin : digit_only
        always_ff @(posedge clk) p <= PB'($signed(top));
    end else if (LOW == 1) begin : digit_and_bit
        logic signed [A_BITS:0] bit0;
        assign bit0 = w[0] ? ax : '0;
        always_ff @(posedge clk) p <= ($signed(PB'($signed(top))) <<< 1) + $signed(bit0);
    end else begin : rows
        logic [ROWS*PB-1:0] row;
        for (genvar r = 0; r < ROWS - 1; r++) begin : low
            logic signed [A_BITS:0]   even;
            logic signed [A_BITS+1:0] odd;
            logic signed [A_BITS+2:0] pair;
            assign even = w[2*r] ? ax : '0;
            if (2*r + 1 < LOW) begin : two
                assign odd = w[2*r+1] ? {ax, 1'b0} : '0;
            end else begin : one
                assign odd = '0;
            end
            always_ff @(posedge clk) pair <= even + odd;
            assign row[r*PB +: PB] = PB'(pair) << (2*r);
        end
        logic signed [A_BITS+1:0] top_r;
        always_ff @(posedge clk) top_r <= top;
        assign row[(ROWS-1)*PB +: PB] = PB'(top_r) << LOW;

        logic [PB+$clog2(ROWS)-1:0] total;
        ge_adder_tree #(.N(ROWS), .WIDTH(PB)) tree (.clk, .x(row), .sum(total));
        assign p = total[PB-1:0];
    end
endmodule
`default_nettype wire
