"""A float .tflite of a float ONNX network of ours (greenedge.runtimes.floats): the baseline that LiteRT's int8 is
measured against."""

from __future__ import annotations

import numpy as np
from onnx import helper, numpy_helper

from greenedge.backends.int8.tflite.flatbuffer import Writer
from greenedge.backends.int8.tflite.padding import same_padding


def float_tflite(model) -> bytes:
    """Convolutions, dense layers, additions, ReLU and global pools; images with their channels last."""
    writer, held = Writer("float"), {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    shapes: dict[str, tuple[int, ...]] = {}  # without the batch, channels first
    tensors: dict[str, int] = {}
    rectified = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "Relu"}

    def tensor(name: str, shape) -> int:
        shapes[name] = tuple(shape)
        file = (1, *shape[1:], shape[0]) if len(shape) == 3 else (1, *shape)
        tensors[name] = writer.tensor(name, file, "FLOAT32")
        return tensors[name]

    def constant(name: str, values) -> int:
        return writer.constant(name, np.ascontiguousarray(values, np.float32))

    first = model.graph.input[0]
    tensor(first.name, [d.dim_value for d in first.type.tensor_type.shape.dim][1:])
    for node in model.graph.node:
        a = {x.name: helper.get_attribute_value(x) for x in node.attribute}
        source, output = node.input[0], rectified.get(node.output[0], node.output[0])
        fused = {"fusedActivationFunction": "RELU" if node.output[0] in rectified else "NONE"}
        if node.op_type in ("Identity", "Relu"):
            if node.op_type == "Identity":
                tensors[output], shapes[output] = tensors[source], shapes[source]
        elif node.op_type == "Conv":
            _conv(writer, node, a, held, tensors, shapes, tensor, constant, output, fused)
        elif node.op_type == "Gemm":
            x, shape = tensors[source], held[node.input[1]].shape
            inputs = [x, constant(f"{output}/w", held[node.input[1]].T), constant(f"{output}/b", held[node.input[2]])]
            writer.operator("FULLY_CONNECTED", inputs, [tensor(output, shape[1:])], 1, **fused)
        elif node.op_type == "GlobalAveragePool":
            x = tensors[source]
            axes = writer.constant(f"{output}/axes", np.array([1, 2], np.int32))
            writer.operator("MEAN", [x, axes], [tensor(output, (shapes[source][0], 1, 1))], 1, keepDims=True)
        elif node.op_type == "Reshape":
            x, shape = tensors[source], [int(v) for v in held[node.input[1]][1:]]
            assert int(np.prod(shapes[source][1:])) == 1, "only vectors are flattened here"
            writer.operator(
                "RESHAPE",
                [x, writer.constant(f"{output}/shape", np.array([1, *shape], np.int32))],
                [tensor(output, shape)],
                1,
                newShape=[1, *shape],
            )
        elif node.op_type in ("Add", "Mul"):
            parts = [tensors[n] if n in tensors else constant(f"{output}/{n}", _last(held[n])) for n in node.input]
            writer.operator(node.op_type.upper(), parts, [tensor(output, shapes[source])], 1, **fused)
        else:
            raise NotImplementedError(node.op_type)
    return writer.finish([tensors[first.name]], [tensors[value.name] for value in model.graph.output])


def _last(values: np.ndarray) -> np.ndarray:
    """A factor per channel with its channels last."""
    return values.transpose(0, 2, 3, 1) if values.ndim == 4 else values


def _conv(writer, node, a, held, tensors, shapes, tensor, constant, output, fused) -> None:
    source, weight = node.input[0], held[node.input[1]]
    x, shape, n = tensors[source], shapes[source], weight.ndim - 2
    pads, kernel, strides = a["pads"], weight.shape[2:], a["strides"]
    padding = "VALID"
    if any(pads):
        same = [same_padding(size, k, s, 1) for size, k, s in zip(shape[1:], kernel, strides, strict=True)]
        padding = "SAME" if same == list(zip(pads[:n], pads[n:], strict=True)) else "VALID"
        if padding == "VALID":
            rows = np.array([[0, 0], *zip(pads[:n], pads[n:], strict=True), [0, 0]], np.int32)
            shape = (shape[0], *(size + b + e for size, b, e in zip(shape[1:], pads[:n], pads[n:], strict=True)))
            padded = tensor(f"{output}/padded", shape)
            writer.operator("PAD", [x, writer.constant(f"{output}/pads", rows)], [padded], 1)
            x = padded
    size = [
        -(-v // s) if padding == "SAME" else (v - k) // s + 1
        for v, k, s in zip(shape[1:], kernel, strides, strict=True)
    ]
    depthwise = a["group"] > 1
    held_weight = weight.transpose(1, 2, 3, 0) if depthwise else weight.transpose(0, 2, 3, 1)
    inputs = [x, constant(f"{output}/w", held_weight), constant(f"{output}/b", held[node.input[2]])]
    options = {
        "strideH": strides[0],
        "strideW": strides[1],
        "dilationHFactor": 1,
        "dilationWFactor": 1,
        "padding": padding,
        **fused,
    }
    options |= {"depthMultiplier": 1} if depthwise else {}
    writer.operator(
        "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", inputs, [tensor(output, (len(weight), *size))], 1, **options
    )
