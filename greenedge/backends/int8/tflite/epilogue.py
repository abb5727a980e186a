"""The model's own float outputs behind the exact integers: DEQUANTIZE, the scale, the softmax.

The float scores are the host's bit for bit. DEQUANTIZE gives whole numbers (where the encoding's scale is not 1, MUL,
SUB and FLOOR bring them back: ROUND is missing among the reference kernels), and SUB and MUL then do what the
epilogue does, with the same constants, each rounding once. They are not read off the int8 tensor's own scale, since
that is chosen for exact requantisation and means levels; a scale per channel is as good as one. SOFTMAX is LiteRT's
float one: its int8 one looks exponentials up in a table and has steps of 1/256, too coarse for a model's
probabilities. All operators are of the first version (DEQUANTIZE of int8: the second), which tflite-runtime 2.14 has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from greenedge.backends.int8.arithmetic import Float32s
from greenedge.backends.int8.tflite.builder import Placed, TfliteBuilder
from greenedge.backends.int8.tflite.layout import image, plain
from greenedge.graph import Graph
from greenedge.lower import Lowered
from greenedge.lower.dequantise import Dequantise, read_epilogue

OUTPUTS = ("softmax", "float", "integers")
WITHIN = (
    1e-6  # a softmax's largest difference from the host's: float32 exponentials and sums, a few units of the last place
)
_OPTIONS: dict[str, dict[str, object]] = {
    "SUB": {"fusedActivationFunction": "NONE"},
    "MUL": {"fusedActivationFunction": "NONE"},
    "SOFTMAX": {"beta": 1.0},
}


def choose_outputs(
    lowered: Lowered, options: Mapping[str, object], compiled: bool
) -> tuple[tuple[Dequantise, ...], tuple[str, ...]]:
    """The float outputs that the file gives, and a sentence for each that is left to the host. `compiled`: for an
    accelerator."""
    wanted = options.get("outputs", OUTPUTS[0])
    found, on_host = read_epilogue(lowered)
    notes = [
        f"model.tflite ends at the integers of which {name!r} is made; what makes it runs on the host: {operators}."
        for name, operators in on_host.items()
    ]
    chosen = []
    for end in found:
        is_softmax = end.softmax is not None
        if wanted == "integers" or (not is_softmax and wanted != "float"):
            continue
        if compiled:
            notes.append(
                f"model.tflite ends at the integers: an accelerator takes no floats, so {end.output!r} is the host's."
            )
        elif end.softmax is not None and not is_last_axis(lowered.graph, end.edge, end.softmax):
            notes.append(
                "model.tflite ends at the integers: LiteRT's softmax runs along the last axis, "
                f"{end.output!r} along another, on the host."
            )
        else:
            chosen.append(end)
    return tuple(chosen), tuple(notes)


def is_last_axis(graph: Graph, edge: str, axis: int) -> bool:
    """Whether `axis` of an output edge is the last in the file."""
    shape = graph.edges[edge].shape
    layout = image(shape) if len(shape) == 3 else plain(shape)
    return layout.file_axis(axis) == len(layout.file) - 1


def write_output(b: TfliteBuilder, end: Dequantise) -> int:
    """Writes the operators; returns the tensor that is the output, which has the output's name."""
    placed = b.placed[end.edge]
    first = ("CAST", None, 1) if placed.code.is_wide else ("DEQUANTIZE", None, 2)
    steps: list[tuple[str, Float32s | None, int]] = [first, *_restore_integers(placed)]
    steps += [
        ("SUB", part, 1)
        for part in (_constant(placed, -placed.code.zero_level), _constant(placed, end.zero))
        if np.any(part)
    ]
    scale = _constant(placed, end.scale)
    steps += [("MUL", scale, 1)] if np.any(scale != 1) else []
    steps += [("SOFTMAX", None, 1)] if end.softmax is not None else []
    tensor = placed.tensor
    for k, (operator, constant, version) in enumerate(steps):
        name = end.output if k == len(steps) - 1 else f"{end.output}/{operator.lower()}{k}"
        inputs = [tensor] if constant is None else [tensor, b.writer.constant(f"{name}/constant", constant)]
        tensor = b.writer.tensor(name, placed.layout.file, "FLOAT32")
        b.writer.operator(operator, inputs, [tensor], version, **_OPTIONS.get(operator, {}))
    return tensor


def _restore_integers(placed: Placed) -> Sequence[tuple[str, Float32s | None, int]]:
    """The operators that make whole numbers of the dequantised ones: the encoding's scale is 1 or 1/n."""
    count = round(1 / placed.code.scale)
    if count == 1:
        return []
    return [("MUL", np.full(1, count, np.float32), 1), ("SUB", np.full(1, -0.5, np.float32), 1), ("FLOOR", None, 1)]


def _constant(placed: Placed, values: ArrayLike) -> Float32s:
    """Values that broadcast to (1, *shape of the edge), as small as the file's order lets them be."""
    layout = placed.layout
    whole = layout.to_file(np.broadcast_to(np.asarray(values, np.float32), (1, *layout.shape)))[0]
    rows: Float32s = np.ascontiguousarray(whole.reshape(-1, whole.shape[-1]))
    if np.all(rows == rows[0, 0]):
        return rows[0, :1]
    return rows[0] if np.all(rows == rows[0]) else np.ascontiguousarray(whole[None])
