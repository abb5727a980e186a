/* The self-test on a machine with a C library. Exit status 0 where every integer is as expected. */
#include <stdio.h>

#include "../selftest.h"

int main(void) {
    selftest_result r;
    selftest(&r);
    printf("%u output integers, %u differ, hash %08x, expected %08x\n", (unsigned)r.compared, (unsigned)r.differing,
           (unsigned)r.hash, (unsigned)r.expected);
    return r.differing || r.hash != r.expected || !r.compared;
}
