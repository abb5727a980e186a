"""Coral's Edge TPU: the exact int8 .tflite, compiled where Google's compiler is on PATH (its Debian archive, x86-64 only).

Files: edgetpu.json; model_edgetpu.tflite where the compiler was found.

    python -m greenedge.backends.int8.tflite.edgetpu MODEL      in the build folder: compiles if it can, and writes edgetpu.json
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from greenedge.errors import GreenedgeError, Reason
from greenedge.files.atomic_write import atomic_write
from greenedge.graph import Concat, Conv, ConvTranspose, Dense, Graph, MaxPool, Op, Pad, SumPool, Transpose, Upsample
from greenedge.target import Target
from greenedge.tools.plan import Command

COMPILER, RECORD, COMPILED = "edgetpu_compiler", "edgetpu.json", "model_edgetpu.tflite"
_LIMIT_S = 600
_MISSING = (
    f"{COMPILER} is not on PATH: model.tflite is exact and fits the Edge TPU's rules, but is not compiled for it; run "
    f"`{COMPILER} model.tflite` where the compiler is (coral.ai, Edge TPU Compiler)."
)


def reasons_against(graph: Graph) -> list[Reason]:
    """What the Edge TPU's documentation rules out."""
    return [reason for op in graph.ops for reason in _against(graph, op)]


def _against(graph: Graph, op: Op) -> list[Reason]:
    """Coral documentation, "TensorFlow models on the Edge TPU", supported operations and their known limitations."""
    rule = None
    if isinstance(op, Conv) and op.groups > 1 and any(d != 1 for d in op.dilations):
        rule = ("a dilated convolution in groups", "the Edge TPU has none", "use a dilation of 1")
    elif isinstance(op, (Conv, ConvTranspose, MaxPool, SumPool)) and len(set(getattr(op, "dilations", ()) or (1,))) > 1:
        rule = (
            f"dilations {tuple(op.dilations)}",
            "the Edge TPU wants the same along both axes",
            "use equal dilations",
        )
    elif isinstance(op, Dense) and len(graph.edges[op.output].shape) > 1:
        rule = (
            f"outputs of shape {graph.edges[op.output].shape}",
            "the Edge TPU's dense layer writes one vector",
            "use a 1x1 convolution",
        )
    elif isinstance(op, Pad) and (op.pads[0] or op.pads[len(op.pads) // 2]) and len(op.pads) > 2:
        rule = ("padding of channels", "the Edge TPU pads rows and columns", "add the channels in the layer before")
    elif isinstance(op, (Transpose, Upsample)) and len(graph.edges[op.output].shape) > 3:
        rule = (f"a tensor of {len(graph.edges[op.output].shape)} axes", "the Edge TPU has three", "use images")
    elif isinstance(op, Concat) and len(graph.edges[op.output].shape) > 3:
        rule = (f"a tensor of {len(graph.edges[op.output].shape)} axes", "the Edge TPU has three", "use images")
    return [Reason(op.name, "unsupported-op", *rule)] if rule else []


def commands(model: str, target: Target) -> tuple[Command, ...]:
    """The compiler on the file `model`, where it is."""
    argv = ("{python}", "-m", "greenedge.backends.int8.tflite.edgetpu", model)
    return (Command(argv, "edgetpu.log", "compiling for the Edge TPU", timeout_s=_LIMIT_S + 30),)


def products() -> tuple[str, ...]:
    """What then exists, compiler or not."""
    return (RECORD,)


def report(folder: Path) -> dict:
    """{"edge", "evidence", "notes", "tools"}: what the compiler said, or that it is missing."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
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


def made(folder: Path) -> bool:
    """Whether a build folder is one for an Edge TPU."""
    return (folder / RECORD).is_file()


def tools() -> dict[str, str]:
    """The compiler, where it is."""
    return {COMPILER: shutil.which(COMPILER) or "not found"}


def main(model: str) -> int:
    """Compiles `model` in the working directory where the compiler is on PATH."""
    program = shutil.which(COMPILER)
    record = {"compiled": False, "said": _MISSING}
    if program:
        try:
            done = subprocess.run(
                [program, "-s", "-o", ".", model],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_LIMIT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            print(f"error: {COMPILER}: {error}")
            return 1
        print(done.stdout, done.stderr)
        if done.returncode != 0 or not Path(COMPILED).is_file():
            print(f"error: {COMPILER} ended with exit status {done.returncode} and left no {COMPILED}")
            return 1
        left = re.search(r"operations that will run on CPU: (\d+)", done.stdout)
        record = {"compiled": True, "said": done.stdout[:4000], "left": f"{left[1]} operators" if left else "not said"}
    with atomic_write(Path(RECORD)) as path:
        path.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
