"""The verbs as functions: a Brevitas module goes in, a run comes out."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from greenedge import api
from greenedge.errors import GreenedgeError, TargetError, UnsupportedError

torch = pytest.importorskip("torch")


def _network(begins_in_levels: bool = True, carry: bool = False):
    import brevitas.nn as qnn

    torch.manual_seed(0)
    begin = [qnn.QuantIdentity(bit_width=4, return_quant_tensor=True)] if begins_in_levels else []
    return torch.nn.Sequential(
        *begin,
        qnn.QuantLinear(8, 6, bias=False, weight_bit_width=4),
        torch.nn.BatchNorm1d(6),
        qnn.QuantReLU(bit_width=4),
        qnn.QuantLinear(6, 3, bias=False, weight_bit_width=4),
        qnn.QuantIdentity(bit_width=8, return_quant_tensor=carry),
    )


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(0)
    return rng.normal(size=(60, 8)).astype(np.float32), rng.integers(0, 3, 60)


def test_a_module_becomes_a_run(samples, tmp_path):
    (x, y), model = samples, _network()
    with torch.no_grad():
        model(torch.from_numpy(x))  # the quantisers learn their scales
    assert [found.reasons for found in api.check(model, "linux-x86", inputs=x)] == [()]
    run = api.build(model, "linux-x86", inputs=x, labels=y, name="tiny", out=tmp_path / "run", progress=False)
    assert run.folder == tmp_path / "run" and run.report.is_file() and model.training
    assert run.summary["accuracy"]["tflite"] == run.summary["accuracy"]["graph"]
    compared = {entry["reference"]: entry for entry in run.summary["verify"] if entry["candidate"] == "graph"}
    assert compared["torch"]["samples"] == 60 and not compared["torch"]["mismatches"], "the module itself is compared"
    model.eval()
    with torch.no_grad():
        expected = model(torch.from_numpy(x)).numpy()
    for stage in ("build", "graph"):
        (got,) = run.infer(x, stage).values()
        assert np.allclose(got, expected, atol=1e-6)
    assert run.verify()["verify"][1] | {"first": 0} == run.summary["verify"][1] | {"first": 0}
    shown = run._repr_html_()
    assert "tflite against graph</td><td>60 of 60 equal" in shown and "<td>bytes</td>" in shown
    assert api.report(run, out=tmp_path / "page.html").is_file()
    (run.folder / "4-build" / "model.tflite").write_bytes(b"TFL3")
    with pytest.raises(GreenedgeError):
        run.verify()


def test_what_cannot_be_built_is_an_error_with_reasons(samples, tmp_path):
    x, _ = samples
    with pytest.raises(UnsupportedError, match="put a QuantIdentity") as caught:
        api.build(_network(begins_in_levels=False), "linux-x86", backend="tflite", inputs=x, out=tmp_path / "run")
    assert len(caught.value.reasons) == 1
    with pytest.raises(GreenedgeError, match=r"^Sequential is exported with samples, and none are given; say inputs=X"):
        api.build(_network(), "linux-x86")
    with pytest.raises(TargetError, match="did you mean"):
        api.build(_network(), "linux-x68", inputs=x)
    with pytest.raises(
        TargetError,
        match=r"^no back end has an option build.storag \(did you mean 'storage'\?\); there are: baud, clock_hz, ",
    ):
        api.build(_network(), "linux-x86", inputs=x, storag="int4-dense")
    with pytest.raises(GreenedgeError, match="has no report yet; let it run to the end"):
        _ = api.Run(tmp_path).summary
    assert "ulx3s-85f" in {target.name for target in api.targets()}


def test_a_module_may_end_in_a_tensor_of_brevitas_own_and_in_nothing_but_tensors(samples):
    x, _ = samples
    assert [found.reasons for found in api.check(_network(carry=True), "linux-x86", inputs=x)] == [()]

    class Pair(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = _network()

        def forward(self, x):
            return self.net(x), {"x": x}

    with pytest.raises(
        GreenedgeError,
        match="^the network gives a dict, and tensors are exported; let its forward return one, or a tuple of them",
    ):
        api.check(Pair(), "linux-x86", inputs=x)


@pytest.mark.slow
def test_what_a_model_is_expected_to_give_is_compared(samples, tmp_path):
    """The outputs of another word than the file's: equal, another model's, of another shape, and not finite."""
    (x, _), model = samples, _network()
    with torch.no_grad():
        model(torch.from_numpy(x))
        model.eval()
        expected = model(torch.from_numpy(x)).numpy()
    run = api.build(model, "linux-x86", inputs=x, expected=expected, out=tmp_path / "run", progress=False)
    compared = [entry["reference"] for entry in run.summary["verify"] if entry["candidate"] == "graph"]
    assert compared == ["qonnx", "expected"]
    (run.folder / "2-export" / "expected.npy").unlink()
    with pytest.raises(GreenedgeError, match=r"expected\.npy"):
        run.verify()
    step = float(np.diff(np.unique(expected)).min())
    for wrong, said in (
        (
            expected + step * (np.arange(60) == 41)[:, None],
            r"graph differs from expected on 1 of 60 samples; first at sample 41",
        ),
        (
            expected * np.float32(1.37) + np.float32(0.01),
            "no multiples of the model's output scale; they are another model's",
        ),
        (np.concatenate([expected, expected], 1), r"expected has outputs of shape \(6,\), and the model's is \(3,\)"),
        (
            expected[:59],
            r"has shape \(59, 3\) of float32; expected outputs are numbers, one row for each of 60 samples",
        ),
        (expected * np.float32(np.nan), "expected outputs are finite: leave that sample out"),
    ):
        with pytest.raises(GreenedgeError, match=said):
            api.build(model, "linux-x86", inputs=x, expected=wrong, out=tmp_path / "wrong", progress=False)
    with pytest.raises(GreenedgeError, match="one row for each of 60 samples"):
        api.check(model, "linux-x86", inputs=x, expected=expected[:59])


def test_importing_it_loads_nothing_heavy():
    code = (
        "import sys, greenedge.api; print([m for m in ('torch', 'onnx', 'brevitas', 'matplotlib') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
