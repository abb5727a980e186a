"""Models with several inputs, each beside the integers that NumPy computes for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.lower.models import Model

STEP = 0.25  # of the 4-bit quantiser of every input


@dataclass(frozen=True)
class Case:
    """A model, and the floats of its outputs for samples by input (float64: every number here is exact in it)."""

    model: Callable[[], Model]
    expect: Callable[..., list[np.ndarray]]


def draw(model: Model, rng: np.random.Generator, count: int = 40) -> dict[str, np.ndarray]:
    """float32 samples of every input, beyond both ends of its quantiser."""
    return {name: rng.uniform(-3, 3, (count, *s[1:])).astype(np.float32) for name, s in model.inputs.items()}


def quantise(x: np.ndarray, scale: float, bits: int) -> np.ndarray:
    """The real values of the levels: half to even, clipped to signed `bits`."""
    return np.clip(np.rint(np.asarray(x, np.float64) / scale), -(1 << (bits - 1)), (1 << (bits - 1)) - 1) * scale


def weights(fan_in: int, fan_out: int) -> np.ndarray:
    """Those of Model.dense."""
    return (np.arange(fan_in * fan_out).reshape(fan_in, fan_out) % 5 - 2).astype(np.float64)


def _start(**shapes: int) -> tuple[Model, list[str]]:
    """A model with inputs (1, size) by name, each quantised; the second input's quantiser is the first node."""
    m = Model()
    m.inputs = {name: (1, size) for name, size in shapes.items()}
    made = {name: m.quant(STEP, source=name).tensor for name in reversed(shapes)}
    return m, [made[name] for name in shapes]


def add() -> Model:
    """quantise(a) + quantise(b) → quantiser → dense → quantiser."""
    m, (a, b) = _start(a=4, b=4)
    return m.node("Add", b, source=a).quant(0.5).dense().quant(0.5, 8)


def alike() -> Model:
    """Inputs of one shape side by side → dense → quantiser: which is which matters."""
    m, (a, b) = _start(a=4, b=4)
    return m.node("Concat", b, source=a, axis=1).dense(8).quant(0.5, 8)


def concat() -> Model:
    """Inputs of different shapes side by side → dense → quantiser."""
    m, (a, b) = _start(a=4, b=6)
    return m.node("Concat", b, source=a, axis=1).dense(10).quant(0.5, 8)


def twice() -> Model:
    """`a` into the first layer and, beside its result, into the second."""
    m, (a, b) = _start(a=4, b=4)
    m.node("Add", b, source=a).quant(0.5).dense(4, 4).quant(STEP)
    return m.node("Add", a).quant(0.5).dense().quant(0.5, 8)


def two_outputs() -> Model:
    """The sum of two inputs through one layer, and the first input through another."""
    m, (a, b) = _start(a=4, b=4)
    m.node("Add", b, source=a).quant(0.5).dense().quant(0.5, 8)
    first, m.tensor = m.tensor, a
    m.dense(4, 2).quant(0.5, 8)
    m.outputs = [first, m.tensor]
    return m


def _layer(x: np.ndarray, fan_out: int = 3) -> np.ndarray:
    return quantise(x @ weights(x.shape[1], fan_out), 0.5, 8)


def _expect_twice(a: np.ndarray, b: np.ndarray) -> list[np.ndarray]:
    a, b = quantise(a, STEP, 4), quantise(b, STEP, 4)
    hidden = quantise(quantise(a + b, 0.5, 4) @ weights(4, 4), STEP, 4)
    return [_layer(quantise(hidden + a, 0.5, 4))]


def _expect_add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return quantise(quantise(a, STEP, 4) + quantise(b, STEP, 4), 0.5, 4)


def _expect_concat(a: np.ndarray, b: np.ndarray) -> list[np.ndarray]:
    return [_layer(np.concatenate([quantise(a, STEP, 4), quantise(b, STEP, 4)], axis=1))]


CASES = {
    "add": Case(add, lambda a, b: [_layer(_expect_add(a, b))]),
    "alike": Case(alike, _expect_concat),
    "concat": Case(concat, _expect_concat),
    "twice": Case(twice, _expect_twice),
    "two outputs": Case(two_outputs, lambda a, b: [_layer(_expect_add(a, b)), _layer(quantise(a, STEP, 4), 2)]),
}
