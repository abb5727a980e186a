"""What the rules write with: C text, and the builder that checks a graph or writes the calls of a program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from greenedge.backends.c99.memory_plan import Call, Program
from greenedge.backends.c99.tensor_code import code_of
from greenedge.errors import ReasonKind
from greenedge.graph import (
    Add,
    ChannelAdd,
    Concat,
    Conv,
    ConvTranspose,
    Dense,
    DepthToSpace,
    Edge,
    Gather,
    Graph,
    Input,
    Linear,
    MatMul,
    MaxPool,
    Multiply,
    Normalise,
    Op,
    Pad,
    Requantise,
    Reshape,
    Softmax,
    Steps,
    SumPool,
    Transpose,
    Upsample,
)
from greenedge.graph.ops.base import Ints
from greenedge.legalise.capabilities import RANK, Capabilities
from greenedge.legalise.rules import RuleBuilder, Rules

INT32 = (1 << 31) - 2
_AXIS_SIZE = (1 << 16) - 2  # largest that a kernel's 16-bit sizes and counters hold
_TABLE_SIZE = 1 << 16
_AFFINE_RANGE = 1 << 62  # of m*x + b, which the kernel computes in 64 bits
_AFFINE_BYTES = 13  # per channel: m in 4, b in 8, s in 1
_PER_LINE = 20

_UP_TO_4_AXES = RANK.limit(range(5), "the kernels have up to 4", "use 1-d or 2-d layers")
_KINDS: tuple[type[Op], ...] = (
    Input,
    Dense,
    Conv,
    ConvTranspose,
    MaxPool,
    SumPool,
    Add,
    ChannelAdd,
    Multiply,
    MatMul,
    Softmax,
    Normalise,
    Concat,
    Requantise,
    Pad,
    Upsample,
    DepthToSpace,
)
_UP_TO_6_AXES = RANK.limit(range(7), "a copy runs over up to 6", "reshape in two steps")
SUPPORTED: Capabilities = {
    **dict.fromkeys(_KINDS, (_UP_TO_4_AXES,)),
    **dict.fromkeys((Reshape, Transpose, Gather), (_UP_TO_6_AXES,)),
}


@dataclass
class Text:
    """C text in the making: constants with their size in bytes, and the statements of model_run."""

    constants: list[str] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)
    bytes: int = 0

    def array(self, kind: str, name: str, values: ArrayLike) -> str:
        """A constant array of a C type such as "int8_t"; returns its name."""
        flat = [int(v) for v in np.asarray(values).reshape(-1)]
        suffix = "LL" if kind == "int64_t" else ""
        rows = [
            ", ".join(f"{v}{suffix}" if v != -(1 << 63) else "INT64_MIN" for v in flat[k : k + _PER_LINE])
            for k in range(0, len(flat), _PER_LINE)
        ]
        self.constants.append(f"static const {kind} {name}[{len(flat)}] = {{\n    " + ",\n    ".join(rows) + "};\n")
        self.bytes += len(flat) * int(kind.removesuffix("_t").lstrip("uint")) // 8
        return name

    def record(self, kind: str, name: str, fields: Mapping[str, object]) -> str:
        """A constant record; returns its name."""
        inner = ", ".join(f".{key} = {value}" for key, value in fields.items())
        self.constants.append(f"static const {kind} {name} = {{{inner}}};\n")
        return name


class CodeBuilder(RuleBuilder):
    """Checks a graph, or writes a program call by call: `start_call`, then the rule of the call's operation."""

    def __init__(self, graph: Graph, program: Program | None = None) -> None:
        super().__init__(graph, is_checking=program is None)
        self.text = Text()
        self._program = program
        self._call: Call | None = None
        self.name, self._number = "", 0

    @property
    def program(self) -> Program:
        assert self._program is not None, "a rule emits after begin_emission alone"
        return self._program

    @property
    def call(self) -> Call:
        assert self._call is not None, "a rule emits after start_call alone"
        return self._call

    def start_call(self, call: Call, number: int) -> None:
        """The call that the next rule writes; its constants are called l`number`_…"""
        self._call, self.name, self._number = call, f"l{number}", number

    def source(self, op: Op) -> Edge:
        """The edge that `op` reads first."""
        return self.graph.edges[op.inputs[0]]

    def place(self, edge: str) -> str:
        return place(self.program, edge)

    @property
    def scratch(self) -> str:
        """The C expression of the scratch that the call has in the arena."""
        return f"arena + {self.program.scratch[self._number]}"

    def code(self, edge: str) -> str:
        """The initialiser of a ge_code."""
        code = self.program.codes[edge]
        return f"{{{int(code.wide)}, {code.offset}}}"

    def offset(self, edge: str) -> int:
        """What is added to a stored value of `edge` to get its level."""
        return self.program.codes[edge].offset

    def sink(self, name: str, step: Requantise | None) -> str:
        """The initialiser of a ge_sink: the code of the call's output, and the step function in front of it."""
        pointer = f"&{write_step(self, step, name)}" if step else "0"
        return f"{{{self.code(self.call.output)}, {pointer}}}"

    def add_statement(self, kernel: str, more: str = "") -> None:
        """kernel(&layer, source, result)."""
        source, result = self.place(self.call.op.inputs[0]), self.place(self.call.output)
        self.text.statements.append(f"ge_{kernel}(&{self.name}{more}, {source}, {result});")

    def require_sizes(self, op: Op) -> None:
        """The requirement of every operation: sizes are 16 bits wide."""
        shape = self.graph.edges[op.output].shape
        largest = max(shape, default=1)
        self.require(
            largest <= _AXIS_SIZE,
            f"an axis of {largest:,}",
            "sizes are 16 bits wide",
            "split the layer",
            ReasonKind.TOO_BIG,
        )

    def require_width(self, holds: bool, value: str) -> None:
        self.require(
            holds,
            value,
            "the kernels multiply 8-bit operands and add in 32 bits",
            "quantise to at most 8 bits before this layer",
            ReasonKind.TOO_WIDE,
        )

    def require_values(self, op: Op) -> None:
        """The requirements of an operation without weights."""
        edge = self.graph.edges[op.output]
        self.require_width(max(abs(edge.lo), abs(edge.hi)) <= INT32, f"values of {edge.bits} bits")
        self.require_sizes(op)

    def require_products(self, op: Linear, stored: int = 128) -> None:
        """The requirements of a layer with weights; `stored` bounds the magnitude of a stored input and of padding."""
        source = self.source(op)
        weights = Edge("", (), int(op.weight.min()), int(op.weight.max()))
        largest = (stored + abs(code_of(source).offset)) * op.largest_weight_sum
        self.require_width(not code_of(source).wide, f"input of {source.bits} bits")
        self.require_width(weights.lo >= -128 and weights.hi <= 127, f"weights of {weights.bits} bits")
        self.require_width(largest <= INT32, f"sums of up to {largest.bit_length() + 1} bits")
        self.require_sizes(op)


RULES: Rules[CodeBuilder] = Rules("c99", "c99", SUPPORTED)


def place(program: Program, edge: str) -> str:
    """The C expression of an edge's buffer."""
    buffer = program.buffers[edge]
    return buffer.parameter or f"arena + {buffer.offset}"


def choose_form(op: Requantise) -> str | None:
    """The form of fewest bytes that fits the kernel's integers: affine, thresholds or table; None if none fits."""
    if not isinstance(op.forms, Steps):
        return "table" if op.forms.levels.shape[1] <= _TABLE_SIZE else None
    sizes: dict[str, int] = {}
    if (affine := op.forms.affine) is not None:
        reach = np.maximum(np.abs(op.x_lo), np.abs(op.x_hi)).astype(object)
        largest = (reach * np.abs(affine.m).astype(object) + np.abs(affine.b).astype(object)).max()
        if largest < _AFFINE_RANGE and int(np.abs(affine.m).max()) <= INT32:
            sizes["affine"] = _AFFINE_BYTES * op.channels
    if int(np.abs(op.forms.thresholds).max(initial=0)) <= INT32:
        sizes["thresholds"] = (4 * (op.hi - op.lo) + 1) * op.channels
    return min(sizes, key=lambda form: sizes[form]) if sizes else None


def write_step(b: CodeBuilder, op: Requantise, name: str) -> str:
    """The record of a step function; returns its name."""
    shape, channels = b.source(op).shape, op.channels
    fields: dict[str, object] = {
        "channels": channels,
        "inner": int(np.prod(shape[op.axis + 1 :], dtype=np.int64)),
        "lo": op.lo,
        "hi": op.hi,
    }
    per_channel: dict[str, tuple[str, Ints]]
    form = choose_form(op)
    if form == "table":
        levels = op.require_table().levels
        width = levels.shape[1]
        per_channel = {"table": ("int16_t", np.broadcast_to(levels, (channels, width))), "first": ("int32_t", op.x_lo)}
        fields |= _write_arrays(b, name, per_channel) | {"table_size": width}
    elif form == "affine" and (affine := op.affine) is not None:
        m, shift, s = (np.broadcast_to(values, (channels,)) for values in (affine.m, affine.b, affine.s))
        fields |= _write_arrays(b, name, {"m": ("int32_t", m), "b": ("int64_t", shift), "s": ("uint8_t", s)})
    else:
        steps = op.require_steps()
        thresholds = np.broadcast_to(steps.thresholds, (channels, op.hi - op.lo))
        if op.hi == op.lo:  # one level has no thresholds, and C no empty arrays: this one is not read
            thresholds = np.zeros((1, 1), np.int64)
        per_channel = {
            "thresholds": ("int32_t", thresholds),
            "sign": ("int8_t", np.broadcast_to(steps.sign, (channels,))),
        }
        fields |= _write_arrays(b, name, per_channel)
    return b.text.record("ge_step", f"{name}_step", fields)


def _write_arrays(b: CodeBuilder, name: str, arrays: Mapping[str, tuple[str, Ints]]) -> dict[str, str]:
    """{field: name} of constant arrays that are called after the layer and the field."""
    return {key: b.text.array(kind, f"{name}_{key}", values) for key, (kind, values) in arrays.items()}
