// Turns adjacent pairs of a query or key by the angle of the position; values pass at the same pace, so that the cache has
// one writer. In: one element a cycle, the first of a pair before the second. Out six cycles after an element's arrival:
// clip((u0 c - u1 s + 2^17) >> 18, 127) low, clip((u0 s + u1 c + 2^17) >> 18, 127) high; a value in the low byte.
`default_nettype none
module ge_decoder_rotate #(
    int unsigned CONTEXT  = 256,
    int unsigned HEAD_DIM = 8,
    int unsigned INDEX    = 10,     // bits of an element's index
    parameter    PREFIX   = "",
    localparam int unsigned PAIRS = HEAD_DIM / 2,
    localparam int unsigned TW = $clog2(CONTEXT > 1 ? CONTEXT : 2)
) (
    input  logic             clk,
    input  logic             rst,
    input  logic [TW-1:0]    position,
    input  logic             s_query, s_key, s_value,
    input  logic [INDEX-1:0] s_index,
    input  logic [11:0]      s_data,
    output logic             m_query, m_key, m_value,
    output logic [INDEX-1:0] m_index,        // of the first of a pair
    output logic [15:0]      m_pair
);
    if (HEAD_DIM < 2 || HEAD_DIM != (1 << $clog2(HEAD_DIM))) $fatal(1, "ge_decoder_rotate: HEAD_DIM=%0d must be a power of two of at least 2", HEAD_DIM);
    localparam int unsigned WORDS = CONTEXT * PAIRS;
    localparam int unsigned AW    = $clog2(WORDS > 1 ? WORDS : 2);

    logic [AW-1:0]  address;
    logic [31:0]    angle;
    ge_decoder_rom #(.DEPTH(WORDS), .WIDTH(32), .BANK(1024), .FILE({PREFIX, "angles"})) angles (.clk, .address, .word(angle));

    typedef struct packed {
        logic             query, key, value;
        logic [INDEX-1:0] index;
    } tag_t;
    tag_t               tags [1:5];
    logic signed [11:0] first;
    logic signed [11:0] u0 [1:3], u1 [1:3];
    logic signed [27:0] ac, bs, as, bc;
    logic signed [7:0]  values [4:5];
    logic signed [28:0] r0, r1;
    logic signed [15:0] cosine, sine;
    assign {cosine, sine} = angle;

    function automatic logic [7:0] clip(input logic signed [10:0] a);
        clip = a > 11'sd127 ? 8'd127 : a < -11'sd127 ? 8'h81 : a[7:0];
    endfunction

    always_ff @(posedge clk) begin
        // 1: the address of the angle, while the pair becomes whole; 3: the angle is there
        address <= AW'(32'(position) * PAIRS + 32'(s_index) / 2 % PAIRS);
        if (!s_index[0]) first <= s_data;
        tags[1] <= '{s_query && s_index[0], s_key && s_index[0], s_value, s_value ? s_index : {s_index[INDEX-1:1], 1'b0}};
        u0[1]   <= first;
        u1[1]   <= s_data;
        for (int s = 2; s <= 5; s++) tags[s] <= tags[s-1];
        for (int s = 2; s <= 3; s++) begin
            u0[s] <= u0[s-1];
            u1[s] <= u1[s-1];
        end
        // 4: products, 5: sums, 6: clip
        ac <= u0[3] * cosine;
        bs <= u1[3] * sine;
        as <= u0[3] * sine;
        bc <= u1[3] * cosine;
        values[4] <= u1[3][7:0];
        r0 <= 29'(ac) - 29'(bs) + 29'sd131072;
        r1 <= 29'(as) + 29'(bc) + 29'sd131072;
        values[5] <= values[4];
        m_pair  <= {clip(r1[28:18]), tags[5].value ? values[5] : clip(r0[28:18])};
        {m_query, m_key, m_value} <= rst ? 3'b0 : {tags[5].query, tags[5].key, tags[5].value};
        m_index <= tags[5].index;
        if (rst) for (int s = 1; s <= 5; s++) {tags[s].query, tags[s].key, tags[s].value} <= '0;
    end
endmodule
`default_nettype wire
