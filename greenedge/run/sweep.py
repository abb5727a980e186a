"""`greenedge sweep`: one recipe, some settings varied, the runs side by side; on request at equal training energy."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from greenedge.errors import GreenedgeError, TargetError
from greenedge.files.atomic_write import atomic_write
from greenedge.files.json_file import read_json
from greenedge.files.scratch import scratch_folder
from greenedge.run.jobs import find_recipe, jobs_for, run_all, split_settings

_PILOT_EPOCHS = 4
_MOST = 256  # variants of one sweep


@dataclass(frozen=True)
class Sweep:
    """What to run: a recipe's name or folder, KEY=VALUE for all runs, KEY=V1,V2 to vary, and where it goes.

    energy_j    joules that each training may take; 0 leaves the epochs as the recipe has them
    """

    flow: str
    vary: Sequence[str]
    sets: Sequence[str]
    targets: Sequence[str]
    backend: str | None
    out: Path
    until: str
    energy_j: float = 0.0


def variants(vary: Sequence[str]) -> list[dict[str, str]]:
    """Every combination of ("KEY=V1,V2", …), in order; commas inside brackets part nothing. Raises TargetError."""
    axes = []
    for text in vary:
        key, equals, values = text.partition("=")
        choices = [value.strip() for value in re.split(r",(?![^\[]*\])", values)]
        if not equals or not key or not all(choices):
            raise TargetError(
                f"--vary {text!r} is not understood; write KEY=VALUE,VALUE, such as train.optimiser=sgd,adam."
            )
        axes.append([(key, value) for value in choices])
    found = [dict(each) for each in itertools.product(*axes)]
    if not vary or len(found) > _MOST:
        raise TargetError(
            f"a sweep has 1 to {_MOST} variants, these are {len(found) if vary else 0}; say --vary KEY=VALUE,VALUE."
        )
    return found


def run_sweep(sweep: Sweep, display: Callable, tell: Callable[[str], None] = lambda line: None) -> dict:
    """Runs every variant in a folder of its own; returns and writes sweep.json and sweep.html.

    Every variant's settings are checked before the first one is trained. Raises GreenedgeError.
    """
    from greenedge.report.sweep import row_of, write_sweep

    chosen = variants(sweep.vary)
    planned = [(each, *_jobs(sweep, each)) for each in chosen]
    epochs = _epochs(sweep, chosen, tell) if sweep.energy_j else {}
    rows = []
    for each, _, _ in planned:
        name = name_of(each)
        tell(name)
        recipe, jobs = _jobs(sweep, each, epochs.get(name))
        runs, _ = run_all(jobs, sweep.out / folder_of(each), sweep.until, display)
        rows.append(row_of(name, runs) | {"settings": each, "folder": folder_of(each)})
    notes = (
        [
            f"Each training had {sweep.energy_j:g} J: its epochs follow from a pilot of {_PILOT_EPOCHS}, "
            "to a whole epoch; the schedule is stretched over them."
        ]
        if sweep.energy_j
        else []
    )
    report = write_sweep(
        rows, sweep.out / "sweep.html", planned[0][1].title, f"{len(rows)} trainings side by side", notes
    )
    result = {
        "format": "greenedge-sweep/1",
        "recipe": planned[0][1].name,
        "rows": rows,
        "energy_j": sweep.energy_j or None,
        "epochs": epochs or None,
        "report": str(report),
    }
    _write(sweep.out / "sweep.json", result)
    return result


def name_of(settings: Mapping[str, str]) -> str:
    """ "optimiser=adam schedule=cosine": the last part of each key and its value."""
    return " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in settings.items())


def folder_of(settings: Mapping[str, str]) -> str:
    """The same as a folder's name."""
    return re.sub(r"[^A-Za-z0-9_.=+-]+", "_", ",".join(f"{key}={value}" for key, value in settings.items()))[:120]


def _jobs(sweep: Sweep, settings: Mapping[str, str], epochs: int | None = None):
    """(recipe, jobs) of one variant; raises TargetError where its settings are not in order."""
    texts = [*sweep.sets, *(f"{key}={value}" for key, value in settings.items())]
    texts += [f"train.epochs={epochs}"] if epochs else []
    values, options = split_settings(texts)
    from greenedge.train import Recipe

    recipe = find_recipe(sweep.flow, values)
    if not isinstance(recipe, Recipe):
        raise TargetError(f"{recipe.name} trains a language model; a sweep sets recipes of networks side by side.")
    return recipe, jobs_for(recipe, sweep.targets, sweep.backend, {**recipe.build, **options}, sweep.until)


def _epochs(sweep: Sweep, chosen: Sequence[Mapping[str, str]], tell: Callable[[str], None]) -> dict[str, int]:
    """Epochs that the energy buys, by variant: (budget - what is spent once) / an epoch's joules, from a short pilot.

    What pilots found is kept in pilot.json, so that running again trains the same.
    """
    path = sweep.out / "pilot.json"
    known = _read_pilots(path)
    for each in chosen:
        key = f"{name_of(each)} | {' '.join(sweep.sets)} | {sweep.energy_j:g}"
        if key not in known:
            tell(f"pilot: {name_of(each)}")
            known[key] = _pilot(sweep, each)
            _write(path, known)
    return {name_of(each): known[f"{name_of(each)} | {' '.join(sweep.sets)} | {sweep.energy_j:g}"] for each in chosen}


def _read_pilots(path: Path) -> dict:
    try:
        found = read_json(path) if path.is_file() else {}
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, int) for value in found.values()):
        raise GreenedgeError(f"{path} is damaged; delete it and run the command again.")
    return found


def _pilot(sweep: Sweep, settings: Mapping[str, str]) -> int:
    from greenedge.report.training import energy_of
    from greenedge.train import train_stage

    recipe, _ = _jobs(sweep, settings, _PILOT_EPOCHS)
    with scratch_folder("pilot") as folder:
        metrics = train_stage(recipe, Path(folder))
    spent = next(iter(metrics["spent"].values()))
    epoch = (spent[-1] - spent[0]) / (len(spent) - 1)  # the first one also warms up
    total = energy_of(metrics["ledger"]["total"])
    assert total is not None, "a training keeps its ledger"
    once = total["value"] - epoch * _PILOT_EPOCHS
    epochs = int((sweep.energy_j - once) // epoch) if epoch else 0
    if epochs < 1:
        raise GreenedgeError(
            f"{name_of(settings)}: {sweep.energy_j:g} J buy no epoch; one takes about {epoch:.3g} J and what comes "
            f"before {once:.3g} J: raise --energy."
        )
    return epochs


def _write(path: Path, content: dict) -> None:
    with atomic_write(path) as aside:
        aside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
