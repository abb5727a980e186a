"""Epochs that a budget of joules buys, from a short pilot of the same recipe."""

from __future__ import annotations

import json
from pathlib import Path

from greenedge.errors import GreenedgeError
from greenedge.files.atomic_write import atomic_write
from greenedge.files.json_file import read_table
from greenedge.files.locks import hold_lock
from greenedge.files.scratch import scratch_folder
from greenedge.frontends.import_onnx import ModelFile
from greenedge.progress import ProgressFn
from greenedge.run.job import Job
from greenedge.sweep.sweep import Sweep

PILOT_EPOCHS = 4
_PILOTS = "pilots"


def buy_epochs(sweep: Sweep, job: Job, study: Path, progress: ProgressFn) -> int:
    """Epochs: (budget − what is spent once) / an epoch's joules. A pilot is trained once in a study, for all points
    with the same training. Raises GreenedgeError where the budget buys none."""
    assert not isinstance(job.source, ModelFile), "a model file is not trained"
    folder = study / _PILOTS
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{job.source.digest[:16]}.json"
    with hold_lock(folder / f".{path.stem}.lock"):
        if not path.is_file():
            once, epoch = _run_pilot(job, sweep, progress)
            with atomic_write(path) as aside:
                aside.write_text(json.dumps({"once_j": once, "epoch_j": epoch}) + "\n", encoding="utf-8")
        try:
            found = read_table(path)
            once, epoch = float(found["once_j"]), float(found["epoch_j"])
        except (ValueError, KeyError, TypeError):
            raise GreenedgeError(f"{path} is damaged; delete it and run the command again.") from None
    epochs = int((sweep.energy_j - once) // epoch) if epoch else 0
    if epochs < 1:
        raise GreenedgeError(
            f"{sweep.energy_j:g} J buy no epoch; one takes about {epoch:.3g} J and what comes before {once:.3g} J: "
            "raise --energy."
        )
    return epochs


def _run_pilot(job: Job, sweep: Sweep, progress: ProgressFn) -> tuple[float, float]:
    """(joules that are spent once, joules of an epoch) of a short training."""
    from dataclasses import replace

    from greenedge.report.training import energy_of
    from greenedge.train import train_stage

    assert not isinstance(job.source, ModelFile)
    recipe = replace(job.source, train=replace(job.source.train, epochs=PILOT_EPOCHS))
    with scratch_folder("pilot") as folder:
        metrics = train_stage(recipe, Path(folder), lambda done, total, text: progress(done, total, f"pilot: {text}"))
    spent = next(iter(metrics["spent"].values()))
    epoch = (spent[-1] - spent[0]) / (len(spent) - 1)  # the first one also warms up
    total = energy_of(metrics["ledger"]["total"])
    assert total is not None, "a training keeps its ledger"
    return total["value"] - epoch * PILOT_EPOCHS, epoch
