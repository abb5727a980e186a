"""Runs one ONNX file on arrays. A program of its own, on numpy and ONNX Runtime alone:

    python worker.py FOLDER

FOLDER holds model.onnx and x0.npy, x1.npy, … (one for each input, in the file's order); y.npz with y0, y1, … (one for
each output) is written beside them. It prints "done N" as it goes.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

NO_RUNTIME = 3  # exit status: no runtime works here
BAD_FILE = 4  # exit status: the runtime does not take the file
_BATCH = 32


def saturates(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this processor's fast 8-bit products may saturate at 16 bits: x86 without VNNI, or not known to have
    it. The session must then ask for exact ones, which take about twice the time."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        flags = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "")
    except OSError:
        return True
    return not {"avx512_vnni", "avx_vnni"} & set(flags.split())


def session_for(content: bytes, threads: int = 1) -> InferenceSession:
    """A CPU session. Raises ImportError where there is no runtime, and the runtime's own errors for a file it does
    not take."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.x64quantprecision", "1" if saturates() else "0")
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _ignore(done: int) -> None:
    """No progress."""


def run(
    session: InferenceSession, inputs: list[NDArray[Any]], progress: Callable[[int], None] = _ignore
) -> list[NDArray[Any]]:
    """All outputs, batch first."""
    names = [value.name for value in session.get_inputs()]
    total, parts = len(inputs[0]), []
    for k in range(0, total, _BATCH):
        batch = {name: np.ascontiguousarray(x[k : k + _BATCH]) for name, x in zip(names, inputs, strict=True)}
        parts.append(session.run(None, batch))
        progress(min(k + _BATCH, total))
    if not parts:
        kinds = {"tensor(int32)": np.int32}
        return [np.zeros((0, *v.shape[1:]), kinds.get(v.type, np.uint8)) for v in session.get_outputs()]
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def main(folder: Path) -> int:
    """The exit status."""
    try:
        session = session_for((folder / "model.onnx").read_bytes())
        inputs = [np.load(folder / f"x{k}.npy", mmap_mode="r") for k in range(len(session.get_inputs()))]
        values = run(session, inputs, lambda done: print(f"done {done}", flush=True))
        if any(value.dtype.kind not in "iufb" for value in values):
            raise ValueError("its outputs are not all numbers")
    except ImportError as error:
        print(error, file=sys.stderr)
        return NO_RUNTIME
    except Exception as error:  # the runtime's errors have no common class of their own
        print(str(error).splitlines()[0] if str(error) else type(error).__name__, file=sys.stderr)
        return BAD_FILE
    np.savez(folder / "y.npz", **{f"y{k}": value for k, value in enumerate(values)})  # type: ignore[arg-type]  # numpy's stub takes **kwds for allow_pickle
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
