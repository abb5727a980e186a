"""Coral's Edge TPU: the exact int8 .tflite, compiled where Google's compiler is on PATH (its Debian archive, x86-64
only).

Files: edgetpu.json; model_edgetpu.tflite where the compiler was found.

    python -m greenedge.backends.int8.tflite.edgetpu MODEL      in the build folder: compiles if it can, and writes
    edgetpu.json
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from greenedge.backends.int8.proof_record import Record
from greenedge.errors import GreenedgeError, Reason
from greenedge.files.atomic_write import atomic_write
from greenedge.files.json_file import read_table
from greenedge.graph import Concat, Conv, ConvTranspose, Dense, Graph, MaxPool, Pad, Transpose, Upsample
from greenedge.legalise.capabilities import RANK, Capabilities, Measure, check_capabilities
from greenedge.target import Target
from greenedge.tools.capture import capture
from greenedge.tools.plan import Command

COMPILER, RECORD, COMPILED = "edgetpu_compiler", "edgetpu.json", "model_edgetpu.tflite"
_LIMIT_S = 600
_MISSING = (
    f"{COMPILER} is not on PATH: model.tflite is exact and fits the Edge TPU's rules, but is not compiled for it; run "
    f"`{COMPILER} model.tflite` where the compiler is (coral.ai, Edge TPU Compiler)."
)


# Coral documentation, "TensorFlow models on the Edge TPU", supported operations and their known limitations.
_GROUP_DILATION = Measure(
    "dilation in groups",
    "a dilated convolution in groups",
    lambda op, inputs, output: 1 if op.groups == 1 else max(op.dilations),
)
_UNEVEN = Measure(
    "dilations that differ",
    "dilations {}",
    lambda op, inputs, output: 0 if len(set(op.dilations)) <= 1 else tuple(op.dilations),
)
_ROWS = Measure(
    "axes of the output",
    "outputs of shape {}",
    lambda op, inputs, output: 1 if len(output.shape) == 1 else output.shape,
)
_CHANNEL_PADDING = Measure(
    "padding of channels",
    "padding of channels",
    lambda op, inputs, output: op.pads[0] + op.pads[len(op.pads) // 2] if len(op.pads) > 2 else 0,
)
_EVEN = _UNEVEN.limit({0}, "the Edge TPU wants the same along both axes", "use equal dilations")
_THREE_AXES = (RANK.limit({1, 2, 3}, "the Edge TPU has three", "use images"),)
SUPPORTED: Capabilities = {
    Conv: (_GROUP_DILATION.limit({1}, "the Edge TPU has none", "use a dilation of 1"), _EVEN),
    ConvTranspose: (_EVEN,),
    MaxPool: (_EVEN,),
    Dense: (_ROWS.limit({1}, "the Edge TPU's dense layer writes one vector", "use a 1x1 convolution"),),
    Pad: (_CHANNEL_PADDING.limit({0}, "the Edge TPU pads rows and columns", "add the channels in the layer before"),),
    Transpose: _THREE_AXES,
    Upsample: _THREE_AXES,
    Concat: _THREE_AXES,
}


def find_reasons(graph: Graph) -> list[Reason]:
    """What the Edge TPU's documentation rules out."""
    return [reason for op in graph.ops for reason in check_capabilities(op, graph, SUPPORTED, "the Edge TPU")]


def commands(model: str, target: Target) -> tuple[Command, ...]:
    """The compiler on the file `model`, where it is."""
    argv = ("{python}", "-m", "greenedge.backends.int8.tflite.edgetpu", model)
    return (Command(argv, "edgetpu.log", "compiling for the Edge TPU", timeout_s=_LIMIT_S + 30),)


def products() -> tuple[str, ...]:
    """What then exists, compiler or not."""
    return (RECORD,)


def report(folder: Path) -> Record:
    """{"edge", "evidence", "notes", "tools"}: what the compiler said, or that it is missing."""
    try:
        record = read_table(folder / RECORD)
    except (OSError, ValueError) as error:
        raise GreenedgeError(f"{folder / RECORD} is missing or damaged ({error}); run the build stage again.") from None
    if not record["compiled"]:
        return {"edge": {}, "evidence": {}, "notes": [record["said"]], "tools": {}}
    return {
        "edge": {"npu_bytes": (folder / COMPILED).stat().st_size, "left_to_the_cpu": record["left"]},
        "evidence": {"npu_bytes": "measured", "left_to_the_cpu": f"reported by {COMPILER}"},
        "notes": ["Verified is the int8 file before the Edge TPU's compiler."],
        "tools": {},
    }


def is_built_for(folder: Path) -> bool:
    """Whether a build folder is one for an Edge TPU."""
    return (folder / RECORD).is_file()


def tools() -> dict[str, str]:
    """The compiler, where it is."""
    return {COMPILER: shutil.which(COMPILER) or "not found"}


def main(model: str) -> int:
    """Compiles `model` in the working directory where the compiler is on PATH."""
    program = shutil.which(COMPILER)
    record: Record = {"compiled": False, "said": _MISSING}
    if program:
        try:
            done = capture([program, "-s", "-o", ".", model], _LIMIT_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            print(f"error: {COMPILER}: {error}")
            return 1
        print(done.stdout, done.stderr)
        if done.returncode != 0 or not Path(COMPILED).is_file():
            print(f"error: {COMPILER} ended with exit status {done.returncode} and left no {COMPILED}")
            return 1
        on_cpu = re.search(r"operations that will run on CPU: (\d+)", done.stdout)
        remainder = f"{on_cpu[1]} operators" if on_cpu else "not said"
        record = {"compiled": True, "said": done.stdout[:4000], "left": remainder}
    with atomic_write(Path(RECORD)) as path:
        path.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
