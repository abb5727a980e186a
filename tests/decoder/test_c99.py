"""The C99 package computes the integers of the numpy execution: every logit, and every token that is drawn."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest

from greenedge.decoder.c99 import count_flash_bytes, pack_rows, write_package
from greenedge.decoder.execute import StepDecoder
from greenedge.decoder.sampling import Sampling, generate
from tests.decoder.models import random_decoder

pytestmark = pytest.mark.tool("g++")

MAIN = """
#include <stdio.h>
#include <stdlib.h>
#include "model.h"
static model_state m;
static int32_t logits[MODEL_VOCABULARY];
/* argv: temperature seed count prompt...; prints logits of the prompt, then count tokens */
int main(int argc, char **argv) {
  uint32_t temperature = (uint32_t)strtoul(argv[1], 0, 10), state = model_seed((uint32_t)strtoul(argv[2], 0, 10));
  int count = atoi(argv[3]);
  model_reset(&m);
  if (model_step(&m, -1, logits) != -1 || model_step(&m, MODEL_VOCABULARY, logits) != -1 || m.position) return 3;
  for (int i = 4; i < argc; i++) {
    if (model_step(&m, atoi(argv[i]), logits)) return 4;
    for (int j = 0; j < MODEL_VOCABULARY; j++) printf("%d ", (int)logits[j]);
  }
  for (int i = 0; i < count; i++) {
    state = model_advance(state);
    int32_t token = model_choose(logits, temperature, state);
    printf("%d ", (int)token);
    if (model_step(&m, token, logits)) return i == count - 1 && m.position == MODEL_CONTEXT ? 0 : 5;
  }
  return 0;
}
"""
STRICT = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-Wconversion", "-Wno-sign-conversion"]
# The instructions of a Cortex-M4 in C, so that its form of the sums runs here, under the sanitisers too.
ACLE = """
#include <stdint.h>
typedef int32_t int16x2_t;
static inline int16x2_t __sxtb16(uint32_t a) {
  const uint32_t low = (uint32_t)(int8_t)(a & 255) & 0xffff, high = (uint32_t)(int8_t)(a >> 16 & 255);
  return (int16x2_t)(low | high << 16);
}
static inline int32_t __smlad(int16x2_t a, int16x2_t b, int32_t sum) {
  const int32_t low = (int16_t)(a & 0xffff) * (int16_t)(b & 0xffff);
  return sum + low + (int16_t)((uint32_t)a >> 16) * (int16_t)((uint32_t)b >> 16);
}
"""
DSP, PLAIN = ["-D__ARM_FEATURE_DSP", "-I."], ["-U__SSE2__"]
SANITISE = ["-fsanitize=undefined,address", "-fno-sanitize-recover=all"]


def build(decoder, folder, *flags):
    for name, text in write_package(decoder).items():
        (folder / name).write_text(text)
    (folder / "main.c").write_text(MAIN)
    (folder / "arm_acle.h").write_text(ACLE)
    argv = ["gcc", *STRICT, *flags, "model.c", "main.c", "-o", "model"]
    subprocess.run(argv, cwd=folder, check=True, capture_output=True, text=True)
    return folder / "model"


def run(program, *words) -> list[int]:
    done = subprocess.run([str(program), *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, (done.returncode, done.stderr)
    return list(map(int, done.stdout.split()))


@pytest.mark.parametrize(
    ("shape", "flags"),
    [
        ({"weight_bits": 4, "norm_form": "table"}, ["-O1", *SANITISE]),
        pytest.param(
            {"weight_bits": 8, "norm_form": "root", "heads": 6, "kv_heads": 3, "head_dim": 2},
            ["-O1", *SANITISE],
            marks=pytest.mark.slow,
        ),
        ({"weight_bits": 3, "norm_form": "root", "hidden": 7, "kv_heads": 1, "head_dim": 6}, ["-O1", *SANITISE]),
        ({"weight_bits": 4, "norm_form": "table", "hidden": 33, "head_dim": 8}, ["-O3", "-march=native"]),
        *(
            ({"weight_bits": bits, "hidden": 35, "heads": 5, "kv_heads": 1, "head_dim": 6}, ["-O1", *form, *SANITISE])
            for bits in (3, 4, 8)
            for form in (DSP, PLAIN)
        ),
    ],
)
def test_logits_and_tokens_are_those_of_numpy(rng, tmp_path, shape, flags):
    decoder = random_decoder(rng, **shape)
    program = build(decoder, tmp_path, *flags)
    prompt = rng.integers(0, decoder.vocabulary, 5).tolist()
    machine = StepDecoder(decoder)
    logits = np.concatenate([machine.step(token) for token in prompt]).tolist()
    for temperature, seed in ((0, 1), (256, 0), (256, 7), (1, 3), (77, 2**32 - 1), (1024, 5)):
        tokens = list(generate(decoder, prompt, Sampling(temperature, seed)))
        found = run(program, temperature, seed, len(tokens), *prompt)
        assert found[: len(logits)] == logits
        assert found[len(logits) :] == tokens


def test_a_changed_weight_changes_the_logits(rng, tmp_path):
    """The comparison above can fail."""
    decoder = random_decoder(rng)
    machine = StepDecoder(decoder)
    logits = np.concatenate([machine.step(token) for token in (1, 2, 3)]).tolist()
    weights = decoder.layers[0].down.weights
    weights[0] = -weights[0]
    assert run(build(decoder, tmp_path, "-O1"), 0, 1, 0, 1, 2, 3) != logits


def test_extremes_stay_in_their_types(rng, tmp_path):
    """Saturated residuals, the largest multipliers and constants, under the sanitiser."""
    for form, bits in (("root", 8), ("table", 4)):
        decoder, most = random_decoder(rng, weight_bits=bits, norm_form=form), (1 << (bits - 1)) - 1
        for layer in decoder.layers:
            for one in layer.projections.values():
                one.weights[:] = rng.choice([-most, most], one.weights.shape)
                one.multipliers[:] = rng.choice([-(2**17), 2**17 - 1], one.multipliers.shape)
            object.__setattr__(layer, "attention_norm", 2**60 - 1)
            object.__setattr__(layer, "context_numerator", 2**30 - 1)
            object.__setattr__(layer, "product_multiplier", 2**17 - 1)
            object.__setattr__(layer, "logit_shift", 1)
        object.__setattr__(decoder, "temperature_unit", 2**24 - 1)
        decoder.check()
        machine = StepDecoder(decoder)
        logits = np.concatenate([machine.step(token) for token in (1, 2, 3)]).tolist()
        tokens = list(generate(decoder, [1, 2, 3], Sampling(1, 9)))
        for flags in ([], DSP, PLAIN):
            program = build(decoder, tmp_path, "-O1", *SANITISE, *flags)
            assert run(program, 1, 9, len(tokens), 1, 2, 3) == logits + tokens


def test_rows_of_nibbles(rng):
    weights = rng.integers(-7, 8, (3, 21)).astype(np.int8)
    packed, plain = pack_rows(weights, 4), pack_rows(weights, 8)
    assert packed.shape == (3, 16) and plain.shape == (3, 32) and not plain[:, 21:].any()
    halves = np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.int8)
    assert (((halves ^ 8) - 8)[:, :21] == weights).all() and (plain[:, :21] == weights).all()
    assert count_flash_bytes(random_decoder(rng, weight_bits=4)) < count_flash_bytes(random_decoder(rng, weight_bits=8))


@pytest.mark.slow
def test_the_published_model(shared, tmp_path):
    """A story of a model in its real size, quantised without training."""
    import torch

    from greenedge.frontends.llama2c import read_llama2c
    from greenedge.train.decoder.calibrate import calibrate
    from greenedge.train.decoder.export import export_decoder
    from greenedge.train.decoder.float_network import FloatNetwork
    from greenedge.train.decoder.network import QuantisedNetwork

    torch.set_num_threads(1)
    model = read_llama2c(shared / "models" / "stories260K.bin")
    network = QuantisedNetwork(model, 4, "table")
    calibrate(network, FloatNetwork(model).write(4, 64, 0))
    decoder = export_decoder(network)
    program = build(decoder, tmp_path, "-O2")
    for temperature, seed in ((0, 1), (256, 4)):
        tokens = list(generate(decoder, [1], Sampling(temperature, seed)))
        assert run(program, temperature, seed, len(tokens), 1)[decoder.vocabulary :] == tokens
