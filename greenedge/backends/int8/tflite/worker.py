"""Runs one .tflite file on int8 inputs. A program of its own, on numpy and a TFLite runtime alone:

    python worker.py FOLDER KERNELS

FOLDER holds model.tflite and x0.npy, x1.npy, … (int8, one for each input, in the file's order); y.npz is written
beside them. It prints "done N" as it goes. KERNELS is "xnnpack" or "reference".

    python worker.py --probe MODULE

prints the version of that runtime if it can run a tiny model.
"""

from __future__ import annotations

import base64
import importlib
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# runtime module -> the package that brings it; the first that really runs is taken
RUNTIMES = (("ai_edge_litert.interpreter", "ai-edge-litert"), ("tflite_runtime.interpreter", "tflite-runtime"))
RESOLVERS = {"xnnpack": "AUTO", "reference": "BUILTIN_REF"}
# A file that passes its input on. tflite_runtime imports under numpy 2 and breaks at its first interpreter.
TINY = base64.b64decode(
    "EAAAAFRGTDMAAAAAAAAAAKL///8UAAAAPAAAAEgAAACAAQAAAwAAAAIAAAAkAAAABAAAAGb///8EAAAACAAAAAEAAAABAAAAAAAAAAQABAAEAAAA"
    "CQAAAGdyZWVuZWRnZQAAAAEAAAAUAAAAAAAOABgAFAAQAAwACAAEAA4AAAAUAAAAHAAAAGAAAABkAAAAaAAAAAQAAAB0aW55AAAAAAEAAAAUAAAA"
    "AAAOABYAAAAQAAwACwAEAA4AAAAYAAAAAAAAESQAAAAUAAAAAAAGAAgABAAGAAAAvAAAAAIAAAAAAAAAAgAAAAEAAAABAAAAAQAAAAAAAAADAAAA"
    "fAAAAEgAAAAcAAAAAAAWABgAFAATAAwACAAAAAAAAAAAAAcAFgAAAAAAAAEQAAAAAQAAAAAAAAIMAAAAAQAAAHMAAAABAAAAAgAAAOb///8AAAAB"
    "DAAAAAAAAAk8AAAAAQAAAHkAFgAUABAADwAAAAgAAAAAAAAAAAAHABYAAAAAAAABDAAAAAAAAAkMAAAAAQAAAHgAAAACAAAAAQAAAAEAAAABAAAA"
    "EAAAAAwADAALAAAAAAAEAAwAAAAWAAAAAAAAFg=="
)
NO_RUNTIME = 3  # exit status: no runtime works here
BAD_FILE = 4  # exit status: the runtime does not take the file
_EVERY = 64  # samples between two words of progress


def load_runtime(only: str | None = None) -> tuple[Any, str, str]:
    """(module, package, version) of the first runtime that can build an interpreter; the two modules have no common
    type.

    Raises RuntimeError with every reason.
    """
    reasons = []
    for module, package in [pair for pair in RUNTIMES if only in (None, pair[0])]:
        try:
            found = importlib.import_module(module)
            found.Interpreter(model_content=TINY).allocate_tensors()
            return found, package, metadata.version(package)
        except (
            ImportError,
            SystemError,
            AttributeError,
            ValueError,
            RuntimeError,
            metadata.PackageNotFoundError,
        ) as error:
            reasons.append(f"{package}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
    raise RuntimeError("; ".join(reasons))


def interpreter_for(runtime: Any, model: Path, kernels: str) -> Any:
    """An interpreter with one thread and that kernel set, its tensors allocated."""
    resolver = getattr(runtime.OpResolverType, RESOLVERS[kernels])
    interpreter = runtime.Interpreter(model_path=str(model), num_threads=1, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    return interpreter


def run(interpreter: Any, inputs: list[NDArray[Any]], progress: Callable[[int], None]) -> dict[str, NDArray[Any]]:
    """{tensor index: values as they are stored, batch first} of all outputs, one sample at a time as on the board."""
    entries = [entry["index"] for entry in interpreter.get_input_details()]
    exits = [(out["index"], tuple(out["shape"][1:]), out["dtype"]) for out in interpreter.get_output_details()]
    total = len(inputs[0])
    values = {index: np.empty((total, *shape), kind) for index, shape, kind in exits}
    for k in range(total):
        for index, x in zip(entries, inputs, strict=True):
            interpreter.set_tensor(index, x[k : k + 1])
        interpreter.invoke()
        for index, _, _ in exits:
            values[index][k] = interpreter.get_tensor(index)[0]
        if (k + 1) % _EVERY == 0 or k + 1 == total:
            progress(k + 1)
    return {str(index): value for index, value in values.items()}


def probe(module: str) -> int:
    """Prints the version of a runtime that works; the exit status."""
    try:
        print(load_runtime(module)[2])
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return NO_RUNTIME
    return 0


def main(folder: Path, kernels: str) -> int:
    """The exit status."""
    try:
        runtime, _, _ = load_runtime()
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return NO_RUNTIME
    try:
        interpreter = interpreter_for(runtime, folder / "model.tflite", kernels)
        inputs = [np.load(folder / f"x{k}.npy", mmap_mode="r") for k in range(len(interpreter.get_input_details()))]
        values = run(interpreter, inputs, lambda done: print(f"done {done}", flush=True))
    except (ValueError, RuntimeError, TypeError, MemoryError) as error:
        print(str(error).splitlines()[0] if str(error) else type(error).__name__, file=sys.stderr)
        return BAD_FILE
    np.savez(folder / "y.npz", **values)  # type: ignore[arg-type]  # numpy's stub takes **kwds for allow_pickle
    return 0


if __name__ == "__main__":
    sys.exit(probe(sys.argv[2]) if sys.argv[1] == "--probe" else main(Path(sys.argv[1]), sys.argv[2]))
