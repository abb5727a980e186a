"""The model on a board, without greenedge: needs numpy and ai-edge-litert, or tflite-runtime where only that exists.

python run.py --selftest [--kernels reference]    the golden samples: every output integer and their hash, the float outputs
python run.py X.npy [-o Y.npy] [--output NAME]    integers (N, *shape) in, integers out (shapes and ranges: io.json); floats are
                                                  quantised first, as the model does, where io.json has its quantiser;
                                                  with --output one of the model's own float outputs, such as its softmax
"""

import argparse
import hashlib
import importlib
import json
import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
IO = json.loads((HERE / "io.json").read_text())
FLOATS = [output["name"] for output in IO["floats"]]


def interpreter(kernels):
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


def run(model, x):  # [the integers, then the float outputs]
    source, result = IO["input"], IO["output"]
    made = source["quantiser"]
    if made and x.dtype.kind == "f" and np.isfinite(x).all():  # in float32, half to even, as the model's own quantiser
        x = x.astype(np.float32) / np.float32(made["scale"]) + np.float32(made["zero"])
        x = np.rint(np.clip(x, made["lo"], made["hi"])).astype(np.int64)
    if (
        x.shape[1:] != tuple(source["shape"])
        or x.dtype.kind not in "iu"
        or x.size
        and (x.min() < source["lo"] or x.max() > source["hi"])
    ):
        sys.exit(
            f"the input must be integers {source['lo']} to {source['hi']}{' or finite floats' if made else ''} of shape (N, {', '.join(map(str, source['shape']))})"
        )
    stored = x.reshape(len(x), *source["source"]).transpose(0, *(a + 1 for a in source["order"]))
    stored = (stored.astype(np.int16) + source["offset"]).astype(np.int8).reshape(len(x), *source["file"][1:])
    entry, leave = model.get_input_details()[0]["index"], [each["index"] for each in model.get_output_details()]
    held = [[] for _ in leave]
    for sample in stored:
        model.set_tensor(entry, sample[None])
        model.invoke()
        for values, index in zip(held, leave):
            values.append(model.get_tensor(index))
    held = [np.concatenate(values).reshape(len(x), *(result["source"][a] for a in result["order"])) for values in held]
    back = [0, *(int(a) + 1 for a in np.argsort(result["order"]))]
    integers, *floats = (values.transpose(back).reshape(len(x), *result["shape"]) for values in held)
    return [integers.astype(np.int64) - result["offset"], *floats]


options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
(
    options.add_argument("inputs", nargs="?"),
    options.add_argument("-o", "--out"),
    options.add_argument("--selftest", action="store_true"),
)
(
    options.add_argument("--kernels", choices=("xnnpack", "reference"), default="xnnpack"),
    options.add_argument("--output", choices=FLOATS),
)
asked = options.parse_args()
if asked.selftest:
    with np.load(HERE / "golden.npz", allow_pickle=False) as golden:
        (y, *floats), expected = run(interpreter(asked.kernels), golden["x"]), golden["y"]
        apart = [float(np.abs(got - golden[f"f{k}"]).max()) for k, got in enumerate(floats)]
    digest = hashlib.sha256(y.astype("<i8").tobytes()).hexdigest()
    print(f"{y.size} output integers, {int((y != expected).sum())} differ, sha256 {digest}")
    for told, most in zip(IO["floats"], apart):
        print(f"{told['name']}: floats at most {most:.1e} from the golden ones; {told['within']:.0e} is allowed")
    sys.exit(
        digest != IO["golden_sha256"] or not all(most <= told["within"] for told, most in zip(IO["floats"], apart))
    )
if asked.inputs is None:
    options.error("give samples, X.npy, or --selftest")
y = run(interpreter(asked.kernels), np.load(asked.inputs, allow_pickle=False))[
    FLOATS.index(asked.output) + 1 if asked.output else 0
]
np.save(asked.out, y) if asked.out else print(*(" ".join(map(str, row.ravel())) for row in y), sep="\n")
