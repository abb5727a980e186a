"""An untrusted ONNX file as one protobuf. Nothing in it is executed; sizes are checked before memory is spent.

Local functions are written out and sparse constants made dense, so that all checks see them. External data must lie
beside the model, every constant must be whole, and floating-point constants must be finite.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from greenedge.errors import GreenedgeError
from greenedge.frontends.functions import inline_functions
from greenedge.frontends.gguf_file import is_gguf
from greenedge.frontends.llama2c import is_llama2c
from greenedge.frontends.sparse import densify

if TYPE_CHECKING:
    import onnx

MAX_FILE_BYTES = 1 << 31
MAX_CONSTANT_BYTES = 1 << 31
MAX_NODES = 50_000  # the largest networks that a target holds have a few thousand


def load_proto(path: Path) -> onnx.ModelProto:
    """The model in `path` with its external data inside.

    Raises GreenedgeError for a file that is missing, not ONNX, damaged, too large, or refers outside its folder.
    """
    proto = _parse(path)
    try:
        inline_functions(proto, MAX_NODES)
    except GreenedgeError as error:
        raise GreenedgeError(f"{path}: {error}") from None
    _check_text(proto.graph)
    _densify_constants(path, proto.graph)
    constants = _read_constants(path, proto.graph)
    _check_finite(path, proto.graph, constants)
    return proto


def refuse_language_models(path: Path) -> None:
    """Raises GreenedgeError, with the way that they go, for the files of language models."""
    if path.is_file() and (is_gguf(path) or is_llama2c(path)):
        kind = "a GGUF file" if is_gguf(path) else "a checkpoint of llama2.c"
        raise GreenedgeError(
            f"{path} is {kind}, a language model in floats: run `greenedge quantise {path} --data-free -o OUT.npz`, "
            "then `greenedge chat OUT.npz`."
        )


def _parse(path: Path) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        refuse_language_models(path)
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise GreenedgeError(f"{path} has {size:,} bytes; at most {MAX_FILE_BYTES:,} are read.")
        proto = onnx.load_model_from_string(path.read_bytes())
    except FileNotFoundError:
        raise GreenedgeError(f"{path} does not exist; give the path of an ONNX file.") from None
    except (IsADirectoryError, PermissionError, NotADirectoryError) as error:
        raise GreenedgeError(
            f"{path} cannot be read: {str(error.strerror).lower()}; give the path of an ONNX file."
        ) from None
    except (DecodeError, ValueError):  # a name that is not UTF-8 is a ValueError
        raise GreenedgeError(f"{path} is not an ONNX file; export one with brevitas.export.export_qonnx.") from None
    if not proto.graph.node or not proto.opset_import:
        raise GreenedgeError(
            f"{path} is not an ONNX model with a graph in it; export one with brevitas.export.export_qonnx."
        )
    if len(proto.graph.node) > MAX_NODES:
        raise GreenedgeError(
            f"{path} has {len(proto.graph.node):,} nodes; at most {MAX_NODES:,} are read, split the model."
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


def _list_tensors(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """(name, tensor) of the initialisers, of Constant nodes and of every other attribute that holds one."""
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        for attribute in node.attribute:
            name = node.output[0] if node.op_type == "Constant" and node.output else f"{node.name}.{attribute.name}"
            for tensor in (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors):
                yield name, tensor


def _read_constants(path: Path, graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """Every constant as an array; external data moves into its tensor, in place.

    Raises GreenedgeError for a constant that is damaged, given twice or outside the folder, and for too many bytes.
    """
    import onnx
    from onnx import numpy_helper

    constants: dict[str, np.ndarray] = {}
    total = 0
    for name, tensor in _list_tensors(graph):
        total = _add_bytes(path, name, tensor.dims, total)
        if name in constants:
            raise GreenedgeError(f"{path}: constant {name!r} is given twice; export the model again.")
        constants[name] = _read_tensor(path, name, tensor)
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            tensor.CopyFrom(numpy_helper.from_array(constants[name], tensor.name))
    return constants


def _add_bytes(path: Path, name: str, dims: Sequence[int], total: int) -> int:
    """`total` and what the constant takes as 8-byte numbers. Raises GreenedgeError beyond MAX_CONSTANT_BYTES."""
    total += 8 * math.prod(max(0, d) for d in dims)
    if total > MAX_CONSTANT_BYTES:
        raise GreenedgeError(
            f"{path}: its constants take more than {MAX_CONSTANT_BYTES:,} bytes at {name!r}; "
            "no supported target holds such a model."
        )
    return total


def _read_tensor(path: Path, name: str, tensor: onnx.TensorProto) -> np.ndarray:
    """The constant as an array. Raises GreenedgeError where it is damaged, or outside the model's folder."""
    import onnx
    from onnx import numpy_helper

    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        _check_external(path, name, tensor)
    try:
        if any(d < 0 for d in tensor.dims):
            raise ValueError(f"a dimension of {min(tensor.dims)}")
        return numpy_helper.to_array(tensor, base_dir=str(path.parent))
    except (ValueError, TypeError, RuntimeError, KeyError, onnx.checker.ValidationError, OSError) as error:
        raise _describe_damage(path, name, error) from None


def _describe_damage(path: Path, name: str, error: Exception) -> GreenedgeError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return GreenedgeError(f"{path}: constant {name!r} is damaged ({reason}); export the model again.")


def _densify_constants(path: Path, graph: onnx.GraphProto) -> None:
    """Sparse initialisers and the sparse values of Constant nodes as dense tensors, in place.

    Raises GreenedgeError as `_read_constants`, before memory for dense tensors is spent.
    """
    import onnx

    total = 0
    for sparse in graph.sparse_initializer:
        name = sparse.values.name
        total = _add_bytes(path, name, sparse.dims, total)
        graph.initializer.append(_densify(path, name, sparse))
    del graph.sparse_initializer[:]
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.HasField("sparse_tensor") and node.output:
                total = _add_bytes(path, node.output[0], attribute.sparse_tensor.dims, total)
                dense = _densify(path, node.output[0], attribute.sparse_tensor)
                attribute.CopyFrom(onnx.helper.make_attribute("value", dense))


def _densify(path: Path, name: str, sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    from onnx import numpy_helper

    values, indices = (_read_tensor(path, name, part) for part in (sparse.values, sparse.indices))
    try:
        if any(d < 0 for d in sparse.dims):
            raise ValueError(f"a dimension of {min(sparse.dims)}")
        return numpy_helper.from_array(densify(values, indices, sparse.dims), name)
    except (ValueError, TypeError) as error:
        raise _describe_damage(path, name, error) from None


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
    offset, length = (_read_count(path, name, entries.get(key, "0") or "0") for key in ("offset", "length"))
    if offset + length > file.stat().st_size:
        raise GreenedgeError(
            f"{path}: constant {name!r} needs bytes {offset}…{offset + length} of {location!r}, "
            f"which has {file.stat().st_size}; export the model again."
        )


def _read_count(path: Path, name: str, text: str) -> int:
    """A number of bytes from the entries of external data, which are text."""
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise GreenedgeError(
            f"{path}: constant {name!r} says {text[:40]!r} for a number of bytes; export the model again."
        )
    return int(text)


def _check_finite(path: Path, graph: onnx.GraphProto, constants: Mapping[str, np.ndarray]) -> None:
    """Raises GreenedgeError for a constant with NaN or infinity.

    Infinities are allowed where ONNX uses them as 'no limit' (the limits of Clip, Max and Min, the fill of a Pad) and
    where they mask scores before a softmax (Where, Add).
    """
    limits = {i for n in graph.node if n.op_type in ("Clip", "Pad") for i in n.input[1:]}
    limits |= {i for n in graph.node if n.op_type in ("Max", "Min", "Where", "Add") for i in n.input}
    for name, array in constants.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all() and (name not in limits or np.isnan(array).any()):
            user = next((n.name or n.op_type for n in graph.node if name in n.input), "no node")
            raise GreenedgeError(
                f"{path}: constant {name!r}, used by {user}, holds NaN or infinity; train or export the model again."
            )
