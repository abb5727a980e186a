"""One sum with the quantiser behind it, as a runtime computes it: factor, weight scales, bias, and what was proved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from greenedge.backends.int8.arithmetic import (
    ADD_RATIOS,
    EXACT_FLOAT,
    INT8_MAX,
    INT8_MIN,
    MEAN_RATIOS,
    Emulation,
    Float32s,
    mean_emulations,
)
from greenedge.backends.int8.certificate import Problem, Solution, Verdict, judge
from greenedge.backends.int8.quant_params import Encoding, lift_levels
from greenedge.backends.int8.search import solve, solve_output_scale
from greenedge.graph import Edge, Requantise
from greenedge.graph.lines import multiple_step
from greenedge.graph.ops.base import Ints

WIDEST_INPUT = 255  # of |stored - zero point|
INT32 = 1 << 31


@dataclass(frozen=True, eq=False)
class Layer:
    """One operator and the proof of its requantisation. `accumulators` (C,): reachable values of each channel."""

    name: str
    edge: str
    operator: str
    solution: Solution
    accumulators: Ints


@dataclass(frozen=True, eq=False)
class FittedLayer:
    """What is stored for an operator: 8-bit weights (C, fan-in), int32-sized bias and float32 weight scale per
    channel.

    It takes its input `lift` times as large as the graph has it, stored as `source`.
    """

    weight: Ints
    bias: Ints
    scale: Float32s
    layer: Layer
    lift: int
    source: Encoding


def fit_layer(
    operator: str,
    name: str,
    step: Requantise,
    weight: Ints,
    source: Encoding,
    code: Encoding,
    largest: int = INT8_MAX,
    all_sets: bool = False,
    liftable: bool = True,
    first_set_alone: bool = False,
) -> FittedLayer:
    """Chooses factor, scale and bias of every channel of `operator`, whose weights are (C, fan-in).

    `source` and `code` say how its input and output are stored; no stored weight gets above `largest`. A bias is a
    whole number of accumulators, and the coarser these are, the fewer lines it can hold. Where that leaves a channel
    wrong on the first kernel set (on any, with `all_sets`), the input is taken multiplied, as far as int8 has room
    for its few levels: accumulators are then finer. Where the tensor holds other values than its levels, it is not
    `liftable`. With `first_set_alone` no other kernel set is looked at, which takes half the time.
    """
    plain = fit_at_lift(operator, name, step, weight, source, code, largest, 1, first_set_alone)
    lift, wider = lift_levels(source)
    if not liftable or lift == 1 or not count_wrong(plain, all_sets):
        return plain
    finer = fit_at_lift(operator, name, step, weight, wider, code, largest, lift, first_set_alone)
    return finer if count_wrong(finer, all_sets) < count_wrong(plain, all_sets) else plain


def count_wrong(fitted: FittedLayer, all_sets: bool) -> int:
    """Accumulators of the kernel sets that count at which another level comes out."""
    verdicts = list(fitted.layer.solution.verdicts.values())
    return sum(int(verdict.differing.sum()) for verdict in verdicts[: None if all_sets else 1])


def fit_at_lift(
    operator: str,
    name: str,
    step: Requantise,
    weight: Ints,
    source: Encoding,
    code: Encoding,
    largest: int,
    lift: int,
    first_set_alone: bool = False,
) -> FittedLayer:
    """As `fit_layer`, for an input that is `lift` times the graph's; `source` is the encoding of those multiples."""
    channels = len(weight)
    weight = weight * np.broadcast_to(step.require_steps().sign, (channels,))[:, None]
    widest = int(np.abs(weight).max(initial=0))  # uint8 with a zero point holds weights beyond int8
    problem = _problem(operator, step, weight, source, code, largest, lift)
    if first_set_alone:
        problem = replace(problem, own={problem.kernels[0]: problem.emulations[problem.kernels[0]]})
    solution = solve(problem)
    weight = weight * (solution.factor // lift)[:, None]
    assert np.abs(weight).max(initial=0) <= max(INT8_MAX + 1, widest), "a factor leaves int8"
    # The runtime sums w*(stored - zero point) = w*(level - zero level): the bias gives back what the zero level takes.
    bias = solution.constant + weight.sum(axis=1) * source.zero_level
    layer = Layer(name, step.output, operator, solution, problem.x_hi - problem.x_lo + 1)
    return FittedLayer(weight, bias, solution.weight_scale, layer, lift, source)


def _problem(
    operator: str, step: Requantise, weight: Ints, source: Encoding, code: Encoding, largest: int, lift: int
) -> Problem:
    """`weight` is (C, fan-in), its sign changed where the step function falls."""
    channels = len(weight)
    x_lo, x_hi = (np.broadcast_to(end, (channels,)) for end in step.reach)
    own = step.require_steps().thresholds
    thresholds = np.broadcast_to(own, (channels, own.shape[1]))
    varies = ((thresholds > x_lo[:, None]) & (thresholds <= x_hi[:, None])).any(axis=1)
    # The accumulator is turned into float32: where that does not hold it, a larger factor gains nothing.
    furthest = np.maximum(np.maximum(np.abs(x_lo), np.abs(x_hi)), 1)
    room = np.minimum(EXACT_FLOAT // (lift * furthest), INT32 // 2 // (WIDEST_INPUT * np.abs(weight).sum(axis=1) + 1))
    factor = np.maximum(1, np.minimum(largest // np.maximum(np.abs(weight).max(axis=1, initial=1), 1), room))
    return Problem(
        operator,
        thresholds,
        x_lo,
        x_hi,
        np.where(varies, lift * factor, 0),
        step.lo,
        code.zero_level,
        code.zero_point,
        code.bounds,
        source.scale,
        code.scale,
        lift,
    )


def prove_multiple(name: str, edge: Edge, source: Encoding, lift: int, code: Encoding) -> Layer | None:
    """The runtime's QUANTIZE from `source` to `code`, which holds `lift` times the levels of `edge`, with its proof;
    None where it would not be exact on every kernel set."""
    step = multiple_step(edge, name, lift)
    problem = Problem(
        "QUANTIZE",
        step.require_steps().thresholds,
        *step.reach,
        np.ones(1, np.int64),
        step.lo,
        code.zero_level,
        code.zero_point,
        (INT8_MIN, INT8_MAX),
        source.scale,
        code.scale,
    )
    one, constant = np.ones(1, np.float32), np.array([-source.zero_level])
    solution = Solution(problem.factor, one, constant, judge(problem, one, constant))
    if any(verdict.differing.any() for verdict in solution.verdicts.values()):
        return None
    return Layer(name, name, "QUANTIZE", solution, problem.x_hi - problem.x_lo + 1)


def exact_layer(name: str, edge: Edge, operator: str, channels: int, kernels: Sequence[str]) -> Layer:
    """The record of sums that are stored as they are: nothing is rounded on any of these kernel sets."""
    ones, none = np.ones(channels, np.int64), np.zeros(channels, np.int64)
    verdicts = {name: Verdict(none, none) for name in kernels}
    solution = Solution(ones, np.ones(channels, np.float32), none, verdicts)
    return Layer(name, edge.name, operator, solution, np.full(channels, edge.levels))


def fit_addition(name: str, step: Requantise, source: Encoding, code: Encoding) -> tuple[Encoding, Layer] | None:
    """Two inputs, both stored as `source`, through the runtime's own addition: the encoding of its output and the
    proof; None where it would not be exact on every kernel set."""
    zero = 2 * source.zero_level
    return _fit_output_scale("ADD", name, step, source, code, zero, -zero, 1, ADD_RATIOS, code.bounds, all_sets=True)


def fit_mean(
    name: str, step: Requantise, source: Encoding, code: Encoding, count: int, all_sets: bool
) -> tuple[Encoding, Layer] | None:
    """The mean of `count` values by the runtime's own operator, as `fit_addition`, but exact on the first kernel set
    is enough unless `all_sets`: the alternative, a kernel full of ones, takes a quarter of a small network's bytes
    and time. It has no clamp but int8's own."""
    return _fit_output_scale(
        "MEAN",
        name,
        step,
        source,
        code,
        count * source.zero_level,
        count * source.offset,
        count,
        MEAN_RATIOS,
        (INT8_MIN, INT8_MAX),
        all_sets,
        mean_emulations(count, source.zero_point, code.zero_point),
    )


def _fit_output_scale(
    operator: str,
    name: str,
    step: Requantise,
    source: Encoding,
    code: Encoding,
    zero: int,
    constant: int,
    divisor: int,
    ratios: tuple[float, float],
    bounds: tuple[int, int],
    all_sets: bool,
    own: Mapping[str, Emulation] | None = None,
) -> tuple[Encoding, Layer] | None:
    """Only the scale of the output is free; a clamp that depends on that scale leaves no freedom."""
    steps, (low, high) = step.require_steps(), step.reach
    if code.activation not in ("NONE", "RELU") or step.channels > 1 or not steps.rises:
        return None
    problem = Problem(
        operator,
        steps.thresholds,
        low,
        high,
        np.ones(1, np.int64),
        step.lo,
        code.zero_level,
        code.zero_point,
        bounds,
        source.scale,
        code.scale,
        own=own,
    )
    found = solve_output_scale(problem, zero, constant, divisor, ratios, all_sets)
    if found is None:
        return None
    scale, solution = found
    return replace(code, scale=scale), Layer(name, step.output, operator, solution, high - low + 1)
