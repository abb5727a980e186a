"""Tokens per second of a decoder on this machine: the C99 package at -O2 and -O3, beside the numpy execution.

    PYTHONPATH=. python benchmarks/decoder_speed.py MODEL.npz [--tokens 200] [--rounds 5]

MODEL.npz is what `greenedge quantise` wrote. The compilers' programs and numpy take turns, so that a busy machine slows
all alike; of each the best round is shown (CPU time of one thread), and the ratios. MEASURED here, on this CPU.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from pathlib import Path

from greenedge.decoder.c99 import count_flash_bytes, write_package
from greenedge.decoder.execute import StepDecoder
from greenedge.decoder.record import Decoder
from greenedge.decoder.sampling import choose
from greenedge.decoder.store import load_decoder

MAIN = """
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "model.h"
static model_state m;
static int32_t logits[MODEL_VOCABULARY];
int main(int argc, char **argv) {
  int count = argc > 1 ? atoi(argv[1]) : 1;
  struct timespec a, b;
  int32_t token = 1;
  uint32_t digest = 0;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
  model_reset(&m);
  for (int i = 0; i < count; i++) {
    if (model_step(&m, token, logits)) return 1;
    token = model_choose(logits, 0, 0);
    digest = digest * 31 + (uint32_t)token;
  }
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
  printf("%.9f %u %zu\\n", (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) * 1e-9, digest, sizeof m);
  return 0;
}
"""
BUILDS = {"-O2": ["-O2"], "-O3": ["-O3"], "-O3 -march=native": ["-O3", "-march=native"]}


def build(decoder: Decoder, folder: Path) -> dict[str, Path]:
    """{flags: program}."""
    for name, text in {**write_package(decoder), "main.c": MAIN}.items():
        (folder / name).write_text(text)
    programs = {}
    for shown, flags in BUILDS.items():
        programs[shown] = folder / f"run{len(programs)}"
        argv = ["gcc", "-std=c99", *flags, "model.c", "main.c", "-o", str(programs[shown])]
        subprocess.run(argv, cwd=folder, check=True)
    return programs


def run_numpy(decoder: Decoder, count: int) -> tuple[float, int]:
    """(CPU seconds, digest of the tokens) as the C program has them."""
    started, machine, token, digest = time.process_time(), StepDecoder(decoder), 1, 0
    for _ in range(count):
        token = choose(decoder, machine.step(token), 0, 0)
        digest = (digest * 31 + token) & 0xFFFFFFFF
    return time.process_time() - started, digest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    decoder = load_decoder(options.model)
    count = min(options.tokens, decoder.context)
    best: dict[str, float] = {}
    digests, state = set(), 0
    with tempfile.TemporaryDirectory() as scratch:
        programs = build(decoder, Path(scratch))
        for _ in range(options.rounds):
            for shown, program in programs.items():
                done = subprocess.run([str(program), str(count)], capture_output=True, text=True, check=True)
                seconds, digest, size = done.stdout.split()
                best[shown], state = min(best.get(shown, 1e9), float(seconds)), int(size)
                digests.add(int(digest))
            used, digest_here = run_numpy(decoder, count)
            best["numpy"] = min(best.get("numpy", 1e9), used)
            digests.add(digest_here)
    assert len(digests) == 1, "the tokens differ"
    print(f"{options.model}: {decoder.parameters:,} weights of {decoder.weight_bits} bits, {count} tokens, all equal")
    print(f"constants {count_flash_bytes(decoder):,} bytes, state {state:,} bytes (context {decoder.context})")
    for shown, seconds in best.items():
        print(f"{shown:18s} {count / seconds:10,.0f} tokens/s  {best['numpy'] / seconds:8.1f} times numpy")


if __name__ == "__main__":
    main()
