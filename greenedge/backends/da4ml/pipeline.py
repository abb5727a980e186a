"""The pieces' circuits one behind another: registers in front of every stage, and as many on the edges beside them.

Every edge is a plain vector of integers. A piece starts when the last of its sources is there; the others wait for it
in shift registers, so that a sample can enter in every cycle.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

KERNEL = "net"


@dataclass(frozen=True)
class Wire:
    """An element of da4ml's packed vector: its bits (0: a constant zero), whether signed, and value = bits << shift."""

    width: int
    signed: bool
    shift: int


@dataclass(frozen=True)
class Circuit:
    """A traced piece: the wires that it reads of every source and gives for its output, and its stages' input bits.

    `stages` names da4ml's modules with the bits they take; they are registers' widths unless the piece is mere wiring.
    `output_bits` is what the last of them gives. Without stages the output is `constants`.
    """

    sources: Mapping[str, tuple[Wire, ...]]
    output: str
    wires: tuple[Wire, ...]
    stages: tuple[tuple[str, int], ...]
    output_bits: int
    registered: bool
    constants: tuple[int, ...] = ()


@dataclass(frozen=True)
class Layout:
    """Cycles after a sample's at which each edge has its value, and for how many more it is kept."""

    at: Mapping[str, int]
    kept: Mapping[str, int]

    def end(self, outputs: Iterable[str]) -> int:
        """The cycle in which the last of them has its value."""
        return max(self.at[edge] for edge in outputs)

    @property
    def nets(self) -> dict[str, str]:
        """The kernel's net of every edge."""
        return {edge: f"edge{k}" for k, edge in enumerate(self.at)}


@dataclass(frozen=True)
class Answer:
    """What the kernel gives: elements of `bits` bits, in this order each (edge, element of it, whether signed)."""

    bits: int
    elements: Sequence[tuple[str, int, bool]]

    @property
    def edges(self) -> list[str]:
        """Each once."""
        return list(dict.fromkeys(edge for edge, _, _ in self.elements))


def layout(sources: Sequence[str], circuits: Iterable[Circuit], outputs: Sequence[str]) -> Layout:
    """The cycle in which every edge has its value, counted in registers behind the `sources`; `outputs` leave together,
    with the last of them."""
    at, kept = dict.fromkeys(sources, 0), dict.fromkeys(sources, 0)
    for circuit in circuits:
        start = max((at[edge] for edge in circuit.sources), default=0)
        for edge in circuit.sources:
            kept[edge] = max(kept[edge], start - at[edge])
        at[circuit.output] = start + (len(circuit.stages) if circuit.registered else 0)
        kept[circuit.output] = 0
    end = max(at[edge] for edge in outputs)
    for edge in outputs:
        kept[edge] = max(kept[edge], end - at[edge])
    return Layout(at, kept)


def kernel(
    circuits: Sequence[Circuit],
    sources: Sequence[str],
    answer: Answer,
    sizes: Mapping[str, tuple[int, int]],
    bits: int,
    order: Sequence[tuple[str, int]],
) -> tuple[str, int]:
    """(module `net` in SystemVerilog from `sample` to `answer`, its register bits).

    `sizes` has (elements, bits of each) of every edge; the sample has `bits` for each of its elements, of which `order`
    says (edge, element there). The last register is the answer's.
    """
    plan = layout(sources, circuits, answer.edges)
    names = plan.nets
    wide = {edge: sizes[edge][0] * sizes[edge][1] for edge in plan.at}
    registers, body = answer.bits * len(answer.elements), list[str]()
    for source in sources:
        own = sizes[source][1]
        body += [
            f"    logic [{wide[source] - 1}:0] {names[source]};",
            *(
                f"    assign {names[source]}[{to * own} +: {own}] = sample[{k * bits} +: {own}];"
                for k, (edge, to) in enumerate(order)
                if edge == source
            ),
            _delay_line(names[source], wide[source], plan.kept[source]),
        ]
    for k, circuit in enumerate(circuits):
        edge = circuit.output
        body += [
            f"    // {re.sub(r'[^-+.A-Za-z0-9_]', '_', edge)}: there after {plan.at[edge]} cycles",
            f"    logic [{wide[edge] - 1}:0] {names[edge]};",
        ]
        start = max((plan.at[name] for name in circuit.sources), default=0)
        late = {name: _late(names[name], start - plan.at[name]) for name in circuit.sources}
        body += [
            _circuit(f"p{k}", circuit, late, sizes, names[edge]),
            _delay_line(names[edge], wide[edge], plan.kept[edge]),
        ]
        registers += sum(bits for _, bits in circuit.stages) if circuit.registered else 0
    registers += sum(plan.kept[edge] * wide[edge] for edge in plan.at)
    text = "\n".join(line for line in body if line)
    return (
        f"""// layer by layer: a sample enters in every cycle and leaves {plan.end(answer.edges) + 1} cycles later
`default_nettype none
module {KERNEL} (
    input  logic clk,
    input  logic [{len(order) * bits - 1}:0] sample,
    output logic [{answer.bits * len(answer.elements) - 1}:0] answer
);
{text}
{_gather_answer(answer, plan, sizes)}
endmodule
`default_nettype wire
""",
        registers,
    )


def _gather_answer(answer: Answer, plan: Layout, sizes: Mapping[str, tuple[int, int]]) -> str:
    """The last register: one edge as it is, or the elements of several, extended to the same bits."""
    names, end = plan.nets, plan.end(answer.edges)
    late = {edge: _late(names[edge], end - plan.at[edge]) for edge in answer.edges}
    if len(answer.edges) == 1 and sizes[answer.edges[0]] == (len(answer.elements), answer.bits):
        return f"    always_ff @(posedge clk) answer <= {late[answer.edges[0]]};"
    lines = []
    for k, (edge, element, signed) in enumerate(answer.elements):
        bits = sizes[edge][1]
        taken, above = f"{late[edge]}[{element * bits} +: {bits}]", answer.bits - bits
        sign = f"{late[edge]}[{(element + 1) * bits - 1}]" if signed else "1'b0"
        value = f"{{{{{above}{{{sign}}}}}, {taken}}}" if above else taken
        lines.append(f"        answer[{k * answer.bits} +: {answer.bits}] <= {value};")
    return "\n".join(["    always_ff @(posedge clk) begin", *lines, "    end"])


def _late(name: str, cycles: int) -> str:
    return f"{name}_late{cycles}" if cycles else name


def _delay_line(name: str, bits: int, cycles: int) -> str:
    """A shift register behind an edge that another branch lags behind."""
    return "\n".join(
        f"    logic [{bits - 1}:0] {_late(name, c)};\n"
        f"    always_ff @(posedge clk) {_late(name, c)} <= {_late(name, c - 1)};"
        for c in range(1, cycles + 1)
    )


def _circuit(
    name: str, circuit: Circuit, late: Mapping[str, str], sizes: Mapping[str, tuple[int, int]], target: str
) -> str:
    """da4ml's stages between the packed bits of the sources and the integers of the output."""
    bits = sizes[circuit.output][1]
    if not circuit.stages:
        return "\n".join(
            f"    assign {target}[{k * bits} +: {bits}] = {bits}'d{value & ((1 << bits) - 1)};"
            for k, value in enumerate(circuit.constants)
        )
    lines = [f"    logic [{circuit.stages[0][1] - 1}:0] {name}_packed;"]
    at = 0
    for edge, wires in circuit.sources.items():
        packed, at = _pack(f"{name}_packed", at, wires, sizes[edge][1], late[edge])
        lines += packed
    before = f"{name}_packed"
    given = [*(width for _, width in circuit.stages[1:]), circuit.output_bits]
    for i, ((module, width), out) in enumerate(zip(circuit.stages, given, strict=True)):
        taken = before
        if circuit.registered:
            taken = f"{name}_in{i}"
            lines += [f"    logic [{width - 1}:0] {taken};", f"    always_ff @(posedge clk) {taken} <= {before};"]
        before = f"{name}_out{i}"
        lines += [
            f"    logic [{out - 1}:0] {before};",
            f"    {module} {name}_stage{i} (.model_inp({taken}), .model_out({before}));",
        ]
    return "\n".join([*lines, *_unpack(before, circuit.wires, bits, target)])


def _pack(packed: str, at: int, wires: Sequence[Wire], bits: int, edge: str) -> tuple[list[str], int]:
    """da4ml packs the bits each input needs, the first in the low bits; inputs that no weight reaches have none."""
    lines = []
    for k, wire in enumerate(wires):
        if wire.width:
            taken = f"{edge}[{k * bits + wire.shift} +: {wire.width}]"
            lines.append(f"    assign {packed}[{at} +: {wire.width}] = {taken};")
            at += wire.width
    return lines, at


def _unpack(packed: str, wires: Sequence[Wire], bits: int, edge: str) -> list[str]:
    """Every output in the same number of bits, with the zeros that da4ml leaves out below and its sign above."""
    lines, at = [], 0
    for k, wire in enumerate(wires):
        place = f"{edge}[{k * bits} +: {bits}]"
        if not wire.width:
            lines.append(f"    assign {place} = '0;")
            continue
        width = min(wire.width, bits - wire.shift)
        above = bits - wire.shift - width
        fill = f"{packed}[{at + width - 1}]" if wire.signed else "1'b0"
        parts = [f"{{{above}{{{fill}}}}}"] if above else []
        parts += [f"{packed}[{at} +: {width}]", *([f"{wire.shift}'d0"] if wire.shift else [])]
        lines.append(f"    assign {place} = {{{', '.join(parts)}}};")
        at += wire.width
    return lines
