/* Integer kernels of greenedge: freestanding C99, no heap, no floating point, no library but <stdint.h>.
 *
 * Tensors lie channels first (C, H, W), as in ONNX, row-major. A narrow tensor holds level - offset in one int8_t per
 * element, a wide one the value itself in an int32_t. Every sum fits an int32_t: greenedge proves it before it writes
 * the model.
 */
#ifndef GE_KERNELS_H
#define GE_KERNELS_H

#include <stdint.h>

#define GE_DIMS 6

typedef struct {
    uint8_t wide;   /* 1: int32_t elements */
    int16_t offset; /* narrow: level = stored + offset */
} ge_code;

/* A requantiser: from accumulator to level, per channel, in the form that takes fewer bytes.
 * affine:      level = clip((m*x + b) >> s, lo, hi)
 * thresholds:  level = lo + how many of the hi - lo ascending thresholds sign*x has reached
 * table:       level = table[x - first], for functions that are not monotone */
typedef struct {
    uint32_t channels; /* 1: one function serves all */
    uint32_t inner;    /* element i belongs to channel (i / inner) % channels */
    int16_t lo, hi;
    const int32_t *m;
    const int64_t *b;
    const uint8_t *s;
    const int32_t *thresholds;
    const int8_t *sign;
    const int16_t *table;
    const int32_t *first;
    uint32_t table_size;
} ge_step;

/* Where results go: through the step if there is one, in the code of the tensor. */
typedef struct {
    ge_code code;
    const ge_step *step; /* or 0 */
} ge_sink;

/* weight (M, K); bias holds what the stored offset of x leaves out, or is 0 */
typedef struct {
    uint32_t vectors, k, m;
    const int8_t *weight;
    const int32_t *bias;
    ge_sink sink;
} ge_dense_layer;

/* weight (out_c, in_c/groups, kernel_h, kernel_w); pad is the stored value that padding has */
typedef struct {
    uint16_t in_c, in_h, in_w, out_c, out_h, out_w;
    uint16_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, groups;
    int16_t pad_top, pad_left;
    int32_t pad;
    const int8_t *weight;
    const int32_t *bias;
    ge_sink sink;
} ge_conv_layer;

/* weight (in_c, out_c/groups, kernel_h, kernel_w) */
typedef ge_conv_layer ge_conv_transpose_layer;

/* max: padding never wins (pad is the lowest level); sum: padding counts as the level pad */
typedef struct {
    uint16_t channels, in_h, in_w, out_h, out_w;
    uint16_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
    int16_t pad_top, pad_left;
    int32_t pad;
    uint8_t max;
    ge_code from;
    ge_sink sink;
} ge_pool_layer;

/* sum over i of multiplier[i][c] * x[i]; the channel c is the next one after every `inner` elements */
typedef struct {
    uint32_t size, terms, channels, inner;
    const int32_t *multiplier;
    const ge_code *from;
    ge_sink sink;
} ge_add_layer;

/* (x[0] - zero[0]) * (x[1] - zero[1]) over four axes; a stride of 0 repeats an element */
typedef struct {
    uint16_t size[4];
    uint32_t stride[2][4];
    int32_t zero[2];
    ge_code from[2];
    ge_sink sink;
} ge_multiply_layer;

/* A strided copy: transpositions, concatenation, nearest upsampling, padding, depth to space, or a step alone. */
typedef struct {
    uint32_t size[GE_DIMS];
    int32_t from_stride[GE_DIMS], to_stride[GE_DIMS];
    uint32_t to_start;
    ge_code from;
    ge_sink sink;
} ge_copy_layer;

/* sum over k of (a[m][k] - zero[0]) * (b[k][n] - zero[1]), matrix by matrix */
typedef struct {
    uint32_t matrices, m, k, n;
    int32_t zero[2];
    ge_code from[2];
    ge_sink sink;
} ge_matmul_layer;

/* Rows of shares: min((2*unit*e + per*Z) / (2*per*Z), most), where Z is the sum of e = exponential(max - x), 0 where the
 * mask (which repeats after mask_size elements) is 0. exponential(d) is table[d], or table[d / fine_size] times
 * fine[d % fine_size] / 2^fine_bits, rounded; 0 behind the table. Everything stays below 2^31. */
typedef struct {
    uint32_t rows, length, unit, per, most, table_size, fine_size, mask_size;
    uint8_t fine_bits;
    const int32_t *table, *fine;
    const uint8_t *mask;
    ge_code from;
    ge_sink sink;
} ge_softmax_layer;

/* Rows of (n*R + 2^(shift-1)) >> shift: n = x - zero and D = sum of n^2, or (layer) n = length*x - sum of x and D =
 * length * sum of x^2 - (sum of x)^2; epsilon more, 1 at least. R = isqrt((constant / D) << 2h) with the largest h up to
 * 30 that leaves it below 2^62, or table[D >> 2h] with the least h that leaves it below 1024; the shift grows by h. */
typedef struct {
    uint32_t rows, length;
    uint8_t layer, shift;
    int32_t zero;
    int64_t epsilon, constant;
    const int32_t *table;
    ge_code from;
    ge_sink sink;
} ge_norm_layer;

void ge_dense(const ge_dense_layer *layer, const void *x, void *y);
void ge_conv(const ge_conv_layer *layer, const void *x, void *y);
void ge_conv_transpose(const ge_conv_transpose_layer *layer, int16_t offset, const void *x, void *y);
void ge_pool(const ge_pool_layer *layer, const void *x, void *y);
void ge_add(const ge_add_layer *layer, const void *const *x, void *y);
void ge_multiply(const ge_multiply_layer *layer, const void *a, const void *b, void *y);
void ge_matmul(const ge_matmul_layer *layer, const void *a, const void *b, void *y);
void ge_softmax(const ge_softmax_layer *layer, const void *x, void *y);
void ge_norm(const ge_norm_layer *layer, const void *x, void *y);
void ge_copy(const ge_copy_layer *layer, const void *x, void *y);
void ge_fill(uint32_t size, ge_code code, int32_t level, void *y);

#endif
