"""The flatbuffer writer, the layouts, and the program that runs a file."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from greenedge.backends.int8.quant_params import encode, encode_input
from greenedge.backends.int8.tflite import worker
from greenedge.backends.int8.tflite.flatbuffer import Quantisation, Writer, pack
from greenedge.backends.int8.tflite.layout import Layout, image, plain
from greenedge.backends.int8.tflite.runtime import operators, weight_offsets


def tiny() -> bytes:
    writer = Writer("tiny")
    x, y = writer.tensor("x", (1, 1), "INT8"), writer.tensor("y", (1, 1), "INT8")
    writer.operator("RESHAPE", [x, writer.constant("s", np.array([1, 1], np.int32))], [y], newShape=[1, 1])
    return writer.finish([x], [y])


def test_the_probe_is_what_the_writer_writes():
    assert worker.TINY == tiny(), f"TINY must be {base64.b64encode(tiny()).decode()}"


def test_runtimes_that_only_import_are_passed_over(monkeypatch):
    """tflite_runtime imports under numpy 2 and breaks at its first interpreter."""
    import sys
    import types

    broken = types.ModuleType("broken_runtime")

    def interpreter(model_content):
        raise SystemError("numpy.core.multiarray failed to import")

    broken.Interpreter = interpreter
    monkeypatch.setitem(sys.modules, "broken_runtime", broken)
    monkeypatch.setattr(
        worker, "RUNTIMES", (("broken_runtime", "broken"), ("no_such_runtime", "absent"), *worker.RUNTIMES)
    )
    assert worker.load_runtime()[1] == "ai-edge-litert"
    monkeypatch.setattr(worker, "RUNTIMES", (("broken_runtime", "broken"), ("no_such_runtime", "absent")))
    with pytest.raises(RuntimeError) as error:
        worker.load_runtime()
    assert (
        str(error.value) == "broken: numpy.core.multiarray failed to import; absent: No module named 'no_such_runtime'"
    )


def test_no_runtime_is_one_sentence(tmp_path, monkeypatch):
    from greenedge.backends.int8.tflite import runtime
    from greenedge.errors import ToolError

    monkeypatch.setattr(
        runtime,
        "run_worker",
        lambda *_: (worker.NO_RUNTIME, "INFO: noise\nai-edge-litert: No module named 'ai_edge_litert'\n"),
    )
    (tmp_path / "model.tflite").write_bytes(tiny())
    with pytest.raises(ToolError) as error:
        runtime.run_file(tmp_path / "model.tflite", [np.zeros((1, 1), np.int8)])
    assert str(error.value) == (
        "no TFLite runtime works here (ai-edge-litert: No module named 'ai_edge_litert'): pip install ai-edge-litert."
    )


def test_buffers_are_aligned_and_found_again(rng, tmp_path):
    writer = Writer("aligned")
    x = writer.tensor("x", (1, 3), "INT8", Quantisation((1.0,), 0))
    values = [rng.integers(-128, 128, (size, 3)).astype(np.int8) for size in (1, 2, 5, 7)]
    for k, weight in enumerate(values):
        y = writer.tensor(f"y{k}", (1, len(weight)), "INT8", Quantisation((1.0,), 0))
        w = writer.constant(f"w{k}", weight, Quantisation((0.5,)))
        writer.operator("FULLY_CONNECTED", [x, w, -1], [y], 5, fusedActivationFunction="RELU")
    path = tmp_path / "model.tflite"
    path.write_bytes(writer.finish([x], [y]))
    content = path.read_bytes()
    for k, (begin, count) in enumerate(weight_offsets(path).values()):
        assert begin % 16 == 0 and content[begin : begin + count] == values[k].tobytes()
    assert operators(path) == {"FULLY_CONNECTED": 4}


def test_a_file_read_and_written_again_is_the_same():
    from ai_edge_litert import schema_py_generated as schema

    again = pack(schema.ModelT.InitFromPackedBuf(tiny(), 0))
    assert pack(schema.ModelT.InitFromPackedBuf(again, 0)) == again and len(again) == len(tiny())


@pytest.mark.parametrize(
    "layout",
    [plain((4,)), plain((2, 5)), image((3, 4, 5)), image((3, 4)), Layout((2, 3), (1, 0), (6,), (1, 6))],
    ids=str,
)
def test_layouts_go_there_and_back(layout):
    x = np.arange(2 * int(np.prod(layout.shape))).reshape(2, *layout.shape)
    assert layout.to_file(x).shape == (2, *layout.file[1:]) and np.array_equal(layout.to_graph(layout.to_file(x)), x)


def test_where_levels_lie_in_int8():
    assert [
        (c.offset, c.zero_point, c.activation)
        for c in (encode(0, 15), encode(0, 255), encode(-8, 7), encode(-128, 127), encode(-3, 11))
    ] == [(112, 112, "RELU"), (-128, -128, "NONE"), (120, 120, "RELU_N1_TO_1"), (0, 0, "NONE"), (116, 113, "RELU")]
    assert encode_input(0, 16, 5).zero_point == 116 and encode_input(-8, 7, 0).scale == 1.0
