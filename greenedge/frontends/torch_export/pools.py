"""Pools, means and other reductions over a sample's own axes."""

from __future__ import annotations

import numpy as np

from greenedge.frontends.torch_export.network import Call, Rule


def _read_window(call: Call) -> tuple[dict[str, object], int]:
    """Attributes of a pool, and over how many axes it goes."""
    shape = call.shape("self")
    axes = 1 if call.node.operator.rstrip("_").removesuffix("_with_indices").endswith("1d") else 2
    if len(shape) != axes + 2:
        raise call.refuse(f"an input of shape {shape}", "the first axis is the batch, the second the channels")
    kernel = call.integers("kernel_size", None, axes)
    strides = call.integers("stride", kernel, axes) if call.value("stride") else kernel
    pads = call.integers("padding", [0], axes)
    return {"kernel_shape": kernel, "strides": strides, "pads": pads * 2}, axes


def _rounds_up(call: Call, window: dict[str, object], dilations: list[int]) -> bool:
    """Whether sizes are rounded up, where that makes one larger."""
    if not call.flag("ceil_mode", False):
        return False
    kernel, strides, pads = (np.array(window[name]) for name in ("kernel_shape", "strides", "pads"))
    axes = len(kernel)
    sizes = np.array(call.shape("self")[2:]) + pads[:axes] * 2 - np.array(dilations) * (kernel - 1) - 1
    return tuple(sizes // strides + 1) != call.net.shape(call.out)[2:]


def pool_maximum(call: Call) -> None:
    window, axes = _read_window(call)
    dilations = call.integers("dilation", [1], axes)
    ceil = int(_rounds_up(call, window, dilations))
    call.emit("MaxPool", [call.tensor("self")], **window, dilations=dilations, ceil_mode=ceil)


def pool_average(call: Call) -> None:
    window, axes = _read_window(call)
    if call.has("divisor_override"):
        raise call.refuse("a divisor of its own", "a mean divides by its elements", "leave divisor_override out")
    if _rounds_up(call, window, [1] * axes):
        raise call.refuse("ceil_mode", "windows at the end have fewer elements", "leave ceil_mode out")
    call.emit(
        "AveragePool", [call.tensor("self")], **window, count_include_pad=int(call.flag("count_include_pad", True))
    )


def _adapt(op: str) -> Rule:
    """A pool to a given size, whose windows are all of one size where that divides the input's."""

    def rule(call: Call) -> None:
        sizes = call.shape("self")[2:]
        wanted = call.integers("output_size", None, len(sizes))
        if not sizes or any(out < 1 or size % out for size, out in zip(sizes, wanted, strict=True)):
            raise call.refuse(
                f"from {sizes} to {tuple(wanted)}", "windows are all of one size", "pool to a size that divides it"
            )
        kernel = [size // out for size, out in zip(sizes, wanted, strict=True)]
        if all(out == 1 for out in wanted):
            call.emit(f"Global{op}", [call.tensor("self")])
        else:
            call.emit(op, [call.tensor("self")], kernel_shape=kernel, strides=kernel)

    return rule


def _reduce(op: str) -> Rule:
    """A reduction over axes; all of a sample's where none is given is refused, since the batch is one of them."""

    def rule(call: Call) -> None:
        rank = len(call.shape("self"))
        axes = [call.axis(axis, rank) for axis in call.integers("dim", list(range(rank)))]
        keeps = call.flag("keepdim", False)
        axes = sorted(axes or [call.axis(0, rank)])
        if op == "ReduceMean" and rank == 4 and axes == [2, 3]:  # a pool, which every back end knows
            pooled = call.step("GlobalAveragePool", [call.tensor("self")])
            call.net.bind(call.out, pooled if keeps else call.reshape(pooled, call.shape("self")[:2]))
            return
        call.emit(op, [call.tensor("self"), call.constant(axes, "axes", np.int64)], keepdims=int(keeps))

    return rule


def find_largest(call: Call) -> None:
    """argmax; of several equal ones the first, as torch gives it on the CPU."""
    shape = call.shape("self")
    axis = call.axis(call.integer("dim"), len(shape))
    call.emit("ArgMax", [call.tensor("self")], axis=axis, keepdims=int(call.flag("keepdim", False)))


RULES: dict[str, Rule] = {
    "aten.max_pool1d": pool_maximum,
    "aten.max_pool2d": pool_maximum,
    "aten.max_pool2d_with_indices": pool_maximum,
    "aten.avg_pool1d": pool_average,
    "aten.avg_pool2d": pool_average,
    "aten.adaptive_avg_pool1d": _adapt("AveragePool"),
    "aten.adaptive_avg_pool2d": _adapt("AveragePool"),
    "aten._adaptive_avg_pool2d": _adapt("AveragePool"),
    "aten.adaptive_max_pool1d": _adapt("MaxPool"),
    "aten.adaptive_max_pool2d": _adapt("MaxPool"),
    "aten.mean": _reduce("ReduceMean"),
    "aten.sum": _reduce("ReduceSum"),
    "aten.amax": _reduce("ReduceMax"),
    "aten.amin": _reduce("ReduceMin"),
    "aten.argmax": find_largest,
}
