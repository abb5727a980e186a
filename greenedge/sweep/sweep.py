"""What a sweep is, as its study remembers it: source, space, how far each point goes, how points are chosen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greenedge.decoder.source import is_decoder_file
from greenedge.errors import GreenedgeError, TargetError
from greenedge.files.atomic_write import atomic_write
from greenedge.files.json_file import read_table
from greenedge.frontends.import_onnx import Calibration, ModelFile
from greenedge.frontends.quantise_float import QuantiseOptions
from greenedge.run.job import ORDER, Job
from greenedge.run.jobs import find_recipe, jobs_for, split_settings
from greenedge.run.manifest import digest_of
from greenedge.sweep.figures import BEFORE_BUILDS, KINDS, require_known
from greenedge.sweep.space import BACKEND, TARGET, Axis, Point, Space, make_space
from greenedge.sweep.study import SAMPLERS, Sampling
from greenedge.target import load_target

if TYPE_CHECKING:
    from greenedge.train.recipe import Recipe

FORMAT = "greenedge-study/1"
DESCRIPTION = "study.json"
PLAN = "plan"
STOPS = (*ORDER[:3], PLAN, *ORDER[3:])  # where a point may end
BUILDS = ("all", "front")
MAX_GRID = 500  # points up to which every one is run, where nothing else is said
DEFAULT_TRIALS = 100  # beyond
_MAX_TRIALS = 100_000
_SUFFIXES = (".onnx", ".tflite", ".pt2")
_QUANTISE = "quantise."


@dataclass(frozen=True)
class Given:
    """What belongs to a model file: samples to verify with, labels, expected outputs, input types, arithmetic; and the
    samples that a float model is calibrated on."""

    inputs: str | None = None
    labels: str | None = None
    expected: str | None = None
    input_types: Mapping[str, str] = field(default_factory=dict)
    arithmetic: str | None = None
    calibrate: str | None = None

    def resolve(self) -> Given:
        """With whole paths, for workers that stand elsewhere."""

        def whole(path: str | None) -> str | None:
            return str(Path(path).resolve()) if path else None

        return replace(
            self,
            inputs=whole(self.inputs),
            labels=whole(self.labels),
            expected=whole(self.expected),
            calibrate=whole(self.calibrate),
        )


@dataclass(frozen=True)
class Sweep:
    """A sweep of a recipe (its name or folder) or of a model file.

    until       the last stage of a point, a name of STOPS; "plan" estimates and builds nothing
    build       "all" points are built, or those on the "front" of the estimates
    energy_j    joules that each training may take; 0 leaves the epochs as the recipe has them
    trials      how many points; None for the whole grid
    """

    source: str
    space: Space
    target: str | None = None
    backend: str | None = None
    until: str = "report"
    build: str = "all"
    energy_j: float = 0.0
    sampler: str = "grid"
    trials: int | None = None
    seed: int = 0
    given: Given = Given()

    @property
    def is_model(self) -> bool:
        """Whether the source is a model file, and no recipe."""
        return is_model_path(self.source)

    @property
    def name(self) -> str:
        """What the source is called."""
        return Path(self.source).stem if self.is_model else Path(self.source).name

    @property
    def builds(self) -> bool:
        """Whether something may be built."""
        return STOPS.index(self.until) > STOPS.index(PLAN)

    @property
    def plans(self) -> bool:
        """Whether points are estimated, and refused where they cannot be built."""
        return STOPS.index(self.until) >= STOPS.index(PLAN)

    @property
    def first_stop(self) -> str:
        """Where points end before the front is known."""
        return PLAN if self.builds and self.build == "front" else self.until

    def sampling(self) -> Sampling:
        """How the study chooses points."""
        larger = tuple(KINDS[name].larger_is_better for name in self.space.objectives)
        return Sampling(self.sampler, self.trials, self.seed, larger)

    def job(self, point: Point, runs_tools: bool = False, epochs: int | None = None) -> Job:
        """What a point runs. Raises TargetError for settings that are not in order, ToolError where tools are to be
        run that are not there."""
        texts = [*self.space.sets, *(f"{key}={value}" for key, value in point.items() if key not in (TARGET, BACKEND))]
        settings, options = split_settings([*texts, *([f"train.epochs={epochs}"] if epochs else [])])
        source = self.model_file(settings) if self.is_model else self.recipe(settings)
        own = {} if isinstance(source, ModelFile) else source.build
        target = point.get(TARGET, self.target)
        until = self.until if not self.plans else "report"
        return jobs_for(
            source,
            [target] if target and self.plans else [],
            point.get(BACKEND, self.backend),
            {**own, **options},
            until,
            runs_tools=runs_tools,
        )[0]

    def recipe(self, settings: Mapping[str, str]) -> Recipe:
        """The recipe with these settings. Raises TargetError."""
        from greenedge.train import Recipe

        found = find_recipe(self.source, settings)
        if not isinstance(found, Recipe):
            raise TargetError(f"{found.name} trains a language model; a sweep sets recipes of networks side by side.")
        return found

    def model_file(self, settings: Mapping[str, str]) -> ModelFile:
        """The model file with its samples; of a float one, with `calibrate`, what quantises it. Raises TargetError for
        a setting that a file does not have."""
        given = self.given
        wanted = read_quantise_options(settings)
        if settings and given.calibrate is None:
            raise TargetError(
                f"{next(iter(settings))} quantises a float model, and {self.source} gets no samples for that; say "
                "--calibrate X.npy, or leave it out."
            )
        calibration = None if given.calibrate is None else Calibration(Path(given.calibrate), wanted)
        samples, labels, expected = (
            None if path is None else Path(path) for path in (given.inputs, given.labels, given.expected)
        )
        types, arithmetic = dict(given.input_types), given.arithmetic
        return ModelFile(
            Path(self.source), samples, labels, types, expected, arithmetic=arithmetic, calibration=calibration
        )


def read_quantise_options(settings: Mapping[str, str]) -> QuantiseOptions:
    """Settings of a float model file, "quantise.bits": "4" and its kin, as options. Raises TargetError for another
    setting, and for a value that is none."""
    kinds = {option.name: option.type for option in fields(QuantiseOptions)}
    values: dict[str, Any] = {}
    for key, text in settings.items():
        name = key.removeprefix(_QUANTISE)
        if not key.startswith(_QUANTISE) or name not in kinds:
            own = ", ".join(f"{_QUANTISE}{each}" for each in kinds)
            raise TargetError(f"{key} belongs to a recipe; of a model file vary build.KEY, target, backend, {own}.")
        if kinds[name] == "bool" and text.lower() in ("true", "false"):
            values[name] = text.lower() == "true"
        elif kinds[name] != "bool" and (kinds[name] == "str" or text.isdecimal()):
            values[name] = text if kinds[name] == "str" else int(text)
        else:
            raise TargetError(f"{key} is {text!r}; write {'true or false' if kinds[name] == 'bool' else 'a number'}.")
    return QuantiseOptions(**values)


def plan_sweep(sweep: Sweep, targets: Sequence[str] = ()) -> Sweep:
    """The sweep with everything decided: several targets are an axis, the sampler suits the grid, objectives follow
    from what is built.

    Raises TargetError, for each value that is not in order before anything is trained.
    """
    sweep = replace(sweep, source=resolve_source(sweep.source), given=sweep.given.resolve())
    _require_network(sweep)
    for value, known in ((sweep.until, STOPS), (sweep.build, BUILDS), (sweep.sampler, (*SAMPLERS, "auto"))):
        if value not in known:
            raise TargetError(f"{value!r} is none of: {', '.join(known)}.")
    if sweep.is_model and sweep.until == "train":
        raise TargetError(f"{sweep.name} is a model file, which is not trained; say --until lower, or a target.")
    named = list(dict.fromkeys(targets))
    if len(named) > 1:
        sweep = replace(sweep, space=sweep.space.with_axis(TARGET, named))
    elif named:
        if any(axis.key == TARGET for axis in sweep.space.axes):
            raise TargetError("target is varied, and --target names one too; leave one of the two out.")
        sweep = replace(sweep, target=named[0])
    sweep = _choose_sampler(_choose_objectives(sweep))
    require_known(sweep.space.objectives)
    late = [name for name in sweep.space.objectives if name not in BEFORE_BUILDS]
    if late and sweep.builds and sweep.build == "front":
        raise TargetError(
            f"--build front chooses by what is known before the build, and {', '.join(late)} is not; judge by "
            f"{', '.join(BEFORE_BUILDS)}."
        )
    check_values(sweep)
    return sweep


def is_model_path(source: str) -> bool:
    """Whether a source is the path of a model file, by its ending."""
    return source.endswith(_SUFFIXES)


def resolve_source(source: str) -> str:
    """A recipe's name as it is; a folder or a file by its whole path, for workers that stand elsewhere."""
    is_path = "/" in source or source.endswith(_SUFFIXES) or (Path(source) / "flow.toml").is_file()
    return str(Path(source).resolve()) if is_path else source


def _require_network(sweep: Sweep) -> None:
    path = Path(sweep.source)
    if sweep.source.endswith((".npz", ".bin", ".gguf")) or (path.is_file() and is_decoder_file(path)):
        raise TargetError(f"{path} is a language model; a sweep sets networks side by side.")
    if sweep.is_model and not path.is_file():
        raise TargetError(f"there is no file {path}; give a recipe, or the path of a model file.")
    if sweep.is_model and sweep.energy_j:
        raise TargetError(f"--energy buys epochs of a recipe's training, and {path} is a model file; leave it out.")


def _choose_sampler(sweep: Sweep) -> Sweep:
    size = sweep.space.size
    if sweep.trials is not None and not 1 <= sweep.trials <= _MAX_TRIALS:
        raise TargetError(f"--trials is {sweep.trials:,}; a study has 1 to {_MAX_TRIALS:,}.")
    if sweep.sampler == "grid" and (size > _MAX_TRIALS or (sweep.trials or size) < size):
        raise TargetError(
            f"the grid has {size:,} points and --trials allows {sweep.trials or _MAX_TRIALS:,}; leave --trials out, or "
            "choose --sampler nsga2, tpe or random."
        )
    if sweep.sampler == "auto":
        whole = size <= MAX_GRID if sweep.trials is None else size <= sweep.trials
        better = "nsga2" if len(sweep.space.objectives) > 1 else "tpe"
        sweep = replace(sweep, sampler="grid" if whole else better)
    trials = None if sweep.sampler == "grid" else min(sweep.trials or DEFAULT_TRIALS, size)
    return replace(sweep, trials=trials)


def _choose_objectives(sweep: Sweep) -> Sweep:
    """Where none are named: the score, and what suits all targets."""
    if sweep.space.objectives:
        return sweep
    named = _targets(sweep)
    kinds = {load_target(name).kind for name in named}
    if not sweep.plans:
        chosen = ["accuracy", "parameters" if ORDER.index(sweep.until) < ORDER.index("lower") else "weight_bits"]
    elif kinds <= {"fpga"}:
        built = sweep.builds and sweep.build == "all"
        chosen = ["accuracy", *(("lut4", "cycles_per_inference") if built else ("estimated_lut4", "estimated_cycles"))]
    elif "fpga" not in kinds:
        chosen = ["accuracy", "bytes"]
    else:
        chosen = ["accuracy", "weight_bits"]
    if sweep.is_model and sweep.given.labels is None:  # no score is known of it
        chosen = [name for name in ("weight_bits", *chosen[1:]) if len(chosen) < 3 or name != "weight_bits"]
    return replace(sweep, space=replace(sweep.space, objectives=tuple(dict.fromkeys(chosen))))


def _targets(sweep: Sweep) -> list[str]:
    varied = next((axis.values for axis in sweep.space.axes if axis.key == TARGET), ())
    return [*varied] or ([sweep.target] if sweep.target else [])


def check_values(sweep: Sweep) -> None:
    """Raises TargetError for every value that is in order neither beside the first value of each other axis nor beside
    the last: settings that do not go together are rows of the table, a wrong word is the sweep's."""
    first = sweep.space.point(0)
    last = {axis.key: axis.values[-1] for axis in sweep.space.axes}
    faults = [
        fault
        for axis in sweep.space.axes
        for value in axis.values
        if (fault := _find_fault(sweep, {**first, axis.key: value})) and _find_fault(sweep, {**last, axis.key: value})
    ]
    if faults:
        raise TargetError("\n".join(dict.fromkeys(faults)))


def _find_fault(sweep: Sweep, point: Point) -> str | None:
    try:
        sweep.job(point)
    except TargetError as error:
        return str(error)
    return None


def describe(sweep: Sweep) -> dict[str, Any]:
    """What study.json says."""
    data = asdict(sweep)
    data["space"]["axes"] = {axis.key: list(axis.values) for axis in sweep.space.axes}
    data["source_sha256"] = digest_source(sweep)
    return {"format": FORMAT, **json.loads(json.dumps(data))}


def digest_source(sweep: Sweep) -> str:
    """Of the recipe before anything is varied, or of the model file and its samples."""
    if sweep.is_model:
        files = dict(sweep.model_file({}).inputs)
        if sweep.given.calibrate:
            from greenedge.files.atomic_write import sha256_file

            files["calibrate"] = sha256_file(Path(sweep.given.calibrate))
        return digest_of(files)
    settings, _ = split_settings(sweep.space.sets)
    return sweep.recipe(settings).digest


def save_description(sweep: Sweep, folder: Path) -> None:
    """Writes study.json, or makes sure that the study there is of this sweep; more trials are allowed.

    Raises GreenedgeError where it is another one, naming what differs.
    """
    path, ours = folder / DESCRIPTION, describe(sweep)
    if path.is_file():
        theirs = _read_description(path)
        differing = [key for key in ours if ours[key] != theirs.get(key) and key != "trials"]
        if differing:
            key = "source" if differing == ["source_sha256"] else differing[0]
            what = "has changed since" if differing == ["source_sha256"] else "is another"
            raise GreenedgeError(
                f"{folder} holds a study whose {key} {what} ({_shorten(theirs.get(key))}; here {_shorten(ours[key])}); "
                "choose another folder with --study."
            )
        if theirs.get("trials") == ours["trials"]:
            return
    with atomic_write(path) as aside:
        aside.write_text(json.dumps(ours, indent=1) + "\n", encoding="utf-8")


def _shorten(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else f"{text[:120]}…"


def _read_description(path: Path) -> dict[str, Any]:
    try:
        found = read_table(path)
    except (OSError, ValueError) as error:
        raise GreenedgeError(f"{path} is damaged ({error}); choose another folder with --study.") from None
    if found.get("format") != FORMAT:
        raise GreenedgeError(
            f"{path} has the format {_shorten(found.get('format'))}, this greenedge reads {FORMAT!r}; choose another "
            "folder with --study."
        )
    return found


def load_sweep(folder: Path, source: str) -> Sweep:
    """The sweep of a study, for a worker that joins it; `source` is what the worker was told, which must be the
    study's. Raises GreenedgeError."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise GreenedgeError(
            f"{folder} is no study: it has no {DESCRIPTION}; begin one with `greenedge sweep SOURCE --space FILE "
            f"--study {folder}`."
        )
    found = _read_description(path)
    try:
        space, given = found["space"], Given(**found["given"])
        axes = [Axis(str(key), tuple(map(str, values))) for key, values in space["axes"].items()]
        made = make_space(axes, [str(text) for text in space["sets"]], [str(name) for name in space["objectives"]])
        plain = {
            key: found[key] for key in ("target", "backend", "until", "build", "energy_j", "sampler", "trials", "seed")
        }
        sweep = Sweep(str(found["source"]), made, **plain, given=given)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise GreenedgeError(f"{path} is damaged ({error}); choose another folder with --study.") from None
    if resolve_source(source) != sweep.source:
        raise GreenedgeError(f"{folder} holds a study of {sweep.source!r}, not {source!r}; say that one.")
    if digest_source(sweep) != found.get("source_sha256"):
        raise GreenedgeError(f"{source} has changed since the study in {folder} began; choose another with --study.")
    return sweep
