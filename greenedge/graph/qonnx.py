"""The integer graph as a plain QONNX model: opens in Netron, runs in qonnx, gives the same integers.

Every tensor holds integers and is annotated with its type; a requantiser is a MultiThreshold node (a Gather where the
function is not monotone). float32 holds integers up to 2**24 exactly; where an edge exceeds that, the model is written in
float64.
"""

from __future__ import annotations

import numpy as np

from greenedge.graph.ops import (
    Add,
    ArgMax,
    Concat,
    Conv,
    ConvTranspose,
    Dense,
    DepthToSpace,
    Edge,
    Graph,
    Input,
    MaxPool,
    Op,
    Pad,
    Requantise,
    Reshape,
    SumPool,
    Transpose,
    Upsample,
)

_OPSET = 13
_THRESHOLD_DOMAIN = "qonnx.custom_op.general"


class _Writer:
    def __init__(self, graph: Graph):
        self.graph = graph
        wide = any(max(abs(edge.lo), abs(edge.hi)) > 1 << 24 for edge in graph.edges.values())
        self.kind = np.float64 if wide else np.float32
        self.nodes, self.constants, self.types = [], {}, {}
        self.inner: list = []  # value infos of tensors that are no edges

    def constant(self, name: str, values, dtype: str | None = None, kind=None) -> str:
        self.constants[name] = np.asarray(values, dtype=kind or self.kind)
        if dtype:
            self.types[name] = dtype
        return name

    @property
    def element(self) -> int:
        """ONNX's name of the type that holds the integers."""
        import onnx

        return onnx.TensorProto.DOUBLE if self.kind is np.float64 else onnx.TensorProto.FLOAT

    def inner_node(self, op: str, inputs, output: str, shape, element=None, **attrs) -> str:
        """A node whose output is no edge of the graph; its shape (without the batch) is given."""
        import onnx

        self.inner.append(onnx.helper.make_tensor_value_info(output, element or self.element, [1, *shape]))
        return self.node(op, inputs, output, **attrs)

    def node(self, op: str, inputs, output: str, **attrs) -> str:
        import onnx

        self.nodes.append(onnx.helper.make_node(op, list(inputs), [output], name=output, **attrs))
        return output


def to_qonnx(graph: Graph):
    """An ONNX ModelProto of the graph with batch size 1."""
    import onnx
    from onnx import numpy_helper

    writer = _Writer(graph)
    for op in graph.ops:
        if not isinstance(op, Input):
            _WRITE[type(op)](writer, op)
    element = writer.element
    indices = {op.output for op in graph.ops if isinstance(op, ArgMax) and not graph.consumers(op.output)}
    info = lambda edge: onnx.helper.make_tensor_value_info(
        edge, onnx.TensorProto.INT64 if edge in indices else element, [1, *graph.edges[edge].shape]
    )
    inner = [op.output for op in graph.ops if op.inputs and op.output not in graph.outputs]
    proto = onnx.helper.make_graph(
        writer.nodes,
        graph.name,
        [info(e) for e in graph.inputs],
        [info(e) for e in graph.outputs],
        [numpy_helper.from_array(array, name) for name, array in writer.constants.items()],
        value_info=[*(info(e) for e in inner), *writer.inner],
    )
    types = writer.types | {name: edge.dtype for name, edge in graph.edges.items()}
    for name, dtype in sorted(types.items()):
        entry = proto.quantization_annotation.add()
        entry.tensor_name = name
        item = entry.quant_parameter_tensor_names.add()
        item.key, item.value = "finn_datatype", dtype
    opsets = [onnx.helper.make_opsetid("", _OPSET), onnx.helper.make_opsetid(_THRESHOLD_DOMAIN, 1)]
    return onnx.helper.make_model(proto, opset_imports=opsets, ir_version=8, producer_name="greenedge")


def _weight_type(weight: np.ndarray) -> str:
    return Edge("w", (), int(min(weight.min(initial=0), 0)), int(max(weight.max(initial=0), 1))).dtype


def _dense(w: _Writer, op: Dense) -> None:
    w.node("MatMul", [op.inputs[0], w.constant(f"{op.name}_weight", op.weight, _weight_type(op.weight))], op.output)


def _conv(w: _Writer, op: Conv) -> None:
    source, pads = op.inputs[0], op.pads
    if any(op.pads) and op.pad_value:
        n = len(op.strides)
        shape = w.graph.edges[source].shape
        wide = (shape[0], *(d + op.pads[i] + op.pads[n + i] for i, d in enumerate(shape[1:])))
        source = w.inner_node(
            "Pad", _pad_inputs(w, op, (0, *op.pads[:n], 0, *op.pads[n:]), op.pad_value), f"{op.name}_padded", wide
        )
        pads = (0,) * len(op.pads)
    weight = w.constant(f"{op.name}_weight", op.weight, _weight_type(op.weight))
    w.node(
        "Conv",
        [source, weight],
        op.output,
        kernel_shape=op.weight.shape[2:],
        strides=op.strides,
        pads=pads,
        dilations=op.dilations,
        group=op.groups,
    )


def _conv_transpose(w: _Writer, op: ConvTranspose) -> None:
    weight = w.constant(f"{op.name}_weight", op.weight, _weight_type(op.weight))
    w.node(
        "ConvTranspose",
        [op.inputs[0], weight],
        op.output,
        kernel_shape=op.weight.shape[2:],
        strides=op.strides,
        pads=op.pads,
        dilations=op.dilations,
        output_padding=op.output_padding,
        group=op.groups,
    )


def _pad_inputs(w: _Writer, op: Op, pads, value: int) -> list[str]:
    n = len(pads) // 2
    amounts = w.constant(f"{op.name}_pads", [0, *pads[:n], 0, *pads[n:]], kind=np.int64)
    return [op.inputs[0], amounts, w.constant(f"{op.name}_fill", value)]


def _pad(w: _Writer, op: Pad) -> None:
    w.node("Pad", _pad_inputs(w, op, op.pads, op.value), op.output)


def _max_pool(w: _Writer, op: MaxPool) -> None:
    extra = {"dilations": op.dilations} if any(d != 1 for d in op.dilations) else {}
    w.node("MaxPool", op.inputs, op.output, kernel_shape=op.kernel, strides=op.strides, pads=op.pads, **extra)


def _sum_pool(w: _Writer, op: SumPool) -> None:
    """A sum under a window is a depthwise convolution with ones."""
    channels = w.graph.edges[op.inputs[0]].shape[0]
    ones = np.ones((channels, 1, *op.kernel), np.int64)
    _conv(
        w, Conv(op.name, op.inputs, op.output, ones, op.strides, op.pads, (1,) * len(op.kernel), channels, op.pad_value)
    )


def _add(w: _Writer, op: Add) -> None:
    terms = []
    for k, (m, edge) in enumerate(zip(op.multipliers, op.inputs)):
        terms.append(
            edge
            if m == 1
            else w.inner_node(
                "Mul", [edge, w.constant(f"{op.name}_m{k}", m)], f"{op.name}_term{k}", w.graph.edges[edge].shape
            )
        )
    w.node("Add", terms, op.output)


def _concat(w: _Writer, op: Concat) -> None:
    w.node("Concat", op.inputs, op.output, axis=op.axis + 1)


def _requantise(w: _Writer, op: Requantise) -> None:
    if op.table is not None:
        return _table(w, op)
    rank = len(w.graph.edges[op.inputs[0]].shape)
    spread = [1] * (rank + 1)
    spread[op.axis + 1] = len(op.sign)
    source = op.inputs[0]
    if (op.sign < 0).any():
        source = w.inner_node(
            "Mul",
            [source, w.constant(f"{op.name}_sign", op.sign.reshape(spread))],
            f"{op.name}_signed",
            w.graph.edges[source].shape,
        )
    layout = "".join("C" if axis == op.axis else "HWDE"[axis] for axis in range(rank))
    low, high = (int(f(op.thresholds)) for f in (np.min, np.max)) if op.thresholds.size else (0, 1)
    name = w.constant(f"{op.name}_thresholds", op.thresholds, Edge("t", (), min(low, 0), max(high, 1)).dtype)
    out_type = w.graph.edges[op.output].dtype
    w.node(
        "MultiThreshold",
        [source, name],
        op.output,
        domain=_THRESHOLD_DOMAIN,
        out_dtype=out_type,
        out_bias=float(op.lo),
        data_layout="N" + layout,
    )


def _table(w: _Writer, op: Requantise) -> None:
    """table[c, x - x_lo[c]] as a Gather from the flattened table."""
    import onnx

    rank = len(w.graph.edges[op.inputs[0]].shape)
    spread = [1] * (rank + 1)
    spread[op.axis + 1] = len(op.sign)
    offset = (np.arange(len(op.table)) * op.table.shape[1] - op.x_lo).reshape(spread)
    shape = w.graph.edges[op.inputs[0]].shape
    index = w.inner_node(
        "Add", [op.inputs[0], w.constant(f"{op.name}_offset", offset)], f"{op.name}_float_index", shape
    )
    index = w.inner_node("Cast", [index], f"{op.name}_index", shape, onnx.TensorProto.INT64, to=onnx.TensorProto.INT64)
    w.node("Gather", [w.constant(f"{op.name}_table", op.table.reshape(-1)), index], op.output)


def _reshape(w: _Writer, op: Reshape) -> None:
    w.node("Reshape", [op.inputs[0], w.constant(f"{op.name}_shape", [-1, *op.shape], kind=np.int64)], op.output)


def _transpose(w: _Writer, op: Transpose) -> None:
    w.node("Transpose", op.inputs, op.output, perm=[0, *(p + 1 for p in op.perm)])


def _upsample(w: _Writer, op: Upsample) -> None:
    scales = w.constant(f"{op.name}_scales", [1, *op.factors], kind=np.float32)
    w.node(
        "Resize",
        [op.inputs[0], "", scales],
        op.output,
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


def _depth_to_space(w: _Writer, op: DepthToSpace) -> None:
    w.node("DepthToSpace", op.inputs, op.output, blocksize=op.block, mode=op.mode)


def _arg_max(w: _Writer, op: ArgMax) -> None:
    """The indices of a TopK, which is what FINN knows; the lower of equals comes first there too."""
    import onnx

    read, shape = bool(w.graph.consumers(op.output)), w.graph.edges[op.output].shape
    index = f"{op.name}_index" if read else op.output
    if read:
        w.inner.append(onnx.helper.make_tensor_value_info(index, onnx.TensorProto.INT64, [1, *shape]))
    largest = f"{op.name}_largest"
    w.inner.append(onnx.helper.make_tensor_value_info(largest, w.element, [1, *shape]))
    count = w.constant(f"{op.name}_k", [1], kind=np.int64)
    w.nodes.append(
        onnx.helper.make_node(
            "TopK", [op.inputs[0], count], [largest, index], name=op.output, axis=op.axis + 1, largest=1
        )
    )
    if read:
        w.node("Cast", [index], op.output, to=w.element)


_WRITE = {
    Dense: _dense,
    Conv: _conv,
    ConvTranspose: _conv_transpose,
    MaxPool: _max_pool,
    SumPool: _sum_pool,
    Add: _add,
    Concat: _concat,
    Requantise: _requantise,
    Pad: _pad,
    Reshape: _reshape,
    Transpose: _transpose,
    Upsample: _upsample,
    DepthToSpace: _depth_to_space,
    ArgMax: _arg_max,
}
