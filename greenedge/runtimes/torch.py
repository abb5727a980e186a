"""The float network in PyTorch: eager or compiled, on CPU or CUDA."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from greenedge.backends.interface import Feeds
from greenedge.graph import Graph
from greenedge.runtimes import Probe, Runtime, float_levels
from greenedge.runtimes.floats import float_model

if TYPE_CHECKING:
    import onnx
    import torch


def probe(name: str) -> Probe:
    """Whether torch can be imported, and sees a CUDA device where the name asks for one."""
    try:
        import torch
    except ImportError as error:
        return Probe(name, None, str(error).splitlines()[0], "pip install torch")
    if name.endswith("cuda") and not torch.cuda.is_available():
        return Probe(name, None, "PyTorch sees no CUDA device", "a CUDA build of torch on a machine with an NVIDIA GPU")
    return Probe(name, metadata.version("torch"))


def open_(name: str, graph: Graph, model: Path | None, threads: int) -> Runtime:
    """The float network as a module; `torch-compile` compiles it at its first call."""
    import torch

    device = "cuda" if name.endswith("cuda") else "cpu"
    torch.set_num_threads(threads)
    module = make_module(*describe_model(float_model(graph))).eval().to(device)
    network: Callable[[torch.Tensor], tuple[torch.Tensor, ...]] = torch.compile(module) if "compile" in name else module

    def load(levels: Feeds) -> list[torch.Tensor]:
        return [torch.from_numpy(values).to(device) for values in float_levels(graph, levels)]

    def run(levels: Feeds) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            outputs = network(*load(levels))
        return {edge: value.cpu().numpy() for edge, value in zip(dict.fromkeys(graph.outputs), outputs, strict=True)}

    def prepare(levels: Feeds) -> Callable[[], object]:
        given = load(levels)

        def call() -> None:
            with torch.inference_mode():
                network(*given)

        call()  # torch.compile compiles at the first call
        return call

    title = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return Runtime(
        name,
        metadata.version("torch"),
        title,
        False,
        run,
        prepare,
        torch.cuda.synchronize if device == "cuda" else None,
    )


def describe_model(model: onnx.ModelProto) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(description, constants by name) of a float ONNX model of ours, from which make_module rebuilds it without onnx.

    The description can be written as JSON: {"inputs": names, "outputs": names, "nodes": [{"kind", "attributes",
    "inputs", "output"}, …]}.
    """
    from onnx import helper, numpy_helper

    nodes = [
        {
            "kind": node.op_type,
            "attributes": {a.name: _to_json_value(helper.get_attribute_value(a)) for a in node.attribute},
            "inputs": list(node.input),
            "output": node.output[0],
        }
        for node in model.graph.node
    ]
    description = {
        "inputs": [value.name for value in model.graph.input],
        "outputs": [value.name for value in model.graph.output],
        "nodes": nodes,
    }
    return description, {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def _to_json_value(value: Any) -> int | float | str | list[int]:
    """An attribute's value as onnx gives it: a number, bytes or a sequence of integers."""
    if isinstance(value, bytes):
        return value.decode()
    return value if isinstance(value, (int, float)) else list(value)


def make_module(description: dict[str, Any], constants: dict[str, np.ndarray]) -> torch.nn.Module:
    """The network that `describe_model` described; forward takes its inputs and gives a tuple of outputs."""
    import torch

    from greenedge.runtimes.torch_ops import OPERATIONS

    given, outputs = description["inputs"], description["outputs"]
    steps = [
        (OPERATIONS[node["kind"]], node["attributes"], node["inputs"], node["output"]) for node in description["nodes"]
    ]

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.slots = {name: f"c{k}" for k, name in enumerate(constants)}  # torch takes no "/" in a buffer's name
            for name, slot in self.slots.items():
                if constants[name].dtype == np.float32:
                    self.register_buffer(slot, torch.from_numpy(constants[name].copy()))
                else:
                    setattr(self, slot, constants[name].tolist())  # shapes and paddings

        def forward(self, *x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            values = dict(zip(given, x, strict=True))
            for function, attributes, inputs, output in steps:
                operands = [values[name] if name in values else getattr(self, self.slots[name]) for name in inputs]
                values[output] = function(attributes, *operands)
            return tuple(values[name] for name in outputs)

    return Network()
