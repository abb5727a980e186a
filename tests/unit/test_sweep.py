"""`greenedge sweep`: variants side by side, at equal energy, resumed, and refused before anything is trained."""

from __future__ import annotations

import json

import pytest

from greenedge.errors import GreenedgeError, TargetError
from greenedge.report.sweep import terminal, write_sweep
from greenedge.report.training import tradeoff
from greenedge.run.sweep import Sweep, folder_of, name_of, run_sweep, variants


def _sweep(out, vary, energy=0.0, sets=("train.epochs=1", "model.hidden=8", "ledger.source=none")) -> Sweep:
    return Sweep("digits-mlp", vary, sets, (), None, out, "train", energy)


def test_every_combination_in_order():
    assert variants(["a.b=1,2", "c.d=x"]) == [{"a.b": "1", "c.d": "x"}, {"a.b": "2", "c.d": "x"}]
    assert variants(['distil.features=["a=b","c=d"],[]']) == [
        {"distil.features": '["a=b","c=d"]'},
        {"distil.features": "[]"},
    ]
    assert name_of({"train.optimiser": "sgd", "train.seed": "1"}) == "optimiser=sgd seed=1"
    assert folder_of({"a": "../../etc/x y"}) == "a=.._.._etc_x_y"


@pytest.mark.parametrize(
    "vary, message",
    [
        (
            ["train.seed"],
            "--vary 'train.seed' is not understood; write KEY=VALUE,VALUE, such as train.optimiser=sgd,adam.",
        ),
        (
            ["train.seed=1,,2"],
            "--vary 'train.seed=1,,2' is not understood; write KEY=VALUE,VALUE, such as train.optimiser=sgd,adam.",
        ),
        ([], "a sweep has 1 to 256 variants, these are 0; say --vary KEY=VALUE,VALUE."),
        (
            [f"train.seed={','.join(map(str, range(300)))}"],
            "a sweep has 1 to 256 variants, these are 300; say --vary KEY=VALUE,VALUE.",
        ),
    ],
)
def test_what_is_no_sweep(vary, message):
    with pytest.raises(TargetError) as caught:
        variants(vary)
    assert str(caught.value) == message


def test_a_wrong_variant_is_refused_before_the_first_is_trained(tmp_path):
    with pytest.raises(TargetError, match="train.optimiser is 'adan'"):
        run_sweep(_sweep(tmp_path / "s", ["train.optimiser=adam,adan"]), lambda job: _silent())
    assert not (tmp_path / "s").exists()


def _silent():
    from greenedge.run.job import Silent

    return Silent()


def test_variants_side_by_side_at_equal_energy(tmp_path):
    sweep = _sweep(tmp_path / "s", ["train.optimiser=sgd,adam"], energy=25.0)
    result = run_sweep(sweep, lambda job: _silent())
    assert json.loads((tmp_path / "s" / "sweep.json").read_text()) == json.loads(json.dumps(result))
    assert [row["name"] for row in result["rows"]] == ["optimiser=sgd", "optimiser=adam"]
    epochs = result["epochs"]
    for row in result["rows"]:
        assert row["metrics"]["epochs"] == epochs[row["name"]] >= 1 and row["energy"]["evidence"] == "estimated"
    page = (tmp_path / "s" / "sweep.html").read_text()
    assert "optimiser=sgd" in page and 'class="hollow"' in page and "<script" not in page
    heads, lines = terminal(result["rows"])
    assert heads == ["", "accuracy", "weights", "sample-updates", "training energy"] and lines[0][-1].endswith(
        " estimated"
    )
    pilot = (tmp_path / "s" / "pilot.json").read_bytes()
    again = run_sweep(sweep, lambda job: _silent())  # the pilot's answer stands, so nothing is trained twice
    assert (tmp_path / "s" / "pilot.json").read_bytes() == pilot
    assert [row["metrics"] for row in again["rows"]] == [row["metrics"] for row in result["rows"]]
    (tmp_path / "s" / "pilot.json").write_text("{")
    with pytest.raises(GreenedgeError, match="pilot.json is damaged; delete it and run the command again.$"):
        run_sweep(sweep, lambda job: _silent())


def test_too_little_energy_for_an_epoch(tmp_path):
    with pytest.raises(
        GreenedgeError, match=r"^optimiser=sgd: 1e-06 J buy no epoch; one takes about .* J: raise --energy.$"
    ):
        run_sweep(_sweep(tmp_path / "s", ["train.optimiser=sgd"], energy=1e-6), lambda job: _silent())


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
