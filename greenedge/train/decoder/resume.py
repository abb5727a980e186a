"""A training that was cut off goes on: its state in one file; the texts of a step depend on seed and step alone."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from greenedge.errors import GreenedgeError
from greenedge.train.checkpoint import load_state, save_state

_SAVE_S = 30.0


class Stateful(Protocol):
    """A module or an optimiser of torch."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> object: ...


class Checkpoint:
    """The state of a training of `steps` steps in the file `path`, or nowhere; `key` says what it belongs to."""

    def __init__(self, path: Path | None, key: str, steps: int, parts: Mapping[str, Stateful]) -> None:
        self.path, self.key, self.steps, self.parts = path, key, steps, parts
        self._saved = time.monotonic()

    def resume(self) -> int:
        """Loads the state where there is one; how many steps it has seen. Raises GreenedgeError for one of another
        training."""
        state: dict[str, Any] | None = None if self.path is None else load_state(self.path)
        if state is None:
            return 0
        if state["key"] != self.key:
            raise GreenedgeError(
                f"{self.path} belongs to a training with other settings, texts or weights; delete it, or give the same "
                "ones."
            )
        try:
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
            return int(state["step"])
        except (KeyError, RuntimeError, ValueError, TypeError, AttributeError):
            raise GreenedgeError(
                f"{self.path} is a damaged training state; delete it and run the command again."
            ) from None

    def keep(self, step: int) -> None:
        """Writes the state behind `step` steps, every 30 s and at the end."""
        if self.path is None or (step < self.steps and time.monotonic() - self._saved < _SAVE_S):
            return
        parts = {name: part.state_dict() for name, part in self.parts.items()}
        save_state(self.path, {"key": self.key, "step": step, "steps": self.steps, **parts})
        self._saved = time.monotonic()


def read_steps(checkpoint: Path) -> int | None:
    """How many steps the training of a checkpoint was to take; None where there is none. Raises GreenedgeError for a
    file that is no checkpoint."""
    state = load_state(checkpoint)
    if state is not None and not isinstance(state.get("steps"), int):
        raise GreenedgeError(f"{checkpoint} is a damaged training state; delete it and run the command again.")
    return None if state is None else int(state["steps"])


def pick_texts(count: int, batch: int, seed: int, step: int) -> Tensor:
    """(batch,): numbers below `count` of the texts of a step."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    return torch.randint(count, (batch,), generator=generator)
