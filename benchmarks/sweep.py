"""What a sweep costs and finds: 108 points of digits-mlp, a sampler against them, workers side by side, overhead.

    python benchmarks/sweep.py grid [--study DIR]     # 108 points, 6 trainings, and every one again on its own
    python benchmarks/sweep.py sampler                # NSGA-II, 40 of the 108, three seeds, from the record of the grid
    python benchmarks/sweep.py workers                # four workers against one: trials that sleep, and that compute
    python benchmarks/sweep.py overhead               # 1,000 trials that do nothing: per trial, journal, resume

Each writes benchmarks/records/sweep/PART.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from greenedge.errors import UnsupportedError
from greenedge.frontends.import_onnx import ModelFile
from greenedge.run.jobs import jobs_for
from greenedge.run.plan_view import outline
from greenedge.sweep.engine import run_sweep, work
from greenedge.sweep.figures import KINDS
from greenedge.sweep.front import as_costs, find_front, hypervolume
from greenedge.sweep.space import TARGET, Axis, Space, make_space
from greenedge.sweep.study import Claim, Row, Sampling, Study
from greenedge.sweep.sweep import Sweep, plan_sweep

RECORDS = Path(__file__).resolve().parent / "records" / "sweep"
OBJECTIVES = ("accuracy", "estimated_lut4", "estimated_cycles")
LARGER = tuple(KINDS[name].larger_is_better for name in OBJECTIVES)
AXES = (
    Axis("quantise.weight_bits", ("2", "3", "4")),
    Axis("quantise.act_bits", ("2", "4")),
    Axis("build.fps", ("5000", "10000", "20000", "50000", "97000", "200000")),
    Axis(TARGET, ("ulx3s-85f", "orangecrab-25f", "icebreaker")),
)


def grid(study: Path | None) -> dict:
    """The sweep's front against that of every point on its own: trained again by `run`, planned as `build` plans.

    `seconds` are unknown where the study may have been there.
    """
    sweep = plan_sweep(Sweep("digits-mlp", make_space(AXES, (), OBJECTIVES), until="plan", sampler="auto"))
    with tempfile.TemporaryDirectory() as scratch:
        began = time.monotonic()
        found = run_sweep(sweep, study or Path(scratch) / "study", jobs=2)
        seconds = time.monotonic() - began
        folder = study or Path(scratch) / "study"
        trainings = sum(path.is_dir() for path in (folder / "trainings").iterdir())
        place = study.parent / "alone" if study else Path(scratch)
        alone = {json.dumps(row["settings"]): _run_alone(row["settings"], place) for row in found["rows"]}
    rows = found["rows"]
    front = sorted(row["name"] for row in rows if "front" in row)
    values = [alone[json.dumps(row["settings"])] for row in rows]
    known = [k for k, value in enumerate(values) if value is not None]
    on_front = find_front(as_costs([values[k] for k in known], LARGER))
    expected = sorted(rows[k]["name"] for k, stays in zip(known, on_front, strict=True) if stays)
    return {
        "points": len(rows),
        "statuses": dict(Counter(row["status"] for row in rows)),
        "trainings": trainings,
        "seconds": None if study else round(seconds, 1),
        "longest_refusal_s": max((row["wall_s"] for row in rows if row["status"] == "refused"), default=None),
        "front": front,
        "front_is_the_exhaustive_one": front == expected,
        "rows": [
            {
                "settings": row["settings"],
                "values": [row["figures"][name]["value"] for name in OBJECTIVES] if row["status"] == "done" else None,
            }
            for row in rows
        ],
    }


def _run_alone(settings: dict[str, str], scratch: Path) -> list[float] | None:
    """The objectives of a point by the other verbs: `run --until lower` once a training, `build --until plan`."""
    bits, acts = settings["quantise.weight_bits"], settings["quantise.act_bits"]
    run = scratch / f"alone-{bits}-{acts}"
    if not (run / "3-lower").is_dir():
        chosen = [f"--set=quantise.weight_bits={bits}", f"--set=quantise.act_bits={acts}"]
        _greenedge("run", "digits-mlp", "--until", "lower", *chosen, "-o", str(run))
    accuracy = json.loads((run / "1-train" / "metrics.json").read_text())["accuracy"]
    options = {"fps": int(settings["build.fps"])}
    jobs = jobs_for(ModelFile(run / "2-export" / "model.onnx"), [settings[TARGET]], None, options, runs_tools=False)
    try:
        figures = outline(jobs[0])["figures"]
    except UnsupportedError:
        return None
    return [accuracy, figures["estimated_lut4"], figures["estimated_cycles"]]


def _greenedge(*words: str) -> None:
    """Runs a verb that must end well."""
    subprocess.run([sys.executable, "-m", "greenedge.cli", *words], check=True)


def sampler() -> dict:
    """The volume that 40 points of NSGA-II dominate, as a share of the grid's."""
    rows = json.loads((RECORDS / "grid.json").read_text())["rows"]
    table = {json.dumps(row["settings"], sort_keys=True): row["values"] for row in rows}
    every = as_costs([values for values in table.values() if values], LARGER)
    reference = every.max(axis=0) + 0.01 * np.ptp(every, axis=0)
    whole, found = hypervolume(every, reference), {}
    for seed in range(3):
        with tempfile.TemporaryDirectory() as scratch:
            study = Study(Path(scratch), Space(AXES, (), OBJECTIVES), Sampling("nsga2", 40, seed, LARGER)).open()
            work(Sweep("digits-mlp", study.space), study, evaluate=lambda claim: look_up(table, claim))
            costs = as_costs([row["objectives"] for row in study.rows() if "objectives" in row], LARGER)
            found[str(seed)] = round(hypervolume(costs, reference) / whole, 4)
    return {"trials": 40, "of": len(rows), "share_of_volume": found}


def look_up(table: dict[str, list[float] | None], claim: Claim) -> Row:
    """The row of a point that the grid knows."""
    values = table[json.dumps(dict(claim.point), sort_keys=True)]
    figures = {
        name: {"value": value, "evidence": "recorded"} for name, value in zip(OBJECTIVES, values or (), strict=False)
    }
    status = "done" if values else "refused"
    return {"number": claim.number, "name": "", "settings": dict(claim.point), "status": status, "figures": figures}


WORKER = """
import sys, time
from pathlib import Path
from greenedge.sweep.engine import work
from greenedge.sweep.space import Axis, Space
from greenedge.sweep.study import Sampling, Study
from greenedge.sweep.sweep import Sweep
folder, points, kind, amount = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
space = Space((Axis("a", tuple(map(str, range(points)))),), (), ("accuracy",))
def evaluate(claim):
    if kind == "sleep":
        time.sleep(amount)
    else:
        total = 0
        for k in range(int(amount)):
            total += k * k % 7
    figures = {"accuracy": {"value": float(claim.point["a"]), "evidence": "made up"}}
    figures |= {"bytes": {"value": 1000, "evidence": "counted"}, "lut4": {"value": 500, "evidence": "reported"}}
    return {"number": claim.number, "name": f"a={claim.point['a']}", "settings": dict(claim.point), "status": "done",
            "folder": f"trials/{claim.number:04d}", "stage": "report", "figures": figures}
study = Study(folder, space, Sampling("grid", None, 0, (True,))).open()
began, used = time.monotonic(), time.process_time()
work(Sweep("bench", space), study, evaluate=evaluate)
print(time.monotonic() - began, time.process_time() - used)
"""


def _work(folder: Path, points: int, kind: str, amount: float, workers: int) -> float:
    """Seconds from the first start of a worker to the end of the last."""
    folder.mkdir()
    began = time.monotonic()
    command = [sys.executable, "-c", WORKER, str(folder), str(points), kind, str(amount)]
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(workers)]
    assert all(process.wait() == 0 for process in running)
    return time.monotonic() - began


def workers() -> dict:
    """Four workers against one, on as many cores as there are; starting them counts, so trials take seconds."""
    found: dict = {"cores": os.cpu_count()}
    for kind, amount in (("sleep", 5.0), ("compute", 1e8)):
        with tempfile.TemporaryDirectory() as scratch:
            load = round(os.getloadavg()[0], 1)
            seconds = {n: round(_work(Path(scratch) / str(n), 16, kind, amount, n), 2) for n in (1, 4)}
        found[kind] = {"seconds": seconds, "times_faster": round(seconds[1] / seconds[4], 2), "load_before": load}
    return found


def overhead() -> dict:
    """1,000 trials that do nothing."""
    points = 1000
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        space = Space((Axis("a", tuple(map(str, range(points)))),), (), ("accuracy",))
        began = time.monotonic()
        Study(folder, space, Sampling("grid", None, 0, (True,))).open()
        fill = time.monotonic() - began
        command = [sys.executable, "-c", WORKER, str(folder), str(points), "sleep", "0"]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        seconds, cpu_seconds = map(float, told.split())
        began = time.monotonic()
        subprocess.run(command, capture_output=True, text=True, check=True)
        resume = time.monotonic() - began
        size = (folder / "journal.log").stat().st_size
    return {
        "trials": points,
        "fill_s": round(fill, 2),
        "overhead_ms_a_trial": round(1000 * (fill + seconds) / points, 1),
        "of_it_cpu_ms": round(1000 * cpu_seconds / points, 1),
        "load_average": round(os.getloadavg()[0], 1),
        "journal_bytes": size,
        "resume_s": round(resume, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("grid", "sampler", "workers", "overhead"))
    parser.add_argument("--study", type=Path)
    chosen = parser.parse_args()
    parts = {"grid": lambda: grid(chosen.study), "sampler": sampler, "workers": workers, "overhead": overhead}
    found = parts[chosen.part]()
    (RECORDS / f"{chosen.part}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in found.items() if key != "rows"}, indent=1))


if __name__ == "__main__":
    main()
