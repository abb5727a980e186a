"""Carries out a measuring request: opens the workloads, measures or estimates, stores the results with their run."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from greenedge.energy import carbon, estimate, external_meter, render, results
from greenedge.energy.clock import RealClock
from greenedge.energy.cpu_share import WATTS_FROM, WATTS_PER_CORE
from greenedge.energy.evidence import SCOPES, require
from greenedge.energy.measurement import measure
from greenedge.energy.method import Method
from greenedge.energy.workloads import (
    CallableWorkload,
    CommandWorkload,
    PipeWorkload,
    SerialWorkload,
    Workload,
    inferences_at_once,
    serial_port,
)
from greenedge.errors import GreenedgeError
from greenedge.progress import ProgressFn

ESTIMATE = ("estimate", "estimate:cpu", "estimate:netlist", "estimate:rtl")


class RunWorkloads(Protocol):
    """Opens the builds of runs as workloads; `close` closes everything that it opened."""

    def open(self, run: Path, port: str | None = None, runtime: str | None = None, batch: int = 1) -> Workload: ...

    def close(self) -> None: ...


class Runs(Protocol):
    """Access to run folders, which the harness does not know itself (greenedge.run.energy).

    `is_hardware`: whether the run's build is a circuit; `estimate_energy`: its row from switching activity; `keep`:
    stores a document in the run.
    """

    RunWorkloads: Callable[[], RunWorkloads]

    def is_hardware(self, run: Path) -> bool: ...

    def estimate_energy(self, run: Path, level: str | None, progress: ProgressFn) -> dict: ...

    def keep(self, run: Path, data: dict, seconds: float) -> Path: ...


@dataclass(frozen=True)
class RunChoice:
    """Runs to measure: each on every one of `runtimes` (none: its own) and with every one of `batches` (none: 1), or on
    the board at `port`."""

    paths: tuple[Path, ...] = ()
    runtimes: tuple[str, ...] = ()
    batches: tuple[int, ...] = ()
    port: str | None = None


@dataclass(frozen=True)
class SerialDevice:
    """A device that speaks the MLPerf Tiny interface."""

    path: str
    baud: int = 115200


@dataclass(frozen=True)
class WorkloadLabel:
    """Of a command, call or device: its name in the results, the inferences of one run, the model's accuracy in 0…1."""

    name: str | None = None
    inferences: int = 1
    accuracy: float | None = None


@dataclass(frozen=True)
class MeasureRequest:
    """What is measured; one run of the command may take `timeout_s`."""

    runs: RunChoice = RunChoice()
    command: tuple[str, ...] = ()
    callables: tuple[str, ...] = ()
    serial: SerialDevice | None = None
    label: WorkloadLabel = WorkloadLabel()
    timeout_s: float = 3600.0


@dataclass(frozen=True)
class MeterOptions:
    """Samples a second of power sensors, standard relative uncertainty of the gain, greatest power in W."""

    hz: float = 10.0
    gain_rel: float | None = None
    max_power_w: float | None = None


@dataclass(frozen=True)
class Tdp:
    """A documented thermal design power: watts, for that many hardware threads, and the document. None of them: what
    the training ledger takes for any CPU."""

    watts: float | None = None
    threads: int | None = None
    source: str = ""


@dataclass(frozen=True)
class MeasureOptions:
    """How it is measured, and the evidence that is `required`; sources are found below `root`."""

    sources: tuple[str, ...] = ()
    method: Method = Method()
    meter: MeterOptions = MeterOptions()
    tdp: Tdp = Tdp()
    root: Path = Path("/")
    seed: int = 0
    required: str | None = None


def method(window: float, warm_up: float, idle: float, max_reps: int, target: float) -> Method:
    """The method with these settings (s, s, s, count, relative half-width). Raises GreenedgeError for values out of
    range."""
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


def settle_sources(sources: Sequence[str], summed: bool, scale: float | None, sign: int | None) -> tuple[str, ...]:
    """The ids with --scale and --sign behind each, joined with + where they are `summed`. Raises GreenedgeError where
    there is no source to apply them to."""
    if not sources and (summed or scale is not None or sign is not None):
        raise GreenedgeError(
            "--sum, --scale and --sign are for the sources that are named: give each with --source "
            "(greenedge energy probe lists them)."
        )
    if summed and any(source in ESTIMATE for source in sources):
        raise GreenedgeError("an estimate is not summed with a source; leave --sum out.")
    settings = [f"{key}={value:.12g}" for key, value in (("scale", scale), ("sign", sign)) if value is not None]
    ids = [",".join([source, *settings]) for source in sources]
    return ("+".join(ids),) if summed else tuple(ids)


def check_scope(scope: str) -> None:
    """Raises GreenedgeError for an unknown scope."""
    if scope not in SCOPES:
        raise GreenedgeError(f"--scope {scope!r} is not known; take one of {', '.join(SCOPES)}.")


def carry_out(
    what: MeasureRequest,
    how: MeasureOptions,
    runs: Runs | None,
    progress: ProgressFn,
    grid: carbon.Intensity | None,
) -> dict:
    """The document, with carbon where a grid is given; rows of a run are also stored in the run.

    Raises GreenedgeError; EvidenceError where a source is missing or fails.
    """
    begun = time.monotonic()
    if any(source in ESTIMATE for source in how.sources):
        owned = _estimate_all(what, how, runs, progress)
        data = results.document(row for row, _ in owned)
    else:
        with ExitStack() as opened:
            workloads, owners = _workloads(what, runs, opened)
            data = _measure(workloads, how, progress)
        owner = dict(zip((workload.name for workload in workloads), owners, strict=True))
        owned = [(row, owner[row["workload"]]) for row in data["rows"]]
    if grid is not None:
        render.add_carbon(data, grid)
    for run in what.runs.paths:
        rows = [row for row, owner in owned if owner == run]
        if rows:  # none where an estimate of several runs was interrupted
            _require_runs(runs).keep(run, data | {"rows": rows}, time.monotonic() - begun)
    return data


def _estimate_all(
    what: MeasureRequest, how: MeasureOptions, runs: Runs | None, progress: ProgressFn
) -> list[tuple[dict, Path | None]]:
    """The rows of `_estimates`; where it is interrupted, those that were finished. Raises KeyboardInterrupt before the
    first."""
    owned: list[tuple[dict, Path | None]] = []
    try:
        for entry in _estimates(what, how, runs, progress):
            owned.append(entry)
    except KeyboardInterrupt:
        if not owned:
            raise
        for row, _ in owned:
            row["flags"].append("the command was interrupted: what was finished is here, the rest is not")
    return owned


def _measure(workloads: list[Workload], how: MeasureOptions, progress: ProgressFn) -> dict:
    return measure(
        workloads,
        how.sources,
        method=how.method,
        root=how.root,
        seed=how.seed,
        required=how.required,
        progress=progress,
        sampler_hz=how.meter.hz,
        gain_rel=how.meter.gain_rel,
        max_power_w=how.meter.max_power_w,
    )


def time_for_meter(
    what: MeasureRequest, how: MeasureOptions, runs: Runs | None, path: Path, marker: str, progress: ProgressFn
) -> str:
    """Times one workload for a meter that records by itself and writes the timing to `path`; returns the next step.

    Raises GreenedgeError.
    """
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
    """The requested workloads, and the run of each (None: of none). Raises GreenedgeError where there is none, or two
    have the same name."""
    found: list[tuple[Workload, Path | None]] = []
    label = what.label
    if what.runs.paths:
        opener = _require_runs(runs).RunWorkloads()
        opened.callback(opener.close)
        # Without a runtime: the build itself.
        found += [
            (opener.open(run, what.runs.port, name, batch), run)
            for run in what.runs.paths
            for name in what.runs.runtimes or (None,)
            for batch in what.runs.batches or (1,)
        ]
    found += [(_callable(text, what), None) for text in what.callables]
    if what.serial:
        port = serial_port(what.serial.path, what.serial.baud)
        device = SerialWorkload(port, label.name or what.serial.path, accuracy=label.accuracy)
        found.append((device, None))
    if what.command:
        command = CommandWorkload(
            what.command, label.inferences, label.name, timeout_s=what.timeout_s, accuracy=label.accuracy
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
    """Raises GreenedgeError where the program that calls us does not know run folders."""
    if runs is None:
        raise GreenedgeError(
            "run folders are measured by `greenedge energy measure RUN`; this entry does not know them."
        )
    return runs


def _callable(text: str, what: MeasureRequest) -> Workload:
    """The workload of module:function. Raises GreenedgeError."""
    module, _, function = text.partition(":")
    try:
        call = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise GreenedgeError(
            f"--callable {text!r} cannot be had: {error}; give module:function on the Python path."
        ) from None
    name = what.label.name if what.label.name and len(what.callables) == 1 else text
    return CallableWorkload(call, name, what.label.inferences, what.label.accuracy)


def _estimates(
    what: MeasureRequest, how: MeasureOptions, runs: Runs | None, progress: ProgressFn
) -> Iterator[tuple[dict, Path | None]]:
    """A row for each workload, and its run: from switching activity for circuits, from CPU time for the rest.

    Raises EvidenceError where better evidence is required, GreenedgeError for estimates mixed with sources.
    """
    require("estimated", how.required or "estimated", "an estimate", "choose a live source (greenedge energy probe).")
    sources = [source for source in how.sources if source not in ESTIMATE]
    if sources:
        raise GreenedgeError(f"{sources[0]} and an estimate are not taken at once; measure twice, once with each.")
    kind = how.sources[0].partition(":")[2]
    by_time = kind == "cpu" or bool(what.runs.runtimes)
    circuits = [run for run in what.runs.paths if not by_time and _require_runs(runs).is_hardware(run)]
    level = kind or None
    for run in circuits:
        yield _require_runs(runs).estimate_energy(run, level, progress), run
    others = tuple(run for run in what.runs.paths if run not in circuits)
    rest = replace(what, runs=replace(what.runs, paths=others))
    if circuits and not (others or rest.command or rest.callables or rest.serial):
        return
    with ExitStack() as opened:
        for workload, owner in zip(*_workloads(rest, runs, opened), strict=True):
            progress(0, 0, f"counting the CPU time of {workload.name}")
            yield _cpu_estimate(workload, how.tdp, how.method.min_window_s), owner


def _cpu_estimate(workload: Workload, tdp: Tdp, seconds: float) -> dict:
    """A row from the CPU time of about `seconds` of work, times the documented TDP per thread; without one the ledger's
    watts per core."""
    if tdp == Tdp():
        tdp = Tdp(WATTS_PER_CORE, 1, WATTS_FROM)
    watts, threads = estimate.check_tdp(tdp.watts, tdp.threads, tdp.source)
    workload.setup()
    try:
        used = workload.cpu_seconds if isinstance(workload, PipeWorkload) else _own_cpu_seconds
        workload.infer(1, lambda: None)
        begun, before, calls = time.monotonic(), used(), 0
        while time.monotonic() - begun < seconds:
            workload.infer(1, lambda: None)
            calls += 1
        elapsed, spent = time.monotonic() - begun, used() - before
    finally:
        workload.teardown()
    count = calls * workload.batch
    latency = elapsed / count * inferences_at_once(workload)
    row = estimate.cpu_row(workload.name, spent, count, watts, threads, tdp.source, latency, workload.accuracy)
    return row | {"batch": workload.batch}


def _own_cpu_seconds() -> float:
    """CPU seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])
