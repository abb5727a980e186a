"""greenedge energy probe | measure | compare | replay | selftest: parse, call, print."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from greenedge.energy import options as o
from greenedge.energy import request, results, side_by_side, terminal
from greenedge.energy.evidence import EVIDENCE, require
from greenedge.energy.exporter import export_metrics
from greenedge.energy.liveness import Load
from greenedge.energy.measurement import probe as probe_all
from greenedge.energy.render import Wanted, console, finish, progress_bar, write_text
from greenedge.energy.replay import Recording, rows_of, span
from greenedge.energy.selftest import selftest as run_selftest
from greenedge.errors import EvidenceError, GreenedgeError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Joules per inference, measured and labelled.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


class _CommandAfterDashes(TyperCommand):
    """Everything after -- is the command to measure, also words that look like options."""

    # Any: the module of the context's class differs between versions of typer.
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--" in args:
            place = args.index("--")
            args, ctx.meta["command"] = args[:place], tuple(args[place + 1 :])
        return super().parse_args(ctx, args)


@contextmanager
def exit_code_on_error(as_json: bool = False) -> Iterator[None]:
    """Prints a GreenedgeError as one sentence (and as JSON) and exits with its code; Ctrl-C exits with 130."""
    try:
        yield
    except GreenedgeError as error:
        if as_json:
            entry = {"kind": type(error).__name__, "message": str(error), "exit_code": error.exit_code}
            print(json.dumps({"error": entry}, indent=1))
        typer.echo(f"greenedge: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        typer.echo("greenedge: interrupted; nothing was written.", err=True)
        raise typer.Exit(130) from None


@app.command(cls=_CommandAfterDashes)
def probe(
    context: typer.Context,
    json_: o.Json = False,
    root: o.Root = Path("/"),
    seconds: o.Seconds = 1.0,
    required: o.Required = None,
) -> None:
    """Every source: alive or not, what it covers, its update period, and the cure. -- COMMAND loads what they cover."""
    with exit_code_on_error(json_):
        with progress_bar() as progress:
            found = probe_all(root, load=_command_load(_command(context)), seconds=seconds, progress=progress)
        if json_:
            entries = [{"id": p.id, "scope": p.scope, "covers": p.covers} | vars(p.live) for p in found]
            print(json.dumps(entries, indent=1))
        else:
            console().print(terminal.probe_view(found))
        if required == "measured" and not any(p.live.ok for p in found):
            raise EvidenceError(
                "no source on this machine is alive, --require measured was given: see the cures above."
            )


@app.command(cls=_CommandAfterDashes)
def measure(
    context: typer.Context,
    run: o.Run = None,
    source: o.Source = None,
    sum_: o.Sum = False,
    scale: o.Scale = None,
    sign: o.Sign = None,
    callable_: o.Callable = None,
    serial: o.Serial = None,
    baud: int = 115200,
    port: o.Port = None,
    runtime: o.Runtime = None,
    batch: o.Batch = None,
    name: o.Name = None,
    inferences: o.Inferences = 1,
    accuracy: o.Accuracy = None,
    window: o.Window = 10.0,
    warm_up: o.WarmUp = 30.0,
    idle: o.Idle = 3.0,
    max_reps: o.MaxReps = 30,
    target: o.Target = 0.02,
    seed: int = 0,
    timeout: o.Timeout = 3600.0,
    hz: o.Hz = 10.0,
    gain: o.Gain = None,
    max_power: o.MaxPower = None,
    tdp: o.Tdp = None,
    threads: o.Threads = None,
    tdp_source: o.TdpSource = "",
    external: o.External = None,
    marker: o.Marker = "pattern",
    required: o.Required = None,
    country: o.Country = None,
    grams: o.Intensity = None,
    intensity_file: o.IntensityFile = None,
    output: o.Out = None,
    html: o.Html = None,
    csv: o.Csv = None,
    json_: o.Json = False,
    root: o.Root = Path("/"),
) -> None:
    """Measure RUN…, -- COMMAND…, --callable or --serial: idle | window | idle, repeated until the interval is within
    the target. Results of a RUN are kept in it and shown in its report."""
    with exit_code_on_error(json_):
        _check_require_option(required)
        wanted = Wanted(output, html, csv, json_, country, grams, intensity_file)
        grid = wanted.intensity  # an unknown country is refused before anything is measured
        what = request.MeasureRequest(
            runs=request.RunChoice(tuple(run or ()), tuple(runtime or ()), tuple(batch or ()), port),
            command=_command(context),
            callables=tuple(callable_ or ()),
            serial=request.SerialDevice(serial, baud) if serial else None,
            label=request.WorkloadLabel(name, inferences, accuracy),
            timeout_s=timeout,
        )
        method = request.method(window, warm_up, idle, max_reps, target)
        meter, power = request.MeterOptions(hz, gain, max_power), request.Tdp(tdp, threads, tdp_source)
        sources = request.settle_sources(source or (), sum_, scale, sign)
        how = request.MeasureOptions(sources, method, meter, power, root, seed, required)
        if external is not None:
            with progress_bar() as progress:
                text = request.time_for_meter(what, how, context.obj, external, marker, progress)
            return typer.echo(text)
        with progress_bar() as progress:
            data = request.carry_out(what, how, context.obj, progress, grid)
        finish(data, wanted)


@app.command()
def compare(
    one: Path,
    others: o.Others = None,
    row: o.Row = 0,
    other_row: o.OtherRow = None,
    quantity: o.Quantity = "total",
    allow_scope: o.AllowScope = False,
    allow_evidence: o.AllowEvidence = False,
    html: o.Html = None,
    json_: o.Json = False,
) -> None:
    """The ratio of two results (files, or runs) with its 95 % interval; "not distinguishable" where it spans 1. Where
    there may be none: both side by side, why, and which measurement would allow one."""
    with exit_code_on_error(json_):
        if quantity not in ("total", "net"):
            raise GreenedgeError(f"there is no quantity {quantity!r} to compare; take total or net.")
        paths = [one, *(others or [])]
        files = [results.load(side_by_side.find_document(path)) for path in paths]
        rows = [_row(files[0], row, one)]
        place = (0 if others else 1) if other_row is None else other_row
        pairs = list(zip(files[1:], paths[1:], strict=True)) or [(files[0], one)]
        rows += [_row(file, place, path) for file, path in pairs]
        found = [
            side_by_side.weigh(
                rows[0], other, quantity, results.same_session(files[0], file), allow_scope, allow_evidence
            )
            for other, (file, _) in zip(rows[1:], pairs, strict=True)
        ]
        if html:
            write_text(html, side_by_side.page(rows, found))
        if json_:
            entries = [side_by_side.as_json(one) for one in found]
            return print(json.dumps(entries[0] if len(entries) == 1 else {"comparisons": entries}))
        side_by_side.show(rows, found, console())


@app.command()
def replay(
    path: Path,
    kind: o.Kind = "trace",
    window: o.ReplayWindow = None,
    idle: o.ReplayIdle = None,
    markers: o.Markers = False,
    timing: o.Timing = None,
    inferences: o.ReplayInferences = 1,
    volts: o.Volts = None,
    columns: o.Columns = None,
    scope: o.Scope = "board",
    gain: o.Gain = None,
    device: o.Device = "",
    clock_hz: float | None = None,
    cycles: o.Cycles = None,
    single_shot: o.SingleShot = False,
    name: str | None = None,
    required: o.Required = None,
    country: o.Country = None,
    grams: o.Intensity = None,
    intensity_file: o.IntensityFile = None,
    output: o.Out = None,
    html: o.Html = None,
    csv: o.Csv = None,
    json_: o.Json = False,
) -> None:
    """Figures from a recording or a report: replayed from instruments, estimated from models; never measured."""
    with exit_code_on_error(json_):
        _check_require_option(required)
        request.check_scope(scope)
        recording = Recording(
            path,
            name or path.stem,
            tuple(map(span, window or ())),
            tuple(map(span, idle or ())),
            markers,
            timing,
            inferences,
            volts,
            scope,
            gain,
            device,
            clock_hz,
            cycles,
            single_shot,
            columns,
        )
        data = results.load(path) if kind == "results" else results.document(rows_of(recording, kind))
        for row in data["rows"]:
            require(row["evidence"], required or "estimated", str(path), "measure on a live source.")
        finish(data, Wanted(output, html, csv, json_, country, grams, intensity_file))


@app.command()
def export(
    source: o.Source = None,
    listen: o.Listen = None,
    file: o.TextFile = None,
    every: o.Every = 15.0,
    seconds: o.For = None,
    root: o.Root = Path("/"),
    required: o.Required = None,
) -> None:
    """Joules of this machine as OpenMetrics text, for Prometheus: on a port, or into a file again and again."""
    with exit_code_on_error():
        _check_require_option(required)
        export_metrics(tuple(source or ()), root, required, listen, file, every, seconds, typer.echo)


@app.command()
def when(
    run: o.WhenRun = None,
    intensity_file: o.IntensityFile = None,
    hours: o.Hours = None,
    top: o.Top = 5,
    json_: o.Json = False,
) -> None:
    """When to train: the hours of a file of carbon intensity, ranked as starts for the length of a run's training."""
    from greenedge.energy import when as starts
    from greenedge.energy.intensity_file import rank_starts, read_hourly

    with exit_code_on_error(json_):
        if intensity_file is None:
            raise GreenedgeError(
                "--intensity-file FILE is needed: hours of carbon intensity, as ElectricityMaps and the grid operators "
                "give them away as CSV."
            )
        work, hourly = starts.read_work(run, hours), read_hourly(intensity_file)
        if json_:
            ranked = rank_starts(hourly, work.length, work.joules)
            return print(json.dumps(starts.as_json(hourly, work, ranked), indent=1))
        starts.show(hourly, work, top, console())


@app.command()
def selftest(
    output: o.Out = None,
    json_: o.Json = False,
    root: o.Root = Path("/"),
    required: o.Required = None,
) -> None:
    """The harness on fakes with known answers, and the live sources; attach the file to a report."""
    with exit_code_on_error(json_):
        with progress_bar() as progress:
            data = run_selftest(root, _command_load((sys.executable, "-c", "while True: pass")), progress=progress)
        if output:
            write_text(output, json.dumps(data, indent=1) + "\n")
        if json_:
            print(json.dumps(data, indent=1))
        else:
            for check in data["checks"]:
                typer.echo(f"{'ok  ' if check['ok'] else 'FAIL'} {check['name']}: {check['figure']}")
            for one in data["sources"]:
                typer.echo(f"{one['state']:<11} {one['id']}: {one['reason'] or one['covers']}")
        if not data["ok"]:
            raise GreenedgeError("the harness gives wrong answers on its own fakes; attach this output to a report.")
        if required == "measured" and not any(one["state"] == "alive" for one in data["sources"]):
            raise EvidenceError(
                "no source on this machine is alive, --require measured was given: greenedge energy "
                "probe names the cures."
            )


def _command(context: typer.Context) -> tuple[str, ...]:
    return context.meta.get("command", ())


def _check_require_option(required: str | None) -> None:
    if required is not None and required not in ("measured", "replayed", "simulated", "estimated"):
        raise GreenedgeError(
            f"--require {required!r} is not known; evidence is one of {', '.join(EVIDENCE)} without derived."
        )


def _row(data: dict, index: int, path: Path) -> dict:
    if not 0 <= index < len(data["rows"]):
        raise GreenedgeError(f"{path} has {len(data['rows'])} rows, row {index} was asked for; rows count from 0.")
    return data["rows"][index]


def _command_load(argv: tuple[str, ...]) -> Load | None:
    """The command as a load of the liveness test: one process a CPU, restarted when it ends. None without a command."""
    if not argv:
        return None

    def load(going: Callable[[], bool]) -> None:
        children: list[subprocess.Popen] = []
        try:
            while going():
                children = [child for child in children if child.poll() is None]
                for _ in range((os.cpu_count() or 1) - len(children)):
                    children.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL))
                time.sleep(0.002)
        except OSError as error:
            raise GreenedgeError(f"{argv[0]} could not be started: {error.strerror}; give its full path.") from None
        finally:
            for child in children:
                child.kill()
                child.wait()

    return load
