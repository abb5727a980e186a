/* Samples from standard input through model_run to standard output, for greenedge's comparison. Not part of the package.
 *
 * In: the inputs of one sample after the other as stored. Out: for each sample the result of every call (with the argument
 * "trace"), then the outputs.
 */
#include <stdio.h>
#include <string.h>

#include "runner.h"

static int tracing;
static uint32_t memory[MODEL_MEMORY_WORDS];
static const unsigned sizes[] = RUNNER_CALL_BYTES;

void runner_trace(unsigned call, const void *result) {
    if (tracing) fwrite(result, 1, sizes[call], stdout);
}

int main(int count, char **arguments) {
    tracing = count > 1 && strcmp(arguments[1], "trace") == 0;
    while (RUNNER_READ) {
        RUNNER_RUN;
        RUNNER_WRITE;
    }
    return fflush(stdout) != 0 || ferror(stdout);
}
