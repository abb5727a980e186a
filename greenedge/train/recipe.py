"""A recipe's folder, read and checked: flow.toml and recipe.py."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from greenedge.errors import TargetError
from greenedge.files.atomic_write import sha256_file
from greenedge.train.layers import Augment, Loss, Teacher
from greenedge.train.recipe_config import (
    OPTIONAL_TABLES,
    DistilSettings,
    LedgerSettings,
    PruneSettings,
    QuantiseSettings,
    RecipeOptions,
    SearchSettings,
    SubsetSettings,
    TrainSettings,
)
from greenedge.train.recipe_module import MAX_FILE_BYTES, TAKES, Data, RecipeModule, load_recipe_module
from greenedge.train.toml_tables import Source, apply_overrides, read_table, to_json_values
from greenedge.train.training_energy import check_ledger

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from torch import nn

    from greenedge.train.toml_tables import Settings


@dataclass(frozen=True)
class Recipe:
    """A recipe as read. Nothing of recipe.py has run but its top level; each method runs the function of its name."""

    name: str
    title: str
    folder: Path
    train: TrainSettings
    options: RecipeOptions
    build: Mapping[str, int | float | str]  # for the back end where the command line gives none; training ignores it
    _data_settings: DataclassInstance = field(repr=False)
    _model_settings: DataclassInstance = field(repr=False)
    _module: RecipeModule = field(repr=False)
    _teacher_settings: DataclassInstance | None = field(default=None, repr=False)

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """Every table with all defaults filled in, as JSON values; an optional table that is absent stays absent."""
        tables: dict[str, DataclassInstance] = {
            "data": self._data_settings,
            "model": self._model_settings,
            "train": self.train,
            **self.options.tables(),
        }
        if self._teacher_settings is not None:
            tables["teacher"] = self._teacher_settings
        return {name: to_json_values(table) for name, table in tables.items()}

    @property
    def ledger(self) -> LedgerSettings:
        """[ledger], or its defaults."""
        return self.options.ledger or LedgerSettings()

    @cached_property
    def digest(self) -> str:
        """Sha256 of the name, the settings, recipe.py and the data files: what the trained weights depend on."""
        digest = hashlib.sha256(json.dumps([self.name, self.settings], sort_keys=True).encode())
        digest.update(sha256_file(self.folder / "recipe.py").encode())
        for path in [*self.data_files(), *([self.teacher_file] if self.teacher_file else [])]:
            digest.update(sha256_file(path).encode())
        return digest.hexdigest()

    def data_files(self) -> list[Path]:
        """The files that load_data reads; raises TargetError where one is missing."""
        if self._module.data_files is None:
            return []
        paths = [Path(path) for path in self._module.data_files(self._data_settings)]
        missing = [str(path) for path in paths if not path.is_file()]
        if missing:
            where = "the recipe's README.md says where to get it"
            raise TargetError(f"{self.name}: no file {', '.join(missing)}; {where}.")
        return paths

    @property
    def teacher_file(self) -> Path | None:
        """The ONNX file of [distil] teacher; raises TargetError where it is not in the recipe's folder."""
        name = self.options.distil.teacher if self.options.distil is not None else ""
        if not name:
            return None
        path = (self.folder / name).resolve()
        if not path.is_relative_to(self.folder) or not path.is_file():
            raise TargetError(
                f"{self.name}: [distil] teacher is {name!r}; it must be an ONNX file in the recipe's folder."
            )
        return path

    def load_data(self) -> Data:
        """The data, checked: x float32, finite and not empty, as many labels as samples. Raises TargetError."""
        data = self._module.load_data(self._data_settings)
        problems = _find_data_problems(self.name, data)
        if problems:
            raise TargetError("\n".join(problems))
        return data

    def make_model(self) -> nn.Module:
        """A new network with random weights of torch's current seed."""
        return self._module.make_model(self._model_settings)

    def make_teacher(self) -> nn.Module:
        """A new network with [teacher]'s keys over [model]'s, with random weights of torch's current seed."""
        return self._module.make_model(self._teacher_settings or self._model_settings)

    @property
    def loss(self) -> Loss | None:
        """loss(outputs, x, y), or None for cross-entropy."""
        return self._module.loss

    @property
    def augment(self) -> Augment | None:
        """augment(x, generator), or None."""
        return self._module.augment

    @property
    def teacher(self) -> Callable[[], Teacher] | None:
        """recipe.py's teacher() → callable, or None."""
        return self._module.teacher

    def first_score(self, outputs: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
        """The metric that stands for the recipe: the first that `score` gives."""
        return next(iter(self.score(outputs, x, y).values()))

    def score(self, outputs: np.ndarray, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
        """The metrics of a stage's outputs, the most telling first; accuracy where the recipe has no `score`."""
        if self._module.score is not None:
            return {name: float(value) for name, value in self._module.score(outputs, x, y).items()}
        return {"accuracy": float(np.mean(outputs.argmax(axis=1) == y))}


def _find_data_problems(name: str, data: object) -> list[str]:
    if not isinstance(data, Data):
        return [f"{name}: load_data returned {type(data).__name__}; it must return greenedge.train.Data."]
    problems = []
    for part, x, y in (("train", data.x_train, data.y_train), ("test", data.x_test, data.y_test)):
        if x.dtype != np.float32 or not len(x) or not np.isfinite(x).all():
            problems.append(
                f"{name}: x_{part} is {x.dtype} with {len(x)} samples; it must be float32, finite and not empty."
            )
        if len(x) != len(y):
            problems.append(f"{name}: x_{part} has {len(x)} samples and y_{part} {len(y)}; they must be as many.")
    return problems


def load_recipe(folder: Path, overrides: Mapping[str, str] | None = None) -> Recipe:
    """Reads a recipe's folder; `overrides` maps dotted keys to values as text, as --set gives them.

    Raises TargetError with every reason, one a line.
    """
    folder = Path(folder).resolve()
    name = folder.name
    problems: list[str] = []
    tables, source = read_flow(folder, overrides or {}, problems)
    module, broken = load_recipe_module(folder / "recipe.py", name)
    if module is None:  # without its classes no table can be read
        raise TargetError("\n".join(problems + broken))
    problems += find_top_level_problems(tables, name, source, ("data", "model", "train", "teacher", *OPTIONAL_TABLES))
    data = read_table(module.DataSettings, tables.get("data", {}), "data", source, problems)
    model = read_table(module.ModelSettings, tables.get("model", {}), "model", source, problems)
    train = read_table(TrainSettings, tables.get("train", {}), "train", source, problems)
    options = _read_options(tables, source, problems)
    teacher = None
    if isinstance(tables.get("teacher"), dict) and isinstance(tables.get("model"), dict):
        merged = {**tables["model"], **tables["teacher"]}
        teacher = read_table(module.ModelSettings, merged, "teacher", source, problems)
    build = read_build_options(tables.get("build", {}), source, problems)
    if not problems:
        conflicts = _find_conflicts(options, "teacher" in tables, module.loss is not None)
        problems += [f"{source.file}: {text}" for text in conflicts]
    if problems or data is None or model is None or train is None:
        raise TargetError("\n".join(problems))
    return Recipe(name, tables["title"], folder, train, options, build, data, model, module, teacher)


def _read_options(tables: Mapping[str, Any], source: Source, problems: list[str]) -> RecipeOptions:
    def read(kind: type[Settings], key: str) -> Settings | None:
        return read_table(kind, tables[key], key, source, problems) if key in tables else None

    return RecipeOptions(
        quantise=read(QuantiseSettings, "quantise"),
        prune=read(PruneSettings, "prune"),
        distil=read(DistilSettings, "distil"),
        subset=read(SubsetSettings, "subset"),
        search=read(SearchSettings, "search"),
        ledger=read(LedgerSettings, "ledger"),
    )


def _find_conflicts(options: RecipeOptions, has_teacher: bool, has_loss: bool) -> list[str]:
    """What is wrong between tables each of which is in order; the loss is recipe.py's own."""
    conflicts, quantise, subset = [], options.quantise, options.subset
    widths = (
        [] if quantise is None else [quantise.weight_bits, *(each.weight_bits for each in quantise.layers.values())]
    )
    if options.prune is not None and 1 in widths:
        conflicts.append(
            "[prune] wants weights that can be zero, [quantise] has 1-bit ones; set weight_bits to 2 or more."
        )
    if has_teacher and options.distil is None:
        conflicts.append("[teacher] has no [distil] that uses it; add [distil], or take [teacher] away.")
    has_float_network = quantise is not None and (quantise.method == "ptq" or quantise.float_epochs > 0)
    if options.search is not None and not has_float_network:
        conflicts.append(
            '[search] looks at a trained float network; set [quantise] float_epochs, or its method to "ptq".'
        )
    if has_loss and (options.distil is not None or (subset is not None and subset.needs_scores)):
        which = "distil" if options.distil is not None else "subset"
        conflicts.append(
            f"[{which}] compares classes, and recipe.py has a loss of its own; take [{which}] away or train "
            "with the classes' cross-entropy."
        )
    if options.ledger is not None and (wrong := check_ledger(options.ledger)):
        conflicts.append(f"[ledger] country: {wrong}")
    return conflicts


def read_flow(folder: Path, overrides: Mapping[str, str], problems: list[str]) -> tuple[dict[str, Any], Source]:
    """The tables of flow.toml with the overrides in them, and where their values come from. Raises TargetError for a
    file that is missing, too large, or no TOML."""
    source = Source(f"{folder.name}/flow.toml", frozenset(overrides))
    return apply_overrides(_read_toml(folder / "flow.toml", source.file), overrides, problems), source


def _read_toml(path: Path, shown: str) -> dict[str, Any]:
    if not path.is_file():
        raise TargetError(f"{path.parent} is no recipe: it has no flow.toml; {TAKES}.")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise TargetError(
            f"{shown} has {path.stat().st_size} bytes; a recipe's settings take at most {MAX_FILE_BYTES}."
        )
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TargetError(f"{shown} is not TOML: {error}.") from None


def read_build_options(table: object, source: Source, problems: list[str]) -> dict[str, int | float | str]:
    """[build]: the back end's options; what breaks a rule is appended to `problems`."""
    if not isinstance(table, dict) or not all(type(value) in (int, float, str) for value in table.values()):
        problems.append(
            f"{source.of('build')}: build is {table!r}; it must be a table of numbers and texts for the back end, such "
            "as fps = 100_000."
        )
        return {}
    return dict(table)


def find_top_level_problems(
    tables: Mapping[str, Any], name: str, source: Source, of_this_kind: Sequence[str]
) -> list[str]:
    """What is wrong with the keys of flow.toml; `of_this_kind` are known beside those that every recipe has."""
    known = ("name", "title", "build", *of_this_kind)
    listing = f"a recipe has: {', '.join(sorted(known))}"
    problems = [f"{source.of(key)}: unknown key '{key}'; {listing}." for key in tables if key not in known]
    for key in ("name", "title"):
        if key not in tables:
            problems.append(f"{source.file}: '{key}' is missing; {listing}.")
        elif not isinstance(tables[key], str):
            problems.append(f"{source.file}: {key} is {tables[key]!r}; it must be a text in quotes.")
    if isinstance(tables.get("name"), str) and tables["name"] != name:
        problems.append(f"{source.file}: name is {tables['name']!r}; it must be the folder's name, {name!r}.")
    return problems
