"""An HGQ2 model (.keras) as an ONNX model that `lower` knows, bit for bit what Keras predicts.

    proto = read_hgq2(path)      # UnsupportedError carries every reason

HGQ2 and Keras run in an environment of their own, made on first use; the file is loaded in Keras' safe mode there.

    worker.py       the layers as steps, in that environment
    network.py      the steps as QONNX quantisers and standard layers
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from greenedge.errors import GreenedgeError, Reason, ReasonKind, UnsupportedError
from greenedge.files.scratch import scratch_folder
from greenedge.frontends.hgq2.network import write_network
from greenedge.tools.capture import capture
from greenedge.tools.own_environment import Environment, own_python

if TYPE_CHECKING:
    from onnx import ModelProto

HERE = Path(__file__).parent
HGQ2 = Environment("HGQ2", "hgq2", HERE / "requirements.txt", HERE / "worker.py", 200)
_LIMIT_S = 300
_REFUSED = 3  # the worker's exit status with sentences on standard error
_MOST_BYTES = 1 << 28


def _tell(line: str) -> None:
    """To a person who waits for the environment: it takes minutes the first time."""
    print(f"greenedge: {line}", file=sys.stderr, flush=True)


def read_hgq2(path: Path, progress: Callable[[str], None] = _tell) -> ModelProto:
    """The model as ONNX. Raises UnsupportedError with every reason, GreenedgeError for a file that Keras does not
    load, ToolError where the environment cannot be had."""
    import numpy as np

    if path.stat().st_size > _MOST_BYTES:
        raise GreenedgeError(f"{path} has {path.stat().st_size:,} bytes; at most {_MOST_BYTES:,} are read.")
    python = own_python(HGQ2, progress)
    progress(f"Keras and HGQ2 load {path.name}")
    with scratch_folder("hgq2") as scratch:
        folder = Path(scratch)
        _run([str(python), "-I", "-B", str(HGQ2.worker), str(path.resolve()), str(folder)], path)
        steps = json.loads((folder / "network.json").read_text())
        with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
            return write_network(path.stem, steps, {name: arrays[name] for name in arrays.files})


def _run(argv: list[str], path: Path) -> None:
    try:
        done = capture(argv, _LIMIT_S)
    except subprocess.TimeoutExpired:
        raise GreenedgeError(f"Keras did not load {path} within {_LIMIT_S} s; save a smaller model.") from None
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    if done.returncode == _REFUSED:
        raise UnsupportedError(f"{path.name} cannot become an integer graph:", [_explain(line) for line in lines])
    if done.returncode:
        last = lines[-1] if lines else "it printed nothing"
        raise GreenedgeError(f"{path} cannot be read by HGQ2 ({last[:200]}); save the model again.")


def _explain(line: str) -> Reason:
    """A sentence of the worker, "NODE: WHAT; RULE", as a reason."""
    node, _, rest = line.partition(": ")
    what, _, rule = rest.partition("; ")
    cure = "write it with layers of those, each used once"
    return Reason(node, ReasonKind.UNSUPPORTED_LAYER, what or line, rule or "it is read in Keras' safe mode", cure)
