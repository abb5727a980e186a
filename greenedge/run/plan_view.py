"""What a build would be, before anything is run: folding, cycles and resources as planned, and the commands."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

from greenedge.backends import load_backend
from greenedge.backends.interface import Outline
from greenedge.errors import TargetError
from greenedge.frontends.import_onnx import ModelFile, open_quantised
from greenedge.run.job import Job
from greenedge.run.stages import plan_build
from greenedge.tools.plan import Plan


def make_plan(job: Job) -> tuple[Job, Plan]:
    """The job with its back end chosen, and its plan. Raises TargetError for a recipe, whose plan follows from its
    training, and for a job without a target."""
    from greenedge.lower import lower_file

    if not isinstance(job.source, ModelFile) or job.target is None:
        raise TargetError(
            f"{job.source.name} has no plan before it is trained and has a target; plan the file that it exports: "
            "`greenedge build RUN/2-export/model.onnx --until plan --target NAME`."
        )
    with open_quantised(job.source) as (source, _):
        lowered = lower_file(source.path, source.input_types(), source.kernels)
    if not job.is_chosen:
        from greenedge.backends.select import select_backend

        backend, reason = select_backend(lowered.graph, job.target, job.options)
        job = replace(job, backend=backend, reason=reason)
    return job, plan_build(job, lowered)


def outline(job: Job) -> dict[str, Any]:
    """{"target", "backend", "columns", "layers", "estimated", "bytes", "commands", …} of the plan."""
    job, plan = make_plan(job)
    assert job.target is not None and job.backend is not None
    told: Outline = load_backend(job.backend).outline(plan, job.target)
    shown = show_plan(job.source.name, job.target.name, job.backend, told, plan)
    return {**shown, **({"reason": job.reason} if job.reason else {})}


def show_plan(model: str, target: str, backend: str, told: Outline, plan: Plan) -> dict[str, Any]:
    """The fields of `outline` that every kind of plan has."""
    return {
        "model": model,
        "target": target,
        "backend": backend,
        "plan": plan.digest(),
        "columns": list(told.columns),
        "layers": [list(row) for row in told.rows],
        "estimated": dict(told.estimated),
        "figures": dict(told.figures),
        "bytes": {name: len(content) for name, content in plan.files.items()},
        "commands": [shlex.join(command.argv) for command in plan.commands],
    }
