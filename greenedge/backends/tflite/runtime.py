"""Runs a .tflite file as it lies on disk, in a process of its own: a damaged file must not take us with it.

    python -m greenedge.backends.tflite.runtime model.tflite input.npy output-prefix kernels batch
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from greenedge.errors import GreenedgeError, ToolError

RUNTIME = "ai-edge-litert"
_LIMIT_S = 1800
_MAX_BYTES = 1 << 30
_RESOLVERS = {"xnnpack": "AUTO", "reference": "BUILTIN_REF"}


def run_file(model: Path, x: np.ndarray, keep: Sequence[str] = (), kernels: str = "xnnpack",
             progress: Callable[[int, int, str], None] = lambda *_: None) -> dict[str, np.ndarray]:
    """{tensor name: stored int8 values, batch first} of the output and of the tensors in `keep`.

    `x` is int8, (N, …) in the file's own order. Raises GreenedgeError for a file that LiteRT does not take, ToolError where
    LiteRT is missing.
    """
    content = _read(model)
    with tempfile.TemporaryDirectory(prefix="greenedge-tflite-") as scratch:
        work = Path(scratch)
        (work / "model.tflite").write_bytes(with_outputs(content, keep, model) if keep else content)
        np.save(work / "x.npy", x)
        argv = [sys.executable, "-m", "greenedge.backends.tflite.runtime", str(work), kernels]
        try:
            with open(work / "log", "w+", encoding="utf-8", errors="replace") as log:
                process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True)
                try:
                    for line in process.stdout:
                        if line.startswith("done "):
                            progress(int(line.split()[1]), len(x), "LiteRT")
                    status = process.wait(_LIMIT_S)
                finally:
                    process.kill()
                log.seek(0)
                said = log.read()
        except subprocess.TimeoutExpired:
            raise ToolError(f"LiteRT did not end within {_LIMIT_S} s on {model}; give it fewer samples.") from None
        if status:
            raise _explained(model, status, said)
        with np.load(work / "y.npz", allow_pickle=False) as result:
            return {name: result[name] for name in result.files}


def _read(model: Path) -> bytes:
    try:
        if model.stat().st_size > _MAX_BYTES:
            raise GreenedgeError(f"{model} has {model.stat().st_size:,} bytes; at most {_MAX_BYTES:,} are read.")
        content = model.read_bytes()
    except OSError as error:
        raise GreenedgeError(f"{model} cannot be read ({error.strerror.lower()}); run the build stage again.") from None
    if content[4:8] != b"TFL3":
        raise GreenedgeError(f"{model} is no .tflite file; run the build stage again.")
    return content


def _explained(model: Path, status: int, said: str) -> Exception:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if any("No module named 'ai_edge_litert'" in line for line in lines):
        return ToolError(f"{RUNTIME} is not installed: pip install {RUNTIME}.")
    reason = next((line for line in reversed(lines) if "Error" in line or "rror:" in line), f"it ended with status {status}")
    return GreenedgeError(f"{model} cannot be run by LiteRT ({reason.rstrip('.')}); run the build stage again.")


def with_outputs(content: bytes, keep: Sequence[str], model: Path) -> bytes:
    """The same file with the tensors named in `keep` as further outputs."""
    from ai_edge_litert import schema_py_generated as schema

    from greenedge.backends.tflite.flatbuffer import pack

    try:
        parsed = schema.ModelT.InitFromPackedBuf(content, 0)
        subgraph = parsed.subgraphs[0]
        names = {tensor.name.decode(): k for k, tensor in enumerate(subgraph.tensors)}
    except (AttributeError, IndexError, ValueError, TypeError, UnicodeDecodeError, OverflowError) as error:
        raise GreenedgeError(f"{model} is damaged ({error}); run the build stage again.") from None
    extra = [names[name] for name in keep if name in names and names[name] not in list(subgraph.outputs)]
    written = {int(t) for operator in subgraph.operators for t in operator.outputs}
    subgraph.outputs = [*map(int, subgraph.outputs), *(t for t in extra if t in written)]
    return pack(parsed)


def _main(folder: Path, kernels: str) -> None:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(model_path=str(folder / "model.tflite"), num_threads=1,
                              experimental_op_resolver_type=getattr(OpResolverType, _RESOLVERS[kernels]))
    interpreter.allocate_tensors()
    entry, outputs = interpreter.get_input_details()[0], interpreter.get_output_details()
    x = np.load(folder / "x.npy", allow_pickle=False)
    rows: dict[str, list[np.ndarray]] = {out["name"]: [] for out in outputs}
    for k, sample in enumerate(x):
        interpreter.set_tensor(entry["index"], sample[None])
        interpreter.invoke()
        for out in outputs:
            rows[out["name"]].append(interpreter.get_tensor(out["index"]).copy())
        if k % 32 == 31 or k + 1 == len(x):
            print(f"done {k + 1}", flush=True)
    np.savez(folder / "y.npz", **{name: np.concatenate(parts) for name, parts in rows.items()})


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2])
