"""Green training on the digits: what each technique costs and saves, in accuracy, bytes, LUTs, cycles and joules.

    python benchmarks/green.py [-o DIR] [--part table|distil|subset|all] [--seeds 5] [--quantised]

table   the article's Dense(128)-Dense(10), float and 4-bit, pruned, calibrated, on fewer samples. Rows whose hardware
        is their point are built for ulx3s-85f and linux-x86, the others for linux-x86; every integer is verified.
distil  a student of half the size with and without its teacher (a float network of the full size), at equal epochs,
        schedule and augmentation; share of the lost accuracy that comes back. Two studies: digits-cnn at 4 bits, where
        half the channels lose most, and digits-mlp in float.
subset  accuracy and sample-updates on chosen samples against all samples, of digits-mlp.
        It and digits-mlp's study are in float, which trains ten times faster; --quantised takes the recipe's 4 bits.

Means are over seeds with Student's 95 % interval. Settings were chosen on a quarter of the training samples held out
for that, never on the test samples. Finished runs in DIR are not repeated. DIR/green.html draws accuracy against
energy.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from greenedge.energy.stats import mean_interval
from greenedge.files.atomic_write import atomic_write
from greenedge.report.sweep import row_of, terminal, write_sweep
from greenedge.run.jobs import find_recipe, jobs_for, run_all, split_settings
from greenedge.train import train_stage

FLOW = "digits-mlp"
BOTH, EDGE = ("ulx3s-85f", "linux-x86"), ("linux-x86",)
FPS = 97_000  # [build] of the recipe: half of the neurons at twice the speed take the same folding
STRUCTURED = {"prune.kind": "structured", "prune.share": "0.5"}
SUBSETS = {
    "random, 40 %": ("random", "0.4"),
    "k-center, 40 %": ("kcenter", "0.4"),
    "EL2N, 40 %": ("el2n", "0.4"),
    "forgetting, 40 %": ("forgetting", "0.4"),
}


@dataclass(frozen=True)
class Row:
    """One technique: its settings over the recipe's and where it is built."""

    name: str
    settings: Mapping[str, str] = field(default_factory=dict)
    targets: tuple[str, ...] = EDGE


ROWS = (
    Row("4-bit", targets=BOTH),
    Row("4-bit, half the neurons pruned", STRUCTURED, BOTH),
    Row("  the same at the unpruned folding", {**STRUCTURED, "build.fps": str(2 * FPS)}, ("ulx3s-85f",)),
    Row("4-bit, half the weights pruned (magnitude)", {"prune.kind": "magnitude", "prune.share": "0.5"}),
    Row("4-bit, 2 of 4 weights", {"prune.kind": "n:m"}),
    Row("4-bit, after training (256 samples)", {"quantise.method": "ptq", "quantise.calibration": "256"}),
    Row("batch norm folded, biases on the grid", {"quantise.per_channel": "true", "quantise.fold_batch_norm": "true"}),
    Row("widths searched under 4 kB", {"quantise.float_epochs": "20", "train.epochs": "40", "search.budget": "4000"}),
    Row("4-bit, k-center 40 % of the samples", {"subset.method": "kcenter", "subset.share": "0.4"}),
    Row("4-bit, early stopping", {"train.validation": "0.15", "train.patience": "6"}),
)


@dataclass(frozen=True)
class Study:
    """Distillation: settings of the full size, of its half and of the student's lesson; `common` are those of all."""

    title: str
    flow: str
    quantised: bool  # always, or as --quantised says
    full: Mapping[str, str]
    half: Mapping[str, str]
    lesson: Mapping[str, str]
    common: Mapping[str, str]


STUDIES = (
    Study(
        "digits-cnn, 4 bits, 16/32 and 8/16 channels",
        "digits-cnn",
        True,
        {"model.channels": "16", "model.wide_channels": "32"},
        {"model.channels": "8", "model.wide_channels": "16"},
        {
            "teacher.channels": "16",
            "teacher.wide_channels": "32",
            "distil.temperature": "1",
            "distil.share": "1",
            "distil.teacher_scale": "0.25",
        },
        {"train.learning_rate": "0.03", "train.epochs": "30"},
    ),
    Study(
        "digits-mlp, 16 and 8 neurons",
        FLOW,
        False,
        {"model.hidden": "16"},
        {"model.hidden": "8"},
        {"teacher.hidden": "16", "distil.temperature": "2", "distil.share": "0.9"},
        {"train.epochs": "40"},
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/green"))
    parser.add_argument("--part", choices=("table", "distil", "subset", "all"), default="all")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quantised", action="store_true")
    words = parser.parse_args()
    for part, run in (("table", table), ("distil", distil), ("subset", subset)):
        if words.part in (part, "all"):
            run(words.out, words.seeds, words.quantised)


def table(out: Path, _seeds: int, _quantised: bool) -> None:
    rows = [float_row(out)]
    for row in ROWS:
        values, options = split_settings([f"{key}={value}" for key, value in row.settings.items()])
        recipe = find_recipe(FLOW, values)
        jobs = jobs_for(recipe, row.targets, None, {**recipe.build, **options})
        runs, _ = run_all(
            jobs, out / "".join(c if c.isalnum() else "-" for c in row.name.strip()), "report", lambda job: _Quiet()
        )
        rows.append(row_of(row.name, runs))
    show(rows)
    page = write_sweep(rows, out / "green.html", "Green training on the digits", "what each technique costs and saves")
    print(f"page: {page}")
    judge(rows)


class _Quiet:
    """Says when a stage that takes minutes ends, and no more."""

    def stage(self, _name: str):
        from contextlib import nullcontext

        return nullcontext(lambda done, total, text: None)

    def ended(self, name: str, status: str, seconds: float | None, _note: str) -> None:
        if status == "done" and seconds and seconds > 30:
            print(f"  {name}: {seconds:.0f} s", flush=True)


def float_row(out: Path) -> dict:
    """The network in float: the same recipe without [quantise]; nothing is built from it."""
    train_stage(in_float(find_recipe(FLOW, {})), out / "float" / "1-train")
    return row_of("float", [out / "float"])


def in_float(recipe):
    """The recipe without its [quantise]."""
    return replace(recipe, options=replace(recipe.options, quantise=None))


def show(rows: list[dict]) -> None:
    heads, lines = terminal(rows)
    widths = [max(len(line[k]) for line in [heads, *lines]) for k in range(len(heads))]
    for line in [heads, *lines]:
        print(
            "  ".join(
                cell.ljust(width) if k == 0 else cell.rjust(width)
                for k, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
        )


def judge(rows: list[dict]) -> None:
    """The issue's first line: accuracy within a point, and 40 % fewer LUTs or cycles."""
    known = {row["name"].strip(): row for row in rows}
    full, pruned, folded = (
        known["4-bit"],
        known["4-bit, half the neurons pruned"],
        known["the same at the unpruned folding"],
    )
    print(
        f"half of the neurons and 4 bits against float: {100 * (pruned['score'] - known['float']['score']):+.2f} points"
    )
    for name, key in (("LUT4 of board and core", "lut4"), ("LUT4 of the core", "core_lut4"), ("file bytes", "bytes")):
        fewer = 100 * (1 - pruned[key] / full[key])
        print(f"{name} at equal cycles: {full[key]:,} -> {pruned[key]:,} ({fewer:.1f} % fewer)")
    saved = 100 * (1 - folded["cycles"] / full["cycles"])
    print(
        f"cycles at equal folding (same PE and SIMD): {full['cycles']:,} -> {folded['cycles']:,} ({saved:.1f} % fewer)"
    )


def distil(out: Path, seeds: int, quantised: bool) -> None:
    for study in STUDIES:
        print(study.title, flush=True)
        found = [_taught(study, out, seed, quantised or study.quantised) for seed in range(seeds)]
        for name, column in zip(("full size", "half, alone", "half, taught"), zip(*found, strict=True), strict=True):
            accuracy = mean_interval(column)
            print(f"  {name:12} {accuracy.mean:.4f} [{accuracy.low:.4f}, {accuracy.high:.4f}]")
        lost = [full - alone for full, alone, _ in found]
        back = [taught - alone for _, alone, taught in found]
        share, half = (100 * part for part in _share(back, lost))
        print(f"  lost {_points(mean_interval(lost))}, came back {_points(mean_interval(back))}")
        if mean_interval(lost).low <= 0:
            print("  the loss itself is not certain at these seeds, its share even less")
        verdict = "met" if share >= 50 else "not met"
        print(
            f"  {share:.0f} % [{share - half:.0f}, {share + half:.0f}] of what was lost came back, mean of {seeds} "
            f"seeds; at least 50 %: {verdict}",
            flush=True,
        )


def _taught(study: Study, out: Path, seed: int, quantised: bool) -> tuple[float, float, float]:
    """Accuracy of the full size, of its half, and of its half with a teacher."""
    common = {**study.common, "train.seed": str(seed)}
    wanted = (study.full, study.half, {**study.half, **study.lesson})
    accuracy = tuple(train_once(out, quantised, {**common, **one}, study.flow)["accuracy"] for one in wanted)
    print(f"  seed {seed}: full {accuracy[0]:.4f}, alone {accuracy[1]:.4f}, taught {accuracy[2]:.4f}", flush=True)
    return accuracy


def _share(back: list[float], lost: list[float]) -> tuple[float, float]:
    """Ratio of the two means of pairs and its interval's half width, from the residuals (the delta method)."""
    share = sum(back) / sum(lost)
    rest = mean_interval([b - share * part for b, part in zip(back, lost, strict=True)])
    return share, (rest.high - rest.low) / 2 / abs(sum(lost) / len(lost))


def _points(interval) -> str:
    return f"{100 * interval.mean:.2f} points [{100 * interval.low:.2f}, {100 * interval.high:.2f}]"


def subset(out: Path, seeds: int, quantised: bool) -> None:
    """Each choice of samples against all samples at the same epochs; what scoring them cost is counted."""
    full = [train_once(out, quantised, {"train.seed": str(seed)}) for seed in range(seeds)]
    for name, (method, share) in SUBSETS.items():
        some = [
            train_once(out, quantised, {"train.seed": str(seed), "subset.method": method, "subset.share": share})
            for seed in range(seeds)
        ]
        kept = mean_interval([one["accuracy"] / all_["accuracy"] for one, all_ in zip(some, full, strict=True)])
        updates = sum(one["samples_seen"] for one in some) / sum(one["samples_seen"] for one in full)
        energy = sum(_joules(one) for one in some) / sum(_joules(one) for one in full)
        label = some[0]["ledger"]["total"]["energy"]["evidence"]
        print(
            f"{name:18} {100 * kept.mean:.2f} % of full accuracy [{100 * kept.low:.2f}, {100 * kept.high:.2f}] with "
            f"{100 * updates:.1f} % of the sample-updates, {100 * energy:.0f} % of the energy ({label})",
            flush=True,
        )


def _joules(metrics: dict) -> float:
    from greenedge.report.training import energy_of

    return energy_of(metrics["ledger"]["total"])["value"]


def train_once(out: Path, quantised: bool, settings: Mapping[str, str], flow: str = FLOW) -> dict:
    """metrics.json of a training, from DIR/studies where the same was done before."""
    recipe = find_recipe(flow, settings)
    recipe = recipe if quantised else in_float(recipe)
    path = out / "studies" / f"{recipe.digest[:16]}.json"
    if path.is_file():
        return json.loads(path.read_text())
    with tempfile.TemporaryDirectory(prefix="greenedge-green-") as folder:
        metrics = train_stage(recipe, Path(folder))
    with atomic_write(path) as aside:
        aside.write_text(json.dumps(metrics))
    return metrics


if __name__ == "__main__":
    main()
