"""The loader of the real jet file, on small archives made here, and the look-alike data."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from greenedge.errors import TargetError
from greenedge.train import load_recipe


@pytest.fixture(scope="module")
def recipe(repo):
    import sys

    loaded = load_recipe(repo / "flows" / "jets-mlp")
    return sys.modules[type(loaded._data_settings).__module__]


def write_jets(
    recipe, path: Path, rng, rows: int = 60, kind: str = "arff", shuffled: bool = False
) -> tuple[np.ndarray, list[str]]:
    """A small file like OpenML's: ids before, the class in the middle."""
    x = rng.normal(size=(rows, 16)).round(4)
    labels = [recipe.CLASSES[k % 5] for k in range(rows)]
    order = list(rng.permutation(16)) if shuffled else list(range(16))
    names = ["index", *(recipe.FEATURES[k] for k in order), "class"]
    lines = [
        ",".join(["7", *(repr(float(row[k])) for k in order), label]) for row, label in zip(x, labels, strict=True)
    ]
    if kind == "arff":
        head = [
            "% made by a test",
            "@RELATION jets",
            "",
            *(f"@ATTRIBUTE {name} REAL" for name in names[:-1]),
            "@ATTRIBUTE class {g,q,w,z,t}",
            "",
            "@DATA",
        ]
    else:
        head = [",".join(names)]
    text = "\n".join([*head, *lines]) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return x, labels


@pytest.mark.parametrize(
    "name, kind", [("jets.arff", "arff"), ("jets.arff.gz", "arff"), ("jets.csv", "csv"), ("jets.csv.gz", "csv")]
)
def test_the_real_files_are_read(recipe, rng, tmp_path, name, kind):
    x, labels = write_jets(recipe, tmp_path / name, rng, kind=kind, shuffled=True)
    got, classes = recipe.read_file(tmp_path / name)
    assert np.array_equal(got, x) and [recipe.CLASSES[k] for k in classes] == labels


def test_the_file_enters_the_recipe(repo, recipe, rng, tmp_path):
    write_jets(recipe, tmp_path / "jets.csv", rng, rows=300, kind="csv")
    loaded = load_recipe(
        repo / "flows" / "jets-mlp", {"data.file": str(tmp_path / "jets.csv"), "data.train": "200", "data.test": "100"}
    )
    before, data = loaded.digest, loaded.load_data()
    assert data.x_train.shape == (200, 16) and data.x_test.dtype == np.float32
    assert np.abs(data.x_train.mean(axis=0)).max() < 1e-5
    write_jets(recipe, tmp_path / "jets.csv", np.random.default_rng(1), rows=300, kind="csv")
    again = load_recipe(
        repo / "flows" / "jets-mlp", {"data.file": str(tmp_path / "jets.csv"), "data.train": "200", "data.test": "100"}
    )
    assert again.digest != before


def test_what_is_wrong_with_a_file_is_told(repo, recipe, rng, tmp_path, monkeypatch):
    path = tmp_path / "jets.csv"

    def refusal() -> str:
        with pytest.raises(TargetError) as error:
            recipe.read_file(path)
        return str(error.value).replace(str(path), "jets.csv")

    path.write_text("@RELATION x\n")
    assert refusal() == "jets.csv is neither ARFF (no @data) nor CSV; get data set 42468 from OpenML again."
    path.write_text("a,b,class\n1,2,g\n")
    assert refusal() == f"jets.csv has no column 'zlogz'; data set 42468 has: {', '.join((*recipe.FEATURES, 'class'))}."
    head = ",".join((*recipe.FEATURES, "class"))
    path.write_text(f"{head}\n{','.join('1' * 16)},h\n")
    assert refusal() == (
        "jets.csv: row 1 of the data is '1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,h'; a jet has 16 numbers and "
        "one of the classes g, q, w, z, t."
    )
    path.write_text(f"{head}\n{','.join(['1'] * 15)},inf,g\n")
    assert refusal() == "jets.csv: row 1 of the data holds a number that is not finite."
    path.write_text(f"{head}\n")
    assert refusal() == "jets.csv has no rows; get data set 42468 from OpenML again."
    path.write_text("x" * 200)
    monkeypatch.setattr(recipe, "_MAX_BYTES", 100)
    assert refusal() == "jets.csv has 200 bytes; at most 100 are read."
    packed = tmp_path / "jets.csv.gz"
    packed.write_bytes(gzip.compress(b"x" * 5000))
    with pytest.raises(TargetError, match="unpacks to more than 100 bytes; no more are read"):
        recipe.read_file(packed)
    write_jets(recipe, path, rng, kind="csv")
    monkeypatch.undo()
    with pytest.raises(TargetError, match="has 60 jets; data.train and data.test ask for 30,000"):
        load_recipe(repo / "flows" / "jets-mlp", {"data.file": str(path)}).load_data()


def test_the_made_data_has_every_class_and_repeats(recipe):
    (x, y), (again, _) = (recipe.make_jets(np.random.default_rng(3), 500) for _ in range(2))
    assert np.array_equal(x, again) and np.isfinite(x).all() and x.shape == (500, 16) and set(y) == set(range(5))
