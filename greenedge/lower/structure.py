"""Operations that move numbers without changing them: they act on the integers, and on every per-channel constant alike."""

from __future__ import annotations

import numpy as np

from greenedge.errors import ReasonKind, Refused
from greenedge.graph.ops import Concat, DepthToSpace, Pad, Reshape, Transpose, Upsample
from greenedge.lower.expr import Const, Var
from greenedge.lower.values import Constant, Grid, Live, Value, compressed


def _live(walk, node, args) -> Live | None:
    return args[0] if isinstance(args[0], Live) else None


def _ints(value: Value, what: str) -> list[int]:
    if not isinstance(value, Constant):
        raise Refused(
            ReasonKind.DYNAMIC_SHAPE,
            f"its {what} is computed from the data",
            "shapes must be static",
            "export with fixed shapes",
        )
    return [int(v) for v in np.ravel(value.array)]


def _axis(axis: int, rank: int) -> int:
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


def to_shape(walk, node, value: Live, shape: tuple[int, ...]) -> Live:
    """A reshape of everything but the batch."""
    if shape == walk.builder.edges[value.edge].shape:
        return value
    return walk.transform(
        node, value, lambda name: Reshape(name, (value.edge,), name, shape), lambda p: p.reshape(shape)
    )


def reshape(walk, node, args) -> Value:
    value = _live(walk, node, args)
    if value is None:
        return walk.fold(node, args)
    old = walk.builder.edges[value.edge].shape
    target = _ints(args[1], "target shape")
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
    return to_shape(walk, node, value, tuple(target[1:]))


def flatten(walk, node, args) -> Value:
    value = _live(walk, node, args)
    if value is None:
        return walk.fold(node, args)
    if int(node.attrs.get("axis", 1)) != 1:
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"Flatten from axis {node.attrs.get('axis')}",
            "the batch axis must stay the first",
            "flatten from axis 1",
        )
    return to_shape(walk, node, value, (int(np.prod(walk.builder.edges[value.edge].shape)),))


def transpose(walk, node, args) -> Value:
    if isinstance(args[0], Grid):
        perm = node.attrs.get("perm") or tuple(reversed(range(args[0].ints.ndim)))
        return args[0].map(lambda p: p.transpose(perm))
    value = _live(walk, node, args)
    if value is None:
        return walk.fold(node, args)
    rank = len(walk.builder.edges[value.edge].shape)
    perm = list(node.attrs.get("perm") or reversed(range(rank + 1)))
    if perm[0] != 0:
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"a transposition {tuple(perm)} that moves the batch",
            "the batch axis stays where it is",
            "keep the batch axis first",
        )
    inner = tuple(p - 1 for p in perm[1:])
    if inner == tuple(range(rank)):
        return value
    return walk.transform(
        node, value, lambda name: Transpose(name, (value.edge,), name, inner), lambda p: p.transpose(inner)
    )


def _axes(node, args) -> list[int] | None:
    if len(args) > 1 and args[1] is not None:
        return _ints(args[1], "list of axes")
    return list(node.attrs["axes"]) if "axes" in node.attrs else None


def squeeze(walk, node, args) -> Value:
    value = _live(walk, node, args)
    if value is None:
        return _reshaped_constant(walk, node, args)
    shape = list(walk.builder.edges[value.edge].shape)
    axes = _axes(node, args)
    drop = {k for k, d in enumerate(shape) if d == 1} if axes is None else {_axis(a, len(shape)) for a in axes}
    return to_shape(walk, node, value, tuple(d for k, d in enumerate(shape) if k not in drop))


def unsqueeze(walk, node, args) -> Value:
    value = _live(walk, node, args)
    if value is None:
        return _reshaped_constant(walk, node, args)
    shape = list(walk.builder.edges[value.edge].shape)
    axes = _axes(node, args) or []
    rank = len(shape) + len(axes)
    for axis in sorted(_axis(a, rank) for a in axes):
        shape.insert(axis, 1)
    return to_shape(walk, node, value, tuple(shape))


def _reshaped_constant(walk, node, args) -> Value:
    if isinstance(args[0], Grid):
        shape = walk.fold(node, [Constant(args[0].ints.astype(np.float32)), *args[1:]]).array.shape
        return args[0].map(lambda p: p.reshape(shape))
    return walk.fold(node, args)


def pad(walk, node, args) -> Value:
    value = _live(walk, node, args)
    if value is None:
        return walk.fold(node, args)
    if node.attrs.get("mode", "constant") != "constant":
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            f"padding mode {node.attrs['mode']!r}",
            "padding is by a constant",
            "use padding_mode='zeros'",
        )
    rank = len(walk.builder.edges[value.edge].shape)
    pads = list(node.attrs["pads"]) if "pads" in node.attrs else _ints(args[1], "padding")
    if len(args) > 3 and args[3] is not None:
        axes = [a + rank + 1 if a < 0 else a for a in _ints(args[3], "list of axes")]
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
    given = args[2] if len(args) > 2 and args[2] is not None else None
    fill = (
        float(np.ravel(given.array)[0])
        if isinstance(given, Constant) and given.array.size
        else float(node.attrs.get("value", 0.0))
    )
    value = walk.builder.materialise(node, value)
    scale, zero = walk.builder.grid(value)
    from fractions import Fraction

    level = {
        Fraction(fill) / s + z
        for s, z in zip(
            np.broadcast_to(scale, np.broadcast_shapes(scale.shape, zero.shape)).ravel().tolist(),
            np.broadcast_to(zero, np.broadcast_shapes(scale.shape, zero.shape)).ravel().tolist(),
        )
    }
    if len(level) != 1 or next(iter(level)).denominator != 1:
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"padding by {fill:g}, which is not on the tensor's grid",
            "the fill must be one of the quantiser's values",
            "pad with zeros",
        )
    inner = tuple(pads[1 : rank + 1] + pads[rank + 2 :])
    return walk.transform(
        node, value, lambda name: Pad(name, (value.edge,), name, inner, int(next(iter(level)))), lambda p: _kept(p)
    )


def _kept(part: np.ndarray) -> np.ndarray:
    """A per-channel constant under padding or resizing of other axes."""
    return part


def concat(walk, node, args) -> Value:
    if all(isinstance(value, (Constant, Grid)) for value in args):
        return walk.fold(node, args)
    if not all(isinstance(value, Live) for value in args):
        raise Refused(
            "float-island",
            "it joins integers with floats or constants",
            "all parts must be activations of the integer graph",
            "quantise every branch",
        )
    rank = len(walk.builder.edges[args[0].edge].shape)
    axis = _axis(int(node.attrs.get("axis", 1)), rank)
    parts = [walk.builder.materialise(node, value) for value in args]
    grids = [walk.builder.grid(value) for value in parts]
    name = walk.builder.unique(node)
    edge = walk.builder.emit(Concat(name, tuple(value.edge for value in parts), name, axis))

    def joined(which: int) -> np.ndarray:
        shapes = [walk.builder.edges[value.edge].shape for value in parts]
        full = [np.broadcast_to(grid[which], shape) for grid, shape in zip(grids, shapes)]
        return compressed(np.concatenate(full, axis=axis))

    zero = joined(1)
    expr = Var() + Const.of(-zero) if np.any(zero != 0) else Var()
    return Live(edge, expr * Const.of(joined(0)))


def resize(walk, node, args) -> Value:
    """Nearest neighbour by whole factors (Resize and the older Upsample)."""
    value = _live(walk, node, args)
    if value is None:
        return walk.fold(node, args)
    if str(node.attrs.get("mode", "nearest")) != "nearest":
        raise Refused(
            ReasonKind.UNSUPPORTED_OP,
            f"{node.attrs['mode']} resizing",
            "nearest neighbour by whole factors is taken",
            "use mode='nearest'",
        )
    shape = (walk.batch, *walk.builder.edges[value.edge].shape)
    factors = _factors(node, args, shape)
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
    stretched = lambda p: (
        np.concatenate([p], axis=0) if all(d == 1 or f == 1 for d, f in zip(p.shape, inner)) else _repeat(p, inner)
    )
    return walk.transform(node, value, lambda name: Upsample(name, (value.edge,), name, inner), stretched)


def _factors(node, args, shape) -> list[float]:
    if "scales" in node.attrs:
        return list(node.attrs["scales"])
    scales = args[-1] if len(args) == 2 else (args[2] if len(args) > 2 else None)
    if scales is not None and isinstance(scales, Constant) and scales.array.size:
        return [float(v) for v in np.ravel(scales.array)]
    if len(args) > 3 and args[3] is not None:
        return [new / old for new, old in zip(_ints(args[3], "target size"), shape)]
    raise Refused(
        ReasonKind.DYNAMIC_SHAPE,
        "its factors are computed from the data",
        "shapes must be static",
        "export with fixed shapes",
    )


def _check_nearest(node) -> None:
    """Whole-factor nearest resizing repeats samples under these coordinate rules; others shift the image."""
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


def _repeat(part: np.ndarray, factors) -> np.ndarray:
    for axis, factor in enumerate(factors):
        part = np.repeat(part, factor, axis=axis) if part.shape[axis] > 1 else part
    return part


def depth_to_space(walk, node, args) -> Value:
    value = _live(walk, node, args)
    if value is None:
        return walk.fold(node, args)
    value = walk.builder.materialise(node, value)
    if any(part.size > 1 for part in walk.builder.grid(value)):
        raise Refused(
            ReasonKind.UNSUPPORTED_SCALE,
            "DepthToSpace of a tensor with per-channel scales",
            "one scale per tensor",
            "put a per-tensor quantiser before it",
        )
    block, mode = int(node.attrs["blocksize"]), str(node.attrs.get("mode", "DCR"))
    return walk.transform(node, value, lambda name: DepthToSpace(name, (value.edge,), name, block, mode), _kept)


RULES = {
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
}
