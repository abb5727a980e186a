/* The kernels of layers whose requantiser is one multiplication: int8 codes in and out, channels first, exact.
 *
 * greenedge brings every requantiser of such a layer to  code = clip((m*sum + b) >> (32 + shift), lo, hi)  with m in 32
 * bits and b in 64, which hold the bias and the offset of the code too, and proves that m*sum + b fits 64 bits.
 * GE_PLAIN: the C form also where the core has DSP instructions.
 */
#ifndef GE_FAST_H
#define GE_FAST_H

#include <stdint.h>

/* Where codes end; whole: shift is 0 and every code from -128 to 127 occurs. */
typedef struct {
    int8_t lo, hi;
    uint8_t shift, whole;
} ge_range;

/* Sizes of one group. stream: for every two output channels m m b b, then four weights of the one, four of the other,
 * and so on; four taps at a time, zeros after the last. b is its low and its high word. Taps lie in order
 * (channel, row, column); for ge_fast_conv_3x3 two rows of the kernel at a time: the outer taps of the one at places 0
 * and 2, those of the other at 1 and 3, both middles at 4 and 6, and so on without a gap. Scratch, taps rounded up to 4:
 * 6 bytes a tap for ge_fast_conv, 4 for the others.
 * ge_fast_conv_1x1: stride 1, no padding. ge_fast_conv_3x3: stride_w 1 or 2, no dilation, out_w even, in_w at least 4, at
 * most one column of padding on each side. */
typedef struct {
    uint16_t in_c, in_h, in_w, out_c, out_h, out_w;
    uint16_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, groups;
    int16_t pad_top, pad_left;
    int8_t pad;
    ge_range range;
    const int32_t *stream;
} ge_fast_conv_layer;

/* (vectors, k) to (vectors, m); the stream is that of a convolution. Scratch: 2 bytes for each of k, rounded
 * up to 4, and 4 where there are several vectors. */
typedef struct {
    uint32_t vectors, k, m;
    ge_range range;
    const int32_t *stream;
} ge_fast_dense_layer;

/* A 3x3 kernel on each channel, stride 1 or 2. stream: for every channel m, b, then a word for each row of weights.
 * Scratch: one padded plane of plane_h rows of plane_w bytes, plane_w a multiple of 4. */
typedef struct {
    uint16_t channels, in_h, in_w, out_h, out_w, stride_h, stride_w, pad_top, pad_left, plane_h, plane_w;
    int8_t pad;
    ge_range range;
    const int32_t *stream;
} ge_fast_depthwise_layer;

/* The sum of each channel's plane of `area` codes; stream: m, b of every channel. */
typedef struct {
    uint32_t channels, area;
    ge_range range;
    const int32_t *stream;
} ge_fast_mean_layer;

/* The largest of each window; padding never wins: `lowest` is the lowest code. */
typedef struct {
    uint16_t channels, in_h, in_w, out_h, out_w;
    uint16_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
    int16_t pad_top, pad_left;
    int8_t lowest;
} ge_fast_max_layer;

/* factor[0]*x + factor[1]*y, element by element; step: m, b. */
typedef struct {
    uint32_t size;
    int32_t factor[2], step[3];
    ge_range range;
} ge_fast_add_layer;

void ge_fast_conv(const ge_fast_conv_layer *layer, const int8_t *x, int8_t *y, void *scratch);
void ge_fast_conv_1x1(const ge_fast_conv_layer *layer, const int8_t *x, int8_t *y, void *scratch);
void ge_fast_conv_3x3(const ge_fast_conv_layer *layer, const int8_t *x, int8_t *y, void *scratch);
void ge_fast_dense(const ge_fast_dense_layer *layer, const int8_t *x, int8_t *y, void *scratch);
void ge_fast_depthwise(const ge_fast_depthwise_layer *layer, const int8_t *x, int8_t *y, void *scratch);
void ge_fast_mean(const ge_fast_mean_layer *layer, const int8_t *x, int8_t *y);
void ge_fast_max(const ge_fast_max_layer *layer, const int8_t *x, int8_t *y);
void ge_fast_sum(uint32_t channels, uint32_t area, int32_t bias, const int8_t *x, int32_t *y); /* of each plane */
void ge_fast_add(const ge_fast_add_layer *layer, const int8_t *a, const int8_t *b, int8_t *y);
void ge_fast_map(uint32_t size, const int8_t *table, const int8_t *x, int8_t *y); /* y = table[x + 128] */

#endif
