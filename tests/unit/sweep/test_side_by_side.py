"""The plot of accuracy against training energy, and the page of trainings side by side that benchmarks write."""

from __future__ import annotations

from greenedge.report.sweep import write_sweep
from greenedge.report.training import tradeoff


def test_the_picture_has_a_point_for_each_and_hollow_ones_for_estimates():
    def metrics(joules, score, evidence="estimated", curve=None):
        key = "energy_j" if evidence == "measured" else "energy_estimate_j"
        energy = {key: joules, "unit": "j", "scope": "chip", "evidence": evidence, "covers": "cpu"}
        return {"metric": "accuracy", "accuracy": score, "ledger": {"total": {"energy": energy}}} | (
            {"curve": {"points": curve}} if curve else {}
        )

    found = tradeoff(
        [("a", metrics(2.0, 0.9, curve=[[1.0, 0.5], [2.0, 0.8]])), ("b", metrics(4.0, 0.95, "measured")), ("c", {})]
    )
    a, b = found["marks"]
    assert (a["estimated"], b["estimated"]) == (True, False) and len(a["points"].split()) == 2
    assert a["x"] < b["x"] and a["y"] > b["y"]  # more joules to the right, more accuracy higher up
    assert all(
        found["left"] <= mark["x"] <= found["right"] and 0 <= mark["y"] <= found["bottom"] for mark in found["marks"]
    )
    assert tradeoff([("c", {})]) is None


def test_nothing_in_a_name_becomes_markup(tmp_path):
    page = write_sweep(
        [{"name": "<b>x", "metric": "accuracy", "score": 0.5}], tmp_path / "p.html", "<i>t", "l"
    ).read_text()
    assert "<b>x" not in page and "<i>t" not in page
