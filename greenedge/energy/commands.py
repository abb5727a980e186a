"""greenedge energy probe | measure | compare | replay | selftest: parse, call, print."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from greenedge.errors import EvidenceError, GreenedgeError
from greenedge.files import write_aside
from greenedge.energy import estimate, importers, results, terminal
from greenedge.energy import carbon as carbon_table
from greenedge.energy.compare import compare as compare_rows
from greenedge.energy.labels import EVIDENCE, require
from greenedge.energy.measure import measure as measure_all
from greenedge.energy.measure import probe as probe_all
from greenedge.energy.method import Method
from greenedge.energy.selftest import selftest as run_selftest
from greenedge.energy.workloads import CallableWorkload, CommandWorkload, SerialWorkload, Workload, serial_port

app = typer.Typer(no_args_is_help=True, help="Joules per inference, measured and labelled.")
_PASS = {"allow_extra_args": True, "ignore_unknown_options": False}

Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Root = Annotated[Path, typer.Option(hidden=True, help="stands for / (tests)")]
Out = Annotated[Path | None, typer.Option("-o", "--output", help="write the results here (JSON)")]
Html = Annotated[Path | None, typer.Option("--html", help="write a page here")]
Csv = Annotated[Path | None, typer.Option("--csv", help="write a table here")]
Required = Annotated[str | None, typer.Option("--require", help="measured, replayed, simulated: exit 3 below it")]
Country = Annotated[str | None, typer.Option("--carbon", help="country (ISO code or name) whose grid it is on")]
Intensity = Annotated[float | None, typer.Option("--intensity", help="g CO2e per kWh instead of the table's")]


@contextmanager
def told():
    """Errors of ours as one sentence and their exit code."""
    try:
        yield
    except GreenedgeError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code) from None


@app.command(context_settings=_PASS)
def probe(
    context: typer.Context,
    json_: Json = False,
    root: Root = Path("/"),
    seconds: Annotated[float, typer.Option(help="how long each phase is watched")] = 2.0,
    required: Required = None,
) -> None:
    """Every source: alive or not, what it covers, its update period, and the cure. -- COMMAND loads what they cover."""
    with told():
        found = probe_all(root, load=_command_load(context.args), seconds=seconds)
        if json_:
            print(
                json.dumps([{"id": p.id, "scope": p.scope, "covers": p.covers} | vars(p.live) for p in found], indent=1)
            )
        else:
            Console().print(terminal.probe_table(found))
        if required == "measured" and not any(p.live.ok for p in found):
            raise EvidenceError(
                "no source on this machine is alive, --require measured was given: see the cures above."
            )


@app.command(context_settings=_PASS)
def measure(
    context: typer.Context,
    source: Annotated[
        list[str] | None, typer.Option("--source", help="id from probe; may be repeated; estimate:cpu with --tdp")
    ] = None,
    callable_: Annotated[str | None, typer.Option("--callable", help="module:function, one batch a call")] = None,
    serial: Annotated[str | None, typer.Option(help="port of a device that speaks the MLPerf Tiny interface")] = None,
    baud: int = 115200,
    name: str | None = None,
    inferences: Annotated[int, typer.Option(help="inferences in one run of the command or call")] = 1,
    accuracy: float | None = None,
    window: float = 10.0,
    warm_up: float = 30.0,
    idle: float = 3.0,
    max_reps: int = 30,
    target: float = 0.02,
    seed: int = 0,
    hz: Annotated[float, typer.Option(help="samples a second of power sources")] = 10.0,
    gain: Annotated[float | None, typer.Option(help="standard relative uncertainty of the meter's gain")] = None,
    max_power: Annotated[float | None, typer.Option(help="watts that it can never exceed")] = None,
    tdp: float | None = None,
    threads: int | None = None,
    tdp_source: str = "",
    required: Required = None,
    country: Country = None,
    grams: Intensity = None,
    output: Out = None,
    html: Html = None,
    csv: Csv = None,
    json_: Json = False,
    root: Root = Path("/"),
) -> None:
    """Measure -- COMMAND…, --callable or --serial: idle | window | idle, repeated until the interval is within the
    target."""
    with told():
        _check_required(required)
        workload = _workload(context.args, callable_, serial, baud, name, inferences, accuracy)
        if source == ["estimate:cpu"]:
            require(
                "estimated", required or "estimated", "estimate:cpu", "choose a live source (greenedge energy probe)."
            )
            data = results.document([_cpu_estimate(workload, tdp, threads, tdp_source, window)])
        else:
            method = Method(
                min_window_s=window,
                warm_up_s=warm_up,
                idle_s=idle,
                max_reps=max_reps,
                target=target,
                min_reps=min(10, max_reps),
            )
            with _progress() as progress:
                data = measure_all(
                    [workload],
                    source or (),
                    method=method,
                    root=root,
                    seed=seed,
                    required=required,
                    progress=progress,
                    sampler_hz=hz,
                    gain_rel=gain,
                    max_power_w=max_power,
                )
        _finish(data, country, grams, output, html, csv, json_)


@app.command()
def compare(
    one: Path,
    other: Annotated[Path | None, typer.Argument(help="left out: rows of the first file")] = None,
    row: Annotated[int, typer.Option(help="row of the first file")] = 0,
    other_row: Annotated[int | None, typer.Option(help="row of the second")] = None,
    quantity: str = "total",
    allow_scope: Annotated[bool, typer.Option("--allow-scope-mismatch")] = False,
    allow_evidence: Annotated[bool, typer.Option("--allow-evidence-mismatch")] = False,
    json_: Json = False,
) -> None:
    """The ratio of two results with its 95 % interval; "not distinguishable" where it spans 1."""
    with told():
        first = results.load(one)
        second = results.load(other) if other else first
        found = compare_rows(
            _row(first, row, one),
            _row(second, (0 if other else 1) if other_row is None else other_row, other or one),
            quantity,
            second is first or first["created"] == second["created"],
            allow_scope,
            allow_evidence,
        )
        if json_:
            print(
                json.dumps(
                    {
                        "ratio": found.ratio.mean,
                        "low": found.ratio.low,
                        "high": found.ratio.high,
                        "n": found.ratio.n,
                        "paired": found.paired,
                        "evidence": found.evidence,
                        "quantity": quantity,
                        "verdict": found.verdict,
                        "warnings": found.warnings,
                    }
                )
            )
        else:
            typer.echo(f"{found.verdict} [{found.evidence}]")
            for warning in found.warnings:
                typer.echo(warning)


@app.command()
def replay(
    path: Path,
    kind: Annotated[
        str, typer.Option("--as", help="trace, mlperf-tiny, vivado, perf, saif, toggles, results")
    ] = "trace",
    window: Annotated[list[str] | None, typer.Option(help="START:STOP in s of a window; may be repeated")] = None,
    idle: Annotated[list[str] | None, typer.Option(help="START:STOP of idle; two a window")] = None,
    markers: Annotated[bool, typer.Option(help="windows are where the marker line is high")] = False,
    inferences: int = 1,
    volts: float | None = None,
    scope: str = "board",
    gain: float | None = None,
    device: str | None = None,
    clock_hz: float | None = None,
    cycles: int | None = None,
    single_shot: Annotated[bool, typer.Option(help="cycles are the latency, not the initiation interval")] = False,
    name: str | None = None,
    required: Required = None,
    country: Country = None,
    grams: Intensity = None,
    output: Out = None,
    html: Html = None,
    csv: Csv = None,
    json_: Json = False,
) -> None:
    """Figures from a recording or a report: replayed from instruments, estimated from models; never measured."""
    with told():
        _check_required(required)
        label = name or path.stem
        if kind == "results":
            data = results.load(path)
        else:
            data = results.document(
                _replayed(
                    path,
                    kind,
                    label,
                    window,
                    idle,
                    markers,
                    inferences,
                    volts,
                    scope,
                    gain,
                    device,
                    clock_hz,
                    cycles,
                    single_shot,
                )
            )
        for row in data["rows"]:
            require(row["evidence"], required or "estimated", str(path), "measure on a live source.")
        _finish(data, country, grams, output, html, csv, json_)


@app.command()
def selftest(output: Out = None, json_: Json = False, root: Root = Path("/"), required: Required = None) -> None:
    """The harness on fakes with known answers, and the live sources; attach the file to a report."""
    with told():
        data = run_selftest(root, _command_load([sys.executable, "-c", "while True: pass"]))
        if output:
            with write_aside(output) as aside:
                aside.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
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
                "probe "
                "names the cures."
            )


def _check_required(required: str | None) -> None:
    if required is not None and required not in ("measured", "replayed", "simulated", "estimated"):
        raise GreenedgeError(
            f"--require {required!r} is not known; evidence is one of {', '.join(EVIDENCE)} without derived."
        )


def _workload(
    argv: list[str],
    callable_: str | None,
    serial: str | None,
    baud: int,
    name: str | None,
    inferences: int,
    accuracy: float | None,
) -> Workload:
    if (bool(argv), bool(callable_), bool(serial)).count(True) != 1:
        raise GreenedgeError(
            "one thing is measured at a time: -- COMMAND…, --callable module:function, or --serial PORT."
        )
    if serial:
        return SerialWorkload(serial_port(serial, baud), name or serial, accuracy=accuracy)
    if argv:
        return CommandWorkload(argv, inferences, name, accuracy=accuracy)
    module, _, function = callable_.partition(":")
    try:
        call = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise GreenedgeError(
            f"--callable {callable_!r} cannot be had: {error}; give module:function on the Python path."
        ) from None
    return CallableWorkload(call, name or callable_, inferences, accuracy)


def _cpu_estimate(workload: Workload, tdp: float | None, threads: int | None, source: str, seconds: float) -> dict:
    """CPU seconds of this process and its children over about so long, times the share of the documented TDP."""
    workload.setup()
    begun, before, calls = os.times().elapsed, os.times(), 0
    while os.times().elapsed - begun < seconds:
        workload.infer(1, lambda: None)
        calls += 1
    after = os.times()
    workload.teardown()
    used = sum(after[:4]) - sum(before[:4])
    count = calls * workload.batch
    return estimate.cpu_row(
        workload.name, used, count, tdp or 0.0, threads or 0, source, (after.elapsed - begun) / count, workload.accuracy
    )


def _replayed(
    path, kind, label, window, idle, markers, inferences, volts, scope, gain, device, clock_hz, cycles, single_shot
):
    if kind == "mlperf-tiny":
        return [importers.mlperf_tiny_row(path)]
    if kind == "perf":
        return importers.perf_row(label, path, inferences)
    if kind in ("vivado", "saif", "toggles"):
        if not (cycles and clock_hz):
            raise GreenedgeError(
                "energy per inference needs --cycles (initiation interval, or latency with "
                "--single-shot) and "
                "--clock-hz."
            )
        if kind == "vivado":
            return [importers.vivado_row(label, path, cycles, clock_hz)]
        activity = (estimate.read_saif if kind == "saif" else estimate.read_toggles)(path)
        return [estimate.fpga_row(label, device or "", clock_hz, activity, cycles=cycles, streaming=not single_shot)]
    if kind != "trace":
        raise GreenedgeError(
            f"--as {kind!r} is not known; take trace, mlperf-tiny, vivado, perf, saif, toggles or results."
        )
    trace = importers.read_jls(path) if path.suffix == ".jls" else importers.read_csv(path, volts)
    spans = [_span(text) for text in window or ()]
    if markers:
        from greenedge.energy.markers import logic_edges

        edges = logic_edges(trace)
        if len(edges) < 2 or len(edges) % 2:
            raise GreenedgeError(
                f"{path} has {len(edges)} marker edges; every window has one up and one down: one is "
                "lost, so no "
                "window can be trusted."
            )
        spans = list(zip(edges[::2], edges[1::2], strict=True))
    return [
        importers.trace_row(
            label, trace, spans, inferences, scope, [_span(t) for t in idle or ()] or None, gain_rel=gain
        )
    ]


def _span(text: str) -> tuple[float, float]:
    start, _, stop = text.partition(":")
    try:
        return float(start), float(stop)
    except ValueError:
        raise GreenedgeError(f"{text!r} is not START:STOP in seconds.") from None


def _row(data: dict, index: int, path: Path) -> dict:
    if not 0 <= index < len(data["rows"]):
        raise GreenedgeError(f"{path} has {len(data['rows'])} rows, row {index} was asked for; rows count from 0.")
    return data["rows"][index]


def _finish(data: dict, country: str | None, grams: float | None, output, html, csv, json_: bool) -> None:
    if country or grams is not None:
        at = carbon_table.intensity(country, grams)
        for row in data["rows"]:
            total = results.figure(row, "total")
            row["figures"]["carbon"] = results.figure_json(carbon_table.carbon(total, at)) | {
                "intensity": {
                    "country": at.country,
                    "g_per_kwh": at.g_per_kwh,
                    "low": at.low,
                    "high": at.high,
                    "year": at.year,
                    "source": at.source,
                }
            }
    if output:
        results.save(data, output)
    if csv:
        _write(csv, results.csv_text(data))
    if html:
        from greenedge.energy.page import page

        _write(html, page(data))
    if json_:
        results.check_labels(data)
        print(json.dumps(data, indent=1))
        return
    Console(width=None if sys.stdout.isatty() else 200).print(terminal.result_table(data))
    for line in terminal.notes(data):
        typer.echo(line)
    if country or grams is not None:
        typer.echo(carbon_table.ATTRIBUTION)


def _write(path: Path, text: str) -> None:
    with write_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


@contextmanager
def _progress():
    """A bar on standard error while it measures."""
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("measuring", total=None)
        yield lambda text, done, of: bar.update(task, description=text, completed=done, total=of)


def _command_load(argv: list[str]) -> Callable | None:
    """The command, once a CPU at a time, as a load for the liveness test; none given, none made."""
    if not argv:
        return None

    def load(going: Callable[[], bool]) -> None:
        children = [
            subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            for _ in range(os.cpu_count() or 1)
        ]
        try:
            import time

            while going():
                time.sleep(0.002)
        finally:
            for child in children:
                child.kill()
                child.wait()

    return load
