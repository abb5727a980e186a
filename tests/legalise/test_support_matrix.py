"""Totality: every operation on every back end is lowered, legalised away or refused; the table of the documentation
says which."""

from __future__ import annotations

import os

import pytest

from greenedge.backends import BACKENDS, load_backend
from greenedge.graph import OPS
from greenedge.legalise.support import describe_support, support_table

DOCUMENT = "docs/support.md"


@pytest.mark.parametrize("name", sorted(BACKENDS))
def test_every_operation_has_its_answer(name):
    backend = load_backend(name)
    for kind in OPS.values():
        assert describe_support(backend.rules, backend.passes, kind) in ("lowered", "legalised", "refused"), kind
    unknown = set(backend.rules) - set(OPS.values())
    assert not unknown, f"{name} has rules for {unknown}, which are no operations of the graph"
    stray = set(backend.rules.supported) - set(backend.rules)
    assert not stray, f"{name} states limits of {stray}, for which it has no rule"


def test_the_documentation_shows_the_matrix(repo):
    table = support_table({name: load_backend(name) for name in sorted(BACKENDS)})
    path = repo / DOCUMENT
    if os.environ.get("GOLDEN") == "1":
        path.write_text(table)
    assert path.read_text() == table, f"{DOCUMENT} is not what the rules say; GOLDEN=1 writes it anew"
