"""Brevitas module → one QONNX file without external data, compared with the network it was exported from."""

from __future__ import annotations

import ast
import copy
import json
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from greenedge._warnings import quiet
from greenedge.errors import GreenedgeError
from greenedge.files.atomic_write import atomic_write, sha256_file
from greenedge.files.scratch import scratch_folder
from greenedge.frontends.normalise import normalise
from greenedge.train.recipe import Recipe
from greenedge.train.trained_network import load_trained_network

if TYPE_CHECKING:
    import onnx
    import torch
    from torch import nn

Arrays = np.ndarray | Sequence[np.ndarray]  # float32 (N, *shape) of one input, or of each of several

_MAX_BYTES = 1 << 31  # protobuf's limit on one message
_SCOPES = "pkg.torch.onnx.name_scopes"  # metadata by torch's exporter: the path of modules, then the traced function
_PROXIES = re.compile(r"\.(?:act|weight|bias)_quant(?:\.|$)")  # Brevitas' modules below a layer
_QUANTISERS = ("Quant", "IntQuant", "BipolarQuant", "Trunc")
_ROLES = {  # names of parameters by their position among a node's inputs
    "Quant": ("", "scale", "zero_point", "bits"),
    "IntQuant": ("", "scale", "zero_point", "bits"),
    "BipolarQuant": ("", "scale"),
    "Gemm": ("", "weight", "bias"),
    "MatMul": ("", "weight"),
    "Conv": ("", "weight", "bias"),
    "ConvTranspose": ("", "weight", "bias"),
    "BatchNormalization": ("", "weight", "bias", "running_mean", "running_var"),
}
_CHECK_SAMPLES = 4  # on which the file is compared with the network
# A file and its network compute in float32 in another order. Outputs agree to _NOISE times the largest output, unless a
# value lies within float32's rounding error of the edge between two levels and is rounded to the other side. That may
# happen in up to _MAX_TIES samples; a wrong export differs in all. The verify stage compares integers with ==.
_NOISE = 1e-4
_MAX_TIES = 1
_UNKNOWN = "the network has a layer that its exporter does not know"


def export_stage(recipe: Recipe, train_folder: Path, folder: Path) -> dict[str, Any]:
    """Writes model.onnx, inputs.npy, labels.npy, torch.npy and export.json from the train stage's folder.

    Returns the content of export.json: names and shapes, the scores of torch.npy, tool versions. Raises
    GreenedgeError where the weights do not fit or the file computes something else than the network.
    """
    train_folder, folder = Path(train_folder), Path(folder)
    model = load_trained_network(recipe, train_folder)
    inputs, labels = (np.load(train_folder / f"{name}_test.npy", allow_pickle=False) for name in "xy")
    outputs = outputs_of(model, inputs)
    facts = export_model(model, inputs[:_CHECK_SAMPLES], folder / "model.onnx")
    for name, array in (("inputs", inputs), ("labels", labels), ("torch", outputs)):
        with atomic_write(folder / f"{name}.npy") as aside, open(aside, "wb") as file:
            np.save(file, array)
    facts |= {"scores": recipe.score(outputs, inputs, labels), "samples": len(inputs)}
    with atomic_write(folder / "export.json") as aside:
        aside.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return facts


def export_model(model: nn.Module, samples: Arrays, path: Path) -> dict[str, Any]:
    """Writes `model` (torch, eval mode, with Brevitas quantisers) as one QONNX file of batch size 1, in normal form.

    samples     float32 (N, *shape), N ≥ 1: they fix the input's shape, and the file is executed on them; a sequence of
                such arrays, one for each argument of its forward, where that takes several
    Returns {"input", "output" ("inputs", "outputs" of several), "nodes", "opset", "sha256", "tools"}. Raises
    GreenedgeError where torch cannot export the network, and where the file computes something else than the network.
    """
    import onnx

    given = _list_arrays(samples)
    assert all(len(array) for array in given) and not model.training
    with scratch_folder("export") as scratch:
        raw = Path(scratch) / "raw.onnx"
        _export_raw(model, [array[:1] for array in given], raw)
        proto = onnx.load(raw)  # with the weights that the exporter wrote beside it
    clean(proto)
    _rewrite_unsigned_bits(model, proto.graph)
    proto = normalise(proto, path.stem).proto
    _check_equal(model, proto, given, path.name)
    if proto.ByteSize() > _MAX_BYTES:
        size = proto.ByteSize()
        raise GreenedgeError(f"{path.name} would take {size} bytes; one ONNX file holds at most {_MAX_BYTES}.")
    with atomic_write(path) as aside:
        onnx.save(proto, aside)
    return {
        **_describe_ends("input", proto.graph.input),
        **_describe_ends("output", proto.graph.output),
        "nodes": len(proto.graph.node),
        "sha256": sha256_file(path),
        "opset": {item.domain or "ai.onnx": item.version for item in proto.opset_import},
        "tools": {name: version(name) for name in ("torch", "brevitas", "onnx", "onnxscript", "qonnx")},
    }


def _list_arrays(samples: Arrays) -> list[np.ndarray]:
    """One float32 array for each input."""
    arrays = [samples] if isinstance(samples, np.ndarray) else samples
    return [np.ascontiguousarray(array, np.float32) for array in arrays]


def _export_raw(model: nn.Module, sample: Sequence[np.ndarray], path: Path) -> None:
    import torch

    with quiet():
        from brevitas.export import export_qonnx

        try:
            export_qonnx(
                model,
                args=tuple(map(torch.from_numpy, sample)),
                export_path=str(path),
                verbose=False,
                keep_initializers_as_inputs=False,
            )
        except Exception as error:  # torch's exporter has no common class; the first line names what it cannot export
            if packed := _find_packed(model):
                raise GreenedgeError(
                    f"torch's exporter cannot trace the packed projection of {packed[0]}; make it with "
                    "QuantMultiheadAttention(…, packed_in_proj=False), which has the same weights in three layers."
                ) from error
            lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            raise GreenedgeError(
                f"torch cannot export the network to ONNX: {lines[0].strip()}; replace the module it "
                "names by a supported one."
            ) from error


def _find_packed(model: nn.Module) -> list[str]:
    """The paths of Brevitas' attention layers whose three projections are one."""
    return [
        name or "the network"
        for name, module in model.named_modules()
        if type(module).__name__ == "QuantMultiheadAttention" and getattr(module, "in_proj", None) is not None
    ]


def clean(proto: onnx.ModelProto) -> None:
    """Names the nodes and tensors of an exported file and removes metadata about this machine, in place.

    Nodes are named after their torch module: "fc1", "fc1.weight_quant", "relu1", "relu1.act_quant"; a tensor is named
    after the node that writes it or, where it is a parameter, that reads it. Metadata with source paths is removed; the
    module's path remains under "module".
    """
    graph = proto.graph
    initial = {item.name for item in graph.initializer}
    inputs = [item for item in graph.input if item.name not in initial]
    del graph.input[:]
    graph.input.extend(inputs)
    _name_nodes(graph, initial)
    for item in (*graph.input, *graph.output, *graph.initializer, *graph.value_info, graph, proto):
        del item.metadata_props[:]
        item.ClearField("doc_string")
    _separate_parameters(graph)
    _rename_tensors(graph)
    opsets = sorted(proto.opset_import, key=lambda item: item.domain)  # tools read the first as ONNX's own version
    copies = [copy.deepcopy(item) for item in opsets]
    del proto.opset_import[:]
    proto.opset_import.extend(copies)


def _name_nodes(graph: onnx.GraphProto, initial: set[str]) -> None:
    readers = {name: position for node in graph.node for position, name in enumerate(node.input)}
    count: dict[str, int] = {}
    for node in graph.node:
        module = _module_of(node)
        name = module or node.op_type
        if node.op_type in _QUANTISERS:
            kind = "act" if node.input[0] not in initial else ("bias" if readers[node.output[0]] == 2 else "weight")
            name += f".{kind}_quant"
        count[name] = count.get(name, 0) + 1
        node.name = name if count[name] == 1 else f"{name}_{count[name]}"
        node.ClearField("doc_string")
        del node.metadata_props[:]
        if module:
            node.metadata_props.add(key="module", value=module)


def _module_of(node: onnx.NodeProto) -> str | None:
    """The torch path of the layer that a node belongs to, or None where the exporter wrote none."""
    scopes = next((item.value for item in node.metadata_props if item.key == _SCOPES), None)
    path = ast.literal_eval(scopes) if scopes else []  # a list of texts as a Python literal; the last is the function
    modules = [part for part in path[:-1] if part]
    return _PROXIES.split(modules[-1])[0] if modules else None


def _rewrite_unsigned_bits(model: nn.Module, graph: onnx.GraphProto) -> None:
    """Turns unsigned 1-bit quantisers into Quant nodes with levels 0 and 1, in place.

    Brevitas writes every 1-bit quantiser as a BipolarQuant, levels -1 and 1, also unsigned ones such as
    QuantReLU(bit_width=1).
    """
    from onnx import helper, numpy_helper

    for node in graph.node:
        path = next((item.value for item in node.metadata_props if item.key == "module"), None)
        quantiser = (
            getattr(model.get_submodule(path), "act_quant", None) if node.op_type == "BipolarQuant" and path else None
        )
        if quantiser is None or quantiser.is_signed is not False:
            continue
        for role, value in (("zero_point", 0.0), ("bits", 1.0)):
            graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), f"{node.name}.{role}"))
            node.input.append(f"{node.name}.{role}")
        node.op_type = "Quant"
        settings: dict[str, int | str] = {"signed": 0, "narrow": 0, "rounding_mode": "ROUND"}
        node.attribute.extend(helper.make_attribute(key, value) for key, value in settings.items())


def _separate_parameters(graph: onnx.GraphProto) -> None:
    """Gives every node parameters under its own names, in place; the exporter shares equal ones between nodes."""
    initial = {item.name: item for item in graph.initializer}
    fresh = {}
    for node in graph.node:
        roles = _ROLES.get(node.op_type, ())
        for position, name in enumerate(node.input):
            if name in initial:
                role = roles[position] if position < len(roles) else f"constant{position}"
                own = f"{node.name}.{role}" if role else node.name.removesuffix("_quant")
                fresh[own] = copy.deepcopy(initial[name])
                fresh[own].name = own
                node.input[position] = own
    del graph.initializer[:]
    graph.initializer.extend(fresh.values())


def _rename_tensors(graph: onnx.GraphProto) -> None:
    """Names tensors after the node that writes them, in place; a single input is "input", a single output "output"."""
    renamed: dict[str, str] = {}
    outputs = {item.name: number for number, item in enumerate(graph.output)}
    for node in graph.node:
        for position, name in enumerate(node.output):
            if name in outputs:
                renamed[name] = "output" if len(outputs) == 1 else f"output_{outputs[name]}"
            elif name:
                renamed[name] = f"{node.name}_out" if position == 0 else f"{node.name}_out{position}"
    if len(graph.input) == 1:
        renamed[graph.input[0].name] = "input"
    else:  # they keep the names of forward's arguments
        taken = set(renamed.values())
        renamed.update({item.name: f"{item.name}_in" if item.name in taken else item.name for item in graph.input})
    assert len(set(renamed.values())) == len(renamed), "two tensors of one name"
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for item in (*graph.input, *graph.output, *graph.value_info):
        item.name = renamed.get(item.name, item.name)


def _describe_ends(role: str, values: Sequence[onnx.ValueInfoProto]) -> dict[str, Any]:
    """{"input": name and shape}, or {"inputs": list of those} of several."""
    shapes = [_describe_shape(value) for value in values]
    return {role: shapes[0]} if len(shapes) == 1 else {f"{role}s": shapes}


def _describe_shape(value: onnx.ValueInfoProto) -> dict[str, Any]:
    return {"name": value.name, "shape": [item.dim_value for item in value.type.tensor_type.shape.dim]}


def _check_equal(model: nn.Module, proto: onnx.ModelProto, samples: Sequence[np.ndarray], shown: str) -> None:
    """Raises GreenedgeError where the file's outputs on samples, (N, *shape) for each input, are not the network's,
    within _NOISE."""
    expected, got = _run_network(model, samples, batch=1), execute(proto, samples)
    shapes = [[array.shape for array in arrays] for arrays in (got, expected)]
    if shapes[0] != shapes[1]:
        file, network = (", ".join(map(str, each)) for each in shapes)
        raise GreenedgeError(f"{shown} has outputs of shape {file}, the network it came from {network}; {_UNKNOWN}.")
    for ours, theirs in zip(expected, got, strict=True):
        bound = _NOISE * max(1e-30, float(np.abs(ours).max()))
        distance = np.abs(theirs - ours).reshape(len(ours), -1).max(axis=1)
        wrong = int((~(distance <= bound)).sum())  # a NaN is wrong too
        if wrong > (_MAX_TIES if len(ours) > 2 else 0):
            raise GreenedgeError(
                f"{shown} computes something else than the network it came from: {wrong} of "
                f"{len(ours)} samples differ, by up to {float(distance.max()):.3g} where {bound:.3g} is "
                f"float rounding; {_UNKNOWN}."
            )


def outputs_of(model: nn.Module, samples: Arrays, batch: int = 256) -> np.ndarray:
    """The float32 outputs of a torch network on samples (N, *shape), in batches.

    Raises GreenedgeError where it gives anything but one tensor.
    """
    outputs = _run_network(model, _list_arrays(samples), batch)
    if len(outputs) != 1:
        raise GreenedgeError(f"the network gives {len(outputs)} tensors, and a recipe's gives one; return one of them.")
    return outputs[0]


def _run_network(model: nn.Module, samples: Sequence[np.ndarray], batch: int) -> list[np.ndarray]:
    """Every output of a torch network on samples, (N, *shape) for each input, in batches."""
    import torch

    with torch.no_grad():
        parts = zip(*(torch.from_numpy(array).split(batch) for array in samples), strict=True)
        results = [_unwrap_tensors(model(*part)) for part in parts]
    return [np.concatenate([value.numpy() for value in values]) for values in zip(*results, strict=True)]


def _unwrap_tensors(output: object) -> list[torch.Tensor]:
    """The values of a network's outputs, which Brevitas wraps where the last quantiser has return_quant_tensor=True."""
    import torch
    from brevitas.quant_tensor import QuantTensor

    parts = output if isinstance(output, (tuple, list)) and not isinstance(output, QuantTensor) else [output]
    values: list[torch.Tensor] = []
    for value in (getattr(part, "value", part) for part in parts):
        if not isinstance(value, torch.Tensor):
            raise GreenedgeError(
                f"the network gives a {type(value).__name__}, and tensors are exported; let its forward return one, "
                "or a tuple of them."
            )
        values.append(value)
    return values


def execute(proto: onnx.ModelProto, samples: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Every output of a QONNX model of batch size 1 on samples, (N, *shape) for each input, by qonnx, one by one."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    with quiet():
        wrapper = ModelWrapper(proto).transform(InferShapes())
        inputs, outputs = ([value.name for value in ends] for ends in (proto.graph.input, proto.graph.output))
        rows = [
            execute_onnx(wrapper, {name: array[k : k + 1] for name, array in zip(inputs, samples, strict=True)})
            for k in range(len(samples[0]))
        ]
        return [np.concatenate([row[name] for row in rows]) for name in outputs]
