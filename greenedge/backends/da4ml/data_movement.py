"""The rules of operations that move values: no adder, other places for the same wires."""

from __future__ import annotations

import numpy as np

from greenedge.backends.da4ml.wires import RULES, WireBuilder, pad_variables, variables_of
from greenedge.graph import Concat, DepthToSpace, Gather, Input, Pad, Reshape, Transpose, Upsample


@RULES.lowers(Input)
def read_input(b: WireBuilder, op: Input) -> None:
    """Its wires are there before a rule runs."""
    b.begin_emission()


@RULES.lowers(Concat)
def concat(b: WireBuilder, op: Concat) -> None:
    b.begin_emission()
    b.emit(op, np.concatenate([variables_of(x) for x in b.inputs(op)], axis=op.axis))


@RULES.lowers(Gather)
def gather(b: WireBuilder, op: Gather) -> None:
    b.begin_emission()
    (x,) = b.inputs(op)
    b.emit(op, op.execute([variables_of(x)[None]], None)[0])


@RULES.lowers(Pad)
def pad(b: WireBuilder, op: Pad) -> None:
    b.begin_emission()
    (x,) = b.inputs(op)
    b.emit(op, pad_variables(variables_of(x), op.pads, op.value))


@RULES.lowers(Reshape)
def reshape(b: WireBuilder, op: Reshape) -> None:
    b.begin_emission()
    (x,) = b.inputs(op)
    b.emit(op, variables_of(x).reshape(op.shape))


@RULES.lowers(Transpose)
def transpose(b: WireBuilder, op: Transpose) -> None:
    b.begin_emission()
    (x,) = b.inputs(op)
    b.emit(op, variables_of(x).transpose(op.perm))


@RULES.lowers(Upsample)
def upsample(b: WireBuilder, op: Upsample) -> None:
    b.begin_emission()
    (x,) = b.inputs(op)
    variables = variables_of(x)
    for axis, factor in enumerate(op.factors):
        variables = np.repeat(variables, factor, axis=axis)
    b.emit(op, variables)


@RULES.lowers(DepthToSpace)
def depth_to_space(b: WireBuilder, op: DepthToSpace) -> None:
    b.begin_emission()
    (x,) = b.inputs(op)
    (c, h, w), block = b.source(op).shape, op.block
    if op.mode == "DCR":
        y = variables_of(x).reshape(block, block, c // block**2, h, w).transpose(2, 3, 0, 4, 1)
    else:
        y = variables_of(x).reshape(c // block**2, block, block, h, w).transpose(0, 3, 1, 4, 2)
    b.emit(op, y.reshape(c // block**2, h * block, w * block))
