"""Small sound models and what may be wrong with them: every attribute, input, constant, type and byte in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.lower.models import QONNX, Model

Case = tuple[str, bytes]

OPERATORS = ("Conv", "MaxPool", "Concat", "Quant", "Trunc", "Reshape", "TopK", "LSTM", "If", "Frobnicate", "Softmax")
DOMAINS = (
    "com.stranger",
    "ai.onnx.ml",
    "qonnx.custom_op.channels_last",
    "finn.custom_op.fpgadataflow",
    "com.microsoft",
)
NUMBERS = (-1, 0, 3, 7, 1 << 20, 1 << 31, 1 << 62, -(1 << 62))
LISTS = (
    [],
    [0],
    [-1],
    [1],
    [2, 2],
    [0, 0],
    [1, 1, 1],
    [-1, -1, -1, -1],
    [1 << 40, 1],
    [1 << 62] * 2,
    [0, 1, 2, 3, 4, 5],
)
FLOATS = (0.0, -1.0, 1e38, -1e-30, float("nan"), float("inf"))
TEXTS = (b"", b"SAME_UPPER", b"\xff\xfe", b"linear", b"NHWC" * 100)
SHAPES = ((), (0,), (-1,), (1, -7), (7,), (1, 0), (1 << 31, 1 << 31), (1, 1, 1, 1, 1, 1), (2, 3))
ELEMENTS = (0, 2, 3, 6, 7, 8, 9, 10, 11, 14, 16, 17, 21, 99)


def make_mlp() -> onnx.ModelProto:
    return Model().quant().dense().node("Relu").quant(bits=3, signed=0).dense(3, 2).quant(bits=8).proto()


def make_cnn() -> onnx.ModelProto:
    m = Model((1, 2, 6, 6)).quant()
    weight = m.weight(np.arange(4 * 2 * 3 * 3).reshape(4, 2, 3, 3) % 7 - 3)
    settings = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [1, 1], "dilations": [1, 1], "group": 1}
    m.node("Conv", weight, m.constant(np.arange(4) * 0.5), **settings)
    m.node("BatchNormalization", *(m.constant(np.linspace(0.5, 1 + k, 4)) for k in range(4)), epsilon=1e-5)
    m.node("LeakyRelu", alpha=0.125).quant(bits=4)
    m.node("MaxPool", kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 0, 0], ceil_mode=0, auto_pad="NOTSET")
    m.node("AveragePool", kernel_shape=[2, 2], strides=[1, 1], count_include_pad=1).quant(bits=4)
    m.node("Flatten", axis=1)
    weight = m.weight(np.arange(3 * 16).reshape(3, 16) % 5 - 2)
    return m.node("Gemm", weight, m.constant([1.0, 2, 3]), transB=1, alpha=1.0, beta=1.0).quant(bits=8).proto()


def make_structure() -> onnx.ModelProto:
    m = Model((1, 4, 4, 4), opset=14).quant()
    m.node("Pad", m.constant([0, 0, 1, 1, 0, 0, 1, 1], np.int64), m.constant(0.0), mode="constant")
    m.node("Slice", *(m.constant(v, np.int64) for v in ([1, 1], [5, 5], [2, 3], [1, 1])))
    m.node("DepthToSpace", blocksize=2, mode="DCR").node("Transpose", perm=[0, 2, 3, 1])
    m.node("Squeeze", m.constant([3], np.int64)).node("Unsqueeze", m.constant([1], np.int64))
    start = m.tensor
    m.node("Resize", "", m.constant([1, 1, 2, 2]), mode="nearest", nearest_mode="floor",
           coordinate_transformation_mode="asymmetric")  # fmt: skip
    m.node("MaxPool", kernel_shape=[2, 2], strides=[2, 2]).node("Concat", start, axis=1)
    weight = m.weight(np.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2) % 5 - 2)
    m.node("ConvTranspose", weight, kernel_shape=[2, 2], strides=[2, 2], output_padding=[1, 1], pads=[0, 0, 0, 0])
    m.node("Clip", m.constant(-3.0), m.constant(3.0)).node("HardSigmoid", alpha=0.25, beta=0.5).quant(bits=4)
    m.node("GlobalAveragePool").quant(bits=6).node("Reshape", m.constant([1, -1], np.int64), allowzero=0)
    return m.dense(3, 2).quant(bits=8).proto()


def make_qdq() -> onnx.ModelProto:
    m = Model((1, 3, 5, 5))
    m.node("QuantizeLinear", m.constant(0.05), m.constant(3, np.uint8), axis=1)
    m.node("DequantizeLinear", m.constant(0.05), m.constant(3, np.uint8), axis=1)
    weight = m.constant(np.arange(2 * 3 * 3 * 3).reshape(2, 3, 3, 3) % 9 - 4, np.int8)
    data = m.tensor
    m.node("DequantizeLinear", m.constant([0.1, 0.2]), m.constant([0, 0], np.int8), source=weight, axis=0)
    weight = m.tensor
    m.tensor = data
    m.node("Conv", weight, kernel_shape=[3, 3])
    m.node("QuantizeLinear", m.constant(0.4), m.constant(-5, np.int8))
    return m.node("DequantizeLinear", m.constant(0.4), m.constant(-5, np.int8)).proto()


def make_quantisers() -> onnx.ModelProto:
    m = Model((1, 4)).quant(bits=8)
    m.node("Trunc", m.constant(0.25), m.constant(0.0), m.constant(8.0), m.constant(4.0), domain=QONNX,
           rounding_mode="FLOOR")  # fmt: skip
    m.dense(4, 4)
    thresholds = m.constant(np.linspace(-9, 9, 4 * 3).reshape(4, 3))
    m.node("MultiThreshold", thresholds, domain=QONNX, out_scale=1.0, out_bias=-1.0, out_dtype="INT2", data_layout="NC")
    m.dense(4, 3).node("BipolarQuant", m.constant(1.0), domain=QONNX).dense(3, 2)
    return m.quant(bits=8, mode="HALF_UP").proto()


def make_folded() -> onnx.ModelProto:
    m = Model((1, 2, 4)).quant()
    data = m.tensor
    m.node("Shape").node("Gather", m.constant(0, np.int64), axis=0).node("Unsqueeze", m.constant([0], np.int64))
    m.node("Concat", m.constant([-1], np.int64), axis=0)
    shape, m.tensor = m.tensor, data
    m.node("Reshape", shape)
    data = m.tensor
    m.node("ConstantOfShape", source=m.constant([8, 3], np.int64), value=helper.make_tensor("v", 1, [1], [0.5]))
    m.node("Expand", m.constant([8, 3], np.int64)).node("Tile", m.constant([1, 2], np.int64))
    m.quant(0.5, 2)
    weight, m.tensor = m.tensor, data
    return m.node("MatMul", weight).quant(bits=8).node("Softmax", axis=1).proto()


def make_functions() -> onnx.ModelProto:
    """Two local functions, one of which calls the other, and a sparse constant in either form."""
    m = Model((1, 4)).quant()
    m.node("twice", domain="local", slope=0.25, name="call").quant(bits=6)
    proto = m.dense(4, 3).quant(bits=8).proto()
    leaky = helper.make_node("LeakyRelu", ["a"], ["b"], name="leaky")
    leaky.attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT))
    calls = [helper.make_node("once", [i], [o], domain="local", name=o) for i, o in (("a", "b"), ("b", "c"))]
    calls[0].attribute.append(onnx.AttributeProto(name="slope", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT))
    calls[1].attribute.append(helper.make_attribute("slope", 0.5))
    imports = [helper.make_opsetid("", 13), helper.make_opsetid("local", 1)]
    proto.functions.append(helper.make_function("local", "once", ["a"], ["b"], [leaky], imports, ["slope"]))
    proto.functions.append(helper.make_function("local", "twice", ["a"], ["c"], calls, imports, ["slope"]))
    proto.opset_import.append(imports[1])
    tensor = next(t for t in proto.graph.initializer if len(t.dims) == 2)
    array = numpy_helper.to_array(tensor)
    rows, columns = np.nonzero(array)
    values = numpy_helper.from_array(array[rows, columns], tensor.name)
    indices = numpy_helper.from_array(np.stack([rows, columns], axis=1), "indices")
    proto.graph.sparse_initializer.append(onnx.SparseTensorProto(values=values, indices=indices, dims=array.shape))
    proto.graph.initializer.remove(tensor)
    return proto


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "mlp": make_mlp,
    "cnn": make_cnn,
    "structure": make_structure,
    "qdq": make_qdq,
    "quantisers": make_quantisers,
    "folded": make_folded,
    "functions": make_functions,
}


def list_bad_models() -> Iterator[Case]:
    """(what is odd, the file) of every model with every single change; some are sound all the same."""
    for name, make in MODELS.items():
        good = make()
        for kind in _KINDS:
            for what, change in kind(good):
                proto = onnx.ModelProto()
                proto.CopyFrom(good)
                try:
                    change(proto)
                    content = proto.SerializeToString()
                except (ValueError, TypeError, OverflowError):
                    continue  # protobuf itself cannot write it
                yield f"{name}: {what}", content
    yield from list_huge_models()


def damage_bytes(rng: np.random.Generator, count: int) -> Iterator[Case]:
    """Sound models with bytes changed, taken away or put in."""
    good = {name: make().SerializeToString() for name, make in MODELS.items()}
    for k in range(count):
        name = list(good)[k % len(good)]
        content = bytearray(good[name])
        how = int(rng.integers(5))
        if how == 0:
            content = content[: int(rng.integers(len(content)))]
        elif how == 1:
            at = int(rng.integers(len(content)))
            content[at:at] = rng.bytes(int(rng.integers(1, 9)))
        else:
            for _ in range(int(rng.integers(1, 5))):
                content[int(rng.integers(len(content)))] = int(rng.integers(256))
        yield f"{name}: bytes {k}", bytes(content)


Change = Callable[[onnx.ModelProto], object]


def _bad_attributes(good: onnx.ModelProto) -> Iterator[tuple[str, Change]]:
    for k, node in enumerate(good.graph.node):
        for j, attribute in enumerate(node.attribute):
            label = f"{node.name}.{attribute.name}"
            values = (*NUMBERS, *LISTS, *FLOATS, *TEXTS)
            for value in values:
                yield f"{label} = {value!r}", lambda p, k=k, j=j, v=value: _set(p.graph.node[k].attribute[j], v)
            yield f"no {label}", lambda p, k=k, j=j: p.graph.node[k].attribute.pop(j)
            yield f"{label} twice", lambda p, k=k, j=j: p.graph.node[k].attribute.append(p.graph.node[k].attribute[j])
        yield (
            f"{node.name} with a strange attribute",
            lambda p, k=k: p.graph.node[k].attribute.append(helper.make_attribute("stranger", 3)),
        )


def _set(attribute: onnx.AttributeProto, value: object) -> None:
    name = attribute.name
    attribute.Clear()
    kind = onnx.AttributeProto.INTS if isinstance(value, list) else None
    attribute.CopyFrom(helper.make_attribute(name, value, attr_type=kind))


def _bad_nodes(good: onnx.ModelProto) -> Iterator[tuple[str, Change]]:
    for k, node in enumerate(good.graph.node):
        for domain in DOMAINS:
            yield f"{node.name} in {domain}", lambda p, k=k, d=domain: setattr(p.graph.node[k], "domain", d)
        for op in OPERATORS:
            yield f"{node.name} as {op}", lambda p, k=k, o=op: setattr(p.graph.node[k], "op_type", o)
        yield f"no {node.name}", lambda p, k=k: p.graph.node.pop(k)
        yield f"{node.name} twice", lambda p, k=k: p.graph.node.append(p.graph.node[k])
        yield f"{node.name} without outputs", lambda p, k=k: p.graph.node[k].ClearField("output")
        yield f"{node.name} with another output", lambda p, k=k: p.graph.node[k].output.append(f"more{k}")
        for j in range(len(node.input)):
            yield f"{node.name} without input {j}", lambda p, k=k, j=j: p.graph.node[k].input.pop(j)
            yield f"{node.name} input {j} empty", lambda p, k=k, j=j: p.graph.node[k].input.__setitem__(j, "")
            yield f"{node.name} input {j} is x", lambda p, k=k, j=j: p.graph.node[k].input.__setitem__(j, "x")
            yield (
                f"{node.name} input {j} is its output",
                lambda p, k=k, j=j: p.graph.node[k].input.__setitem__(j, p.graph.node[k].output[0]),
            )
        yield f"{node.name} with another input", lambda p, k=k: p.graph.node[k].input.append("x")


def _bad_constants(good: onnx.ModelProto) -> Iterator[tuple[str, Change]]:
    for k, tensor in enumerate(good.graph.initializer):
        array = numpy_helper.to_array(tensor)
        for shape in SHAPES:
            yield f"{tensor.name} says {shape}", lambda p, k=k, s=shape: _set_dims(p.graph.initializer[k], s)
            size = abs(int(np.prod(shape, dtype=object)))
            if size < 100 and min(shape, default=0) >= 0:
                fresh = np.resize(array, shape).astype(array.dtype)
                yield f"{tensor.name} has {shape}", lambda p, k=k, a=fresh: _put(p.graph.initializer[k], a)
        for kind in ELEMENTS:
            yield (
                f"{tensor.name} says type {kind}",
                lambda p, k=k, t=kind: setattr(p.graph.initializer[k], "data_type", t),
            )
        for kind in (np.float16, np.float64, np.int8, np.int32, np.int64, bool, np.uint8, np.complex64):
            fresh = array.astype(kind)
            yield f"{tensor.name} as {fresh.dtype}", lambda p, k=k, a=fresh: _put(p.graph.initializer[k], a)
        for value in (0, -1, 1e30, -1e30, np.nan, np.inf, 1e-40, 0.3, 33, 1 << 20):
            if array.dtype.kind == "f" or (np.isfinite(value) and abs(value) < 1 << 31):
                with np.errstate(all="ignore"):
                    fresh = np.full(array.shape, value).astype(array.dtype)
                yield f"{tensor.name} full of {value}", lambda p, k=k, a=fresh: _put(p.graph.initializer[k], a)
        yield f"no {tensor.name}", lambda p, k=k: p.graph.initializer.pop(k)
        yield f"{tensor.name} twice", lambda p, k=k: p.graph.initializer.append(p.graph.initializer[k])


def _set_dims(tensor: onnx.TensorProto, shape: tuple[int, ...]) -> None:
    del tensor.dims[:]
    tensor.dims.extend(shape)


def _put(tensor: onnx.TensorProto, array: np.ndarray) -> None:
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _bad_ends(good: onnx.ModelProto) -> Iterator[tuple[str, Change]]:
    rank = len(good.graph.input[0].type.tensor_type.shape.dim)
    shapes = [*SHAPES, (3,) * rank, (1,) * rank, (2,) * (rank + 1), (1 << 20,) * rank]
    for end in ("input", "output"):
        for shape in shapes:
            yield f"{end} {shape}", lambda p, e=end, s=shape: _declare(getattr(p.graph, e)[0], s)
        for kind in ELEMENTS:
            yield (
                f"{end} of type {kind}",
                lambda p, e=end, t=kind: setattr(getattr(p.graph, e)[0].type.tensor_type, "elem_type", t),
            )
        yield f"{end} without type", lambda p, e=end: getattr(p.graph, e)[0].ClearField("type")
        yield f"no {end}", lambda p, e=end: p.graph.ClearField(e)
        yield f"{end} twice", lambda p, e=end: getattr(p.graph, e).append(getattr(p.graph, e)[0])
        yield f"{end} of another name", lambda p, e=end: setattr(getattr(p.graph, e)[0], "name", "ghost")
    open_axes = [f"n{k}" for k in range(rank)]
    yield "all axes open", lambda p: _declare(p.graph.input[0], open_axes)
    yield "an output that is an input", lambda p: setattr(p.graph.output[0], "name", "x")


def _declare(value: onnx.ValueInfoProto, shape) -> None:
    value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, list(shape)))


def _bad_versions(good: onnx.ModelProto) -> Iterator[tuple[str, Change]]:
    for version in (-1, 0, 1, 6, 7, 8, 9, 10, 11, 12, 22, 25, 26, 28, 1000, 1 << 40):
        yield f"opset {version}", lambda p, v=version: setattr(p.opset_import[0], "version", v)
    for version in (0, 1, 3, 99, 1 << 40):
        yield f"ir_version {version}", lambda p, v=version: setattr(p, "ir_version", v)
    for version in (0, 2, 99):
        yield f"qonnx {version}", lambda p, v=version: setattr(p.opset_import[1], "version", v)
    yield "no opset", lambda p: p.ClearField("opset_import")
    yield "two opsets", lambda p: p.opset_import.append(helper.make_opsetid("", 17))


def _bad_functions(good: onnx.ModelProto) -> Iterator[tuple[str, Change]]:
    for k, function in enumerate(good.functions):
        label = f"function {function.name}"
        for text in ("", "Relu", "Quant", "once", "twice"):
            yield f"{label} is called {text!r}", lambda p, k=k, t=text: setattr(p.functions[k], "name", t)
        for domain in ("", "ai.onnx", "com.stranger", QONNX):
            yield f"{label} in {domain!r}", lambda p, k=k, d=domain: setattr(p.functions[k], "domain", d)
        for part in ("input", "output", "attribute", "node", "opset_import"):
            yield f"{label} without {part}", lambda p, k=k, a=part: p.functions[k].ClearField(a)
        for part, texts in (("input", ("a", "b", "z", "")), ("output", ("a", "b", "z", ""))):
            for text in texts:
                yield f"{label} {part} {text!r}", lambda p, k=k, a=part, t=text: getattr(p.functions[k], a).append(t)
                yield (
                    f"{label} first {part} {text!r}",
                    lambda p, k=k, a=part, t=text: getattr(p.functions[k], a).__setitem__(0, t),
                )
        for version in (-1, 0, 7, 12, 17, 1 << 40):
            yield (
                f"{label} of opset {version}",
                lambda p, k=k, v=version: setattr(p.functions[k].opset_import[0], "version", v),
            )
        yield f"{label} twice", lambda p, k=k: p.functions.append(p.functions[k])
        yield f"no {label}", lambda p, k=k: p.functions.pop(k)
        for j, node in enumerate(function.node):
            for op in ("once", "twice", *OPERATORS):
                for domain in ("", "local", QONNX):
                    yield (
                        f"{label} {node.name} as {domain}.{op}",
                        lambda p, k=k, j=j, o=op, d=domain: _turn(p.functions[k].node[j], o, d),
                    )
            for name in ("a", "b", "c", "x", ""):
                yield (
                    f"{label} {node.name} reads {name!r}",
                    lambda p, k=k, j=j, n=name: p.functions[k].node[j].input.__setitem__(0, n),
                )
                yield (
                    f"{label} {node.name} writes {name!r}",
                    lambda p, k=k, j=j, n=name: p.functions[k].node[j].output.__setitem__(0, n),
                )
            yield (
                f"{label} {node.name} with a parameter that is none",
                lambda p, k=k, j=j: setattr(p.functions[k].node[j].attribute[0], "ref_attr_name", "ghost"),
            )


def _turn(node: onnx.NodeProto, op: str, domain: str) -> None:
    node.op_type, node.domain = op, domain


def _bad_sparse(good: onnx.ModelProto) -> Iterator[tuple[str, Change]]:
    for k, sparse in enumerate(good.graph.sparse_initializer):
        for shape in SHAPES:
            yield f"sparse of {shape}", lambda p, k=k, s=shape: _set_dims(p.graph.sparse_initializer[k], s)
        for part in ("values", "indices"):
            array = numpy_helper.to_array(getattr(sparse, part))
            yield f"sparse without {part}", lambda p, k=k, a=part: p.graph.sparse_initializer[k].ClearField(a)
            for shape in SHAPES:
                yield (
                    f"sparse {part} say {shape}",
                    lambda p, k=k, a=part, s=shape: _set_dims(getattr(p.graph.sparse_initializer[k], a), s),
                )
            for kind in ELEMENTS:
                yield (
                    f"sparse {part} say type {kind}",
                    lambda p, k=k, a=part, t=kind: setattr(getattr(p.graph.sparse_initializer[k], a), "data_type", t),
                )
            for value in (-1, 0, 1, 3, 1 << 40, np.nan):
                with np.errstate(all="ignore"):
                    fresh = np.full(array.shape, value).astype(array.dtype)
                yield (
                    f"sparse {part} full of {value}",
                    lambda p, k=k, a=part, f=fresh: _put(getattr(p.graph.sparse_initializer[k], a), f),
                )
        yield "sparse twice", lambda p, k=k: p.graph.sparse_initializer.append(p.graph.sparse_initializer[k])


_KINDS = (_bad_attributes, _bad_nodes, _bad_constants, _bad_ends, _bad_versions, _bad_functions, _bad_sparse)


def list_huge_models() -> Iterator[Case]:
    """Constants of a few bytes that ask for very many, and chains that take very long."""
    big = np.array([1 << 16, 1 << 16], np.int64)

    def folded(op: str, *inputs: np.ndarray, **attrs) -> bytes:
        m = Model((1, 4)).quant()
        data = m.tensor
        names = [m.constant(array, array.dtype) for array in inputs]
        m.node(op, *names[1:], source=names[0], **attrs)
        constant, m.tensor = m.tensor, data
        return m.node("Add", constant).quant().proto().SerializeToString()

    one, whole = np.ones((1, 1), np.float32), lambda *v: np.array(v, np.int64)
    yield "huge ConstantOfShape", folded("ConstantOfShape", big)
    yield "huge Expand", folded("Expand", one, big)
    yield "huge Tile", folded("Tile", one, big)
    yield "huge Range", folded("Range", whole(0).reshape(()), whole(1 << 40).reshape(()), whole(1).reshape(()))
    yield "huge OneHot", folded("OneHot", whole(*range(1000)), whole(1 << 30).reshape(()), np.array([0, 1], np.float32))
    yield "huge Pad", folded("Pad", one, whole(0, 0, 1 << 20, 1 << 20))
    factors = np.array([1, 1, 65536, 65536], np.float32)
    yield "huge Resize", folded("Resize", one.reshape(1, 1, 1, 1), np.zeros(0, np.float32), factors)
    yield "huge MatMul", folded("MatMul", np.ones((4096, 1), np.float32), np.ones((1, 1 << 18), np.float32))
    yield "huge Einsum", folded("Einsum", *[np.ones(400, np.float32)] * 5, equation="a,b,c,d,e->abcde")
    yield "huge Einsum of few", folded("Einsum", *[np.ones(400, np.float32)] * 5, equation="a,b,c,d,e->")
    yield "huge Conv", folded("Conv", np.ones((1, 8, 300, 300), np.float32), np.ones((8, 8, 99, 99), np.float32))
    yield "a text", folded("RegexFullMatch", np.array(["a" * 40 + "!"], object).astype(str), pattern="(a+)+$")
    yield "EyeLike", folded("EyeLike", np.ones((1 << 7, 1 << 7), np.float32))
    yield "RandomNormal", folded("RandomNormalLike", one)
    chain = Model((1, 4))
    for _ in range(1500):
        chain.node("Relu")
    yield "1,500 nodes before the quantiser", chain.quant().dense().proto().SerializeToString()
    chain = Model((1, 4)).quant()
    for _ in range(1500):
        chain.node("Relu")
    yield "1,500 nested functions", chain.quant().proto().SerializeToString()
    chain = Model((1, 4)).quant()
    for k in range(40):
        start = chain.tensor
        chain.node("Sigmoid").node("Mul", start, name=f"gate{k}")
    yield "40 gates", chain.quant().proto().SerializeToString()
    chain = Model((1, 4)).quant()
    for _ in range(3000):
        chain.node("Identity")
    yield "3,000 identities", chain.dense().quant().proto().SerializeToString()
    m = Model((1, 1, 4, 4)).quant()
    m.node("Resize", "", m.constant([1, 1, 1 << 14, 1 << 14]), mode="nearest", nearest_mode="floor",
           coordinate_transformation_mode="asymmetric")  # fmt: skip
    yield "a huge upsample", m.quant().proto().SerializeToString()
    m = Model((1, 1, 4, 4)).quant()
    pads = m.constant([0, 0, 1 << 15, 1 << 15, 0, 0, 0, 0], np.int64)
    yield "a huge pad", m.node("Pad", pads).quant().proto().SerializeToString()
    for bits in (16, 24, 32, 64):
        m = Model((1, 4)).quant(2.0**-bits, bits)
        yield f"{bits}-bit levels", m.node("Tanh").quant(2.0**-bits, bits).proto().SerializeToString()
