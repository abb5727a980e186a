"""How often each multiplier is used (the reuse factor) and how each layer is built (the strategy).

A reuse factor R of a layer with n_in inputs and n_out outputs means n_in*n_out/R multipliers and R cycles a vector.
hls4ml's resource strategy takes those R for which the multipliers fill whole rows or columns (`valid`, its own rule);
the latency strategy is unrolled and takes R = 1. Cycles of an inference: vectors * R of the slowest layer, as layers
are pipelined.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from greenedge.backends.hls4ml.layers import Layer

STRATEGIES = ("latency", "resource", "distributed_arithmetic")
MOST_UNROLLED = 4096  # multipliers of a layer that Vivado and Vitis HLS unroll; hls4ml's documentation, "Strategy"


@dataclass(frozen=True)
class Folding:
    """Of one layer: `cycles` for all its vectors, estimated."""

    reuse: int
    strategy: str
    cycles: int


def valid_reuse(n_in: int, n_out: int) -> list[int]:
    """The reuse factors of the resource strategy (hls4ml's FPGABackend.get_valid_reuse_factors), ascending."""

    def valid(reuse: int) -> bool:
        multipliers = -(-n_in * n_out // min(n_in, reuse))
        whole = multipliers % n_out == 0 if reuse < n_in else reuse % n_in == 0
        return (n_in * n_out) % reuse == 0 and whole

    return [reuse for reuse in range(1, n_in * n_out + 1) if valid(reuse)]


def fold(layer: Layer, budget: int | None, options: Mapping[str, object]) -> Folding:
    """The folding of a layer with weights. `budget`: cycles for an inference, None for as few as can be unrolled."""
    n_in, n_out = layer.weights
    asked = _asked(options, "strategy", layer)
    forced = _asked(options, "reuse", layer)
    choices = [1] if asked in ("latency", "distributed_arithmetic") else valid_reuse(n_in, n_out)
    if forced is not None:
        reuse = int(forced)
    elif budget is None:
        reuse = next((r for r in choices if n_in * n_out // r <= MOST_UNROLLED), choices[-1])
    else:
        reuse = max((r for r in choices if r * layer.vectors <= budget), default=choices[0])
    strategy = str(asked) if asked else "latency" if reuse == 1 and n_in * n_out <= MOST_UNROLLED else "resource"
    return Folding(reuse, strategy, reuse * layer.vectors)


def _asked(options: Mapping[str, object], key: str, layer: Layer) -> object:
    """build.KEY.EDGE=… for one layer, build.KEY=… for all."""
    return options.get(f"{key}.{layer.edge}", options.get(key))
