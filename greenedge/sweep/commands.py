"""`greenedge sweep`: what was asked for becomes a sweep, and is run here, by workers, or by a cluster."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greenedge.errors import TargetError
from greenedge.sweep.engine import Watch, begin_study, run_sweep, work
from greenedge.sweep.outputs import PAGE, write_outputs
from greenedge.sweep.space import TARGET, Axis, Space, make_space, name_point, parse_vary, read_space
from greenedge.sweep.study import Study
from greenedge.sweep.sweep import Given, Sweep, is_model_path, load_sweep, plan_sweep
from greenedge.sweep.trackers import OnStage, open_trackers


@dataclass(frozen=True)
class Request:
    """The command line; `axes` and `on_stage` are those of a caller in Python."""

    source: str
    vary: tuple[str, ...] = ()
    axes: tuple[Axis, ...] = ()
    space: Path | None = None
    study: Path | None = None
    targets: tuple[str, ...] = ()
    backend: str | None = None
    sets: tuple[str, ...] = ()
    objectives: tuple[str, ...] = ()
    until: str | None = None
    build: str = "all"
    trials: int | None = None
    sampler: str = "auto"
    seed: int = 0
    jobs: int = 1
    worker: bool = False
    retry: bool = False
    energy_j: float = 0.0
    given: Given = Given()
    track: tuple[str, ...] = ()
    dask: str | None = None
    slurm: bool = False
    dry_run: bool = False
    on_stage: OnStage | None = None


def run_request(request: Request, tell: Callable[[str], None]) -> dict[str, Any] | str:
    """What sweep.json says in the end, with the page's path under "report"; a text where nothing was run."""
    folder = request.study or Path("runs") / f"{Path(request.source).stem}-sweep"
    _require_one_way(request)
    if request.worker:
        sweep = load_sweep(folder, request.source)
        return _with_report(_join(sweep, folder, request, tell), folder)
    sweep = plan_request(request)
    if request.slurm:
        from greenedge.sweep.slurm import write_script

        return write_script(sweep, folder, request.jobs, request.track, request.dry_run)
    if request.dry_run:
        return list_points(sweep)
    if request.dask is not None:
        from greenedge.sweep.dask_workers import run_on_dask

        found = run_on_dask(sweep, folder, request.dask, request.jobs, request.track, tell)
        return _with_report(found, folder)
    with ExitStack() as opened:
        watch = _watch(sweep, folder, request, tell, opened)
        return _with_report(run_sweep(sweep, folder, request.jobs, watch, request.retry, request.track), folder)


def _require_one_way(request: Request) -> None:
    ways = {"--worker": request.worker, "--dask": request.dask is not None, "--slurm": request.slurm}
    chosen = [name for name, is_chosen in ways.items() if is_chosen]
    if len(chosen) > 1:
        raise TargetError(f"{' and '.join(chosen)} are different ways to start workers; choose one.")
    if request.worker and (request.vary or request.space):
        raise TargetError("--worker takes the space from the study; leave --vary and --space out.")
    if request.worker and request.study is None:
        raise TargetError("--worker joins a study; say which with --study DIR.")


def plan_request(request: Request) -> Sweep:
    """The sweep of a command line, with everything decided. Raises TargetError."""
    from_file = read_space(request.space) if request.space else Space(())
    axes = [*from_file.axes, *request.axes, *parse_vary(request.vary)]
    sets = (*from_file.sets, *request.sets)
    space = make_space(axes, sets, request.objectives or from_file.objectives, str(request.space or "--vary"))
    has_target = bool(request.targets) or any(axis.key == TARGET for axis in axes)
    sweep = Sweep(
        request.source,
        space,
        backend=request.backend,
        until=request.until or ("report" if has_target else "lower" if is_model_path(request.source) else "train"),
        build=request.build,
        energy_j=request.energy_j,
        sampler=request.sampler,
        trials=request.trials,
        seed=request.seed,
        given=request.given,
    )
    return plan_sweep(sweep, request.targets)


def list_points(sweep: Sweep) -> str:
    """The points of a grid, a line each, or what will choose them."""
    if sweep.sampler != "grid":
        return f"{sweep.trials} of {sweep.space.size:,} points, chosen by {sweep.sampler}"
    return "\n".join([*map(name_point, sweep.space.grid()), f"{sweep.space.size} points"])


def _watch(sweep: Sweep, folder: Path, request: Request, tell: Callable[[str], None], opened: ExitStack) -> Watch:
    from greenedge.run.progress import bar

    on_stage = opened.enter_context(open_trackers(request.track, folder, sweep.name, request.on_stage))
    progress = opened.enter_context(bar("sweep")) if request.jobs == 1 else (lambda done, total, text: None)
    return Watch(on_stage, progress, tell)


def _join(sweep: Sweep, folder: Path, request: Request, tell: Callable[[str], None]) -> dict[str, Any]:
    """Works on a study that there is, until it has ended."""
    study: Study = begin_study(sweep, folder, request.retry)
    with ExitStack() as opened:
        work(sweep, study, _watch(sweep, folder, request, tell, opened))
    return write_outputs(sweep, study, last=True)


def _with_report(found: dict[str, Any], folder: Path) -> dict[str, Any]:
    return {**found, "report": str(folder / PAGE)}
