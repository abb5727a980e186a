"""The whole state of a training run in one file, whole or absent, so that a killed run resumes bit for bit.

torch's own state_dict is not enough here: Brevitas leaves out the running statistics from which a scale starts, and
restarts their counters when a value is loaded. So every tensor and every counter is saved as it is.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greenedge.errors import GreenedgeError
from greenedge.files.atomic_write import atomic_write
from greenedge.train.layers import ModelState

if TYPE_CHECKING:
    import torch
    from torch import nn


def model_state(model: nn.Module) -> ModelState:
    """Copies of all parameters and buffers, and the counters of collecting quantisers, by module path."""
    tensors = {name: tensor.detach().clone() for name, tensor in _name_tensors(model)}
    return {"tensors": tensors, "counters": {name: int(part.counter) for name, part in _collecting_modules(model)}}


def set_model_state(model: nn.Module, state: ModelState) -> None:
    """Writes a state back; raises GreenedgeError where the network has other tensors than the state."""
    import torch

    here = dict(_name_tensors(model))
    shapes = {name: tuple(tensor.shape) for name, tensor in here.items()}
    there = {name: tuple(tensor.shape) for name, tensor in state["tensors"].items()}
    if shapes != there:
        odd = sorted(name for name in shapes.keys() | there.keys() if shapes.get(name) != there.get(name))
        raise GreenedgeError(
            f"the weights do not fit the network: {', '.join(odd[:5])} differ in name or shape; "
            "train again, the recipe has changed since they were written."
        )
    with torch.no_grad():
        for name, tensor in here.items():
            tensor.copy_(state["tensors"][name])
    for name, part in _collecting_modules(model):
        part.counter = state["counters"].get(name, 0)


def _name_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _collecting_modules(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Brevitas' modules that collect statistics and count the steps; they have no common class."""
    for name, part in model.named_modules():
        if hasattr(part, "counter") and hasattr(part, "collect_stats_steps"):
            yield name, part


def weights_sha256(model: nn.Module) -> str:
    """Hex digest over every parameter and buffer: name, type, shape, bytes, in the order of names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(_name_tensors(model), key=lambda item: item[0]):
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Writes tensors and plain values; a kill while it writes leaves the old file or the new one, never a part."""
    import torch

    with atomic_write(path) as aside:
        torch.save(state, aside)


def load_state(path: Path) -> dict[str, Any] | None:
    """Reads what save_state wrote, executing nothing in it; None where there is no file.

    Raises GreenedgeError for a file that save_state did not write.
    """
    import torch

    if not path.is_file():
        return None
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        if not isinstance(state, dict) or "key" not in state:
            raise ValueError("it does not say what it belongs to")
        return state
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise GreenedgeError(f"{path} is no training state ({reason}); delete it and run the command again.") from None
