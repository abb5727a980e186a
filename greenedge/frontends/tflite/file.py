"""An untrusted .tflite file as plain records, by LiteRT's own schema. Nothing in it is executed.

    file = read_file(path)      # GreenedgeError: one sentence about a file that is none, damaged or too large

A flatbuffer is offsets into itself, so a short file may describe a large one: what is read is counted first.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from greenedge.errors import GreenedgeError, ToolError
from greenedge.graph.ops.base import Array

if TYPE_CHECKING:
    from ai_edge_litert.schema_py_generated import Model, SubGraph
    from ai_edge_litert.schema_py_generated import Operator as FileOperator
    from ai_edge_litert.schema_py_generated import Tensor as FileTensor

IDENTIFIER = b"TFL3"
SUFFIX = ".tflite"
MAX_BYTES = 1 << 28
MAX_OPERATORS, MAX_TENSORS, MAX_RANK = 20_000, 50_000, 8
MAX_ELEMENTS = 1 << 28  # of one tensor
_MAX_SCALES = 1 << 20  # of one tensor
_LONGEST_NAME = 120
_DAMAGE = (struct.error, IndexError, ValueError, TypeError, AttributeError, KeyError, OverflowError, MemoryError)

_OPTIONS = (  # that a rule reads: flat tables of numbers
    "AddOptions",
    "ConcatenationOptions",
    "Conv2DOptions",
    "DepthwiseConv2DOptions",
    "FullyConnectedOptions",
    "LeakyReluOptions",
    "MulOptions",
    "PackOptions",
    "Pool2DOptions",
    "ReducerOptions",
    "ResizeNearestNeighborOptions",
    "SoftmaxOptions",
    "StridedSliceOptions",
    "SubOptions",
    "TransposeConvOptions",
)
_TYPES = {  # of constants that are read
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FLOAT32": np.float32,
}


@dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor: its shape with the batch, the schema's name of its type ("INT8"), what a stored integer means
    (real = scale * (stored - zero)), and its values where it is constant.

    scales, zeros   (n,) one for all, or one for each index along `axis`; empty where the tensor has none
    is_open         whether another axis than the batch has no fixed size
    """

    number: int
    name: str
    shape: tuple[int, ...]
    kind: str
    scales: NDArray[np.float32]
    zeros: NDArray[np.int64]
    axis: int
    values: Array | None
    is_open: bool = False

    @property
    def is_constant(self) -> bool:
        return self.values is not None

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Operator:
    """One operator: the schema's name of its kind, tensors by number (-1: left out), its options by their names in the
    schema."""

    number: int
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Unique in its file: conv_2d_3."""
        return f"{self.kind.lower()}_{self.number}"


@dataclass(frozen=True, eq=False)
class File:
    """One network: tensors by number, operators in order of execution."""

    name: str
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def is_tflite(path: Path) -> bool:
    """Whether a file says of itself that it is a .tflite, or is called one."""
    if path.suffix.lower() == SUFFIX:
        return True
    try:
        with open(path, "rb") as file:
            return file.read(8)[4:] == IDENTIFIER
    except OSError:  # whoever reads it says so
        return False


def read_file(path: Path) -> File:
    """The network in a .tflite file. Raises GreenedgeError for a file that is none, damaged, or too large; ToolError
    without LiteRT's schema."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise GreenedgeError(f"{path} has {size:,} bytes; of a .tflite file at most {MAX_BYTES:,} are read.")
        content = path.read_bytes()
    except OSError as error:
        raise GreenedgeError(f"{path} cannot be read: {str(error.strerror).lower()}; give another path.") from None
    if content[4:8] != IDENTIFIER:
        raise GreenedgeError(f"{path} is no .tflite file (it lacks the mark {IDENTIFIER.decode()}); convert it again.")
    schema = _load_schema()
    try:
        return _read_model(schema, schema.Model.GetRootAs(content, 0), path.stem)
    except _Damage as damage:
        raise GreenedgeError(f"{path} is damaged ({damage}); convert it again.") from None
    except _DAMAGE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise GreenedgeError(f"{path} is damaged ({reason}); convert it again.") from None


class _Damage(Exception):
    """What is wrong with a file, in words."""


def _load_schema() -> ModuleType:
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError:
        raise ToolError('ai-edge-litert is not installed: pip install "greenedge[tflite]".') from None
    return schema_py_generated


@cache
def _names(schema: ModuleType, enumeration: str) -> dict[int, str]:
    """{number: name} of an enumeration of the schema."""
    return {value: name for name, value in vars(getattr(schema, enumeration)).items() if isinstance(value, int)}


def _count(what: str, count: int, most: int) -> range:
    if count > most:
        raise _Damage(f"it says {count:,} {what}, of which at most {most:,} are read")
    return range(count)


def _read_model(schema: ModuleType, model: Model, stem: str) -> File:
    if model.SubgraphsLength() != 1:
        raise _Damage(f"it holds {model.SubgraphsLength()} networks; one is read")
    graph = model.Subgraphs(0)
    if graph is None:
        raise _Damage("its network is empty")
    tensors = tuple(
        _read_tensor(schema, model, graph, k) for k in _count("tensors", graph.TensorsLength(), MAX_TENSORS)
    )
    codes = [
        _read_code(schema, model, k) for k in _count("kinds of operators", model.OperatorCodesLength(), MAX_OPERATORS)
    ]
    operators = tuple(
        _read_operator(schema, graph.Operators(k), codes, k)
        for k in _count("operators", graph.OperatorsLength(), MAX_OPERATORS)
    )
    file = File(stem, tensors, operators, _list_numbers(graph, "Inputs"), _list_numbers(graph, "Outputs"))
    _check_numbers(file)
    return file


def _list_numbers(table: SubGraph | FileOperator, field: str) -> tuple[int, ...]:
    """The tensors that a field of a table lists."""
    length = getattr(table, f"{field}Length")()
    get: Callable[[int], int] = getattr(table, field)
    return tuple(get(k) for k in _count(f"entries of {field.lower()}", length, MAX_TENSORS))


def _check_numbers(file: File) -> None:
    """Raises _Damage where a tensor is named that there is not, written twice, or read before it is written."""
    if not file.inputs or not file.outputs or not file.operators:
        raise _Damage(
            f"it has {len(file.inputs)} inputs, {len(file.outputs)} outputs and {len(file.operators)} operators"
        )
    known = set(file.inputs) | {tensor.number for tensor in file.tensors if tensor.is_constant}
    if any(not 0 <= k < len(file.tensors) for k in file.inputs) or len(set(file.inputs)) < len(file.inputs):
        raise _Damage("its inputs are none of its tensors")
    for operator in file.operators:
        for k in operator.inputs:
            if k != -1 and k not in known:
                raise _Damage(f"{operator.name} reads tensor {k} before anything writes it")
        for k in operator.outputs:
            if not 0 <= k < len(file.tensors) or k in known:
                raise _Damage(f"{operator.name} writes tensor {k}, which is none, or is there before it")
        known.update(operator.outputs)
    if any(k not in known for k in file.outputs):
        raise _Damage("nothing writes one of its outputs")


def _read_code(schema: ModuleType, model: Model, k: int) -> str:
    code = model.OperatorCodes(k)
    if code is None:
        raise _Damage(f"kind {k} of its operators is missing")
    if custom := code.CustomCode():
        return f"custom operator {custom.decode('utf-8', 'replace')[:_LONGEST_NAME]!r}"
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    return _names(schema, "BuiltinOperator").get(number, f"operator {number}")


def _read_operator(schema: ModuleType, operator: FileOperator | None, codes: Sequence[str], number: int) -> Operator:
    if operator is None or not 0 <= operator.OpcodeIndex() < len(codes):
        raise _Damage(f"operator {number} is of no kind")
    kind = codes[operator.OpcodeIndex()]
    inputs, outputs = _list_numbers(operator, "Inputs"), _list_numbers(operator, "Outputs")
    return Operator(number, kind, inputs, outputs, _read_options(schema, operator))


def _read_options(schema: ModuleType, operator: FileOperator) -> dict[str, Any]:
    """The options by name; empty where the operator has none that a rule asks for. They are of the kind that the file
    says, so a rule that needs others finds them missing."""
    name = _names(schema, "BuiltinOptions").get(operator.BuiltinOptionsType(), "NONE")
    table = operator.BuiltinOptions()
    if table is None or name not in _OPTIONS:
        return {}
    reader = getattr(schema, name)()
    reader.Init(table.Bytes, table.Pos)
    return dict(vars(getattr(schema, f"{name}T").InitFromObj(reader)))


def _read_tensor(schema: ModuleType, model: Model, graph: SubGraph, k: int) -> Tensor:
    tensor = graph.Tensors(k)
    if tensor is None:
        raise _Damage(f"tensor {k} is missing")
    rank = tensor.ShapeLength()
    _count(f"axes of tensor {k}", rank, MAX_RANK)
    shape = tuple(tensor.Shape(axis) for axis in range(rank))
    if any(size < 0 for size in shape) or math.prod(shape) > MAX_ELEMENTS:
        raise _Damage(f"tensor {k} has shape {shape}")
    kind = _names(schema, "TensorType").get(tensor.Type(), f"type {tensor.Type()}")
    name = (tensor.Name() or b"").decode("utf-8", "replace")[:_LONGEST_NAME]
    scales, zeros, axis = _read_quantisation(tensor, k)
    _count(f"axes of tensor {k}", tensor.ShapeSignatureLength(), MAX_RANK)
    is_open = any(tensor.ShapeSignature(axis) < 0 for axis in range(1, tensor.ShapeSignatureLength()))
    return Tensor(k, name, shape, kind, scales, zeros, axis, _read_values(model, tensor, k, shape, kind), is_open)


def _read_quantisation(tensor: FileTensor, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64], int]:
    parameters = tensor.Quantization()
    nothing: NDArray[np.float32] = np.zeros(0, np.float32)
    if parameters is None or parameters.ScaleLength() == 0:
        return nothing, np.zeros(0, np.int64), 0
    _count(f"scales of tensor {k}", parameters.ScaleLength(), _MAX_SCALES)
    scales = np.array(parameters.ScaleAsNumpy(), np.float32)
    given = parameters.ZeroPointLength()
    zeros = np.array(parameters.ZeroPointAsNumpy(), np.int64) if given else np.zeros(len(scales), np.int64)
    if not (np.isfinite(scales).all() and (scales > 0).all()) or len(zeros) != len(scales):
        raise _Damage(f"tensor {k} has scales that are not positive numbers, or another number of zero points")
    return scales, zeros, int(parameters.QuantizedDimension())


def _read_values(model: Model, tensor: FileTensor, k: int, shape: tuple[int, ...], kind: str) -> Array | None:
    """A constant's values, as a view into the file; None for a tensor that the network computes, and for a type that
    is not read."""
    number = tensor.Buffer()
    if number >= model.BuffersLength():
        raise _Damage(f"tensor {k} lies in buffer {number} of {model.BuffersLength()}")
    buffer = model.Buffers(number)
    if buffer is None:
        return None
    if tensor.Sparsity() is not None or buffer.Offset() > 1 or buffer.Size() > 1:
        raise _Damage(f"tensor {k} is sparse, or lies behind the end of the flatbuffer; neither is read")
    if buffer.DataLength() == 0:
        return None
    raw = buffer.DataAsNumpy()
    if kind not in _TYPES:
        return np.asarray(raw)
    wanted = math.prod(shape) * np.dtype(_TYPES[kind]).itemsize
    if raw.size != wanted:
        raise _Damage(f"tensor {k} of shape {shape} holds {raw.size:,} bytes and not {wanted:,}")
    return np.asarray(raw).view(np.dtype(_TYPES[kind]).newbyteorder("<")).reshape(shape)
