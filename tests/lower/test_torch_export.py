"""A .pt2 file becomes ONNX that computes what torch computes: every operator that is read, quantisers on levels with
==, and a refusal by name of everything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402  after the skip
from torch.nn import functional as F  # noqa: E402

from greenedge.errors import UnsupportedError  # noqa: E402
from greenedge.frontends.source import read_model, read_normal  # noqa: E402
from greenedge.frontends.torch_export import RULES  # noqa: E402
from tests.lower.torch_programs import Call, save  # noqa: E402

IMAGE, ROW, SIGNAL = (4, 6, 6), (12,), (4, 12)
OPERATORS = {  # name: (shape of a sample, function of it, its modules)
    "conv1d": (SIGNAL, lambda x, m: m(x), nn.Conv1d(4, 3, 3, padding=2, dilation=2)),
    "conv same": (IMAGE, lambda x, m: m(x), nn.Conv2d(4, 3, (4, 3), padding="same")),
    "conv valid": (IMAGE, lambda x, m: m(x), nn.Conv2d(4, 3, 3, padding="valid", bias=False)),
    "conv stride": (IMAGE, lambda x, m: m(x), nn.Conv2d(4, 8, (3, 2), stride=(2, 1), padding=(0, 1), groups=2)),
    "conv transposed": (IMAGE, lambda x, m: m(x), nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, groups=2)),
    "conv transposed 1d": (SIGNAL, lambda x, m: m(x), nn.ConvTranspose1d(4, 2, 4, 2, 1, bias=False)),
    "dense of rows": (SIGNAL, lambda x, m: m(x), nn.Linear(12, 5)),
    "dense of rows, no bias": (SIGNAL, lambda x, m: m(x), nn.Linear(12, 5, bias=False)),
    "dense": (ROW, lambda x, m: m(x), nn.Linear(12, 5)),
    "dense, no bias": (ROW, lambda x, m: m(x), nn.Linear(12, 5, bias=False)),
    "batch norm": (IMAGE, lambda x, m: m(x), nn.BatchNorm2d(4, eps=0.1)),
    "batch norm, not affine": (IMAGE, lambda x, m: m(x), nn.BatchNorm2d(4, affine=False)),
    "matmul": (SIGNAL, lambda x: x @ x.transpose(1, 2)),
    "add alpha": (ROW, lambda x: torch.add(x, torch.sigmoid(x), alpha=3)),
    "sub alpha": (ROW, lambda x: torch.sub(x, 2.5, alpha=3)),
    "rsub": (ROW, lambda x: 1.5 - x + torch.rsub(x, 2.0, alpha=3)),
    "mul and div": (ROW, lambda x: x * 3 / 7),
    "neg, abs and exp": (ROW, lambda x: torch.exp(-torch.abs(x))),
    "minimum and maximum": (ROW, lambda x: torch.minimum(x, torch.maximum(x * 2, -x))),
    "power": (ROW, lambda x: torch.sqrt(x**2) + torch.erf(x)),
    "relu6": (ROW, lambda x: F.relu6(x * 9)),
    "hardtanh": (ROW, lambda x: F.hardtanh(x) + F.hardtanh(x, -0.5, 0.25)),
    "clamp": (ROW, lambda x: torch.clamp(x, -0.5, 0.25) + torch.clamp(x, max=0.1) + torch.clamp(x, min=-0.1)),
    "clamp of a side": (ROW, lambda x: torch.clamp_min(x, 0.2) + torch.clamp_max(x, 0.3)),
    "leaky": (ROW, lambda x: F.leaky_relu(x) + F.leaky_relu(x, 0.3)),
    "elu": (ROW, lambda x: F.elu(x, 0.7)),
    "sigmoid and tanh": (ROW, lambda x: torch.sigmoid(x) + torch.tanh(x)),
    "softplus": (ROW, lambda x: F.softplus(x * 20)),
    "silu": (ROW, lambda x: F.silu(x)),
    "gelu": (ROW, lambda x: F.gelu(x) + F.gelu(x, approximate="tanh")),
    "hard functions": (ROW, lambda x: F.hardswish(x * 4) + F.hardsigmoid(x * 4)),
    "prelu": (IMAGE, lambda x, m: m(x), nn.PReLU(4, init=0.3)),
    "softmax": (SIGNAL, lambda x: F.softmax(x, 1, dtype=torch.float32) + F.log_softmax(x, -1)),
    "max pool": (IMAGE, lambda x: F.max_pool2d(x, 3, stride=2, padding=1)),
    "max pool ceil": (IMAGE, lambda x: F.max_pool2d(x, 3, stride=2, ceil_mode=True)),
    "max pool dilated": (IMAGE, lambda x: F.max_pool2d(x, 2, stride=1, dilation=2)),
    "max pool 1d": (SIGNAL, lambda x: F.max_pool1d(x, 3)),
    "average pool": (IMAGE, lambda x: F.avg_pool2d(x, 3, stride=2, padding=1)),
    "average pool without pads": (IMAGE, lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)),
    "average pool 1d": (SIGNAL, lambda x: F.avg_pool1d(x, 4)),
    "adaptive pools": (IMAGE, lambda x: F.adaptive_avg_pool2d(x, (3, 2)) + F.adaptive_max_pool2d(x, (3, 2))),
    "global pools": (IMAGE, lambda x: F.adaptive_avg_pool2d(x, 1) + F.adaptive_max_pool2d(x, 1)),
    "adaptive 1d": (SIGNAL, lambda x: F.adaptive_avg_pool1d(x, 3) + F.adaptive_max_pool1d(x, 3)),
    "mean": (IMAGE, lambda x: x.mean((2, 3)) + x.mean((-1, -2))),
    "mean kept": (IMAGE, lambda x: x.mean((2, 3), keepdim=True) * x.mean(1, keepdim=True)),
    "sum and extremes": (SIGNAL, lambda x: x.sum(1) + x.amax(1) - x.amin(1)),
    "argmax": (ROW, lambda x: torch.argmax(x, 1)),
    "views": (IMAGE, lambda x: x.view(-1, 2, 2, 36).reshape(x.shape[0], 4, -1).unflatten(2, (4, 9))),
    "flatten": (IMAGE, lambda x: torch.flatten(x, 1) + x.flatten(2).flatten(1)),
    "flatten the middle": (IMAGE, lambda x: torch.flatten(x, 1, 2)),
    "permute": (IMAGE, lambda x: x.permute(0, 2, -1, 1).contiguous().transpose(-1, 1)),
    "squeeze": (IMAGE, lambda x: x.mean(-1, keepdim=True).squeeze(-1).unsqueeze(2).unsqueeze(-1).squeeze(2)),
    "cat and split": (
        IMAGE,
        lambda x: (
            torch.cat(x.split([1, 3], 1)[::-1], 1)
            + torch.cat(x.split(3, 2)[::-1], 2)
            + torch.cat(x.chunk(2, -1)[::-1], 3)
        ),
    ),
    "slice": (IMAGE, lambda x: x[:, 1:, ::2, -3:-1]),
    "select": (IMAGE, lambda x: x[:, 1] + x[:, :, -1, :].mean(1, keepdim=True)),
    "pad": (IMAGE, lambda x: F.pad(F.pad(x, (1, 2)), (0, 1, 2, 0, 1, 1), value=0.5)),
    "upsample": (IMAGE, lambda x: F.interpolate(x, scale_factor=(2, 3)) + F.interpolate(x, size=(12, 18))),
    "upsample 1d": (SIGNAL, lambda x: F.interpolate(x, scale_factor=3)),
    "pixel shuffle": (IMAGE, lambda x: F.pixel_shuffle(x, 2)),
    "dropout": (ROW, lambda x, m: m(x).clone().detach() + F.dropout(x, training=False), nn.Dropout()),
    "dropout of channels": (IMAGE, lambda x, m: m(x) * torch.tensor(2.0), nn.Dropout2d()),
    "constants in forward": (ROW, lambda x, m: x @ m.weight.t() + torch.tensor([1.0, 2.0]), nn.Linear(12, 2)),
    "expand to itself": (ROW, lambda x: x.expand(-1, 12) + x.to(torch.float32)),
    "in place": (ROW, lambda x: (x * 2).relu_().add_(1).mul_(3).clamp_(0.5, 4)),
    "written value": (ROW, lambda x: _write_and_read(x)),
}
NOT_IN_CORE = {  # whose decomposition is refused: by operators without a rule, or rows of all samples in one axis
    "dense of rows": "does not have the batch as its first axis",
    "dense of rows, no bias": "does not have the batch as its first axis",
    "softplus": "operator aten.where.self; there is no rule that reads it",
    "prelu": "operator aten.where.self; there is no rule that reads it",
    "upsample 1d": "operator aten.index.Tensor; there is no rule that reads it",
}


def _write_and_read(x):
    y = x * 2
    z = y.relu_()
    return y + z  # y is what relu_ made of it


def _run_float(path: Path, x: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        read_normal(path).proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (name,) = (one.name for one in session.get_inputs())
    return np.concatenate([session.run(None, {name: x[k : k + 1]})[0] for k in range(len(x))])


def _run_torch(module: nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return module.eval()(torch.from_numpy(x)).numpy()


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize(
    ("is_open", "is_core"),
    [(False, False), pytest.param(True, True, marks=pytest.mark.slow)],
    ids=["fixed", "open core"],
)
def test_an_operator_computes_what_torch_computes(name, is_open, is_core, rng, tmp_path):
    shape, function, *parts = OPERATORS[name]
    module = Call(function, *parts)
    for part in parts:
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    if is_core and name in NOT_IN_CORE:
        with pytest.raises(UnsupportedError, match=NOT_IN_CORE[name]):
            read_model(save(module, shape, tmp_path / "one.pt2", is_open, is_core))
        return
    path = save(module, shape, tmp_path / "one.pt2", is_open, is_core)
    x = rng.normal(size=(5, *shape)).astype(np.float32)
    assert read_model(path).complaints == ()
    expected = _run_torch(module, x)
    got = _run_float(path, x)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)  # float32 in another order


@pytest.mark.slow
def test_every_rule_of_a_float_operator_is_one_that_is_tried(tmp_path):
    """The table above misses no rule: each has been read from a program of torch's own."""
    from greenedge.frontends.torch_export.archive import read_archive
    from greenedge.frontends.torch_export.program import parse_program

    seen = set()
    for name, (shape, function, *parts) in OPERATORS.items():
        for is_core in (False, True):
            path = save(Call(function, *parts), shape, tmp_path / f"{name}{is_core}.pt2", True, is_core)
            found = {node.operator for node in parse_program(read_archive(path)).nodes}
            seen |= found | {operator.rstrip("_") for operator in found}
    unseen = (
        {rule for rule in RULES if rule.startswith("aten.") and "fake_quantize" not in rule} - seen - {"aten._to_copy"}
    )
    assert not unseen, " ".join(sorted(unseen))
