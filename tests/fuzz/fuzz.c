/* A small coverage-guided fuzzer for gcc: an input that reaches an edge not seen before, or an edge more often, is kept and
 * mutated further. fuzz SEED EXECUTIONS: prints "executions N edges N corpus N", then every kept input and its frames. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAP 8192
#define MOST 4096
#define KEPT 2000

void fuzz_one(const uint8_t *data, size_t size, int show);
size_t fuzz_frame(uint8_t *wire, uint8_t kind, uint16_t seq, const uint8_t *payload, size_t length);

static uint8_t hits[MAP], seen[MAP];
static uintptr_t previous;
static uint64_t state;
static struct { uint8_t data[MOST]; size_t size; } corpus[KEPT];
static size_t kept;

void __sanitizer_cov_trace_pc(void) {
    uintptr_t here = (uintptr_t)__builtin_return_address(0);
    uint8_t *hit = &hits[(here * 31 ^ previous) % MAP];
    if (*hit != 255) ++*hit;
    previous = here * 31 >> 1;
}

static uint32_t draw(uint32_t below) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (uint32_t)(state >> 20) % below;
}

static uint8_t bucket(uint8_t count) {                      /* 1, 2, 3, 4-7, 8-31, 32-127, more: one bit each */
    return count < 4 ? (uint8_t)(1 << count >> 1) : count < 8 ? 8 : count < 32 ? 16 : count < 128 ? 32 : 64;
}

static int is_new(void) {
    int found = 0;
    for (size_t i = 0; i < MAP; i++) {
        uint8_t bit = hits[i] ? bucket(hits[i]) : 0;
        if (bit & ~seen[i]) found = 1, seen[i] |= bit;
    }
    return found;
}

static size_t insert(uint8_t *data, size_t size, size_t at, const uint8_t *part, size_t count) {
    if (size + count > MOST) return size;
    memmove(data + at + count, data + at, size - at);
    memcpy(data + at, part, count);
    return size + count;
}

static size_t mutate(uint8_t *data, size_t size) {
    static const uint8_t nasty[] = {0x7C, 0x7D, 0x7E, 0x7F, 0x5C, 0x5D, 0x5E, 0x5F, 0, 1, 5, 0x7B, 0x80, 0x81, 0x82, 0x84, 0xFF};
    static const uint8_t kinds[] = {0x81, 0x82, 0x84, 0xFF, 0x01, 0x33};
    uint8_t part[MOST], payload[140];
    size_t at = size ? draw((uint32_t)size) : 0, count;
    switch (draw(7)) {
    case 0: if (size) data[at] ^= (uint8_t)(1 << draw(8)); return size;
    case 1: if (size) data[at] = nasty[draw(sizeof nasty)]; return size;
    case 2: part[0] = draw(2) ? nasty[draw(sizeof nasty)] : (uint8_t)draw(256); return insert(data, size, at, part, 1);
    case 3: if (size) memmove(data + at, data + at + 1, size - at - 1); return size ? size - 1 : 0;
    case 4: return at;                                       /* cut off */
    case 5:                                                  /* a part of another */
        if (!kept) return size;
        count = draw(kept), at = size ? at : 0;
        return insert(data, size, at, corpus[count].data, corpus[count].size ? draw((uint32_t)corpus[count].size) : 0);
    default:                                                 /* a whole frame, as the checks let no other in */
        count = draw(4) ? draw(16) : draw(sizeof payload);
        for (size_t i = 0; i < count; i++) payload[i] = (uint8_t)draw(256);
        count = fuzz_frame(part, kinds[draw(sizeof kinds)], (uint16_t)(1 + draw(3)), payload, count);
        return insert(data, size, draw(2) ? size : at, part, count);
    }
}

int main(int argc, char **argv) {
    static uint8_t data[MOST + 1];
    if (argc < 3) return fprintf(stderr, "usage: fuzz SEED EXECUTIONS\n"), 2;
    state = strtoull(argv[1], NULL, 10) * 0x9E3779B97F4A7C15ull + 1;
    unsigned long executions = strtoul(argv[2], NULL, 10), edges = 0;
    for (unsigned long n = 0; n < executions; n++) {
        size_t size = 0;
        if (kept) {
            size_t from = draw((uint32_t)kept);
            size = corpus[from].size;
            memcpy(data, corpus[from].data, size);
        }
        for (uint32_t k = 1 + draw(6); k; k--) size = mutate(data, size);
        memset(hits, 0, sizeof hits);
        previous = 0;
        fuzz_one(data, size, 0);
        if (is_new() && kept < KEPT) memcpy(corpus[kept].data, data, size), corpus[kept++].size = size;
    }
    for (size_t i = 0; i < MAP; i++) edges += seen[i] != 0;
    printf("executions %lu edges %lu corpus %zu\n", executions, edges, kept);
    for (size_t i = 0; i < kept; i++) {
        for (size_t k = 0; k < corpus[i].size; k++) printf("%02x", corpus[i].data[k]);
        fuzz_one(corpus[i].data, corpus[i].size, 1);
    }
    return 0;
}
