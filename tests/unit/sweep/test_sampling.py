"""NSGA-II finds nearly the whole front with 40 of 108 points, on the grid that benchmarks/sweep.py recorded."""

from __future__ import annotations

import json

import numpy as np
import pytest

from greenedge.sweep.engine import work
from greenedge.sweep.front import as_costs, hypervolume
from greenedge.sweep.space import Axis, Space
from greenedge.sweep.study import Sampling, Study
from greenedge.sweep.sweep import Sweep

OBJECTIVES = ("accuracy", "estimated_lut4", "estimated_cycles")
LARGER = (True, False, False)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_most_of_the_volume(tmp_path, repo, seed):
    rows = json.loads((repo / "benchmarks" / "records" / "sweep" / "grid.json").read_text())["rows"]
    table = {json.dumps(row["settings"], sort_keys=True): row["values"] for row in rows}
    axes = tuple(
        Axis(key, tuple(dict.fromkeys(row["settings"][key] for row in rows))) for key in rows[0]["settings"]
    )  # fmt: skip
    asked: list[str] = []

    def look_up(claim):
        key = json.dumps(dict(claim.point), sort_keys=True)
        asked.append(key)
        values = table[key] or ()
        figures = {name: {"value": value, "evidence": "recorded"} for name, value in zip(OBJECTIVES, values)}  # noqa: B905
        status = "done" if values else "refused"
        row = {"number": claim.number, "name": key, "settings": dict(claim.point), "status": status}
        return {**row, "figures": figures}

    study = Study(tmp_path, Space(axes, (), OBJECTIVES), Sampling("nsga2", 40, seed, LARGER)).open()
    work(Sweep("digits-mlp", study.space), study, evaluate=look_up)
    assert len(asked) == len(set(asked)) == 40
    every = as_costs([values for values in table.values() if values], LARGER)
    found = as_costs([row["objectives"] for row in study.rows() if "objectives" in row], LARGER)
    reference = every.max(axis=0) + 0.01 * np.ptp(every, axis=0)
    assert hypervolume(found, reference) >= 0.95 * hypervolume(every, reference)
