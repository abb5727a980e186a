"""A language model's recipe, read and checked: flow.toml with `kind = "language model"`, and recipe.py, which defines

    class ModelSettings     frozen dataclass: the keys of [model]
    class TrainSettings     frozen dataclass: the keys of [train]
    train(model, train, folder, progress) -> str
                            writes folder / "model.bin" (llama2.c's checkpoint) and folder / "tokenizer.bin"; returns a
                            note. The folder is as an earlier attempt that was cut off left it.

[quantise] says how the integers are made of it, as `greenedge quantise --data-free` does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greenedge.errors import GreenedgeError, TargetError
from greenedge.files.atomic_write import sha256_file
from greenedge.progress import ProgressFn
from greenedge.train.recipe import find_top_level_problems, read_build_options, read_flow
from greenedge.train.recipe_module import execute_recipe, find_module_problems
from greenedge.train.toml_tables import read_table, setting, to_json_values

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

KIND = "language model"
FLOATS, TOKENIZER = "model.bin", "tokenizer.bin"  # what recipe.py's train() writes
_TABLES = ("model", "train", "quantise")
TrainFn = Callable[[Any, Any, Path, ProgressFn], str]


@dataclass(frozen=True)
class IntegerSettings:
    """[quantise]: how the integers are made of the floats.

    bits      of weights
    steps     of quantisation-aware training; 0 rounds and calibrates alone
    context   positions that are kept; 0 for all
    """

    bits: int = setting(8, least=4, most=8)
    steps: int = setting(0, least=0, most=1_000_000)
    seed: int = setting(0, least=0, most=999_999)
    context: int = setting(0, least=0, most=1 << 16)

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise ValueError(f"has bits {self.bits}; set bits to 4 or 8")


@dataclass(frozen=True)
class LanguageRecipe:
    """A recipe as read. Nothing of recipe.py has run but its top level."""

    name: str
    title: str
    folder: Path
    quantise: IntegerSettings
    build: Mapping[str, int | float | str]  # for the back end where the command line gives none
    _model: DataclassInstance = field(repr=False)
    _train: DataclassInstance = field(repr=False)
    _run: TrainFn = field(repr=False)

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """The tables with all defaults filled in, as JSON values."""
        tables = {"model": self._model, "train": self._train, "quantise": self.quantise}
        return {name: to_json_values(table) for name, table in tables.items()}

    @cached_property
    def digest(self) -> str:
        """Sha256 of the name, recipe.py and the settings but [quantise]: what the trained weights depend on."""
        trained = {name: table for name, table in self.settings.items() if name != "quantise"}
        digest = hashlib.sha256(json.dumps([self.name, trained], sort_keys=True).encode())
        digest.update(sha256_file(self.folder / "recipe.py").encode())
        return digest.hexdigest()

    def train(self, folder: Path, progress: ProgressFn) -> str:
        """Runs recipe.py's train(); returns its note. Raises GreenedgeError where a file is missing afterwards."""
        note = self._run(self._model, self._train, folder, progress)
        for name in (FLOATS, TOKENIZER):
            if not (folder / name).is_file():
                raise GreenedgeError(f"{self.name}: train() of recipe.py wrote no {name}; it must write one.")
        return str(note or "")


def is_language_recipe(folder: Path) -> bool:
    """Whether flow.toml says so. Raises TargetError for a file that is missing, too large, or no TOML."""
    return bool(read_flow(Path(folder).resolve(), {}, [])[0].get("kind") == KIND)


def load_language_recipe(folder: Path, overrides: Mapping[str, str] | None = None) -> LanguageRecipe:
    """Reads a recipe's folder; `overrides` as for greenedge.train.load_recipe. Raises TargetError with every reason."""
    folder = Path(folder).resolve()
    name = folder.name
    problems: list[str] = []
    tables, source = read_flow(folder, overrides or {}, problems)
    module = execute_recipe(folder / "recipe.py", name)
    problems += find_module_problems(module, f"{name}/recipe.py", ("ModelSettings", "TrainSettings"), ("train",))
    problems += find_top_level_problems(tables, name, source, ("kind", *_TABLES))
    if problems:  # without its classes no table can be read
        raise TargetError("\n".join(problems))
    model = read_table(module.ModelSettings, tables.get("model", {}), "model", source, problems)
    train = read_table(module.TrainSettings, tables.get("train", {}), "train", source, problems)
    quantise = read_table(IntegerSettings, tables.get("quantise", {}), "quantise", source, problems)
    build = read_build_options(tables.get("build", {}), source, problems)
    if problems or model is None or train is None or quantise is None:
        raise TargetError("\n".join(problems))
    return LanguageRecipe(name, tables["title"], folder, quantise, build, model, train, module.train)
