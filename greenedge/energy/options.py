"""The options of the verbs, each once: its type, its name on the command line, its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Root = Annotated[Path, typer.Option(hidden=True, help="stands for / (tests)")]
Out = Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="write the results here (JSON)")]
Html = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="write a page here")]
Csv = Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="write a table here")]
Required = Annotated[
    str | None, typer.Option("--require", metavar="WORD", help="measured, replayed, simulated: exit 3 below it")
]
Country = Annotated[
    str | None, typer.Option("--carbon", metavar="COUNTRY", help="ISO code or name of the grid's country")
]
Intensity = Annotated[float | None, typer.Option("--intensity", help="g CO2e per kWh instead of the table's")]
IntensityFile = Annotated[
    Path | None,
    typer.Option("--intensity-file", metavar="FILE", help="CSV of g CO2e/kWh by the hour (ElectricityMaps, national)"),
]
Hours = Annotated[float | None, typer.Option(min=0.01, max=100_000, help="length of the work, else the run's own")]
Top = Annotated[int, typer.Option(min=1, max=1000, help="starts that are shown")]
WhenRun = Annotated[Path | None, typer.Argument(metavar="[RUN]", help="a trained run; left out: --hours")]
Seconds = Annotated[float, typer.Option(help="length of each turn of rest and load")]
Run = Annotated[list[Path] | None, typer.Argument(metavar="RUN", help="built runs; several are interleaved")]
Source = Annotated[
    list[str] | None, typer.Option("--source", metavar="ID", help="from probe, or estimate; may be repeated")
]
Sum = Annotated[bool, typer.Option("--sum", help="one figure: the sum of the sources (ID+ID sums some of them)")]
Scale = Annotated[float | None, typer.Option(help="what a hwmon sensor's readings are multiplied with")]
Sign = Annotated[int | None, typer.Option(help="-1 for a hwmon sensor that is wired the other way round")]
Callable = Annotated[
    list[str] | None, typer.Option("--callable", metavar="MODULE:FUNCTION", help="one batch a call; may be repeated")
]
Serial = Annotated[str | None, typer.Option(metavar="PORT", help="a device that speaks the MLPerf Tiny interface")]
Port = Annotated[str | None, typer.Option(metavar="DEV", help="the board that RUN is on")]
Runtime = Annotated[
    list[str] | None,
    typer.Option("--runtime", metavar="NAME", help="litert, torch, …: RUN's network on it; repeatable"),
]
Batch = Annotated[
    list[int] | None,
    typer.Option(min=1, max=1 << 16, metavar="N", help="RUN's samples at once; repeatable, the heaviest first"),
]
Name = Annotated[str | None, typer.Option(help="of the command, call or device in the results")]
Inferences = Annotated[int, typer.Option(min=1, help="inferences in one run of the command or call")]
Accuracy = Annotated[float | None, typer.Option(help="of the model, for the figure")]
Window = Annotated[float, typer.Option(help="least seconds of a window")]
WarmUp = Annotated[float, typer.Option(help="most seconds of warming up")]
Idle = Annotated[float, typer.Option(help="seconds of rest before and after each window")]
MaxReps = Annotated[int, typer.Option(min=2, help="repetitions at most")]
Target = Annotated[float, typer.Option(help="half-width of the interval to stop at")]
Timeout = Annotated[float, typer.Option(help="seconds that one run of the command may take")]
Hz = Annotated[float, typer.Option(min=1, max=100, help="samples a second of power sources")]
Gain = Annotated[float | None, typer.Option(help="standard relative uncertainty of the meter's gain")]
MaxPower = Annotated[float | None, typer.Option(help="watts that it can never exceed")]
Tdp = Annotated[float | None, typer.Option(help="watts, for an estimate from CPU time")]
Threads = Annotated[int | None, typer.Option(help="hardware threads that the TDP is for")]
TdpSource = Annotated[str, typer.Option(help="where the TDP is documented")]
External = Annotated[
    Path | None, typer.Option(metavar="FILE", help="time the run for a meter that records by itself; see replay")
]
Marker = Annotated[str, typer.Option(help="pattern (of load), gpio:FILE or rts:PORT")]
Listen = Annotated[
    str | None, typer.Option("--listen", metavar="HOST:PORT", help="serve it there, at /metrics (127.0.0.1:9477)")
]
TextFile = Annotated[
    Path | None, typer.Option("--file", metavar="FILE", help="write it there, for node_exporter's textfile collector")
]
Every = Annotated[float, typer.Option(min=1, max=3600, help="seconds between two writings")]
For = Annotated[float | None, typer.Option("--for", min=0.1, help="seconds after which it ends; left out: at Ctrl-C")]
Others = Annotated[
    list[Path] | None, typer.Argument(metavar="[OTHER]…", help="files or runs; left out: rows of the first")
]
Row = Annotated[int, typer.Option(help="row of the first file")]
OtherRow = Annotated[int | None, typer.Option(help="row of the second")]
Quantity = Annotated[str, typer.Option(help="total or net")]
Columns = Annotated[
    str | None, typer.Option(metavar="time=NAME:ms,power=NAME:mW", help="columns and units that a header leaves open")
]
AllowScope = Annotated[bool, typer.Option("--allow-scope-mismatch")]
AllowEvidence = Annotated[bool, typer.Option("--allow-evidence-mismatch")]
Kind = Annotated[
    str,
    typer.Option("--as", metavar="KIND", help="trace, mlperf-tiny, vivado, perf, codecarbon, saif, toggles, results"),
]
ReplayWindow = Annotated[list[str] | None, typer.Option(help="START:STOP in s of a window; may be repeated")]
ReplayIdle = Annotated[list[str] | None, typer.Option(help="START:STOP of idle; two a window")]
Markers = Annotated[bool, typer.Option(help="windows are where the marker line is high")]
Timing = Annotated[
    Path | None, typer.Option(metavar="FILE", help="of measure --external: offset and drift are solved for")
]
ReplayInferences = Annotated[int, typer.Option(min=1, help="in each window")]
Volts = Annotated[float | None, typer.Option(help="supply of a trace that holds current alone")]
Scope = Annotated[str, typer.Option(help="rail, chip, module, board or wall")]
Device = Annotated[str, typer.Option(help="of toggles: ice40up5k, lfe5u-85f, …")]
Cycles = Annotated[int | None, typer.Option(help="initiation interval")]
SingleShot = Annotated[bool, typer.Option(help="cycles are the latency, not the initiation interval")]
