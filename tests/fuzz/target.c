/* What is fuzzed: the C header's decoder, and its conversation with a board that says whatever it likes. This file alone
 * is compiled with coverage; it aborts where something is not as it must be, and prints the frames of one input if asked. */
#include <stdint.h>
#define GE_INPUT_BYTES 6
#define GE_OUTPUT_BYTES 12
#define GE_BAUD 3000000
static const uint8_t GE_MODEL[32] = {1, 2, 3};
#include "greenedge_client.h"
#include <stdio.h>
#include <stdlib.h>

typedef struct { const uint8_t *data; size_t size, at, reads; } line;

static int put(void *context, const uint8_t *data, size_t size) {
    (void)context, (void)data;
    return size > GE_MAX_WIRE ? abort(), -1 : 0;
}

static int get(void *context, uint8_t *data, size_t size) {
    line *from = context;
    if (!size || ++from->reads > 1000000) abort();        /* a hang */
    if (from->at >= from->size) return 0;
    *data = from->data[from->at++];
    return 1;
}

static void frame_again(const ge_decoder *d) {
    uint8_t wire[GE_MAX_WIRE];
    ge_decoder other = {.size = 0};
    int found = 0;
    size_t size = ge_encode(wire, d->kind, d->seq, d->body + 5, d->length);
    if (!size || size > GE_MAX_WIRE) abort();
    for (size_t i = 0; i < size; i++) found += ge_take(&other, wire[i]);
    if (found != 1 || other.kind != d->kind || other.seq != d->seq || other.length != d->length
        || memcmp(other.body + 5, d->body + 5, d->length)) abort();
}

void fuzz_one(const uint8_t *data, size_t size, int show) {
    static ge_decoder d;
    d = (ge_decoder){.size = 0};
    for (size_t i = 0; i < size; i++) {
        int whole = ge_take(&d, data[i]);
        if (d.size > GE_MAX_BODY) abort();
        if (!whole) continue;
        if (d.length > GE_MAX_PAYLOAD) abort();
        frame_again(&d);
        if (show) {
            printf(" %u:%u:", d.kind, d.seq);
            for (unsigned k = 0; k < d.length; k++) printf("%02x", d.body[5 + k]);
        }
    }
    if (show) printf(" bad %u\n", (unsigned)d.bad);
    line from = {data, size, 0, 0};
    static ge_board board;
    board = (ge_board){.write = put, .read = get, .context = &from};
    uint8_t outputs[GE_OUTPUT_BYTES], sample[GE_INPUT_BYTES] = {0x7D, 0x7E};
    if (ge_open(&board, size & 1 ? GE_MODEL : NULL) == GE_OK) ge_infer(&board, sample, outputs);
}

size_t fuzz_frame(uint8_t *wire, uint8_t kind, uint16_t seq, const uint8_t *payload, size_t length) {
    return ge_encode(wire, kind, seq, payload, length);
}
