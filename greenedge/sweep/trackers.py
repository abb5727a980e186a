"""Trackers of experiments: each is a callback `on_stage(run, summary)` that logs a trial's stages and figures.

Offline by default: files in the study's folder. An address of the tracker's own settings (MLFLOW_TRACKING_URI,
WANDB_MODE) is its own and is taken as it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from greenedge.errors import TargetError, ToolError
from greenedge.target import nearest

OnStage = Callable[[Path, Mapping[str, Any]], None]


@contextmanager
def open_trackers(names: Sequence[str], folder: Path, project: str, own: OnStage | None = None) -> Iterator[OnStage]:
    """One callback for all of these trackers, and the caller's own. Raises TargetError for a name that is none,
    ToolError where its package is not installed."""
    for name in names:
        if name not in TRACKERS:
            raise TargetError(
                f"there is no tracker {name!r}{nearest(name, list(TRACKERS))}; trackers are: {', '.join(TRACKERS)}."
            )
    with ExitStack() as opened:
        callbacks = [own] if own else []
        for name in names:
            try:
                callbacks.append(opened.enter_context(TRACKERS[name](folder, project)))
            except ImportError:
                raise ToolError(f'--track {name} needs its package: pip install "greenedge[{name}]".') from None

        def on_stage(run: Path, summary: Mapping[str, Any]) -> None:
            for callback in callbacks:
                callback(run, summary)

        yield on_stage


def _numbers(summary: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a trial, and the seconds of the stage."""
    found = {key: float(figure["value"]) for key, figure in summary["figures"].items()}
    if summary["seconds"] is not None:
        found[f"seconds/{summary['stage']}"] = float(summary["seconds"])
    return found


def _is_last(summary: Mapping[str, Any]) -> bool:
    return summary["stage"] == "trial"


@contextmanager
def track_mlflow(folder: Path, project: str) -> Iterator[OnStage]:
    """MLflow: a run a trial, settings as parameters, figures as metrics; files in mlruns unless MLFLOW_TRACKING_URI."""
    import mlflow
    from mlflow.tracking import MlflowClient

    client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(folder / 'mlflow.db').resolve()}")
    known = client.get_experiment_by_name(project)
    experiment = known.experiment_id if known else client.create_experiment(project)
    ids: dict[Path, str] = {}

    def on_stage(run: Path, summary: Mapping[str, Any]) -> None:
        if run not in ids:
            ids[run] = client.create_run(experiment, run_name=summary["name"]).info.run_id
            for key, value in summary["settings"].items():
                client.log_param(ids[run], key, value)
        for key, number in _numbers(summary).items():
            client.log_metric(ids[run], key, number)
        if _is_last(summary):
            client.set_tag(ids[run], "status", summary["status"])
            client.set_terminated(ids.pop(run), "FINISHED" if summary["status"] == "done" else "FAILED")

    yield on_stage
    del mlflow


@contextmanager
def track_wandb(folder: Path, project: str) -> Iterator[OnStage]:
    """Weights & Biases: a run a trial; offline, below the study's folder, unless WANDB_MODE says otherwise."""
    import wandb

    mode = os.environ.get("WANDB_MODE", "offline")
    runs: dict[Path, Any] = {}

    def on_stage(run: Path, summary: Mapping[str, Any]) -> None:
        if run not in runs:
            runs[run] = wandb.init(
                project=project,
                name=summary["name"],
                config=dict(summary["settings"]),
                dir=str(folder),
                mode=mode,
                reinit="create_new",
            )
        runs[run].log(_numbers(summary))
        if _is_last(summary):
            runs[run].summary["status"] = summary["status"]
            runs.pop(run).finish(exit_code=0 if summary["status"] == "done" else 1)

    yield on_stage
    for left in runs.values():
        left.finish(exit_code=1)


@contextmanager
def track_tensorboard(folder: Path, project: str) -> Iterator[OnStage]:
    """TensorBoard: event files below the study's folder; the settings with the last figures as hyperparameters."""
    from torch.utils.tensorboard import SummaryWriter

    steps: dict[Path, int] = {}

    def on_stage(run: Path, summary: Mapping[str, Any]) -> None:
        steps[run] = steps.get(run, -1) + 1
        numbers = _numbers(summary)
        with SummaryWriter(str(folder / "tensorboard" / run.name)) as writer:
            for key, number in numbers.items():
                writer.add_scalar(key, number, steps[run])
            if _is_last(summary):
                finals = {f"final/{key}": number for key, number in numbers.items()}
                writer.add_hparams({**summary["settings"], "status": summary["status"]}, finals, run_name=".")

    yield on_stage


TRACKERS: Mapping[str, Callable[[Path, str], AbstractContextManager[OnStage]]] = {
    "mlflow": track_mlflow,
    "wandb": track_wandb,
    "tensorboard": track_tensorboard,
}
