"""A .pt2 file that nobody vouches for: it is read within bounds, without torch, and nothing in it is executed."""

from __future__ import annotations

import copy
import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from greenedge.errors import GreenedgeError, UnsupportedError
from greenedge.frontends.source import read_model
from greenedge.frontends.torch_export import read_program
from greenedge.frontends.torch_export.archive import MAX_MEMBERS, is_torch_file, read_archive
from greenedge.graph import run_graph
from greenedge.lower import lower_file
from greenedge.lower.float_io import run_prologue

FLOAT = 7


def _meta(sizes, kind=FLOAT, strides=None, offset=0):
    strides = strides or [int(np.prod(sizes[k + 1 :])) for k in range(len(sizes))]
    return {
        "dtype": kind,
        "sizes": [{"as_int": size} for size in sizes],
        "requires_grad": False,
        "device": {"type": "cpu", "index": None},
        "strides": [{"as_int": stride} for stride in strides],
        "storage_offset": {"as_int": offset},
        "layout": 7,
    }


def _call(target, out, **arguments):
    given = [{"name": name, "arg": value, "kind": 1} for name, value in arguments.items()]
    return {
        "target": f"torch.ops.{target}",
        "inputs": given,
        "outputs": [{"as_tensor": {"name": out}}],
        "metadata": {},
        "name": out,
    }


def _tensor(name):
    return {"as_tensor": {"name": name}}


def _program():
    """relu(x Wᵀ), as torch 2.13 writes it."""
    return {
        "graph_module": {
            "graph": {
                "inputs": [_tensor("p_weight"), _tensor("x")],
                "outputs": [_tensor("relu")],
                "nodes": [
                    _call("aten.linear.default", "linear", input=_tensor("x"), weight=_tensor("p_weight")),
                    _call("aten.relu.default", "relu", self=_tensor("linear")),
                ],
                "tensor_values": {
                    "p_weight": _meta([4, 6]),
                    "x": _meta([1, 6]),
                    "linear": _meta([1, 4]),
                    "relu": _meta([1, 4]),
                },
            },
            "signature": {
                "input_specs": [
                    {"parameter": {"arg": {"name": "p_weight"}, "parameter_name": "weight"}},
                    {"user_input": {"arg": _tensor("x")}},
                ],
                "output_specs": [{"user_output": {"arg": _tensor("relu")}}],
            },
            "module_call_graph": [],
        },
        "opset_version": {"aten": 10},
        "range_constraints": {},
        "schema_version": {"major": 8, "minor": 20},
        "torch_version": "2.13.0",
    }


def _config(**changes):
    payload = {"path_name": "weight_0", "is_param": True, "use_pickle": False, "tensor_meta": _meta([4, 6])}
    return {"config": {"weight": payload | changes}}


WEIGHT = np.arange(24, dtype=np.float32).tobytes()


def _members(program=None, config=None, weight=WEIGHT):
    return {
        "m/data/weights/weight_0": weight,
        "m/data/weights/model_weights_config.json": json.dumps(config or _config()).encode(),
        "m/data/constants/model_constants_config.json": b'{"config": {}}',
        "m/models/model.json": json.dumps(program or _program()).encode(),
        "m/data/sample_inputs/model.pt": b"",
        "m/archive_format": b"pt2",
        "m/archive_version": b"0",
        "m/byteorder": b"little",
    }


def _write(path: Path, members, compression=zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def _said(path: Path) -> str:
    """What a person is told of a file: one sentence that names it."""
    with pytest.raises(GreenedgeError) as caught:
        read_model(path)
    text = str(caught.value)
    assert text.startswith(str(path)) and "\n" not in text and text.endswith("."), text
    return text.removeprefix(f"{path} ")


def test_a_program_is_read_without_torch(tmp_path):
    path = _write(tmp_path / "net.pt2", _members())
    proto, kind = read_program(path)
    assert [node.op_type for node in proto.graph.node] == ["Gemm", "Relu"] and kind == "a float torch.export program"
    source = read_model(path)
    assert source.inputs == {"x": (1, 6)} and source.outputs == {"relu": (1, 4)}
    (weight,) = source.constants.values()
    assert (weight == np.arange(24).reshape(4, 6)).all()
    code = (
        "import sys; from pathlib import Path; from greenedge.frontends.source import read_model; "
        "read_model(Path(sys.argv[1])); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


def test_weights_may_share_memory_and_lie_in_any_order(tmp_path):
    """Sizes, strides and an offset, as torch stores a transposed slice."""
    meta = _meta([4, 6], strides=[1, 5], offset=3)
    raw = np.arange(60, dtype=np.float32)
    path = _write(tmp_path / "net.pt2", _members(config=_config(tensor_meta=meta), weight=raw.tobytes()))
    (weight,) = read_model(path).constants.values()
    assert (weight == np.lib.stride_tricks.as_strided(raw[3:], (4, 6), (4, 20))).all()


def test_fields_that_a_later_minor_version_adds_are_no_matter(tmp_path):
    program = _program()
    program["schema_version"]["minor"] = 99
    program["new"] = program["graph_module"]["new"] = program["graph_module"]["graph"]["nodes"][0]["new"] = {"as_x": 1}
    program["graph_module"]["graph"]["nodes"][0]["outputs"][0]["as_tensor"]["new"] = 1
    assert read_model(_write(tmp_path / "net.pt2", _members(program))).inputs == {"x": (1, 6)}
    program["schema_version"]["major"] = 9
    said = _said(_write(tmp_path / "net.pt2", _members(program)))
    assert said == (
        "has version 9 of torch's schema; version 8 is read (torch 2.13 and 2.14 write it): save it again with "
        "torch.export.save of one of those."
    )


class _Bomb:
    """What creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_is_never_executed(tmp_path):
    """Weights that say of themselves that they are one, sample inputs, and files of torch.save."""
    mark = tmp_path / "mark"
    bomb = pickle.dumps(_Bomb(mark))
    members = _members(config=_config(use_pickle=True), weight=bomb) | {"m/data/sample_inputs/model.pt": bomb}
    with pytest.raises(
        GreenedgeError, match=r"linear: tensor 'weight' is stored as a Python pickle, which is never ex"
    ):
        read_model(_write(tmp_path / "net.pt2", members))
    assert read_model(_write(tmp_path / "net.pt2", _members() | {"m/data/sample_inputs/model.pt": bomb})).nodes
    program = _program()
    sizes = program["graph_module"]["graph"]["tensor_values"]["x"]["sizes"]
    sizes[0] = {"as_expr": {"expr_str": f"open({str(mark)!r}, 'w')", "hint": {"as_int": 1}}}
    with pytest.raises(GreenedgeError, match=r"axis 0 of tensor 'x' is open"):
        read_model(_write(tmp_path / "net.pt2", _members(program)))
    (tmp_path / "old.pt").write_bytes(bomb)
    _write(tmp_path / "new.pth", {"model/data.pkl": bomb, "model/version": b"3"})
    _write(tmp_path / "script.pt", {"m/code/net.py": b"x" * 99, "m/data.pkl": bomb}, zipfile.ZIP_DEFLATED)
    for name in ("old.pt", "new.pth", "script.pt"):
        assert _said(tmp_path / name) == (
            "is a Python pickle or TorchScript of torch.save, which is code and is never executed; load it where you "
            "trust it, and export the module: torch.export.save(torch.export.export(model.eval(), (sample,)), "
            "'model.pt2')."
        )
    assert not mark.exists()


def test_older_and_other_archives_are_named(tmp_path):
    old = (
        "was written by an older torch, which keeps weights as pickles, and those are never executed; load it where "
        "you trust it, and save it again with torch.export.save of torch 2.13 or later."
    )
    config = "m/data/weights/model_weights_config.json"
    members = {name: content for name, content in _members().items() if name != config}
    assert _said(_write(tmp_path / "a.pt2", members | {"m/data/weights/model.pt": b"\x80\x02"})) == old
    assert _said(_write(tmp_path / "b.pt2", {"serialized_exported_program.json": b"{}", "version": b"1"})) == old
    assert _said(_write(tmp_path / "c.pt2", {"a/b": b""})).startswith("is a zip archive without a torch.export program")
    compiled = {"m/archive_format": b"pt2", "m/data/aotinductor/model/model.so": b"\x7fELF"}
    assert _said(_write(tmp_path / "d.pt2", compiled)).startswith("is a compiled package of AOTInductor, machine code")
    two = _members() | {"m/models/second.json": b"{}"}
    assert _said(_write(tmp_path / "e.pt2", two)).startswith("holds 2 programs; a file with one is read: torch.export.")
    assert is_torch_file(_write(tmp_path / "unnamed", _members())), "by its first bytes"
    assert not is_torch_file(_write(tmp_path / "arrays.npz", {"x.npy": b""}))
    assert read_model(tmp_path / "unnamed").kind == "a float torch.export program"


DAMAGE = {  # name: (what is written, what is said)
    "compressed": (
        lambda path: _write(path, _members(), zipfile.ZIP_DEFLATED),
        "is compressed, which torch never does",
    ),
    "up": (lambda path: _write(path, _members() | {"m/../../x": b""}), "'m/../../x' leads out of the archive"),
    "absolute": (lambda path: _write(path, _members() | {"/etc/x": b""}), "'/etc/x' leads out of the archive"),
    "twice": (lambda path: _write(path, _members() | {"n/byteorder": b"little"}), "member 'byteorder' is there twice"),
    "big endian": (lambda path: _write(path, _members() | {"m/byteorder": b"big"}), "its numbers are big-endian"),
    "no JSON": (lambda path: _write(path, _members() | {"m/models/model.json": b"{"}), "Expecting property name"),
    "deep JSON": (lambda path: _write(path, _members() | {"m/models/model.json": b"[" * 200_000}), "recursion"),
    "list": (lambda path: _write(path, _members() | {"m/models/model.json": b"[]"}), "is no JSON object"),
    "short": (lambda path: _write(path, _members(weight=WEIGHT[:-1])), "needs 96 bytes of a file of 95"),
    "offset": (
        lambda path: _write(path, _members(config=_config(tensor_meta=_meta([4, 6], offset=1)))),
        "needs 100 bytes of a file of 96",
    ),
    "huge": (
        lambda path: _write(path, _members(config=_config(tensor_meta=_meta([1 << 20, 1 << 20], strides=[0, 0])))),
        "has more than 134,217,728 elements",
    ),
    "negative": (
        lambda path: _write(path, _members(config=_config(tensor_meta=_meta([4, 6], offset=-1)))),
        "has sizes [4, 6] and strides [6, 1]",
    ),
    "strides": (
        lambda path: _write(path, _members(config=_config(tensor_meta=_meta([4, 6], strides=[6, -1])))),
        "has sizes [4, 6] and strides [6, -1]",
    ),
    "missing": (
        lambda path: _write(path, _members(config=_config(path_name="../x"))),
        "lies in '../x', which the arch",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_or_hostile_archive_is_one_sentence(name, tmp_path):
    write, said = DAMAGE[name]
    text = _said(write(tmp_path / "net.pt2"))
    assert text.startswith("is damaged (") and said in text and text.endswith("; save it again with torch.export.save.")


def test_sizes_are_counted_before_memory_is_spent(tmp_path):
    """Members that say that they are larger than the file, and more of them than a file may have."""
    path = _write(tmp_path / "net.pt2", _members())
    content = bytearray(path.read_bytes())
    for signature, places in ((b"PK\x03\x04", (18, 22)), (b"PK\x01\x02", (20, 24))):
        at = content.find(signature)
        for place in places:
            struct.pack_into("<I", content, at + place, 1 << 30)
    path.write_bytes(content)
    assert "its members say that they are larger than the file" in _said(path)
    many = io.BytesIO()
    with zipfile.ZipFile(many, "w") as archive:
        archive.writestr("m/x", b"PK\x01\x02" * (MAX_MEMBERS + 1))
    path.write_bytes(many.getvalue())
    assert f"it has more than {MAX_MEMBERS:,} members" in _said(path)
    with open(path, "wb") as file:
        file.truncate((1 << 30) + 1)
    assert _said(path) == "has 1,073,741,825 bytes; of a .pt2 file at most 1,073,741,824 are read."


def test_a_file_that_is_cut_anywhere_is_one_sentence(tmp_path):
    content = _write(tmp_path / "net.pt2", _members()).read_bytes()
    for end in np.linspace(0, len(content) - 1, 100).astype(int):
        (tmp_path / "cut.pt2").write_bytes(content[:end])
        assert _said(tmp_path / "cut.pt2").startswith("is damaged (")


def test_a_file_with_a_wrong_byte_is_read_or_is_one_sentence(rng, tmp_path):
    content = _write(tmp_path / "net.pt2", _members()).read_bytes()
    for _ in range(150):
        spoiled = bytearray(content)
        spoiled[rng.integers(len(content))] = rng.integers(256)
        _read_or_say(tmp_path / "bad.pt2", bytes(spoiled))


def _read_or_say(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        read_model(path)
    except GreenedgeError as error:
        text = str(error)
        assert str(path) in text or path.name in text or path.stem in text, text


_ODD = [
    None,
    True,
    -1,
    1 << 70,
    1e308,
    "x" * 2000,
    [],
    {},
    [[]],
    {"as_int": 1},
    {"as_tensor": {"name": "x"}},
    "Infinity",
]


def test_json_with_a_wrong_value_anywhere_is_read_or_refused(rng, tmp_path):
    """Every place of the graph, with odd values one by one: never another error than ours."""
    places = list(_list_places(_program()))
    for place in places:
        for odd in rng.choice(len(_ODD), 1):
            program = copy.deepcopy(_program())
            parent = program
            for key in place[:-1]:
                parent = parent[key]
            parent[place[-1]] = _ODD[odd]
            _read_or_say(tmp_path / "odd.pt2", _write(tmp_path / "made.pt2", _members(program)).read_bytes())


def _list_places(record, place=()):
    pairs = record.items() if isinstance(record, dict) else enumerate(record) if isinstance(record, list) else ()
    for key, value in pairs:
        yield (*place, key)
        yield from _list_places(value, (*place, key))


def test_tensor_subclasses_are_one_reason(tmp_path):
    """What torch writes of a module of torchao's quantize_."""
    program = _program()
    program["graph_module"]["graph"]["nodes"][1:1] = [
        _call("export.access_subclass_inner_tensor.default", f"inner_{k}", src=_tensor("p_weight")) for k in range(2)
    ]
    with pytest.raises(UnsupportedError, match=r"net: weights in tensor subclasses, as torchao's quantize_ .* by PT2E"):
        read_model(_write(tmp_path / "net.pt2", _members(program)))


def test_an_argument_that_no_rule_reads_is_refused(tmp_path):
    """What an operator's rule does not know may change what it computes."""
    program = _program()
    program["graph_module"]["graph"]["nodes"][1]["inputs"].append({"name": "upper", "arg": {"as_int": 3}, "kind": 2})
    with pytest.raises(
        GreenedgeError, match=r"relu: aten.relu: argument 'upper'; its rule does not read it \(cure: leave"
    ):
        read_model(_write(tmp_path / "net.pt2", _members(program)))


def test_a_weight_may_not_be_another_than_the_program_says(tmp_path):
    """The graph's own shapes are compared with what follows from its operators."""
    program = _program()
    program["graph_module"]["graph"]["tensor_values"]["linear"] = _meta([1, 5])
    source = read_model(_write(tmp_path / "net.pt2", _members(program)))
    assert "Inferred shape and existing shape differ" in str(source.complaints[0])
    assert read_archive(tmp_path / "net.pt2").weights.read("weight").shape == (4, 6)


@pytest.mark.parametrize("version", ["2.13", "2.14"])
def test_what_pt2e_of_torchao_writes_is_read(version, repo):
    """A convolutional network with a skip, quantised by torchao 0.18 and saved by torch 2.13.0 and 2.14.1, and what
    that torch gave for these inputs; stack traces and sample inputs were taken out of the files."""
    folder = repo / "tests" / "golden" / "torch_export"
    lowered = lower_file(folder / f"torch-{version}.pt2")
    assert lowered.source.kind == "a torch.export program, quantised by PT2E"
    x = (np.random.default_rng(0).integers(-40, 41, (64, 2, 4, 4)) / 16).astype(np.float32)
    (levels,) = run_graph(lowered.graph, run_prologue(lowered, {"x": x})).values()
    scale, zero = lowered.outputs[0].scale, lowered.outputs[0].zero
    expected = np.load(folder / f"torch-{version}.npy", allow_pickle=False)
    assert (np.rint(expected / scale) + zero == levels).all()


def test_a_tensor_that_was_written_has_its_new_value(tmp_path):
    """relu_(y); y + y: torch's own exporter names the result, another may name what was written."""
    program = _program()
    graph = program["graph_module"]["graph"]
    graph["nodes"][1]["target"] = "torch.ops.aten.relu_.default"
    graph["nodes"].append(_call("aten.add.Tensor", "sum", self=_tensor("linear"), other=_tensor("relu")))
    graph["tensor_values"]["sum"] = _meta([1, 4])
    program["graph_module"]["signature"]["output_specs"] = [{"user_output": {"arg": _tensor("sum")}}]
    nodes = read_model(_write(tmp_path / "net.pt2", _members(program))).nodes
    assert nodes[-1].op == "Add" and nodes[-1].inputs == (nodes[-2].outputs[0],) * 2 and nodes[-2].op == "Relu"


def test_integers_of_another_type_than_they_are_read_as_are_refused(tmp_path):
    program = _program()
    graph = program["graph_module"]["graph"]
    code = {"scale": {"as_float": 0.5}, "zero_point": {"as_int": 0}, "quant_min": {"as_int": 0}}
    code |= {"quant_max": {"as_int": 255}, "dtype": {"as_scalar_type": 1}}
    name = "quantized_decomposed.dequantize_per_tensor.default"
    graph["nodes"].insert(0, _call(name, "real", input=_tensor("p_weight"), **code))
    graph["nodes"][1]["inputs"][1]["arg"] = _tensor("real")
    graph["tensor_values"] |= {"p_weight": _meta([4, 6], kind=2), "real": _meta([4, 6])}
    with pytest.raises(
        UnsupportedError, match=r"real: .*: integers stored as CHAR, read as BYTE; they are of one type"
    ):
        read_model(_write(tmp_path / "net.pt2", _members(program)))
