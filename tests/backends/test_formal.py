"""Queue, FIFO, width converter, fork and ring adder, proved: no loss, no duplication, no reordering, bounded depth."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from greenedge.hdl import RTL
from tests import formal

pytestmark = [pytest.mark.tool("yosys"), pytest.mark.tool("z3")]


@dataclass(frozen=True)
class Subject:
    """One harness with its parameters; `mutants`: (unit, text, text that breaks it), found within `depth` steps."""

    harness: str
    parameters: dict[str, int]
    units: tuple[str, ...]
    depth: int
    mutants: tuple[tuple[str, str, str], ...] = field(default=())

    @property
    def name(self) -> str:
        return "-".join([self.harness, *(f"{key}{value}" for key, value in self.parameters.items())])

    def sources(self) -> dict[str, str]:
        """The units, then the harness."""
        files = {f"{unit}.sv": (RTL / f"{unit}.sv").read_text() for unit in self.units}
        return {**files, "harness.sv": (formal.FOLDER / f"{self.harness}.sv").read_text()}


SUBJECTS = [
    Subject(
        "fifo",
        {"DEPTH": 4, "WIDTH": 2},
        ("ge_fifo",),
        16,
        (
            # a word is overwritten before it has left
            ("ge_fifo", "freed <= pop;", "freed <= pop || push;"),
            # one is read twice
            ("ge_fifo", "if (pop)  rd <= rd + 1'b1;", "if (pop && !push) rd <= rd + 1'b1;"),
            # the output changes while it waits
            ("ge_fifo", "if (!m_tvalid || m_tready) m_tdata <= mem[rd];", "m_tdata <= mem[rd];"),
        ),
    ),
    Subject("fifo", {"DEPTH": 1, "WIDTH": 1}, ("ge_fifo",), 12),
    Subject(
        "queue",
        {"DEPTH": 5, "WIDTH": 1},
        ("ge_fifo", "ge_queue"),
        20,
        (
            # it takes a word too many
            ("ge_queue", "(used_next != (AW+1)'(WORDS))", "(used != (AW+1)'(WORDS))"),
            # a place is never given back
            (
                "ge_queue",
                "assign used_next = used + beat - leave;",
                "assign used_next = used + beat - (leave && !beat);",
            ),
        ),
    ),
    Subject(
        "queue",
        {"DEPTH": 65, "WIDTH": 1},
        ("ge_fifo", "ge_queue"),
        10,
        (
            # a word is dropped where two registers move at once
            ("ge_queue", "if (move1) held <= some;", "if (move1) held <= some && !move2;"),
            # the read register moves on though nobody has taken its word
            ("ge_queue", "assign move1 = !held || move2;", "assign move1 = 1'b1;"),
        ),
    ),
    Subject(
        "width",
        {"BITS": 2, "IN": 1, "OUT": 3},
        ("ge_width",),
        16,
        (
            # the last element of a word is overwritten while the word waits
            ("ge_width", "assign s_tready = !full || !m_tvalid || m_tready;", "assign s_tready = 1'b1;"),
            # elements change places
            ("ge_width", "{s_tdata[IN*BITS-1:0], gathered} >> IN*BITS", "{gathered, s_tdata[IN*BITS-1:0]}"),
        ),
    ),
    Subject("width", {"BITS": 1, "IN": 2, "OUT": 4}, ("ge_width",), 14),
    Subject(
        "width",
        {"BITS": 2, "IN": 3, "OUT": 1},
        ("ge_width",),
        16,
        (
            # the next word comes before the last element of this one has left
            (
                "ge_width",
                "assign s_tready = !m_tvalid || (m_tready && last);",
                "assign s_tready = !m_tvalid || m_tready;",
            ),
            # an element is sent twice
            ("ge_width", "last <= (n == NW'(N - 2));", "last <= (n == NW'(N - 1));"),
        ),
    ),
    Subject("width", {"BITS": 1, "IN": 4, "OUT": 2}, ("ge_width",), 14),
    Subject(
        "fork",
        {"WIDTH": 2},
        ("ge_fork",),
        12,
        (
            # the second consumer may be skipped
            (
                "ge_fork",
                "assign s_tready = (!m0_tvalid || m0_tready) && (!m1_tvalid || m1_tready);",
                "assign s_tready = !m0_tvalid || m0_tready;",
            ),
            # the first gets a word twice
            ("ge_fork", "m0_tvalid && !m0_tready;", "m0_tvalid;"),
        ),
    ),
    *(
        Subject(
            "ring_add",
            {"DEPTH": depth},
            ("ge_ring_add",),
            3,
            (
                (("ge_ring_add", "assign y = wrapped[AW] ? ahead", "assign y = !wrapped[AW] ? ahead"),)
                if depth == 10
                else ()
            ),
        )
        for depth in (2, 3, 10, 64, 1000)
    ),
]


def _by_name(subject: Subject, *values):
    """A queue's proof takes longest by far."""
    name = "-".join([subject.name, *(value[2][:40] for value in values)])
    return pytest.param(subject, *values, marks=[pytest.mark.slow] * (subject.harness == "queue"), id=name)


@pytest.mark.parametrize("subject", [_by_name(subject) for subject in SUBJECTS])
def test_unit_is_proved(subject, tmp_path):
    """For every input, also resets in between, and any length of time; and the harness does reach what it speaks of."""
    proof = formal.prove(f"formal_{subject.harness}", subject.parameters, subject.sources(), tmp_path, subject.depth)
    assert proof.bounded and proof.inductive and proof.covered, proof.log


@pytest.mark.parametrize(
    "subject, mutant",
    [_by_name(subject, mutant) for subject in SUBJECTS for mutant in subject.mutants],
)
def test_proof_fails_for_a_mutant(subject, mutant, tmp_path):
    """A mutant breaks a real run from power-up, not merely the induction."""
    unit, whole, broken = mutant
    sources = subject.sources()
    assert sources[f"{unit}.sv"].count(whole) == 1, whole
    sources[f"{unit}.sv"] = sources[f"{unit}.sv"].replace(whole, broken)
    proof = formal.prove(f"formal_{subject.harness}", subject.parameters, sources, tmp_path, subject.depth)
    assert not proof.bounded and "Assert failed" in proof.log, proof.log
