"""Untrusted model files: refused in one sentence each, nothing executed, nothing read outside the folder."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from greenedge.errors import GreenedgeError
from greenedge.frontends.input_type import parse_input_type
from greenedge.lower import lower_file
from tests.lower.models import Model


def _refusal(path) -> str:
    with pytest.raises(GreenedgeError) as error:
        lower_file(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_folder_and_text(tmp_path):
    assert _refusal(tmp_path / "no.onnx") == f"{tmp_path / 'no.onnx'} does not exist; give the path of an ONNX file."
    assert _refusal(tmp_path) == f"{tmp_path} cannot be read: is a directory; give the path of an ONNX file."
    (tmp_path / "text.onnx").write_text("hello, world\n" * 50)
    assert (
        _refusal(tmp_path / "text.onnx")
        == f"{tmp_path / 'text.onnx'} is not an ONNX file; export one with brevitas.export.export_qonnx."
    )
    (tmp_path / "empty.onnx").write_bytes(b"")
    assert _refusal(tmp_path / "empty.onnx") == (
        f"{tmp_path / 'empty.onnx'} is not an ONNX model with a graph in it; export one with "
        "brevitas.export.export_qonnx."
    )


def test_a_cycle(tmp_path):
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="second"),
    ]

    def value(name: str):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2])

    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [value("x")], [value("b")])), str(tmp_path / "m.onnx"))
    assert (
        _refusal(tmp_path / "m.onnx")
        == f"{tmp_path / 'm.onnx'}: the graph has a cycle through first; a network must be acyclic."
    )


def test_a_tensor_that_nobody_writes_and_one_that_two_write(tmp_path):
    m = Model().quant()
    m.nodes[0].input[0] = "ghost"
    assert _refusal(m.save(tmp_path / "m.onnx")) == (
        f"{tmp_path / 'm.onnx'}: Quant_1 reads tensor 'ghost', which no node writes; export the model again."
    )
    m = Model().quant().node("Relu")
    m.nodes[1].output[0] = m.nodes[0].output[0]
    assert (
        _refusal(m.save(tmp_path / "m.onnx", ["t1"]))
        == f"{tmp_path / 'm.onnx'}: tensor 't1' is written more than once; export the model again."
    )


def test_weights_that_are_not_numbers(tmp_path):
    m = Model().quant()
    m.node("MatMul", m.weight(np.array([[np.nan]] * 4)))
    assert _refusal(m.save(tmp_path / "m.onnx")) == (
        f"{tmp_path / 'm.onnx'}: constant 'c3', used by Quant_2, holds NaN or infinity; train or "
        "export the model again."
    )


def _write_external(tmp_path, location: str, length: int = 16, size: int = 4):
    m = Model().quant().dense()
    proto = m.proto()
    tensor = proto.graph.initializer[-1]
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    del tensor.dims[:]
    tensor.dims.append(size)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    return tmp_path / "m.onnx", tensor.name


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "", "a/../../secret"])
def test_external_data_outside_the_folder(tmp_path, location):
    (tmp_path.parent / "secret").write_bytes(bytes(16))
    path, name = _write_external(tmp_path, location)
    assert (
        _refusal(path)
        == f"{path}: constant {name!r} refers to {location!r}, outside the model's folder; keep external data beside "
        "the model."
    )


def test_external_data_that_is_missing_or_short(tmp_path):
    path, name = _write_external(tmp_path, "weights.bin", 2 << 30)
    assert _refusal(path) == (
        f"{path}: constant {name!r} is stored in 'weights.bin', which is missing; keep the file beside the model or "
        "export a single file."
    )
    (tmp_path / "weights.bin").write_bytes(bytes(8))
    assert (
        _refusal(path)
        == f"{path}: constant {name!r} needs bytes 0…{2 << 30} of 'weights.bin', which has 8; export the model again."
    )


def test_external_data_through_a_link_outside(tmp_path):
    (tmp_path.parent / "elsewhere").write_bytes(bytes(16))
    (tmp_path / "link.bin").symlink_to(tmp_path.parent / "elsewhere")
    path, name = _write_external(tmp_path, "link.bin")
    assert _refusal(path).startswith(f"{path}: constant {name!r} refers to 'link.bin', outside the model's folder;")


def test_a_constant_that_claims_to_be_huge(tmp_path):
    proto = Model().quant().dense().proto()
    tensor = proto.graph.initializer[-1]
    del tensor.dims[:]
    tensor.dims.extend([1 << 20, 1 << 20])
    onnx.save(proto, str(tmp_path / "m.onnx"))
    assert _refusal(tmp_path / "m.onnx") == (
        f"{tmp_path / 'm.onnx'}: its constants take more than 2,147,483,648 bytes at {tensor.name!r}; no "
        "supported target holds such a model."
    )


def test_a_constant_given_twice_and_a_node_without_what_it_needs(tmp_path):
    m = Model().quant()
    m.constants.append(onnx.numpy_helper.from_array(np.float32(1.0), "c0"))
    assert (
        _refusal(m.save(tmp_path / "m.onnx"))
        == f"{tmp_path / 'm.onnx'}: constant 'c0' is given twice; export the model again."
    )
    m = Model((1, 2, 6, 6)).quant().node("MaxPool", name="pool")
    assert _refusal(m.save(tmp_path / "m.onnx")) == (
        f"{tmp_path / 'm.onnx'}: node pool is malformed (Required attribute 'kernel_shape' is missing); "
        "export the model again."
    )


def test_mutated_files_give_sentences_only(rng, tmp_path):
    """Single bytes of good models changed: whatever comes out is one of our errors, or a graph."""
    good = [
        Model().quant().dense().node("Relu").quant().proto().SerializeToString(),
        Model((1, 2, 6, 6))
        .quant()
        .node("MaxPool", kernel_shape=[2, 2])
        .node("Flatten")
        .dense(50, 2)
        .proto()
        .SerializeToString(),
    ]
    path = tmp_path / "m.onnx"
    for _ in range(400):
        content = bytearray(good[int(rng.integers(len(good)))])
        for _ in range(int(rng.integers(1, 4))):
            content[int(rng.integers(len(content)))] = int(rng.integers(256))
        if rng.random() < 0.1:
            content = content[: int(rng.integers(len(content)))]
        path.write_bytes(content)
        try:
            lower_file(path)
        except GreenedgeError as error:
            assert str(error)


@pytest.mark.parametrize(
    "text, lo, hi, scale",
    [
        ("uint8:1/255", 0, 255, "1/255"),
        ("int16:2**-10", -32768, 32767, "1/1024"),
        ("int8:0.05", -128, 127, "1/20"),
        ("uint4", 0, 15, "1"),
        ("int8:1e-2", -128, 127, "1/100"),
    ],
)
def test_input_types(text, lo, hi, scale):
    kind = parse_input_type(text)
    assert (kind.lo, kind.hi, str(kind.scale)) == (lo, hi, scale)


@pytest.mark.parametrize(
    "text",
    [
        "float32",
        "uint99",
        "uint8:",
        "uint8:1/0",
        "int8:2**-1000",
        "int8:-1",
        "uint8:__import__('os')",
        "int0",
        "int8:9**9**9",
    ],
)
def test_input_types_that_are_none(text):
    with pytest.raises(GreenedgeError) as error:
        parse_input_type(text)
    assert str(error.value).startswith(
        f"input type {text!r} "
    ) and "write uint8, uint8:1/255, int16:2**-10 or int8:0.05" in str(error.value)
