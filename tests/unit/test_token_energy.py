"""What others published stands there with its source, in no order of merit, and follows from what the source says."""

from __future__ import annotations

import dataclasses

import pytest

from greenedge.report.token_energy import read_published_energy

FIGURES = read_published_energy()
_FROM = {"7 W / 9 tokens/s": 7 / 9, "about 1 W times 15.9 ms": 1 * 15.9e-3, "46 W / 727 tokens/s": 46 / 727}
_FROM["1 / 455 tokens/s/W"] = 1 / 455


def test_figures_are_named_with_their_sources():
    assert len(FIGURES) >= 5 and len({one.system for one in FIGURES}) == len(FIGURES)
    assert [one.system for one in FIGURES] == sorted((one.system for one in FIGURES), key=str.lower)
    assert all(one.source.startswith("https://") and 2020 < one.year < 2100 for one in FIGURES)


@pytest.mark.parametrize("one", FIGURES, ids=lambda one: one.system)
def test_a_figure_is_the_sources_or_follows_from_it(one):
    if one.evidence.startswith("computed here: "):
        assert one.joules_per_token == pytest.approx(_FROM[one.evidence.removeprefix("computed here: ")], rel=0.02)
    else:
        assert f"{one.joules_per_token:g}" in one.stated


@pytest.mark.parametrize(("name", "value"), [("scope", ""), ("joules_per_token", 0.0), ("year", -1)])
def test_an_empty_figure_is_refused(name, value):
    with pytest.raises(ValueError, match=f"token_energy.toml: {name} of"):
        dataclasses.replace(FIGURES[0], **{name: value})
