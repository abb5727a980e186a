"""One network in many spellings: what may differ between two ONNX files that mean the same.

proto, spelt = respell(model, rng)        # model of tests.lower.networks: batch BATCH, opset 13
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from greenedge.frontends.domains import CHANNELS_LAST, QONNX
from tests.lower.networks import BATCH

Spelling = Callable[[onnx.ModelProto, np.random.Generator], str]
_OLDEST_AS_THEY_STAND = 13
_AXES_ARE_INPUTS = 18  # of reductions


def _find_oldest(proto: onnx.ModelProto, arrays: dict[str, np.ndarray]) -> int:
    """The oldest opset that has what the network asks for: steps of a Slice, indices and axes counted from behind."""
    oldest = 1
    for node in proto.graph.node:
        if node.op_type == "Slice" and (arrays[node.input[4]] != 1).any():
            oldest = max(oldest, 10)
        axes = [v for a in node.attribute if a.name in ("axes", "axis") for v in (*a.ints, a.i)]
        if node.op_type in ("Gather", "ReduceSum"):
            axes += np.ravel(arrays[node.input[1]]).tolist()
        if min(axes, default=0) < 0:
            oldest = max(oldest, 11)
    return oldest


# The opsets that have an operator in the form in which tests.lower.odd_networks writes it.
_SINCE = dict.fromkeys(("QuantizeLinear", "Squeeze", "Unsqueeze", "TopK", "Softmax", "ArgMax", "Celu"), 13)
_SINCE |= {"HardSwish": 14, "Gelu": 20}


def respell(model: onnx.ModelProto, rng: np.random.Generator) -> tuple[onnx.ModelProto, list[str]]:
    """The same network with each spelling at random, and the names of those that were chosen."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model)
    return proto, [spell(proto, rng) for spell in SPELLINGS]


def _initialisers(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def _add(proto: onnx.ModelProto, name: str, values, kind) -> str:
    proto.graph.initializer.append(numpy_helper.from_array(np.asarray(values, kind), name))
    return name


def spell_channels(proto: onnx.ModelProto, rng: np.random.Generator) -> str:
    """Some layers with channels last, in qonnx's domain."""
    if rng.random() < 0.6:
        return "channels first"
    ranks = {
        v.name: len(v.type.tensor_type.shape.dim)
        for v in onnx.shape_inference.infer_shapes(_without_quantisers(proto)).graph.value_info
    }
    ranks |= {v.name: len(v.type.tensor_type.shape.dim) for v in proto.graph.input}
    nodes = []
    for node in proto.graph.node:
        rank = ranks.get(node.input[0], 0) if node.input else 0
        count = {"Conv": 2, "MaxPool": 1, "BatchNormalization": 1}.get(node.op_type, 0)
        if not count or rank < 3 or rng.random() < 0.3:
            nodes.append(node)
            continue
        last, first = [0, *range(2, rank), 1], [0, rank - 1, *range(1, rank - 1)]
        for k in range(count):
            name = f"{node.output[0]}_to_last{k}"
            nodes.append(helper.make_node("Transpose", [node.input[k]], [name], name=name, perm=last))
            node.input[k] = name
        output = node.output[0]
        node.output[0] = f"{output}_last"
        node.domain = CHANNELS_LAST
        nodes += [node, helper.make_node("Transpose", [node.output[0]], [output], name=f"{output}_back", perm=first)]
    fresh = [copy_node(node) for node in nodes]
    del proto.graph.node[:]
    proto.graph.node.extend(fresh)
    return "channels last"


def copy_node(node: onnx.NodeProto) -> onnx.NodeProto:
    fresh = onnx.NodeProto()
    fresh.CopyFrom(node)
    return fresh


def _without_quantisers(proto: onnx.ModelProto) -> onnx.ModelProto:
    plain = onnx.ModelProto()
    plain.CopyFrom(proto)
    for node in plain.graph.node:
        if node.domain == QONNX:
            node.op_type, node.domain = "Identity", ""
            del node.input[1:]
            del node.attribute[:]
    return plain


def spell_batch(proto: onnx.ModelProto, rng: np.random.Generator) -> str:
    """The batch of another size, open, or open and without a name; reshapes that say it as a number, as 0 or as -1."""
    size = [1, 2, 5, BATCH, "N", ""][int(rng.integers(6))]
    for value in (*proto.graph.input, *proto.graph.output):
        dims = value.type.tensor_type.shape.dim
        dims[0].Clear()
        if isinstance(size, int):
            dims[0].dim_value = size
        elif size:
            dims[0].dim_param = size
    arrays = _initialisers(proto)
    for node in proto.graph.node:
        if node.op_type == "Reshape":
            number = size if isinstance(size, int) else 0
            shape = arrays[node.input[1]].copy()
            first = [number, 0, -1][int(rng.integers(3))]
            shape[0] = first
            if first != -1 and rng.random() < 0.3:
                shape[1] = -1
            node.input[1] = _add(proto, f"{node.output[0]}_shape", shape, np.int64)
    return f"batch {size!r}"


def spell_opset(proto: onnx.ModelProto, rng: np.random.Generator) -> str:
    """Any opset from 9 to 25; before 13 with the attributes and operators of that time."""
    version = int(rng.integers(9, 26))
    modes = {a.s for n in proto.graph.node if n.op_type == "DepthToSpace" for a in n.attribute if a.name == "mode"}
    if b"CRD" in modes:
        version = max(version, 11)
    arrays = _initialisers(proto)
    version = max(version, _find_oldest(proto, arrays))
    version = max(version, *(_SINCE.get(node.op_type, 9) for node in proto.graph.node))
    proto.opset_import[0].version = version
    if version >= _AXES_ARE_INPUTS:
        for node in proto.graph.node:
            if node.op_type in ("ReduceMax", "ReduceMin", "ReduceMean"):
                axes = node.attribute.pop([a.name for a in node.attribute].index("axes"))
                node.input.append(_add(proto, f"{node.output[0]}_axes", list(axes.ints), np.int64))
    if version >= _OLDEST_AS_THEY_STAND:
        return f"opset {version}"
    for node in proto.graph.node:
        if node.op_type == "Clip" and version < 11:
            for name, tensor in zip(("min", "max"), node.input[1:], strict=False):
                node.attribute.append(helper.make_attribute(name, float(arrays[tensor])))
            del node.input[1:]
        elif node.op_type == "Pad" and version < 11:
            node.attribute.append(helper.make_attribute("pads", arrays[node.input[1]].tolist()))
            del node.input[1:]
        elif node.op_type == "Resize" and version < 11:
            scales = node.input[2]
            node.op_type = "Upsample" if version == 9 else "Resize"
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("mode", "nearest"))
            node.input[:] = [node.input[0], scales]
        elif node.op_type in ("Split", "ReduceSum"):
            name = {"Split": "split", "ReduceSum": "axes"}[node.op_type]
            node.attribute.append(helper.make_attribute(name, arrays[node.input[1]].tolist()))
            del node.input[1:]
        elif node.op_type == "Slice" and version < 10:
            for name, tensor in zip(("starts", "ends", "axes"), node.input[1:4], strict=True):
                node.attribute.append(helper.make_attribute(name, arrays[tensor].tolist()))
            del node.input[1:]
        elif node.op_type == "Resize":
            node.input[1] = _add(proto, f"{node.output[0]}_roi", [], np.float32)
        elif node.op_type == "DepthToSpace" and version < 11:
            del node.attribute[[a.name for a in node.attribute].index("mode")]
    return f"opset {version}"


def spell_floats(proto: onnx.ModelProto, rng: np.random.Generator) -> str:
    """All numbers in float64, or in float16 those that it holds exactly."""
    kind = ["float32", "float32", "float64", "float16"][int(rng.integers(4))]
    if kind == "float32":
        return kind
    wide = np.dtype(kind).type
    for tensor in proto.graph.initializer:
        array = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            fresh = array.astype(wide)
        if array.dtype == np.float32 and np.array_equal(fresh.astype(np.float32), array):
            tensor.CopyFrom(numpy_helper.from_array(fresh, tensor.name))
    for value in (*proto.graph.input, *proto.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE if kind == "float64" else TensorProto.FLOAT16
    return kind


def spell_domains(proto: onnx.ModelProto, rng: np.random.Generator) -> str:
    """Quantisers in an older domain, standard operators in "ai.onnx", domains that no import names."""
    domain = [QONNX, QONNX, "", "onnx.brevitas", "finn.custom_op.general"][int(rng.integers(5))]
    standard = "ai.onnx" if rng.random() < 0.2 else ""
    for node in proto.graph.node:
        if node.domain == QONNX:
            node.domain = domain
        elif node.domain == "":
            node.domain = standard
    if rng.random() < 0.3:
        del proto.opset_import[1:]
    elif rng.random() < 0.5:
        proto.opset_import.insert(0, proto.opset_import.pop(1))
    return f"quantisers in {domain!r}"


def spell_constants(proto: onnx.ModelProto, rng: np.random.Generator) -> str:
    """Some constants as nodes, and some initialisers among the inputs or the declared values."""
    graph = proto.graph
    share = [0.0, 0.4, 1.0][int(rng.integers(3))]
    nodes, kept = [], []
    for tensor in graph.initializer:
        if rng.random() >= share:
            kept.append(tensor)
            continue
        array = numpy_helper.to_array(tensor)
        value = {"value": numpy_helper.from_array(array, "inner")}
        if array.ndim == 0 and array.dtype == np.float32 and rng.random() < 0.5:
            value = {"value_float": float(array)}
        elif array.ndim == 1 and array.dtype == np.int64 and array.size and rng.random() < 0.5:
            value = {"value_ints": array.tolist()}
        nodes.append(helper.make_node("Constant", [], [tensor.name], **value))
    listed = [0.0, 0.0, 0.5, 1.0][int(rng.integers(4))]
    tensors = [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in kept if rng.random() < listed]
    inputs = list(graph.input)
    order = [*tensors, *inputs] if rng.random() < 0.5 else [*inputs, *tensors]
    if rng.random() < 0.2:
        graph.value_info.extend(tensors)
    rest = [copy_node(node) for node in graph.node]
    initialisers = [numpy_helper.from_array(numpy_helper.to_array(t), t.name) for t in kept]
    order = [_copy_value(value) for value in order]
    del graph.initializer[:], graph.input[:], graph.node[:]
    graph.initializer.extend(initialisers)
    graph.input.extend(order)
    graph.node.extend([*nodes, *rest])
    return f"{len(nodes)} Constant nodes, {len(tensors)} initialisers listed"


def _copy_value(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    fresh = onnx.ValueInfoProto()
    fresh.CopyFrom(value)
    return fresh


def spell_nodes(proto: onnx.ModelProto, rng: np.random.Generator) -> str:
    """Nodes in any order, without names, or all of one name; outputs without a shape."""
    nodes = [copy_node(node) for node in proto.graph.node]
    how = ["as they are", "no names", "one name"][int(rng.integers(3))]
    for node in nodes:
        node.name = {"as they are": node.name, "no names": "", "one name": "conv"}[how]
    if rng.random() < 0.5:
        order = rng.permutation(len(nodes))
        del proto.graph.node[:]
        proto.graph.node.extend(nodes[k] for k in order)
        how += ", shuffled"
    else:
        del proto.graph.node[:]
        proto.graph.node.extend(nodes)
    if rng.random() < 0.3:
        proto.graph.output[0].type.tensor_type.ClearField("shape")
    return how


def spell_sparse(proto: onnx.ModelProto, rng: np.random.Generator) -> str:
    """Some constants as sparse tensors, with positions or with coordinates."""
    graph = proto.graph
    if rng.random() < 0.7:
        return "dense"
    listed = {value.name for value in (*graph.input, *graph.value_info)}
    kept = []
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        if tensor.name in listed or not array.ndim or rng.random() < 0.5:
            kept.append(numpy_helper.from_array(array, tensor.name))
            continue
        flat = np.flatnonzero(array.reshape(-1))
        values = numpy_helper.from_array(array.reshape(-1)[flat], tensor.name)
        where = flat if rng.random() < 0.5 else np.stack(np.unravel_index(flat, array.shape), axis=1)
        indices = numpy_helper.from_array(where.astype(np.int64), "")
        graph.sparse_initializer.append(onnx.SparseTensorProto(values=values, indices=indices, dims=array.shape))
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return f"{len(graph.sparse_initializer)} sparse constants"


def spell_functions(proto: onnx.ModelProto, rng: np.random.Generator) -> str:
    """Some nodes as calls of local functions, and some of those as calls of functions that call them."""
    if rng.random() < 0.6:
        return "no functions"
    imports = [*(helper.make_opsetid(o.domain, o.version) for o in proto.opset_import), helper.make_opsetid("local", 1)]
    for k, node in enumerate(proto.graph.node):
        if node.op_type == "Constant" or rng.random() < 0.5:
            continue
        for level in range(1 + int(rng.random() < 0.3)):
            body = copy_node(node)
            for end, prefix in ((body.input, "in"), (body.output, "out")):
                end[:] = [f"{prefix}{j}" if name else "" for j, name in enumerate(end)]
            name = f"{node.op_type}_{k}_{level}"
            given, made = [f"in{j}" for j in range(len(node.input))], list(body.output)
            proto.functions.append(helper.make_function("local", name, given, made, [body], imports))
            del node.attribute[:]
            node.op_type, node.domain = name, "local"
    proto.opset_import.append(helper.make_opsetid("local", 1))
    return f"{len(proto.functions)} functions"


SPELLINGS: tuple[Spelling, ...] = (
    spell_channels,
    spell_batch,
    spell_opset,
    spell_floats,
    spell_domains,
    spell_constants,
    spell_nodes,
    spell_sparse,
    spell_functions,
)
