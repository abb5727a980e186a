/* Runs the golden samples; what they must give was computed by the integer graph. */
#include "selftest.h"

#include "golden.h"

static uint32_t memory[MODEL_MEMORY_WORDS];

static uint32_t hashed(uint32_t hash, int32_t value) { /* FNV-1a over the four bytes, low byte first */
    uint32_t bits = (uint32_t)value;
    for (int k = 0; k < 4; k++, bits >>= 8) hash = (hash ^ (bits & 0xff)) * 0x01000193u;
    return hash;
}

static void visit(selftest_result *result, int32_t got, int32_t expected) {
    result->compared++;
    result->differing += got != expected;
    result->hash = hashed(result->hash, got);
}

void selftest(selftest_result *result) {
    result->compared = result->differing = 0;
    result->hash = 0x811c9dc5u;
    result->expected = GOLDEN_HASH;
    for (uint32_t n = 0; n < GOLDEN_SAMPLES; n++) {
        GOLDEN_RUN(n, memory);
#define VISIT(got, expected) visit(result, got, expected);
        GOLDEN_RESULTS(n, VISIT)
    }
}
