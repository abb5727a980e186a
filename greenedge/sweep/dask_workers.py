"""Dask starts the workers: here, where a scheduler's are, or by dask-jobqueue or dask-kubernetes as configured.

What is handed to Dask is a process that works on the study until it has ended, one for each worker: claims, leases and
results go through the study's folder, which all hosts share. So a host that is lost costs what it was at, whatever Dask
makes of it.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from greenedge.errors import TargetError, ToolError
from greenedge.sweep.engine import begin_study, describe_row, has_ended, worker_command
from greenedge.sweep.outputs import collect, write_outputs
from greenedge.sweep.study import BUILDS, POINTS, Study
from greenedge.sweep.sweep import Sweep

_CLUSTERS = {  # name: (module, class, the package that has it)
    "local": ("distributed", "LocalCluster", "distributed"),
    "slurm": ("dask_jobqueue", "SLURMCluster", "dask-jobqueue"),
    "kubernetes": ("dask_kubernetes.operator", "KubeCluster", "dask-kubernetes"),
}
_POLL_S = 0.5
_CONNECT_S = "20s"


def work_here(command: Sequence[str]) -> int:
    """Runs a worker of the study in a process beside the Dask worker that calls this; its status.

    In one of its own, for training holds Python's lock longer than a scheduler waits for a sign of life.
    """
    from greenedge.tools.capture import end_with_parent

    return subprocess.run(list(command), stdin=subprocess.DEVNULL, preexec_fn=end_with_parent).returncode


def run_on_dask(
    sweep: Sweep, folder: Path, address: str, jobs: int, track: Sequence[str], tell: Callable[[str], None]
) -> dict[str, Any]:
    """Runs a planned sweep by workers that Dask starts; what sweep.json says in the end.

    address     "local", "slurm" or "kubernetes", of which `jobs` workers are asked for, or a scheduler's TCP address
    Raises TargetError for another address, ToolError where Dask is not there or its workers leave trials.
    """
    study = begin_study(sweep, folder)
    write_outputs(sweep, study)
    command = worker_command(sweep, folder.resolve(), track)
    with connect(address, jobs) as client:
        tasks = [client.submit(work_here, command, pure=False, retries=10) for _ in range(jobs)]
        _wait(sweep, study, tasks, tell)
        client.cancel(tasks)
    if not has_ended(sweep, study):
        left = study.unfinished(POINTS) + study.unfinished(BUILDS)
        raise ToolError(
            f"the workers of {address} ended and left {left} trials; their hosts must have this folder, {folder}, and "
            "greenedge under the same paths: the logs of the Dask workers say what they said, and the same command "
            "goes on from here."
        )
    return write_outputs(sweep, study, last=True)


@contextmanager
def connect(address: str, jobs: int) -> Iterator[Any]:
    """A client of the scheduler at `address`, or of a cluster of that kind with so many workers."""
    try:
        from distributed import Client
    except ImportError:
        raise ToolError('Dask is not installed: pip install "greenedge[cluster]".') from None
    if address in _CLUSTERS:
        with _open_cluster(address, jobs) as cluster, Client(cluster) as client:
            yield client
        return
    if "://" not in address:
        raise TargetError(
            f"--dask {address!r} is not understood; write tcp://HOST:PORT, or one of: {', '.join(_CLUSTERS)}."
        )
    try:
        client = Client(address, timeout=_CONNECT_S)
    except (OSError, ValueError, TimeoutError) as error:
        raise ToolError(
            f"no Dask scheduler answers at {address} ({(str(error).splitlines() or [type(error).__name__])[0]}); start "
            "one with `dask scheduler`, and workers with `dask worker`."
        ) from None
    with client:
        yield client


def _open_cluster(name: str, jobs: int) -> Any:
    import importlib

    module, kind, package = _CLUSTERS[name]
    try:
        made = getattr(importlib.import_module(module), kind)
    except ImportError:
        raise ToolError(f"--dask {name} needs {package}: pip install {package}.") from None
    if name == "local":
        return made(n_workers=jobs, threads_per_worker=1, processes=True, dashboard_address=None)
    try:
        cluster = made()
        cluster.scale(jobs)
    except (ValueError, OSError, RuntimeError) as error:  # what a configuration lacks, in its own words
        raise ToolError(
            f"{package} could not start workers ({str(error).splitlines()[0]}); see its configuration."
        ) from None
    return cluster


def _wait(sweep: Sweep, study: Study, tasks: Sequence[Any], tell: Callable[[str], None]) -> None:
    """Tells of rows as they come, until the study has ended or every task has: that of a host that was cut off may be
    thought to run for long."""
    told: set[str] = set()
    while True:
        ended = has_ended(sweep, study) or all(task.done() for task in tasks)
        found = collect(sweep, study)
        for row in found["rows"]:
            if row["name"] not in told:
                told.add(row["name"])
                tell(describe_row(row, len(told), found["points"], POINTS))
        if ended:
            return
        time.sleep(_POLL_S)
