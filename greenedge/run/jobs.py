"""The ways in: a recipe or somebody's ONNX file becomes jobs, one per target; they are checked, planned and run."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from greenedge.backends import check_options, load_backend
from greenedge.decoder.source import DecoderFile, is_decoder_file
from greenedge.errors import TargetError
from greenedge.files.package_data import data_folder
from greenedge.frontends.import_onnx import ModelFile, check_samples
from greenedge.run.decoder_job import decoder_jobs
from greenedge.run.folder import RunFolder
from greenedge.run.job import ORDER, Display, Job
from greenedge.target import Target, load_target, nearest
from greenedge.tools.needs import require_tools

if TYPE_CHECKING:
    from greenedge.backends.preflight import Lowerings, Preflight
    from greenedge.run.chains import AnyJob
    from greenedge.train.language_recipe import LanguageRecipe
    from greenedge.train.recipe import Recipe

Options = Mapping[str, object]
BUILD = "build."  # settings with this prefix go to the back end, all others to the recipe


def list_recipes() -> list[str]:
    """Names of the recipes that ship with greenedge, sorted."""
    return sorted(path.parent.name for path in data_folder("flows").glob("*/flow.toml"))


def find_recipe(name: str, settings: Mapping[str, str]) -> Recipe | LanguageRecipe:
    """The recipe of that name, or in that folder. Raises TargetError: none there (with the nearest name), or not in
    order."""
    from greenedge.train import load_recipe
    from greenedge.train.language_recipe import is_language_recipe, load_language_recipe

    folder = Path(name) if "/" in name or (Path(name) / "flow.toml").is_file() else data_folder("flows") / name
    if "/" not in name and not (folder / "flow.toml").is_file():
        raise TargetError(
            f"there is no recipe {name!r}{nearest(name, list_recipes())}; recipes are: "
            f"{', '.join(list_recipes())}; a folder with a flow.toml is one too."
        )
    load = load_language_recipe if is_language_recipe(folder) else load_recipe
    return load(folder, {key: text for key, text in settings.items() if not key.startswith(BUILD)})


def recipe_jobs(
    recipe: Recipe | LanguageRecipe,
    targets: Sequence[str],
    backend: str | None = None,
    options: Mapping[str, object] | None = None,
    until: str = "report",
    docker: bool = False,
) -> Sequence[AnyJob]:
    """One job per target of a recipe of either kind; `options` go over the recipe's own. Raises TargetError and
    ToolError before anything is trained."""
    from greenedge.train import Recipe

    chosen = {**recipe.build, **(options or {})}
    if isinstance(recipe, Recipe):
        return jobs_for(recipe, targets, backend, chosen, until, docker)
    if docker:
        raise TargetError(
            f"{recipe.name} trains a language model, which no tool in docker/ builds; leave --docker out."
        )
    return decoder_jobs(recipe, targets, backend, chosen, until)


def jobs_for(
    source: Recipe | ModelFile,
    targets: Sequence[str],
    backend: str | None = None,
    options: Mapping[str, object] | None = None,
    until: str = "report",
    docker: bool = False,
    runs_tools: bool = True,
) -> list[Job]:
    """One job per target, each checked as far as it goes without work: the target, the back end, its tools where they
    are to run.

    Raises TargetError and ToolError before anything is trained.
    """
    if until not in ORDER:
        raise TargetError(f"there is no stage {until!r}{nearest(until, ORDER)}; stages are: {', '.join(ORDER)}.")
    builds = ORDER.index(until) >= ORDER.index("build")
    if not targets and builds:
        raise TargetError(
            "no target: say --target NAME (`greenedge targets` lists them), or --until lower to stop before the build."
        )
    if not builds:
        return [Job(source)]
    from greenedge.backends.select import default_backend

    check_options(options or {})
    jobs = []
    for name in dict.fromkeys(targets):
        target = load_target(name)
        chosen, reason = _choose_exact(source, target, backend)
        name = default_backend(target, chosen)
        job = Job(source, target, name, dict(options or {}), docker, chosen is not None, reason)
        if runs_tools:
            require_tools(load_backend(name).needs(target, job.options), f"a build for {target.name} by {name}")
        jobs.append(job)
    return jobs


def _choose_exact(source: Recipe | ModelFile, target: Target, backend: str | None) -> tuple[str | None, str | None]:
    """(back end, reason) for a file that means what LiteRT's reference kernels compute, where nobody has named one: a
    .tflite that is built runs by XNNPACK, which rounds otherwise, so it is C where the target has that."""
    is_reference = isinstance(source, ModelFile) and source.kernels == "reference"
    if backend is not None or not is_reference or target.backends[0] != "tflite" or "c99" not in target.backends:
        return backend, None
    return "c99", (
        "c99 was chosen because it computes the reference kernels' arithmetic exactly; a .tflite runs by XNNPACK, "
        "which rounds otherwise"
    )


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
    kinds: tuple[Callable[[str], object], ...] = (int, float)
    for kind in kinds:
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def input_types(texts: Sequence[str]) -> dict[str, str]:
    """("NAME=TYPE" or "TYPE", …) as {name, or "" for every input: type}. Raises GreenedgeError for a type that is
    none."""
    from greenedge.frontends.input_type import parse_input_type

    declared: dict[str, str] = {
        name if equals else "": kind if equals else name for name, equals, kind in (t.partition("=") for t in texts)
    }
    for kind in declared.values():
        parse_input_type(kind)
    return declared


def preflight(source: ModelFile, targets: Sequence[str], backend: str | None, options: Options) -> list[Preflight]:
    """One greenedge.backends.preflight.Preflight per target. Raises TargetError for a target, back end or option that
    there is not, and GreenedgeError for samples that are none of the model's."""
    from greenedge.backends.preflight import Lowerings, check_model
    from greenedge.backends.select import default_backend

    if not targets:
        raise TargetError("no target: say --target NAME; `greenedge targets` lists them.")
    named = [load_target(name) for name in dict.fromkeys(targets)]
    if is_decoder_file(source.path):
        return [check_model(source.path, target, backend, {}, options) for target in named]
    chosen = [(target, default_backend(target, backend) if backend else None) for target in named]
    check_options(options)
    lowerings = Lowerings(source.path, source.input_types())
    found = [
        check_model(
            source.path,
            target,
            name or _choose_exact(source, target, None)[0],
            lowerings.declared,
            options,
            source.kernels,
            lowerings,
        )
        for target, name in chosen
    ]
    if all(each.reasons for each in found):
        return found
    check_samples(source, lowerings.get(source.kernels)[0])
    return _note_distance(source, lowerings, found) if source.is_tflite else found


def _note_distance(source: ModelFile, lowerings: Lowerings, found: list[Preflight]) -> list[Preflight]:
    """With how far two arithmetics of a .tflite are apart on the samples, as a note where the model can be built."""
    from greenedge.run.tflite_sets import measure_distance

    distance = measure_distance(source, lowerings)
    note = f"{distance if isinstance(distance, str) else distance.text}."
    return [each if each.reasons else replace(each, notes=(*each.notes, note)) for each in found]


def dry_plan(job: AnyJob) -> list[str]:
    """The commands that the build would run, a line each, for a model file; a recipe is trained first, so it has none
    yet."""
    from greenedge.run.chains import DecoderJob, outline
    from greenedge.run.plan_view import make_plan

    if not isinstance(job.source, ModelFile | DecoderFile):
        return [
            f"# {job.source.name}: {', '.join(job.stages)}; the build's commands follow from the trained network "
            f"(`greenedge build {'MODEL.npz' if isinstance(job, DecoderJob) else 'MODEL.onnx'} --dry-run` shows them)"
        ]
    if isinstance(job, DecoderJob):
        return list(outline(job)["commands"]) if job.target is not None else []
    if (target := job.target) is None:
        return [f"# {job.source.name}: no target, so nothing is built"]
    job, plan = make_plan(job)
    why = [f"# {job.reason}"] if job.reason else []
    return [
        *why,
        f"# {target.name}: {len(plan.files)} files, plan {plan.digest()[:12]}",
        *(shlex.join(command.argv) for command in plan.commands),
        f"# gives {', '.join(plan.products)}",
    ]


def run_all(
    jobs: Sequence[AnyJob], out: Path | None, until: str, display: Callable[[AnyJob], Display]
) -> tuple[list[Path], Path | None]:
    """Runs the jobs; returns their folders and the report, if the run gets that far.

    One job goes into `out` itself, several into a folder each below it; without `out` always below runs/<name>.
    """
    from greenedge.run.loop import run_job, run_jobs  # the stages take half a second, which `check` has no need of

    name = jobs[0].source.name
    if len(jobs) == 1 and (out is not None or jobs[0].target is None):
        run = out or Path("runs") / name
        run_job(jobs[0], run, until, display=display(jobs[0]))
        return [run], RunFolder(run).page if until == "report" else None
    base = out or Path("runs") / name
    runs = run_jobs(jobs, base, until, display)
    return runs, base / "report.html" if until == "report" else None
