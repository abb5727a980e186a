"""Verification with vectors that see memory faults: a fault that the samples miss is found, and the rows say what they
are."""

from __future__ import annotations

import json

import numpy as np
import pytest

from greenedge.errors import VerificationError
from greenedge.graph import Edge, run_graph
from greenedge.hdl.board_shell.read_back import ReadBack
from greenedge.verify.compare import Coverage
from greenedge.verify.fault_vectors import choose_vectors
from tests.unit.test_verify import _CANDIDATES, _run, _verify


class Faults:
    """Fault k shows where the first integer is k; the last is proved harmless, `hidden` shows for nothing."""

    def __init__(self, count: int, hidden: int = -1) -> None:
        self.count, self.hidden, self.searched = count, hidden, []

    def place(self, fault: int) -> str:
        return f"bit {fault}"

    def see(self, x, faults):
        shown = np.asarray(x).reshape(len(x), -1)[:, 0] + 8
        return (faults[:, None] == shown) & (faults != self.hidden)[:, None]

    def prove(self, faults):
        return faults == self.count - 1

    def search(self, fault, starts, rng):
        self.searched.append(fault)
        found = np.array(starts[0])
        found[0] = fault - 8
        return found[None]


EDGE = Edge("x", (6,), -8, 7)


def test_every_bit_is_seen_proved_or_open():
    faults = Faults(17, hidden=3)
    chosen = choose_vectors(faults, EDGE, np.zeros((4, 6), np.int64))
    assert chosen.coverage == Coverage(17, 15, 1, 1, ("bit 3",))
    assert chosen.coverage.text == "coverage 94.11 % of 17 memory bits"
    assert chosen.by_samples == 1 and chosen.newly.sum() == 14
    assert chosen.first(0) == Coverage(17, 1, 1, 15)
    assert chosen.first(len(chosen.vectors)).seen == 15
    assert chosen.vectors.min() >= EDGE.lo and chosen.vectors.max() <= EDGE.hi
    assert set(faults.searched) == {3}


def test_a_coverage_is_never_rounded_up():
    assert Coverage(100_000, 99_999, 0, 1).text == "coverage 99.99 % of 100,000 memory bits"
    assert Coverage(100_000, 99_000, 1_000, 0).text == "coverage 100 % of 100,000 memory bits"


def test_no_time_is_an_honest_number_of_open_bits():
    chosen = choose_vectors(Faults(17), EDGE, np.zeros((4, 6), np.int64), seconds=-1)
    assert chosen.coverage.open == 15 and len(chosen.coverage.open_places) == 8 and len(chosen.vectors) == 0


def _spoiled(lowered, when: int):
    """An execution that is wrong only where the first integer is `when`: a fault that few inputs show."""

    def simulate(folder, x, keep=(), progress=None):
        wrong = (np.asarray(x).reshape(len(x), -1)[:, 0] == when)[:, None]
        return {edge: values + wrong for edge, values in run_graph(lowered.graph, x, keep).items()}

    return simulate


def test_a_fault_that_no_sample_shows_ends_the_verification(tmp_path, monkeypatch, rng):
    hooks: dict = {"memory_faults": lambda graph, build: Faults(17)}
    run, out, lowered = _run(tmp_path, monkeypatch, rng, samples=3, **hooks)
    x = lowered.graph.edges[lowered.graph.inputs[0]]
    assert (x.lo, x.hi, x.shape) == (EDGE.lo, EDGE.hi, EDGE.shape)
    note = _verify(run, out)
    assert note == "3 samples equal in graph, qonnx, rtl; rtl, 15 vectors, coverage 100 % of 17 memory bits" or (
        note.startswith("3 samples equal in graph, qonnx, rtl; rtl, ") and note.endswith("100 % of 17 memory bits")
    )
    row = json.loads((out / "verify.json").read_text())["verify"][-1]
    assert row["candidate"] == "rtl-faults" and row["coverage"]["open"] == 0
    vectors = np.load(out / "fault_vectors.npy")
    assert len(vectors) == row["samples"]
    hooks["simulate"] = _spoiled(lowered, int(vectors[0, 0]))
    samples = np.load(run.export / "inputs.npy")
    from greenedge.lower.float_io import run_prologue

    taken = next(iter(run_prologue(lowered, samples).values()))[:, 0]
    when = next(k for k in range(EDGE.lo, EDGE.hi) if k not in taken)
    _CANDIDATES[run.path].hooks["simulate"] = _spoiled(lowered, when)
    with pytest.raises(
        VerificationError,
        match=r"^rtl on the vectors for memory faults differs from the integer graph on \d+ of \d+ samples; first at ",
    ):
        _verify(run, out)


def test_the_netlist_row_says_what_it_is(tmp_path, monkeypatch, rng):
    given = []

    def netlist(folder, x, progress):
        given.append(len(x))
        return run_graph(lowered.graph, x)

    hooks = {
        "memory_faults": lambda graph, build: Faults(17),
        "partial_stages": lambda folder: {"netlist": netlist},
        "partial_vectors": lambda folder: 5,
    }
    run, out, lowered = _run(tmp_path, monkeypatch, rng, samples=30, **hooks)
    note = _verify(run, out)
    assert given == [29] and "; simulated netlist, 29 vectors, coverage " in note
    written = json.loads((out / "verify.json").read_text())
    row = written["verify"][-1]
    assert (row["candidate"], row["samples"], row["coverage"]["total"]) == ("netlist", 29, 17)
    assert row["coverage"]["seen"] < 17 and len(np.load(out / "netlist.npy")) == 24
    assert "coverage" not in written["verify"][0], "unknown is absent"


def test_what_reads_back_otherwise_ends_the_verification(tmp_path, monkeypatch, rng):
    entries = [ReadBack("memory files", "the integer graph", 970, "words")]
    run, out, _ = _run(tmp_path, monkeypatch, rng, read_back=lambda graph, build, progress: tuple(entries))
    assert _verify(run, out).endswith("; memory files read back")
    assert json.loads((out / "verify.json").read_text())["read_back"][0]["items"] == 970
    entries.append(ReadBack("netlist memories", "the memory files", 8, "bits", 2, "netlist.json has 1 for bit 3."))
    with pytest.raises(VerificationError, match=r"^netlist\.json has 1 for bit 3\.$"):
        _verify(run, out)
