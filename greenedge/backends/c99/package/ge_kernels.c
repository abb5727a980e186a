/* Integer kernels of greenedge: see ge_kernels.h. Results are exact; nothing here depends on the machine's word size. */
#include "ge_kernels.h"

/* Floor of v / 2**s. C99 leaves >> of a negative number to the compiler. */
static int64_t shifted(int64_t v, uint8_t s) { return v >= 0 ? v >> s : ~(~v >> s); }

static int32_t counted(const ge_step *f, uint32_t channel, int32_t x) {
    uint32_t n = (uint32_t)(f->hi - f->lo), low = 0, high = n;
    const int32_t *t = f->thresholds + channel * n;
    int64_t v = f->sign[channel] < 0 ? -(int64_t)x : x;
    while (low < high) { /* thresholds before low are reached, those from high on are not */
        uint32_t middle = (low + high) / 2;
        if (v >= t[middle]) low = middle + 1; else high = middle;
    }
    return f->lo + (int32_t)low;
}

static int32_t stepped(const ge_step *f, uint32_t i, int32_t x) {
    uint32_t channel = f->channels > 1 ? i / f->inner % f->channels : 0;
    if (f->m) {
        int64_t level = shifted((int64_t)f->m[channel] * x + f->b[channel], f->s[channel]);
        return level < f->lo ? f->lo : level > f->hi ? f->hi : (int32_t)level;
    }
    if (f->thresholds) return counted(f, channel, x);
    return f->table[channel * f->table_size + (uint32_t)(x - f->first[channel])];
}

static int32_t get(ge_code code, const void *x, uint32_t i) {
    return code.wide ? ((const int32_t *)x)[i] : ((const int8_t *)x)[i] + code.offset;
}

static void put(const ge_sink *sink, void *y, uint32_t i, int32_t value) {
    if (sink->step) value = stepped(sink->step, i, value);
    if (sink->code.wide) ((int32_t *)y)[i] = value;
    else ((int8_t *)y)[i] = (int8_t)(value - sink->code.offset);
}

void ge_dense(const ge_dense_layer *l, const void *x, void *y) {
    const int8_t *in = x;
    for (uint32_t v = 0; v < l->vectors; v++, in += l->k) {
        const int8_t *w = l->weight;
        for (uint32_t m = 0; m < l->m; m++, w += l->k) {
            int32_t sum = l->bias ? l->bias[m] : 0;
            for (uint32_t k = 0; k < l->k; k++) sum += w[k] * in[k];
            put(&l->sink, y, v * l->m + m, sum);
        }
    }
}

void ge_conv(const ge_conv_layer *l, const void *x, void *y) {
    uint32_t per_in = (uint32_t)l->in_c / l->groups, per_out = (uint32_t)l->out_c / l->groups, i = 0;
    for (uint32_t o = 0; o < l->out_c; o++) {
        const int8_t *plane = (const int8_t *)x + o / per_out * per_in * l->in_h * l->in_w;
        for (int32_t oy = 0; oy < l->out_h; oy++) {
            for (int32_t ox = 0; ox < l->out_w; ox++) {
                const int8_t *in = plane, *w = l->weight + o * per_in * l->kernel_h * l->kernel_w;
                int32_t sum = l->bias ? l->bias[o] : 0;
                for (uint32_t c = 0; c < per_in; c++, in += (uint32_t)l->in_h * l->in_w) {
                    int32_t row = oy * l->stride_h - l->pad_top;
                    for (uint32_t ky = 0; ky < l->kernel_h; ky++, row += l->dilation_h) {
                        int32_t column = ox * l->stride_w - l->pad_left;
                        int inside = row >= 0 && row < l->in_h;
                        for (uint32_t kx = 0; kx < l->kernel_w; kx++, column += l->dilation_w) {
                            int here = inside && column >= 0 && column < l->in_w;
                            sum += *w++ * (here ? in[row * l->in_w + column] : l->pad);
                        }
                    }
                }
                put(&l->sink, y, i++, sum);
            }
        }
    }
}

/* Which input meets tap k of output o: (o + pad - k*dilation) / stride where that is whole and inside, else -1. */
static int32_t source(int32_t o, int32_t pad, uint32_t k, uint16_t dilation, uint16_t stride, uint16_t size) {
    int32_t at = o + pad - (int32_t)k * dilation;
    return at >= 0 && at % stride == 0 && at / stride < size ? at / stride : -1;
}

void ge_conv_transpose(const ge_conv_transpose_layer *l, int16_t offset, const void *x, void *y) {
    uint32_t per_in = (uint32_t)l->in_c / l->groups, per_out = (uint32_t)l->out_c / l->groups, i = 0;
    uint32_t taps = (uint32_t)l->kernel_h * l->kernel_w;
    for (uint32_t o = 0; o < l->out_c; o++) {
        uint32_t first = o / per_out * per_in;
        for (int32_t oy = 0; oy < l->out_h; oy++) {
            for (int32_t ox = 0; ox < l->out_w; ox++) {
                int32_t sum = 0;
                for (uint32_t ky = 0; ky < l->kernel_h; ky++) {
                    int32_t row = source(oy, l->pad_top, ky, l->dilation_h, l->stride_h, l->in_h);
                    for (uint32_t kx = 0; row >= 0 && kx < l->kernel_w; kx++) {
                        int32_t column = source(ox, l->pad_left, kx, l->dilation_w, l->stride_w, l->in_w);
                        if (column < 0) continue;
                        for (uint32_t c = first; c < first + per_in; c++) {
                            int32_t level = ((const int8_t *)x)[(c * l->in_h + (uint32_t)row) * l->in_w + (uint32_t)column] + offset;
                            sum += l->weight[(c * per_out + o % per_out) * taps + ky * l->kernel_w + kx] * level;
                        }
                    }
                }
                put(&l->sink, y, i++, sum);
            }
        }
    }
}

/* Which taps of a window meet the tensor: the first of n, and the one behind the last. */
static void meet(int32_t at, uint16_t dilation, uint16_t n, uint16_t size, uint32_t *first, uint32_t *end) {
    *first = 0, *end = n;
    if (at >= 0 && at + (n - 1) * dilation < size) return;
    while (*first < n && at + (int32_t)*first * dilation < 0) ++*first;
    *end = *first;
    while (*end < n && at + (int32_t)*end * dilation < size) ++*end;
}

/* The largest or the sum of a window's codes; `down` and `right` lead to the next one, `best` is what there is before. */
static int32_t largest(const int8_t *x, uint32_t rows, uint32_t columns, uint32_t down, uint32_t right, int32_t best) {
    for (; rows > 0; rows--, x += down) {
        const int8_t *p = x;
        for (uint32_t n = columns; n > 0; n--, p += right) best = *p > best ? *p : best;
    }
    return best;
}

static int32_t summed(const int8_t *x, uint32_t rows, uint32_t columns, uint32_t down, uint32_t right) {
    int32_t sum = 0;
    for (; rows > 0; rows--, x += down) {
        const int8_t *p = x;
        for (uint32_t n = columns; n > 0; n--, p += right) sum += *p;
    }
    return sum;
}

/* The same of 32-bit values: the sum with `pad`, or the largest beside it. */
static int32_t wide_window(const int32_t *x, uint32_t rows, uint32_t columns, uint32_t down, uint32_t right, int32_t pad, int max) {
    int32_t result = pad;
    for (; rows > 0; rows--, x += down) {
        const int32_t *p = x;
        for (uint32_t n = columns; n > 0; n--, p += right) result = !max ? result + *p : *p > result ? *p : result;
    }
    return result;
}

void ge_pool(const ge_pool_layer *l, const void *x, void *y) {
    uint32_t i = 0, top, bottom, left, right, taps = (uint32_t)l->kernel_h * l->kernel_w;
    uint32_t down = (uint32_t)l->dilation_h * l->in_w, area = (uint32_t)l->in_h * l->in_w;
    int32_t offset = l->from.wide ? 0 : l->from.offset;
    for (uint32_t c = 0; c < l->channels; c++) {
        for (int32_t oy = 0; oy < l->out_h; oy++) {
            int32_t row = oy * l->stride_h - l->pad_top, column = -l->pad_left;
            meet(row, l->dilation_h, l->kernel_h, l->in_h, &top, &bottom);
            uint32_t line = c * area + (uint32_t)(row + (int32_t)top * l->dilation_h) * l->in_w;
            for (int32_t ox = 0; ox < l->out_w; ox++, column += l->stride_w) {
                meet(column, l->dilation_w, l->kernel_w, l->in_w, &left, &right);
                uint32_t rows = bottom - top, columns = right - left;
                uint32_t at = line + (uint32_t)(column + (int32_t)left * l->dilation_w);
                int32_t result = l->max ? l->pad : l->pad * (int32_t)(taps - rows * columns);
                if (rows == 0 || columns == 0) at = 0; /* a window of padding alone points to nothing */
                if (l->from.wide) result = wide_window((const int32_t *)x + at, rows, columns, down, l->dilation_w, result, l->max);
                else if (l->max) result = largest((const int8_t *)x + at, rows, columns, down, l->dilation_w, result - offset) + offset;
                else result += summed((const int8_t *)x + at, rows, columns, down, l->dilation_w) + offset * (int32_t)(rows * columns);
                put(&l->sink, y, i++, result);
            }
        }
    }
}

void ge_add(const ge_add_layer *l, const void *const *x, void *y) {
    uint32_t c = 0, left = l->inner;
    for (uint32_t i = 0; i < l->size; i++) {
        int32_t sum = 0;
        for (uint32_t t = 0; t < l->terms; t++) sum += l->multiplier[t * l->channels + c] * get(l->from[t], x[t], i);
        put(&l->sink, y, i, sum);
        if (--left == 0) {
            left = l->inner;
            if (++c == l->channels) c = 0;
        }
    }
}

void ge_multiply(const ge_multiply_layer *l, const void *a, const void *b, void *y) {
    const uint32_t *p = l->stride[0], *q = l->stride[1];
    uint32_t i = 0;
    for (uint32_t c = 0; c < l->size[0]; c++) {
        for (uint32_t d = 0; d < l->size[1]; d++) {
            for (uint32_t e = 0; e < l->size[2]; e++) {
                for (uint32_t f = 0; f < l->size[3]; f++) {
                    int32_t u = get(l->from[0], a, c * p[0] + d * p[1] + e * p[2] + f * p[3]) - l->zero[0];
                    int32_t v = get(l->from[1], b, c * q[0] + d * q[1] + e * q[2] + f * q[3]) - l->zero[1];
                    put(&l->sink, y, i++, u * v);
                }
            }
        }
    }
}

void ge_copy(const ge_copy_layer *l, const void *x, void *y) {
    uint32_t at[GE_DIMS]; /* set one by one: compilers make a call of memset from anything shorter */
    at[0] = 0, at[1] = 0, at[2] = 0, at[3] = 0, at[4] = 0, at[5] = 0;
    int32_t from = 0, to = (int32_t)l->to_start;
    int is_plain = !l->sink.step && !l->from.wide && !l->sink.code.wide;
    int32_t shift = l->from.offset - l->sink.code.offset, inner_from = l->from_stride[GE_DIMS - 1];
    int32_t inner_to = l->to_stride[GE_DIMS - 1];
    for (;;) {
        if (is_plain) {
            const int8_t *p = (const int8_t *)x + from;
            int8_t *q = (int8_t *)y + to;
            *q = (int8_t)(*p + shift);
            for (uint32_t left = l->size[GE_DIMS - 1] - 1; left > 0; left--) {
                p += inner_from, q += inner_to;
                *q = (int8_t)(*p + shift);
            }
            at[GE_DIMS - 1] = l->size[GE_DIMS - 1] - 1;
            from += inner_from * (int32_t)at[GE_DIMS - 1], to += inner_to * (int32_t)at[GE_DIMS - 1];
        } else put(&l->sink, y, (uint32_t)to, get(l->from, x, (uint32_t)from));
        int d = GE_DIMS - 1; /* the next element: the last index runs fastest */
        while (d >= 0 && ++at[d] == l->size[d]) {
            at[d] = 0;
            from -= l->from_stride[d] * (int32_t)(l->size[d] - 1);
            to -= l->to_stride[d] * (int32_t)(l->size[d] - 1);
            d--;
        }
        if (d < 0) return;
        from += l->from_stride[d];
        to += l->to_stride[d];
    }
}

void ge_fill(uint32_t size, ge_code code, int32_t level, void *y) {
    ge_sink sink = {code, 0};
    for (uint32_t i = 0; i < size; i++) put(&sink, y, i, level);
}

void ge_matmul(const ge_matmul_layer *l, const void *a, const void *b, void *y) {
    uint32_t i = 0;
    for (uint32_t matrix = 0; matrix < l->matrices; matrix++) {
        uint32_t left = matrix * l->m * l->k, right = matrix * l->k * l->n;
        for (uint32_t m = 0; m < l->m; m++, left += l->k) {
            for (uint32_t n = 0; n < l->n; n++) {
                int32_t sum = 0;
                for (uint32_t k = 0; k < l->k; k++) {
                    int32_t u = get(l->from[0], a, left + k) - l->zero[0];
                    sum += u * (get(l->from[1], b, right + k * l->n + n) - l->zero[1]);
                }
                put(&l->sink, y, i++, sum);
            }
        }
    }
}

static uint32_t exponential(const ge_softmax_layer *l, uint32_t d) {
    if (!l->fine) return d < l->table_size ? (uint32_t)l->table[d] : 0;
    if (d / l->fine_size >= l->table_size) return 0;
    uint32_t e = (uint32_t)l->table[d / l->fine_size] * (uint32_t)l->fine[d % l->fine_size];
    return (e + (1u << l->fine_bits >> 1)) >> l->fine_bits;
}

void ge_softmax(const ge_softmax_layer *l, const void *x, void *y) {
    for (uint32_t row = 0, i = 0; row < l->rows; row++, i += l->length) {
        int32_t largest = INT32_MIN;
        uint32_t total = 0;
        for (uint32_t k = i; k < i + l->length; k++) {
            int32_t v = get(l->from, x, k);
            if (v > largest && (!l->mask || l->mask[k % l->mask_size])) largest = v;
        }
        for (uint32_t k = i; k < i + l->length; k++) {
            if (!l->mask || l->mask[k % l->mask_size]) total += exponential(l, (uint32_t)(largest - get(l->from, x, k)));
        }
        total *= l->per;
        for (uint32_t k = i; k < i + l->length; k++) {
            int seen = !l->mask || l->mask[k % l->mask_size];
            uint32_t e = seen ? exponential(l, (uint32_t)(largest - get(l->from, x, k))) : 0;
            uint32_t level = (2 * l->unit * e + total) / (2 * total);
            put(&l->sink, y, k, (int32_t)(level < l->most ? level : l->most));
        }
    }
}

/* The whole part of the square root, bit by bit. */
static int64_t whole_root(int64_t v) {
    int64_t root = 0, bit = (int64_t)1 << 62;
    while (bit > v) bit >>= 2;
    for (; bit; bit >>= 2) {
        int64_t next = root + bit;
        root >>= 1;
        if (v >= next) {
            v -= next;
            root += bit;
        }
    }
    return root;
}

void ge_norm(const ge_norm_layer *l, const void *x, void *y) {
    for (uint32_t row = 0, i = 0; row < l->rows; row++, i += l->length) {
        int64_t total = 0, square = 0, scale = l->layer ? (int64_t)l->length : 1, root;
        for (uint32_t k = i; k < i + l->length; k++) {
            int64_t v = (int64_t)get(l->from, x, k) - (l->layer ? 0 : l->zero);
            total += v;
            square += v * v;
        }
        if (l->layer) square = scale * square - total * total;
        else total = l->zero;
        square += l->epsilon;
        if (square < 1) square = 1;
        uint8_t shift = l->shift;
        if (l->table) {
            int64_t mantissa = square;
            for (; mantissa >= 1024; shift++) mantissa >>= 2;
            root = l->table[mantissa];
        } else {
            int64_t quotient = l->constant / square;
            for (int h = 0; h < 30 && quotient < (int64_t)1 << 60; h++, shift++) quotient <<= 2;
            root = whole_root(quotient);
        }
        for (uint32_t k = i; k < i + l->length; k++) {
            int64_t n = scale * get(l->from, x, k) - total;
            put(&l->sink, y, k, (int32_t)shifted(n * root + ((int64_t)1 << (shift - 1)), shift));
        }
    }
}
