"""A torch.export program or a module at hand as a .pt2 file, with what torch itself gives for samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from greenedge._warnings import quiet
from greenedge.errors import GreenedgeError

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

_BATCH = 64  # that a module is exported with: a size that no broadcast hides, and that torch computes at once


def is_program(model: object) -> bool:
    """Whether it is an ExportedProgram; torch is not loaded to tell."""
    return any(kind.__module__ == "torch.export.exported_program" for kind in type(model).__mro__)


def has_brevitas(model: nn.Module) -> bool:
    """Whether a module of Brevitas is in it, whose own exporter then writes it."""
    return any(type(module).__module__.partition(".")[0] == "brevitas" for module in model.modules())


def save_program(program: ExportedProgram, path: Path) -> None:
    """Writes a .pt2 file. Raises GreenedgeError where torch cannot write the program."""
    import torch

    try:
        with quiet():
            torch.export.save(program, path)
    except Exception as error:  # of torch's serialiser, which has no common class
        raise GreenedgeError(f"torch cannot save the program: {_describe(error)}; export another module.") from error


def export_module(model: nn.Module, samples: Sequence[np.ndarray]) -> ExportedProgram:
    """The program of a module in eval mode, its batch open where the module leaves it open.

    samples     float32 (N, *shape), N ≥ 1, one array for each argument of its forward
    Raises GreenedgeError where torch cannot export it.
    """
    import torch

    auto = tuple({0: torch.export.Dim.AUTO} for _ in samples)
    traced, is_open = _find_batch(model)
    tries = [(traced or _BATCH, auto), (1, None)] if is_open else [(traced, None)]
    failed: list[Exception] = []
    for size, dynamic in tries:
        arguments = tuple(torch.from_numpy(np.resize(array, (size, *array.shape[1:]))) for array in samples)
        try:
            with quiet():
                return torch.export.export(model, arguments, dynamic_shapes=dynamic)
        except Exception as error:  # of whatever the module runs
            failed.append(error)
    raise GreenedgeError(
        f"torch cannot export the network: {_describe(failed[0])}; replace the module it names by a supported one."
    ) from failed[0]


def _find_batch(model: nn.Module) -> tuple[int | None, bool]:
    """(the batch with which a module was traced before, whether it is open); (None, True) where it was not traced."""
    graph = getattr(model, "graph", None)
    for node in getattr(graph, "nodes", ()):
        value = node.meta.get("val") if node.op == "placeholder" else None
        if value is not None and len(getattr(value, "shape", ())) > 0:
            size = value.shape[0]
            return (size, False) if isinstance(size, int) else (size.node.hint, True)
    return None, True


def run_program(program: ExportedProgram, samples: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Every output of the program for samples, (N, *shape) for each input, as torch computes it."""
    import torch
    from torch.utils._pytree import tree_leaves

    module = program.module()
    count = len(samples[0])
    size = _find_batch(module)[0] or 1
    fitting = -(-count // size) * size
    filled = [
        torch.from_numpy(np.ascontiguousarray(np.resize(array, (fitting, *array.shape[1:])))) for array in samples
    ]
    with torch.no_grad():
        rows = [
            [np.asarray(value) for value in tree_leaves(module(*part))]
            for part in zip(*(array.split(size) for array in filled), strict=True)
        ]
    return [np.concatenate(parts)[:count] for parts in zip(*rows, strict=True)]


def _describe(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0].rstrip(".")[:200]


def read_forward(model: Any) -> Any:
    """What takes the samples of a program or a module: its function of them."""
    return model.module().forward if is_program(model) else model.forward
