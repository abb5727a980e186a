"""Reads an untrusted ONNX file into plain, checked data. Nothing in the file is executed.

Sizes are checked before memory is allocated, external data must lie beside the model, the graph must be acyclic, and
floating-point constants must be finite. The lowering folds constant sub-graphs later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from greenedge.errors import GreenedgeError

if TYPE_CHECKING:
    import onnx

MAX_FILE_BYTES = 1 << 31
MAX_CONSTANT_BYTES = 1 << 31
QONNX_DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general", "qonnx.custom_op.channels_last")


@dataclass(frozen=True)
class Node:
    """One node of the source model. `module` is the torch module path where the exporter wrote it; attrs by name."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: dict[str, Any]
    module: str | None
    proto: onnx.NodeProto = field(repr=False, compare=False)


@dataclass(frozen=True)
class Source:
    """A model as read: nodes in topological order, constants by tensor name, inputs and outputs with shapes.

    A dimension that is not fixed is None; `annotations` maps tensors to QONNX datatype names such as 'UINT8'.
    """

    name: str
    nodes: tuple[Node, ...]
    constants: dict[str, np.ndarray]
    inputs: dict[str, tuple[int | None, ...]]
    outputs: dict[str, tuple[int | None, ...]]
    annotations: dict[str, str]
    opset: int


def read_model(path: Path) -> Source:
    """The model in `path`.

    Raises GreenedgeError for a file that is missing, not ONNX, damaged, or refers outside its folder.
    """
    proto = _load(path)
    try:
        return _parse(path, proto)
    except (UnicodeDecodeError, KeyError, TypeError, ValueError, OverflowError) as error:  # of protobuf and onnx
        raise GreenedgeError(
            f"{path} is damaged ({str(error).splitlines()[0][:120]}); export the model again."
        ) from None


def _parse(path: Path, proto: onnx.ModelProto) -> Source:
    import onnx

    graph = proto.graph
    _check_text(graph)
    constants = _read_constants(path, graph)
    _check_finite(path, graph, constants)
    nodes = _sort_nodes(path, graph, constants)
    opset = max([entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")], default=13)
    if opset > onnx.defs.onnx_opset_version():
        raise GreenedgeError(
            f"{path}: opset {opset} is newer than the {onnx.defs.onnx_opset_version()} that this onnx package knows; "
            "export with a lower opset_version."
        )
    _check_nodes(path, graph, opset)
    inputs = {v.name: _shape(v) for v in graph.input if v.name not in constants}
    outputs = {v.name: _shape(v) for v in graph.output}
    if not inputs or not outputs:
        raise GreenedgeError(
            f"{path}: the model has {len(inputs)} inputs and {len(outputs)} outputs; it needs at least one of each."
        )
    annotations = {
        a.tensor_name: entry.value
        for a in graph.quantization_annotation
        for entry in a.quant_parameter_tensor_names
        if entry.key == "finn_datatype"
    }
    return Source(graph.name or path.stem, nodes, constants, inputs, outputs, annotations, opset)


def _load(path: Path) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise GreenedgeError(f"{path} has {size:,} bytes; at most {MAX_FILE_BYTES:,} are read.")
        proto = onnx.load_model(str(path), load_external_data=False)
    except FileNotFoundError:
        raise GreenedgeError(f"{path} does not exist; give the path of an ONNX file.") from None
    except (IsADirectoryError, PermissionError) as error:
        raise GreenedgeError(
            f"{path} cannot be read: {str(error.strerror).lower()}; give the path of an ONNX file."
        ) from None
    except (DecodeError, ValueError, UnicodeDecodeError):
        raise GreenedgeError(f"{path} is not an ONNX file; export one with brevitas.export.export_qonnx.") from None
    if not proto.graph.node or not proto.opset_import:
        raise GreenedgeError(
            f"{path} is not an ONNX model with a graph in it; export one with brevitas.export.export_qonnx."
        )
    return proto


def _check_text(graph: onnx.GraphProto) -> None:
    """Raises ValueError for a name that is not UTF-8 text; protobuf gives such a name as bytes."""
    names = [graph.name, *(v.name for v in (*graph.input, *graph.output)), *(t.name for t in graph.initializer)]
    for node in graph.node:
        names += [node.name, node.op_type, node.domain, *node.input, *node.output, *(a.name for a in node.attribute)]
    wrong = next((name for name in names if not isinstance(name, str)), None)
    if wrong is not None:
        raise ValueError(f"the name {wrong[:40]!r} is not UTF-8 text")


def _read_constants(path: Path, graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """Initialisers and Constant nodes as arrays; external data only from files beside the model.

    Raises GreenedgeError for a constant that is damaged, given twice or outside the folder, and for too many bytes.
    """
    import onnx
    from onnx import numpy_helper

    constants: dict[str, np.ndarray] = {}
    total = 0
    tensors = [(t.name, t) for t in graph.initializer]
    tensors += [
        (n.output[0], a.t) for n in graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"
    ]
    for name, tensor in tensors:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _check_external(path, name, tensor)
        total += 8 * int(np.prod([max(0, d) for d in tensor.dims], dtype=object))
        if total > MAX_CONSTANT_BYTES:
            raise GreenedgeError(
                f"{path}: its constants take more than {MAX_CONSTANT_BYTES:,} bytes at {name!r}; "
                "no supported target holds such a model."
            )
        if name in constants:
            raise GreenedgeError(f"{path}: constant {name!r} is given twice; export the model again.")
        try:
            constants[name] = numpy_helper.to_array(tensor, base_dir=str(path.parent))
        except (ValueError, TypeError, RuntimeError, onnx.checker.ValidationError, OSError) as error:
            raise GreenedgeError(
                f"{path}: constant {name!r} is damaged ({str(error).splitlines()[0]}); export the model again."
            ) from None
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] not in constants:
            constants[node.output[0]] = _read_scalar_constant(node)
    return constants


def _read_scalar_constant(node: onnx.NodeProto) -> np.ndarray:
    """A Constant node without a tensor, as an array; empty for a kind that no lowering reads, such as a string."""
    import onnx

    for attribute in node.attribute:
        if attribute.name in ("value_float", "value_floats", "value_int", "value_ints"):
            value = onnx.helper.get_attribute_value(attribute)
            return np.array(value, dtype=np.float32 if "float" in attribute.name else np.int64)
    return np.zeros(0, np.float32)


def _check_external(path: Path, name: str, tensor: onnx.TensorProto) -> None:
    """Raises GreenedgeError for external data outside the model's folder, missing or shorter than the tensor says."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    file = (path.parent / location).resolve()
    if not location or path.parent.resolve() not in file.parents:
        raise GreenedgeError(
            f"{path}: constant {name!r} refers to {location!r}, outside the model's folder; "
            "keep external data beside the model."
        )
    if not file.is_file():
        raise GreenedgeError(
            f"{path}: constant {name!r} is stored in {location!r}, which is missing; "
            "keep the file beside the model or export a single file."
        )
    offset, length = (int(entries.get(key, "0") or 0) for key in ("offset", "length"))
    if offset < 0 or length < 0 or offset + length > file.stat().st_size:
        raise GreenedgeError(
            f"{path}: constant {name!r} needs bytes {offset}…{offset + length} of {location!r}, "
            f"which has {file.stat().st_size}; export the model again."
        )


def _check_finite(path: Path, graph: onnx.GraphProto, constants: Mapping[str, np.ndarray]) -> None:
    """Raises GreenedgeError for a constant with NaN or infinity.

    Infinities are allowed where ONNX uses them as 'no limit': the limits of Clip, Max and Min and the fill of a Pad.
    """
    limits = {i for n in graph.node if n.op_type in ("Clip", "Pad", "Max", "Min") for i in n.input[1:]}
    for name, array in constants.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all() and (name not in limits or np.isnan(array).any()):
            user = next((n.name or n.op_type for n in graph.node if name in n.input), "no node")
            raise GreenedgeError(
                f"{path}: constant {name!r}, used by {user}, holds NaN or infinity; train or export the model again."
            )


def _shape(value_info: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    """The tensor's shape, None for a dimension that is not fixed."""
    return tuple(
        d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None
        for d in value_info.type.tensor_type.shape.dim
    )


def _sort_nodes(path: Path, graph: onnx.GraphProto, constants: Mapping[str, np.ndarray]) -> tuple[Node, ...]:
    """Nodes in topological order.

    Raises GreenedgeError for a cycle, a tensor written twice and one that is read and never written.
    """
    protos = [p for p in graph.node if p.op_type != "Constant"]
    available = set(constants) | {v.name for v in graph.input} | {""}
    names = _unique_names(protos)
    writers = _find_writers(path, protos, available)
    order: list[int] = []
    waiting = list(range(len(protos)))
    while waiting:
        ready = [k for k in waiting if all(i in available for i in protos[k].input)]
        if not ready:
            k = waiting[0]
            missing = [i for i in protos[k].input if i not in available and i not in writers]
            if missing:
                raise GreenedgeError(
                    f"{path}: {names[k]} reads tensor {missing[0]!r}, which no node writes; export the model again."
                )
            raise GreenedgeError(f"{path}: the graph has a cycle through {names[k]}; a network must be acyclic.")
        for k in ready:
            available.update(protos[k].output)
            order.append(k)
        done = set(ready)
        waiting = [k for k in waiting if k not in done]
    return tuple(_make_node(protos[k], names[k]) for k in order)


def _find_writers(path: Path, protos: Sequence[onnx.NodeProto], available: set[str]) -> dict[str, int]:
    """The index of the node that writes each tensor. Raises GreenedgeError for a tensor that has a value already."""
    outputs = [(k, output) for k, proto in enumerate(protos) for output in proto.output if output]
    repeated = [output for _, output in outputs if output in available]
    writers: dict[str, int] = {}
    for k, output in outputs:
        if writers.setdefault(output, k) != k:
            repeated.append(output)
    if repeated:
        raise GreenedgeError(f"{path}: tensor {repeated[0]!r} is written more than once; export the model again.")
    return writers


def _check_nodes(path: Path, graph: onnx.GraphProto, opset: int) -> None:
    """Raises GreenedgeError for a standard operator without the inputs and attributes that ONNX's schema asks for."""
    import onnx

    context = onnx.checker.C.CheckerContext()
    context.ir_version, context.opset_imports = onnx.IR_VERSION, {"": opset, **dict.fromkeys(QONNX_DOMAINS, 1)}
    for node in graph.node:
        if node.domain in ("", "ai.onnx") and onnx.defs.has(node.op_type):
            try:
                onnx.checker.check_node(node, context)
            except onnx.checker.ValidationError as error:
                reason = next(
                    (line.strip() for line in str(error).splitlines() if line.strip()), "it does not follow its schema"
                )
                raise GreenedgeError(
                    f"{path}: node {node.name or node.op_type} is malformed ({reason.rstrip('.')}); "
                    "export the model again."
                ) from None


def _unique_names(protos: Sequence[onnx.NodeProto]) -> list[str]:
    names: list[str] = []
    count: dict[str, int] = {}
    for k, proto in enumerate(protos):
        name = proto.name or f"{proto.op_type}_{k}"
        count[name] = count.get(name, 0) + 1
        names.append(name if count[name] == 1 else f"{name}_{count[name]}")
    return names


def _make_node(proto: onnx.NodeProto, name: str) -> Node:
    import onnx

    attrs: dict[str, Any] = {}
    for attribute in proto.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        attrs[attribute.name] = value.decode(errors="replace") if isinstance(value, bytes) else value
    return Node(name, proto.op_type, tuple(proto.input), tuple(proto.output), attrs, _module_path(proto), proto)


def _module_path(proto: onnx.NodeProto) -> str | None:
    """The torch module path in the exporter's metadata.

    'features.3' from ': Net/features.3: BatchNorm2d/bn: aten…'.
    """
    for entry in proto.metadata_props:
        if entry.key == "namespace":
            parts = [part.partition(":")[0].strip() for part in entry.value.split("/")]
            modules = [part for part in parts[:-1] if part]
            return modules[-1] if modules else None
    return None


def constant_inputs(node: Node, constants: Mapping[str, np.ndarray]) -> Iterator[np.ndarray | None]:
    """The node's inputs as arrays where constant, else None."""
    for name in node.inputs:
        yield constants.get(name) if name else None
