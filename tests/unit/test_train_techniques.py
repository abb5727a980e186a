"""Distillation, choice of samples, folding, calibration and bit width search, as functions."""

from __future__ import annotations

import numpy as np
import pytest

from greenedge.errors import TargetError
from greenedge.train.calibrate import calibrate
from greenedge.train.coreset import SampleWatch, choose, easy_first, k_center
from greenedge.train.distil import Distillation, ask, mix_inputs, onnx_teacher, similarities, torch_teacher
from greenedge.train.fit import FitOptions, cross_entropy, fit, predict, seed_torch
from greenedge.train.fold_bn import fold_batch_norms
from greenedge.train.quantise import quantise
from greenedge.train.recipe_config import (
    DistilSettings,
    QuantiseSettings,
    SearchSettings,
    SubsetSettings,
    TrainSettings,
)
from greenedge.train.search import Option, cheapest_loss, layer_cost, round_weights, search_bits

torch = pytest.importorskip("torch")
nn = torch.nn


def network(hidden: int = 8):
    return nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3))


def samples(count: int = 96):
    rng = np.random.default_rng(1)
    y = np.arange(count) % 3
    return (rng.normal(size=(count, 4)) + 2 * np.eye(4)[y]).astype(np.float32), y.astype(np.int64)


# -- distillation ------------------------------------------------------------------------------------------------------


def test_a_student_without_labels_agrees_with_its_teacher():
    x, y = samples()
    with seed_torch(0, 1):
        teacher, student = network(16), network()
        fit(teacher, x, y, TrainSettings(epochs=10, batch=16, learning_rate=0.02))
        distillation = Distillation(
            student, torch_teacher(teacher, ["1"]), DistilSettings(share=1.0, temperature=2.0, features=("1=1",))
        )
        fit(
            student,
            x,
            (y + 1) % 3,
            TrainSettings(epochs=30, batch=16, learning_rate=0.02),
            FitOptions(teach=distillation),
        )  # with wrong labels
    assert (predict(student, x).argmax(1) == predict(teacher, x).argmax(1)).mean() > 0.95


def test_the_loss_is_that_of_the_docstring():
    heat, share, scale = 4.0, 0.75, 0.25
    x, student, teacher = torch.zeros(5, 4), torch.randn(5, 3), torch.randn(5, 3)
    settings = DistilSettings(share=share, temperature=heat, teacher_scale=scale)
    distillation = Distillation(network(), lambda _x: teacher.numpy(), settings)
    p, q = (scale * teacher / heat).softmax(1), (student / heat).softmax(1)
    expected = 0.25 * 2.0 + share * heat**2 * (p * (p / q).log()).sum(1).mean()
    assert float(distillation(torch.tensor(2.0), student, x, torch.arange(5))) == pytest.approx(
        float(expected), rel=1e-5
    )  # float32


def test_known_answers_are_those_of_the_same_samples():
    logits = torch.arange(30.0).reshape(10, 3)
    distillation = Distillation(network(), None, DistilSettings(share=1.0), (logits, {}))
    same = distillation(torch.tensor(9.0), logits[[7, 2]], torch.zeros(2, 4), torch.tensor([7, 2]))
    assert float(same) == pytest.approx(0.0, abs=1e-5)  # float32


def test_mixtures_lie_between_two_inputs_of_the_batch():
    x = torch.eye(6) * torch.arange(1.0, 7)
    got = mix_inputs(lambda x, _generator: x + 0)(x, torch.Generator().manual_seed(0))
    shares = got / torch.arange(1.0, 7)
    assert torch.allclose(shares.sum(1), torch.ones(6)) and ((shares > 0).sum(1) <= 2).all() and (shares < 1).any()
    assert torch.equal(got, mix_inputs(None)(x, torch.Generator().manual_seed(0)))
    with pytest.raises(
        ValueError, match="^mixes inputs with share 0.7; mixtures have no label of their own, set share to 1$"
    ):
        DistilSettings(mix=True)


def test_similarities_are_between_samples():
    features = torch.randn(5, 2, 3)
    assert similarities(features).shape == (5, 5)
    assert torch.allclose(similarities(3 * features), similarities(features), atol=1e-6)  # float32


def test_an_onnx_file_teaches_with_its_tensors(tmp_path):
    x, _ = samples()
    with seed_torch(0, 1):
        model = network().eval()
    _write_onnx(model, tmp_path / "t.onnx")
    logits, features = ask(onnx_teacher(tmp_path / "t.onnx", ["hidden"]), x, ["hidden"])
    assert np.allclose(logits.numpy(), predict(model, x), atol=1e-5)  # two float32 runtimes
    assert features["hidden"].shape == (96, 8)
    with pytest.raises(
        TargetError,
        match="^.distil. features names 'nowhere', which t.onnx has not; its tensors are: hidden, logits, sum.$",
    ):
        onnx_teacher(tmp_path / "t.onnx", ["nowhere"])


def _write_onnx(model, path):
    import onnx
    from onnx import helper, numpy_helper

    arrays = {name: tensor.detach().numpy() for name, tensor in model.named_parameters()}
    nodes = [
        helper.make_node("Gemm", ["x", "0.weight", "0.bias"], ["sum"], transB=1),
        helper.make_node("Relu", ["sum"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "2.weight", "2.bias"], ["logits"], transB=1),
    ]

    def value(name: str, size: int):
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", size])

    graph = helper.make_graph(
        nodes,
        "teacher",
        [value("x", 4)],
        [value("logits", 3)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def test_what_is_no_teacher_is_refused(tmp_path):
    (tmp_path / "t.onnx").write_bytes(b"not a model")
    with pytest.raises(TargetError, match=r"^\[distil\] teacher t.onnx is no ONNX model that onnxruntime runs \("):
        onnx_teacher(tmp_path / "t.onnx")
    with pytest.raises(TargetError) as caught:
        onnx_teacher(tmp_path / "none.onnx")
    assert (
        str(caught.value)
        == f"[distil] teacher: there is no file {tmp_path}/none.onnx; give an ONNX file in the recipe's folder."
    )
    x, y = samples()
    with pytest.raises(TargetError) as caught:
        fit(
            network(),
            x,
            y,
            TrainSettings(epochs=1),
            FitOptions(teach=Distillation(network(), lambda x: np.zeros((len(x), 5)), DistilSettings())),
        )
    assert (
        str(caught.value)
        == "the teacher gives (5,) outputs a sample and the student (3,); they must be of the same classes."
    )
    with pytest.raises(TargetError) as caught:
        Distillation(network(), None, DistilSettings(features=("relu1=relu1",)))
    assert str(caught.value) == "[distil] features names 'relu1', which the student has not; its layers are: 0, 1, 2."
    with pytest.raises(
        TargetError, match="^.distil. features names 'relu1', which the teacher has not; its layers are: 0, 1, 2.$"
    ):
        torch_teacher(network(), ["relu1"])
    with pytest.raises(TargetError, match="^the teacher has no features 'relu1'; it has: none.$"):
        ask(lambda x: np.zeros((len(x), 3)), x, ["relu1"])


# -- less data ---------------------------------------------------------------------------------------------------------


def test_scores_of_samples_as_defined():
    watch, y, order = SampleWatch(3), torch.tensor([0, 0, 0]), torch.tensor([0, 1, 2])
    right, wrong = [9.0, 0.0], [0.0, 9.0]
    for outputs in ([right, right, wrong], [right, wrong, wrong], [right, right, wrong], [right, wrong, wrong]):
        watch(torch.tensor(outputs), y, order)
    assert watch.forgotten.tolist() == [0, 2, 0] and watch.ever.tolist() == [True, True, False]
    el2n = watch.scores("el2n")
    assert el2n[2] == pytest.approx(2**0.5, abs=1e-3) and el2n[0] < 0.01  # softmax of ±9 is nearly one-hot
    assert np.argsort(watch.scores("forgetting")).tolist() == [0, 1, 2]  # never right is the hardest


@pytest.mark.parametrize("method", ["random", "kcenter", "el2n", "forgetting"])
def test_each_class_keeps_its_share(method):
    x, y = samples()
    scores = np.random.default_rng(0).random(96)
    chosen = choose(SubsetSettings(method=method, share=0.25), x, y, scores, seed=3)
    assert np.bincount(y[chosen]).tolist() == [8, 8, 8] and (np.diff(chosen) > 0).all()
    assert np.array_equal(chosen, choose(SubsetSettings(method=method, share=0.25), x, y, scores, seed=3))
    if method in ("el2n", "forgetting"):
        assert all(
            scores[y == label][~np.isin(np.flatnonzero(y == label), chosen)].max()
            < scores[chosen[y[chosen] == label]].min()
            for label in range(3)
        )


def test_centres_cover_within_twice_the_best_radius(rng):
    clusters = np.concatenate([rng.normal(size=(20, 2)) * 0.1 + centre for centre in ((0, 0), (9, 0), (0, 9))])
    centres = clusters[k_center(clusters, 3, rng)]
    assert np.linalg.norm(clusters[:, None] - centres[None], axis=2).min(axis=1).max() < 2


def test_easy_samples_come_first_and_all_in_the_end():
    scores = np.arange(20)[::-1].astype(float)  # the last are easy
    order, generator = easy_first(scores, 10), torch.Generator().manual_seed(0)
    first, late = order(0, 20, generator), order(5, 20, generator)
    assert sorted(first.tolist()) == list(range(14, 20)) and sorted(late.tolist()) == list(range(20))


# -- folding, calibration ----------------------------------------------------------------------------------------------


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()
        self.depth, self.norm2, self.relu2 = nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4), nn.ReLU()
        self.flatten, self.head, self.norm3 = nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3)

    def forward(self, x):
        return self.norm3(
            self.head(self.flatten(self.relu2(self.norm2(self.depth(self.relu(self.norm(self.conv(x))))))))
        )


def train_normed(settings: QuantiseSettings):
    rng = np.random.default_rng(0)
    y = np.arange(48) % 3
    x = (rng.normal(size=(48, 1, 4, 4)) + y[:, None, None, None]).astype(np.float32)
    with seed_torch(2, 1):
        model = quantise(Normed(), settings)
        fit(model, x, y.astype(np.int64), TrainSettings(epochs=3, batch=12, learning_rate=0.02))
    with torch.no_grad():
        model.norm.weight[1] *= -1  # a falling channel
    return model, x


def test_folding_keeps_the_weights_integers_and_moves_biases_onto_the_grid():
    settings = QuantiseSettings(per_channel=True, fold_batch_norm=True, input_signed=True, weight_bits=4, act_bits=8)
    model, x = train_normed(settings)
    before, integers = predict(model, x), {p: _levels(model.get_submodule(p)) for p in ("conv", "depth", "head")}
    folded = fold_batch_norms(model, settings).eval()
    assert not any(isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)) for part in folded.modules())
    for path, levels in integers.items():
        assert torch.equal(_levels(folded.get_submodule(path)).abs(), levels.abs()), path
        assert folded.get_submodule(path).bias_quant is not None and folded.get_submodule(path).bias is not None
    level = float(folded.output_quant.act_quant.scale())
    assert np.abs(predict(folded, x) - before).max() <= 2.5 * level  # the biases' rounding, through two layers


def _levels(layer):
    scale = layer.weight_quant.scale()
    return (layer.quant_weight().value / scale).round()


def test_a_folded_network_exports_and_its_requantisers_are_affine(tmp_path):
    from greenedge.frontends.brevitas import export_model
    from greenedge.graph import Requantise
    from greenedge.lower import lower_file

    settings = QuantiseSettings(per_channel=True, fold_batch_norm=True, input_signed=True)
    model, x = train_normed(settings)
    export_model(fold_batch_norms(model, settings).eval(), x[:4], tmp_path / "model.onnx")
    graph = lower_file(tmp_path / "model.onnx").graph
    steps = [op for op in graph.ops if isinstance(op, Requantise)]
    assert steps and all(op.affine is not None for op in steps)


def test_folding_needs_a_scale_for_each_channel():
    with pytest.raises(ValueError) as caught:
        QuantiseSettings(fold_batch_norm=True)
    assert str(caught.value) == (
        "folds batch norms, which gives each channel a scale of its own; set per_channel to true and "
        "weight_bits to 2 or more"
    )


def test_calibration_sets_scales_and_trains_nothing():
    x, y = samples()
    with seed_torch(0, 1):
        model = network(16)
        fit(model, x, y, TrainSettings(epochs=12, batch=16, learning_rate=0.02))
        expected, weights = predict(model, x), model.get_submodule("0").weight.detach().clone()
        settings = QuantiseSettings(weight_bits=8, act_bits=8, input_signed=True, method="ptq")
        calibrated = calibrate(quantise(model, settings), x)
    assert torch.equal(calibrated.get_submodule("0").weight, weights)
    assert np.abs(predict(calibrated, x) - expected).max() < 0.05 * np.abs(expected).max()  # three 8-bit roundings


# -- search ------------------------------------------------------------------------------------------------------------


def test_the_choice_is_the_best_of_all(rng):
    options = {
        f"l{k}": tuple(Option(b, float(rng.integers(1, 30) * b), float(rng.random() / b)) for b in (2, 4, 8))
        for k in range(5)
    }
    import itertools

    for budget in (150.0, 300.0, 500.0):
        ways = [way for way in itertools.product(*options.values()) if sum(o.cost for o in way) <= budget]
        chosen = cheapest_loss(options, budget)
        if not ways:
            assert chosen is None
            continue
        assert sum(o.loss for o in chosen.values()) == pytest.approx(min(sum(o.loss for o in way) for way in ways))
        assert sum(o.cost for o in chosen.values()) <= budget


@pytest.mark.parametrize(
    "unit, least", [("bytes", 32 * 2 / 8 + 24 * 2 / 8), ("luts", 2 * (7 + 4 / 3 * 2 * 8)), ("joules", None)]
)
def test_a_budget_is_kept_and_the_network_left_alone(unit, least):
    x, y = samples()
    with seed_torch(0, 1):
        model = network()
        fit(model, x, y, TrainSettings(epochs=5, batch=16, learning_rate=0.02))
    before = predict(model, x)
    quantise_settings = QuantiseSettings(act_bits=8)
    most = sum(layer_cost(n, n, 8, 8, SearchSettings(budget=1, unit=unit)) for n in (32, 24))
    found = search_bits(
        model,
        x,
        y,
        SearchSettings(budget=0.6 * most, unit=unit),
        quantise_settings,
        cross_entropy(TrainSettings(epochs=1)),
    )
    assert found.cost <= 0.6 * most and set(found.bits) == {"0", "2"} and found.loss >= 0
    assert np.array_equal(predict(model, x), before)
    assert quantise_settings.with_weight_bits(found.bits).layers["0"].weight_bits == found.bits["0"]
    if least is not None:
        with pytest.raises(TargetError) as caught:
            search_bits(
                model,
                x,
                y,
                SearchSettings(budget=1, unit=unit),
                quantise_settings,
                cross_entropy(TrainSettings(epochs=1)),
            )
        assert str(caught.value) == (
            f"[search] budget is 1 {unit}; the network takes at least {least:.4g} with 2-bit weights: raise the "
            "budget or add narrower widths."
        )


def test_rounding_is_narrow_range():
    weight = torch.tensor([[-1.0, 0.4, 0.2, 1.0]])
    assert round_weights(weight, 2).tolist() == [[-1, 0, 0, 1]]
    assert torch.allclose(round_weights(weight, 4) * 7, (weight * 7).round())
