"""Local functions and sparse constants: written out before anything is checked, bounded before anything is spent."""

from __future__ import annotations

import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from greenedge.errors import GreenedgeError, UnsupportedError
from greenedge.frontends import functions, load
from greenedge.frontends.domains import QONNX
from greenedge.graph import run_graph
from greenedge.lower import lower_file
from tests.lower.models import Model

Q = helper.make_opsetid(QONNX, 1)


def make_function(name, nodes, inputs=("a",), outputs=("b",), opset=13, attributes=()):
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1), Q]
    return helper.make_function("local", name, list(inputs), list(outputs), nodes, imports, list(attributes))


def call(name, inputs, outputs, **attrs):
    return helper.make_node(name, inputs, outputs, domain="local", **attrs)


def with_call(name, *made, **attrs):
    """A quantised network whose activation is a call of the function `name`; `made` are the model's functions."""
    m = Model((1, 4)).quant().dense().node(name, domain="local", **attrs).quant()
    proto = m.proto()
    proto.functions.extend(made)
    proto.opset_import.append(helper.make_opsetid("local", 1))
    return proto


def save(proto, path):
    path.write_bytes(proto.SerializeToString())
    return path


def refuse(proto, path) -> str:
    start = time.perf_counter()
    with pytest.raises(GreenedgeError) as error:
        lower_file(save(proto, path))
    assert time.perf_counter() - start < 5
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    return str(error.value).removeprefix(f"{path}: ")


def compute(proto, path) -> tuple[list[str], list]:
    """The operations of the integer graph, and what it gives for every pair of levels at two places of its input."""
    graph = lower_file(save(proto, path)).graph
    x = np.zeros((256, 4), np.int64)
    x[:, :2] = np.stack(np.meshgrid(np.arange(-8, 8), np.arange(-8, 8)), axis=-1).reshape(-1, 2)
    return [type(op).__name__ for op in graph.ops], [y.tolist() for y in run_graph(graph, x).values()]


def test_a_function_is_its_body(tmp_path):
    """Nested, with an attribute of the call, and with quantisers of QONNX in its body."""
    leaky = helper.make_node("LeakyRelu", ["a"], ["b"])
    leaky.attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT))
    inner = make_function("leaky", [leaky], attributes=["slope"])
    quant = helper.make_node(
        "Quant", ["c", "s", "z", "n"], ["b"], domain=QONNX, signed=1, narrow=0, rounding_mode="ROUND"
    )
    parts = [helper.make_node("Constant", [], [name], value_float=v) for name, v in (("s", 0.5), ("z", 0), ("n", 4))]
    outer = make_function("act", [*parts, call("leaky", ["a"], ["c"], slope=0.125), quant])
    plain = Model((1, 4)).quant().dense().node("LeakyRelu", alpha=0.125).quant(0.5).quant().proto()
    assert compute(with_call("act", inner, outer), tmp_path / "m.onnx") == compute(plain, tmp_path / "m.onnx")


def test_a_body_of_a_quantiser_describes_it(tmp_path):
    """Runtimes without QONNX's operators may have it; the node stays what QONNX says that it is."""
    proto = Model((1, 4)).quant().dense().quant().proto()
    plain = compute(proto, tmp_path / "m.onnx")
    names = ["x", "scale", "zero", "bits"]
    body = [helper.make_node("Relu", ["x"], ["y"])]
    proto.functions.append(helper.make_function(QONNX, "Quant", names, ["y"], body, [helper.make_opsetid("", 13)]))
    assert compute(proto, tmp_path / "m.onnx") == plain


def test_a_graph_of_calls_alone(tmp_path):
    """It need not import the standard operators: the opset is that of its functions."""
    whole = Model((1, 4)).quant().dense().quant().proto()
    net = make_function("net", whole.graph.node, ["x", *(t.name for t in whole.graph.initializer)], ["t5"])
    net.output[0] = whole.graph.output[0].name
    node = call("net", list(net.input), list(net.output))
    graph = helper.make_graph([node], "tiny", whole.graph.input, whole.graph.output, whole.graph.initializer)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("local", 1)], functions=[net], ir_version=8)
    assert compute(proto, tmp_path / "m.onnx") == compute(whole, tmp_path / "m.onnx")


RELU = helper.make_node("Relu", ["a"], ["b"])


def test_functions_that_call_themselves(tmp_path):
    own = make_function("act", [call("act", ["a"], ["b"])])
    other = make_function("act", [call("second", ["a"], ["b"])]), make_function("second", [call("act", ["a"], ["b"])])
    said = "its function 'act' calls itself; a network has no end then: export the model without functions."
    assert refuse(with_call("act", own), tmp_path / "m.onnx") == said
    assert refuse(with_call("act", *other), tmp_path / "m.onnx") == said


def chain(depth, width):
    """`depth` functions, each of which calls the one before `width` times."""
    made = [make_function("f0", [RELU])]
    for k in range(1, depth):
        names = ["a", *(f"m{j}" for j in range(width - 1)), "b"]
        made.append(make_function(f"f{k}", [call(f"f{k - 1}", [names[j]], [names[j + 1]]) for j in range(width)]))
    return made


@pytest.mark.parametrize("depth, width", [(17, 2), (60, 2), (6, 12), (64, 50)])
def test_functions_that_grow(tmp_path, depth, width):
    assert refuse(with_call(f"f{depth - 1}", *chain(depth, width)), tmp_path / "m.onnx").startswith(
        "its functions grow to more than 50,000 nodes or 268,435,456 bytes where they are called; "
    )


def test_the_bound_of_nodes(tmp_path, monkeypatch):
    """20 nodes of the functions and 7 others."""
    proto = with_call("f2", *chain(3, 1)[:1], *chain(3, 4)[1:])
    count = len(proto.graph.node) - 1 + 16
    monkeypatch.setattr(load, "MAX_NODES", count)
    load.load_proto(save(proto, tmp_path / "m.onnx"))
    monkeypatch.setattr(load, "MAX_NODES", count - 1)
    assert f"more than {count - 1:,} nodes" in refuse(proto, tmp_path / "m.onnx")


def test_a_body_of_many_bytes_that_is_called_often(tmp_path):
    """Names and parameters of a call stand in its body once for each use."""
    blob = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.zeros(1 << 18, np.float32)))
    heavy = make_function("f0", [blob, helper.make_node("Add", ["a", "c"], ["b"])])
    proto = with_call("f9", heavy, *chain(10, 2)[1:])
    assert "268,435,456 bytes" in refuse(proto, tmp_path / "m.onnx")
    wide = make_function("f0", [helper.make_node("Sum", ["a"] * 5000, ["b"])])
    proto = with_call("f0", wide)
    node = next(n for n in proto.graph.node if n.domain == "local")
    reader = next(n for n in proto.graph.node if node.output[0] in n.input)
    node.output[0] = reader.input[0] = "y" * 100_000
    assert "268,435,456 bytes" in refuse(proto, tmp_path / "m.onnx")


def test_the_bound_of_depth(tmp_path):
    depth = functions.MAX_DEPTH
    assert lower_file(save(with_call(f"f{depth - 1}", *chain(depth, 1)), tmp_path / "m.onnx"))
    said = "its functions call each other more than 64 deep at 'f0'; export the model without functions."
    assert refuse(with_call(f"f{depth}", *chain(depth + 1, 1)), tmp_path / "m.onnx") == said
    backwards = with_call(f"f{depth}", *reversed(chain(depth + 1, 1)))
    assert refuse(backwards, tmp_path / "m.onnx") == said
    assert "64 deep" in refuse(with_call("f4999", *chain(5000, 1)), tmp_path / "m.onnx")


BAD = {
    "given twice": ([make_function("act", [RELU])] * 2, "its function 'act' is given twice; export the model again."),
    "from outside": (
        [make_function("act", [helper.make_node("Relu", ["x"], ["b"])])],
        "its function 'act' reads tensor 'x', which is neither a parameter nor written in it; export the model again.",
    ),
    "another opset": (
        [make_function("act", [RELU], opset=17)],
        "its function 'act' is written for opset 17, the model for 13; write it for one with "
        "onnx.inliner.inline_local_functions(model, convert_version=True).",
    ),
    "without inputs": (
        [make_function("act", [helper.make_node("Constant", [], ["b"], value_float=1.0)], [])],
        "node 'act_4' has 1 inputs and 1 outputs, its function 'act' 0 and 1; export the model again.",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_functions_that_are_none(tmp_path, name):
    made, said = BAD[name]
    assert refuse(with_call("act", *made), tmp_path / "m.onnx") == said


def test_functions_without_what_they_write_or_without_anything(tmp_path):
    for nodes in ([], [helper.make_node("Relu", ["a"], ["c"])]):
        assert "no node writes" in refuse(with_call("act", make_function("act", nodes)), tmp_path / "m.onnx")


def test_a_parameter_outside_a_function(tmp_path):
    proto = Model((1, 4)).quant().dense().node("LeakyRelu").quant().proto()
    node = next(n for n in proto.graph.node if n.op_type == "LeakyRelu")
    node.attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT))
    with pytest.raises(GreenedgeError) as error:
        lower_file(save(proto, tmp_path / "m.onnx"))
    assert "\n" not in str(error.value) or isinstance(error.value, UnsupportedError)


def test_the_bodies_are_checked_as_the_graph_is(tmp_path):
    """Numbers that are none and data outside the model's folder are found in them too."""
    value = numpy_helper.from_array(np.array([np.nan] * 3, np.float32))
    parts = [helper.make_node("Constant", [], ["c"], value=value), helper.make_node("Add", ["a", "c"], ["b"])]
    assert "holds NaN or infinity" in refuse(with_call("act", make_function("act", parts)), tmp_path / "m.onnx")
    value.data_location = TensorProto.EXTERNAL
    value.external_data.add(key="location", value="../secret")
    parts[0].attribute[0].t.CopyFrom(value)
    said = refuse(with_call("act", make_function("act", parts)), tmp_path / "m.onnx")
    assert "refers to '../secret', outside the model's folder" in said


# -- sparse constants -------------------------------------------------------------------------------------------------


def make_sparse(proto, form):
    """The model with its weights as a sparse tensor, by positions or by coordinates, or in a Constant node."""
    weights = next(t for t in proto.graph.initializer if len(t.dims) == 2)
    array = numpy_helper.to_array(weights)
    flat = np.flatnonzero(array)
    where = np.stack(np.unravel_index(flat, array.shape), axis=1) if form == "coordinates" else flat
    values = numpy_helper.from_array(array.reshape(-1)[flat], weights.name)
    indices = numpy_helper.from_array(where.astype(np.int64), "")
    sparse = onnx.SparseTensorProto(values=values, indices=indices, dims=array.shape)
    proto.graph.initializer.remove(weights)
    if form == "node":
        proto.graph.node.insert(0, helper.make_node("Constant", [], [weights.name], sparse_value=sparse))
    else:
        proto.graph.sparse_initializer.append(sparse)
    return sparse if form == "node" else proto.graph.sparse_initializer[0]


@pytest.mark.parametrize("form", ["positions", "coordinates", "node"])
def test_a_sparse_constant_is_the_dense_one(tmp_path, form):
    proto = Model((1, 4)).quant().dense().quant().proto()
    dense = compute(proto, tmp_path / "m.onnx")
    make_sparse(proto, form)
    assert compute(proto, tmp_path / "m.onnx") == dense


def _put(part, array):
    part.CopyFrom(numpy_helper.from_array(np.asarray(array), part.name))


SPARSE = {
    "outside": lambda s: _put(s.indices, [0, 1, 3, 4, 5, 6, 8, 9, 10, 12]),
    "below": lambda s: _put(s.indices, [-1, 1, 3, 4, 5, 6, 8, 9, 10, 11]),
    "twice": lambda s: _put(s.indices, [0, 1, 3, 4, 5, 6, 8, 9, 10, 10]),
    "falling": lambda s: _put(s.indices, [1, 0, 3, 4, 5, 6, 8, 9, 10, 11]),
    "too few": lambda s: _put(s.indices, [0, 1]),
    "a coordinate outside": lambda s: _put(s.indices, [[0, 0], [0, 3], *([1, k % 3] for k in range(8))]),
    "fractions": lambda s: _put(s.indices, np.arange(10.0)),
    "values in rows": lambda s: _put(s.values, np.ones((5, 2), np.float32)),
    "a negative size": lambda s: s.dims.__setitem__(0, -4),
    "text": lambda s: _put(s.values, np.array(["a"] * 10, object)),
}


@pytest.mark.parametrize("name", SPARSE)
def test_sparse_constants_that_are_none(tmp_path, name):
    proto = Model((1, 4)).quant().dense().quant().proto()
    sparse = make_sparse(proto, "positions")
    assert len(numpy_helper.to_array(sparse.values)) == 10
    SPARSE[name](sparse)
    assert "is damaged (" in refuse(proto, tmp_path / "m.onnx")


def test_a_sparse_constant_that_claims_to_be_huge(tmp_path):
    for dims in ([1 << 40, 1 << 40], [1 << 14, 1 << 15]):
        proto = Model((1, 4)).quant().dense().quant().proto()
        make_sparse(proto, "positions").dims[:] = dims
        assert "its constants take more than 2,147,483,648 bytes" in refuse(proto, tmp_path / "m.onnx")


def test_sparse_data_outside_the_folder(tmp_path):
    proto = Model((1, 4)).quant().dense().quant().proto()
    indices = make_sparse(proto, "positions").indices
    indices.data_location = TensorProto.EXTERNAL
    indices.external_data.add(key="location", value="../secret")
    assert "refers to '../secret', outside the model's folder" in refuse(proto, tmp_path / "m.onnx")
