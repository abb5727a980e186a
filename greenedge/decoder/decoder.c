/* A llama-shaped decoder in integers alone: no heap, no float, nothing of a C library.

   The definition, with the bounds that keep every sum below in its type, stands in greenedge/decoder/record.py;
   this is its step by step execution. Sizes and weights are generated: model.h, model_data.h. */

#include "model.h"
#include "model_data.h"

/* floor(a / 2^n): C leaves >> of negative numbers to the compiler, which makes one shift of this */
static int64_t shift_down(int64_t a, int n) { return a >= 0 ? a >> n : ~(~a >> n); }

static int64_t round_down(int64_t a, int n) { return shift_down(a + ((int64_t)1 << (n - 1)), n); }

static int32_t clip(int64_t a, int32_t limit) { return a > limit ? limit : a < -limit ? -limit : (int32_t)a; }

static int32_t dot(const int8_t *a, const int8_t *b, int n) {
  int32_t sum = 0;
  for (int i = 0; i < n; i++) sum += a[i] * b[i];
  return sum;
}

/* The sum of n weights times n levels, in the form that suits the core: two products an instruction (Cortex-M4 and M7),
   loops that compilers turn into vector instructions, or one product after another. A byte of packed weights holds
   element i of a row in its low half and element i + n / 2 in its high half. All forms but the vectors leave a weight in
   the high half of a byte, so that the sum is 16 times as large: 8 * 127 * 16 * 65,536 columns stay in 31 bits. */
#if defined(__ARM_FEATURE_DSP)
#include <arm_acle.h>
static uint32_t load(const void *p) {
  uint32_t word;
  __builtin_memcpy(&word, p, 4);
  return word;
}
/* sum + the four bytes of `weights` times x[0] to x[3] */
static int32_t add_four(int32_t sum, uint32_t weights, const int16_t *x) {
  const uint32_t first = load(x), second = load(x + 2);
  sum = __smlad(__sxtb16(weights), (int16x2_t)((first & 0xffff) | second << 16), sum);
  return __smlad(__sxtb16(weights >> 8 | weights << 24), (int16x2_t)(first >> 16 | (second & 0xffff0000)), sum);
}
#define SUM_BYTES(sum, row, x, n)                                                      \
  for (int i = 0; i < (n) / 8 * 8; i += 8) {                                           \
    sum = add_four(sum, load((row) + i), (x) + i);                                     \
    sum = add_four(sum, load((row) + i + 4), (x) + i + 4);                             \
  }                                                                                    \
  for (int i = (n) / 8 * 8; i < (n); i++) sum += (row)[i] * (x)[i];
#define SUM_NIBBLES(sum, row, x, n)                                                    \
  for (int i = 0; i < (n) / 2; i += 8) {                                               \
    const uint32_t first = load((row) + i), second = load((row) + i + 4);              \
    sum = add_four(sum, first << 4 & 0xf0f0f0f0, (x) + i);                             \
    sum = add_four(sum, first & 0xf0f0f0f0, (x) + i + (n) / 2);                        \
    sum = add_four(sum, second << 4 & 0xf0f0f0f0, (x) + i + 4);                        \
    sum = add_four(sum, second & 0xf0f0f0f0, (x) + i + 4 + (n) / 2);                   \
  }                                                                                    \
  sum /= 16;
#elif defined(__SSE2__) || defined(__ARM_NEON) || defined(__riscv_vector) || defined(__ALTIVEC__)
#define SUM_BYTES(sum, row, x, n) \
  for (int i = 0; i < (n); i++) sum += (int16_t)(row)[i] * (x)[i];
#define SUM_NIBBLES(sum, row, x, n)                                                    \
  int8_t levels[n];                                                                    \
  for (int i = 0; i < (n) / 2; i++) levels[i] = (int8_t)((((row)[i] & 15) ^ 8) - 8);   \
  for (int i = 0; i < (n) / 2; i++)                                                    \
    levels[i + (n) / 2] = (int8_t)((((row)[i] >> 4) ^ 8) - 8);                         \
  for (int i = 0; i < (n); i++) sum += (int16_t)levels[i] * (x)[i];
#else
#define SUM_BYTES(sum, row, x, n) \
  for (int i = 0; i < (n); i++) sum += (row)[i] * (x)[i];
#define SUM_NIBBLES(sum, row, x, n)                                                    \
  for (int i = 0; i < (n) / 2; i++) {                                                  \
    const int32_t both = (row)[i];                                                     \
    sum += (((both & 15) ^ 8) - 8) * 16 * (x)[i];                                      \
    sum += (((both & 240) ^ 128) - 128) * (x)[i + (n) / 2];                            \
  }                                                                                    \
  sum /= 16;
#endif

#if MODEL_PACKED
#define ROW_BYTES(n) ((n) / 2)
#define SUM_ROW SUM_NIBBLES
#else
#define ROW_BYTES(n) (n)
#define SUM_ROW SUM_BYTES
#endif

/* The sum of a row's products, times its multiplier. A function for each of the two widths: compilers turn loops of a
   constant number of steps, a multiple of 16, into vector instructions also at -O2. */
#define DEFINE_SCALE(name, n)                                                       \
  static int64_t name(const struct projection *p, int row, const int16_t *x) {       \
    const weight_t *weights = p->weights + (uint32_t)row * ROW_BYTES(n);            \
    int32_t sum = 0;                                                                \
    SUM_ROW(sum, weights, x, n)                                                     \
    return round_down((int64_t)sum * p->multipliers[row], p->shift);                \
  }
DEFINE_SCALE(scale_row, MODEL_DIM_PADDED)
DEFINE_SCALE(scale_hidden_row, MODEL_HIDDEN_PADDED)

static void add(int16_t *x, int64_t y) { *x = (int16_t)clip(*x + y, 32767); }

#if MODEL_NORM_TABLE
static int64_t find_root(int64_t squares, int64_t constant) { /* constant: isqrt(C) >> 12 */
  int half = 0;
  while (squares >> (2 * half) >= 1024) half++;
  int64_t mantissa = squares >> (2 * half);
  if (mantissa < 256) mantissa = 256;
  const int64_t root = (root_table[mantissa - 256] * constant >> 8) >> half;
  return root < 131071 ? root : 131071;
}
#else
static int64_t find_root(int64_t squares, int64_t constant) { /* constant: C */
  uint64_t rest = (uint64_t)(constant / squares), root = 0, bit = (uint64_t)1 << 36;
  if (rest >= (uint64_t)1 << 34) return 131071;
  while (bit > rest) bit >>= 2;
  for (; bit; bit >>= 2) {
    if (rest >= root + bit) {
      rest -= root + bit;
      root = (root >> 1) + bit;
    } else {
      root >>= 1;
    }
  }
  return root < 131071 ? (int64_t)root : 131071;
}
#endif

static void normalise(const int16_t *x, int64_t constant, int16_t *y) {
  int64_t squares = 0;
  for (int i = 0; i < MODEL_DIM; i++) squares += (int32_t)x[i] * x[i];
  const int64_t root = find_root(squares > 1 ? squares : 1, constant);
  for (int i = 0; i < MODEL_DIM; i++) y[i] = (int16_t)clip(round_down(x[i] * root, 20), 127);
}

/* One pair of rows of a query or key, turned by its angle at a position. */
static void rotate(const struct projection *p, const int16_t *h, uint32_t position, int row, int8_t *out) {
  const int pair = row / 2 % (MODEL_HEAD_DIM / 2);
  const int32_t c = cosine[position][pair], s = sine[position][pair];
  const int32_t even = clip(scale_row(p, row, h), 2047), odd = clip(scale_row(p, row + 1, h), 2047);
  out[0] = (int8_t)clip(round_down(even * c - odd * s, 18), 127);
  out[1] = (int8_t)clip(round_down(even * s + odd * c, 18), 127);
}

/* The context of one query head, with `count` positions in the cache. */
static void attend(model_state *m, const struct layer *l, int number, int head, int count) {
  const int shared = head * MODEL_KV_HEADS / MODEL_HEADS;
  const int8_t *query = m->query + head * MODEL_HEAD_DIM;
  int32_t largest = INT32_MIN, total = 0;
  for (int t = 0; t < count; t++) {
    m->scores[t] = (int32_t)round_down(dot(query, m->keys[number][shared][t], MODEL_HEAD_DIM), l->logit_shift);
    if (m->scores[t] > largest) largest = m->scores[t];
  }
  for (int t = 0; t < count; t++) {
    const int32_t distance = largest - m->scores[t];
    m->weights[t] = exponential[distance < 255 ? distance : 255];
    total += m->weights[t];
  }
  const int64_t share = l->context_numerator / total;
  for (int c = 0; c < MODEL_HEAD_DIM; c++) {
    const int8_t *values = m->values[number][shared][c];
    int32_t mixed = 0;
    for (int t = 0; t < count; t++) mixed += m->weights[t] * values[t];
    m->context[head * MODEL_HEAD_DIM + c] = (int16_t)clip(round_down(share * mixed, 28), 127);
  }
}

static void run_attention(model_state *m, const struct layer *l, int number) {
  const uint32_t t = m->position;
  int8_t key[2];
  normalise(m->x, l->attention_norm, m->h);
  for (int i = 0; i < MODEL_DIM; i += 2) rotate(&l->query, m->h, t, i, m->query + i);
  for (int i = 0; i < MODEL_KV_HEADS * MODEL_HEAD_DIM; i += 2) {
    const int head = i / MODEL_HEAD_DIM, c = i % MODEL_HEAD_DIM;
    rotate(&l->key, m->h, t, i, key);
    m->keys[number][head][t][c] = key[0];
    m->keys[number][head][t][c + 1] = key[1];
    m->values[number][head][c][t] = (int8_t)clip(scale_row(&l->value, i, m->h), 127);
    m->values[number][head][c + 1][t] = (int8_t)clip(scale_row(&l->value, i + 1, m->h), 127);
  }
  for (int head = 0; head < MODEL_HEADS; head++) attend(m, l, number, head, (int)t + 1);
  for (int i = 0; i < MODEL_DIM; i++) add(&m->x[i], scale_row(&l->output, i, m->context));
}

static void run_perceptron(model_state *m, const struct layer *l) {
  normalise(m->x, l->mlp_norm, m->h);
  for (int i = 0; i < MODEL_HIDDEN; i++) {
    const int32_t left = l->activation[clip(scale_row(&l->gate, i, m->h), 127) + 127];
    const int32_t right = clip(scale_row(&l->up, i, m->h), 127);
    m->gated[i] = (int16_t)clip(round_down((int64_t)left * right * l->product_multiplier, 16), 127);
  }
  for (int i = 0; i < MODEL_DIM; i++) add(&m->x[i], scale_hidden_row(&l->down, i, m->gated));
}

void model_reset(model_state *m) {
  m->position = 0;
  for (int i = MODEL_DIM; i < MODEL_DIM_PADDED; i++) m->h[i] = m->context[i] = 0;
  for (int i = MODEL_HIDDEN; i < MODEL_HIDDEN_PADDED; i++) m->gated[i] = 0;
}

int model_step(model_state *m, int32_t token, int32_t *logits) {
  if (token < 0 || token >= MODEL_VOCABULARY || m->position >= MODEL_CONTEXT) return -1;
  for (int i = 0; i < MODEL_DIM; i++) m->x[i] = (int16_t)(embedding[token][i] * (1 << MODEL_RESIDUAL_SHIFT));
  for (int number = 0; number < MODEL_LAYERS; number++) {
    run_attention(m, &layers[number], number);
    run_perceptron(m, &layers[number]);
  }
  normalise(m->x, final_norm, m->h);
  for (int token_id = 0; token_id < MODEL_VOCABULARY; token_id++) {
    int32_t sum = 0;
    SUM_BYTES(sum, head[token_id], m->h, MODEL_DIM)
    logits[token_id] = sum;
  }
  m->position++;
  return 0;
}

uint32_t model_seed(uint32_t seed) {
  const uint32_t state = seed * (uint32_t)2654435761u;
  return state ? state : 1;
}

uint32_t model_advance(uint32_t state) {
  state ^= state << 13;
  state ^= state >> 17;
  return state ^ (state << 5);
}

static uint32_t weigh(int32_t logit, int64_t unit, int64_t largest) {
  const int64_t distance = largest - round_down(logit * unit, 16);
  return exponential[distance < 255 ? distance : 255];
}

int32_t model_choose(const int32_t *logits, uint32_t temperature, uint32_t state) {
  int32_t best = 0;
  for (int32_t i = 1; i < MODEL_VOCABULARY; i++)
    if (logits[i] > logits[best]) best = i;
  if (temperature == 0) return best;
  const int64_t unit = MODEL_TEMPERATURE_UNIT * (int64_t)256 / temperature;
  const int64_t largest = round_down(logits[best] * unit, 16);
  uint32_t total = 0, sum = 0;
  for (int32_t i = 0; i < MODEL_VOCABULARY; i++) total += weigh(logits[i], unit, largest);
  const uint32_t drawn = (uint32_t)(((uint64_t)(state >> 16) * total) >> 16);
  for (int32_t i = 0; i < MODEL_VOCABULARY; i++) {
    sum += weigh(logits[i], unit, largest);
    if (sum > drawn) return i;
  }
  return best; /* not reached: drawn is below total */
}
