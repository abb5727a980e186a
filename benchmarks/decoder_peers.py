"""Tokens per second of one small language model on one thread of this CPU: llama.cpp and ONNX Runtime beside our C99
package.

    npm install --ignore-scripts node-llama-cpp     # in a folder of its own, with Node 20 or newer
    PYTHONPATH=. python benchmarks/decoder_peers.py MODEL.bin OUT.npz --tokenizer tok512.bin [--modules FOLDER]

The float model becomes a GGUF file (F32, Q8_0, Q4_0; rows that are no whole number of blocks stay F16, as llama.cpp
leaves them) for llama.cpp through node-llama-cpp, whose calls are part of its time; OUT.npz is what `greenedge
quantise` made of it, compiled at -O3 -march=native, and as an ONNX model of integer operators (decoder/onnx_file.py),
one token a call, whose tokens are compared with numpy's first. All write the largest logit's token, take turns, and the
best round of each is shown: MEASURED here, CPU time. llama.cpp's stories differ, since its arithmetic does; without
--modules it is left out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import struct
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.decoder_speed import build
from greenedge.decoder.execute import StepDecoder
from greenedge.decoder.onnx_file import write_onnx
from greenedge.decoder.record import Decoder
from greenedge.decoder.sampling import choose
from greenedge.decoder.store import load_decoder
from greenedge.decoder.tokenizer import Tokenizer, read_tokenizer
from greenedge.frontends.llama2c import read_llama2c
from greenedge.runtimes.onnx_decoder import OnnxDecoder
from tests.decoder import float_models

KINDS = {"F32": 0, "Q8_0": 8, "Q4_0": 2}
F16, NORMAL, BYTE, CONTROL, UNKNOWN = 1, 1, 6, 3, 2
OURS = "-O3 -march=native"


def write_gguf(model: Any, tokenizer: Tokenizer, kind: int) -> bytes:
    """The model with its tokenizer, matrices in a type of ggml."""
    metadata, tensors = float_models.gguf_parts(model)
    count = len(tokenizer.pieces)
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    names += [piece.decode("utf-8", "replace").replace(" ", "\u2581") for piece in tokenizer.pieces[len(names) :]]
    metadata |= {
        "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.scores": [float(score) for score in tokenizer.scores],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    types = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * (count - 259)]
    content = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata) + 1)
    content += float_models.text("tokenizer.ggml.token_type") + struct.pack(f"<IIQ{count}i", 9, 5, count, *types)
    content += b"".join(float_models.text(key) + float_models.value(entry) for key, entry in metadata.items())
    data = b""
    for name, array in tensors.items():
        this = 0 if array.ndim == 1 or not kind else kind if array.shape[1] % 32 == 0 else F16
        place = struct.pack(f"<I{array.ndim}QIQ", array.ndim, *array.shape[::-1], this, len(data))
        content += float_models.text(name) + place
        data += float_models.pack(array, this)
        data += b"\0" * (-len(data) % 32)
    return content + b"\0" * (-len(content) % 32) + data


def run_peer(modules: Path, gguf: Path, count: int) -> tuple[float, float]:
    """(CPU seconds, wall seconds) of `count` tokens."""
    argv = ["node", str(Path(__file__).with_suffix(".mjs")), str(modules), str(gguf), str(count)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=600)
    said = json.loads(done.stdout.splitlines()[-1])
    assert len(said["tokens"]) == count + 1, "llama.cpp ended its story early"
    return said["cpu"], said["wall"]


def run_onnx(decoder: Decoder, runner: OnnxDecoder, count: int) -> tuple[float, list[int]]:
    """(CPU seconds, tokens) of `count` tokens."""
    runner.reset()
    started, tokens = time.process_time(), [1]
    for _ in range(count):
        tokens.append(choose(decoder, runner.step(tokens[-1]).astype(np.int64), 0, 0))
    return time.process_time() - started, tokens[1:]


def run_numpy(decoder: Decoder, count: int) -> list[int]:
    """What numpy writes: the tokens that the others are compared with."""
    machine, tokens = StepDecoder(decoder), [1]
    for _ in range(count):
        tokens.append(choose(decoder, machine.step(tokens[-1]), 0, 0))
    return tokens[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("float_model", type=Path)
    parser.add_argument("decoder", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--modules", type=Path, help="the folder with node_modules")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    modules = options.modules and options.modules.resolve()
    if modules and not (shutil.which("node") and (modules / "node_modules" / "node-llama-cpp").is_dir()):
        parser.error("node, or node_modules/node-llama-cpp in --modules, is missing; see the first lines of --help")
    model, tokenizer, decoder = (
        read_llama2c(options.float_model),
        read_tokenizer(options.tokenizer),
        load_decoder(options.decoder),
    )
    best: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for kind, number in KINDS.items():
            (folder / f"{kind}.gguf").write_bytes(write_gguf(model, tokenizer, number))
        program, runner = build(decoder, folder)[OURS], OnnxDecoder(write_onnx(decoder))
        assert run_onnx(decoder, runner, options.tokens)[1] == run_numpy(decoder, options.tokens), (
            "ONNX Runtime differs"
        )
        for _ in range(options.rounds):
            for kind in KINDS if modules else ():
                seconds, _ = run_peer(modules, folder / f"{kind}.gguf", options.tokens)
                best[f"llama.cpp {kind}"] = min(best.get(f"llama.cpp {kind}", 1e9), seconds)
            done = subprocess.run([str(program), str(options.tokens)], capture_output=True, text=True, check=True)
            seconds, _ = run_onnx(decoder, runner, options.tokens)
            best["ONNX Runtime, integers"] = min(best.get("ONNX Runtime, integers", 1e9), seconds)
            name = f"C99, {decoder.weight_bits} bits, {OURS}"
            best[name] = min(best.get(name, 1e9), float(done.stdout.split()[0]))
        sizes = {kind: (folder / f"{kind}.gguf").stat().st_size for kind in KINDS}
    print(f"{options.tokens} tokens, one thread, best of {options.rounds}; files: {sizes} bytes")
    for shown, seconds in sorted(best.items(), key=lambda one: one[1]):
        print(f"{shown:32s} {options.tokens / seconds:10,.0f} tokens/s  {best[name] / seconds:6.2f} of ours")


if __name__ == "__main__":
    main()
