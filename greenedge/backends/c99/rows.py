"""The rules of products of two activations and of functions of a row, in the words of ge_kernels.h."""

from __future__ import annotations

import numpy as np

from greenedge.backends.c99.code_builder import INT32, CodeBuilder
from greenedge.backends.c99.initialisers import RULES
from greenedge.graph import MatMul, Normalise, Op, Softmax
from greenedge.graph.ops.base import Ints, Shape


@RULES.lowers(MatMul)
def matmul(b: CodeBuilder, op: MatMul) -> None:
    b.require_values(op)
    edges = b.graph.input_edges(op)
    largest = op.inner_magnitude(edges)
    b.require_width(largest <= INT32, f"sums of up to {largest.bit_length() + 1} bits")
    b.begin_emission()
    rows, columns = edges[0].shape[-2], edges[1].shape[-1]
    fields = {
        "matrices": int(np.prod(edges[0].shape[:-2], dtype=np.int64)),
        "m": rows,
        "k": op.depth,
        "n": columns,
        "zero": "{" + ", ".join(map(str, op.zeros)) + "}",
        "from": "{" + ", ".join(b.code(edge) for edge in op.inputs) + "}",
        "sink": b.sink(b.name, b.call.step),
    }
    b.text.record("ge_matmul_layer", b.name, fields)
    sources = ", ".join(b.place(edge) for edge in op.inputs)
    b.text.statements.append(f"ge_matmul(&{b.name}, {sources}, {b.place(b.call.output)});")


@RULES.lowers(Softmax)
def softmax(b: CodeBuilder, op: Softmax) -> None:
    b.require_values(op)
    b.begin_emission()
    fields: dict[str, object] = {
        **_rows(b, op),
        "unit": op.unit,
        "per": op.per,
        "most": op.most,
        "table": b.text.array("int32_t", f"{b.name}_table", op.table),
        "table_size": len(op.table),
    }
    if op.fine is not None:
        fine = b.text.array("int32_t", f"{b.name}_fine", op.fine)
        fields |= {"fine": fine, "fine_size": len(op.fine), "fine_bits": op.fine_bits}
    if op.mask is not None:
        mask = _repeated(op.mask, b.source(op).shape)
        fields |= {"mask": b.text.array("uint8_t", f"{b.name}_mask", mask), "mask_size": mask.size}
    b.text.record("ge_softmax_layer", b.name, fields)
    b.add_statement("softmax")


def _repeated(mask: Ints, shape: Shape) -> Ints:
    """The mask without the leading axes over which it repeats, at full size along the others."""
    mask = mask.reshape((1,) * (len(shape) - mask.ndim) + mask.shape)
    first = next((axis for axis, size in enumerate(mask.shape) if size > 1), len(shape) - 1)
    return np.broadcast_to(mask[(0,) * first], shape[first:])


@RULES.lowers(Normalise)
def normalise(b: CodeBuilder, op: Normalise) -> None:
    b.require_values(op)
    b.begin_emission()
    fields: dict[str, object] = {
        **_rows(b, op),
        "layer": int(op.norm == "layer"),
        "zero": op.zero,
        "epsilon": f"{op.epsilon}LL",
        "constant": f"{op.constant}LL",
        "shift": op.shift,
    }
    if op.table is not None:
        fields["table"] = b.text.array("int32_t", f"{b.name}_table", op.table)
    b.text.record("ge_norm_layer", b.name, fields)
    b.add_statement("norm")


def _rows(b: CodeBuilder, op: Op) -> dict[str, object]:
    """How many rows there are, their length, and where they come from and go."""
    shape = b.source(op).shape
    return {
        "rows": int(np.prod(shape[:-1], dtype=np.int64)),
        "length": shape[-1],
        "from": b.code(op.inputs[0]),
        "sink": b.sink(b.name, b.call.step),
    }
