/* Samples on stdin, outputs on stdout, through the port that is the first argument. */
#include "greenedge_client.h"
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

static int put(void *context, const uint8_t *data, size_t size) {
    return write(*(int *)context, data, size) == (ssize_t)size ? 0 : -1;
}

static int get(void *context, uint8_t *data, size_t size) {
    struct pollfd fd = {*(int *)context, POLLIN, 0};
    if (poll(&fd, 1, 50) <= 0) return 0;
    return (int)read(fd.fd, data, size);
}

int main(int argc, char **argv) {
    int port = argc > 1 ? open(argv[1], O_RDWR | O_NOCTTY) : -1, status;
    static ge_board board = {.write = put, .read = get};
    uint8_t sample[GE_INPUT_BYTES], outputs[GE_OUTPUT_BYTES];
    board.context = &port;
    if ((status = ge_open(&board, GE_MODEL)) != GE_OK) return fprintf(stderr, "open: %d\n", status), 1;
    while (fread(sample, 1, sizeof sample, stdin) == sizeof sample) {
        while ((status = ge_infer(&board, sample, outputs)) == GE_WAS_RESET) ge_open(&board, GE_MODEL);
        if (status != GE_OK) return fprintf(stderr, "infer: %d\n", status), 1;
        fwrite(outputs, 1, sizeof outputs, stdout);
    }
    return 0;
}
