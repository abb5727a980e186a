"""Keeps the built file ready to be measured: a program that does so many inferences when it is told a number.

    python -m greenedge.backends.tflite.session BUILD VECTORS.npz

VECTORS holds graph integers by the name of the input edge, samples first; they are taken in turn. It says `ready`, reads
a number a line and answers `done`. One thread, XNNPACK's kernels, one sample at a time: as on the board.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from greenedge.backends.tflite import EDGES, MODEL, _edges
from greenedge.backends.tflite.layout import Layout
from greenedge.backends.tflite.worker import interpreter_for, load_runtime

RUNTIME = "LiteRT, XNNPACK, one thread"


def argv(folder: Path, vectors: Path) -> tuple[str, ...]:
    """The command that keeps the build in `folder` ready."""
    return (sys.executable, "-m", "greenedge.backends.tflite.session", str(folder), str(vectors))


def _stored(folder: Path, vectors: Path) -> list[np.ndarray]:
    """int8 samples for each input of the file, in its order."""
    about = _edges(folder)
    with np.load(vectors, allow_pickle=False) as held:
        feeds = {name: held[name] for name in about["inputs"]}
    found = []
    for name, x in feeds.items():
        edge = about["edges"][name]
        layout = Layout(*(tuple(edge[part]) for part in ("source", "order", "shape", "file")))
        found.append(layout.to_file(x + edge["offset"]).astype(np.int8))
    return found


def main(folder: Path, vectors: Path) -> int:
    try:
        runtime, _, _ = load_runtime()
        interpreter = interpreter_for(runtime, folder / MODEL, "xnnpack")
        inputs = _stored(folder, vectors)
    except (ValueError, RuntimeError, TypeError, KeyError, OSError) as error:
        print(f"{folder / EDGES} or {folder / MODEL} cannot be run: {error}", file=sys.stderr)
        return 1
    entries = [entry["index"] for entry in interpreter.get_input_details()]
    exits = [out["index"] for out in interpreter.get_output_details()]
    turn, total = 0, len(inputs[0])
    print("ready", flush=True)
    for line in sys.stdin:
        for _ in range(int(line)):
            for index, x in zip(entries, inputs, strict=True):
                interpreter.set_tensor(index, x[turn : turn + 1])
            interpreter.invoke()
            for index in exits:
                interpreter.get_tensor(index)
            turn = (turn + 1) % total
        print("done", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
