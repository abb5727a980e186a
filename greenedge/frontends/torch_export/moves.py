"""What moves, cuts and joins elements, or does nothing in a network that is no longer trained."""

from __future__ import annotations

import operator
from collections.abc import Callable

import numpy as np

from greenedge.frontends.torch_export.archive import STORED
from greenedge.frontends.torch_export.network import Call, Rule
from greenedge.frontends.torch_export.program import Kind

_NOTHING = ("dropout", "feature_dropout")
VIEWS = {  # whose result may be the memory of what they read
    *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "t"),
    *(
        "slice",
        "select",
        "split",
        "split_with_sizes",
        "chunk",
        "expand",
        "alias",
        "detach",
        "detach_",
        "contiguous",
        "to",
    ),
    *("dropout", "feature_dropout"),
}


def pass_on(call: Call) -> None:
    """What gives its input, as memory is no matter here."""
    if (array := call.net.array(call.name(_data(call)))) is not None:
        call.fold(array)
    else:
        call.net.bind(call.out, call.tensor(_data(call)))


def drop_nothing(call: Call) -> None:
    """Dropout in eval mode."""
    if call.flag("train", True):
        raise call.refuse(
            "it drops elements at random", "a network computes one function", "export it after model.eval()"
        )
    pass_on(call)


def convert(call: Call) -> None:
    """to and _to_copy, of a constant, or from float32 to itself."""
    kind = call.value("dtype")
    source = call.net.program.kinds.get(call.name("self"))
    array = call.net.array(call.name("self"))
    if array is not None and isinstance(kind, Kind) and kind.name in STORED and kind.name != "BFLOAT16":
        call.fold(array.astype(STORED[kind.name]))
        return
    if kind is not None and not (isinstance(kind, Kind) and kind.name == source):
        to = kind.name if isinstance(kind, Kind) else str(kind)[:40]
        raise call.refuse(f"from {source} to {to}", "a network computes in float32", "export the module in float32")
    pass_on(call)


def _data(call: Call) -> str:
    return "self" if call.has("self") else "input"


def view(call: Call) -> None:
    """view and reshape to a size, of which one may be -1."""
    call.net.bind(call.out, call.reshape(call.tensor("self"), call.integers("size" if call.has("size") else "shape")))


def flatten(call: Call) -> None:
    """Axes start_dim … end_dim as one."""
    shape = call.shape("self")
    start, end = (call.integer(name, default) for name, default in (("start_dim", 0), ("end_dim", -1)))
    start, end = (axis if axis == 0 else call.axis(axis, len(shape)) for axis in (start, end))
    if start > end or (start == 0 and end > 0):
        raise call.refuse(f"axes {start} to {end}", "the batch stays an axis of its own", "flatten from axis 1")
    merged = [*shape[:start], int(np.prod(shape[start : end + 1])), *shape[end + 1 :]]
    call.net.bind(call.out, call.reshape(call.tensor("self"), merged))


def unflatten(call: Call) -> None:
    shape = call.shape("self")
    axis = call.axis(call.integer("dim"), len(shape))
    parts = [*shape[:axis], *call.integers("sizes"), *shape[axis + 1 :]]
    call.net.bind(call.out, call.reshape(call.tensor("self"), parts))


def squeeze(call: Call) -> None:
    shape = call.shape("self")
    axes = [call.axis(axis, len(shape)) for axis in call.integers("dim", list(range(-len(shape) + 1, 0)))]
    kept = [size for axis, size in enumerate(shape) if axis not in axes or size != 1]
    call.net.bind(call.out, call.reshape(call.tensor("self"), kept))


def unsqueeze(call: Call) -> None:
    shape = list(call.shape("self"))
    shape.insert(call.axis(call.integer("dim"), len(shape) + 1), 1)
    call.net.bind(call.out, call.reshape(call.tensor("self"), shape))


def permute(call: Call) -> None:
    rank = len(call.shape("self"))
    _turn(call, [axis % rank for axis in call.integers("dims", None, rank)])


def _turn(call: Call, order: list[int]) -> None:
    """Writes the axes in this order; the batch of what follows from the samples stays the first."""
    if order[:1] != [0] and call.name("self") in call.net.live:
        raise call.refuse("it moves the first axis", "every sample must be computed by itself")
    call.emit("Transpose", [call.tensor("self")], perm=order)


def swap(call: Call) -> None:
    """transpose(dim0, dim1); t has none and swaps the two axes of a matrix."""
    rank = len(call.shape("self"))
    order = list(range(rank))
    first, second = call.integer("dim0", 0), call.integer("dim1", 1)
    if not (-rank <= first < rank and -rank <= second < rank):
        raise call.refuse(f"axes {first} and {second} of {rank}", "an axis is one of the tensor's")
    order[first], order[second] = order[second], order[first]
    _turn(call, order)


def concatenate(call: Call) -> None:
    names = call.tensors("tensors")
    rank = len(call.net.shape(names[0])) if names else 0
    call.emit("Concat", [call.net.tensor(name) for name in names], axis=call.axis(call.integer("dim", 0), rank))


def split(call: Call) -> None:
    """chunk, split and split_with_sizes: the sizes are those of the results."""
    shape = call.shape("self")
    axis = call.axis(call.integer("dim", 0), len(shape))
    for name in ("chunks", "split_size", "split_sizes"):
        call.value(name)
    sizes = [call.net.shape(name)[axis] for name in call.node.outputs]
    if len(sizes) == 1:
        pass_on(call)
        return
    inputs = [call.tensor("self"), call.constant(sizes, "sizes", np.int64)]
    for name, here in zip(
        call.node.outputs, call.net.add_node("Split", inputs, call.label, len(sizes), axis=axis), strict=True
    ):
        call.net.bind(name, here)


def cut(call: Call) -> None:
    """slice: elements start … end of an axis, step by step."""
    shape = call.shape("self")
    axis = call.integer("dim", 0)
    size = shape[axis] if -len(shape) <= axis < len(shape) else 0
    ends = (
        call.integer(name, default) if call.has(name) else default for name, default in (("start", 0), ("end", size))
    )
    start, end = (min(max(one + size if one < 0 else one, 0), size) for one in ends)
    step = call.integer("step", 1)
    if (start, step) == (0, 1) and end == size:
        pass_on(call)
        return
    bounds = [call.constant([one], what, np.int64) for one, what in ((start, "start"), (end, "end"))]
    places = [call.constant([call.axis(axis, len(shape))], "axis", np.int64), call.constant([step], "step", np.int64)]
    call.emit("Slice", [call.tensor("self"), *bounds, *places])


def select(call: Call) -> None:
    """One index of an axis, which goes."""
    shape = call.shape("self")
    axis = call.axis(call.integer("dim"), len(shape))
    index = call.constant(call.integer("index"), "index", np.int64)
    call.emit("Gather", [call.tensor("self"), index], axis=axis)


def expand(call: Call) -> None:
    """expand to the shape that it has."""
    call.value("size")
    if call.net.shape(call.out) != call.shape("self"):
        raise call.refuse("it repeats elements", "a tensor keeps its size", "let the arithmetic broadcast")
    pass_on(call)


def pad(call: Call) -> None:
    """Pads with a constant; torch lists them from the last axis on, start and end."""
    rank, pads = len(call.shape("self")), call.integers("pad")
    mode = call.value("mode", "constant")
    if mode != "constant" or min(pads, default=0) < 0 or len(pads) % 2 or len(pads) > 2 * (rank - 1):
        raise call.refuse(f"mode {mode} with pads {pads}", "pads are constant, 0 or more, and none of the batch")
    axes = len(pads) // 2
    starts, ends = ([0] * (rank - axes) + [pads[2 * k + side] for k in reversed(range(axes))] for side in range(2))
    value = call.constant(call.number("value", 0) if call.has("value") else 0, "value")
    call.emit("Pad", [call.tensor("self"), call.constant(starts + ends, "pads", np.int64), value])


def enlarge(call: Call) -> None:
    """upsample_nearest by whole factors."""
    shape = call.shape(_data(call))
    for name in ("output_size", "scale_factors", "scales", "scales_h", "scales_w"):
        call.value(name)
    wanted = call.net.shape(call.out)
    if len(shape) != len(wanted) or shape[:2] != wanted[:2] or any(b % a for a, b in zip(shape, wanted, strict=True)):
        raise call.refuse(f"from {shape} to {wanted}", "sizes grow by whole factors", "use scale_factor=2")
    factors = [b // a for a, b in zip(shape, wanted, strict=True)]
    call.emit(
        "Resize",
        [call.tensor(_data(call)), "", call.constant(factors, "factors")],
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


def shuffle_pixels(call: Call) -> None:
    call.emit("DepthToSpace", [call.tensor("self")], blocksize=call.integer("upscale_factor"), mode="CRD")


def measure(call: Call) -> None:
    """sym_size: a size, of one sample where it is the batch."""
    shape = call.shape("self")
    axis = call.integer("dim")
    if not -len(shape) <= axis < len(shape):
        raise call.refuse(f"axis {axis} of {len(shape)}", "an axis is one of the tensor's")
    call.net.scalars[call.out] = shape[axis]


def compute_size(combine: Callable[[int, int], int]) -> Rule:
    """Arithmetic on sizes."""

    def rule(call: Call) -> None:
        if len(call.node.arguments) != 2:
            raise call.refuse(f"{len(call.node.arguments)} arguments", "it takes two whole numbers")
        first, second = (call.integer(name) for name in call.node.arguments)
        call.net.scalars[call.out] = combine(first, second)

    return rule


def claim(call: Call) -> None:
    """What torch asserts of a tensor's type, which is fixed here."""
    for name in call.node.arguments:
        call.value(name)


RULES: dict[str, Rule] = {
    **dict.fromkeys(("aten.view", "aten.reshape"), view),
    **dict.fromkeys(("aten.clone", "aten.alias", "aten.detach", "aten.detach_", "aten.lift_fresh_copy"), pass_on),
    "aten.contiguous": pass_on,
    **{f"aten.{name}": drop_nothing for name in _NOTHING},
    "aten.to": convert,
    "aten._to_copy": convert,
    "aten.flatten": flatten,
    "aten.unflatten": unflatten,
    "aten.squeeze": squeeze,
    "aten.unsqueeze": unsqueeze,
    "aten.permute": permute,
    "aten.transpose": swap,
    "aten.t": swap,
    "aten.cat": concatenate,
    "aten.split": split,
    "aten.split_with_sizes": split,
    "aten.chunk": split,
    "aten.slice": cut,
    "aten.select": select,
    "aten.expand": expand,
    "aten.pad": pad,
    "aten.constant_pad_nd": pad,
    "aten.upsample_nearest1d": enlarge,
    "aten.upsample_nearest2d": enlarge,
    "aten.pixel_shuffle": shuffle_pixels,
    "aten.sym_size": measure,
    "_operator.mul": compute_size(operator.mul),
    "_operator.add": compute_size(operator.add),
    "_operator.sub": compute_size(operator.sub),
    "aten._assert_tensor_metadata": claim,
}
