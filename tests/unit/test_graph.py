"""The integer graph executes as torch does in float64, is stored safely, and says what it was fed wrongly."""

from __future__ import annotations

import dataclasses
import json
import zipfile

import numpy as np
import pytest

from greenedge.errors import GreenedgeError
from greenedge.graph import (
    Conv,
    ConvTranspose,
    DepthToSpace,
    Edge,
    Graph,
    Input,
    MaxPool,
    Reshape,
    SumPool,
    Upsample,
    graph_digest,
    load_graph,
    run_graph,
    save_graph,
)


def _one(op, shape, lo=-8, hi=7, out=None) -> Graph:
    edges = {"x": Edge("x", shape, lo, hi), "y": Edge("y", out or shape, -(10**6), 10**6)}
    return Graph("one", (Input("x", (), "x"), op), edges, ("y",))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_convolutions_are_torchs(rng, groups):
    import torch
    from torch.nn import functional

    x = rng.integers(-8, 8, (3, 4, 9, 7))
    weight = rng.integers(-7, 8, (8, 4 // groups, 3, 2))
    op = Conv("y", ("x",), "y", weight, (2, 1), (1, 0, 2, 1), (1, 2), groups)
    padded = functional.pad(torch.tensor(x).double(), (0, 1, 1, 2))
    expected = functional.conv2d(
        padded, torch.tensor(weight).double(), stride=(2, 1), dilation=(1, 2), groups=groups
    ).numpy()
    assert np.array_equal(run_graph(_one(op, (4, 9, 7), out=expected.shape[1:]), x)["y"], expected)
    weight = rng.integers(-7, 8, (4, 3, 3, 2))
    op = ConvTranspose("y", ("x",), "y", weight, (2, 3), (1, 0, 1, 0), (1, 2), (1, 1), groups)
    expected = functional.conv_transpose2d(
        torch.tensor(x).double(),
        torch.tensor(weight).double(),
        stride=(2, 3),
        padding=(1, 0),
        dilation=(1, 2),
        output_padding=(1, 1),
        groups=groups,
    ).numpy()
    assert np.array_equal(run_graph(_one(op, (4, 9, 7), out=expected.shape[1:]), x)["y"], expected)


def test_one_dimension_and_pools_are_torchs(rng):
    import torch
    from torch.nn import functional

    x = rng.integers(-8, 8, (2, 3, 12))
    weight = rng.integers(-7, 8, (4, 3, 3))
    op = Conv("y", ("x",), "y", weight, (2,), (1, 1), (2,))
    expected = functional.conv1d(
        torch.tensor(x).double(), torch.tensor(weight).double(), stride=2, padding=1, dilation=2
    ).numpy()
    assert np.array_equal(run_graph(_one(op, (3, 12), out=expected.shape[1:]), x)["y"], expected)
    image = rng.integers(-8, 8, (2, 3, 7, 8))
    pooled = functional.max_pool2d(torch.tensor(image).double(), 3, 2, 1).numpy()
    op = MaxPool("y", ("x",), "y", (3, 3), (2, 2), (1, 1, 1, 1))
    assert np.array_equal(run_graph(_one(op, (3, 7, 8), out=pooled.shape[1:]), image)["y"], pooled)
    summed = functional.avg_pool2d(torch.tensor(image).double(), 2, 2, divisor_override=1).numpy()
    op = SumPool("y", ("x",), "y", (2, 2), (2, 2), (0,) * 4)
    assert np.array_equal(run_graph(_one(op, (3, 7, 8), out=summed.shape[1:]), image)["y"], summed)


def test_movers_are_torchs(rng):
    import torch
    from torch.nn import functional

    x = rng.integers(-8, 8, (2, 8, 3, 4))
    shuffled = functional.pixel_shuffle(torch.tensor(x), 2).numpy()
    assert np.array_equal(
        run_graph(_one(DepthToSpace("y", ("x",), "y", 2, "CRD"), (8, 3, 4), out=(2, 6, 8)), x)["y"], shuffled
    )
    larger = functional.interpolate(torch.tensor(x).double(), scale_factor=(2, 3), mode="nearest").numpy()
    assert np.array_equal(
        run_graph(_one(Upsample("y", ("x",), "y", (1, 2, 3)), (8, 3, 4), out=(8, 6, 12)), x)["y"], larger
    )


def test_sums_beyond_float32_and_float64_stay_exact():
    from greenedge.graph import Dense

    for size in (1 << 12, 1 << 26, 1 << 40):
        weight = np.array([[size], [size - 1], [1 - size]])
        graph = Graph(
            "wide",
            (Input("x", (), "x"), Dense("y", ("x",), "y", weight)),
            {"x": Edge("x", (3,), -(1 << 20), 1 << 20), "y": Edge("y", (1,), 0, 0)},
            ("y",),
        )
        x = np.array([[1 << 20, 1, 3], [-1, 1 << 20, (1 << 20) - 1]])
        assert run_graph(graph, x)["y"].tolist() == [
            [sum(int(a) * int(b) for a, b in zip(row, weight[:, 0], strict=True))] for row in x
        ]


@pytest.mark.parametrize(
    "lo, hi, dtype",
    [
        (0, 15, "UINT4"),
        (-8, 7, "INT4"),
        (0, 0, "UINT1"),
        (-1, 0, "INT1"),
        (-1, 1, "INT2"),
        (0, 16, "UINT5"),
        (-128, 254, "INT9"),
    ],
)
def test_types_are_the_narrowest(lo, hi, dtype):
    assert Edge("x", (), lo, hi).dtype == dtype


@pytest.mark.parametrize(
    "x, said",
    [
        (np.zeros((2, 5), np.int64), "input 'x' has shape (2, 5); it must be ('batch', 4)."),
        (np.zeros((2, 4)), "input 'x' is float64; it takes integers (floats go through the prologue first)."),
        (np.full((1, 4), 9), "input 'x' holds 9…9; it must lie in 0…7 (UINT3)."),
        ({}, "input 'x' is missing; it has shape ('batch', 4)."),
    ],
)
def test_wrong_inputs_are_named(x, said):
    graph = Graph("g", (Input("x", (), "x"),), {"x": Edge("x", (4,), 0, 7)}, ("x",))
    with pytest.raises(GreenedgeError) as error:
        run_graph(graph, x)
    assert str(error.value) == said


def _stored(rng, folder) -> Graph:
    from tests.backends.nets import mlp

    graph = mlp(rng)
    save_graph(graph, folder)
    return graph


def test_what_was_saved_is_loaded(rng, tmp_path):
    graph = _stored(rng, tmp_path)
    again = load_graph(tmp_path)
    assert graph_digest(again) == graph_digest(graph)
    x = rng.integers(0, 16, (9, 12))
    assert np.array_equal(run_graph(again, x)["act2"], run_graph(graph, x)["act2"])


def test_one_weight_changes_the_digest(rng, tmp_path):
    graph = _stored(rng, tmp_path)
    weight = graph.ops[1].weight.copy()
    weight[0, 0] += 1
    other = dataclasses.replace(
        graph, ops=(graph.ops[0], dataclasses.replace(graph.ops[1], weight=weight), *graph.ops[2:])
    )
    assert graph_digest(other) != graph_digest(graph)


@pytest.mark.parametrize("damage", ["cut", "foreign", "no-arrays", "unknown-op", "pickle"])
def test_damaged_graphs_are_one_sentence(rng, tmp_path, damage):
    _stored(rng, tmp_path)
    structure, arrays = tmp_path / "graph.json", tmp_path / "graph.npz"
    if damage == "cut":
        arrays.write_bytes(arrays.read_bytes()[:100])
    elif damage == "foreign":
        structure.write_text(json.dumps({"format": "other/9"}))
    elif damage == "no-arrays":
        arrays.unlink()
    elif damage == "unknown-op":
        structure.write_text(structure.read_text().replace('"Dense"', '"Exec"', 1))
    else:
        np.savez(arrays, **{"1.weight": np.array([{"a": 1}], dtype=object)})
    with pytest.raises(GreenedgeError) as error:
        load_graph(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_an_archive_that_would_fill_memory_is_refused(rng, tmp_path, monkeypatch):
    from greenedge.graph import store

    _stored(rng, tmp_path)
    monkeypatch.setattr(store, "_MAX_BYTES", 1000)
    with pytest.raises(GreenedgeError) as error:
        load_graph(tmp_path)
    with zipfile.ZipFile(tmp_path / "graph.npz") as archive:
        size = sum(info.file_size for info in archive.infolist())
    assert str(error.value) == f"{tmp_path / 'graph.npz'} would unpack to {size:,} bytes; at most 1,000 are accepted."
    monkeypatch.setattr(store, "_MAX_BYTES", size)
    load_graph(tmp_path)
    monkeypatch.setattr(store, "_MAX_BYTES", size - 1)
    with pytest.raises(GreenedgeError, match="would unpack to"):
        load_graph(tmp_path)


def test_a_graph_made_from_another_leaves_its_producers_alone():
    """dataclasses.replace copies what is handed in, and the index of producers is not."""
    step = Reshape("flat", ("x",), "y", (4,))
    edges = {"x": Edge("x", (2, 2), 0, 1), "y": Edge("y", (4,), 0, 1)}
    graph = Graph("g", (Input("x", (), "x"), step), edges, ("y",))
    other = dataclasses.replace(graph, ops=(graph.ops[0], dataclasses.replace(step, name="other")))
    assert graph.producer("y") is step and other.producer("y").name == "other"
