"""The runtimes of edge_latency.py: opens a prepared file, with the input beside it. edge_files.py writes such files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from greenedge.backends.int8.onnxruntime.worker import session_for

FORMAT, ABOUT = "greenedge-latency/1", "prepared.json"


@dataclass(frozen=True, eq=False)
class OpenFile:
    """A file in its runtime: a call that does one inference, and its output."""

    call: Callable[[], object]
    output: np.ndarray


def open_file(folder: Path, about: dict, how: str = "cpu") -> OpenFile:
    """A prepared file in its runtime. Raises ImportError where that is not installed."""
    with np.load(folder / f"{about['file']}.npz") as sample:
        x = sample["x"]
    return {"litert": _litert, "onnxruntime": _onnxruntime, "torch": _torch}[about["runtime"]](
        folder / about["file"], x, how
    )


def _litert(path: Path, x: np.ndarray, how: str) -> OpenFile:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=path.read_bytes(), num_threads=1)
    interpreter.allocate_tensors()
    place, leave = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def call() -> None:
        interpreter.set_tensor(place, x)
        interpreter.invoke()

    call()
    return OpenFile(call, interpreter.get_tensor(leave))


def _onnxruntime(path: Path, x: np.ndarray, how: str) -> OpenFile:
    session = session_for(path.read_bytes())
    feed = {session.get_inputs()[0].name: x}
    return OpenFile(lambda: session.run(None, feed), session.run(None, feed)[0])


def _torch(path: Path, x: np.ndarray, how: str) -> OpenFile:
    """`how` is cpu, compiled, cuda or compiled-cuda; a call ends when its output is there."""
    import torch

    from greenedge.runtimes.torch import make_module

    torch.set_num_threads(1)
    about = json.loads(path.read_text())
    with np.load(path.parent / "constants.npz") as held:
        constants = {name: held[f"c{k}"] for k, name in enumerate(about["constants"])}
    device = "cuda" if how.endswith("cuda") else "cpu"
    network, given = make_module(about, constants).eval().to(device), torch.from_numpy(x).to(device)
    network = torch.compile(network) if how.startswith("compiled") else network

    def call() -> object:
        with torch.inference_mode():
            result = network(given)[0]
        if device == "cuda":
            torch.cuda.synchronize()
        return result

    return OpenFile(call, call().cpu().numpy())
