"""The batch axis, open or of any size, as a batch of one sample.

It is the first axis of every input. A model may name its size again in the shapes that it reshapes to; a node that
takes several samples for one would compute something else for one sample, and is refused.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np

from greenedge.errors import Reason, ReasonKind, Refused

if TYPE_CHECKING:
    import onnx

_SHAPES = {"Reshape": 1, "Expand": 1, "Resize": 3}  # operator: which input is a shape that has the batch


def read_batch(graph: onnx.GraphProto) -> int | None:
    """The size of the batch axis; None where it is open. Raises Refused where inputs have different ones."""
    sizes: dict[str, int] = {}
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        if len(dims) and dims[0].HasField("dim_value") and dims[0].dim_value > 0:
            sizes[value.name] = dims[0].dim_value
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise Refused(
            ReasonKind.UNSUPPORTED_SHAPE,
            f"inputs with different batch sizes ({listed})",
            "the first axis of every input is the batch",
            "export the model with a batch of 1",
        )
    return next(iter(sizes.values()), None)


def make_batch_one(proto: onnx.ModelProto) -> list[str]:
    """Batch N or open → 1, in place; what was done, in words."""
    size = read_batch(proto.graph)
    set_batch(proto, 1)
    return [] if size is None or size == 1 else [f"its batch of {size} is read as a batch of 1"]


def set_batch(proto: onnx.ModelProto, size: int) -> None:
    """A batch of `size` samples in inputs and in the shapes that nodes are given, in place; other declared shapes
    go."""
    graph = proto.graph
    before = read_batch(graph)
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        if len(dims):
            dims[0].Clear()
            dims[0].dim_value = size
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    del graph.value_info[:]
    if before is not None and before != size:
        _rewrite_shapes(graph, before, size)


def is_batch_one(graph: onnx.GraphProto) -> bool:
    """Whether the first axis of every input is fixed to one sample."""
    firsts = [v.type.tensor_type.shape.dim[0] for v in graph.input if len(v.type.tensor_type.shape.dim)]
    return all(first.dim_value == 1 for first in firsts)


def _rewrite_shapes(graph: onnx.GraphProto, before: int, size: int) -> None:
    """The batch inside constant shapes; a constant that other nodes read as well is copied first."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        position = _SHAPES.get(node.op_type)
        if position is None or node.domain or len(node.input) <= position or node.input[position] not in constants:
            continue
        shape = numpy_helper.to_array(constants[node.input[position]])
        if shape.ndim != 1 or not shape.size or shape[0] != before:
            continue
        name = f"{node.input[position]}.batch{size}"
        if name not in constants:
            fresh = copy.deepcopy(constants[node.input[position]])
            fresh.CopyFrom(numpy_helper.from_array(np.concatenate([np.full(1, size, shape.dtype), shape[1:]]), name))
            graph.initializer.append(fresh)
            constants[name] = graph.initializer[-1]
        node.input[position] = name


def find_mixed_samples(
    graph: onnx.GraphProto, before: dict[str, tuple[int, ...]], after: dict[str, tuple[int, ...]], size: int
) -> list[Reason]:
    """A reason for every node whose output holds something else than a sample for each sample of the batch.

    `before` and `after` are the shapes of tensors with the batch of `size` and of one, as far as they are known.
    """
    live = {value.name for value in graph.input}
    reasons = []
    for node in graph.node:
        if not any(name in live for name in node.input) or node.op_type in ("Shape", "Size"):
            continue
        live.update(node.output)
        known = [name for name in node.output if name in before and name in after]
        wrong = [n for n in known if before[n][:1] != (size,) or after[n] != (1, *before[n][1:])]
        if wrong:
            reasons.append(
                Reason(
                    node.name,
                    ReasonKind.UNSUPPORTED_SHAPE,
                    f"{node.op_type} of a batch of {size} gives shape {before[wrong[0]]}",
                    "every sample must be computed by itself, and the batch stays the first axis",
                    "export the model with a batch of 1",
                )
            )
            break  # what follows from it has the same fault
    return reasons
