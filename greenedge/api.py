"""The verbs of the command line as functions, for notebooks and scripts.

    from greenedge import api

    run = api.build(model, "ulx3s-85f", inputs=x, labels=y)     # a Brevitas module, or the path of a file
    run.summary["accuracy"], run.summary["hardware"]
    run.infer(x)                                                # {model output: array}, by the RTL that was synthesised
    api.report(run, other)

They do what the verbs do and write the same run folders, so either can go on where the other stopped. Errors are those
of greenedge.errors. (Not in `greenedge` itself: its modules check, report and verify have the names of verbs.)
"""

from __future__ import annotations

import html
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greenedge.decoder.source import DecoderFile, is_decoder_file
from greenedge.errors import GreenedgeError
from greenedge.files.scratch import scratch_folder
from greenedge.frontends.import_onnx import Calibration, ModelFile
from greenedge.frontends.quantise_float import QuantiseOptions
from greenedge.progress import no_progress
from greenedge.run import jobs as job_list
from greenedge.run import runs as finished
from greenedge.run.decoder_job import decoder_jobs
from greenedge.run.folder import RunFolder
from greenedge.run.infer import Written
from greenedge.run.job import Silent
from greenedge.run.progress import Screen

if TYPE_CHECKING:
    import numpy as np

    from greenedge.backends.preflight import Preflight
    from greenedge.target import Target

Model = Any  # a path, a torch.export.ExportedProgram, or a torch.nn.Module with quantisers of Brevitas or PT2E
Names = str | Sequence[str]
# of one input an array (N, *shape), of several {input: array} or a tuple in the model's order; or an .npy or .npz file
Inputs = Any


@dataclass(frozen=True)
class Run:
    """A run's folder."""

    folder: Path

    @property
    def summary(self) -> dict:
        """summary.json: accuracy, verify, hardware or edge, energy, seconds; what is not known is absent."""
        found = finished.read_summary(self.folder)
        if found is None:
            raise GreenedgeError(f"{self.folder} has no report yet; let it run to the end.")
        return found

    @property
    def report(self) -> Path:
        """The page."""
        return RunFolder(self.folder).page

    def infer(self, x: Inputs, stage: str = "build") -> dict[str, np.ndarray]:
        """{model output: (N, …) floats} for samples (N, *shape), by the built thing or, with stage "graph", the
        integer graph. Of several inputs, `x` is {input: array} or a tuple in the model's order."""
        with _save_samples(x) as path:
            outputs = finished.infer(self.folder, path, stage, no_progress)
        assert not isinstance(outputs, Written), "without a file the outputs are given back"
        return outputs

    def verify(self) -> dict:
        """Compares again what lies in the folder now. Raises VerificationError."""
        return finished.verify_again(self.folder, no_progress)

    def program(self, target: str | None = None) -> list[str]:
        """Loads the bitstream onto its board; the command that did it."""
        from greenedge.run.board_verbs import program_run

        return program_run(self.folder, target, False, False, no_progress)

    def _repr_html_(self) -> str:
        """What a notebook shows: what was compared, and the figures of the hardware or the binary."""
        found = self.summary
        rows = [
            (
                f"{one['candidate']} against {one['reference']}",
                f"{_count_equal(one):,} of {one['samples']:,} equal",
            )
            for one in found.get("verify", ())
        ]
        rows += [
            (key, str(value))
            for part in ("hardware", "edge")
            for key, value in (found.get(part) or {}).items()
            if isinstance(value, (int, float, str))
        ]
        cells = "".join(f"<tr><td>{html.escape(key)}</td><td>{html.escape(value)}</td></tr>" for key, value in rows)
        return f"<table><caption>{html.escape(str(self.folder))}</caption>{cells}</table>"


def _count_equal(entry: Mapping[str, int]) -> int:
    """The samples of a comparison on which nothing differed."""
    return entry["samples"] - entry["mismatches"] - entry.get("within_certificate", 0)


def build(
    model: Model,
    target: Names,
    *,
    inputs: Inputs | None = None,
    labels: np.ndarray | None = None,
    expected: np.ndarray | None = None,
    name: str | None = None,
    backend: str | None = None,
    input_type: Names = (),
    arithmetic: str | None = None,
    calibrate: np.ndarray | str | Path | None = None,
    bits: str | int = "8",
    act_bits: int = 8,
    finetune: bool = False,
    out: str | Path | None = None,
    progress: bool = True,
    **options: object,
) -> Run | list[Run]:
    """Builds and verifies a model for a target, or for several; returns its Run, or a list of them.

    model       path of an ONNX file, of an int8 .tflite, of a .pt2 of torch.export, or of a language model that was
                quantised (compared on stories of its own); a torch.export.ExportedProgram; or a torch module with the
                quantisers of Brevitas or of PT2E (it is exported in eval mode, and needs `inputs`)
    inputs      float32 (N, *shape) to verify with, of several inputs {input: array} or a tuple in the model's order
                (a module's: of its forward), or the path of an .npy or .npz file; drawn at random for a file where
                they are not given. labels: (N,) classes
    expected    float32 (N, …): what the model gives for the inputs, compared with all the rest; of a torch module it is
                what the module itself gives
    arithmetic  whose results a .tflite means: "xnnpack" (LiteRT's default), "reference" (its reference kernels), or
                "real" (the file's real numbers, rounded half to even)
    calibrate   of a float model, a file or a torch module without quantisers: float32 (N, *shape) that it is quantised
                with, at `bits` of weights (8, 4, "mixed") and `act_bits` of activations; `finetune` trains it then
    options     of the back end, as --set build.KEY has them: fps=20000, latency=1e-5, clock_hz=100e6,
                storage="int4-dense", …
    """
    if isinstance(model, (str, Path)) and is_decoder_file(Path(model)):
        chosen = decoder_jobs(DecoderFile(Path(model)), _names(target), backend, options)
        return _run_jobs(chosen, out, progress, isinstance(target, str))
    with ExitStack() as opened:
        if calibrate is not None:
            source = _float_source(model, calibrate, inputs, labels, name, opened)
            wanted = QuantiseOptions(str(bits), act_bits, finetune=finetune)
            source = replace(source, calibration=Calibration(opened.enter_context(_save_samples(calibrate)), wanted))
        else:
            source = _source(model, inputs, labels, expected, name, input_type, opened, arithmetic)
        return _run_jobs(
            job_list.jobs_for(source, _names(target), backend, options), out, progress, isinstance(target, str)
        )


def run(
    flow: str,
    target: Names = (),
    *,
    settings: Mapping[str, object] | None = None,
    backend: str | None = None,
    until: str = "report",
    out: str | Path | None = None,
    progress: bool = True,
    **options: object,
) -> Run | list[Run]:
    """Runs a recipe by its name or folder; `settings` are the recipe's, as {"train.epochs": 20}. Returns its Run, or
    one a target."""
    recipe = job_list.find_recipe(flow, {key: str(value) for key, value in (settings or {}).items()})
    jobs = job_list.recipe_jobs(recipe, _names(target), backend, options, until)
    return _run_jobs(jobs, out, progress, isinstance(target, str) or not target, until)


@dataclass(frozen=True)
class SweepTable:
    """A sweep that has ended, or as far as it is: a row a point, with settings, figures and how it ended."""

    folder: Path
    found: Mapping[str, Any]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """{"settings", "status", "figures": {key: {"value", "evidence", …}}, "front" of those on it, …} of each."""
        return list(self.found["rows"])

    @property
    def front(self) -> list[dict[str, Any]]:
        """The rows that no other row beats, among those of the same evidence."""
        return [row for row in self.rows if "front" in row]

    @property
    def report(self) -> Path:
        """The page."""
        from greenedge.sweep.outputs import PAGE

        return self.folder / PAGE

    def to_frame(self) -> Any:
        """A pandas DataFrame: settings, figures by their keys, status, front. Raises ToolError without pandas."""
        from greenedge.sweep.frame import make_frame

        return make_frame(self.found)

    def plot(self, x: str | None = None, y: str | None = None, axes: Any = None) -> Any:
        """The points by two figures (without names: the second and the first objective) on matplotlib's axes, which
        are returned; estimates are hollow. Raises GreenedgeError where no row has both."""
        from greenedge.sweep.frame import plot_front

        return plot_front(self.found, x, y, axes)

    def _repr_html_(self) -> str:
        """What a notebook shows: the table of the terminal."""
        from greenedge.sweep.outputs import terminal

        heads, rows = terminal(self.found)
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in heads)
        lines = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        return f"<table><tr>{head}</tr>{lines}</table>"


def sweep(
    source: str | Path,
    vary: Mapping[str, Sequence[object]] | None = None,
    target: Names = (),
    *,
    space: str | Path | None = None,
    study: str | Path | None = None,
    settings: Mapping[str, object] | None = None,
    objectives: Names = (),
    inputs: str | Path | None = None,
    labels: str | Path | None = None,
    expected: str | Path | None = None,
    calibrate: str | Path | None = None,
    on_stage: Callable[[Path, Mapping[str, Any]], None] | None = None,
    progress: bool = True,
    **options: Any,
) -> SweepTable:
    """Runs the points of a space and sets them side by side; every point is a row, whatever becomes of it.

    source      a recipe's name or folder, or the path of an ONNX file (also a float one, with `calibrate`) or .tflite
    vary        {"quantise.weight_bits": [2, 4], "build.fps": […], "target": […]}; or `space`, a TOML file
    settings    what all points have, as {"train.epochs": 20}
    on_stage    called with (run folder, {"name", "settings", "stage", "status", "seconds", "figures"}) after each
                stage, in this process (so with jobs=1)
    options     as the command line has them: until="plan", build="front", trials=40, sampler="nsga2", seed=0, jobs=2,
                backend="finn", energy_j=20.0, retry=True
    """
    from greenedge.sweep.commands import Request, run_request
    from greenedge.sweep.space import write_vary
    from greenedge.sweep.sweep import Given

    files = [None if path is None else str(path) for path in (inputs, labels, expected)]
    ranges = None if calibrate is None else str(calibrate)
    folder = Path(study) if study else Path("runs") / f"{Path(source).stem}-sweep"
    request = Request(
        source=str(source),
        axes=tuple(write_vary(vary or {})),
        space=None if space is None else Path(space),
        study=folder,
        targets=tuple(_names(target)),
        sets=tuple(f"{key}={value}" for key, value in (settings or {}).items()),
        objectives=tuple(_names(objectives)),
        given=Given(files[0], files[1], files[2], calibrate=ranges),
        on_stage=on_stage,
        **options,
    )
    found = run_request(request, (lambda line: print(line, file=sys.stderr)) if progress else (lambda line: None))
    assert not isinstance(found, str), "without a dry run the points are run"
    return SweepTable(folder, found)


def check(
    model: Model,
    target: Names,
    *,
    inputs: Inputs | None = None,
    labels: np.ndarray | None = None,
    expected: np.ndarray | None = None,
    backend: str | None = None,
    input_type: Names = (),
    arithmetic: str | None = None,
    **options: object,
) -> list[Preflight]:
    """The preflight of a model for each target: `reasons` why not (none: it can be built), and `notes`. The arguments
    are those of `build`."""
    with ExitStack() as opened:
        source = _source(model, inputs, labels, expected, None, input_type, opened, arithmetic)
        return job_list.preflight(source, _names(target), backend, options)


def quantise(
    model: Model,
    calibrate: np.ndarray | str | Path,
    out: str | Path,
    *,
    labels: np.ndarray | None = None,
    bits: str | int = "8",
    act_bits: int = 8,
    budget_bytes: int | None = None,
    budget_luts: int | None = None,
    finetune: bool = False,
) -> dict[str, Any]:
    """Writes the quantised model of a float one, an ONNX file or a torch module without quantisers, to `out`; returns
    what `greenedge quantise --json` prints. The arguments are those of its options."""
    from greenedge.run.quantise import quantise_model

    options = QuantiseOptions(str(bits), act_bits, budget_bytes, budget_luts, finetune=finetune)
    with ExitStack() as opened:
        source = _float_source(model, calibrate, None, labels, None, opened)
        samples = opened.enter_context(_save_samples(calibrate))
        return quantise_model(source.path, Path(out), samples, source.labels, no_progress, options)


def report(*runs: Run | str | Path, out: str | Path = "report.html") -> Path:
    """One page over several runs."""
    from greenedge.report import write_report

    return write_report([each.folder if isinstance(each, Run) else Path(each) for each in runs], Path(out))


def targets() -> list[Target]:
    """Every target that ships with greenedge."""
    from greenedge.target import list_targets, load_target

    return [load_target(each) for each in list_targets()]


def _names(target: Names) -> list[str]:
    return [target] if isinstance(target, str) else list(target)


def _run_jobs(jobs, out, progress: bool, single: bool, until: str = "report"):
    display = (lambda job: Screen(job.title)) if progress else (lambda job: Silent())
    folders, _ = job_list.run_all(jobs, None if out is None else Path(out), until, display)
    runs = [Run(folder) for folder in folders]
    return runs[0] if single else runs


def _source(
    model: Model,
    inputs,
    labels,
    expected,
    name: str | None,
    input_type: Names,
    opened: ExitStack,
    arithmetic: str | None = None,
) -> ModelFile:
    """The model as a file with its samples in files, for as long as `opened` is open."""
    samples, classes, outputs = (
        None if array is None else opened.enter_context(_save_samples(array)) for array in (inputs, labels, expected)
    )
    reference = "expected"
    declared = job_list.input_types(_names(input_type))
    if isinstance(model, (str, Path)):
        return ModelFile(Path(model), samples, classes, declared, outputs, arithmetic=arithmetic)
    from greenedge.frontends import torch_program

    exported = torch_program.is_program(model)
    if samples is None and not exported:
        raise GreenedgeError(
            f"{type(model).__name__} is exported with samples, and none are given; say inputs=X, (N, *shape) in "
            "float32, or a tuple of one for each input of its forward."
        )
    from greenedge.frontends.samples import read_arguments

    given = [] if samples is None else read_arguments(samples, torch_program.read_forward(model))
    path = Path(opened.enter_context(scratch_folder("model"))) / (name or type(model).__name__.lower())
    write = _write_brevitas if not exported and torch_program.has_brevitas(model) else _write_program
    path, found = write(model, given, path)
    if outputs is None and found is not None:
        outputs, reference = opened.enter_context(_save_samples(found)), "torch"
    if len(given) > 1:  # in the order of forward, which is the file's
        samples = opened.enter_context(_save_samples(tuple(given)))
    return ModelFile(path, samples, classes, declared, outputs, reference)


def _write_brevitas(model, given, stem: Path):
    """(the QONNX file of a module with Brevitas quantisers, its outputs for the samples); of several none is
    compared."""
    from greenedge.frontends.brevitas import export_model, outputs_of

    path = stem.with_name(f"{stem.name}.onnx")
    with _in_eval_mode(model):
        facts = export_model(model, [array[:8] for array in given], path)
        return path, outputs_of(model, given) if "output" in facts else None


def _write_program(model, given, stem: Path):
    """As `_write_brevitas`, the .pt2 file of an ExportedProgram or of any other module."""
    from greenedge.frontends import torch_program

    path = stem.with_name(f"{stem.name}.pt2")
    given = [array.astype("float32") if array.dtype.kind == "f" else array for array in given]
    if torch_program.is_program(model):
        program = model
    else:
        with _in_eval_mode(model):
            program = torch_program.export_module(model, given)
    torch_program.save_program(program, path)
    outputs = torch_program.run_program(program, given) if given else []
    return path, outputs[0] if len(outputs) == 1 else None


@contextmanager
def _in_eval_mode(model):
    """A module that computes one function; an exported one has no such mode, and says so."""
    training = model.training
    try:
        model.eval()
    except NotImplementedError:
        yield
        return
    try:
        yield
    finally:
        model.train(training)


def _float_source(model: Model, calibrate, inputs, labels, name: str | None, opened: ExitStack) -> ModelFile:
    """A float model as a file, for as long as `opened` is open; a torch module is exported in eval mode."""
    samples, classes = (
        None if array is None else opened.enter_context(_save_samples(array)) for array in (inputs, labels)
    )
    if isinstance(model, (str, Path)):
        return ModelFile(Path(model), samples, classes)
    from greenedge.frontends.torch_float import export_float

    path = Path(opened.enter_context(scratch_folder("model"))) / f"{name or type(model).__name__.lower()}.onnx"
    with _save_samples(calibrate) as file:
        export_float(model, file, path)
    return ModelFile(path, samples, classes)


@contextmanager
def _save_samples(given):
    """The path of a file that holds what was given: the file itself, an .npy for one array, an .npz for several."""
    import numpy as np

    from greenedge.files.arrays import write_archive

    if isinstance(given, (str, Path)):
        yield Path(given)
        return
    with scratch_folder("samples") as folder:
        if isinstance(given, (tuple, Mapping)):
            path = Path(folder) / "samples.npz"
            named = given if isinstance(given, Mapping) else {f"arr_{k}": array for k, array in enumerate(given)}
            write_archive(path, {str(name): np.asarray(array) for name, array in named.items()})
        else:
            path = Path(folder) / "samples.npy"
            np.save(path, np.asarray(given), allow_pickle=False)
        yield path
