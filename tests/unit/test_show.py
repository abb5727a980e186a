"""`greenedge show` and the kinds of files that `check` names."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner

from greenedge.cli import app
from greenedge.errors import GreenedgeError
from greenedge.report.drawing import Box, draw
from greenedge.run.show import list_layers
from tests.lower.tflite_files import residual


@pytest.fixture
def tflite(tmp_path):
    net, _, out = residual(np.random.default_rng(3))
    return net.save(tmp_path / "net.tflite", out)


def test_a_tflite_is_shown_as_it_lies_there(tflite):
    kind, layers = list_layers(tflite)
    assert kind == "an int8 .tflite file"
    by_name = {layer.name: layer for layer in layers}
    assert [layer.operator for layer in layers].count("ADD") == 2 and len(layers) == 13
    assert by_name["conv_2d_0"].parameters == 8 * 3 * 9 + 8 and by_name["conv_2d_0"].shape == (1, 8, 8, 8)
    assert by_name["add_3"].inputs == ("conv_2d_0", "conv_2d_2") and by_name["add_3"].parameters == 0
    assert by_name["conv_2d_0"].type.startswith("int8, scale ")


def test_the_table_and_the_drawing(tflite, tmp_path):
    done = CliRunner().invoke(app, ["show", str(tflite), "--svg", str(tmp_path / "net.svg")])
    assert done.exit_code == 0 and "net.tflite is an int8 .tflite file: " in done.output
    assert "add_3" in done.output and max(map(len, done.output.splitlines()[:-1])) <= 80
    root = ElementTree.parse(tmp_path / "net.svg").getroot()
    names = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "add_3" in names and "ADD 1 × 8 × 8 × 8" in names
    assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) == 14  # two of each addition, one of the rest
    listed = json.loads(CliRunner().invoke(app, ["show", str(tflite), "--json"]).output)
    assert listed["layers"][1]["operator"] == "CONV_2D"


def test_boxes_lie_below_what_they_read_and_beside_each_other():
    root = ElementTree.fromstring(
        draw([Box("a", "<&>", ()), Box("b", "", ("a",)), Box("c", "", ("a",)), Box("d", "", ("b", "a"))])
    )
    places = [(int(r.get("x")), int(r.get("y"))) for r in root.iter("{http://www.w3.org/2000/svg}rect")]
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = places
    assert ay < by == cy < dy and ax == bx == dx < cx


def test_a_language_model_has_no_layers_to_show(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(GreenedgeError, match="language model"):
        list_layers(path)


def test_check_names_the_kind_of_file_and_how_far_the_kernel_sets_are_apart(tflite):
    done = CliRunner().invoke(app, ["check", str(tflite), "--target", "cortex-m4"])
    assert done.exit_code == 0, done.output
    assert "net.tflite is an int8 .tflite file, read in the arithmetic xnnpack." in done.output
    assert "on 64 random inputs XNNPACK and LiteRT's reference kernels differ in " in done.output


def test_check_in_real_arithmetic_says_how_far_xnnpack_is_from_it(tflite):
    done = CliRunner().invoke(app, ["check", str(tflite), "--target", "linux-x86", "--arithmetic", "real"])
    assert done.exit_code == 0, done.output
    assert "read in the arithmetic real." in done.output
    assert "on 64 random inputs the file's real arithmetic and XNNPACK " in done.output


def test_check_reads_and_lowers_once_for_each_kernel_set(tflite, monkeypatch):
    from greenedge.backends.preflight import Lowerings
    from greenedge.frontends import source

    lowered, read = [], []
    lower, read_normal = Lowerings._lower, source.read_normal
    monkeypatch.setattr(Lowerings, "_lower", lambda self, name: lowered.append(name) or lower(self, name))
    monkeypatch.setattr(source, "read_normal", lambda path, name: read.append(name) or read_normal(path, name))
    targets = ["--target", "linux-x86", "--target", "cortex-m4", "--target", "ulx3s-85f"]
    done = CliRunner().invoke(app, ["check", str(tflite), *targets])
    assert "differ in" in done.output and lowered == read == ["xnnpack", "reference"]


def test_a_refusal_is_the_same_for_every_target(tflite, monkeypatch):
    from greenedge.backends.preflight import Lowerings
    from greenedge.errors import Reason, ReasonKind, UnsupportedError

    calls = []

    def refuse(self, name):
        calls.append(name)
        return UnsupportedError("no:", [Reason("m", ReasonKind.MALFORMED, "a", "b", "c")])

    monkeypatch.setattr(Lowerings, "_lower", refuse)
    lowerings = Lowerings(tflite)
    for _ in range(2):
        with pytest.raises(UnsupportedError):
            lowerings.get()
    assert calls == ["xnnpack"]


def test_an_arithmetic_belongs_to_a_tflite(tmp_path, shared):
    path = shared / "models" / "mnist_conv_float.onnx"
    done = CliRunner().invoke(app, ["check", str(path), "--target", "cortex-m4", "--arithmetic", "reference"])
    assert done.exit_code == 1 and "is no .tflite file, so it takes no --arithmetic" in done.output
    assert list_layers(path)[0] == "a float ONNX file"
