"""The quantisers of a torch.export program, on levels with ==, and what no integer graph of one can be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402  after the skip

from greenedge import api  # noqa: E402
from greenedge.errors import GreenedgeError, UnsupportedError  # noqa: E402
from greenedge.frontends.source import read_model  # noqa: E402
from greenedge.graph import run_graph  # noqa: E402
from greenedge.lower import lower_file  # noqa: E402
from greenedge.lower.float_io import run_epilogue, run_prologue  # noqa: E402
from tests.lower.torch_programs import Call, Quantised, ops, quantise, save  # noqa: E402

SHAPE = (4, 6)
_SCALES, _ZEROS = torch.tensor([0.25, 0.5, 1.0, 0.125]), torch.tensor([3, 0, -7, 1])


def _run_integers(path: Path, x: np.ndarray) -> np.ndarray:
    lowered = lower_file(path)
    (name,) = lowered.source.inputs
    return next(iter(run_epilogue(lowered, run_graph(lowered.graph, run_prologue(lowered, {name: x}))).values()))


def _run_torch(module: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return module.eval()(torch.from_numpy(x)).numpy()


def _through(kind: torch.dtype, low: int, high: int):
    def apply(x):
        levels = ops.quantize_per_tensor(x, 0.25, 5, low, high, kind)
        return ops.dequantize_per_tensor(levels, 0.25, 5, low, high, kind)

    return apply


def _by_tensors(x):
    scale, zero = torch.tensor(0.5), torch.tensor(-3)
    levels = ops.quantize_per_tensor.tensor(x, scale, zero, -128, 127, torch.int8)
    return ops.dequantize_per_tensor.tensor(levels, scale, zero, -128, 127, torch.int8)


def _by_channels(low: int, high: int):
    def apply(x):
        levels = ops.quantize_per_channel(x, _SCALES, _ZEROS, 1, low, high, torch.int8)
        return ops.dequantize_per_channel(levels, _SCALES, _ZEROS, 1, low, high, torch.int8)

    return apply


QUANTISERS = {  # behind a sum of levels; every one has inputs half way between two of its levels
    "int8": _through(torch.int8, -128, 127),
    "int8, narrow": _through(torch.int8, -127, 127),
    "4 bits": _through(torch.int8, -8, 7),
    "uint8": _through(torch.uint8, 0, 255),
    "uint8 of 7 bits": _through(torch.uint8, 0, 127),
    "int16": _through(torch.int16, -32768, 32767),
    "numbers in tensors": _by_tensors,
    "channels": _by_channels(-128, 127),
    "channels of 5 bits": _by_channels(-16, 15),
    "fake": lambda x: torch.fake_quantize_per_tensor_affine(x, 0.25, 3, -128, 127),
    "fake of 4 bits": lambda x: torch.fake_quantize_per_tensor_affine(x, 0.5, 3, 0, 15),
    "fake by tensors": lambda x: torch.fake_quantize_per_tensor_affine(
        x, torch.tensor(0.5), torch.tensor(1, dtype=torch.int32), -128, 127
    ),
    "fake channels": lambda x: torch.fake_quantize_per_channel_affine(x, _SCALES, _ZEROS.int(), 1, -64, 63),
}


@pytest.mark.parametrize("name", QUANTISERS)
def test_every_quantiser_gives_torchs_levels(name, rng, tmp_path):
    module = Call(lambda x: QUANTISERS[name](quantise(x, 0.125, 3) * 1.5))
    path = save(module, SHAPE, tmp_path / "one.pt2")
    x = (rng.integers(-140, 140, (60, *SHAPE)) / 8).astype(np.float32)
    assert (_run_integers(path, x) == _run_torch(module, x)).all()


@pytest.mark.parametrize("is_core", [False, True])
def test_a_network_gives_torchs_levels(is_core, rng, tmp_path):
    module = Quantised(rng)
    path = save(module, (3, 8, 8), tmp_path / "net.pt2", is_open=True, is_core=is_core)
    assert read_model(path).kind == "a torch.export program, quantised by PT2E"
    x = rng.normal(size=(40, 3, 8, 8)).astype(np.float32)
    expected, got = _run_torch(module, x), _run_integers(path, x)
    differ = np.abs(got - expected) > 0.0371 / 2
    # torch adds in float32: a sum beside the edge of a level may fall on its other side, and then by one level
    assert differ.mean() < 0.02 and (np.abs(got - expected) < 0.0371 * 1.5).all()


@pytest.mark.parametrize("is_by_channel", [True, False])
def test_weights_that_are_not_folded_have_torchs_levels(is_by_channel, rng, tmp_path):
    """quantize of a constant: float32's x * (1 / scale), also where x / scale would fall on another level."""
    weight = torch.from_numpy(rng.normal(size=(5, 6)).astype(np.float32))
    scale = float(np.float32(0.1))
    weight[0, 0] = float(np.float32(0.35))  # 3.5 by the product, and beside it by the quotient
    scales, zeros = torch.full((5,), scale), torch.zeros(5, dtype=torch.int64)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(weight)
            self.register_buffer("scales", scales)
            self.register_buffer("zeros", zeros)

        def forward(self, x):
            if not is_by_channel:
                levels = ops.quantize_per_tensor(self.weight, scale, 0, -127, 127, torch.int8)
                real = ops.dequantize_per_tensor(levels, scale, 0, -127, 127, torch.int8)
                return quantise(F.linear(quantise(x, 0.5), real), 0.5)
            levels = ops.quantize_per_channel(self.weight, self.scales, self.zeros, 0, -127, 127, torch.int8)
            real = ops.dequantize_per_channel(levels, self.scales, self.zeros, 0, -127, 127, torch.int8)
            return quantise(F.linear(quantise(x, 0.5), real), 0.5)

    path = save(Net(), (6,), tmp_path / "net.pt2")
    levels = ops.quantize_per_channel(weight, scales, zeros, 0, -127, 127, torch.int8).numpy()
    constants = read_model(path).constants
    (found,) = (array for array in constants.values() if array.dtype == np.int8 and array.shape == (5, 6))
    assert (found == levels).all()


def test_torchaos_own_operators_are_read(rng, tmp_path):
    """quantize_affine in blocks of a tensor and of a channel; torchao itself is too heavy to be installed for tests, so
    operators of its names and signatures stand in."""
    pytest.importorskip("torch.library")
    if not hasattr(torch.ops.torchao, "quantize_affine"):
        _define_affine()
    affine = torch.ops.torchao
    levels = torch.from_numpy(rng.integers(-127, 128, (5, 6)).astype(np.int8))
    scales = torch.from_numpy(rng.uniform(0.01, 0.02, 5).astype(np.float32))

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("levels", levels)
            self.register_buffer("scales", scales)
            self.register_buffer("one", torch.tensor([0.25]))
            self.register_buffer("zero", torch.tensor([3]))

        def both(self, x):
            block = list(x.shape)
            given = affine.quantize_affine(x, block, self.one, self.zero, torch.int8, -128, 127)
            return affine.dequantize_affine(given, block, self.one, self.zero, torch.int8, -128, 127)

        def forward(self, x):
            weight = affine.dequantize_affine(self.levels, [1, 6], self.scales, None, torch.int8, -127, 127)
            return self.both(F.linear(self.both(x), weight))

    module = Net()
    path = save(module, (6,), tmp_path / "net.pt2")
    x = (rng.integers(-60, 60, (40, 6)) / 4).astype(np.float32)
    expected = np.concatenate([_run_torch(module, x[k : k + 1]) for k in range(40)])
    got = _run_integers(path, x)
    assert np.abs(got - expected).max() <= 0.25 and (got == expected).mean() > 0.98  # beside an edge, in float32


def _define_affine() -> None:
    signature = (
        "(Tensor input, SymInt[] block_size, Tensor scale, Tensor? zero_point, ScalarType {}_dtype, "
        "Scalar? quant_min=None, Scalar? quant_max=None{}) -> Tensor"
    )
    torch.library.define("torchao::quantize_affine", signature.format("output", ""))
    torch.library.define("torchao::dequantize_affine", signature.format("input", ", *, ScalarType output_dtype=float"))

    def spread(values, x, block):
        return values.reshape(
            [1 if size == part and size > 1 else -1 for size, part in zip(x.shape, block, strict=True)]
        )

    @torch.library.impl("torchao::quantize_affine", "CompositeExplicitAutograd")
    def _(x, block, scale, zero, kind, low=None, high=None):
        levels = torch.round(x * (1 / spread(scale, x, block))) + (0 if zero is None else spread(zero, x, block))
        return torch.clamp(levels, low, high).to(kind)

    @torch.library.impl("torchao::dequantize_affine", "CompositeExplicitAutograd")
    def _(q, block, scale, zero, kind, low=None, high=None, *, output_dtype=torch.float32):
        return (q.to(torch.float32) - (0 if zero is None else spread(zero, q, block))) * spread(scale, q, block)


REFUSALS = {  # name: (shape, function, what is said)
    "unknown": (
        SHAPE,
        lambda x: torch.cumsum(x, 1),
        r"cumsum: operator aten.cumsum.default; there is no rule that rea",
    ),
    "rounding": (
        SHAPE,
        lambda x: torch.div(x, 2, rounding_mode="floor"),
        r"aten.div: rounding mode floor; quotients a",
    ),
    "half": (
        SHAPE,
        lambda x: x.half() + 1,
        r"aten.to: from FLOAT to HALF; a network computes in float32 \(cure: export",
    ),
    "train": (
        SHAPE,
        lambda x: F.dropout(x, training=True),
        r"it drops elements at random; .*export it after model.eval",
    ),
    "statistics": (
        SHAPE,
        lambda x: F.batch_norm(x, None, None, training=True),
        r"takes its statistics from the batch; .*eval mode",
    ),
    "dynamic": (
        SHAPE,
        lambda x: ops.dequantize_per_tensor.tensor(
            ops.quantize_per_tensor.tensor(
                x, *ops.choose_qparams.tensor(x, -128, 127, 1e-6, torch.int8), -128, 127, torch.int8
            ),
            torch.tensor(1.0),
            torch.tensor(0),
            -128,
            127,
            torch.int8,
        ),
        r"computes a scale from every sample anew; scales are constant \(cure: quantise statically: is_dynamic=False",
    ),
    "batch": (
        SHAPE,
        lambda x: F.softmax(x, 0),
        r"it works along the first axis; every sample must be computed by itself",
    ),
    "divisor": (
        (2, 6, 6),
        lambda x: F.avg_pool2d(x, 2, divisor_override=3),
        r"a divisor of its own; a mean divides by",
    ),
    "uneven": ((2, 5, 5), lambda x: F.adaptive_avg_pool2d(x, 2), r"from \(5, 5\) to \(2, 2\); windows are all of one"),
    "reflect": ((2, 6, 6), lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), r"mode reflect with pads \[1, 1, 1, 1\]"),
    "alias": (SHAPE, lambda x: _write_under_another_name(x), r"it reads 'view', which an operation in place changed"),
    "int": (SHAPE, lambda x: (x, 3), r"an output is int and no tensor; a network gives tensors"),
    "integers of 32 bits": (
        SHAPE,
        lambda x: ops.dequantize_per_tensor(
            ops.quantize_per_tensor(x, 0.1, 0, -(2**31), 2**31 - 1, torch.int32),
            0.1,
            0,
            -(2**31),
            2**31 - 1,
            torch.int32,
        ),
        r"activations as INT; they have at most 16 bits",
    ),
}


def _write_under_another_name(x):
    y = x * 2
    z = y.view(-1, 24)
    y.relu_()
    return z + 1


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_not_read_is_refused_by_name(name, tmp_path):
    shape, function, said = REFUSALS[name]
    with pytest.raises(UnsupportedError, match=said):
        read_model(save(Call(function), shape, tmp_path / "one.pt2"))


def test_all_reasons_are_given_at_once_and_none_that_follows_from_another(tmp_path):
    path = save(Call(lambda x: torch.cumsum(torch.sin(x) + 1, 1) * F.softmax(x, 0)), SHAPE, tmp_path / "one.pt2")
    with pytest.raises(UnsupportedError) as caught:
        read_model(path)
    assert [reason.node for reason in caught.value.reasons] == ["sin", "cumsum", "softmax"]


MIXED = {
    "mean": lambda x: x - x.mean(0, keepdim=True),
    "rows": lambda x: x.reshape(-1, 3),
    "turned": lambda x: x.transpose(0, 1),
    "first": lambda x: x[:1],
    "joined": lambda x: torch.cat([x, x], 0),
}


@pytest.mark.parametrize("name", MIXED)
@pytest.mark.parametrize("is_open", [True, False])
def test_samples_that_mix_are_refused(name, is_open, tmp_path):
    program = torch.export.export(
        Call(MIXED[name]), (torch.zeros(4, *SHAPE),), dynamic_shapes=({0: torch.export.Dim.AUTO},) if is_open else None
    )
    torch.export.save(program, tmp_path / "one.pt2")
    with pytest.raises(UnsupportedError, match=r"the (batch as its )?first axis; every sample must be comp"):
        read_model(tmp_path / "one.pt2")


def test_another_open_axis_is_refused(tmp_path):
    program = torch.export.export(
        Call(lambda x: F.relu(x)),
        (torch.zeros(2, 4, 6),),
        dynamic_shapes=({0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO},),
    )
    torch.export.save(program, tmp_path / "one.pt2")
    with pytest.raises(
        UnsupportedError, match=r"axis 2 of tensor 'x' is open; only the batch, which is the first axis"
    ):
        read_model(tmp_path / "one.pt2")


def test_a_network_in_training_is_told_to_be_evaluated(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.BatchNorm1d(4)).train()
    program = torch.export.export(module, (torch.zeros(3, 6),)).run_decompositions()
    torch.export.save(program, tmp_path / "one.pt2")
    with pytest.raises(
        GreenedgeError, match=r"^.*one.pt2: the program changes its buffer '1.running_mean' at every call; a"
    ):
        read_model(tmp_path / "one.pt2")


def test_programs_and_modules_at_hand_are_built_and_compared_with_torch(rng, tmp_path):
    module = Quantised(rng)
    x = rng.normal(size=(30, 3, 8, 8)).astype(np.float32)
    run = api.build(module, "linux-x86", inputs=x, out=tmp_path / "module", progress=False)
    compared = {entry["reference"]: entry for entry in run.summary["verify"] if entry["candidate"] == "graph"}
    assert compared["torch"]["samples"] == 30 and not compared["torch"]["mismatches"]
    program = torch.export.export(module, (torch.zeros(3, 3, 8, 8),))  # a batch of 3, and 30 samples are no multiple
    (found,) = api.check(program, "linux-x86", inputs=x[:29])
    assert not found.reasons and found.kind == "a torch.export program, quantised by PT2E"
    assert not api.check(program, "linux-x86")[0].reasons, "samples are drawn where none are given"


def test_a_program_with_brevitas_own_arithmetic_is_told_its_way(tmp_path):
    qnn = pytest.importorskip("brevitas.nn")
    module = torch.nn.Sequential(qnn.QuantIdentity(bit_width=4), qnn.QuantReLU(bit_width=4))
    with pytest.raises(UnsupportedError, match=r"net: the quantisers of Brevitas; .*by greenedge.api.build, or export"):
        read_model(save(module, (6,), tmp_path / "net.pt2"))


def test_a_float_program_is_told_how_it_is_quantised(tmp_path):
    path = save(torch.nn.Linear(6, 4), (6,), tmp_path / "float.pt2")
    assert read_model(path).kind == "a float torch.export program"
    with pytest.raises(UnsupportedError, match=r"greenedge quantise FLOAT.pt2 --calibrate SAMPLES.npy -o OUT.onnx"):
        lower_file(path)
    with pytest.raises(
        UnsupportedError, match=r"greenedge quantise FLOAT.pt2"
    ):  # in a run, from the ONNX that it keeps
        api.build(path, "linux-x86", out=tmp_path / "run", progress=False)
