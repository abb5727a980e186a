"""Reads an untrusted ONNX file into plain, checked data in normal form. Nothing in the file is executed.

    load_proto      the file, its sizes and its external data
    normalise       one spelling for what may be spelled in many ways; what ONNX forbids is refused
    parse_normal    nodes in topological order, constants, inputs and outputs

The lowering folds constant sub-graphs later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from greenedge.errors import GreenedgeError, Reason, UnsupportedError
from greenedge.frontends.domains import QONNX
from greenedge.frontends.hgq2 import read_hgq2
from greenedge.frontends.keras_file import is_hgq2
from greenedge.frontends.kinds import name_onnx_kind
from greenedge.frontends.load import load_proto
from greenedge.frontends.normalise import Normal, normalise
from greenedge.frontends.tflite import ARITHMETICS, read_tflite
from greenedge.frontends.tflite.file import is_tflite
from greenedge.frontends.torch_export import read_program
from greenedge.frontends.torch_export.archive import is_torch_file

if TYPE_CHECKING:
    import onnx

QONNX_DOMAINS = (QONNX,)
DEFAULT_ARITHMETIC = ARITHMETICS[0]


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

    A dimension that is not fixed is None; `annotations` maps tensors to QONNX datatype names such as 'UINT8'. `notes`
    are sentences about how the file was read, `kind` says what kind of file it was, `complaints` what ONNX itself says
    against the model, `shapes` those of the tensors between, as far as they follow from the inputs'.
    """

    name: str
    nodes: tuple[Node, ...]
    constants: dict[str, np.ndarray]
    inputs: dict[str, tuple[int | None, ...]]
    outputs: dict[str, tuple[int | None, ...]]
    annotations: dict[str, str]
    opset: int
    notes: tuple[str, ...] = ()
    complaints: tuple[Reason, ...] = ()
    shapes: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict, repr=False)
    kind: str = ""


def read_model(path: Path, arithmetic: str = DEFAULT_ARITHMETIC) -> Source:
    """The model in `path`; a .tflite in the `arithmetic` of that kernel set of LiteRT's.

    Raises GreenedgeError for a file that is missing, not ONNX, damaged, or refers outside its folder; UnsupportedError
    for a model that breaks ONNX's rules or has operators of an unknown domain.
    """
    return parse_normal(read_normal(path, arithmetic), Path(path).stem)


def read_normal(path: Path, arithmetic: str = DEFAULT_ARITHMETIC) -> Normal:
    """The file in normal form, in one piece. Raises as `read_model`."""
    path = Path(path)
    try:
        if path.is_file() and is_tflite(path):
            proto, kind = read_tflite(path, arithmetic)
            kind = f"{kind}, read in the arithmetic {arithmetic}"
        elif is_hgq2(path):
            proto, kind = read_hgq2(path), "a Keras file of HGQ2"
        elif path.is_file() and is_torch_file(path):
            proto, kind = read_program(path)
        else:
            proto = load_proto(path)
            kind = name_onnx_kind(proto)
        return replace(normalise(proto, proto.graph.name or path.stem), kind=kind)
    except UnsupportedError:
        raise
    except GreenedgeError as error:
        text = str(error)
        raise GreenedgeError(text if text.startswith(str(path)) else f"{path}: {text}") from None
    except (UnicodeDecodeError, KeyError, TypeError, ValueError, OverflowError) as error:  # of protobuf and onnx
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise GreenedgeError(f"{path} is damaged ({reason}); export the model again.") from None


def parse_normal(normal: Normal, name: str) -> Source:
    """A model in normal form as plain data; `name` for a graph that has none."""
    from onnx import numpy_helper

    graph = normal.proto.graph
    annotations = {
        a.tensor_name: entry.value
        for a in graph.quantization_annotation
        for entry in a.quant_parameter_tensor_names
        if entry.key == "finn_datatype"
    }
    return Source(
        graph.name or name,
        tuple(_make_node(proto) for proto in graph.node),
        {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer},
        {v.name: _shape(v) for v in graph.input},
        {v.name: _shape(v) for v in graph.output},
        annotations,
        next(entry.version for entry in normal.proto.opset_import if entry.domain == ""),
        normal.notes,
        normal.complaints,
        {v.name: _shape(v) for v in graph.value_info},
        normal.kind,
    )


def _shape(value_info: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    """The tensor's shape, None for a dimension that is not fixed."""
    return tuple(
        d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None
        for d in value_info.type.tensor_type.shape.dim
    )


def _make_node(proto: onnx.NodeProto) -> Node:
    import onnx

    attrs: dict[str, Any] = {}
    for attribute in proto.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        attrs[attribute.name] = value.decode(errors="replace") if isinstance(value, bytes) else value
    return Node(proto.name, proto.op_type, tuple(proto.input), tuple(proto.output), attrs, _module_path(proto), proto)


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
