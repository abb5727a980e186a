"""Arrays, JSON and manifests from outside: one sentence in bounded time, whatever is in them."""

from __future__ import annotations

import json
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from greenedge.backends import hls4ml
from greenedge.backends.da4ml import build_dir as da4ml_build
from greenedge.backends.finn import build_dir as finn_build
from greenedge.backends.hls4ml import csim
from greenedge.backends.hls4ml.sources import sources
from greenedge.backends.int8 import proof_record
from greenedge.backends.int8.tflite import edgetpu
from greenedge.boards.virtual import read_board
from greenedge.errors import GreenedgeError
from greenedge.files.arrays import read_array
from greenedge.files.json_file import parse_json
from greenedge.graph.store import load_graph
from greenedge.lower import load_lowering
from greenedge.run.folder import MANIFEST
from greenedge.run.manifest import FORMAT, load_manifest
from greenedge.run.runs import read_summary

DEEP = "[" * 200_000 + "]" * 200_000


def _header(text: str, version=(1, 0), data: bytes = b"") -> bytes:
    size = struct.pack("<H" if version[0] == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + size + text.encode() + data


HEADERS = {
    "huge": _header("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 1099511627776), }"),
    "negative": _header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4), }"),
    "too much": _header("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", data=bytes(64)),
    "objects": _header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", data=b"\x80\x04N.    "),
    "fields": _header(
        "{'descr': [('a', '<f4'), ('b', '<f4')], 'fortran_order': False, 'shape': (1,), }", data=bytes(8)
    ),
    "brackets": _header("(" * 9000),
    "a long header": _header("{" + " " * 60_000 + "}"),
    "a header of gigabytes": b"\x93NUMPY\x02\x00\xff\xff\xff\xff{",
    "no dictionary": _header("3"),
    "a call": _header("{'descr': __import__('os').system('touch /tmp/ran'), 'fortran_order': False, 'shape': ()}"),
    "text for a shape": _header("{'descr': '<f4', 'fortran_order': False, 'shape': 'abc', }"),
    "a strange version": _header("{}", version=(9, 9)),
    "60 axes": _header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({'1, ' * 60}), }}", data=bytes(4)),
    "nothing": b"",
    "magic alone": b"\x93NUMPY",
    "words": b"a, b, c\n1, 2, 3\n",
    "a broken archive": b"PK\x03\x04 and no more",
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_of_arrays(tmp_path, name):
    path = tmp_path / "x.npy"
    path.write_bytes(HEADERS[name])
    start = time.perf_counter()
    with pytest.raises(GreenedgeError) as error:
        read_array(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
    assert time.perf_counter() - start < 5 and not Path("/tmp/ran").exists()


def test_damaged_arrays(tmp_path, rng):
    """Any bytes changed: an array of as many bytes as the file has, or a sentence."""
    np.save(tmp_path / "x.npy", np.arange(24, dtype=np.float32).reshape(2, 12))
    good = (tmp_path / "x.npy").read_bytes()
    for _ in range(500):
        content = bytearray(good)
        for _ in range(int(rng.integers(1, 4))):
            content[int(rng.integers(len(content)))] = int(rng.integers(256))
        (tmp_path / "x.npy").write_bytes(content[: int(rng.integers(len(content)))] if rng.random() < 0.2 else content)
        try:
            assert read_array(tmp_path / "x.npy").nbytes <= len(good)
        except GreenedgeError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", [np.float32, np.int8, bool, np.float64, ">f4"])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3), (2, 3, 4)])
def test_arrays_come_back(tmp_path, shape, kind, order):
    array = np.asarray(np.arange(int(np.prod(shape))).reshape(shape), kind, order=order)
    np.save(tmp_path / "x.npy", array)
    back = read_array(tmp_path / "x.npy")
    assert back.dtype == array.dtype and back.shape == array.shape and np.array_equal(back, array)


def test_json_that_is_nested_too_deep():
    with pytest.raises(ValueError, match="nested too deep"):
        parse_json(DEEP)


def test_a_stored_graph_that_is_nested_too_deep_or_lies_about_its_arrays(tmp_path):
    (tmp_path / "graph.json").write_text(DEEP)
    for load in (load_graph, load_lowering):
        with pytest.raises(GreenedgeError, match="nested too deep"):
            load(tmp_path)
    (tmp_path / "graph.json").write_text('{"format": "greenedge-graph/1", "ops": [], "edges": []}')
    structure = json.loads((tmp_path / "graph.json").read_text())
    for content in (HEADERS["huge"], HEADERS["objects"], b"PK", bytes(100)):
        with zipfile.ZipFile(tmp_path / "graph.npz", "w") as archive:
            archive.writestr("0.weight.npy", content)
        with pytest.raises(GreenedgeError) as error:
            load_graph(tmp_path)
        assert "\n" not in str(error.value) and structure


RECORD = {"status": "done", "key": "k", "inputs": {}, "options": {}, "tools": {}, "outputs": {}, "seconds": 1.0}


@pytest.mark.parametrize("key", ["status", "key", "inputs", "options", "tools", "outputs", "seconds", "note", "error"])
@pytest.mark.parametrize("value", ["soon", -1, True, [], {"a": 3}, None, 1e400])
def test_a_manifest_with_values_of_other_types(tmp_path, key, value):
    """It is read, or the message names the stage; nobody downstream meets text where a number belongs."""
    stages = {"build": RECORD | {key: value}}
    (tmp_path / MANIFEST).write_text(json.dumps({"format": FORMAT, "stages": stages}))
    try:
        record = load_manifest(tmp_path).stages["build"]
    except GreenedgeError as error:
        assert str(error).startswith(f"{tmp_path / MANIFEST} is damaged") and "\n" not in str(error)
        return
    assert record.seconds is None or isinstance(record.seconds, float)
    assert all(
        isinstance(text, str) for table in (record.inputs, record.outputs, record.tools) for text in table.values()
    )


def test_a_manifest_that_is_nested_too_deep(tmp_path):
    (tmp_path / MANIFEST).write_text(DEEP)
    with pytest.raises(GreenedgeError, match="nested too deep"):
        load_manifest(tmp_path)


LARGE = {
    "many files": ({"build": RECORD | {"outputs": {f"4-build/{k}": "0" for k in range(10_001)}}}, "10,001 files"),
    "many stages": ({f"s{k}": RECORD for k in range(50_000)}, "50,000 stages"),
    "a long name": ({"build": RECORD | {"outputs": {"a/" * 100_000: "0"}}}, "outside the run's folder"),
    "a name with a zero": ({"build": RECORD | {"outputs": {"a\0b": "0"}}}, "outside the run's folder"),
    "a long status": ({"build": RECORD | {"status": "x" * 1_000_000}}, "has status 'xxx"),
    "a long key": ({"build": RECORD | {"x" * 1_000_000: 1}}, "has unknown keys"),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_manifest_that_is_large(tmp_path, name):
    stages, said = LARGE[name]
    (tmp_path / MANIFEST).write_text(json.dumps({"format": FORMAT, "stages": stages}))
    begin = time.process_time()
    with pytest.raises(GreenedgeError, match=said) as error:
        load_manifest(tmp_path)
    assert len(str(error.value)) < 1000 and "\n" not in str(error.value) and time.process_time() - begin < 5


READERS = {
    "board.json": read_board,
    "certificate.json": lambda folder: proof_record.read_record(folder / "certificate.json"),
    "streams.json": finn_build.streams_of,
    "about.json": lambda folder: da4ml_build.read_json(folder, "about.json"),
    "csim.json": hls4ml.report,
    "job.json": csim.read_toolchain,
    "project.json": sources,
    "edgetpu.json": edgetpu.report,
    "7-report/summary.json": read_summary,
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("content", [DEEP, "[" * 9, "\udcff", "3"])
def test_files_of_a_run_that_are_no_tables(tmp_path, name, content):
    for other in READERS:
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(GreenedgeError) as error:
        READERS[name](tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
