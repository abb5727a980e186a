"""The import stage: the samples drawn where none are given, and what enters the cache key."""

import fakes
import numpy as np
import onnx
import pytest

from greenedge.errors import GreenedgeError
from greenedge.files.arrays import read_array
from greenedge.frontends.import_onnx import SAMPLES, ModelFile, import_stage


def test_samples_are_drawn_over_the_quantisers_range(tmp_path):
    model = ModelFile(fakes.write_model(tmp_path / "small.onnx"))
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        assert import_stage(model, tmp_path / folder) == f"14 nodes, {SAMPLES} samples drawn at random".replace(
            "14", str(len(onnx.load(model.path).graph.node))
        )
    a, b = (np.load(tmp_path / folder / "inputs.npy") for folder in "ab")
    assert a.shape == (SAMPLES, 6) and a.dtype == np.float32 and (a == b).all()
    assert a.min() < 0 and a.max() > 15  # UINT4 at scale 1: beyond both clamps
    assert set(np.clip(np.rint(a), 0, 15).ravel()) == set(range(16))


def test_what_enters_the_key(tmp_path):
    path = fakes.write_model(tmp_path / "small.onnx")
    plain = ModelFile(path).inputs
    np.save(tmp_path / "x.npy", np.zeros((2, 6)))
    assert set(ModelFile(path, tmp_path / "x.npy").inputs) == {"model", "inputs"}
    assert ModelFile(path, declared={"": "uint4"}).inputs == plain | {"declared ": "uint4"}
    fakes.write_model(path, hidden=7)
    assert ModelFile(path).inputs != plain


def test_external_data_enters_the_key_and_becomes_one_file(tmp_path):
    path = fakes.write_model(tmp_path / "small.onnx")
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="small.data", size_threshold=0)
    assert set(ModelFile(path).inputs) == {"model", "data small.data"}
    (tmp_path / "run").mkdir()
    import_stage(ModelFile(path), tmp_path / "run")
    assert all(not tensor.external_data for tensor in onnx.load(tmp_path / "run" / "model.onnx").graph.initializer)


def test_an_archive_is_no_array(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.zeros(2))
    with pytest.raises(GreenedgeError) as error:
        read_array(tmp_path / "x.npz")
    assert str(error.value) == f"{tmp_path / 'x.npz'} holds several arrays; give a .npy file with one."
