"""Each tracker's own package, offline, must have what a sweep told it."""

from __future__ import annotations

from pathlib import Path

import pytest

from greenedge.errors import TargetError, ToolError
from greenedge.sweep import trackers
from greenedge.sweep.trackers import open_trackers


def tell(folder: Path, name: str) -> None:
    """What a sweep of two points says: one is built, one refused."""
    with open_trackers([name], folder, "digits") as on_stage:
        for number, status in ((0, "done"), (1, "refused")):
            run = folder / "trials" / f"{number:04d}"
            facts = {"name": f"bits={number}", "settings": {"quantise.weight_bits": str(number)}}
            figures = {"accuracy": {"value": 0.5 + number / 4, "evidence": "test samples"}}
            on_stage(run, {**facts, "stage": "train", "status": "done", "seconds": 1.5, "figures": {}})
            on_stage(run, {**facts, "stage": "trial", "status": status, "seconds": None, "figures": figures})


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tell(tmp_path, "tensorboard")
    for number in (0, 1):
        read = EventAccumulator(str(tmp_path / "tensorboard" / f"{number:04d}"))
        read.Reload()
        assert [event.value for event in read.Scalars("accuracy")] == [0.5 + number / 4]
        assert [event.value for event in read.Scalars("seconds/train")] == [1.5]


def test_mlflow(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tell(tmp_path, "mlflow")
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    found = {run.info.run_name: (run.info.status, run.data.params, run.data.metrics["accuracy"]) for run in runs}
    assert found == {
        "bits=0": ("FINISHED", {"quantise.weight_bits": "0"}, 0.5),
        "bits=1": ("FAILED", {"quantise.weight_bits": "1"}, 0.75),
    }


def _read_wandb(path: Path) -> dict[str, str]:
    """{key: value as JSON} of an offline run's history and its name: LevelDB's log of records, behind 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts, found = path.read_bytes(), 7, b"", {}
    while at + 7 <= len(data):
        room = 32768 - at % 32768
        if room < 7:  # no head of a record fits into what is left of the block
            at += room
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            found |= {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
            found |= {"name": record.run.display_name} if record.run.display_name else {}
    return found


def test_wandb(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    tell(tmp_path, "wandb")
    found = [_read_wandb(path) for path in (tmp_path / "wandb").glob("offline-run-*/*.wandb")]
    assert {each["name"]: each["accuracy"] for each in found} == {"bits=0": "0.5", "bits=1": "0.75"}


def test_names_that_are_none(tmp_path, monkeypatch):
    with pytest.raises(TargetError) as caught:
        tell(tmp_path, "mlflov")
    assert str(caught.value) == (
        "there is no tracker 'mlflov' (did you mean 'mlflow'?); trackers are: mlflow, wandb, tensorboard."
    )

    def missing(folder, project):
        raise ImportError

    monkeypatch.setattr(trackers, "TRACKERS", {"wandb": missing})
    with pytest.raises(ToolError, match=r'^--track wandb needs its package: pip install "greenedge\[wandb\]".$'):
        tell(tmp_path, "wandb")
