"""Operations that move numbers without changing them: they act on the integers and on per-channel constants alike.

move(scale*(q - zero))  →  move(scale) * (move(q) - move(zero))
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from greenedge.errors import ReasonKind, Refused
from greenedge.frontends.source import Node
from greenedge.graph.ops import Concat, DepthToSpace, Gather, Pad, Reshape, Transpose, Upsample
from greenedge.graph.ops.base import Array, Shape
from greenedge.lower.expr import Const, Var
from greenedge.lower.values import Broken, Constant, Grid, Live, Value, cut_constant_axes
from greenedge.lower.walk import Args, Rule, SplittingRule, Walk

MAX_AXIS = 1 << 30  # elements along an axis; an end below minus that lies before element 0


def _read_ints(value: Value | None, what: str) -> list[int]:
    """The integers of a constant; `what` names it in the reason. Raises Refused where it is computed from the data."""
    if not isinstance(value, Constant):
        raise Refused(
            ReasonKind.DYNAMIC_SHAPE,
            f"its {what} is computed from the data",
            "shapes must be static",
            "export with fixed shapes",
        )
    return [int(v) for v in np.ravel(value.array)]


def drop_batch_axis(axis: int, rank: int) -> int:
    """An ONNX axis as one without the batch; `rank` counts without the batch."""
    axis = axis + rank + 1 if axis < 0 else axis
    if not 1 <= axis <= rank:
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"axis {axis}",
            "the batch axis stays where it is",
            "keep the batch axis first",
        )
    return axis - 1


def reshape_live(walk: Walk, node: Node, value: Live, shape: Shape) -> Live:
    """Reshape(q) to `shape` (batch not counted); nothing where q has that shape."""
    if shape == walk.edge_shape(value):
        return value
    return walk.transform(
        node, value, lambda name: Reshape(name, (value.edge,), name, shape), lambda p: p.reshape(shape)
    )


def reshape(walk: Walk, node: Node, args: Args) -> Value:
    """Reshape(x) with the batch as its first axis; 0 and -1 as ONNX defines them."""
    value = args[0]
    if not isinstance(value, Live):
        return walk.fold(node, args)
    old = walk.edge_shape(value)
    target = _read_ints(args[1], "target shape")
    full = (walk.batch, *old)
    if not node.attrs.get("allowzero", 0):
        target = [full[i] if d == 0 and i < len(full) else d for i, d in enumerate(target)]
    total = int(np.prod(full))
    if -1 in target:
        rest = int(np.prod([d for d in target if d != -1]))
        target = [total // max(1, rest) if d == -1 else d for d in target]
    if not target or target[0] != walk.batch or int(np.prod(target)) != total:
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"a reshape of {full} to {tuple(target)}",
            "the batch axis must stay the first",
            "flatten from axis 1",
        )
    return reshape_live(walk, node, value, tuple(target[1:]))


def flatten(walk: Walk, node: Node, args: Args) -> Value:
    """Flatten(x) → Reshape(x) to one axis."""
    value = args[0]
    if not isinstance(value, Live):
        return walk.fold(node, args)
    if int(node.attrs.get("axis", 1)) != 1:
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"Flatten from axis {node.attrs.get('axis')}",
            "the batch axis must stay the first",
            "flatten from axis 1",
        )
    return reshape_live(walk, node, value, (int(np.prod(walk.edge_shape(value))),))


def transpose(walk: Walk, node: Node, args: Args) -> Value:
    """Transpose(x) of the axes behind the batch; of a quantised constant as well."""
    if isinstance(args[0], Grid):
        perm = node.attrs.get("perm") or tuple(reversed(range(args[0].ints.ndim)))
        return args[0].map(lambda p: p.transpose(perm))
    value = args[0]
    if not isinstance(value, Live):
        return walk.fold(node, args)
    rank = len(walk.edge_shape(value))
    perm = list(node.attrs.get("perm") or reversed(range(rank + 1)))
    if perm[0] != 0:
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"a transposition {tuple(perm)} that moves the batch",
            "the batch axis stays where it is",
            "keep the batch axis first",
        )
    return transpose_live(walk, node, value, tuple(p - 1 for p in perm[1:]))


def transpose_live(walk: Walk, node: Node, value: Live, perm: Shape) -> Live:
    """Transpose(q), axes without the batch; nothing where all stay."""
    if perm == tuple(range(len(perm))):
        return value
    return walk.transform(
        node, value, lambda name: Transpose(name, (value.edge,), name, perm), lambda p: p.transpose(perm)
    )


def read_axes(node: Node, args: Args) -> list[int] | None:
    """The axes of a node, an attribute or (since opset 13) its second input; None where it names none."""
    if len(args) > 1 and args[1] is not None:
        return _read_ints(args[1], "list of axes")
    return list(node.attrs["axes"]) if "axes" in node.attrs else None


def squeeze(walk: Walk, node: Node, args: Args) -> Value:
    """Squeeze(x) → Reshape(x) without axes of length 1."""
    value = args[0]
    if not isinstance(value, Live):
        return _reshape_constant(walk, node, args)
    shape = list(walk.edge_shape(value))
    axes = read_axes(node, args)
    drop = (
        {k for k, d in enumerate(shape) if d == 1} if axes is None else {drop_batch_axis(a, len(shape)) for a in axes}
    )
    return reshape_live(walk, node, value, tuple(d for k, d in enumerate(shape) if k not in drop))


def unsqueeze(walk: Walk, node: Node, args: Args) -> Value:
    """Unsqueeze(x) → Reshape(x) with more axes of length 1."""
    value = args[0]
    if not isinstance(value, Live):
        return _reshape_constant(walk, node, args)
    shape = list(walk.edge_shape(value))
    axes = read_axes(node, args) or []
    rank = len(shape) + len(axes)
    for axis in sorted(drop_batch_axis(a, rank) for a in axes):
        shape.insert(axis, 1)
    return reshape_live(walk, node, value, tuple(shape))


def _reshape_constant(walk: Walk, node: Node, args: Args) -> Value:
    """Squeeze or Unsqueeze off the integer path; a quantised constant stays one."""
    grid = args[0]
    if not isinstance(grid, Grid):
        return walk.fold(node, args)
    shape = walk.shape_of(walk.fold(node, [Constant(grid.ints.astype(np.float32)), *args[1:]]))
    return grid.map(lambda p: p.reshape(shape))


def pad(walk: Walk, node: Node, args: Args) -> Value:
    """Pad(scale*(q - zero), v) → Pad(q, v/scale + zero), where that level is one whole number for all channels."""
    value = args[0]
    if not isinstance(value, Live):
        return walk.fold(node, args)
    if node.attrs.get("mode", "constant") != "constant":
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            f"padding mode {node.attrs['mode']!r}",
            "padding is by a constant",
            "use padding_mode='zeros'",
        )
    pads = _read_pads(node, args, len(walk.edge_shape(value)))
    fill_value = args[2] if len(args) > 2 else None
    fill = (
        float(np.ravel(fill_value.array)[0])
        if isinstance(fill_value, Constant) and fill_value.array.size
        else float(node.attrs.get("value", 0.0))
    )
    value = walk.builder.materialise(node, value)
    scale, zero = walk.builder.require_grid(value)
    levels = {None}
    if np.isfinite(fill):
        levels = set(np.ravel(np.asarray(Fraction(fill) / scale + zero, dtype=object)).tolist())
    level = levels.pop()
    if levels or level is None or level.denominator != 1 or abs(level) >= 1 << 31:
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"padding by {fill:g}, which is not on the tensor's grid",
            "the fill must be one of the quantiser's values",
            "pad with zeros",
        )
    # Every channel gives `fill` at this level, so the channels that padding adds may share the function of the nearest
    # one.
    rank = len(pads) // 2
    widths = list(zip(pads[:rank], pads[rank:], strict=True))
    return walk.transform(
        node,
        value,
        lambda name: Pad(name, (value.edge,), name, pads, int(level)),
        lambda part: np.pad(part, widths, mode="edge"),
    )


def _read_pads(node: Node, args: Args, rank: int) -> tuple[int, ...]:
    """(begin..., end...) without the batch, from an attribute or inputs. Raises Refused for crops and a padded
    batch."""
    pads = list(node.attrs["pads"]) if "pads" in node.attrs else _read_ints(args[1], "padding")
    if len(args) > 3 and args[3] is not None:
        axes = [a + rank + 1 if a < 0 else a for a in _read_ints(args[3], "list of axes")]
        full = [0] * (2 * (rank + 1))
        for k, axis in enumerate(axes):
            full[axis], full[rank + 1 + axis] = pads[k], pads[len(axes) + k]
        pads = full
    if pads[0] or pads[rank + 1] or min(pads) < 0:
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"padding {tuple(pads)}",
            "pads are not negative and leave the batch alone",
            "crop on the host",
        )
    return tuple(pads[1 : rank + 1] + pads[rank + 2 :])


def concat(walk: Walk, node: Node, args: Args) -> Value:
    """Concat(scale_a*(a - zero_a), scale_b*(b - zero_b), …) → Concat(a, b, …), with scales and zeros joined alike."""
    if all(isinstance(value, (Constant, Grid)) for value in args):
        return walk.fold(node, args)
    live = [value for value in args if isinstance(value, Live)]
    if len(live) != len(args):
        raise Refused(
            ReasonKind.FLOAT_ISLAND,
            "it joins integers with floats or constants",
            "all parts must be activations of the integer graph",
            "quantise every branch",
        )
    return join(walk, node, live, drop_batch_axis(int(node.attrs.get("axis", 1)), len(walk.edge_shape(live[0]))))


def join(walk: Walk, node: Node, values: Sequence[Live], axis: int) -> Live:
    """Concat along an axis (batch not counted) of tensors on grids of their own."""
    parts = [walk.builder.materialise(node, value) for value in values]
    grids = [walk.builder.require_grid(value) for value in parts]
    name = walk.builder.unique(node)
    edge = walk.builder.emit(Concat(name, tuple(value.edge for value in parts), name, axis))
    shapes = [walk.edge_shape(value) for value in parts]
    scale, zero = (
        cut_constant_axes(
            np.concatenate(
                [np.broadcast_to(grid[k], shape) for grid, shape in zip(grids, shapes, strict=True)], axis=axis
            )
        )
        for k in (0, 1)
    )
    expr = Var() + Const.of(-zero) if np.any(zero != 0) else Var()
    return Live(edge, expr * Const.of(scale))


def resize(walk: Walk, node: Node, args: Args) -> Value:
    """Resize(scale*(q - zero)) (or the older Upsample) → the same of Upsample(q): nearest neighbour by whole
    factors."""
    value = args[0]
    if not isinstance(value, Live):
        return walk.fold(node, args)
    if str(node.attrs.get("mode", "nearest")) != "nearest":
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            f"{node.attrs['mode']} resizing",
            "nearest neighbour by whole factors is taken",
            "use mode='nearest'",
        )
    shape = (walk.batch, *walk.edge_shape(value))
    factors = _read_factors(node, args, shape)
    if factors[0] != 1 or any(f != int(f) or f < 1 for f in factors):
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"a resize by {tuple(round(f, 4) for f in factors)}",
            "whole factors of at least 1",
            "use a whole scale_factor",
        )
    _check_nearest(node)
    inner = tuple(int(f) for f in factors[1:])
    if all(f == 1 for f in inner):
        return value
    return walk.transform(
        node, value, lambda name: Upsample(name, (value.edge,), name, inner), lambda part: _repeat(part, inner)
    )


def _read_factors(node: Node, args: Args, shape: Shape) -> list[float]:
    """The factor of every axis, batch first, from scales or from a target size. Raises Refused where it is not
    constant."""
    if "scales" in node.attrs:
        return list(node.attrs["scales"])
    scales = args[-1] if len(args) == 2 else (args[2] if len(args) > 2 else None)
    if scales is not None and isinstance(scales, Constant) and scales.array.size:
        return [float(v) for v in np.ravel(scales.array)]
    if len(args) > 3 and args[3] is not None:
        return [new / old for new, old in zip(_read_ints(args[3], "target size"), shape, strict=True)]
    raise Refused(
        ReasonKind.DYNAMIC_SHAPE,
        "its factors are computed from the data",
        "shapes must be static",
        "export with fixed shapes",
    )


def _check_nearest(node: Node) -> None:
    """Raises Refused unless nearest resizing by whole factors repeats samples: other coordinate rules shift the
    image."""
    rule = (
        node.attrs.get("coordinate_transformation_mode", "half_pixel"),
        node.attrs.get("nearest_mode", "round_prefer_floor"),
    )
    if node.op == "Resize" and rule not in (
        ("asymmetric", "floor"),
        ("half_pixel", "round_prefer_floor"),
        ("half_pixel", "round_prefer_ceil"),
        ("half_pixel", "floor"),
        ("pytorch_half_pixel", "round_prefer_floor"),
    ):
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            f"nearest resizing with {rule[0]} and {rule[1]}",
            "it must repeat samples",
            "use mode='nearest'",
        )
    if rule == ("half_pixel", "floor"):
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            "nearest resizing with half_pixel and floor",
            "it must repeat samples",
            "use mode='nearest'",
        )


def _repeat(part: Array, factors: Sequence[int]) -> Array:
    """Every element repeated along the axes along which the array varies."""
    for axis, factor in enumerate(factors):
        part = np.repeat(part, factor, axis=axis) if part.shape[axis] > 1 else part
    return part


def depth_to_space(walk: Walk, node: Node, args: Args) -> Value:
    """DepthToSpace(scale*(q - zero)) → scale * (DepthToSpace(q) - zero), for one scale and one zero."""
    value = args[0]
    if not isinstance(value, Live):
        return walk.fold(node, args)
    value = walk.builder.materialise(node, value)
    if any(part.size > 1 for part in walk.builder.require_grid(value)):
        raise Refused(
            ReasonKind.UNSUPPORTED_SCALE,
            "DepthToSpace of a tensor with per-channel scales",
            "one scale per tensor",
            "put a per-tensor quantiser before it",
        )
    block, mode = int(node.attrs["blocksize"]), str(node.attrs.get("mode", "DCR"))
    return walk.transform(node, value, lambda name: DepthToSpace(name, (value.edge,), name, block, mode), lambda p: p)


def take_elements(walk: Walk, node: Node, value: Live, indices: Sequence[Sequence[int]]) -> Live:
    """Gather(scale*(q - zero)) → Gather(scale) * (Gather(q) - Gather(zero)); nothing where all is taken in order."""
    if all(list(places) == list(range(size)) for places, size in zip(indices, walk.edge_shape(value), strict=True)):
        return value

    def make(name: str) -> Gather:
        return Gather(name, (value.edge,), name, tuple(tuple(map(int, places)) for places in indices))

    return walk.transform(node, value, make, lambda part: make("part").execute([part[None]], None)[0])


def take_slice(walk: Walk, node: Node, args: Args) -> Value:
    """Slice(x) → Gather(x), for constant starts, ends, axes and steps; of a quantised constant as well."""
    value = args[0]
    if not isinstance(value, (Live, Grid)):
        return walk.fold(node, args)
    full = walk.shape_of(value)
    indices: list[Sequence[int]] = [range(size) for size in full]
    for axis, start, end, step in _read_slices(node, args, len(full)):
        size = full[axis]
        along = range(size)[slice(start, end, step)]  # Python clamps as ONNX does, but for an end below -size
        if axis == 0 and isinstance(value, Live) and along != range(size):
            drop_batch_axis(axis, len(full) - 1)
        if not len(along):
            raise Refused(
                ReasonKind.UNSUPPORTED_SHAPE,
                f"a slice {start}:{end}:{step} that takes nothing of axis {axis}, which has {size}",
                "every tensor holds something",
                "leave the branch out",
            )
        indices[axis] = along
    return _take_along(walk, node, value, indices)


def _take_along(walk: Walk, node: Node, value: Live | Grid, indices: Sequence[Sequence[int]]) -> Live | Grid:
    """The elements of a tensor, or of a quantised constant, at these places along every axis, the batch counted."""
    if isinstance(value, Grid):
        return value.map(lambda part: part[np.ix_(*indices)])
    return take_elements(walk, node, value, indices[1:])


def gather(walk: Walk, node: Node, args: Args) -> Value:
    """Gather(x, indices) → Gather(x) along one axis for constant indices; one number takes the axis away, a table of
    them makes it several."""
    value = args[0]
    if not isinstance(value, (Live, Grid)):
        return walk.fold(node, args)
    full = walk.shape_of(value)
    axis = int(node.attrs.get("axis", 0)) % max(1, len(full))
    given = args[1] if len(args) > 1 else None
    places = _read_ints(given, "list of indices")
    worst = next((place for place in places if not -full[axis] <= place < full[axis]), None)
    if worst is not None or not places:
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            "no index at all" if worst is None else f"index {worst} of axis {axis}, which has {full[axis]}",
            "indices lie inside the tensor, and there is one at least",
            "correct the indices",
        )
    if isinstance(value, Live):
        drop_batch_axis(axis, len(full) - 1)
    indices: list[Sequence[int]] = [range(size) for size in full]
    indices[axis] = [place % full[axis] for place in places]
    taken = _take_along(walk, node, value, indices)
    assert isinstance(given, Constant)
    shape = (*full[:axis], *np.shape(given.array), *full[axis + 1 :])
    if isinstance(taken, Grid):
        return taken.map(lambda p: p.reshape(shape))
    return reshape_live(walk, node, taken, shape[1:])


def split(walk: Walk, node: Node, args: Args) -> list[Value]:
    """Split(x, sizes) → one Gather for every part; without sizes they are equal, but the last, which may be smaller."""
    value = args[0]
    if not isinstance(value, (Live, Grid)):
        return walk.fold_all(node, args)
    full, count = walk.shape_of(value), len(node.outputs)
    axis = int(node.attrs.get("axis", 0)) % max(1, len(full))
    if isinstance(value, Live):
        drop_batch_axis(axis, len(full) - 1)
    if len(args) > 1 and args[1] is not None:
        sizes = _read_ints(args[1], "list of sizes")
    else:
        most = -(-full[axis] // count)
        sizes = [min(most, full[axis] - most * k) for k in range(count)]
    if len(sizes) != count or min(sizes, default=0) < 1 or sum(sizes) != full[axis]:
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"a split of axis {axis}, which has {full[axis]}, into {count} parts of {sizes}",
            "every part takes something, and together they take all",
            "export the model again",
        )
    ends = np.cumsum(sizes)
    whole = [range(size) for size in full]
    parts: list[Value] = []
    for name, size, end in zip(node.outputs, sizes, ends, strict=True):
        indices = [*whole[:axis], range(int(end) - size, int(end)), *whole[axis + 1 :]]
        parts.append(_take_along(walk, node, value, indices) if name else Broken())
    return parts


def space_to_depth(walk: Walk, node: Node, args: Args) -> Value:
    """SpaceToDepth(x) → Concat of one Gather for every place in a block: the pixels there as channels of their own."""
    value = args[0]
    if not isinstance(value, Live):
        return walk.fold(node, args)
    block, shape = int(node.attrs["blocksize"]), walk.edge_shape(value)
    if len(shape) != 3 or any(size % block for size in shape[1:]):
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"blocks of {block} in a tensor of shape {shape}",
            "blocks fill an image of channels, height and width",
            "pad the image first",
        )
    channels, height, width = (range(size) for size in shape)
    parts = [
        take_elements(walk, node, value, (channels, height[row::block], width[column::block]))
        for row in range(block)
        for column in range(block)
    ]
    return join(walk, node, parts, 0) if len(parts) > 1 else value


def _read_slices(node: Node, args: Args, rank: int) -> list[tuple[int, int, int | None, int]]:
    """(axis, start, end, step) for every axis that is sliced, of `rank`; an end of None takes element 0 too."""
    if node.inputs[1:]:  # from opset 10 on inputs, before that attributes
        starts, ends = (_read_ints(args[k], what) for k, what in ((1, "start"), (2, "end")))
        axes, steps = (
            _read_ints(args[k], what) if len(args) > k and args[k] is not None else None
            for k, what in ((3, "axes"), (4, "step"))
        )
    else:
        starts, ends = (list(map(int, node.attrs[key])) for key in ("starts", "ends"))
        axes, steps = (list(map(int, node.attrs["axes"])) if "axes" in node.attrs else None), None
    steps = steps or [1] * len(starts)
    axes = [axis % rank for axis in axes or range(len(starts))]
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"a slice from {starts} to {ends} along {axes} in steps of {steps}",
            "it has a start, an end and a step other than 0 for every axis",
            "export the model again",
        )
    stops = [None if step < 0 and end < -MAX_AXIS else end for end, step in zip(ends, steps, strict=True)]
    return list(zip(axes, starts, stops, steps, strict=True))


RULES: dict[str, Rule] = {
    "Reshape": reshape,
    "Flatten": flatten,
    "Transpose": transpose,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Pad": pad,
    "Concat": concat,
    "Resize": resize,
    "Upsample": resize,
    "DepthToSpace": depth_to_space,
    "Slice": take_slice,
    "Gather": gather,
    "SpaceToDepth": space_to_depth,
}
SPLITTING_RULES: dict[str, SplittingRule] = {"Split": split}
