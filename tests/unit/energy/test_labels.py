"""8: no label is lost between a source and JSON, CSV, HTML and terminal; scopes and overlapping domains do not mix."""

from __future__ import annotations

import copy
import csv
import io
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from greenedge.energy import plots, results, terminal
from greenedge.energy.comparison import compare
from greenedge.energy.evidence import (
    EVIDENCE,
    SCOPES,
    Figure,
    add,
    check_comparable,
    evidence_class,
    key_for,
    require,
    worst,
)
from greenedge.energy.html import page
from greenedge.energy.html import table as page_table
from greenedge.energy.selftest import simulate_document
from greenedge.energy.source import SourceInfo
from greenedge.errors import EvidenceError, GreenedgeError


def _row(name, evidence, scope="chip", covers="cpu", value=1.5, accuracy=None, **more):
    info = SourceInfo("s:" + name, "counter", scope, covers, evidence=evidence)
    total = Figure(value, "energy", "j", scope, evidence, value * 0.9, value * 1.1, None, covers)
    reps = [{key_for("energy", "j", evidence): value * (1 + 0.01 * k)} for k in range(5)]
    return results.make_row(name, "callable", info, {"total": total}, accuracy=accuracy, **more) | {
        "repetitions": reps,
        "latency_s": {"value": 0.01 * value},
    }


evidences = st.sampled_from(EVIDENCE)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(evidences, st.sampled_from(SCOPES), st.floats(1e-6, 1e3)), min_size=1, max_size=5))
def test_labels_survive_every_output(parts):
    rows = [_row(f"w{i}", evidence, scope, f"part {i}", value) for i, (evidence, scope, value) in enumerate(parts)]
    data = results.document(rows)
    # JSON: energy_j holds nothing but measured, derived and replayed numbers.
    for row in data["rows"]:
        holds = "energy_j" in row["figures"]["total"]
        assert holds == (evidence_class(row["evidence"]) in ("measured", "replayed"))
        assert ("energy_estimate_j" in row["figures"]["total"]) == (row["evidence"] == "estimated")
    # CSV: one column a class.
    for row, line in zip(rows, csv.DictReader(io.StringIO(results.csv_text(data))), strict=True):
        filled = [key for key in ("energy_j", "energy_simulated_j", "energy_estimate_j") if line["total_" + key]]
        assert filled == [key_for("energy", "j", row["evidence"])] and line["evidence"] == row["evidence"]
    # Terminal and HTML: the estimate's cell says so, the other cell is empty.
    for row in data["rows"]:
        cells = dict(zip(terminal.HEADERS, terminal.result_cells(row), strict=True))
        if row["evidence"] == "estimated":
            assert cells["estimate per inference"].startswith("ESTIMATED ≈") and not cells["total per inference"]
            digits = re.search(r"≈ ([\d.e+-]+)", cells["estimate per inference"])[1]
            assert len(digits.replace(".", "").strip("0")) <= 2
        else:
            assert not cells["estimate per inference"] and cells["total per inference"]
            if evidence_class(row["evidence"]) != "measured":
                assert row["evidence"].upper() in cells["total per inference"]
        assert cells["evidence"] == row["evidence"]
    # Terminal, wide and narrow, and HTML: every row with its word; an estimate's number never without it.
    for width in (60, 400):
        console = Console(width=width, file=io.StringIO())
        console.print(terminal.result_view(data, width))
        text = console.file.getvalue()
        assert all(row["evidence"] in text for row in rows)
        assert text.count("ESTIMATED") == sum(row["evidence"] == "estimated" for row in rows)
        assert text.count("SIMULATED") == sum(row["evidence"] == "simulated" for row in rows)
        assert all(len(line) <= width for line in text.splitlines())
    lines = re.findall(r'<tr class="(\w+)">(.*?)</tr>', page_table(data))
    assert [word for word, _ in lines] == [row["evidence"] for row in rows]
    for word, line in lines:
        cells = dict(
            zip(re.findall(r"<th>(.*?)</th>", page_table(data)), re.findall(r"<td>(.*?)</td>", line), strict=True)
        )
        estimated, read = cells.get("estimate per inference"), cells.get("total per inference")
        assert bool(estimated) == (word == "estimated") != bool(read)


def test_the_page_and_the_figures_keep_the_labels():
    data = results.document(
        [_row("m", "measured", value=2.0), _row("e", "estimated", value=0.001), _row("s", "simulated")]
    )
    html = page(data)
    assert '<tr class="estimated"><td>e</td>' in html and "ESTIMATED ≈ 1 mJ (900 µJ…1.1 mJ)" in html
    assert re.search(r"e \[[^\]]+; estimated, chip\]", html) and "SIMULATED" in html
    # The front asks measured and replayed rows alone, though the estimate would beat them.
    assert plots.front(data["rows"]) == [(0.02, 2.0)]
    assert [plots._solid(row) for row in data["rows"]] == [True, False, False]
    other = results.document([_row("m", "measured", value=2.0), _row("n", "measured", "wall", value=1.0)])
    assert plots.front(other["rows"]) == [], "scopes that differ have no front"


@settings(max_examples=80, deadline=None)
@given(st.lists(evidences, min_size=1, max_size=6))
def test_the_worst_label_wins(labels):
    total = add([Figure(1.0, "energy", "j", "rail", label, covers=f"r{i}") for i, label in enumerate(labels)])
    assert total.evidence == worst([*labels, "derived"])
    if "estimated" in labels:
        assert total.evidence == "estimated" and total.key == "energy_estimate_j"


def test_sums_that_are_refused():
    package = Figure(10.0, "energy", "j", "chip", "measured", covers="cpu package-0")
    psys = Figure(15.0, "energy", "j", "board", "measured", covers="psys")
    with pytest.raises(GreenedgeError) as caught:
        add([package, psys])
    assert str(caught.value) == (
        "figures of scope board and chip cannot be summed: one holds the other; report them side by side."
    )
    with pytest.raises(GreenedgeError) as caught:
        add(
            [package, Figure(15.0, "energy", "j", "chip", "measured", covers="cpu core-0")],
            [("cpu package-0", "cpu core-0")],
        )
    assert str(caught.value) == "cpu package-0 holds cpu core-0, so their sum counts it twice; take one of them."
    with pytest.raises(GreenedgeError, match="stands twice in a sum"):
        add([package, package])


def test_ratios_that_are_refused():
    chip, wall = (Figure(1.0, "energy", "j", scope, "measured", covers=scope) for scope in ("chip", "wall"))
    with pytest.raises(GreenedgeError) as caught:
        check_comparable(chip, wall)
    assert str(caught.value) == (
        "scope chip (chip) and scope wall (wall) do not cover the same thing: measure both "
        "at one scope, or "
        "say --allow-scope-mismatch."
    )
    check_comparable(chip, wall, allow_scope=True)
    with pytest.raises(GreenedgeError) as caught:
        compare(_row("a", "measured"), _row("b", "estimated"))
    assert str(caught.value) == (
        "measured and estimated numbers make no ratio: get the same evidence for both, or say "
        "--allow-evidence-mismatch."
    )
    assert compare(_row("a", "measured"), _row("b", "estimated"), allow_evidence=True).evidence == "estimated"
    with pytest.raises(GreenedgeError) as caught:
        compare(_row("a", "estimated", ranking=False), _row("b", "estimated"), allow_evidence=True)
    assert str(caught.value) == (
        "a (cpu) is estimated from CPU time, which says nothing that its latency does not; "
        "compare latencies, "
        "or measure it."
    )


def test_psys_and_package_are_named_as_overlapping():
    rows = [
        _row("w", "measured", "board", "psys") | {"source": {"id": "a", "covers": "psys", "overlaps": ["cpu package"]}},
        _row("w", "measured", "chip", "cpu package-0"),
    ]
    assert results.overlaps(rows) == [("psys", "cpu package-0")]
    assert "psys holds cpu package-0: do not add them." in terminal.notes({"rows": rows})


@pytest.mark.parametrize(
    "break_it",
    [
        lambda row: row["figures"]["total"].update(energy_j=1.0),
        lambda row: row["figures"]["total"].update(evidence="measured"),
        lambda row: row.update(evidence="measured"),
        lambda row: row["repetitions"][0].update(energy_j=1.0),
        lambda row: row["figures"].update(
            carbon={"carbon_g": 1.0, "unit": "g", "scope": "chip", "evidence": "measured"}
        ),
    ],
)
def test_a_broken_label_is_neither_written_nor_read(break_it, tmp_path):
    data = results.document([_row("e", "estimated")])
    results.save(data, tmp_path / "good.json")
    assert results.load(tmp_path / "good.json") == data
    broken = copy.deepcopy(data)
    break_it(broken["rows"][0])
    with pytest.raises(GreenedgeError):
        results.save(broken, tmp_path / "bad.json")
    assert not (tmp_path / "bad.json").exists()
    import json

    (tmp_path / "bad.json").write_text(json.dumps(broken))
    with pytest.raises(GreenedgeError):
        results.load(tmp_path / "bad.json")


def test_require():
    require("derived", "measured", "x", "y.")
    with pytest.raises(EvidenceError) as caught:
        require("replayed", "measured", "meter.csv", "measure on a live source.")
    assert caught.value.exit_code == 3
    assert str(caught.value) == (
        "meter.csv can only be had as replayed here, --require measured was given: measure on a live source."
    )


def test_a_session_is_a_whole_document():
    data = simulate_document(names=("a", "b"))
    assert {row["workload"] for row in data["rows"]} == {"a", "b"}
    row = data["rows"][0]
    assert row["evidence"] == "simulated" and "energy_j" not in row["figures"]["total"]
    assert len(row["trace_sha256"]) == 64 and row["repetitions"][0]["spans"][1][2] == "window"
    # The order turns from round to round.
    places = [rep["place"] for rep in row["repetitions"]]
    assert places[0] != places[1] and set(places) == {0, 1}
    found = compare(data["rows"][1], row, same_session=True)
    assert found.paired and found.ratio.mean == pytest.approx(2.0, rel=0.01)
    assert found.verdict.startswith("b (cpu package-0) takes more than a (cpu package-0): ratio 2")
    assert plots.power_svg(row).startswith("<svg") and plots.strip_svg(data) and plots.pareto_svg(data)


def test_the_verdict_does_not_see_what_is_not_there():
    rng = np.random.default_rng(0)
    rows = [_row(name, "measured") for name in "ab"]
    for row in rows:
        row["repetitions"] = [{"energy_j": 1 + 0.05 * x} for x in rng.standard_normal(10)]
    assert "are not distinguishable: ratio" in compare(*rows, same_session=True).verdict
    assert not compare(*rows).paired
