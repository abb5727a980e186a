"""Writes a .tflite file: tensors, constants and operators in, bytes out; and reads one back far enough to change it.

The schema comes from `ai_edge_litert.schema_py_generated`, the LiteRT project's own. Writing is a pure function: the
same calls give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from greenedge.graph.ops.base import Array, Ints

if TYPE_CHECKING:
    import flatbuffers
    from ai_edge_litert.schema_py_generated import BufferT, ModelT, OperatorCodeT, OperatorT, TensorT

IDENTIFIER = b"TFL3"
_ALIGNMENT = 16  # the schema's force_align of Buffer.data; microcontrollers read weights in place
_LARGEST_OLD_CODE = 127  # operator codes above this live in builtin_code alone (schema.fbs, OperatorCode)

# operator -> the name of its options table, where it has one
_OPTIONS = {
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "TRANSPOSE_CONV": "TransposeConvOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "LEAKY_RELU": "LeakyReluOptions",
    "RESHAPE": "ReshapeOptions",
    "TRANSPOSE": "TransposeOptions",
    "CONCATENATION": "ConcatenationOptions",
    "PAD": "PadOptions",
    "PADV2": "PadV2Options",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions",
    "QUANTIZE": "QuantizeOptions",
    "DEPTH_TO_SPACE": "DepthToSpaceOptions",
    "SLICE": "SliceOptions",
    "ADD": "AddOptions",
    "CAST": "CastOptions",
    "MEAN": "ReducerOptions",
    "GATHER": "GatherOptions",
    "MUL": "MulOptions",
    "SUB": "SubOptions",
    "SOFTMAX": "SoftmaxOptions",
    "DEQUANTIZE": "DequantizeOptions",
    "SHAPE": "ShapeOptions",
    "STRIDED_SLICE": "StridedSliceOptions",
    "PACK": "PackOptions",
}


@dataclass(frozen=True)
class Quantisation:
    """real = scale * (stored - zero_point); one scale, or one for each index along `axis`."""

    scales: tuple[float, ...]
    zero_point: int = 0
    axis: int = 0


@dataclass
class Writer:
    """Collects one subgraph. `tensor`, `constant` and `operator` return indices; `finish` returns the file's bytes."""

    name: str
    tensors: list[tuple[str, tuple[int, ...], str, Quantisation | None, int]] = field(default_factory=list)
    buffers: list[bytes] = field(default_factory=lambda: [b""])
    operators: list[tuple[int, str, tuple[int, ...], tuple[int, ...], dict[str, object]]] = field(default_factory=list)
    codes: list[tuple[str, int]] = field(default_factory=list)

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        kind: str,
        quantisation: Quantisation | None = None,
        data: bytes | None = None,
    ) -> int:
        """A tensor of `kind` ('INT8', 'INT32', 'FLOAT32'); with `data` it is a constant."""
        buffer = 0 if data is None else self._buffer(data)
        self.tensors.append((name, tuple(int(d) for d in shape), kind, quantisation, buffer))
        return len(self.tensors) - 1

    def rename(self, tensor: int, name: str) -> None:
        """Gives a tensor another name."""
        self.tensors[tensor] = (name, *self.tensors[tensor][1:])

    def _buffer(self, data: bytes) -> int:
        """Where the bytes are; equal ones are held once."""
        if data not in self.buffers:
            self.buffers.append(data)
        return self.buffers.index(data)

    def constant(self, name: str, values: Array, quantisation: Quantisation | None = None) -> int:
        """A constant tensor of int8, int32 or float32 values."""
        kind = values.dtype.name.upper()
        assert kind in ("INT8", "INT32", "FLOAT32"), kind
        data = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<")).tobytes()
        return self.tensor(name, values.shape, kind, quantisation, data)

    def pack_int4(self, name: str, values: Ints, quantisation: Quantisation) -> int:
        """A constant tensor of int4 values, two a byte, the first in the low half."""
        flat = np.append(values.reshape(-1), np.zeros(values.size % 2, values.dtype)).astype(np.int64) & 15
        return self.tensor(
            name, values.shape, "INT4", quantisation, (flat[::2] | flat[1::2] << 4).astype(np.uint8).tobytes()
        )

    def operator(
        self, kind: str, inputs: Sequence[int], outputs: Sequence[int], version: int = 1, **options: object
    ) -> int:
        """An operator; `options` are the fields of its options table, such as fusedActivationFunction='RELU'."""
        if (kind, version) not in self.codes:
            self.codes.append((kind, version))
        self.operators.append((self.codes.index((kind, version)), kind, tuple(inputs), tuple(outputs), options))
        return len(self.operators) - 1

    def finish(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        """The whole file."""
        from ai_edge_litert import schema_py_generated as schema

        subgraph = schema.SubGraphT(
            name=self.name,
            inputs=_vector(inputs),
            outputs=_vector(outputs),
            tensors=[_tensor(schema, *t) for t in self.tensors],
            operators=[_operator(schema, *op) for op in self.operators],
        )
        model = schema.ModelT(
            version=3,
            description="greenedge",
            subgraphs=[subgraph],
            operatorCodes=[_code(schema, *code) for code in self.codes],
            buffers=[schema.BufferT(data=np.frombuffer(b, np.uint8) if b else None) for b in self.buffers],
        )
        return pack(model)


def pack(model: ModelT) -> bytes:
    """The bytes of a schema ModelT, each buffer aligned as the schema asks."""
    builder = _builder()
    for buffer in model.buffers:
        _align_buffer(buffer)
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def _builder() -> flatbuffers.Builder:
    """A builder that writes equal vectors once: shapes, and the zero points and scales of every channel."""
    import flatbuffers

    class Sharing(flatbuffers.Builder):
        shared: dict[tuple[str, bytes], int]

        def CreateNumpyVector(self, x: Array) -> int:  # noqa: N802  # the library's name
            key = (x.dtype.str, x.tobytes())
            if key not in self.shared:
                self.shared[key] = super().CreateNumpyVector(x)
            return self.shared[key]

    builder = Sharing(1024)
    builder.shared = {}
    return builder


def _align_buffer(buffer: BufferT) -> None:
    """Gives one BufferT a Pack that honours force_align; the generated one leaves it out."""
    from ai_edge_litert import schema_py_generated as schema

    def write(builder: flatbuffers.Builder) -> int:
        data = None if buffer.data is None else bytes(bytearray(buffer.data))
        if data:
            builder.StartVector(1, len(data), _ALIGNMENT)
            builder.head -= len(data)
            builder.Bytes[builder.head : builder.head + len(data)] = data
            vector = builder.EndVector()
        schema.BufferStart(builder)
        if data:
            schema.BufferAddData(builder, vector)
        return schema.BufferEnd(builder)

    buffer.Pack = write


def _vector(values: Sequence[int]) -> NDArray[np.int32]:
    return np.array(values, np.int32)


def _tensor(
    schema: ModuleType, name: str, shape: Sequence[int], kind: str, quantisation: Quantisation | None, buffer: int
) -> TensorT:
    parameters = None
    if quantisation is not None:
        scales = np.asarray(quantisation.scales, np.float32)
        zeros = np.full(len(scales), quantisation.zero_point, np.int64)
        parameters = schema.QuantizationParametersT(scale=scales, zeroPoint=zeros, quantizedDimension=quantisation.axis)
    return schema.TensorT(
        name=name,
        shape=_vector(shape),
        type=getattr(schema.TensorType, kind),
        buffer=buffer,
        quantization=parameters,
        hasRank=True,
    )


def _code(schema: ModuleType, kind: str, version: int) -> OperatorCodeT:
    code = getattr(schema.BuiltinOperator, kind)
    return schema.OperatorCodeT(builtinCode=code, deprecatedBuiltinCode=min(code, _LARGEST_OLD_CODE), version=version)


def _operator(
    schema: ModuleType,
    code: int,
    kind: str,
    inputs: Sequence[int],
    outputs: Sequence[int],
    options: Mapping[str, object],
) -> OperatorT:
    operator = schema.OperatorT(opcodeIndex=code, inputs=_vector(inputs), outputs=_vector(outputs))
    if kind in _OPTIONS:
        table = getattr(schema, _OPTIONS[kind] + "T")()
        for key, value in options.items():
            assert hasattr(table, key), f"{kind} has no option {key}"
            setattr(table, key, _vector(value) if isinstance(value, list) else _schema_value(schema, key, value))
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, _OPTIONS[kind])
        operator.builtinOptions = table
    return operator


def _schema_value(schema: ModuleType, key: str, value: object) -> object:
    """Names of activations and paddings become the schema's numbers."""
    enumerations = {"fusedActivationFunction": schema.ActivationFunctionType, "padding": schema.Padding}
    return getattr(enumerations[key], str(value)) if key in enumerations else value
