/* The golden samples through model_run: the model is right on this machine if nothing differs and the hashes are equal. */
#ifndef SELFTEST_H
#define SELFTEST_H

#include <stdint.h>

typedef struct {
    uint32_t compared, differing; /* output integers */
    uint32_t hash, expected;      /* FNV-1a over every output integer */
} selftest_result;

void selftest(selftest_result *result);

#endif
