"""greenedge energy probe | measure | compare | replay | selftest: parse, call, print."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand

from greenedge.errors import EvidenceError, GreenedgeError
from greenedge.energy import asked, results, terminal
from greenedge.energy.comparing import compare as compare_rows
from greenedge.energy.labels import EVIDENCE, require
from greenedge.energy.measuring import probe as probe_all
from greenedge.energy.output import Wanted, console, finish, progress_bar, write_text
from greenedge.energy.replaying import Recording, rows_of, span
from greenedge.energy.selftest import selftest as run_selftest

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Joules per inference, measured and labelled.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Root = Annotated[Path, typer.Option(hidden=True, help="stands for / (tests)")]
Out = Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="write the results here (JSON)")]
Html = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="write a page here")]
Csv = Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="write a table here")]
Required = Annotated[
    str | None, typer.Option("--require", metavar="WORD", help="measured, replayed, simulated: exit 3 below it")
]
Country = Annotated[str | None, typer.Option("--carbon", metavar="COUNTRY", help="ISO code or name of the grid's country")]
Intensity = Annotated[float | None, typer.Option("--intensity", help="g CO2e per kWh instead of the table's")]


class _BeforeACommand(TyperCommand):
    """Everything after -- is the command to measure, whatever it looks like."""

    def parse_args(self, ctx, args):
        if "--" in args:
            place = args.index("--")
            args, ctx.meta["command"] = args[:place], tuple(args[place + 1 :])
        return super().parse_args(ctx, args)


@contextmanager
def told(as_json: bool = False):
    """Errors of ours as one sentence and their exit code; what was started is ended before an interruption is told."""
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


@app.command(cls=_BeforeACommand)
def probe(
    context: typer.Context,
    json_: Json = False,
    root: Root = Path("/"),
    seconds: Annotated[float, typer.Option(help="length of each turn of rest and load")] = 1.0,
    required: Required = None,
) -> None:
    """Every source: alive or not, what it covers, its update period, and the cure. -- COMMAND loads what they cover."""
    with told(json_):
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


@app.command(cls=_BeforeACommand)
def measure(
    context: typer.Context,
    run: Annotated[list[Path] | None, typer.Argument(metavar="[RUN]…", help="built runs; several are interleaved")] = None,
    source: Annotated[
        list[str] | None, typer.Option("--source", metavar="ID", help="from probe, or estimate; may be repeated")
    ] = None,
    callable_: Annotated[
        list[str] | None, typer.Option("--callable", metavar="MODULE:FUNCTION", help="one batch a call; may be repeated")
    ] = None,
    serial: Annotated[
        str | None, typer.Option(metavar="PORT", help="a device that speaks the MLPerf Tiny interface")
    ] = None,
    baud: int = 115200,
    port: Annotated[str | None, typer.Option(metavar="DEV", help="the board that RUN is on")] = None,
    name: Annotated[str | None, typer.Option(help="of the command, call or device in the results")] = None,
    inferences: Annotated[int, typer.Option(min=1, help="inferences in one run of the command or call")] = 1,
    accuracy: Annotated[float | None, typer.Option(help="of the model, for the figure")] = None,
    window: Annotated[float, typer.Option(help="least seconds of a window")] = 10.0,
    warm_up: Annotated[float, typer.Option(help="most seconds of warming up")] = 30.0,
    idle: Annotated[float, typer.Option(help="seconds of rest before and after each window")] = 3.0,
    max_reps: Annotated[int, typer.Option(min=2, help="repetitions at most")] = 30,
    target: Annotated[float, typer.Option(help="half-width of the interval to stop at")] = 0.02,
    seed: int = 0,
    timeout: Annotated[float, typer.Option(help="seconds that one run of the command may take")] = 3600.0,
    hz: Annotated[float, typer.Option(min=1, max=100, help="samples a second of power sources")] = 10.0,
    gain: Annotated[float | None, typer.Option(help="standard relative uncertainty of the meter's gain")] = None,
    max_power: Annotated[float | None, typer.Option(help="watts that it can never exceed")] = None,
    tdp: Annotated[float | None, typer.Option(help="watts, for an estimate from CPU time")] = None,
    threads: Annotated[int | None, typer.Option(help="hardware threads that the TDP is for")] = None,
    tdp_source: Annotated[str, typer.Option(help="where the TDP is documented")] = "",
    external: Annotated[
        Path | None, typer.Option(metavar="FILE", help="time the run for a meter that records by itself; see replay")
    ] = None,
    marker: Annotated[str, typer.Option(help="pattern (of load), gpio:FILE or rts:PORT")] = "pattern",
    required: Required = None,
    country: Country = None,
    grams: Intensity = None,
    output: Out = None,
    html: Html = None,
    csv: Csv = None,
    json_: Json = False,
    root: Root = Path("/"),
) -> None:
    """Measure RUN…, -- COMMAND…, --callable or --serial: idle | window | idle, repeated until the interval is within the
    target. Results of a RUN are kept in it and shown in its report."""
    with told(json_):
        _check_required(required)
        wanted = Wanted(output, html, csv, json_, country, grams)
        wanted.intensity  # noqa: B018 - a country that there is not is refused before anything is measured
        what = asked.Asked(
            runs=tuple(run or ()),
            command=_command(context),
            callables=tuple(callable_ or ()),
            serial=serial,
            baud=baud,
            port=port,
            name=name,
            inferences=inferences,
            accuracy=accuracy,
            timeout_s=timeout,
        )
        how = asked.How(
            sources=tuple(source or ()),
            method=asked.method(window, warm_up, idle, max_reps, target),
            root=root,
            seed=seed,
            hz=hz,
            gain=gain,
            max_power_w=max_power,
            tdp=asked.Tdp(tdp, threads, tdp_source),
            required=required,
        )
        with progress_bar() as progress:
            if external is not None:
                text = asked.time_for_meter(what, how, context.obj, external, marker, progress)
            else:
                data = asked.carry_out(what, how, context.obj, progress, wanted.intensity)
        if external is not None:
            return typer.echo(text)
        finish(data, wanted)


@app.command()
def compare(
    one: Path,
    other: Annotated[Path | None, typer.Argument(help="left out: rows of the first file")] = None,
    row: Annotated[int, typer.Option(help="row of the first file")] = 0,
    other_row: Annotated[int | None, typer.Option(help="row of the second")] = None,
    quantity: Annotated[str, typer.Option(help="total or net")] = "total",
    allow_scope: Annotated[bool, typer.Option("--allow-scope-mismatch")] = False,
    allow_evidence: Annotated[bool, typer.Option("--allow-evidence-mismatch")] = False,
    json_: Json = False,
) -> None:
    """The ratio of two results with its 95 % interval; "not distinguishable" where it spans 1."""
    with told(json_):
        first = results.load(one)
        second = results.load(other) if other else first
        found = compare_rows(
            _row(first, row, one),
            _row(second, (0 if other else 1) if other_row is None else other_row, other or one),
            quantity,
            results.same_session(first, second),
            allow_scope,
            allow_evidence,
        )
        if json_:
            ratio = {"ratio": found.ratio.mean, "low": found.ratio.low, "high": found.ratio.high, "n": found.ratio.n}
            rest = {key: value for key, value in asdict(found).items() if key != "ratio"}
            return print(json.dumps(ratio | rest))
        typer.echo(f"{found.verdict} [{found.evidence}]")
        for warning in found.warnings:
            typer.echo(warning)


@app.command()
def replay(
    path: Path,
    kind: Annotated[
        str, typer.Option("--as", metavar="KIND", help="trace, mlperf-tiny, vivado, perf, saif, toggles, results")
    ] = "trace",
    window: Annotated[list[str] | None, typer.Option(help="START:STOP in s of a window; may be repeated")] = None,
    idle: Annotated[list[str] | None, typer.Option(help="START:STOP of idle; two a window")] = None,
    markers: Annotated[bool, typer.Option(help="windows are where the marker line is high")] = False,
    timing: Annotated[
        Path | None, typer.Option(metavar="FILE", help="of measure --external: offset and drift are solved for")
    ] = None,
    inferences: Annotated[int, typer.Option(min=1, help="in each window")] = 1,
    volts: Annotated[float | None, typer.Option(help="supply of a trace that holds current alone")] = None,
    scope: Annotated[str, typer.Option(help="rail, chip, module, board or wall")] = "board",
    gain: Annotated[float | None, typer.Option(help="standard relative uncertainty of the meter's gain")] = None,
    device: Annotated[str, typer.Option(help="of toggles: ice40up5k, lfe5u-85f, …")] = "",
    clock_hz: float | None = None,
    cycles: Annotated[int | None, typer.Option(help="initiation interval")] = None,
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
    with told(json_):
        _check_required(required)
        asked.check_scope(scope)
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
        )
        data = results.load(path) if kind == "results" else results.document(rows_of(recording, kind))
        for row in data["rows"]:
            require(row["evidence"], required or "estimated", str(path), "measure on a live source.")
        finish(data, Wanted(output, html, csv, json_, country, grams))


@app.command()
def selftest(output: Out = None, json_: Json = False, root: Root = Path("/"), required: Required = None) -> None:
    """The harness on fakes with known answers, and the live sources; attach the file to a report."""
    with told(json_):
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
                "probe "
                "names the cures."
            )


def _command(context: typer.Context) -> tuple[str, ...]:
    return context.meta.get("command", ())


def _check_required(required: str | None) -> None:
    if required is not None and required not in ("measured", "replayed", "simulated", "estimated"):
        raise GreenedgeError(
            f"--require {required!r} is not known; evidence is one of {', '.join(EVIDENCE)} without derived."
        )


def _row(data: dict, index: int, path: Path) -> dict:
    if not 0 <= index < len(data["rows"]):
        raise GreenedgeError(f"{path} has {len(data['rows'])} rows, row {index} was asked for; rows count from 0.")
    return data["rows"][index]


def _command_load(argv: tuple[str, ...]) -> Callable | None:
    """The command, once a CPU at a time and again when it ends, as a load for the liveness test; none given, none made."""
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
