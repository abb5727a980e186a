"""What a user asked to have measured, carried out: workloads opened, sources or a model chosen, results kept with their
run."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from greenedge.energy import carbon, estimate, external_meter, render, results
from greenedge.energy.clock import RealClock
from greenedge.energy.evidence import SCOPES, require
from greenedge.energy.measurement import measure
from greenedge.energy.method import Method
from greenedge.energy.session import Progress
from greenedge.energy.workloads import CallableWorkload, CommandWorkload, SerialWorkload, Workload, at_once, serial_port
from greenedge.errors import GreenedgeError

ESTIMATE = ("estimate", "estimate:cpu", "estimate:netlist", "estimate:rtl")


class RunWorkloads(Protocol):
    """Opens the builds of runs as workloads, and gives back what it opened."""

    def open(self, run: Path, port: str | None = None, runtime: str | None = None, batch: int = 1) -> Workload: ...

    def close(self) -> None: ...


class Runs(Protocol):
    """What knows run folders (greenedge.run.energy); the harness itself does not."""

    RunWorkloads: Callable[[], RunWorkloads]

    def is_hardware(self, run: Path) -> bool: ...

    def estimate_energy(self, run: Path, level: str | None, tell: Progress) -> dict: ...

    def keep(self, run: Path, data: dict, seconds: float) -> Path: ...


@dataclass(frozen=True)
class MeasureRequest:
    """What is measured."""

    runs: tuple[Path, ...] = ()
    runtimes: tuple[str, ...] = ()
    batches: tuple[int, ...] = ()
    command: tuple[str, ...] = ()
    callables: tuple[str, ...] = ()
    serial: str | None = None
    baud: int = 115200
    port: str | None = None
    name: str | None = None
    inferences: int = 1
    accuracy: float | None = None
    timeout_s: float = 3600.0


@dataclass(frozen=True)
class Tdp:
    """A documented thermal design power: watts, for so many hardware threads, from where."""

    watts: float | None = None
    threads: int | None = None
    source: str = ""


@dataclass(frozen=True)
class MeasureOptions:
    """By what and how it is measured."""

    sources: tuple[str, ...] = ()
    method: Method = Method()
    root: Path = Path("/")
    seed: int = 0
    hz: float = 10.0
    gain: float | None = None
    max_power_w: float | None = None
    tdp: Tdp = Tdp()
    required: str | None = None


def method(window: float, warm_up: float, idle: float, max_reps: int, target: float) -> Method:
    """The method with these settings. Raises GreenedgeError for one that makes no measurement."""
    if not (window > 0 and idle > 0 and warm_up >= 0 and 0 <= target < 1):
        raise GreenedgeError(
            f"--window {window:g}, --idle {idle:g}, --warm-up {warm_up:g} and --target {target:g} make no measurement; "
            "windows and idle are above 0 s, the target is a share below 1 (0.02)."
        )
    return Method(
        min_window_s=window,
        warm_up_s=warm_up,
        idle_s=idle,
        max_reps=max_reps,
        target=target,
        min_reps=min(10, max_reps),
    )


def check_scope(scope: str) -> None:
    if scope not in SCOPES:
        raise GreenedgeError(f"--scope {scope!r} is not known; take one of {', '.join(SCOPES)}.")


def carry_out(what: MeasureRequest, how: MeasureOptions, runs: Runs | None, progress: Progress, grid: carbon.Intensity | None) -> dict:
    """The document; rows of a run are kept in the run too, with carbon where a grid is given."""
    begun = time.monotonic()
    if any(source in ESTIMATE for source in how.sources):
        owned = _estimates(what, how, runs, progress)
        data = results.document(row for row, _ in owned)
    else:
        with ExitStack() as opened:
            workloads, owners = _workloads(what, runs, opened)
            data = _measure(workloads, how, progress)
        owner = dict(zip((workload.name for workload in workloads), owners, strict=True))
        owned = [(row, owner[row["workload"]]) for row in data["rows"]]
    if grid is not None:
        render.add_carbon(data, grid)
    for run in what.runs:
        runs.keep(run, data | {"rows": [row for row, owner in owned if owner == run]}, time.monotonic() - begun)
    return data


def _measure(workloads: list[Workload], how: MeasureOptions, progress: Progress) -> dict:
    return measure(
        workloads,
        how.sources,
        method=how.method,
        root=how.root,
        seed=how.seed,
        required=how.required,
        progress=progress,
        sampler_hz=how.hz,
        gain_rel=how.gain,
        max_power_w=how.max_power_w,
    )


def time_for_meter(what: MeasureRequest, how: MeasureOptions, runs: Runs | None, path: Path, marker: str, progress: Progress) -> str:
    """Times one workload for a meter that records by itself; returns what to do next."""
    with ExitStack() as opened:
        pin = external_meter.open_pin(marker)
        if pin is not None:
            opened.callback(pin.close)
        workloads, _ = _workloads(what, runs, opened)
        if len(workloads) != 1:
            raise GreenedgeError(f"{len(workloads)} things are to be timed at once; --external takes one.")
        repetitions = min(how.method.min_reps, how.method.max_reps)
        timing = external_meter.time_workload(workloads[0], how.method, RealClock(), pin, repetitions, progress)
    external_meter.save_timing(timing, path)
    return f"{path}: {repetitions} windows; now: greenedge energy replay RECORDING.csv --timing {path}"


def _workloads(what: MeasureRequest, runs: Runs | None, opened: ExitStack) -> tuple[list[Workload], list[Path | None]]:
    """Everything asked for, and the run that each is of. Raises GreenedgeError where nothing was asked for, or two are
    called the same."""
    found: list[tuple[Workload, Path | None]] = []
    if what.runs:
        opener = _require_runs(runs).RunWorkloads()
        opened.callback(opener.close)
        # Without a runtime named, the build on its own.
        found += [
            (opener.open(run, what.port, name, batch), run)
            for run in what.runs
            for name in what.runtimes or (None,)
            for batch in what.batches or (1,)
        ]
    found += [(_callable(text, what), None) for text in what.callables]
    if what.serial:
        port = serial_port(what.serial, what.baud)
        found.append((SerialWorkload(port, what.name or what.serial, accuracy=what.accuracy), None))
    if what.command:
        command = CommandWorkload(
            what.command, what.inferences, what.name, timeout_s=what.timeout_s, accuracy=what.accuracy
        )
        found.append((command, None))
    if not found:
        raise GreenedgeError(
            "there is nothing to measure: give a RUN, -- COMMAND…, --callable module:function, or --serial PORT."
        )
    names = [workload.name for workload, _ in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise GreenedgeError(f"{twice[0]!r} is to be measured twice at once; give each thing once, or another --name.")
    return [workload for workload, _ in found], [run for _, run in found]


def _require_runs(runs: Runs | None) -> Runs:
    if runs is None:
        raise GreenedgeError(
            "run folders are measured by `greenedge energy measure RUN`; this entry does not know them."
        )
    return runs


def _callable(text: str, what: MeasureRequest) -> Workload:
    module, _, function = text.partition(":")
    try:
        call = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise GreenedgeError(
            f"--callable {text!r} cannot be had: {error}; give module:function on the Python path."
        ) from None
    name = what.name if what.name and len(what.callables) == 1 else text
    return CallableWorkload(call, name, what.inferences, what.accuracy)


def _estimates(what: MeasureRequest, how: MeasureOptions, runs: Runs | None, progress: Progress) -> list[tuple[dict, Path | None]]:
    """A row for each thing asked for, and its run: switching activity for circuits, CPU time for the rest. Raises
    EvidenceError where more was required."""
    require("estimated", how.required or "estimated", "an estimate", "choose a live source (greenedge energy probe).")
    others = [source for source in how.sources if source not in ESTIMATE]
    if others:
        raise GreenedgeError(f"{others[0]} and an estimate are not taken at once; measure twice, once with each.")
    kind = how.sources[0].partition(":")[2]
    by_time = kind == "cpu" or bool(what.runtimes)
    circuits = [run for run in what.runs if not by_time and _require_runs(runs).is_hardware(run)]
    level = kind or None
    rows = [(runs.estimate_energy(run, level, lambda done, of, text: progress(text, done, of)), run) for run in circuits]
    rest = replace(what, runs=tuple(run for run in what.runs if run not in circuits))
    if circuits and not (rest.runs or rest.command or rest.callables or rest.serial):
        return rows
    with ExitStack() as opened:
        for workload, run in zip(*_workloads(rest, runs, opened), strict=True):
            progress(f"counting the CPU time of {workload.name}", 0, 0)
            rows.append((_cpu_estimate(workload, how.tdp, how.method.min_window_s), run))
    return rows


def _cpu_estimate(workload: Workload, tdp: Tdp, seconds: float) -> dict:
    """CPU seconds of the work over about so long, times the share of the documented TDP."""
    estimate.check_tdp(tdp.watts, tdp.threads, tdp.source)
    workload.setup()
    try:
        used = getattr(workload, "cpu_seconds", _own_cpu_seconds)
        workload.infer(1, lambda: None)
        begun, before, calls = time.monotonic(), used(), 0
        while time.monotonic() - begun < seconds:
            workload.infer(1, lambda: None)
            calls += 1
        elapsed, spent = time.monotonic() - begun, used() - before
    finally:
        workload.teardown()
    count = calls * workload.batch
    latency = elapsed / count * at_once(workload)
    row = estimate.cpu_row(workload.name, spent, count, tdp.watts, tdp.threads, tdp.source, latency, workload.accuracy)
    return row | {"batch": workload.batch}


def _own_cpu_seconds() -> float:
    """Of this process and the children that have ended."""
    return sum(os.times()[:4])
