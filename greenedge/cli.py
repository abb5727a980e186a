"""The command line: parse, call, print. Nothing heavy is imported before a verb needs it.

Exit codes: 0; 1 an error that says what to do; 2 wrong usage; 3 evidence asked for is not available; 4 preflight
refused; 5 verification found a difference; 130 interrupted.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from greenedge import __version__
from greenedge.errors import GreenedgeError, UnsupportedError

if TYPE_CHECKING:
    from greenedge.backends.preflight import Preflight
    from greenedge.run.chains import AnyJob
    from greenedge.run.infer import Written

PLAN = "plan"  # as a stage of --until: what is planned is shown, and nothing runs
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="From a quantised PyTorch model to a verified FPGA bitstream or edge binary, and its energy bill.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document for machines.")]
Targets = Annotated[
    list[str] | None, typer.Option("--target", "-t", metavar="T", help=("Target name or board file; may be repeated."))
]
Samples = Annotated[
    Path | None,
    typer.Option(
        "--inputs",
        metavar="X.npy|X.npz",
        help="Samples to verify with; of several inputs an .npz with an array for each, by its name.",
    ),
]
Labels = Annotated[Path | None, typer.Option("--labels", metavar="Y.npy", help="Their classes.")]
Expected = Annotated[
    Path | None,
    typer.Option(
        "--expected", metavar="Y.npy", help="What the model gives for them, as floats: compared with all the rest."
    ),
]
Backend = Annotated[
    str | None, typer.Option("--backend", metavar="B", help="Back end; the target's first if not said.")
]
InputTypes = Annotated[
    list[str] | None,
    typer.Option(
        "--input-type",
        metavar="[NAME=]TYPE",
        help=("Integer type of an input without a quantiser, such as uint8:1/255."),
    ),
]
ArithmeticChoice = Annotated[
    str | None,
    typer.Option(
        "--arithmetic",
        metavar="A",
        help="Whose results a .tflite means: LiteRT's with XNNPACK (xnnpack, if not said) or of its reference kernels.",
    ),
]
Fps = Annotated[
    int | None,
    typer.Option(
        "--fps",
        metavar="N",
        min=1,
        help=("Inferences per second wanted of an FPGA; without --fps and --latency: the fastest that fits."),
    ),
]
Latency = Annotated[
    float | None,
    typer.Option("--latency", metavar="S", min=0, help=("Seconds from first input to last output wanted of an FPGA.")),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help=(
            "Change a setting of the recipe (train.epochs=20) or of the back end (build.fps=100000); may be repeated."
        ),
    ),
]
Docker = Annotated[bool, typer.Option("--docker", help="Run vendor tools in the images of docker/.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the commands that the build would run; run none of them.")
]


class Require(StrEnum):
    """What a verification has to show to end well."""

    certified = "certified"
    exact = "exact"


Bits = Annotated[
    str,
    typer.Option("--bits", metavar="8|4|mixed", help="With --calibrate: bits of weights, as `greenedge quantise`."),
]
ActBits = Annotated[int, typer.Option("--act-bits", metavar="N", help="Bits of activations, 2 to 8.")]
Cycles = Annotated[
    int, typer.Option("--cycles", metavar="N", min=1, help="Clock cycles of an inference, for --budget-luts.")
]
BudgetBytes = Annotated[
    int | None, typer.Option("--budget-bytes", metavar="N", help="--bits mixed: of all weights; else 6 bits a weight.")
]
BudgetLuts = Annotated[
    int | None,
    typer.Option("--budget-luts", metavar="N", help="--bits mixed: of all products on an FPGA, by an estimate."),
]
Finetune = Annotated[
    bool,
    typer.Option("--finetune", help="Train it for 20 epochs to answer as the float model does; no labels are needed."),
]
Requirement = Annotated[
    Require,
    typer.Option(
        "--require",
        help="exact: also a difference that the build's certificate foretold ends with status 5.",
        show_default=True,
    ),
]
Out = Annotated[Path | None, typer.Option("-o", "--out", metavar="DIR", help="Folder for the run.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, or of several.")]
BoardFile = Annotated[
    str | None,
    typer.Option("--target", "-t", metavar="FILE", help="The board's file, where it does not ship with greenedge."),
]


def _exit_code_on_error(verb: Callable[..., Any]) -> Callable[..., Any]:
    """An error that a person can put right becomes one sentence and an exit code; so does a defect of ours, whose
    traceback goes to a file."""

    @wraps(verb)
    def call_verb(*args: Any, **kwargs: Any) -> Any:
        try:
            return verb(*args, **kwargs)
        except GreenedgeError as error:
            if kwargs.get("as_json"):
                _print_json({"error": _error(error)})
            typer.echo(f"greenedge: {error}", err=True)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            typer.echo("greenedge: interrupted; the same command goes on from the last finished stage.", err=True)
            raise typer.Exit(130) from None
        except BrokenPipeError:  # whoever read it has enough, such as `head`; Python would flush into it once more
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except Exception as error:
            from greenedge.run.defects import describe_defect

            sentence = describe_defect(error, sys.argv)
            if kwargs.get("as_json"):
                _print_json({"error": {"kind": "Defect", "message": sentence, "exit_code": DEFECT}})
            typer.echo(f"greenedge: {sentence}", err=True)
            raise typer.Exit(DEFECT) from None

    return call_verb


DEFECT = 70  # EX_SOFTWARE of sysexits.h


def _error(error: GreenedgeError) -> dict[str, Any]:
    entry: dict[str, Any] = {"kind": type(error).__name__, "message": str(error), "exit_code": error.exit_code}
    if isinstance(error, UnsupportedError):
        entry["reasons"] = [vars(reason) for reason in error.reasons]
    return entry


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=1, default=str))


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"greenedge {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
@_exit_code_on_error
def doctor(as_json: Json = False) -> None:
    """Show tools, environments and boards: what was found, what is missing, how to get it."""
    from greenedge.run.doctor import examine

    findings = examine()
    if as_json:
        return _print_json([vars(finding) for finding in findings])
    from rich.text import Text

    marks = {True: Text("✓", "green"), False: Text("–", "yellow")}
    rows = [
        [
            marks[f.found],
            f.name,
            f.version or ("found" if f.found else "missing"),
            f.needed_for,
            "" if f.found else f.cure,
        ]
        for f in findings
    ]
    _table(["", "name", "version", "needed for", "how to get it"], rows)


@app.command()
@_exit_code_on_error
def targets(name: Annotated[str | None, typer.Argument(metavar="[NAME]")] = None, as_json: Json = False) -> None:
    """List the targets, or show one in full."""
    from greenedge.target import describe, list_targets, load_target

    chosen = [load_target(each) for each in ([name] if name else list_targets())]
    if as_json:
        from dataclasses import asdict

        return _print_json(asdict(chosen[0]) if name else [asdict(target) for target in chosen])
    if name:
        return _table(["", name], describe(chosen[0]))
    _table(
        ["name", "kind", "back ends", "what it is"],
        [
            [t.name, t.kind, ", ".join(t.backends), t.title + (" (experimental)" if t.experimental else "")]
            for t in chosen
        ],
    )


@app.command()
@_exit_code_on_error
def check(
    model: Annotated[Path, typer.Argument(metavar="MODEL")],
    target: Targets = None,
    backend: Backend = None,
    inputs: Samples = None,
    labels: Labels = None,
    expected: Expected = None,
    fps: Fps = None,
    latency: Latency = None,
    set_: Sets = None,
    input_type: InputTypes = None,
    arithmetic: ArithmeticChoice = None,
    as_json: Json = False,
) -> None:
    """Preflight: say whether a model can go to a target, or every reason why not, with the node and the cure."""
    from greenedge.frontends.import_onnx import ModelFile
    from greenedge.run.jobs import input_types, preflight

    source = ModelFile(model, inputs, labels, input_types(input_type or []), expected, arithmetic=arithmetic)
    found = preflight(source, target or [], backend, _build_options(set_, fps, latency))
    if as_json:
        from dataclasses import asdict

        _print_json([asdict(each) for each in found])
        raise typer.Exit(UnsupportedError.exit_code if any(each.reasons for each in found) else 0)
    if kind := next((each.kind for each in found if each.kind), ""):
        typer.echo(f"{model.name} is {kind}.")
    for each in found:
        if not each.reasons:
            typer.echo(
                f"{each.model} can be built for {each.target} by {each.backend}: {each.layers} layers, "
                f"{each.weight_bits:,} weight bits, accumulators of up to {each.accumulator_bits} bits."
            )
            for note in each.notes:
                typer.echo(f"note: {note}")
    refused = [each for each in found if each.reasons]
    for each in refused[:-1]:
        typer.echo(f"greenedge: {_refusal(each)}", err=True)
    if refused:
        refused[-1].require()


@app.command()
@_exit_code_on_error
def show(
    model: Annotated[Path, typer.Argument(metavar="FILE")],
    svg: Annotated[Path | None, typer.Option("--svg", metavar="F.svg", help="Draw the network into this file.")] = None,
    as_json: Json = False,
) -> None:
    """Show the layers of a model file: operators, shapes, types, parameters; as a table, and as a drawing."""
    from greenedge.run.show import HEADINGS, draw_layers, list_layers, make_rows

    kind, layers = list_layers(model)
    if svg is not None:
        draw_layers(layers, svg)
    if as_json:
        return _print_json({"kind": kind, "layers": [vars(layer) for layer in layers]})
    typer.echo(f"{model.name} is {kind}: {sum(layer.parameters for layer in layers):,} parameters.")
    _table(HEADINGS, make_rows(layers))
    if svg is not None:
        typer.echo(f"drawing: {svg}")


def _refusal(preflight: Preflight) -> str:
    try:
        preflight.require()
    except UnsupportedError as error:
        return str(error)
    raise AssertionError("no reason to refuse")


@app.command()
@_exit_code_on_error
def run(
    flow: Annotated[str, typer.Argument(metavar="FLOW", help="A recipe's name, or a folder with a flow.toml.")],
    target: Targets = None,
    out: Out = None,
    until: Annotated[str, typer.Option("--until", metavar="STAGE", help="Last stage to run.")] = "report",
    set_: Sets = None,
    backend: Backend = None,
    fps: Fps = None,
    latency: Latency = None,
    docker: Docker = False,
    dry_run: DryRun = False,
    require: Requirement = Require.certified,
    as_json: Json = False,
) -> None:
    """Run a recipe: train, export, lower, build, verify, report. Finished stages are not repeated."""
    from greenedge.run.jobs import find_recipe, recipe_jobs, split_settings

    settings, options = split_settings(set_ or [])
    options |= _speed_options(fps, latency)
    jobs = recipe_jobs(find_recipe(flow, settings), target or [], backend, options, _stage(until), docker)
    _run_jobs(jobs, out, until, dry_run, as_json, require)


@app.command()
@_exit_code_on_error
def sweep(
    flow: Annotated[str, typer.Argument(metavar="FLOW", help="A recipe's name, or a folder with a flow.toml.")],
    vary: Annotated[
        list[str] | None,
        typer.Option(
            "--vary", metavar="KEY=V1,V2", help=("Values of a setting to compare; several make every combination.")
        ),
    ] = None,
    target: Targets = None,
    out: Out = None,
    energy: Annotated[
        float,
        typer.Option("--energy", metavar="J", min=0, help=("Joules that each training may take; its epochs follow.")),
    ] = 0.0,
    until: Annotated[
        str | None,
        typer.Option("--until", metavar="STAGE", help=("Last stage; the report with a target, training without.")),
    ] = None,
    set_: Sets = None,
    backend: Backend = None,
    as_json: Json = False,
) -> None:
    """Train a recipe in variants and set them side by side: accuracy, size, cycles, energy."""
    from greenedge.report.sweep import terminal
    from greenedge.run.progress import Screen
    from greenedge.run.sweep import Sweep, run_sweep

    last = _stage(until or ("report" if target else "train"))
    folder = out or Path("runs") / f"{Path(flow).name}-sweep"
    wanted = Sweep(flow, vary or [], set_ or [], target or [], backend, folder, last, energy)
    result = run_sweep(wanted, lambda job: Screen(job.title), lambda line: typer.echo(line, err=True))
    if as_json:
        return _print_json(result)
    _table(*terminal(result["rows"]))
    typer.echo(f"report: {result['report']}")


@app.command()
@_exit_code_on_error
def build(
    model: Annotated[Path, typer.Argument(metavar="MODEL")],
    target: Targets = None,
    backend: Backend = None,
    inputs: Samples = None,
    labels: Labels = None,
    expected: Expected = None,
    fps: Fps = None,
    latency: Latency = None,
    out: Out = None,
    until: Annotated[
        str,
        typer.Option(
            "--until", metavar="STAGE", help="Last stage to run; 'plan' runs none and shows what would be built."
        ),
    ] = "report",
    set_: Sets = None,
    input_type: InputTypes = None,
    arithmetic: ArithmeticChoice = None,
    calibrate: Annotated[
        Path | None,
        typer.Option("--calibrate", metavar="X.npy|X.npz", help="A float model: samples that it is quantised with."),
    ] = None,
    bits: Bits = "8",
    act_bits: ActBits = 8,
    budget_bytes: BudgetBytes = None,
    budget_luts: BudgetLuts = None,
    cycles: Cycles = 512,
    finetune: Finetune = False,
    docker: Docker = False,
    dry_run: DryRun = False,
    require: Requirement = Require.certified,
    as_json: Json = False,
) -> None:
    """Build a QONNX or int8 .tflite model, a float one with --calibrate, or a language model, and verify it."""
    from greenedge.decoder.source import DecoderFile, is_decoder_file
    from greenedge.frontends.import_onnx import Calibration, ModelFile
    from greenedge.frontends.quantise_float import QuantiseOptions
    from greenedge.run.jobs import input_types, jobs_for

    options = _build_options(set_, fps, latency)
    quantising = QuantiseOptions(bits, act_bits, budget_bytes, budget_luts, cycles, finetune)
    if calibrate is None and quantising != QuantiseOptions():
        raise GreenedgeError(
            f"--bits and its kin quantise a float model, and {model} gets no samples for that; say --calibrate X.npy, "
            "or leave them out."
        )
    if is_decoder_file(model):
        from greenedge.run.decoder_job import decoder_jobs

        _refuse_for_language_model(model, inputs=inputs, labels=labels, expected=expected, input_type=input_type)
        _refuse_for_language_model(model, docker=docker or None, calibrate=calibrate)
        if until == PLAN:
            return _show_plans(
                decoder_jobs(DecoderFile(model), target or [], backend, options, runs_tools=False), as_json
            )
        return _run_jobs(
            decoder_jobs(DecoderFile(model), target or [], backend, options, until), out, until, dry_run, as_json
        )
    calibration = None if calibrate is None else Calibration(calibrate, quantising)
    types = input_types(input_type or [])
    source = ModelFile(model, inputs, labels, types, expected, arithmetic=arithmetic, calibration=calibration)
    if until == PLAN:
        return _show_plans(jobs_for(source, target or [], backend, options, runs_tools=False), as_json)
    jobs = jobs_for(source, target or [], backend, options, _stage(until), docker)
    _run_jobs(jobs, out, until, dry_run, as_json, require)


def _refuse_for_language_model(model: Path, **given: object) -> None:
    """Raises GreenedgeError for an option that has no meaning for a language model."""
    for name, value in given.items():
        if value is not None:
            raise GreenedgeError(
                f"{model} is a language model, which takes no --{name.replace('_', '-')}: it is compared on stories of "
                "its own; leave it out."
            )


def _show_plans(jobs: Sequence[AnyJob], as_json: bool) -> None:
    """A table for each job of what its build would be."""
    from greenedge.run.chains import outline

    plans = [outline(job) for job in jobs]
    if as_json:
        return _print_json(plans)
    for plan in plans:
        typer.echo(f"{plan['model']} for {plan['target']} by {plan['backend']}, planned, nothing built:")
        if "reason" in plan:
            typer.echo(f"{plan['reason']}.")
        _table(plan["columns"], plan["layers"])
        for name, value in plan["estimated"].items():
            typer.echo(f"{name}: {value} (estimated)")


def _build_options(texts: list[str] | None, fps: int | None, latency: float | None) -> dict[str, object]:
    """The back end's options for a model file."""
    from greenedge.run.jobs import split_settings

    settings, options = split_settings(texts or [])
    if settings:
        raise typer.BadParameter(
            f"{next(iter(settings))!r} belongs to a recipe; a model file has build.KEY=VALUE only.", param_hint="--set"
        )
    return options | _speed_options(fps, latency)


def _speed_options(fps: int | None, latency: float | None) -> dict[str, object]:
    """What was asked of an FPGA's speed, as options of its back end."""
    return {key: value for key, value in (("fps", fps), ("latency", latency)) if value is not None}


def _stage(name: str) -> str:
    from greenedge.run.decoder_job import DECODER_ORDER
    from greenedge.run.job import ORDER
    from greenedge.target import nearest

    if name not in (*ORDER, *DECODER_ORDER):
        raise typer.BadParameter(
            f"there is no stage {name!r}{nearest(name, ORDER)}; stages are: {', '.join(ORDER)}.", param_hint="--until"
        )
    return name


def _run_jobs(
    jobs: Sequence[AnyJob],
    out: Path | None,
    until: str,
    dry_run: bool,
    as_json: bool,
    require: Require = Require.certified,
) -> None:
    """Runs jobs and says where the report is; the last line on stdout names it."""
    from greenedge.run.jobs import dry_plan, run_all
    from greenedge.run.progress import Screen

    if dry_run:
        for job in jobs:
            for line in dry_plan(job):
                typer.echo(line)
        return
    runs, report = run_all(jobs, out, until, lambda job: Screen(job.title))
    _require_exact(runs, require)
    if as_json:
        from greenedge.run.runs import read_summary

        return _print_json(
            {
                "runs": [{"folder": str(run), "summary": read_summary(run)} for run in runs],
                "report": str(report) if report else None,
            }
        )
    typer.echo(f"report: {report}" if report else f"run: {runs[0]} (stopped after {until})")


def _require_exact(runs: Sequence[Path], require: Require) -> None:
    """Raises VerificationError where exact equality is required and a build differs within its certificate."""
    if require is Require.exact:
        from greenedge.run.runs import require_exact

        for run in runs:
            require_exact(run)


def _describe_mismatches(entry: Mapping[str, Any]) -> str:
    """How many samples differ, and what is allowed."""
    if entry.get("within_certificate"):
        return f"{entry['within_certificate']} (within its certificate)"
    return f"{entry['mismatches']} (within {entry['within']:g})" if entry.get("within") else str(entry["mismatches"])


@app.command()
@_exit_code_on_error
def verify(
    run: RunArgument,
    sign: Annotated[
        Path | None, typer.Option("--sign", metavar="KEY", help="Sign the run with this Ed25519 key if all is equal.")
    ] = None,
    trust: Annotated[
        Path | None, typer.Option("--trust", metavar="KEY.pub", help="Refuse a run that this key's owner did not sign.")
    ] = None,
    require: Requirement = Require.certified,
    as_json: Json = False,
) -> None:
    """Compare again, on what lies in the run's folder now."""
    from greenedge.report.format import coverage
    from greenedge.run.progress import bar
    from greenedge.run.runs import runs_in, verify_again

    results = []
    for folder in runs_in(run):
        with bar(f"verify {folder.name}") as progress:
            results.append(
                {"folder": str(folder)} | verify_again(folder, progress, sign, trust, require is Require.exact)
            )
    if as_json:
        return _print_json(results)
    rows = [
        [
            r["folder"],
            e["reference"],
            e["candidate"],
            f"{e['samples']} {e.get('unit', '')}".rstrip(),
            _describe_mismatches(e),
            coverage(e["coverage"]).removeprefix("coverage ") if e.get("coverage") else "",
        ]
        for r in results
        for e in r["verify"]
    ]
    _table(["run", "reference", "candidate", "samples", "mismatches", "coverage"], rows)
    for r in results:
        for e in r.get("read_back", []):
            unread = f", {e['unread']:,} more not found there" if e["unread"] else ""
            typer.echo(
                f"{r['folder']}: {e['what']} read back against {e['against']}: {e['items']:,} {e['unit']}{unread}"
            )


@app.command()
@_exit_code_on_error
def infer(
    run: RunArgument,
    inputs: Annotated[
        Path,
        typer.Option(
            "--inputs",
            metavar="X.npy|X.npz",
            help="Samples, read piece by piece; of several inputs an .npz with an array for each, by its name.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="Y.npy|Y.npz|Y.csv", help="Where the outputs go.")
    ] = None,
    stage: Annotated[
        str, typer.Option("--stage", metavar="S", help="build (or its own name: tflite, rtl, …) or graph.")
    ] = "build",
    port: Annotated[str | None, typer.Option("--port", metavar="DEV", help="A board's serial port.")] = None,
    virtual: Annotated[bool, typer.Option("--virtual", help="The simulated board, through its pins.")] = False,
    baud: Annotated[
        int | None, typer.Option("--baud", metavar="N", min=1, help="The port's rate, if not the board's.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run samples through the built thing, the integer graph, or a board, real or virtual."""
    from greenedge.run.progress import bar
    from greenedge.run.runs import infer as infer_run

    figures = None
    if port and virtual:
        raise typer.BadParameter("a board is real or virtual; say --port DEV or --virtual.", param_hint="--port")
    with bar("infer") as progress:
        if port or virtual:
            from greenedge.run.board_verbs import infer_on_board

            result, figures = infer_on_board(run, inputs, port, baud, progress, out)
            stage = port or "the virtual board"
        else:
            result = infer_run(run, inputs, stage, progress, out)
    if as_json:
        shown = (
            {"file": str(out), "samples": result.samples, **_shapes(result), "stage": stage}
            if out is not None
            else {name: values.tolist() for name, values in result.items()}
        )
        return _print_json({"outputs": shown, "board": figures} if figures else shown)
    if out is not None:
        what = " and ".join(" × ".join(map(str, (result.samples, *shape))) for shape in result.shapes.values())
        typer.echo(f"{out}: {what} from {stage}")
    else:
        for rows in zip(*result.values(), strict=True):
            typer.echo(" | ".join(" ".join(f"{value:g}" for value in row.ravel()) for row in rows))
    if figures:
        from greenedge.run.board_verbs import in_words

        typer.echo(in_words(figures), err=True)


def _shapes(written: Written) -> dict[str, Any]:
    """The shape of the one output, or those of several by their names."""
    if len(written.shapes) == 1:
        return {"shape": list(written.shape)}
    return {"shapes": {name: list(shape) for name, shape in written.shapes.items()}}


@app.command()
@_exit_code_on_error
def program(
    run: Annotated[Path | None, typer.Argument(metavar="RUN", help="Folder of a run for a board.")] = None,
    target: BoardFile = None,
    docker: Annotated[
        bool, typer.Option("--docker", help="Run the loader in the image of docker/openfpgaloader.")
    ] = False,
    udev: Annotated[bool, typer.Option("--udev", help="Print the udev rules that let a user program boards.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the command and do not run it.")] = False,
    as_json: Json = False,
) -> None:
    """Load a run's bitstream onto its board."""
    from greenedge.run.board_verbs import program_run, udev_rules
    from greenedge.run.progress import bar

    if udev:
        return typer.echo(udev_rules(), nl=False)
    if run is None:
        raise typer.BadParameter("which run? Give its folder.", param_hint="RUN")
    with bar("program") as progress:
        argv = program_run(run, target, docker, dry_run, progress)
    if as_json:
        return _print_json({"argv": argv, "ran": not dry_run})
    typer.echo(shlex.join(argv) if dry_run else f"programmed: {shlex.join(argv)}")


@app.command()
@_exit_code_on_error
def report(
    run: Annotated[list[Path], typer.Argument(metavar="RUN…")],
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE")] = None,
    as_json: Json = False,
) -> None:
    """Write one page over one run or several, from what the runs recorded."""
    from greenedge.report import write_report
    from greenedge.run.runs import read_summary, runs_in

    runs = [folder for each in run for folder in runs_in(each)]
    path = write_report(runs, out or run[0] / "report.html")
    if as_json:
        shown = [{"folder": str(each), "summary": read_summary(each)} for each in runs]
        return _print_json({"runs": shown, "report": str(path)})
    typer.echo(f"report: {path}")


@app.command()
@_exit_code_on_error
def snap(
    model: Annotated[Path, typer.Argument(metavar="MODEL")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="SNAPPED.onnx", help="The rewritten model.")],
    bits: Annotated[int, typer.Option("--bits", metavar="N", help="Multiplier bits, 2 to 24.")] = 8,
    inputs: Annotated[
        Path | None, typer.Option("--inputs", metavar="X.npy|X.npz", help="Samples for the accuracy.")
    ] = None,
    labels: Labels = None,
    input_type: InputTypes = None,
    as_json: Json = False,
) -> None:
    """Narrow every requantiser's multiplier by redefining the model, and say how much that changes."""
    from greenedge.run.jobs import input_types
    from greenedge.run.snap import snap_model

    result = snap_model(model, out, bits, inputs, labels, input_types(input_type or []))
    if as_json:
        return _print_json(result)
    _table(
        ["requantiser", "channels", "multiplier bits", "changed accumulators", "share", "by at most", ""],
        [
            [
                r["layer"],
                str(r["channels"]),
                str(r["multiplier_bits"] or "–"),
                f"{r['changed']:,} of {r['accumulators']:,}",
                f"{r['share']:.1e}",
                f"{r['largest']} level(s)",
                r["left"] or "",
            ]
            for r in result["requantisers"]
        ],
    )
    if result["accuracy"] is not None:
        before, after = result["accuracy"]["before"], result["accuracy"]["after"]
        typer.echo(f"accuracy {before:.4f} before, {after:.4f} after, on {result['accuracy']['samples']} samples")
    typer.echo(f"{out}: build and verify it as any other model")


@app.command()
@_exit_code_on_error
def requantise(
    model: Annotated[Path, typer.Argument(metavar="MODEL")],
    inputs: Annotated[
        Path, typer.Option("--inputs", metavar="X.npy|X.npz", help="Samples whose outputs the levels have to hold.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", "--output", metavar="OUT.onnx", help="The rewritten model.")],
    bits: Annotated[int, typer.Option("--bits", metavar="N", help="Bits of a quantiser, 2 to 8.")] = 8,
    power_of_two: Annotated[bool, typer.Option("--power-of-two", help="The outputs' scale is a power of two.")] = False,
    keep_outputs: Annotated[bool, typer.Option("--keep-outputs", help="Quantisers inside alone.")] = False,
    input_type: InputTypes = None,
    as_json: Json = False,
) -> None:
    """Put quantisers onto a model that lacks them, before sums of float branches and behind accumulators at its end,
    their scales from what samples give."""
    from greenedge.run.jobs import input_types
    from greenedge.run.requantise import requantise_model

    types = input_types(input_type or [])
    result = requantise_model(model, out, inputs, bits, power_of_two, keep_outputs, types)
    if as_json:
        return _print_json(result)
    _table(
        ["tensor", "integers", "scale", "values on the samples"],
        [
            [
                one["tensor"],
                f"{'INT' if one['signed'] else 'UINT'}{one['bits']}",
                f"{one['scale']:.6g}",
                f"{one['low']:.6g} … {one['high']:.6g}",
            ]
            for one in result["quantisers"]
        ],
    )
    if result["other_classes"] is not None:
        typer.echo(f"{result['other_classes']} of {result['samples']} samples have another class")
    typer.echo(f"{out}: build and verify it as any other model")


@app.command()
@_exit_code_on_error
def quantise(
    model: Annotated[Path, typer.Argument(metavar="FLOAT.onnx|MODEL.bin|MODEL.gguf")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="OUT", help="The quantised model: OUT.onnx, OUT.npz.")],
    calibrate: Annotated[
        Path | None,
        typer.Option("--calibrate", metavar="X.npy|X.npz", help="Samples whose values the levels have to hold."),
    ] = None,
    labels: Labels = None,
    data_free: Annotated[
        bool, typer.Option("--data-free", help="Language models: on texts that the model writes itself.")
    ] = False,
    text: Annotated[
        Path | None, typer.Option("--text", metavar="T.txt", help="Language models: on a text of yours instead.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", metavar="TOK.bin", help="A language model's tokenizer, of llama2.c.")
    ] = None,
    bits: Annotated[
        str,
        typer.Option(
            "--bits",
            metavar="8|4|mixed",
            help="Bits of weights; below 8 the first and the last layer keep 8. A language model has 4 or 8.",
        ),
    ] = "8",
    act_bits: ActBits = 8,
    budget_bytes: BudgetBytes = None,
    budget_luts: BudgetLuts = None,
    cycles: Cycles = 512,
    finetune: Finetune = False,
    minutes: Annotated[
        float, typer.Option("--minutes", metavar="M", help="Training of a language model; 0: calibration alone.")
    ] = 0,
    steps: Annotated[
        int | None, typer.Option("--steps", metavar="N", help="The same in steps, which do not depend on the machine.")
    ] = None,
    context: Annotated[
        int | None, typer.Option("--context", metavar="N", help="Positions that a language model keeps; else all.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of a language model's training.")] = 0,
    as_json: Json = False,
) -> None:
    """Quantise a float model (8 or 4 bits, or mixed) or a language model, and say what that costs."""
    from greenedge.run.progress import Screen
    from greenedge.run.quantise_decoder import DecoderOptions, check_request, quantise_decoder, show_decoder

    screen = Screen(f"quantise {model.name}")
    if check_request(model, data_free, text, calibrate):
        if bits not in ("4", "8"):
            raise GreenedgeError(f"--bits {bits}: a language model's weights have 4 or 8 bits; say one of them.")
        options = DecoderOptions(int(bits), minutes, steps, seed, tokenizer, text, context)
        found = quantise_decoder(model, out, options, screen.stage)
        return _print_json(found) if as_json else typer.echo(show_decoder(found))
    from greenedge.frontends.quantise_float import QuantiseOptions
    from greenedge.run.quantise import quantise_model

    assert calibrate is not None
    wanted = QuantiseOptions(bits, act_bits, budget_bytes, budget_luts, cycles, finetune)
    with screen.stage("calibrate") as progress:
        result = quantise_model(model, out, calibrate, labels, progress, wanted)
    if as_json:
        return _print_json(result)
    _show_quantised(result)
    typer.echo(f"{out}: check, build and verify it as any other model")


def _show_quantised(result: dict[str, Any]) -> None:
    """What quantising a float model gave and cost, for a person."""
    if "sensitivity" in result:
        _table(
            ["layer", "weights", "bits", "error if it alone had 4 bits"],
            [[r["layer"], f"{r['weights']:,}", str(r["bits"]), f"{r['error']:.1e}"] for r in result["sensitivity"]],
        )
        typer.echo(f"{result['weight_bytes']:,.0f} bytes of weights, activations of {result['act_bits']} bits")
    else:
        typer.echo(f"{result['layers']} layers with 8-bit weights, activations of 8 bits")
    where = "held back" if result["held_back"] else "that were calibrated on too"
    if "same_class" in result:
        typer.echo(f"{result['same_class']} of {result['samples']} samples ({where}) have the float model's class")
    if "correct" in result:
        lost = result["lost"]
        typer.echo(
            f"correct: {result['correct']} of {result['samples']}, float {result['float_correct']}: "
            f"{lost['points']:.2f} points lost (95 %: {lost['low']:.2f} … {lost['high']:.2f})"
        )


@app.command()
@_exit_code_on_error
def chat(
    model: Annotated[
        Path, typer.Argument(metavar="RUN|MODEL.npz", help="A run of a language model, or what was quantised.")
    ],
    prompt: Annotated[str, typer.Option("--prompt", metavar="P", help="How the text begins.")] = "",
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="The same seed gives the same text.")] = 1,
    temperature: Annotated[
        float, typer.Option("--temperature", metavar="T", help="0: the likeliest token each time; at most 4.")
    ] = 1.0,
    tokens: Annotated[
        int | None, typer.Option("--tokens", metavar="N", help="Stop behind so many; else at the end of the text.")
    ] = None,
    virtual: Annotated[bool, typer.Option("--virtual", help="On the simulated board, through its pins.")] = False,
    port: Annotated[str | None, typer.Option("--port", metavar="DEV", help="On the board at this serial port.")] = None,
    baud: Annotated[
        int | None, typer.Option("--baud", metavar="N", min=1, help="The port's rate, if not the board's.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Let a quantised language model write, in integers: by numpy, by a run's program, or on its board."""
    from greenedge.backends.decoder.interface import Line
    from greenedge.run.chat import Wish, chat_with_run, describe_chat
    from greenedge.run.chat import chat as write_text
    from greenedge.run.progress import bar

    wish = Wish(prompt, seed, temperature, tokens)
    if port and virtual:
        raise typer.BadParameter("a board is real or virtual; say --port DEV or --virtual.", param_hint="--port")
    with ExitStack() as shown:

        def show(text: str) -> None:
            shown.close()  # a bar would be drawn into the text
            typer.echo(text, nl=False)

        show_text = (lambda text: None) if as_json else show
        if model.is_dir():
            progress = shown.enter_context(bar("chat"))
            said = chat_with_run(model, wish, Line(port, baud, virtual), show_text, progress)
        elif port or virtual:
            raise GreenedgeError(f"{model} has no board; build it first: greenedge build {model} --target ulx3s-85f.")
        else:
            said = write_text(model, wish, show_text)
    if as_json:
        return _print_json({**vars(said), "tokens_per_second": said.tokens_per_second})
    typer.echo()
    typer.echo(describe_chat(said), err=True)


@app.command(
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
        "allow_interspersed_args": False,
    }
)
def energy(context: typer.Context) -> None:
    """Measure joules per inference: probe, measure, compare, replay, selftest."""
    from greenedge.energy.commands import app as energy_app
    from greenedge.run import energy as measure

    energy_app(context.args, prog_name="greenedge energy", obj=measure)


def main() -> None:
    """Entry point of the script. SIGTERM and a closed terminal end a run as Ctrl-C does: tidily."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    app(prog_name="greenedge")


if __name__ == "__main__":
    main()
