"""The list of mutants is in order: each names one line, changes it, leaves Python that parses, and tests that exist;
and the runner can tell a killed mutant from a survivor."""

from __future__ import annotations

import ast

import pytest

from tests.mutants.run import LIST, Mutant, kill, read_mutants, run_mutants, turn

MUTANTS = read_mutants()


def test_there_are_enough_and_no_two_alike():
    assert len(MUTANTS) >= 80 and len(set(map(str, MUTANTS))) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_mutant_is_one_line_of_its_own(repo, mutant):
    text = (repo / mutant.file).read_text()
    assert text.count(mutant.old) == 1, f"{LIST.name}: {mutant.file} has {mutant.old!r} {text.count(mutant.old)} times"
    assert "\n" not in mutant.old and mutant.old != mutant.new
    if mutant.file.endswith(".py"):
        ast.parse(text.replace(mutant.old, mutant.new))
    words = iter(mutant.tests)
    for test in words:
        if test in ("-k", "-m"):
            assert next(words)
            continue
        path, _, name = test.partition("::")
        assert (repo / path).is_file(), test
        assert not name or f"def {name.partition('[')[0]}(" in (repo / path).read_text(), test


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "rule.py").write_text("def double(x):\n    return 2 * x\n")
    (tmp_path / "test_rule.py").write_text(
        "import rule\n\ndef test_weak():\n    assert rule.double(0) == 0\n\ndef test_strong():\n    assert "
        "rule.double(3) == 6\n"
    )
    return tmp_path


def test_a_killed_mutant_and_a_survivor(checkout):
    strong, weak = (
        Mutant("rule.py", "2 * x", "3 * x", (f"test_rule.py::{name}",)) for name in ("test_strong", "test_weak")
    )
    assert kill(strong, checkout) and not kill(weak, checkout)
    assert (checkout / "rule.py").read_text() == "def double(x):\n    return 2 * x\n"


def test_a_mutant_that_is_nowhere_is_a_fault(checkout):
    with pytest.raises(ValueError, match="rule.py has '4 \\* x' 0 times"):
        kill(Mutant("rule.py", "4 * x", "5 * x", ("test_rule.py",)), checkout)
    with pytest.raises(RuntimeError, match="they are no tests"):
        kill(Mutant("rule.py", "2 * x", "5 * x", ("test_nothing.py",)), checkout)


def test_a_bounded_run_says_what_it_left(checkout, monkeypatch):
    """None is begun after the time; another day begins elsewhere, and none is lost."""
    several = [Mutant("rule.py", "2 * x", f"{k} * x", ("test_rule.py::test_strong",)) for k in range(3, 8)]
    assert run_mutants(several, 1, -1.0) == ([], [], several)
    days = [turn(several, day) for day in range(5)]
    assert len({str(order[0]) for order in days}) == 5
    assert all(sorted(map(str, order)) == sorted(map(str, several)) for order in days)
