/* Talks to a greenedge board from C99, without greenedge, without malloc.
 *
 * The protocol is described in greenedge/shell/protocol.py and in README terms here: a frame is
 *   FLAG type seq(2) length(2) payload check_a(2) check_b(2) FLAG, bytes 0x7C..0x7F escaped between the FLAGs.
 * You provide two functions that write and read bytes; ge_open() begins a session, ge_infer() computes samples one by
 * one and is safe on a noisy line: a request whose answer does not come is sent again under a new number.
 *
 *   static ge_board board = {.write = my_write, .read = my_read, .context = &port};
 *   if (ge_open(&board, GE_MODEL) != GE_OK) ...
 *   ge_infer(&board, sample, outputs);
 */
#ifndef GREENEDGE_CLIENT_H
#define GREENEDGE_CLIENT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifndef GE_INPUT_BYTES
#define GE_INPUT_BYTES @input_bytes@   /* of one sample: see board.json for their meaning */
#define GE_OUTPUT_BYTES @output_bytes@
#define GE_BAUD @baud@
static const uint8_t GE_MODEL[32] = {@model@};
#endif
#define GE_MAX_PAYLOAD (GE_INPUT_BYTES > GE_OUTPUT_BYTES ? (GE_INPUT_BYTES > 128 ? GE_INPUT_BYTES : 128) \
                                                         : (GE_OUTPUT_BYTES > 128 ? GE_OUTPUT_BYTES : 128))
#define GE_MAX_BODY (5 + GE_MAX_PAYLOAD + 4)
#define GE_MAX_WIRE (2 + 2 * GE_MAX_BODY)

enum { GE_OPEN = 1, GE_DATA = 2, GE_READ = 4, GE_OPENED = 0x81, GE_RESULT = 0x82, GE_VALUES = 0x84, GE_ERROR = 0xFF };
enum { GE_OK = 0, GE_NO_ANSWER = -1, GE_OTHER_MODEL = -2, GE_WAS_RESET = -3, GE_REFUSED = -4, GE_LINE = -5 };

typedef struct {
    uint8_t body[GE_MAX_BODY];
    size_t size;
    int escaped, broken;
    uint32_t bad;              /* frames that were none */
    uint8_t kind;              /* of the frame that ge_take() has just completed */
    uint16_t seq, length;      /* its payload is body + 5 */
} ge_decoder;

typedef struct {
    int (*write)(void *context, const uint8_t *data, size_t size); /* 0, or negative */
    int (*read)(void *context, uint8_t *data, size_t size);        /* bytes read; 0 after some 50 ms without one; negative */
    void *context;
    ge_decoder decoder;
    uint16_t seq;
} ge_board;

static inline uint16_t ge_crc(uint16_t poly, const uint8_t *data, size_t size) {
    uint16_t crc = 0xFFFF;
    for (size_t i = 0; i < size; i++) {
        crc ^= (uint16_t)(data[i] << 8);
        for (int k = 0; k < 8; k++) crc = (uint16_t)(crc & 0x8000 ? crc << 1 ^ poly : crc << 1);
    }
    return crc;
}

static inline size_t ge_put(uint8_t *wire, size_t at, uint8_t byte) {
    if ((byte & 0xFC) == 0x7C) {
        wire[at++] = 0x7D;
        byte ^= 0x20;
    }
    wire[at++] = byte;
    return at;
}

/* Bytes written to `wire`, which has room for GE_MAX_WIRE; 0 where the payload is too long. */
static inline size_t ge_encode(uint8_t *wire, uint8_t kind, uint16_t seq, const uint8_t *payload, size_t length) {
    uint8_t body[GE_MAX_BODY];
    if (length > GE_MAX_PAYLOAD) return 0;
    body[0] = kind;
    body[1] = (uint8_t)seq;
    body[2] = (uint8_t)(seq >> 8);
    body[3] = (uint8_t)length;
    body[4] = (uint8_t)(length >> 8);
    if (length) memcpy(body + 5, payload, length);
    uint16_t a = ge_crc(0x1021, body, 5 + length), b = ge_crc(0x8BB7, body, 5 + length);
    uint8_t checks[4] = {(uint8_t)a, (uint8_t)(a >> 8), (uint8_t)b, (uint8_t)(b >> 8)};
    memcpy(body + 5 + length, checks, 4);
    size_t at = 0;
    wire[at++] = 0x7E;
    for (size_t i = 0; i < 9 + length; i++) at = ge_put(wire, at, body[i]);
    wire[at++] = 0x7E;
    return at;
}

static inline int ge_end(ge_decoder *d) {
    size_t size = d->size;
    int broken = d->broken || d->escaped;
    d->size = 0;
    d->escaped = d->broken = 0;
    if (!size && !broken) return 0;
    if (!broken && size >= 9) {
        const uint8_t *p = d->body;
        size_t length = (size_t)(p[3] | p[4] << 8);
        if (length + 9 == size) {
            const uint8_t *c = p + 5 + length;
            if ((c[0] | c[1] << 8) == ge_crc(0x1021, p, 5 + length) && (c[2] | c[3] << 8) == ge_crc(0x8BB7, p, 5 + length)) {
                d->kind = p[0];
                d->seq = (uint16_t)(p[1] | p[2] << 8);
                d->length = (uint16_t)length;
                return 1;
            }
        }
    }
    d->bad++;
    return 0;
}

/* Takes one byte; 1 when it completes a frame, whose payload then lies in body + 5 until the next call. */
static inline int ge_take(ge_decoder *d, uint8_t byte) {
    if (byte == 0x7E) return ge_end(d);
    if (byte == 0x7C) return 0;
    if (byte == 0x7F || (byte == 0x7D && d->escaped)) d->broken = 1;
    if (byte == 0x7D) {
        d->escaped = 1;
        return 0;
    }
    if (d->size >= GE_MAX_BODY) {
        d->broken = 1;
        return 0;
    }
    d->body[d->size++] = (uint8_t)(d->escaped ? byte ^ 0x20 : byte);
    d->escaped = 0;
    return 0;
}

/* Sends a request until its answer comes, `tries` times; GE_OK with the answer in board->decoder. */
static inline int ge_ask(ge_board *board, uint8_t kind, const uint8_t *payload, size_t length, int tries) {
    uint8_t wire[GE_MAX_WIRE], byte;
    while (tries-- > 0) {
        uint16_t seq = ++board->seq;
        size_t size = ge_encode(wire, kind, seq, payload, length);
        if (!size || board->write(board->context, wire, size) < 0) return GE_LINE;
        for (int idle = 0, heard = 0; idle < 4 && heard < 8 * GE_MAX_WIRE;) {
            int got = board->read(board->context, &byte, 1);
            if (got < 0) return GE_LINE;
            idle = got ? 0 : idle + 1;
            heard++;
            if (!got || !ge_take(&board->decoder, byte) || board->decoder.seq != seq) continue;
            if (board->decoder.kind == (kind | 0x80)) return GE_OK;
            if (board->decoder.kind == GE_ERROR)
                return board->decoder.length == 1 && board->decoder.body[5] == 1 ? GE_WAS_RESET : GE_REFUSED;
        }
    }
    return GE_NO_ANSWER;
}

/* Begins a session; `model` is GE_MODEL, or NULL to talk to whatever is there. */
static inline int ge_open(ge_board *board, const uint8_t *model) {
    uint8_t nonce[4] = {0x67, 0x65, (uint8_t)board->seq, (uint8_t)(board->seq >> 8)}, want[2] = {8, 8};
    int status = ge_ask(board, GE_OPEN, nonce, 4, 8);
    if (status != GE_OK || !model) return status;
    status = ge_ask(board, GE_READ, want, 2, 8);
    if (status != GE_OK) return status;
    return board->decoder.length == 32 && !memcmp(board->decoder.body + 5, model, 32) ? GE_OK : GE_OTHER_MODEL;
}

/* One sample of GE_INPUT_BYTES in, GE_OUTPUT_BYTES out. GE_WAS_RESET: call ge_open() again, then this. */
static inline int ge_infer(ge_board *board, const uint8_t *sample, uint8_t *outputs) {
    int status = ge_ask(board, GE_DATA, sample, GE_INPUT_BYTES, 8);
    if (status != GE_OK) return status;
    if (board->decoder.length != GE_OUTPUT_BYTES) return GE_OTHER_MODEL;
    memcpy(outputs, board->decoder.body + 5, GE_OUTPUT_BYTES);
    return GE_OK;
}

#endif
