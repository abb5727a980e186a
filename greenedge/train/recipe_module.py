"""recipe.py: the user's own module, loaded by path, and its functions as one typed record."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from greenedge.errors import TargetError
from greenedge.train.layers import Augment, Loss, Teacher

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from torch import nn

Score: TypeAlias = Callable[[np.ndarray, np.ndarray, np.ndarray], dict[str, float]]  # (outputs, x, y) → {metric: value}
MAX_FILE_BYTES = 1 << 20  # of flow.toml and of recipe.py; both are written by hand
TAKES = "`greenedge run` takes a recipe's name or folder"
_SEE = "(see the docstring of greenedge.train)"
_SETTINGS = ("DataSettings", "ModelSettings")
_REQUIRED = ("load_data", "make_model")
_OPTIONAL = ("data_files", "loss", "augment", "score", "teacher")


@dataclass(frozen=True)
class Data:
    """What a recipe trains and tests on: x float32 (N, *shape); y int64 (N,), or the targets of a regression."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


@dataclass(frozen=True)
class RecipeModule:
    """What recipe.py defines, under the names it must have there; None for a function that it leaves out."""

    DataSettings: type[DataclassInstance]
    ModelSettings: type[DataclassInstance]
    load_data: Callable[[Any], Data]
    make_model: Callable[[Any], nn.Module]
    data_files: Callable[[Any], Sequence[Path | str]] | None
    loss: Loss | None
    augment: Augment | None
    score: Score | None
    teacher: Callable[[], Teacher] | None


def load_recipe_module(path: Path, name: str) -> tuple[RecipeModule | None, list[str]]:
    """(the module's functions, []), or (None, every reason why it is no recipe).

    Raises TargetError where there is no such file, it is too large, or an exception ends its execution.
    """
    module = execute_recipe(path, name)
    problems = find_module_problems(module, f"{name}/recipe.py", _SETTINGS, _REQUIRED)
    for key in _OPTIONAL:
        if hasattr(module, key) and not callable(getattr(module, key)):
            problems.append(f"{name}/recipe.py: '{key}' is {getattr(module, key)!r}; it must be a function.")
    if problems:
        return None, problems
    required: dict[str, Any] = {key: getattr(module, key) for key in (*_SETTINGS, *_REQUIRED)}
    optional: dict[str, Any] = {key: getattr(module, key, None) for key in _OPTIONAL}
    return RecipeModule(**required, **optional), []


def execute_recipe(path: Path, name: str) -> ModuleType:
    """The module at `path`, executed once for each content. Raises TargetError where there is no such file, it is too
    large, or an exception ends its execution."""
    shown = f"{name}/recipe.py"
    if not path.is_file():
        raise TargetError(f"{path.parent} is no recipe: it has no recipe.py; {TAKES}.")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise TargetError(f"{shown} has {path.stat().st_size} bytes; a recipe takes at most {MAX_FILE_BYTES}.")
    key = f"greenedge_recipe_{hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:16]}"
    if key in sys.modules:
        return sys.modules[key]
    spec = importlib.util.spec_from_file_location(key, path)
    assert spec is not None and spec.loader is not None  # of any path that ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[key] = module  # dataclasses look their module up by name
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's own code may raise anything
        del sys.modules[key]
        raise TargetError(f"{shown} cannot be loaded: {type(error).__name__}: {error}.") from error
    return module


def find_module_problems(
    module: ModuleType, shown: str, settings: Sequence[str], functions: Sequence[str]
) -> list[str]:
    """What is wrong with the dataclasses and functions that recipe.py must define under these names."""
    problems = []
    for name in (*settings, *functions):
        value, kind = getattr(module, name, None), "a frozen dataclass" if name in settings else "a function"
        if not callable(value):
            problems.append(f"{shown}: '{name}' is missing; it must be {kind} {_SEE}.")
        elif name in settings and not is_dataclass(value):
            problems.append(f"{shown}: '{name}' is no dataclass; it must be {kind} {_SEE}.")
    return problems
