"""Why a graph cannot be handed to hls4ml exactly: every reason, from the graph, the toolchain and the options alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from greenedge.backends.hls4ml.folding import MOST_UNROLLED, STRATEGIES, fold, valid_reuse
from greenedge.backends.hls4ml.layers import OPERATIONS, Layer, channels_last, common_shift, hand_over, reach
from greenedge.backends.hls4ml.precision import DOUBLE_BITS, clip_type, holds
from greenedge.backends.hls4ml.toolchains import ACCELERATOR_BOARDS, Toolchain
from greenedge.errors import Reason, ReasonKind
from greenedge.graph import Add, Concat, Conv, Dense, Graph, MaxPool, Op, Pad, Requantise, Reshape, SumPool
from greenedge.graph.half_even import half_even
from greenedge.target import Target, nearest

_OTHER = "use layers of these kinds, or choose another back end"


def reasons_against(graph: Graph) -> list[Reason]:
    """Every reason why the graph has no exact hls4ml layers."""
    found = []
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        found.append(
            Reason(
                graph.name,
                ReasonKind.UNSUPPORTED_GRAPH,
                f"{len(graph.inputs)} inputs and {len(graph.outputs)} outputs",
                "a project has one function from one input to one output",
                "cut the model in two",
            )
        )
    for op in graph.ops:
        if not isinstance(op, OPERATIONS):
            names = ", ".join(kind.__name__ for kind in OPERATIONS if kind.__name__ != "Input")
            found.append(
                Reason(
                    op.name, ReasonKind.UNSUPPORTED_OP, f"operation {type(op).__name__}", f"hls4ml gets {names}", _OTHER
                )
            )
        elif type(op) in _CHECKS:
            found += _CHECKS[type(op)](graph, op)
    return found


def reasons_against_build(
    graph: Graph, target: Target, chain: Toolchain, options: Mapping[str, object]
) -> list[Reason]:
    """What the toolchain, the target's clock and the options add to `reasons_against`, which must be empty."""
    found = []
    if chain.name == "libero":
        found.append(
            Reason(
                graph.name,
                ReasonKind.NO_TOOLCHAIN,
                f"toolchain {chain.name}",
                chain.uncompiled or "",
                "choose another toolchain",
            )
        )
    kind = options.get("synthesis", "auto")
    if chain.reports and kind not in ("auto", "no", *chain.reports):
        found.append(
            Reason(
                graph.name,
                ReasonKind.OPTION,
                f"synthesis {kind}",
                f"{chain.name} goes to {' or '.join(chain.reports)}",
                "choose toolchain vivado-accelerator",
            )
        )
    if target.device.family not in chain.families:
        found.append(
            Reason(
                graph.name,
                ReasonKind.UNSUPPORTED_TARGET,
                f"a device of family {target.device.family!r}",
                f"{chain.name} compiles for {', '.join(chain.families)}",
                "choose another target or toolchain",
            )
        )
    if chain.name == "vivado-accelerator" and target.name not in ACCELERATOR_BOARDS:
        found.append(
            Reason(
                graph.name,
                ReasonKind.UNSUPPORTED_TARGET,
                f"{target.name}",
                f"VivadoAccelerator has block designs for {', '.join(ACCELERATOR_BOARDS)}",
                "choose toolchain vitis",
            )
        )
    if options.get("io") == "io_stream":
        found += [
            Reason(
                op.name,
                ReasonKind.UNSUPPORTED_OP,
                f"windows {tuple(op.kernel)} every {tuple(op.strides)}",
                "hls4ml's streamed pools take windows side by side",
                "choose --set build.io=io_parallel",
            )
            for op in graph.ops
            if isinstance(op, MaxPool) and tuple(op.kernel) != tuple(op.strides)
        ]
    edges = [graph.edges[name] for name in (*graph.inputs, *graph.outputs)]
    found += [
        Reason(
            edge.name,
            ReasonKind.TOO_WIDE,
            f"{edge.bits} bits at the interface",
            f"{chain.name} hands over floats of {chain.float_bits} bits",
            "quantise the output, or choose toolchain vitis",
        )
        for edge in edges
        if edge.bits > chain.float_bits
    ]
    layers = [layer for layer in hand_over(graph, chain.depthwise).layers if layer.weights[0]]
    return (
        found
        + _unknown_layers([str(layer.edge) for layer in layers], options)
        + [reason for layer in layers for reason in _folded(layer, target, chain, options)]
    )


def _unknown_layers(names: Sequence[str], options: Mapping[str, object]) -> list[Reason]:
    """build.reuse.LAYER and build.strategy.LAYER for layers that the network has not."""
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


def _folded(layer: Layer, target: Target, chain: Toolchain, options: Mapping[str, object]) -> list[Reason]:
    budget = cycle_budget(target, options)
    folding = fold(layer, budget, options)
    name, (n_in, n_out) = str(layer.edge), layer.weights
    found = []
    if folding.strategy not in STRATEGIES:
        found.append(
            Reason(
                name,
                ReasonKind.OPTION,
                f"strategy {folding.strategy!r}",
                f"a layer is built by {', '.join(STRATEGIES)}",
                "choose one of these",
            )
        )
    if folding.strategy == "resource" and folding.reuse not in valid_reuse(n_in, n_out):
        some = ", ".join(map(str, valid_reuse(n_in, n_out)[:12]))
        found.append(
            Reason(
                name,
                ReasonKind.OPTION,
                f"reuse factor {folding.reuse}",
                f"{n_in} times {n_out} multipliers are reused by {some} …",
                "choose one of these",
            )
        )
    if folding.strategy != "resource" and n_in * n_out > MOST_UNROLLED:
        found.append(
            Reason(
                name,
                ReasonKind.TOO_BIG,
                f"{n_in * n_out:,} multipliers to unroll",
                f"HLS compilers unroll at most {MOST_UNROLLED:,}",
                f"use --set build.strategy.{name}=resource, or a lower --fps",
            )
        )
    if folding.strategy == "distributed_arithmetic" and chain.name not in ("vitis", "vivado"):
        found.append(
            Reason(
                name,
                ReasonKind.OPTION,
                "strategy distributed_arithmetic",
                f"hls4ml has none for {chain.name}",
                "choose toolchain vitis",
            )
        )
    if budget is not None and folding.cycles > budget:
        found.append(
            Reason(
                name,
                ReasonKind.TOO_SLOW,
                f"{folding.cycles:,} cycles with every multiplier at work",
                f"{options['fps']} inferences per second leave {budget:,} at {clock_hz(target, options) / 1e6:g} MHz",
                "ask for fewer inferences per second",
            )
        )
    return found


def cycle_budget(target: Target, options: Mapping[str, object]) -> int | None:
    """Cycles for one inference at the clock of the target, None where nothing is asked for."""
    return max(1, int(clock_hz(target, options) // float(options["fps"]))) if options.get("fps") else None


def clock_hz(target: Target, options: Mapping[str, object]) -> float:
    """build.clock_hz, else what the board file says for a core, else its clock."""
    asked = options.get("clock_hz")
    return float(asked) if asked else float(target.host.get("core_hz") or target.clock_hz or 0) or 200e6


def _window(graph: Graph, op: Conv | SumPool) -> list[Reason]:
    found = _rank(op, len(op.strides))
    if any(op.pads) and op.pad_value:
        found.append(
            Reason(
                op.name,
                ReasonKind.UNSUPPORTED_OP,
                f"padding with {op.pad_value}",
                "hls4ml pads with 0",
                "use a quantiser whose zero point is 0",
            )
        )
    return found


def _rank(op: Op, n: int) -> list[Reason]:
    return (
        []
        if n in (1, 2)
        else [
            Reason(
                op.name,
                ReasonKind.UNSUPPORTED_OP,
                f"a window over {n} axes",
                "hls4ml has one or two",
                "use 1-D or 2-D layers",
            )
        ]
    )


def _max_pool(graph: Graph, op: MaxPool) -> list[Reason]:
    found = _rank(op, len(op.kernel))
    if any(d != 1 for d in op.dilations):
        found.append(
            Reason(
                op.name,
                ReasonKind.UNSUPPORTED_OP,
                f"dilations {tuple(op.dilations)}",
                "hls4ml's pools have none",
                "use dilation 1",
            )
        )
    if any(op.pads) and graph.edges[op.inputs[0]].lo < 0:
        found.append(
            Reason(
                op.name,
                ReasonKind.UNSUPPORTED_OP,
                "padding of levels below 0",
                "hls4ml pads with 0, which would win",
                "put the pool after a ReLU",
            )
        )
    return found


def _dense(graph: Graph, op: Dense) -> list[Reason]:
    shape = graph.edges[op.inputs[0]].shape
    return (
        []
        if len(shape) == 1
        else [
            Reason(
                op.name,
                ReasonKind.UNSUPPORTED_OP,
                f"a dense layer over {shape}",
                "hls4ml gets dense layers over vectors",
                "flatten it, or write it as a convolution of width 1",
            )
        ]
    )


def _pad(graph: Graph, op: Pad) -> list[Reason]:
    n = len(op.pads) // 2
    if op.value == 0 and n in (2, 3) and op.pads[0] == op.pads[n] == 0:
        return []
    return [
        Reason(
            op.name,
            ReasonKind.UNSUPPORTED_OP,
            f"padding {tuple(op.pads)} with {op.value}",
            "hls4ml pads height and width with 0",
            _OTHER,
        )
    ]


def _reshape(graph: Graph, op: Reshape) -> list[Reason]:
    before, after = graph.edges[op.inputs[0]].shape, op.shape
    if len(after) == 1 or np.array_equal(channels_last(before), channels_last(after)):
        return []
    return [
        Reason(
            op.name,
            ReasonKind.UNSUPPORTED_OP,
            f"a reshape from {before} to {after}",
            "hls4ml has the channels last, so values would have to move",
            "flatten, or keep the channels apart",
        )
    ]


def _concat(graph: Graph, op: Concat) -> list[Reason]:
    found = []
    if len(op.inputs) != 2 or len(set(op.inputs)) != 2:
        found.append(
            Reason(
                op.name,
                ReasonKind.UNSUPPORTED_OP,
                f"{len(op.inputs)} inputs joined",
                "hls4ml joins two different tensors",
                "join two by two",
            )
        )
    if op.axis != 0:
        found.append(
            Reason(
                op.name,
                ReasonKind.UNSUPPORTED_OP,
                f"a concatenation along axis {op.axis}",
                "channels are joined",
                "concatenate channels",
            )
        )
    return found


def _add(graph: Graph, op: Add) -> list[Reason]:
    return (
        []
        if all(op.multipliers)
        else [
            Reason(
                op.name,
                ReasonKind.UNSUPPORTED_OP,
                f"branches weighted {tuple(op.multipliers)}",
                "a branch counts",
                "remove the branch",
            )
        ]
    )


def _requantise(graph: Graph, op: Requantise) -> list[Reason]:
    if op.affine is None and (half_even(op) is None or clip_type(op.lo, op.hi, *reach(op)) is None):
        return [
            Reason(
                op.name,
                ReasonKind.NO_AFFINE_FORM,
                "a step function that is no multiply, add and shift",
                "a batch normalisation computes clip((m*x + b) >> s)",
                "use batch norm and ReLU before the quantiser",
            )
        ]
    found = []
    if len(op.x_lo) > 1 and op.axis != 0:
        found.append(
            Reason(
                op.name,
                ReasonKind.UNSUPPORTED_OP,
                f"channels along axis {op.axis}",
                "hls4ml has one function per channel",
                "quantise per channel or per tensor",
            )
        )
    m, b, _ = common_shift(op)
    if not holds(m) or not holds(b):
        found.append(
            Reason(
                op.name,
                ReasonKind.TOO_WIDE,
                "a multiplier or offset of more than 53 bits",
                f"hls4ml holds weights in doubles of {DOUBLE_BITS} bits",
                "use `greenedge snap` to narrow it",
            )
        )
    return found


_CHECKS = {
    Conv: _window,
    SumPool: _window,
    MaxPool: _max_pool,
    Dense: _dense,
    Pad: _pad,
    Reshape: _reshape,
    Concat: _concat,
    Add: _add,
    Requantise: _requantise,
}
