/* The DSP instructions that the kernels use, in C: their DSP form runs on this machine, under its sanitizers. */
#ifndef ARM_ACLE_H
#define ARM_ACLE_H

#include <stdint.h>

static inline int32_t half(int32_t v, int top) {
    int32_t bits = (int32_t)((uint32_t)v >> (top ? 16 : 0) & 0xffffu);
    return bits - (bits & 0x8000 ? 0x10000 : 0);
}
static inline int32_t extended(int32_t v, int shift) {
    int32_t bits = (int32_t)((uint32_t)v >> shift & 0xffu);
    return bits - (bits & 0x80 ? 0x100 : 0);
}
static inline int32_t __sxtb16(int32_t v) {
    return (int32_t)(((uint32_t)extended(v, 0) & 0xffffu) | (uint32_t)extended(v, 16) << 16);
}
static inline int32_t __smlad(int32_t a, int32_t b, int32_t sum) {
    return sum + half(a, 0) * half(b, 0) + half(a, 1) * half(b, 1);
}
static inline int32_t __smlabb(int32_t a, int32_t b, int32_t sum) { return sum + half(a, 0) * half(b, 0); }
static inline int32_t __smlabt(int32_t a, int32_t b, int32_t sum) { return sum + half(a, 0) * half(b, 1); }
static inline int32_t __smlatb(int32_t a, int32_t b, int32_t sum) { return sum + half(a, 1) * half(b, 0); }
static inline int32_t __smlatt(int32_t a, int32_t b, int32_t sum) { return sum + half(a, 1) * half(b, 1); }
static inline int32_t __ssat(int32_t v, int bits) {
    int32_t most = (1 << (bits - 1)) - 1;
    return v > most ? most : v < -most - 1 ? -most - 1 : v;
}

#endif
