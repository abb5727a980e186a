"""A recipe's folder, read and checked: flow.toml and recipe.py."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from greenedge.errors import TargetError
from greenedge.files.atomic_write import sha256_file
from greenedge.train.recipe_config import OPTIONS, LedgerSettings, TrainSettings
from greenedge.train.toml_tables import Source, apply_overrides, plain, read_table
from greenedge.train.training_energy import check_ledger

_MOST_BYTES = 1 << 20  # of flow.toml and of recipe.py; both are written by hand
_TAKES = "`greenedge run` takes a recipe's name or folder"
_SEE = "(see the docstring of greenedge.train)"
_REQUIRED = {
    "DataSettings": "a frozen dataclass",
    "ModelSettings": "a frozen dataclass",
    "load_data": "a function",
    "make_model": "a function",
}
_OPTIONAL = ("data_files", "loss", "augment", "score", "teacher")


@dataclass(frozen=True)
class Data:
    """What a recipe trains and tests on: x float32 (N, *shape); y int64 (N,), or the targets of a regression."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


@dataclass(frozen=True)
class Recipe:
    """A recipe as read: nothing of it has run but the top level of recipe.py."""

    name: str
    title: str
    folder: Path
    train: TrainSettings
    options: Mapping[str, Any]
    build: Mapping[str, Any]  # options of the back end where the command line gives none; nothing of the training
    _data_settings: Any = field(repr=False)
    _model_settings: Any = field(repr=False)
    _module: ModuleType = field(repr=False)
    _teacher_settings: Any = field(default=None, repr=False)

    @property
    def settings(self) -> dict[str, Any]:
        """Every table with all defaults filled in, as JSON values; an optional table that is absent stays absent."""
        tables = {"data": self._data_settings, "model": self._model_settings, "train": self.train, **self.options}
        if self._teacher_settings is not None:
            tables["teacher"] = self._teacher_settings
        return {name: plain(table) for name, table in tables.items()}

    @property
    def ledger(self) -> LedgerSettings:
        """[ledger], or its defaults."""
        return self.options.get("ledger", LedgerSettings())

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
        if not hasattr(self._module, "data_files"):
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
        name = getattr(self.options.get("distil"), "teacher", "")
        if not name:
            return None
        path = (self.folder / name).resolve()
        if not path.is_relative_to(self.folder) or not path.is_file():
            raise TargetError(
                f"{self.name}: [distil] teacher is {name!r}; it must be an ONNX file in the recipe's folder."
            )
        return path

    def load_data(self) -> Data:
        """The data, checked: float32 images, as many labels as samples, finite, never empty."""
        data = self._module.load_data(self._data_settings)
        problems = _data_problems(self.name, data)
        if problems:
            raise TargetError("\n".join(problems))
        return data

    def make_model(self):
        """A fresh network with random weights of torch's current seed."""
        return self._module.make_model(self._model_settings)

    def make_teacher(self):
        """The network with [teacher]'s keys over [model]'s, with random weights of torch's current seed."""
        return self._module.make_model(self._teacher_settings or self._model_settings)

    def trained_model(self, folder: Path):
        """The network with the weights that the train stage wrote to `folder`, in eval mode."""
        from greenedge.train.train_stage import trained_model

        return trained_model(self, folder)

    @property
    def loss(self) -> Callable | None:
        """loss(outputs, x, y), or None for cross-entropy."""
        return getattr(self._module, "loss", None)

    @property
    def augment(self) -> Callable | None:
        """augment(x, generator), or None."""
        return getattr(self._module, "augment", None)

    @property
    def teacher(self) -> Callable | None:
        """recipe.py's teacher() -> callable, or None."""
        return getattr(self._module, "teacher", None)

    def first_score(self, outputs: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
        """The metric that stands for the recipe."""
        return next(iter(self.score(outputs, x, y).values()))

    def score(self, outputs: np.ndarray, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
        """The metrics of a stage's outputs, best known first; accuracy where the recipe has no `score` of its own."""
        if hasattr(self._module, "score"):
            return {name: float(value) for name, value in self._module.score(outputs, x, y).items()}
        return {"accuracy": float(np.mean(outputs.argmax(axis=1) == y))}


def _data_problems(name: str, data: object) -> list[str]:
    if not isinstance(data, Data):
        return [f"{name}: load_data returned {type(data).__name__}; it must return greenedge.train.Data."]
    problems = []
    for part in ("train", "test"):
        x, y = getattr(data, f"x_{part}"), getattr(data, f"y_{part}")
        if x.dtype != np.float32 or not len(x) or not np.isfinite(x).all():
            found = f"x_{part} is {x.dtype} with {len(x)} samples"
            problems.append(f"{name}: {found}; it must be float32, finite and not empty.")
        if len(x) != len(y):
            problems.append(f"{name}: x_{part} has {len(x)} samples and y_{part} {len(y)}; they must be as many.")
    return problems


def load_recipe(folder: Path, overrides: Mapping[str, str] | None = None) -> Recipe:
    """Reads a recipe's folder. Raises TargetError with every reason, one a line."""
    folder = Path(folder).resolve()
    name = folder.name
    source = Source(f"{name}/flow.toml", frozenset(overrides or ()))
    problems: list[str] = []
    tables = apply_overrides(_read_toml(folder / "flow.toml", source.file), overrides or {}, problems)
    module = _load_module(folder / "recipe.py", name)
    broken = _module_problems(module, f"{name}/recipe.py")
    if broken:  # without its classes no table can be read
        raise TargetError("\n".join(problems + broken))
    problems += _top_level_problems(tables, name, source)
    data = read_table(module.DataSettings, tables.get("data", {}), "data", source, problems)
    model = read_table(module.ModelSettings, tables.get("model", {}), "model", source, problems)
    train = read_table(TrainSettings, tables.get("train", {}), "train", source, problems)
    options = {
        key: read_table(kind, tables[key], key, source, problems) for key, kind in OPTIONS.items() if key in tables
    }
    teacher = None
    if isinstance(tables.get("teacher"), dict) and isinstance(tables.get("model"), dict):
        merged = {**tables["model"], **tables["teacher"]}
        teacher = read_table(module.ModelSettings, merged, "teacher", source, problems)
    build = _build_options(tables.get("build", {}), source, problems)
    if not problems:
        problems += [f"{source.file}: {text}" for text in _together(options, "teacher" in tables, module)]
    if problems:
        raise TargetError("\n".join(problems))
    return Recipe(name, tables["title"], folder, train, options, build, data, model, module, teacher)


def _together(options: Mapping[str, Any], has_teacher: bool, module: ModuleType) -> list[str]:
    """What is wrong between tables that are each in order."""
    found, quantise, subset = [], options.get("quantise"), options.get("subset")
    widths = (
        [] if quantise is None else [quantise.weight_bits, *(each.weight_bits for each in quantise.layers.values())]
    )
    if "prune" in options and 1 in widths:
        found.append("[prune] wants weights that can be zero, [quantise] has 1-bit ones; set weight_bits to 2 or more.")
    if has_teacher and "distil" not in options:
        found.append("[teacher] has no [distil] that uses it; add [distil], or take [teacher] away.")
    if "search" in options and (quantise is None or (quantise.method == "qat" and not quantise.float_epochs)):
        found.append('[search] looks at a trained float network; set [quantise] float_epochs, or its method to "ptq".')
    if hasattr(module, "loss") and ("distil" in options or (subset is not None and subset.scored)):
        which = "distil" if "distil" in options else "subset"
        found.append(
            f"[{which}] compares classes, and recipe.py has a loss of its own; take [{which}] away or train "
            "with the classes' cross-entropy."
        )
    if "ledger" in options and (wrong := check_ledger(options["ledger"])):
        found.append(f"[ledger] country: {wrong}")
    return found


def _read_toml(path: Path, shown: str) -> dict:
    if not path.is_file():
        raise TargetError(f"{path.parent} is no recipe: it has no flow.toml; {_TAKES}.")
    if path.stat().st_size > _MOST_BYTES:
        raise TargetError(f"{shown} has {path.stat().st_size} bytes; a recipe's settings take at most {_MOST_BYTES}.")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TargetError(f"{shown} is not TOML: {error}.") from None


def _build_options(table: object, source: Source, problems: list[str]) -> dict:
    if not isinstance(table, dict) or not all(type(value) in (int, float, str) for value in table.values()):
        problems.append(
            f"{source.of('build')}: build is {table!r}; it must be a table of numbers and texts for the back end, such as "
            "fps = 100_000."
        )
        return {}
    return dict(table)


def _top_level_problems(tables: Mapping, name: str, source: Source) -> list[str]:
    known = ("name", "title", "data", "model", "train", "teacher", "build", *OPTIONS)
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


def _load_module(path: Path, name: str) -> ModuleType:
    shown = f"{name}/recipe.py"
    if not path.is_file():
        raise TargetError(f"{path.parent} is no recipe: it has no recipe.py; {_TAKES}.")
    if path.stat().st_size > _MOST_BYTES:
        raise TargetError(f"{shown} has {path.stat().st_size} bytes; a recipe takes at most {_MOST_BYTES}.")
    key = f"greenedge_recipe_{hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:16]}"
    if key in sys.modules:
        return sys.modules[key]
    spec = importlib.util.spec_from_file_location(key, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[key] = module  # dataclasses look their module up by name
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's own code raises while it loads
        del sys.modules[key]
        raise TargetError(f"{shown} cannot be loaded: {type(error).__name__}: {error}.") from error
    return module


def _module_problems(module: ModuleType, shown: str) -> list[str]:
    problems = []
    for name, kind in _REQUIRED.items():
        if not callable(getattr(module, name, None)):
            problems.append(f"{shown}: '{name}' is missing; it must be {kind} {_SEE}.")
        elif kind.endswith("dataclass") and not hasattr(getattr(module, name), "__dataclass_fields__"):
            problems.append(f"{shown}: '{name}' is no dataclass; it must be {kind} {_SEE}.")
    for name in _OPTIONAL:
        if hasattr(module, name) and not callable(getattr(module, name)):
            problems.append(f"{shown}: '{name}' is {getattr(module, name)!r}; it must be a function.")
    return problems
