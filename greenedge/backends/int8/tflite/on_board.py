"""The model on a board, without greenedge: needs numpy and ai-edge-litert, or tflite-runtime where only that exists.

python run.py --selftest [--kernels reference]   the golden samples: all output integers, their hash, the float outputs
python run.py X.npy [-o Y.npy] [--output NAME]   integers (N, *shape) in, integers out (shapes and ranges: io.json);
                                                 floats are quantised first, as the model does, where io.json has its
                                                 quantiser; --output gives one of the model's own float outputs
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import pathlib
import sys
from typing import Any, NoReturn

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
IO = json.loads((HERE / "io.json").read_text())
FLOATS = [output["name"] for output in IO["floats"]]


def open_interpreter(kernels: str) -> Any:
    for name in ("ai_edge_litert.interpreter", "tflite_runtime.interpreter"):
        try:  # an import that works proves nothing: tflite-runtime breaks under numpy 2 at the first model
            module = importlib.import_module(name)
            resolver = module.OpResolverType.AUTO if kernels == "xnnpack" else module.OpResolverType.BUILTIN_REF
            made = module.Interpreter(str(HERE / "model.tflite"), num_threads=1, experimental_op_resolver_type=resolver)
            made.allocate_tensors()
            return made
        except (ImportError, SystemError, AttributeError, ValueError, RuntimeError) as error:
            print(f"{name}: {error}", file=sys.stderr)
    sys.exit("no runtime works here: pip install -r requirements.txt")


def store(x: np.ndarray) -> np.ndarray:  # the int8 that the file takes, (N, *file shape)
    source = IO["input"]
    quantiser, lo, hi = source["quantiser"], source["lo"], source["hi"]
    if (
        quantiser and x.dtype.kind == "f" and np.isfinite(x).all()
    ):  # in float32, half to even, as the model's own quantiser
        x = x.astype(np.float32) / np.float32(quantiser["scale"]) + np.float32(quantiser["zero"])
        x = np.rint(np.clip(x, quantiser["lo"], quantiser["hi"])).astype(np.int64)
    is_whole = x.shape[1:] == tuple(source["shape"]) and x.dtype.kind in "iu"
    if not is_whole or (x.size and (x.min() < lo or x.max() > hi)):
        kinds = f"integers {lo} to {hi}{' or finite floats' if quantiser else ''}"
        sys.exit(f"the input must be {kinds} of shape (N, {', '.join(map(str, source['shape']))})")
    stored = x.reshape(len(x), *source["source"]).transpose(0, *(a + 1 for a in source["order"]))
    return (stored.astype(np.int16) + source["offset"]).astype(np.int8).reshape(len(x), *source["file"][1:])


def run(model: Any, x: np.ndarray) -> list[np.ndarray]:  # [the integers, then the float outputs]
    result, stored = IO["output"], store(x)
    entry, leave = model.get_input_details()[0]["index"], [each["index"] for each in model.get_output_details()]
    samples = []
    for sample in stored:
        model.set_tensor(entry, sample[None])
        model.invoke()
        samples.append([model.get_tensor(index) for index in leave])
    source, order = result["source"], result["order"]
    back = [0, *(int(a) + 1 for a in np.argsort(order))]
    outputs = []
    for k in range(len(leave)):
        values = np.concatenate([sample[k] for sample in samples]).reshape(len(x), *(source[a] for a in order))
        outputs.append(values.transpose(back).reshape(len(x), *result["shape"]))
    return [outputs[0].astype(np.int64) - result["offset"], *outputs[1:]]


def run_selftest(kernels: str) -> NoReturn:
    with np.load(HERE / "golden.npz", allow_pickle=False) as golden:
        y, *floats = run(open_interpreter(kernels), golden["x"])
        expected = golden["y"]
        apart = [float(np.abs(got - golden[f"f{k}"]).max()) for k, got in enumerate(floats)]
    digest = hashlib.sha256(y.astype("<i8").tobytes()).hexdigest()
    print(f"{y.size} output integers, {int((y != expected).sum())} differ, sha256 {digest}")
    is_near = True
    for k, output in enumerate(IO["floats"]):
        allowed = output["within"]
        print(f"{output['name']}: floats at most {apart[k]:.1e} from the golden ones; {allowed:.0e} is allowed")
        is_near = is_near and apart[k] <= allowed
    sys.exit(digest != IO["golden_sha256"] or not is_near)


options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
options.add_argument("inputs", nargs="?")
options.add_argument("-o", "--out")
options.add_argument("--selftest", action="store_true")
options.add_argument("--kernels", choices=("xnnpack", "reference"), default="xnnpack")
options.add_argument("--output", choices=FLOATS)
asked = options.parse_args()
if asked.selftest:
    run_selftest(asked.kernels)
if asked.inputs is None:
    options.error("give samples, X.npy, or --selftest")
outputs = run(open_interpreter(asked.kernels), np.load(asked.inputs, allow_pickle=False))
y = outputs[FLOATS.index(asked.output) + 1 if asked.output else 0]
np.save(asked.out, y) if asked.out else print(*(" ".join(map(str, row.ravel())) for row in y), sep="\n")
