// What a row of products is for: the matrices of a block in the order of a token, the head, and the two passes of attention.
`default_nettype none
package ge_decoder_pkg;
    typedef enum logic [3:0] {QUERY, KEY, VALUE, OUTPUT, GATE_UP, DOWN, HEAD, SCORE, MIX} kind_t;
    // bits of the constants of a layer, as memories.py packs them, the first in the high bits
    localparam int unsigned SHIFT_BITS = 5, LOGIT_SHIFT_BITS = 4, NUMERATOR_BITS = 30, PRODUCT_BITS = 17, GAIN_BITS = 18;
    typedef struct packed {
        logic [GAIN_BITS-1:0]        attention_gain, mlp_gain;
        logic [PRODUCT_BITS-1:0]     product_multiplier;
        logic [NUMERATOR_BITS-1:0]   context_numerator;
        logic [LOGIT_SHIFT_BITS-1:0] logit_shift;                     // every shift here is one less than the record's
        logic [SHIFT_BITS-1:0]       down, up, gate, output_, value, key, query;
    } layer_t;
endpackage
`default_nettype wire
