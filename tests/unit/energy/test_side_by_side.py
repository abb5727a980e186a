"""CPU against FPGA without a meter: a page on which no length and no number can be read as a ratio, and what would
allow one."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from greenedge.energy import results
from greenedge.energy.commands import app
from greenedge.energy.estimate import Activity, cpu_row, fpga_row
from greenedge.energy.evidence import Figure
from greenedge.energy.plots import bars_svg
from greenedge.energy.results import make_row
from greenedge.energy.source import SourceInfo


def run(*words, code=0):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, (done.output, done.stderr, done.exception)
    return done


def measured(name: str, joules: list[float], scope: str = "board") -> dict:
    info = SourceInfo("hwmon:hwmon0:1", "power", scope, "the board")
    mean = sum(joules) / len(joules)
    total = Figure(mean, "energy", "j", scope, "measured", mean * 0.99, mean * 1.01, covers=info.covers)
    return make_row(name, "command", info, {"total": total}) | {"repetitions": [{"energy_j": j} for j in joules]}


@pytest.fixture
def files(tmp_path):
    rows = {
        "cpu": cpu_row("net on linux-x86", 2.0, 1000, 12.0, 1, "a figure", 0.002),
        "fpga": fpga_row("net on ulx3s", "lfe5u-85f", 25e6, Activity(10**9, 1.0, 5), cycles=100, streaming=True),
        "one": measured("one", [1.0, 1.1, 0.9]),
        "other": measured("other", [2.0, 2.1, 1.9]),
        "chip": measured("chip", [0.5, 0.6, 0.4], "chip"),
    }
    for name, row in rows.items():
        results.save(results.document([row]), tmp_path / f"{name}.json")
    return {name: tmp_path / f"{name}.json" for name in rows}


def test_two_estimates_stand_side_by_side_without_a_ratio(files, tmp_path):
    done = run("compare", files["cpu"], files["fpga"], "--html", tmp_path / "page.html")
    assert not re.search(r"ratio \d", done.stdout)
    assert "No ratio: net on linux-x86 (cpu package share) is estimated from CPU time" in done.stdout
    assert "No ratio: net on ulx3s (lfe5u-85f core rail) has no repetitions" in done.stdout, "all reasons at once"
    assert "It would take: net on linux-x86: measure it where the processor has a live counter" in done.stdout
    assert "It would take: net on ulx3s: put a meter into the supply of its board" in done.stdout
    assert done.stdout.count("ESTIMATED ≈") == 3, "two energies and a power"
    page = (tmp_path / "page.html").read_text()
    assert page.count("ESTIMATED") >= 4 and "which says nothing that its latency does not" in page
    assert not re.search(r"\b(times|×) (more|less)|\bratio \d", page)
    found = json.loads(run("compare", files["cpu"], files["fpga"], "--json").stdout)
    assert found["ratio"] is None and len(found["reasons"]) == 3 and len(found["measurements"]) == 3


def test_another_scope_or_evidence_is_no_ratio_and_says_what_would_be(files):
    said = run("compare", files["one"], files["chip"]).stdout
    assert "scope board (the board) and scope chip (the board) do not cover the same thing" in said
    assert "It would take: Both at one scope: board for both, with a meter in the supply of each" in said
    assert "takes more than" in run("compare", files["one"], files["chip"], "--allow-scope-mismatch").stdout
    said = run("compare", files["one"], files["fpga"]).stdout
    assert "measured and estimated numbers make no ratio" in said


def test_two_measurements_of_one_scope_have_their_ratio(files, tmp_path):
    done = run("compare", files["other"], files["one"], "--html", tmp_path / "page.html")
    assert "other (the board) takes more than one (the board): ratio 2" in done.stdout
    assert "ratio 2" in (tmp_path / "page.html").read_text()


def test_three_results_are_weighed_against_the_first(files):
    found = json.loads(run("compare", files["one"], files["other"], files["fpga"], "--json").stdout)["comparisons"]
    assert found[0]["ratio"] == pytest.approx(0.5, rel=0.01) and found[1]["ratio"] is None


def test_a_run_stands_for_its_newest_result(files, tmp_path):
    folder = tmp_path / "run/6-measure"
    folder.mkdir(parents=True)
    (folder / "a.json").write_bytes(files["one"].read_bytes())
    assert "ratio 2" in run("compare", files["other"], tmp_path / "run").stdout
    assert run("compare", files["one"], tmp_path, code=1).stderr.strip() == (
        f"greenedge: {tmp_path} holds no energy result: `greenedge energy measure {tmp_path}` makes one, with --source "
        "estimate where there is no meter."
    )


def test_only_alike_results_share_an_axis(files):
    """Filled where an instrument measured it, hollow where not; a length is no ratio across scopes and estimates."""
    rows = {name: results.load(path)["rows"][0] for name, path in files.items()}

    def draw(*names):
        svg = bars_svg({"rows": [rows[name] for name in names]})
        bars = re.findall(r'<g id="patch_\d+">\s*<path [^>]*?style="(fill: [^;"]+)[^"]*stroke: #1f5f8b|c2571a', svg)
        return svg.count('id="axes_'), bars

    assert draw("one", "other")[0] == 1
    assert draw("one", "chip")[0] == 2
    assert draw("cpu", "fpga")[0] == 2
    assert draw("one", "fpga")[0] == 2
    assert draw("cpu")[1] == ["fill: none"] and draw("one")[1] != ["fill: none"]
    assert bars_svg({"rows": []}) == ""
