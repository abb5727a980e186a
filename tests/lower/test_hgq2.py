"""HGQ2 networks, as their layers are described by the worker, against numpy; and what Keras files are told."""

from __future__ import annotations

import json
import os
import subprocess
import zipfile

import numpy as np
import pytest

from greenedge.errors import GreenedgeError, UnsupportedError
from greenedge.frontends.hgq2 import HGQ2
from greenedge.frontends.hgq2.network import write_network
from greenedge.frontends.keras_file import is_hgq2, read_keras
from greenedge.frontends.normalise import normalise
from greenedge.frontends.source import parse_normal, read_model
from greenedge.graph import run_graph
from greenedge.lower import lower_source
from greenedge.lower.float_io import run_epilogue, run_prologue
from greenedge.tools.own_environment import environment_folder


class Steps:
    """A network in the worker's words, and what it computes in float64."""

    def __init__(self, rng, shape):
        self.rng, self.steps, self.arrays = rng, [], {}
        self.add("input", [], shape=list(shape))

    def array(self, values):
        self.arrays[f"a{len(self.arrays)}"] = np.asarray(values)
        return f"a{len(self.arrays) - 1}"

    def add(self, op, inputs, **facts):
        out = f"v{len(self.steps)}"
        self.steps.append({"op": op, "name": f"{op}_{len(self.steps)}", "inputs": inputs, "output": out, **facts})
        return out

    def quantise(self, source, shape, rounds="RND", overflow="SAT", signed=1, integer=2):
        """Of other fractional bits in every channel; one channel has none."""
        f = self.rng.integers(1, 5, shape[-1:])
        f[0] = -signed - integer
        parts = [np.full(shape, signed), np.full(shape, integer), np.broadcast_to(f, shape)]
        k, i, f = (self.array(part.astype(float)) for part in parts)
        return self.add("quantise", [source], k=k, i=i, f=f, rounds=rounds, overflow=overflow)

    def fixed(self, shape):
        return self.array(self.rng.integers(-12, 13, shape) / 8)

    def graph(self, x):
        self.add("output", [f"v{len(self.steps) - 1}"])
        proto = write_network("m", self.steps, self.arrays)
        lowered = lower_source(parse_normal(normalise(proto, "m"), "m"))
        name = proto.graph.input[0].name
        return next(iter(run_epilogue(lowered, run_graph(lowered.graph, run_prologue(lowered, {name: x}))).values()))


def quantise(x, arrays, step):
    """HGQ2's own formulas (quantizers.fixed_point): rounded, then clipped; nothing where no bit is left."""
    k, i, f = (arrays[step[key]] for key in "kif")
    y = x * 2.0**f
    y = (np.floor(y + 0.5) if step["rounds"] == "RND" else np.round(y)) * 2.0**-f
    top = 2.0**i - 2.0**-f
    y = np.clip(y, -k * (top if step["overflow"] == "SAT_SYM" else 2.0**i), top)
    return np.where(k + i + f > 0, y, 0)


@pytest.mark.parametrize("overflow", ["SAT", "SAT_SYM"])
@pytest.mark.parametrize("rounds", ["RND", "RND_CONV"])
def test_a_dense_network_of_unlike_channels_is_its_formulas(rng, rounds, overflow):
    net = Steps(rng, (6,))
    a = net.quantise("v0", (6,), rounds, overflow)
    d = net.add("dense", [a], kernel=net.fixed((6, 5)), bias=net.fixed(5))
    b = net.quantise(net.add("relu", [d]), (5,), rounds, overflow, signed=0)
    net.add("dense", [b], kernel=net.fixed((5, 3)), bias=net.fixed(3))
    x = (rng.integers(-80, 81, (300, 6)) / 16).astype(np.float32)  # ties, and beyond both ends
    first, dense, _, second, last = [s for s in net.steps if s["op"] != "input"]
    y = np.maximum(quantise(x, net.arrays, first) @ net.arrays[dense["kernel"]] + net.arrays[dense["bias"]], 0)
    y = quantise(y, net.arrays, second) @ net.arrays[last["kernel"]] + net.arrays[last["bias"]]
    assert np.array_equal(net.graph(x), y)


def test_a_wrap_that_cannot_happen_is_read_and_another_refused(rng):
    for integer in (9, 1):
        net = Steps(rng, (4,))
        a = net.quantise("v0", (4,))
        d = net.add("dense", [a], kernel=net.fixed((4, 3)))
        net.quantise(d, (3,), overflow="WRAP", integer=integer)
        if integer == 9:
            assert net.graph(rng.normal(size=(9, 4)).astype(np.float32)).shape == (9, 3)
        else:
            with pytest.raises(UnsupportedError, match="wraps around.*overflow_mode='SAT'"):
                net.graph(np.zeros((1, 4), np.float32))


def test_other_quantisers_and_weights_are_refused_by_name(rng):
    net = Steps(rng, (4,))
    net.quantise("v0", (4,), rounds="TRN")
    with pytest.raises(UnsupportedError, match="rounds by TRN"):
        net.graph(np.zeros((1, 4), np.float32))
    net = Steps(rng, (4,))
    net.add("dense", [net.quantise("v0", (4,))], kernel=net.array(np.full((4, 3), 1 / 3)))
    with pytest.raises(UnsupportedError, match="no multiples of"):
        net.graph(np.zeros((1, 4), np.float32))


# -- files -------------------------------------------------------------------------------------------------------------


def write_keras(path, *layers):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps({"class_name": "Sequential", "config": {"layers": list(layers)}}))
    return path


def layer(name, module="keras.layers", registered=None):
    return {"class_name": name, "module": module, "registered_name": registered}


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([layer("Dense")], "a Keras file in floats: convert it to int8 (tf.lite.TFLiteConverter.from_keras_model"),
        ([layer("Dense"), layer("Lambda")], "with a Lambda layer, which is code"),
        ([layer("QDense", "qkeras.qlayers", "qkeras>QDense")], "of QKeras"),
        ([layer("QDense", "hgq.layers", "hgq>QDense"), layer("system", "os")], "names classes of os"),
    ],
)
def test_a_keras_file_is_named_with_the_way_that_it_goes(tmp_path, layers, words):
    with pytest.raises(GreenedgeError) as caught:
        read_model(write_keras(tmp_path / "m.keras", *layers))
    assert words in str(caught.value)


def test_a_file_of_hgq2_is_known_by_its_layers(tmp_path):
    assert is_hgq2(write_keras(tmp_path / "m.keras", layer("QDense", "hgq.layers", "hgq>QDense")))


def test_hdf5_is_keras_where_it_says_so(tmp_path):
    path = tmp_path / "m.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 40)
    assert read_keras(path) is None
    path.write_bytes(b'\x89HDF\r\n\x1a\n\0keras_version 3 model_config {"class_name": "Lambda"}')
    with pytest.raises(GreenedgeError, match="in HDF5 with a Lambda layer"):
        read_model(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nothing", b"text"])
def test_a_damaged_keras_file_is_one_sentence(tmp_path, content):
    path = tmp_path / "m.keras"
    path.write_bytes(content)
    with pytest.raises(GreenedgeError, match="save the model again"):
        read_model(path)


def test_a_config_of_endless_depth_is_refused(tmp_path):
    deep = {"class_name": "Sequential"}
    for _ in range(80):
        deep = {"config": deep}
    with pytest.raises(GreenedgeError, match="deep within each other"):
        read_model(write_keras(tmp_path / "m.keras", deep))


MODEL = """
import os; os.environ["KERAS_BACKEND"] = "jax"
import keras
from hgq.config import QuantizerConfigScope
from hgq.layers import QDense
with QuantizerConfigScope(place="datalane", default_q_type="kif", overflow_mode="SAT", i0=3, f0=4):
    model = keras.Sequential([keras.layers.Input((8,)), QDense(6, activation="relu"), QDense(3)])
model.save("m.keras")
"""


@pytest.mark.slow
def test_a_model_gives_what_keras_predicts(tmp_path, rng):
    python = environment_folder(HGQ2) / "bin" / "python"
    if not python.is_file():
        pytest.skip("HGQ2's environment is not made here (greenedge check MODEL.keras makes it)")
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    subprocess.run([python, "-c", MODEL], cwd=tmp_path, env=environment, check=True, capture_output=True)
    x = rng.normal(0, 4, (200, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    argv = [python, "-I", "-B", HGQ2.worker, "--predict", "m.keras", "x.npy", "y.npy"]
    subprocess.run(argv, cwd=tmp_path, check=True, capture_output=True)
    source = read_model(tmp_path / "m.keras")
    lowered = lower_source(source)
    got = run_epilogue(lowered, run_graph(lowered.graph, run_prologue(lowered, {next(iter(source.inputs)): x})))
    assert np.array_equal(next(iter(got.values())), np.load(tmp_path / "y.npy"))
