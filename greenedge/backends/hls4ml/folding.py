"""How often each multiplier is used (the reuse factor) and how each layer is built (the strategy).

A reuse factor R of a layer with n_in inputs and n_out outputs means n_in*n_out/R multipliers and R cycles a vector.
hls4ml's resource strategy takes those R for which the multipliers fill whole rows or columns (`valid`, its own rule);
the latency strategy is unrolled and takes R = 1. Cycles of an inference: vectors * R of the slowest layer, as layers
are pipelined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from greenedge.backends.hls4ml.layers import Layer
from greenedge.backends.hls4ml.toolchains import Toolchain
from greenedge.backends.interface import Options
from greenedge.errors import Reason, ReasonKind, TargetError
from greenedge.target import Target, nearest

STRATEGIES = ("latency", "resource", "distributed_arithmetic")
_DEFAULT_CLOCK_HZ = 200e6
MOST_UNROLLED = 4096  # multipliers of a layer that Vivado and Vitis HLS unroll; hls4ml's documentation, "Strategy"


@dataclass(frozen=True)
class Folding:
    """Reuse factor and strategy of one layer; `cycles` is the estimate for all its vectors."""

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


def fold(layer: Layer, budget: int | None, options: Options) -> Folding:
    """The folding of a layer with weights. `budget`: cycles for an inference, None for as few as can be unrolled."""
    n_in, n_out = layer.weights
    strategy, forced = _layer_option(options, "strategy", layer), _layer_option(options, "reuse", layer)
    choices = [1] if strategy in ("latency", "distributed_arithmetic") else valid_reuse(n_in, n_out)
    if forced is not None:
        reuse = int(_number("reuse", forced))
    elif budget is None:
        reuse = next((r for r in choices if n_in * n_out // r <= MOST_UNROLLED), choices[-1])
    else:
        reuse = max((r for r in choices if r * layer.vectors <= budget), default=choices[0])
    unrolled = reuse == 1 and n_in * n_out <= MOST_UNROLLED
    name = str(strategy) if strategy else "latency" if unrolled else "resource"
    return Folding(reuse, name, reuse * layer.vectors)


def _layer_option(options: Options, key: str, layer: Layer) -> object:
    """build.KEY.EDGE=… for one layer, build.KEY=… for all."""
    return options.get(f"{key}.{layer.edge}", options.get(key))


def _number(name: str, value: object) -> float:
    if not isinstance(value, (int, float, str)):
        raise TargetError(f"build.{name} is {value!r}; it is a number.")
    return float(value)


def cycle_budget(target: Target, options: Options) -> int | None:
    """Cycles for one inference at the clock of the target, None where nothing is asked for."""
    fps = options.get("fps")
    return max(1, int(clock_hz(target, options) // _number("fps", fps))) if fps else None


def clock_hz(target: Target, options: Options) -> float:
    """build.clock_hz, else what the board file says for a core, else its clock."""
    asked = options.get("clock_hz")
    if asked:
        return _number("clock_hz", asked)
    on_board = target.host.get("core_hz") or target.clock_hz
    return _number("clock_hz", on_board) if on_board else _DEFAULT_CLOCK_HZ


def check_foldings(layers: Sequence[Layer], target: Target, chain: Toolchain, options: Options) -> list[Reason]:
    """Why layers with weights cannot be folded as the options say."""
    reasons = _check_names([str(layer.edge) for layer in layers], options)
    for layer in layers:
        reasons += _check_folding(layer, target, chain, options)
    return reasons


def _check_names(names: Sequence[str], options: Options) -> list[Reason]:
    """Reasons for build.reuse.LAYER and build.strategy.LAYER that name no layer of the network."""
    asked = [(key, key.partition(".")[2]) for key in options if "." in key]
    return [
        Reason(
            name,
            ReasonKind.OPTION,
            f"no layer of this name, asked for by build.{key}{nearest(name, names)}",
            f"the layers that are folded are {', '.join(names)}",
            "name one of these",
        )
        for key, name in asked
        if name not in names
    ]


def _check_folding(layer: Layer, target: Target, chain: Toolchain, options: Options) -> list[Reason]:
    budget = cycle_budget(target, options)
    folding = fold(layer, budget, options)
    name, (n_in, n_out) = str(layer.edge), layer.weights
    reasons: list[Reason] = []

    def require(holds: bool, kind: ReasonKind, value: str, rule: str, cure: str) -> None:
        if not holds:
            reasons.append(Reason(name, kind, value, rule, cure))

    require(
        folding.strategy in STRATEGIES,
        ReasonKind.OPTION,
        f"strategy {folding.strategy!r}",
        f"a layer is built by {', '.join(STRATEGIES)}",
        "choose one of these",
    )
    if folding.strategy == "resource":
        known = valid_reuse(n_in, n_out)
        require(
            folding.reuse in known,
            ReasonKind.OPTION,
            f"reuse factor {folding.reuse}",
            f"{n_in} times {n_out} multipliers are reused by {', '.join(map(str, known[:12]))} …",
            "choose one of these",
        )
    require(
        folding.strategy == "resource" or n_in * n_out <= MOST_UNROLLED,
        ReasonKind.TOO_BIG,
        f"{n_in * n_out:,} multipliers to unroll",
        f"HLS compilers unroll at most {MOST_UNROLLED:,}",
        f"use --set build.strategy.{name}=resource, or a lower --fps",
    )
    require(
        folding.strategy != "distributed_arithmetic" or chain.name in ("vitis", "vivado"),
        ReasonKind.OPTION,
        "strategy distributed_arithmetic",
        f"hls4ml has none for {chain.name}",
        "choose toolchain vitis",
    )
    if budget is not None:
        require(
            folding.cycles <= budget,
            ReasonKind.TOO_SLOW,
            f"{folding.cycles:,} cycles with every multiplier at work",
            f"{options['fps']} inferences per second leave {budget:,} at {clock_hz(target, options) / 1e6:g} MHz",
            "ask for fewer inferences per second",
        )
    return reasons
