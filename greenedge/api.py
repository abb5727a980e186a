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
from collections.abc import Mapping, Sequence
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

Model = Any  # a path, or a torch.nn.Module with Brevitas quantisers
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

    model       path of an ONNX file, of an int8 .tflite, or of a language model that was quantised (compared on
                stories of its own), or a torch module with Brevitas quantisers (it is exported in eval mode, and needs
                `inputs`)
    inputs      float32 (N, *shape) to verify with, of several inputs {input: array} or a tuple in the model's order
                (a module's: of its forward), or the path of an .npy or .npz file; drawn at random for a file where
                they are not given. labels: (N,) classes
    expected    float32 (N, …): what the model gives for the inputs, compared with all the rest; of a torch module it is
                what the module itself gives
    arithmetic  whose results a .tflite means: "xnnpack" (LiteRT's default) or "reference" (its reference kernels)
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
    if samples is None:
        raise GreenedgeError(
            f"{type(model).__name__} is exported with samples, and none are given; say inputs=X, (N, *shape) in "
            "float32, or a tuple of one for each input of its forward."
        )
    from greenedge.frontends.brevitas import export_model, outputs_of
    from greenedge.frontends.samples import read_arguments

    given = read_arguments(samples, model.forward)
    path = Path(opened.enter_context(scratch_folder("model"))) / f"{name or type(model).__name__.lower()}.onnx"
    training = model.training
    model.eval()
    try:
        facts = export_model(model, [array[:8] for array in given], path)
        if outputs is None and "output" in facts:  # of several outputs none is compared
            outputs, reference = opened.enter_context(_save_samples(outputs_of(model, given))), "torch"
    finally:
        model.train(training)
    if len(given) > 1:  # in the order of forward, which is the file's
        samples = opened.enter_context(_save_samples(tuple(given)))
    return ModelFile(path, samples, classes, declared, outputs, reference)


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
