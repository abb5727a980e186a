"""The float network in PyTorch: eager or compiled, on CPU or CUDA."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import numpy as np

from greenedge.graph import Graph
from greenedge.runtimes import Found, Runtime
from greenedge.runtimes.floats import float_model


def probe(name: str) -> Found:
    """Whether torch is there, and CUDA where the name asks for it."""
    try:
        import torch
    except ImportError as error:
        return Found(name, None, str(error).splitlines()[0], "pip install torch")
    if name.endswith("cuda") and not torch.cuda.is_available():
        return Found(name, None, "PyTorch sees no CUDA device", "a CUDA build of torch on a machine with an NVIDIA GPU")
    return Found(name, metadata.version("torch"))


def open_(name: str, graph: Graph, model: Path | None, threads: int) -> Runtime:
    """The float network as a module; `torch-compile` compiles it at its first call."""
    import torch

    device = "cuda" if name.endswith("cuda") else "cpu"
    torch.set_num_threads(threads)
    network = module_of(float_model(graph)).eval().to(device)
    if "compile" in name:
        network = torch.compile(network)

    def run(levels: np.ndarray) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            outputs = network(torch.from_numpy(np.ascontiguousarray(levels, np.float32)).to(device))
        return {edge: value.cpu().numpy() for edge, value in zip(dict.fromkeys(graph.outputs), outputs)}

    def prepare(levels: np.ndarray):
        x = torch.from_numpy(np.ascontiguousarray(levels, np.float32)).to(device)

        def call() -> None:
            with torch.inference_mode():
                network(x)

        call()  # compiles
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


def module_of(model):
    """A torch Module with the nodes of a float ONNX model of ours; one input, a tuple of outputs."""
    return module_from(*plain(model))


def plain(model) -> tuple[dict, dict[str, np.ndarray]]:
    """({"input", "outputs", "nodes"}, constants) of a float ONNX model of ours, without onnx: the first goes into JSON as it is."""
    from onnx import helper, numpy_helper

    nodes = [
        {
            "kind": node.op_type,
            "attributes": {a.name: _attribute(helper.get_attribute_value(a)) for a in node.attribute},
            "inputs": list(node.input),
            "output": node.output[0],
        }
        for node in model.graph.node
    ]
    about = {
        "input": model.graph.input[0].name,
        "outputs": [value.name for value in model.graph.output],
        "nodes": nodes,
    }
    return about, {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def _attribute(value):
    return value.decode() if isinstance(value, bytes) else list(value) if not isinstance(value, (int, float)) else value


def module_from(about: dict, held: dict[str, np.ndarray]):
    """The Module of what `plain` gave."""
    import torch

    first, outputs = about["input"], about["outputs"]
    steps = [(_OPS[node["kind"]], node["attributes"], node["inputs"], node["output"]) for node in about["nodes"]]

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.slots = {name: f"c{k}" for k, name in enumerate(held)}
            for name, slot in self.slots.items():
                if held[name].dtype == np.float32:
                    self.register_buffer(slot, torch.from_numpy(held[name].copy()))
                else:
                    setattr(self, slot, held[name].tolist())  # shapes and paddings

        def forward(self, x):
            values = {first: x}
            for function, attributes, inputs, output in steps:
                given = [values[name] if name in values else getattr(self, self.slots[name]) for name in inputs]
                values[output] = function(torch, attributes, *given)
            return tuple(values[name] for name in outputs)

    return Network()


def _ends(pads: list[int]) -> list[int]:
    """ONNX's (begin…, end…) as torch's (last begin, last end, …)."""
    n = len(pads) // 2
    return [v for axis in reversed(range(n)) for v in (pads[axis], pads[n + axis])]


def _even(torch, x, a, value: float = 0.0):
    """(x, padding): the padding as the operator takes it, or written out where the two ends differ."""
    pads = a.get("pads", [0, 0])
    n = len(pads) // 2
    if pads[:n] == pads[n:]:
        return x, pads[:n]
    return torch.nn.functional.pad(x, _ends(pads), value=value), [0] * n


def _conv(torch, a, x, w, b):
    x, padding = _even(torch, x, a)
    function = getattr(torch.nn.functional, f"conv{w.dim() - 2}d")
    return function(x, w, b, a["strides"], padding, a["dilations"], a["group"])


def _conv_transpose(torch, a, x, w, b):
    """All products, more rows at the end for the output padding, the pads cut off, then the bias."""
    n = w.dim() - 2
    begin, end, extra = a["pads"][:n], a["pads"][n:], a["output_padding"]
    y = getattr(torch.nn.functional, f"conv_transpose{n}d")(x, w, None, a["strides"], 0, 0, a["group"], a["dilations"])
    y = torch.nn.functional.pad(y, [v for k in reversed(range(n)) for v in (0, extra[k])])
    for k in range(n):
        y = y.narrow(2 + k, begin[k], y.shape[2 + k] - begin[k] - end[k])
    return y + b.reshape(-1, *[1] * n)


def _max_pool(torch, a, x):
    x, padding = _even(torch, x, a, float("-inf"))
    n = len(a["kernel_shape"])
    return getattr(torch.nn.functional, f"max_pool{n}d")(
        x, a["kernel_shape"], a["strides"], padding, a.get("dilations", [1] * n)
    )


def _average_pool(torch, a, x):
    x, padding = _even(torch, x, a)
    return getattr(torch.nn.functional, f"avg_pool{len(a['kernel_shape'])}d")(
        x, a["kernel_shape"], a["strides"], padding
    )


def _depth_to_space(torch, a, x):
    n, c, h, w = x.shape
    b = a["blocksize"]
    if a["mode"] == "DCR":
        return x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // b**2, h * b, w * b)
    return x.reshape(n, c // b**2, b, b, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, c // b**2, h * b, w * b)


_OPS = {
    "Identity": lambda torch, a, x: x,
    "Add": lambda torch, a, x, y: x + y,
    "Mul": lambda torch, a, x, y: x * y,
    "MatMul": lambda torch, a, x, y: x @ y,
    "Gemm": lambda torch, a, x, w, b: torch.addmm(b, x, w),
    "Relu": lambda torch, a, x: torch.relu(x),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": lambda torch, a, x: x.mean(dim=tuple(range(2, x.dim())), keepdim=True),
    "Reshape": lambda torch, a, x, shape: x.reshape(x.shape[0], *shape[1:]),
    "Expand": lambda torch, a, x, shape: x.expand(x.shape[0], *shape[1:]),
    "Transpose": lambda torch, a, x: x.permute(a["perm"]),
    "Concat": lambda torch, a, *parts: torch.cat(parts, dim=a["axis"]),
    "Pad": lambda torch, a, x, pads, level: torch.nn.functional.pad(x, _ends(pads), value=float(level)),
    "DepthToSpace": _depth_to_space,
}
