/* Kernels of layers whose requantiser is one multiplication: see ge_fast.h.
 *
 * A convolution computes two pixels of two channels at a time. The taps of two pixels are gathered into a column once,
 * and every pair of output channels runs along it: each weight and each tap is loaded once for two products. With DSP
 * instructions a column holds pairs of taps as halfwords (the first pixel's, then the second's), in the order in which
 * SXTB16 takes four weights apart: taps 0 and 2, then taps 1 and 3.
 */
#include "ge_fast.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the streams of weights are written for little-endian cores"
#endif

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#define APART static __attribute__((noinline)) /* inlined into its caller, the inner loop would run out of registers */
#else
#define INLINE static inline
#define APART static
#endif

#if defined(__ARM_FEATURE_DSP) && defined(__GNUC__) && !defined(GE_PLAIN)
#define DSP 1
#include <arm_acle.h>

INLINE uint32_t word(const int8_t *p) {
    uint32_t v;
    __builtin_memcpy(&v, p, 4); /* also where -ffreestanding makes a call of memcpy */
    return v;
}

INLINE uint32_t halfword(const int8_t *p) {
    uint16_t v;
    __builtin_memcpy(&v, p, 2);
    return v;
}

INLINE int32_t even(uint32_t v) { return (int32_t)__sxtb16((int32_t)v); } /* bytes 0 and 2 as halfwords */

INLINE int32_t odd(uint32_t v) { /* bytes 1 and 3 */
#if defined(__arm__)
    int32_t r; /* compilers do not fold the rotation into SXTB16 */
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(r) : "r"(v));
    return r;
#else
    return (int32_t)__sxtb16((int32_t)(v >> 8 | v << 24));
#endif
}

INLINE int32_t lows(int32_t a, int32_t b) { return (int32_t)(((uint32_t)a & 0xffffu) | (uint32_t)b << 16); }
INLINE int32_t highs(int32_t a, int32_t b) { return (int32_t)((uint32_t)a >> 16 | ((uint32_t)b & 0xffff0000u)); }
#else
#define DSP 0
#endif

enum { SHIFTS_SIGN = (-1 >> 1) == -1 }; /* C99 leaves >> of a negative number to the compiler */

INLINE int32_t floored(int32_t v, uint8_t s) { return SHIFTS_SIGN || v >= 0 ? v >> s : ~(~v >> s); }

INLINE int32_t high_word(int64_t v) { return (int32_t)(SHIFTS_SIGN || v >= 0 ? v >> 32 : ~(~v >> 32)); }

INLINE int64_t wide(const int32_t *words) { return (int64_t)words[1] * 4294967296 + (uint32_t)words[0]; }

INLINE int8_t coded(const ge_range *r, int whole, int32_t sum, int32_t m, int64_t b) {
    int32_t v = high_word((int64_t)sum * m + b);
#if DSP
    if (whole) return (int8_t)__ssat(v, 8);
#endif
    if (whole) return (int8_t)(v > 127 ? 127 : v < -128 ? -128 : v);
    v = floored(v, r->shift);
    return (int8_t)(v > r->hi ? r->hi : v < r->lo ? r->lo : v);
}

/* Where the codes of two pixels go: `pixel` bytes from the one to the other, `channel` bytes to the next channel. */
typedef struct {
    int8_t *y;
    const int8_t *end;
    int32_t pixel, channel;
} place;

/* One channel's codes of one or two pixels; m and b are its multiplier and addend. */
INLINE void store(const ge_range *r, int whole, int two, int32_t m, int64_t b, int32_t first, int32_t second, int8_t *y, int32_t pixel) {
    if (two) y[pixel] = coded(r, whole, second, m, b);
    y[0] = coded(r, whole, first, m, b);
}

#if DSP
/* Channels from to.y to to.end, in pairs; the column has `two` halfword pairs for every two taps. */
INLINE void multiply(const int32_t *w, const int32_t *column, uint32_t groups, const place *to, const ge_range *r, int whole, int two) {
    const int32_t *end = column + (two ? 4 : 2) * groups;
    int8_t *y = to->y;
    const int8_t *to_end = to->end;
    int32_t pixel = to->pixel, channel = to->channel;
    while (y != to_end) {
        const int32_t *head = w, *x = column;
        int32_t a0 = 0, a1 = 0, b0 = 0, b1 = 0;
        w += 6;
#define GROUP do { \
            uint32_t p = (uint32_t)w[0], q = (uint32_t)w[1]; \
            int32_t s = x[0], t = two ? x[1] : 0, u = two ? x[2] : x[1], v = two ? x[3] : 0, e, o; \
            w += 2, x += two ? 4 : 2; \
            e = even(p), o = odd(p); \
            a0 = __smlad(e, s, a0), a0 = __smlad(o, u, a0); \
            if (two) b0 = __smlad(e, t, b0), b0 = __smlad(o, v, b0); \
            e = even(q), o = odd(q); \
            a1 = __smlad(e, s, a1), a1 = __smlad(o, u, a1); \
            if (two) b1 = __smlad(e, t, b1), b1 = __smlad(o, v, b1); \
        } while (0)
        for (uint32_t rest = groups & 3; rest; rest--) GROUP;
        while (x != end) {
            GROUP;
            GROUP;
            GROUP;
            GROUP;
        }
        store(r, whole, two, head[0], wide(head + 2), a0, b0, y, pixel), y += channel;
        store(r, whole, two, head[1], wide(head + 4), a1, b1, y, pixel), y += channel;
    }
}
#else
/* Channels from to.y to to.end, in pairs; the column has the first pixel's taps, then the second's. */
INLINE void multiply(const int32_t *w, const int32_t *column, uint32_t groups, const place *to, const ge_range *r, int whole, int two) {
    int8_t *y = to->y;
    const int8_t *to_end = to->end;
    int32_t pixel = to->pixel, channel = to->channel;
    while (y != to_end) {
        const int32_t *head = w;
        const int8_t *q = (const int8_t *)(w + 6), *u = (const int8_t *)column, *v = u + 4 * groups;
        int32_t a0 = 0, a1 = 0, b0 = 0, b1 = 0;
        for (const int8_t *end = v; u != end; u += 4, v += 4, q += 8) {
#define TAP(i) do { \
            int32_t m = q[i], n = q[4 + i], s = u[i], t = two ? v[i] : 0; \
            a0 += m * s, a1 += n * s; \
            if (two) b0 += m * t, b1 += n * t; \
        } while (0)
            TAP(0);
            TAP(1);
            TAP(2);
            TAP(3);
        }
        w += 6 + 2 * groups;
        store(r, whole, two, head[0], wide(head + 2), a0, b0, y, pixel), y += channel;
        store(r, whole, two, head[1], wide(head + 4), a1, b1, y, pixel), y += channel;
    }
}
#endif

APART void multiply_whole(const int32_t *w, const int32_t *column, uint32_t groups, const place *to) {
    multiply(w, column, groups, to, 0, 1, 1);
}

APART void multiply_any(const int32_t *w, const int32_t *column, uint32_t groups, const place *to, const ge_range *r) {
    multiply(w, column, groups, to, r, 0, 1);
}

APART void multiply_one(const int32_t *w, const int32_t *column, uint32_t groups, const place *to, const ge_range *r) {
    if (r->whole) multiply(w, column, groups, to, r, 1, 0);
    else multiply(w, column, groups, to, r, 0, 0);
}

/* All channels of one or two pixels; the channel that an odd number leaves over has a partner without weights. */
static void run_channels(const int32_t *w, const int32_t *column, uint32_t groups, uint32_t channels, place *to, const ge_range *r, int two) {
    to->end = to->y + (int32_t)(channels / 2 * 2) * to->channel;
    if (!two) multiply_one(w, column, groups, to, r);
    else if (r->whole) multiply_whole(w, column, groups, to);
    else multiply_any(w, column, groups, to, r);
    if (channels % 2) {
        int8_t spare[4], *last = to->y + (int32_t)(channels - 1) * to->channel;
        place aside = {spare, spare + 2, 2, 1};
        w += channels / 2 * (6 + 2 * groups);
        if (!two) multiply_one(w, column, groups, &aside, r);
        else multiply_any(w, column, groups, &aside, r);
        last[0] = spare[0];
        if (two) last[to->pixel] = spare[2];
    }
}

#if DSP
/* Taps as bytes (the first pixel's at a, the second's at b) to the halfwords of a column; zeros behind the last. */
static void expand(const int8_t *a, const int8_t *b, uint32_t taps, int two, int32_t *to) {
    int8_t rest[8];
    for (uint32_t i = 0; i < 4; i++) rest[i] = i < taps % 4 ? a[taps / 4 * 4 + i] : 0;
    for (uint32_t i = 0; i < 4; i++) rest[4 + i] = two && i < taps % 4 ? b[taps / 4 * 4 + i] : 0;
    for (uint32_t left = (taps + 3) / 4; left > 0; left--, a += 4, b += 4) {
        if (left == 1 && taps % 4) a = rest, b = rest + 4;
        uint32_t u = word(a), v;
        if (!two) {
            *to++ = even(u), *to++ = odd(u);
            continue;
        }
        v = word(b);
        to[0] = even(u), to[1] = even(v), to[2] = odd(u), to[3] = odd(v), to += 4;
    }
}
#endif

/* Bytes of columns -> what multiply reads; in plain C the bytes are the column. */
INLINE void finish(const int8_t *bytes, uint32_t groups, int two, int32_t *column) {
#if DSP
    expand(bytes, two ? bytes + 4 * groups : bytes, 4 * groups, two, column);
#else
    (void)bytes, (void)groups, (void)two, (void)column;
#endif
}

/* Where a column's bytes lie in the scratch: behind the halfwords, or all there is. */
INLINE int8_t *bytes_in(void *scratch, uint32_t groups, int two) {
    return (int8_t *)scratch + (!DSP ? 0 : two ? 16 * groups : 8 * groups);
}

static void clear_rest(int8_t *bytes, uint32_t taps, uint32_t groups, int two) {
    for (uint32_t i = taps; i < 4 * groups; i++) {
        bytes[i] = 0;
        if (two) bytes[4 * groups + i] = 0;
    }
}

/* The taps of output (oy, ox) as bytes, in order. */
static void gather(const ge_fast_conv_layer *l, const int8_t *x, int32_t oy, int32_t ox, int8_t *to) {
    int32_t top = oy * l->stride_h - l->pad_top, left = ox * l->stride_w - l->pad_left, w = l->in_w, area = l->in_h * w;
    int32_t down = l->dilation_h, right = l->dilation_w;
    int32_t bottom = top + (l->kernel_h - 1) * down, last = left + (l->kernel_w - 1) * right;
    if (top >= 0 && left >= 0 && bottom < l->in_h && last < w) {
        const int8_t *from = x + top * w + left;
        for (int32_t c = l->in_c; c > 0; c--, from += area) {
            const int8_t *row = from;
            for (int32_t ky = l->kernel_h; ky > 0; ky--, row += down * w) {
                const int8_t *p = row;
                for (int32_t kx = l->kernel_w; kx > 0; kx--, p += right) *to++ = *p;
            }
        }
        return;
    }
    for (int32_t c = l->in_c; c > 0; c--, x += area)
        for (int32_t row = top; row <= bottom; row += down)
            for (int32_t column = left; column <= last; column += right) {
                int inside = row >= 0 && row < l->in_h && column >= 0 && column < w;
                *to++ = inside ? x[row * w + column] : l->pad;
            }
}

/* One pixel of every channel, or two neighbours in memory: the taps of a 1x1 kernel. */
static void gather_pixel(const ge_fast_conv_layer *l, const int8_t *x, int32_t area, int two, uint32_t groups, int32_t *column) {
    uint32_t c = 0;
#if DSP
    for (; two && c + 4 <= l->in_c; c += 4, column += 4) {
        uint32_t p = halfword(x), q, r, s;
        x += area, q = halfword(x), x += area, r = halfword(x), x += area, s = halfword(x), x += area;
        p |= r << 16, q |= s << 16; /* (first, second) of taps 0 and 2, of taps 1 and 3 */
        column[0] = even(p), column[1] = odd(p), column[2] = even(q), column[3] = odd(q);
    }
    if (two) { /* fewer than 4 channels are left */
        int8_t last[8];
        uint32_t left = l->in_c - c;
        for (uint32_t i = 0; i < left; i++, x += area) last[i] = x[0], last[4 + i] = x[1];
        if (left) expand(last, last + 4, left, 1, column);
        return;
    }
#endif
    int8_t *bytes = bytes_in(column, groups, two);
    clear_rest(bytes, l->in_c, groups, two);
    for (; c < l->in_c; c++, x += area) {
        bytes[c] = x[0];
        if (two) bytes[4 * groups + c] = x[1];
    }
    finish(bytes, groups, two, column);
}

/* 3x3, two pixels of a row: three rows of input, or of padding, from which every channel's rows are taken. */
typedef struct {
    const int8_t *row[3];
    int32_t next[3]; /* to the next channel's row; 0 for padding */
    int32_t left, right, pad; /* columns of padding before and behind */
} rows_3x3;

#if DSP
/* One row's bytes from the first pixel's left tap on. */
INLINE uint32_t four(const rows_3x3 *f, const int8_t *p, int edge) {
    uint32_t v = word(p), pad = (uint32_t)f->pad & 0xff;
    if (edge && f->left) v = v << 8 | pad;
    return v;
}

INLINE int32_t fifth(const rows_3x3 *f, const int8_t *p, int edge) {
    return edge && f->right ? f->pad : edge && f->left ? p[3] : p[4];
}

/* Two rows to three pairs of taps of two pixels: outer taps of the one, of the other, both middles. */
INLINE int32_t *two_rows(const rows_3x3 *f, const int8_t *p, const int8_t *q, int stride, int edge, int32_t *to) {
    uint32_t u = four(f, p, edge), v = four(f, q, edge);
    if (edge && stride == 1 && f->right) {
        uint32_t pad = (uint32_t)f->pad << 24;
        u = u >> 8 | pad, v = v >> 8 | pad;
    }
    int32_t e = even(u), o = odd(u), g = even(v), h = odd(v);
    to[0] = e, to[2] = g, to[4] = lows(o, h);
    if (stride == 1) to[1] = o, to[3] = h, to[5] = highs(e, g);
    else {
        to[1] = (int32_t)((uint32_t)e >> 16 | (uint32_t)fifth(f, p, edge) << 16);
        to[3] = (int32_t)((uint32_t)g >> 16 | (uint32_t)fifth(f, q, edge) << 16);
        to[5] = highs(o, h);
    }
    return to + 6;
}

INLINE void gather_rows(const rows_3x3 *f, uint32_t channels, int stride, int edge, int32_t *to) {
    const int8_t *p = f->row[0], *q = f->row[1], *r = f->row[2];
    int32_t i = f->next[0], j = f->next[1], k = f->next[2];
    for (; channels >= 2; channels -= 2) {
        to = two_rows(f, p, q, stride, edge, to);
        p += i, q += j;
        to = two_rows(f, r, p, stride, edge, to);
        r += k;
        to = two_rows(f, q, r, stride, edge, to);
        if (channels == 2) break; /* no pointer goes beyond the tensor */
        p += i, q += j, r += k;
    }
    if (channels == 1) {
        to = two_rows(f, p, q, stride, edge, to);
        two_rows(f, r, r, stride, edge, to); /* the second has no weights */
    }
}

APART void gather_middle_1(const rows_3x3 *f, uint32_t channels, int32_t *to) { gather_rows(f, channels, 1, 0, to); }
APART void gather_edge_1(const rows_3x3 *f, uint32_t channels, int32_t *to) { gather_rows(f, channels, 1, 1, to); }
APART void gather_middle_2(const rows_3x3 *f, uint32_t channels, int32_t *to) { gather_rows(f, channels, 2, 0, to); }
APART void gather_edge_2(const rows_3x3 *f, uint32_t channels, int32_t *to) { gather_rows(f, channels, 2, 1, to); }
#else
/* The same taps of one pixel as bytes: a pair lies two bytes apart, so that four weights are two pairs. Three pairs that
 * begin with an even one take places 0 1 4, those that begin with an odd one 0 3 4; each is one row's outer taps, the
 * other row's, both middles. */
INLINE int8_t *two_rows(const rows_3x3 *f, const int8_t *p, const int8_t *q, int even, int edge, int8_t *to) {
    int32_t left = edge ? f->left : 0, right = edge ? f->right : 0;
    int8_t pad = (int8_t)f->pad;
    int8_t *second = to + (even ? 1 : 3);
    to[0] = left ? pad : p[0], to[2] = right ? pad : p[2 - left];
    second[0] = left ? pad : q[0], second[2] = right ? pad : q[2 - left];
    to[4] = p[1 - left], to[6] = q[1 - left];
    return to + (even ? 5 : 7);
}

INLINE void gather_rows(const rows_3x3 *f, uint32_t channels, int edge, int8_t *to) {
    const int8_t *p = f->row[0], *q = f->row[1], *r = f->row[2];
    int32_t i = f->next[0], j = f->next[1], k = f->next[2];
    for (int even = 1; channels > 0; even = !even) {
        const int8_t *next = channels > 1 ? p + i : r; /* an odd last channel's partner has no weights */
        if (even) to = two_rows(f, p, q, 1, edge, to), to = two_rows(f, r, next, 0, edge, to);
        else to = two_rows(f, p, q, 0, edge, to), to = two_rows(f, r, next, 1, edge, to);
        if (channels < 2) return;
        q += j, r += k;
        to = two_rows(f, q, r, even, edge, to);
        channels -= 2;
        if (channels > 0) p = next + i, q += j, r += k; /* no pointer goes beyond the tensor */
    }
}

APART void gather_middle(const rows_3x3 *f, uint32_t channels, int8_t *to) { gather_rows(f, channels, 0, to); }
APART void gather_edge(const rows_3x3 *f, uint32_t channels, int8_t *to) { gather_rows(f, channels, 1, to); }
#endif

static void gather_3x3(const ge_fast_conv_layer *l, const int8_t *x, int32_t oy, int32_t ox, uint32_t groups, int32_t *column) {
    rows_3x3 f;
    int8_t padding[8];
    int32_t top = oy * l->stride_h - l->pad_top, left = ox * l->stride_w - l->pad_left, w = l->in_w;
    int32_t stride = l->stride_w;
    for (uint32_t i = 0; i < 8; i++) padding[i] = l->pad;
    f.left = left < 0, f.right = left + stride + 2 >= w, f.pad = l->pad;
    for (int32_t ky = 0; ky < 3; ky++) {
        int inside = top + ky >= 0 && top + ky < l->in_h;
        int32_t from = f.left ? 0 : DSP && f.right && stride == 1 ? w - 4 : left;
        f.row[ky] = inside ? x + ((top + ky) * w + from) : padding;
        f.next[ky] = inside ? l->in_h * w : 0;
    }
#if DSP
    (void)groups;
    if (stride == 1) {
        if (f.left || f.right) gather_edge_1(&f, l->in_c, column);
        else gather_middle_1(&f, l->in_c, column);
    } else {
        if (f.left || f.right) gather_edge_2(&f, l->in_c, column);
        else gather_middle_2(&f, l->in_c, column);
    }
#else
    int8_t *bytes = (int8_t *)column;
    int32_t behind = f.right;
    f.right = 0;
    if (f.left) gather_edge(&f, l->in_c, bytes);
    else gather_middle(&f, l->in_c, bytes);
    for (int32_t ky = 0; ky < 3; ky++) f.row[ky] += f.next[ky] ? stride - f.left : 0;
    f.left = 0, f.right = behind;
    if (behind) gather_edge(&f, l->in_c, bytes + 4 * groups);
    else gather_middle(&f, l->in_c, bytes + 4 * groups);
#endif
}

typedef enum { IN_ORDER, OF_A_PIXEL, OF_3X3 } taps_of;

INLINE void convolve(const ge_fast_conv_layer *l, const int8_t *x, int8_t *y, void *scratch, taps_of kind) {
    uint32_t taps = (uint32_t)l->kernel_h * l->kernel_w * l->in_c;
    if (kind == OF_3X3) taps += 3 * (taps % 2); /* a row without weights makes the number of rows even */
    uint32_t groups = (taps + 3) / 4;
    int32_t area = l->in_h * l->in_w, pixels = l->out_h * l->out_w;
    int32_t *column = scratch;
    int8_t *bytes = bytes_in(scratch, groups, 1);
    const int32_t *w = l->stream;
    if (kind == IN_ORDER) clear_rest(bytes, taps, groups, 1);
    for (uint32_t g = 0; g < l->groups; g++) {
        int32_t oy = 0, ox = 0;
        for (int32_t i = 0; i < pixels; i += 2) {
            int two = i + 1 < pixels;
            place to = {y + i, y, 1, pixels};
            if (kind == OF_A_PIXEL) gather_pixel(l, x + i, area, two, groups, column);
            else if (kind == OF_3X3) {
                gather_3x3(l, x, oy, ox, groups, column);
                if ((ox += 2) == l->out_w) ox = 0, oy++;
            } else {
                for (int k = 0; k <= two; k++) {
                    gather(l, x, oy, ox, bytes + (k ? 4 * groups : 0));
                    if (++ox == l->out_w) ox = 0, oy++;
                }
                finish(bytes, groups, two, column);
            }
            run_channels(w, column, groups, l->out_c, &to, &l->range, two);
        }
        x += (int32_t)l->in_c * area, y += (int32_t)l->out_c * pixels, w += (l->out_c + 1u) / 2 * (6 + 2 * groups);
    }
}

/* Apart, so that a linker leaves out what a model has not. */
void ge_fast_conv(const ge_fast_conv_layer *l, const int8_t *x, int8_t *y, void *scratch) {
    convolve(l, x, y, scratch, IN_ORDER);
}

void ge_fast_conv_1x1(const ge_fast_conv_layer *l, const int8_t *x, int8_t *y, void *scratch) {
    convolve(l, x, y, scratch, OF_A_PIXEL);
}

void ge_fast_conv_3x3(const ge_fast_conv_layer *l, const int8_t *x, int8_t *y, void *scratch) {
    convolve(l, x, y, scratch, OF_3X3);
}

void ge_fast_dense(const ge_fast_dense_layer *l, const int8_t *x, int8_t *y, void *scratch) {
    uint32_t groups = (l->k + 3) / 4;
    for (uint32_t v = 0; v < l->vectors; v += 2, x += 2 * l->k, y += 2 * l->m) {
        int two = v + 1 < l->vectors;
        place to = {y, y, (int32_t)l->m, 1};
#if DSP
        expand(x, two ? x + l->k : x, l->k, two, scratch);
#else
        int8_t *bytes = scratch;
        clear_rest(bytes, l->k, groups, two);
        for (uint32_t i = 0; i < l->k; i++) bytes[i] = x[i];
        for (uint32_t i = 0; two && i < l->k; i++) bytes[4 * groups + i] = x[l->k + i];
#endif
        run_channels(l->stream, scratch, groups, l->m, &to, &l->range, two);
        if (!two) return;
    }
}

/* One channel's plane, with padding around it. */
static void pad_plane(const ge_fast_depthwise_layer *l, const int8_t *x, int8_t *plane) {
    int8_t *at = plane + l->pad_top * l->plane_w + l->pad_left;
    for (int32_t row = l->in_h; row > 0; row--, at += l->plane_w - l->in_w)
        for (int32_t i = l->in_w; i > 0; i--) *at++ = *x++;
}

INLINE void depthwise_channel(const ge_fast_depthwise_layer *l, const int8_t *plane, const int32_t *w, int8_t *y, int whole, int stride) {
    int32_t m = w[0], row = l->plane_w, out_w = l->out_w;
    int64_t b = wide(w + 1);
#if DSP
    int32_t outer0 = even((uint32_t)w[3]), outer1 = even((uint32_t)w[4]), outer2 = even((uint32_t)w[5]);
    int32_t middle01 = lows(odd((uint32_t)w[3]), odd((uint32_t)w[4])), middle2 = odd((uint32_t)w[5]);
    for (int32_t r = l->out_h; r > 0; r--, plane += row * l->stride_h) {
        const int8_t *p = plane;
        for (int32_t left = out_w; left > 0;) {
            uint32_t v = word(p);
            int32_t e = even(v), o = odd(v), s, t = 0;
            s = __smlad(e, outer0, 0), s = __smlabb(o, middle01, s);
            if (stride == 1) t = __smlad(o, outer0, 0), t = __smlatb(e, middle01, t);
            v = word(p + row), e = even(v), o = odd(v);
            s = __smlad(e, outer1, s), s = __smlabt(o, middle01, s);
            if (stride == 1) t = __smlad(o, outer1, t), t = __smlatt(e, middle01, t);
            v = word(p + 2 * row), e = even(v), o = odd(v);
            s = __smlad(e, outer2, s), s = __smlabb(o, middle2, s);
            if (stride == 1) t = __smlad(o, outer2, t), t = __smlatb(e, middle2, t);
            *y++ = coded(&l->range, whole, s, m, b), left--;
            if (stride == 1 && left > 0) *y++ = coded(&l->range, whole, t, m, b), left--;
            p += 2;
        }
    }
#else
    const int8_t *k = (const int8_t *)(w + 3);
    int32_t w0 = k[0], w1 = k[1], w2 = k[2], w3 = k[4], w4 = k[5], w5 = k[6], w6 = k[8], w7 = k[9], w8 = k[10];
    for (int32_t r = l->out_h; r > 0; r--, plane += row * l->stride_h) {
        const int8_t *p = plane, *q = plane + row, *n = plane + 2 * row;
        if (stride == 1) {
            /* A column of three taps at a time: it is the right one of s, the middle of the next sum, the left of the one after. */
            int32_t s = w0 * p[0] + w3 * q[0] + w6 * n[0] + w1 * p[1] + w4 * q[1] + w7 * n[1];
            int32_t t = w0 * p[1] + w3 * q[1] + w6 * n[1];
            for (int32_t left = out_w; left > 0; left--, p++, q++, n++) {
                int32_t a = p[2], c = q[2], d = n[2];
                s += w2 * a + w5 * c + w8 * d;
                *y++ = coded(&l->range, whole, s, m, b);
                s = t + w1 * a + w4 * c + w7 * d, t = w0 * a + w3 * c + w6 * d;
            }
        } else {
            for (int32_t left = out_w; left > 0; left--, p += 2, q += 2, n += 2) {
                int32_t s = w0 * p[0] + w1 * p[1] + w2 * p[2] + w3 * q[0] + w4 * q[1] + w5 * q[2];
                s += w6 * n[0] + w7 * n[1] + w8 * n[2];
                *y++ = coded(&l->range, whole, s, m, b);
            }
        }
    }
#endif
}

APART void depthwise_whole_1(const ge_fast_depthwise_layer *l, const int8_t *plane, const int32_t *w, int8_t *y) {
    depthwise_channel(l, plane, w, y, 1, 1);
}

APART void depthwise_any_1(const ge_fast_depthwise_layer *l, const int8_t *plane, const int32_t *w, int8_t *y) {
    depthwise_channel(l, plane, w, y, 0, 1);
}

APART void depthwise_any_2(const ge_fast_depthwise_layer *l, const int8_t *plane, const int32_t *w, int8_t *y) {
    depthwise_channel(l, plane, w, y, 0, 2);
}

void ge_fast_depthwise(const ge_fast_depthwise_layer *l, const int8_t *x, int8_t *y, void *scratch) {
    const int32_t *w = l->stream;
    int8_t *plane = scratch;
    int32_t bytes = l->plane_h * l->plane_w;
    for (int32_t i = 0; i < bytes; i++) plane[i] = l->pad;
    for (uint32_t c = l->channels; c > 0; c--, w += 6) {
        pad_plane(l, x, plane);
        if (l->stride_w == 2) depthwise_any_2(l, plane, w, y);
        else if (l->range.whole) depthwise_whole_1(l, plane, w, y);
        else depthwise_any_1(l, plane, w, y);
        x += l->in_h * l->in_w, y += l->out_h * l->out_w;
    }
}

static int32_t summed(const int8_t *x, uint32_t n) {
    int32_t sum = 0;
#if DSP
    for (; n >= 4; n -= 4, x += 4) {
        uint32_t v = word(x);
        sum = __smlad(even(v), 0x10001, sum), sum = __smlad(odd(v), 0x10001, sum);
    }
#endif
    for (; n >= 4; n -= 4, x += 4) sum += x[0] + x[1] + x[2] + x[3];
    for (; n > 0; n--) sum += *x++;
    return sum;
}

void ge_fast_mean(const ge_fast_mean_layer *l, const int8_t *x, int8_t *y) {
    const int32_t *w = l->stream;
    for (uint32_t c = l->channels; c > 0; c--, w += 3, x += l->area)
        *y++ = coded(&l->range, 0, summed(x, l->area), w[0], wide(w + 1));
}

void ge_fast_sum(uint32_t channels, uint32_t area, int32_t bias, const int8_t *x, int32_t *y) {
    for (; channels > 0; channels--, x += area) *y++ = summed(x, area) + bias;
}

/* A row of results takes one tap of every window after the other. */
void ge_fast_max(const ge_fast_max_layer *l, const int8_t *x, int8_t *y) {
    int32_t w = l->in_w, out_w = l->out_w, step = l->stride_w;
    for (uint32_t c = l->channels; c > 0; c--, x += l->in_h * w) {
        for (int32_t oy = 0; oy < l->out_h; oy++, y += out_w) {
            int32_t row = oy * l->stride_h - l->pad_top;
            for (int32_t ox = 0; ox < out_w; ox++) y[ox] = l->lowest;
            for (int32_t ky = l->kernel_h; ky > 0; ky--, row += l->dilation_h) {
                if (row < 0 || row >= l->in_h) continue;
                for (int32_t kx = 0; kx < l->kernel_w; kx++) {
                    int32_t column = kx * l->dilation_w - l->pad_left, ox = 0;
                    while (column < 0) column += step, ox++;
                    for (const int8_t *p = x + row * w; ox < out_w && column < w; ox++, column += step)
                        if (p[column] > y[ox]) y[ox] = p[column];
                }
            }
        }
    }
}

INLINE void add(const ge_fast_add_layer *l, const int8_t *a, const int8_t *b, int8_t *y, int whole) {
    int32_t p = l->factor[0], q = l->factor[1], m = l->step[0];
    int64_t addend = wide(l->step + 1);
    for (const int8_t *end = y + l->size; y != end;) *y++ = coded(&l->range, whole, p * *a++ + q * *b++, m, addend);
}

void ge_fast_add(const ge_fast_add_layer *l, const int8_t *a, const int8_t *b, int8_t *y) {
    if (l->range.whole) add(l, a, b, y, 1);
    else add(l, a, b, y, 0);
}

void ge_fast_map(uint32_t size, const int8_t *table, const int8_t *x, int8_t *y) {
    table += 128;
    for (const int8_t *end = x + size; x != end;) *y++ = table[*x++];
}
