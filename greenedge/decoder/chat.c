/* chat [-l FILE] TEMPERATURE SEED COUNT TOKEN...
   Takes the tokens of a prompt, then draws COUNT and prints each as soon as it is known. TEMPERATURE is in 256ths, 0 to
   1024. -l: the logits that each was drawn from go to FILE, int32 of this machine's byte order. Exit status 2: wrong
   usage; 3: a token that there is not, or more than the context holds; 4: FILE cannot be written. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "model.h"

static model_state m;
static int32_t logits[MODEL_VOCABULARY];

int main(int argc, char **argv) {
  FILE *log = NULL;
  if (argc > 2 && !strcmp(argv[1], "-l")) {
    if (!(log = fopen(argv[2], "wb"))) return 4;
    argc -= 2, argv += 2;
  }
  if (argc < 5) return fprintf(stderr, "usage: chat [-l FILE] TEMPERATURE SEED COUNT TOKEN...\n"), 2;
  const uint32_t temperature = (uint32_t)strtoul(argv[1], NULL, 10);
  uint32_t state = model_seed((uint32_t)strtoul(argv[2], NULL, 10));
  const long count = strtol(argv[3], NULL, 10);
  if (temperature > 1024 || count < 1) return fprintf(stderr, "chat: TEMPERATURE is 0 to 1024, COUNT at least 1\n"), 2;
  model_reset(&m);
  for (int i = 4; i < argc; i++)
    if (model_step(&m, (int32_t)strtol(argv[i], NULL, 10), logits)) return 3;
  for (long i = 0;;) {
    state = model_advance(state);
    const int32_t token = model_choose(logits, temperature, state);
    if (log && fwrite(logits, sizeof logits, 1, log) != 1) return 4;
    printf("%ld\n", (long)token);
    fflush(stdout);
    if (++i == count) break;
    if (model_step(&m, token, logits)) return 3;
  }
  return log && fclose(log) ? 4 : 0;
}
