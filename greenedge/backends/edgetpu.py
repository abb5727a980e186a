"""Back end `edgetpu`: the exact int8 .tflite for Coral's Edge TPU, compiled where Google's compiler is on PATH.

Tools: edgetpu_compiler where found (Google's Debian archive, x86-64 only). Options: none. Files: those of `tflite`;
edgetpu.json; model_edgetpu.tflite and its log where the compiler was found.

    python -m greenedge.backends.edgetpu        in the build folder: compiles if it can, and writes edgetpu.json
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

import greenedge.backends.tflite as tflite
from greenedge.errors import GreenedgeError, Reason
from greenedge.files import write_aside
from greenedge.graph import Concat, Conv, ConvTranspose, Dense, Graph, MaxPool, Op, Pad, SumPool, Transpose, Upsample
from greenedge.target import Target
from greenedge.tools import Command, Plan

STAGE, BUILT_ON = tflite.STAGE, ("tflite",)
COMPILER, RECORD, COMPILED = "edgetpu_compiler", "edgetpu.json", "model_edgetpu.tflite"
_LIMIT_S = 600
_MISSING = (f"{COMPILER} is not on PATH: model.tflite is exact and fits the Edge TPU's rules, but is not compiled for it; run "
            f"`{COMPILER} model.tflite` where the compiler is (coral.ai, Edge TPU Compiler).")


def check(graph: Graph, target: Target, options: Mapping[str, object]) -> list[Reason]:
    """Every reason why the graph has no exact int8 file, and what the Edge TPU's documentation rules out."""
    return tflite.check(graph, target, options) + [reason for op in graph.ops for reason in _against(graph, op)]


def _against(graph: Graph, op: Op) -> list[Reason]:
    """Coral documentation, "TensorFlow models on the Edge TPU", supported operations and their known limitations."""
    rule = None
    if isinstance(op, Conv) and op.groups > 1 and any(d != 1 for d in op.dilations):
        rule = ("a dilated depthwise convolution", "the Edge TPU has none", "use a dilation of 1")
    elif isinstance(op, (Conv, ConvTranspose, MaxPool, SumPool)) and len(set(getattr(op, "dilations", ()) or (1,))) > 1:
        rule = (f"dilations {tuple(op.dilations)}", "the Edge TPU wants the same along both axes", "use equal dilations")
    elif isinstance(op, Dense) and len(graph.edges[op.output].shape) > 1:
        rule = (f"outputs of shape {graph.edges[op.output].shape}", "the Edge TPU's dense layer writes one vector",
                "use a 1x1 convolution")
    elif isinstance(op, Pad) and (op.pads[0] or op.pads[len(op.pads) // 2]) and len(op.pads) > 2:
        rule = ("padding of channels", "the Edge TPU pads rows and columns", "add the channels in the layer before")
    elif isinstance(op, (Transpose, Upsample)) and len(graph.edges[op.output].shape) > 3:
        rule = (f"a tensor of {len(graph.edges[op.output].shape)} axes", "the Edge TPU has three", "use images")
    elif isinstance(op, Concat) and len(graph.edges[op.output].shape) > 3:
        rule = (f"a tensor of {len(graph.edges[op.output].shape)} axes", "the Edge TPU has three", "use images")
    return [Reason(op.name, "unsupported-op", *rule)] if rule else []


def plan(graph: Graph, target: Target, options: Mapping[str, object]) -> Plan:
    """The plan of `tflite`, then the compiler where it is."""
    before = tflite.plan(graph, target, options)
    command = Command(("{python}", "-m", "greenedge.backends.edgetpu"), "edgetpu.log", "compiling for the Edge TPU", timeout_s=_LIMIT_S + 30)
    return Plan(before.files, (*before.commands, command), (*before.products, RECORD))


def simulate(folder: Path, x: np.ndarray | Mapping[str, np.ndarray], keep: Sequence[str] = (), progress=lambda *_: None,
             kernels: str = "xnnpack") -> dict[str, np.ndarray]:
    """model.tflite under LiteRT (see `tflite.simulate`); the compiled file runs on an Edge TPU alone."""
    return tflite.simulate(folder, x, keep, progress, kernels)


def proved(folder: Path) -> str | None:
    """What holds for model.tflite on every input (see `tflite.proved`)."""
    return tflite.proved(folder)


def report(folder: Path) -> dict:
    """The report of `tflite`, and what the compiler said of each operator, or that it is missing."""
    found = tflite.report(folder)
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GreenedgeError(f"{folder / RECORD} is missing or damaged ({error}); run the build stage again.") from None
    if not record["compiled"]:
        return {**found, "notes": [record["said"]]}
    edge = {**found["edge"], "npu_bytes": (folder / COMPILED).stat().st_size, "left_to_the_cpu": record["left"]}
    evidence = {**found["evidence"], "npu_bytes": "measured", "left_to_the_cpu": "reported by edgetpu_compiler"}
    return {**found, "edge": edge, "evidence": evidence, "notes": ["Verified is the int8 file before the Edge TPU's compiler."]}


def tools(options: Mapping[str, object]) -> dict[str, str]:
    """Those of `tflite`, and the compiler where it is."""
    return {**tflite.tools(options), COMPILER: shutil.which(COMPILER) or "not found"}


def main() -> int:
    """Compiles model.tflite in the working directory where the compiler is on PATH."""
    program = shutil.which(COMPILER)
    record = {"compiled": False, "said": _MISSING}
    if program:
        try:
            done = subprocess.run([program, "-s", "-o", ".", tflite.MODEL], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                  errors="replace", timeout=_LIMIT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            print(f"error: {COMPILER}: {error}")
            return 1
        print(done.stdout, done.stderr)
        if done.returncode != 0 or not Path(COMPILED).is_file():
            print(f"error: {COMPILER} ended with exit status {done.returncode} and left no {COMPILED}")
            return 1
        left = re.search(r"operations that will run on CPU: (\d+)", done.stdout)
        record = {"compiled": True, "said": done.stdout[:4000], "left": f"{left[1]} operators" if left else "not said"}
    with write_aside(Path(RECORD)) as path:
        path.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
