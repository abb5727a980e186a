"""Pruning: masks grow as the settings say and stay; removing what is masked changes no output of the network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from greenedge.errors import TargetError
from greenedge.train.channels import find_channels, shrink, slice_state
from greenedge.train.checkpoint import model_state, set_model_state
from greenedge.train.fit import FitOptions, fit, predict, seed_torch
from greenedge.train.layers import weight_layers
from greenedge.train.prune import Compression, count_weights, growth, importance, make_pruner, remaining_count
from greenedge.train.quantise import quantise
from greenedge.train.recipe_config import PruneSettings, QuantiseSettings, TrainSettings

torch = pytest.importorskip("torch")
nn = torch.nn
STRUCTURED = PruneSettings(kind="structured", share=0.5, group=2, start=0.0, end=0.5)


class Everything(nn.Module):
    """Everything that passes channels on: residual, depthwise, concatenation, transposed convolution, flattening."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depth, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8)
        self.up, self.side = nn.ConvTranspose2d(8, 4, 2, stride=2), nn.Conv2d(8, 6, 1)
        self.pool, self.flatten = nn.MaxPool2d(2), nn.Flatten()
        self.dense, self.head = nn.Linear(10 * 4, 12), nn.Linear(12, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.norm2(self.depth(x)))
        up = self.pool(torch.relu(self.up(x)))
        joined = torch.cat([up, torch.sigmoid(self.side(x))], dim=1)
        return self.head(torch.relu(self.dense(self.flatten(joined))))


def samples(count: int = 48):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, count)
    return (rng.normal(size=(count, 1, 2, 2)) + y[:, None, None, None]).astype(np.float32), y


def test_what_leaves_together_has_one_label():
    channels = find_channels(Everything(), (1, 2, 2))
    assert {path: len(labels) for path, labels in channels.spaces.items()} == {
        "stem": 8,
        "up": 4,
        "side": 6,
        "dense": 12,
    }
    assert np.array_equal(channels.rows["stem"], channels.rows["depth"]) and np.array_equal(
        channels.rows["norm2"], channels.columns["side"]
    )
    assert np.array_equal(
        channels.columns["dense"], np.repeat(np.concatenate([channels.rows["up"], channels.rows["side"]]), 4)
    )


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(nn.Linear(4, 8), nn.PReLU(8), nn.Linear(8, 2)),  # not known: its inputs stay
        lambda: nn.Sequential(nn.Linear(4, 8), nn.Unflatten(1, (2, 4)), nn.Linear(4, 2)),
        lambda: nn.Sequential(
            nn.Unflatten(1, (4, 1)), nn.Conv1d(4, 8, 1, groups=2), nn.Flatten()
        ),  # groups, and the output
    ],
)
def test_what_is_not_known_stays(build):
    channels = find_channels(build(), (4,))
    assert not channels.spaces
    with pytest.raises(TargetError) as caught:
        make_pruner(build(), STRUCTURED, channels)
    assert str(caught.value) == (
        "[prune] finds no neurons or channels that can leave: all are inputs, outputs or in keep; use kind "
        '"magnitude", or a network with hidden layers.'
    )


def test_a_layer_called_twice_keeps_one_set_of_labels():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.same, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.head(torch.relu(self.same(torch.relu(self.same(torch.relu(self.first(x)))))))

    channels = find_channels(Twice(), (4,))
    assert np.array_equal(channels.rows["first"], channels.columns["same"]) and np.array_equal(
        channels.rows["first"], channels.rows["same"]
    )
    stays = np.isin(np.arange(channels.count), channels.rows["first"][:3], invert=True)
    assert shrink(Twice(), channels, stays)(torch.rand(2, 4)).shape == (2, 2)


@pytest.mark.parametrize(
    "settings",
    [None, QuantiseSettings(act_bits=6, weight_bits=6), QuantiseSettings(act_bits=6, weight_bits=6, per_channel=True)],
)
def test_taking_out_what_is_masked_changes_no_output(settings):
    x, y = samples()
    with seed_torch(1, 1):
        channels = find_channels(Everything(), (1, 2, 2))
        model = Everything() if settings is None else quantise(Everything(), settings)
        pruner = make_pruner(model, STRUCTURED, channels)
        fit(model, x, y, TrainSettings(epochs=4, batch=16), FitOptions(prune=pruner))
        small = shrink(Everything(), channels, pruner.stays)
        small = small if settings is None else quantise(small, settings)
    state = model_state(model)
    set_model_state(small, {**state, "tensors": slice_state(state["tensors"], channels, pruner.stays)})
    sizes = {path: tuple(small.get_submodule(path).weight.shape) for path in weight_layers(small)}
    assert sizes == {
        "stem": (4, 1, 3, 3),
        "depth": (4, 1, 3, 3),
        "up": (4, 2, 2, 2),
        "side": (3 + 1, 4, 1, 1),
        "dense": (6, 6 * 4),
        "head": (3, 6),
    }
    # float32 sums of fewer terms come in another order; one level of the output's quantiser is far larger
    assert np.allclose(predict(small.eval(), x), predict(model, x), atol=1e-5)
    assert count_weights(small) == sum(int(np.prod(size)) for size in sizes.values())


def test_masks_grow_along_the_cube_and_stand():
    settings = PruneSettings(kind="magnitude", share=0.8, start=0.2, end=0.6)
    reached = [growth(settings, step, 100) for step in (0, 19, 39, 59, 99)]
    assert reached[:2] == [0, 0] and reached[2] == pytest.approx(1 - 0.5**3) and reached[3:] == [1, 1]


def test_magnitude_takes_the_smallest_of_each_layer():
    with seed_torch(0, 1):
        model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))
    before = {path: model.get_submodule(path).weight.detach().clone() for path in ("0", "2")}
    pruner = make_pruner(model, PruneSettings(kind="magnitude", share=0.5, start=0, end=0, keep=("2",)))
    pruner.after_step(model, 0, 10)
    left = model.get_submodule("0").weight != 0
    assert int(left.sum()) == 24 and before["0"].abs()[left].min() > before["0"].abs()[~left].max()
    assert torch.equal(model.get_submodule("2").weight, before["2"])
    with torch.no_grad():
        model.get_submodule("0").weight.add_(1.0)
    pruner.after_step(model, 5, 10)
    assert torch.equal(model.get_submodule("0").weight != 0, left)  # what is gone stays gone


def test_two_of_every_four():
    with seed_torch(0, 1):
        model = nn.Sequential(nn.Conv2d(3, 5, 3))  # 27 weights a channel: six groups of four, three left over
    before = model.get_submodule("0").weight.detach().clone().flatten(1)
    make_pruner(model, PruneSettings(kind="n:m", n=2, m=4, start=0, end=0)).after_step(model, 0, 10)
    after = model.get_submodule("0").weight.flatten(1)
    groups = (after[:, :24].reshape(5, 6, 4) != 0).sum(-1)
    assert (groups == 2).all() and torch.equal(after[:, 24:], before[:, 24:])
    assert torch.equal(after[:, :24].reshape(5, 6, 4).abs().amax(-1), before[:, :24].reshape(5, 6, 4).abs().amax(-1))


@pytest.mark.parametrize(
    "channels, group, share, kept",
    [
        (128, 8, 0.5, 64),
        (100, 8, 0.5, 48),
        (16, 8, 0.9, 8),
        (6, 8, 0.5, 6),
        (61, 1, 0.5, 30),
        (64, 16, 0.0, 64),
        (30, 8, 0.0, 30),
    ],
)
def test_what_stays_is_a_multiple_that_pe_and_simd_divide(channels, group, share, kept):
    assert remaining_count(channels, PruneSettings(kind="structured", share=share, group=group)) == kept


def test_importance_is_how_it_is_written_times_how_it_is_read():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model.get_submodule("0").weight.copy_(torch.tensor([[100.0, 0], [0, 1]]))  # the norm takes this factor away
        model.get_submodule("1").weight.copy_(torch.tensor([0.5, -2.0]))
        model.get_submodule("3").weight.copy_(torch.tensor([[3.0, 3.0]]))
    channels = find_channels(model, (2,))
    assert importance(model, channels)[channels.rows["0"]].tolist() == pytest.approx([1.5, 6.0])


def test_the_best_epoch_is_one_after_pruning():
    x, y = samples(64)
    settings = TrainSettings(epochs=6, batch=16, validation=0.25, patience=5)
    with seed_torch(0, 1):
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
        prune = PruneSettings(kind="magnitude", share=0.5, start=0, end=0.5)
        history = fit(model, x, y, settings, FitOptions(prune=make_pruner(model, prune)))
    assert history.best_epoch >= 2
    assert count_weights(model) == (4 * 16 + 16 * 3) // 2


def test_the_articles_ratio():
    assert Compression(200, 50).ratio == 0.75


def test_a_layer_in_keep_must_be_there():
    with pytest.raises(TargetError) as caught:
        make_pruner(nn.Sequential(nn.Linear(2, 2)), replace(STRUCTURED, keep=("fc9",)))
    assert str(caught.value) == "[prune] keep names 'fc9', which is no dense or convolutional layer; layers are: 0."
