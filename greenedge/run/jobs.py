"""The ways in: a recipe, somebody's ONNX file, a finished run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from greenedge.backends import BACKENDS, check_options, load_backend, lowered_for
from greenedge.errors import GreenedgeError, TargetError, VerificationError
from greenedge.files.package_data import data_folder
from greenedge.frontends.import_onnx import ModelFile
from greenedge.run.manifest import (
    FILE,
    Manifest,
    Record,
    digest_files,
    explained,
    hold,
    inside,
    intact,
    load_manifest,
    save_manifest,
)
from greenedge.run.stages import (
    FOLDER,
    STAGES,
    Job,
    Tell,
    choose_backend,
    compare_stages,
    plan_build,
    run_job,
    run_jobs,
)
from greenedge.target import load_target, nearest

BUILD = "build."  # settings with this prefix go to the back end, all others to the recipe


def list_recipes() -> list[str]:
    """Names of the recipes that ship with greenedge, sorted."""
    return sorted(path.parent.name for path in data_folder("flows").glob("*/flow.toml"))


def find_recipe(name: str, settings: Mapping[str, str]):
    """The recipe of that name, or in that folder. Raises TargetError: none there (with the nearest name), or not in order."""
    from greenedge.train import load_recipe

    folder = Path(name) if "/" in name or (Path(name) / "flow.toml").is_file() else data_folder("flows") / name
    if "/" not in name and not (folder / "flow.toml").is_file():
        raise TargetError(
            f"there is no recipe {name!r}{nearest(name, list_recipes())}; recipes are: "
            f"{', '.join(list_recipes())}; a folder with a flow.toml is one too."
        )
    return load_recipe(folder, {key: text for key, text in settings.items() if not key.startswith(BUILD)})


def jobs_for(
    source,
    targets: Sequence[str],
    backend: str | None = None,
    options: Mapping[str, object] | None = None,
    until: str = "report",
    docker: bool = False,
) -> list[Job]:
    """One job per target, each checked as far as it goes without work: the target, the back end, its tools.

    Raises TargetError and ToolError before anything is trained.
    """
    building = list(STAGES).index(until) >= list(STAGES).index("build")
    if not targets and building:
        raise TargetError(
            "no target: say --target NAME (`greenedge targets` lists them), or --until lower to stop before the build."
        )
    if not building:
        return [Job(source)]
    check_options(options or {})
    jobs = []
    for name in dict.fromkeys(targets):
        target = load_target(name)
        job = Job(
            source, target, choose_backend(target, backend), dict(options or {}), docker, settled=backend is not None
        )
        load_backend(job.backend).tools(job.options)
        jobs.append(job)
    return jobs


def split_settings(texts: Sequence[str]) -> tuple[dict[str, str], dict[str, object]]:
    """("KEY=VALUE", …) as the recipe's settings (text) and the back end's options (numbers where they look like it)."""
    settings: dict[str, str] = {}
    options: dict[str, object] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise TargetError(
                f"--set {text!r} is not understood; write KEY=VALUE, such as train.epochs=20 or build.fps=100000."
            )
        if key.startswith(BUILD):
            options[key.removeprefix(BUILD)] = _number(value)
        else:
            settings[key] = value
    return settings, options


def _number(text: str) -> object:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def input_types(texts: Sequence[str]) -> dict[str, str]:
    """("NAME=TYPE" or "TYPE", …) as {name, or "" for every input: type}. Raises GreenedgeError for a type that is none."""
    from greenedge.lower import parse_input_type

    declared = {
        name if equals else "": kind if equals else name for name, equals, kind in (t.partition("=") for t in texts)
    }
    for kind in declared.values():
        parse_input_type(kind)
    return declared


def preflight(model: Path, targets: Sequence[str], backend: str | None, declared: Mapping[str, str]) -> list:
    """One greenedge.backends.preflight.Preflight per target. Raises TargetError for a target or back end that there is not."""
    from greenedge.backends.preflight import check_model

    if not targets:
        raise TargetError("no target: say --target NAME; `greenedge targets` lists them.")
    chosen = [
        (target, choose_backend(target, backend) if backend else None)
        for target in map(load_target, dict.fromkeys(targets))
    ]
    types = ModelFile(model, declared=declared).input_types()
    return [check_model(model, target, name, types) for target, name in chosen]


def dry_plan(job: Job) -> list[str]:
    """The commands that the build would run, a line each, for a model file; a recipe is trained first, so it has none yet."""
    from greenedge.lower import lower_file

    if not isinstance(job.source, ModelFile):
        return [
            f"# {job.source.name}: {', '.join(job.stages)}; the build's commands follow from the trained network "
            "(`greenedge build MODEL.onnx --dry-run` shows them)"
        ]
    if job.target is None:
        return [f"# {job.source.name}: no target, so nothing is built"]
    lowered = lower_file(job.source.path, job.source.input_types())
    if not job.settled:
        from greenedge.backends.select import choose

        backend, reason = choose(lowered.graph, job.target, job.options)
        job = replace(job, backend=backend, reason=reason)
    plan = plan_build(job, lowered)
    why = [f"# {job.reason}"] if job.reason else []
    return [
        *why,
        f"# {job.target.name}: {len(plan.files)} files, plan {plan.digest()[:12]}",
        *(shlex.join(command.argv) for command in plan.commands),
        f"# gives {', '.join(plan.products)}",
    ]


def run_all(jobs: Sequence[Job], out: Path | None, until: str, display) -> tuple[list[Path], Path | None]:
    """Runs the jobs; returns their folders and the report, if the run gets that far.

    One job goes into `out` itself, several into a folder each below it; without `out` always below runs/<name>.
    """
    name = jobs[0].source.name
    if len(jobs) == 1 and (out is not None or jobs[0].target is None):
        run = out or Path("runs") / name
        run_job(jobs[0], run, until, display=display(jobs[0]))
        return [run], run / FOLDER["report"] / "report.html" if until == "report" else None
    base = out or Path("runs") / name
    runs = run_jobs(jobs, base, until, display)
    return runs, base / "report.html" if until == "report" else None


def snap_model(
    model: Path, out: Path, bits: int, inputs: Path | None, labels: Path | None, declared: Mapping[str, str]
) -> dict:
    """Writes the snapped model; returns what became of every requantiser and, with labelled samples, the accuracies."""
    import dataclasses

    from greenedge.frontends.import_onnx import read_array
    from greenedge.lower import lower_file
    from greenedge.lower.snap import snap_file

    if (inputs is None) != (labels is None):
        raise GreenedgeError("--inputs and --labels belong together: samples and their classes.")
    types = ModelFile(model, declared=declared).input_types()
    entries = [dataclasses.asdict(entry) | {"share": entry.share} for entry in snap_file(model, out, bits, types)]
    accuracy = None
    if inputs is not None:
        x, y = read_array(inputs), read_array(labels)
        before, after = (_accuracy(lower_file(path, types), x, y) for path in (model, out))
        accuracy = {"samples": len(x), "before": before, "after": after}
    return {"model": str(out), "multiplier_bits": bits, "requantisers": entries, "accuracy": accuracy}


def _accuracy(lowered, x, y) -> float:
    """Share of samples whose class is the labelled one."""
    from greenedge.graph import run_graph
    from greenedge.lower.float_io import classes, run_epilogue, run_prologue

    edges = run_graph(lowered.graph, run_prologue(lowered, x))
    output = next(iter(run_epilogue(lowered, edges).values()))
    found = classes(output)
    return float(((output.reshape(len(output), -1).argmax(axis=1) if found is None else found) == y).mean())


def read_summary(run: Path) -> dict | None:
    """7-report/summary.json of a run, None where it has none."""
    path = inside(run, f"{FOLDER['report']}/summary.json")
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


# -- finished runs ------------------------------------------------------------------------------------------------------


def runs_in(folder: Path) -> list[Path]:
    """The runs that `folder` is or holds, one per target. Raises GreenedgeError where there is none."""
    if (folder / FILE).is_file():
        return [folder]
    runs = sorted(path.parent for path in folder.glob(f"*/{FILE}"))
    if not runs:
        load_manifest(folder)  # says that it is no run
    return runs


def built_with(run: Path, manifest: Manifest) -> str:
    """The back end that built this run. Raises GreenedgeError where nothing has been built."""
    record, backend = manifest.stages.get("build"), manifest.about.get("backend")
    if record is None or record.status != "done" or not inside(run, FOLDER["build"]).is_dir():
        raise GreenedgeError(f"{run} has nothing built; run `greenedge run` or `greenedge build` for it to the end.")
    if backend not in BACKENDS:
        raise GreenedgeError(f"{run / FILE}: backend is {backend!r}; back ends are: {', '.join(sorted(BACKENDS))}.")
    return backend


def verify_again(run: Path, tell: Tell) -> dict:
    """Compares again what lies in a finished run's folder now; returns what verify.json then says.

    Raises VerificationError on a difference, also where only a file's digest differs (a weight that no sample reaches),
    and GreenedgeError where the run has nothing built. The manifest says how it ended; the next run writes the report.
    """
    with hold(run), explained(run):
        manifest = load_manifest(run)
        backend = built_with(run, manifest)
        stages = {name: record for name, record in manifest.stages.items() if name != "report"}
        record = stages.get("verify") or Record("running", key="")
        try:
            note = compare_stages(run, backend, tell)
            _require_as_built(run, manifest)
        except VerificationError as error:
            failed = replace(record, status="failed", error=str(error), outputs=digest_files(run, FOLDER["verify"]))
            save_manifest(replace(manifest, stages={**stages, "verify": failed}), run)
            raise
        done = replace(record, status="done", error=None, note=note, outputs=digest_files(run, FOLDER["verify"]))
        if done.outputs != record.outputs or record.status != "done":
            save_manifest(replace(manifest, stages={**stages, "verify": done}), run)
        found = json.loads((run / FOLDER["verify"] / "verify.json").read_text())
    if "unverified" in found:
        raise GreenedgeError(found["unverified"])
    return found


def _require_as_built(run: Path, manifest: Manifest) -> None:
    changed = [path for path, digest in manifest.stages["build"].outputs.items() if not intact(run, {path: digest})]
    if changed:
        raise VerificationError(
            f"{run / changed[0]} is not the file that was built, its sha256 differs, although every sample gave "
            "the same integers; run the same `greenedge run` or `greenedge build` again to build it anew."
        )


def infer(run: Path, samples: Path, stage: str, tell: Tell, out: Path | None = None):
    """The samples in an .npy file, however large, through the built thing ("build", or its own name: "tflite", "rtl", …) or the
    integer graph ("graph"), piece by piece. Float outputs that the built thing gives itself are its own, the others the host's.

    Into `out` (.npy or .csv), which is returned as greenedge.run.infer.Written; without it {model output: array}.
    """
    from greenedge.lower import load_lowered
    from greenedge.run.infer import open_samples, outputs_of, write

    manifest = load_manifest(run)
    lowered = load_lowered(inside(run, FOLDER["lower"]))
    if stage != "graph":
        lowered = lowered_for(load_backend(built_with(run, manifest)), lowered)
    model = _model(run, lowered, stage)
    array = open_samples(samples)
    parts = outputs_of(lowered, array, model, tell)
    if out is not None:
        return write(out, len(array), parts)
    import numpy as np

    found = list(parts)
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def _model(run: Path, lowered, stage: str):
    """A function from (input integers, tell) to the model's outputs for that stage of the run. Raises GreenedgeError for any other."""
    from greenedge.graph import run_graph
    from greenedge.lower.float_io import run_epilogue

    if stage == "graph":
        return lambda levels, tell: run_epilogue(lowered, run_graph(lowered.graph, levels))
    name = built_with(run, load_manifest(run))
    backend = load_backend(name)
    known = list(dict.fromkeys(["build", getattr(backend, "STAGE", name), "graph"]))
    if stage not in known:
        raise GreenedgeError(
            f"{run} has no stage {stage!r} to infer with{nearest(stage, known)}; it has: {', '.join(known)}."
        )
    build = run / FOLDER["build"]

    def model(levels, tell):
        x = levels if len(levels) > 1 else next(iter(levels.values()))
        own = backend.floats(build, x, tell) if hasattr(backend, "floats") else {}
        if set(own) == {value.name for value in lowered.epilogue.graph.output}:
            return {name: values for name, (values, _) in own.items()}
        return run_epilogue(lowered, backend.simulate(build, x, (), tell))

    return model
