"""Every point is a row: built, refused, failed, or differing, and the sweep goes on behind it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import fakes
import pytest

from greenedge.errors import GreenedgeError, Reason, ReasonKind, TargetError
from greenedge.sweep.engine import Watch, run_sweep
from greenedge.sweep.outputs import exit_code, terminal
from greenedge.sweep.space import make_space, parse_vary
from greenedge.sweep.sweep import Given, Sweep, plan_sweep

# a weight of the first layer differs by 4 in what is built, where fps is 3
DIFFER = """
import json, numpy as np, shutil
with np.load('graph.npz') as archive:
    arrays = {key: archive[key] for key in archive.files}
key = next(key for key in sorted(arrays) if key.endswith('.weight'))
arrays[key] = arrays[key].copy()
arrays[key].flat[0] ^= 4
with open('model.fake', 'wb') as file:
    np.savez_compressed(file, **arrays)
"""


def install(monkeypatch) -> None:
    """A back end that refuses fps=4, whose build for fps=5 fails, and for fps=3 differs."""

    def check(graph, target, options):
        if options.get("fps") != 4:
            return []
        return [Reason("fc1", ReasonKind.TOO_SLOW, "4 per second are asked for", "the bench gives 3", "ask for 3")]

    def plan(graph, target, options, epilogue=None):
        command = {3: DIFFER, 5: "import sys; sys.exit('out of wood')"}.get(options.get("fps"), fakes.COPY)
        return fakes._plan(graph, command)

    fakes.install(monkeypatch, check=check, plan=plan)


@pytest.fixture
def source(tmp_path) -> tuple[str, str]:
    """(model file, board file) of the fakes."""
    return str(fakes.write_model(tmp_path / "small.onnx")), str(fakes.write_board(tmp_path))


def plan(source, vary, **facts) -> Sweep:
    model, board = source
    return plan_sweep(Sweep(model, make_space(parse_vary(vary)), **{"sampler": "auto", **facts}), [board])


def test_one_variant_of_six_differs(tmp_path, source, monkeypatch):
    install(monkeypatch)
    lines: list[str] = []
    found = run_sweep(plan(source, ["build.fps=1,2,3,4,5,6"]), tmp_path / "s", watch=Watch(tell=lines.append))
    assert [row["status"] for row in found["rows"]] == ["done", "done", "differs", "refused", "failed", "done"]
    assert exit_code(found["rows"]) == 5
    sentences = [row.get("sentence", "") for row in found["rows"]]
    assert sentences[2].startswith("fake differs from the integer graph on ") and "fc1" in sentences[2]
    assert "fc1: 4 per second are asked for; the bench gives 3 (cure: ask for 3)." in sentences[3]
    assert "fake.log" in sentences[4]
    for row in found["rows"]:
        assert (tmp_path / "s" / row["folder"] / "manifest.json").is_file()
    assert [row["figures"].get("bytes") is not None for row in found["rows"]] == [True, True, False, False, False, True]
    assert lines[0] == "1 of 6  fps=1: done" and lines[2].startswith("3 of 6  fps=3: differs: fake differs")


def test_what_programs_read(tmp_path, source, monkeypatch):
    install(monkeypatch)
    found = run_sweep(plan(source, ["build.fps=1,4"]), tmp_path / "s")
    assert json.loads((tmp_path / "s" / "sweep.json").read_text()) == json.loads(json.dumps(found))
    with open(tmp_path / "s" / "sweep.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["done", "refused"] and rows[0]["build.fps"] == "1"
    assert rows[0]["bytes evidence"] == "counted" and rows[1]["bytes"] == ""
    heads, lines = terminal(found)
    assert heads[1] == "build.fps" and lines[1][-1].startswith("refused: small cannot be built for bench by fake:")
    page = (tmp_path / "s" / "sweep.html").read_text()
    assert "://" not in page.replace("http://www.w3.org/2000/svg", "") and "default-src 'none'" in page


def test_nothing_in_a_row_becomes_markup(tmp_path, source, monkeypatch):
    from greenedge.sweep.outputs import to_json, to_page

    row = {"number": 0, "name": "</script><b>", "settings": {"a": "<i>"}, "status": "failed", "figures": {}}
    found = {"name": "<x>", "axes": {"a": ["<i>"]}, "objectives": [], "points": 1, "rows": [row]}
    page = to_page(found, to_json(found))
    assert "<b>" not in page and "<i>" not in page and "<x>" not in page


def test_a_cell_is_no_formula():
    from greenedge.sweep.outputs import to_csv

    row = {"number": 0, "name": "a", "settings": {"a": "=1+1"}, "status": "failed", "figures": {}, "sentence": "@x"}
    text = to_csv({"axes": {"a": ["=1+1"]}, "rows": [row]})
    assert text.splitlines()[1] == "0,failed,'=1+1,,,'@x"


def test_the_same_command_again_runs_nothing_again(tmp_path, source, monkeypatch):
    install(monkeypatch)
    sweep, stages = plan(source, ["build.fps=1,2"]), []
    first = run_sweep(sweep, tmp_path / "s")
    again = run_sweep(sweep, tmp_path / "s", watch=Watch(on_stage=lambda run, summary: stages.append(summary["stage"])))
    assert again == first and not stages


def test_a_failed_point_is_run_again_where_that_is_asked(tmp_path, source, monkeypatch):
    install(monkeypatch)
    sweep = plan(source, ["build.fps=4,5"])
    assert [row["status"] for row in run_sweep(sweep, tmp_path / "s")["rows"]] == ["refused", "failed"]
    fakes.install(monkeypatch)
    assert [row["status"] for row in run_sweep(sweep, tmp_path / "s")["rows"]] == ["refused", "failed"]
    assert [row["status"] for row in run_sweep(sweep, tmp_path / "s", retry=True)["rows"]] == ["refused", "done"]


def test_stages_that_points_share_are_run_once(tmp_path, source, monkeypatch):
    install(monkeypatch)
    seen: list[tuple[str, str]] = []
    watch = Watch(on_stage=lambda run, summary: seen.append((summary["stage"], summary["status"])))
    run_sweep(plan(source, ["build.fps=1,2,6"]), tmp_path / "s", watch=watch)
    assert seen.count(("lower", "done")) == 1 and seen.count(("lower", "copied")) == 3
    assert seen.count(("build", "done")) == 3 and seen.count(("trial", "done")) == 3


def test_joules_that_were_measured_since_are_shown(tmp_path, source, monkeypatch):
    from greenedge.energy.evidence import Figure, figure_json

    install(monkeypatch)
    space = make_space(parse_vary(["build.fps=1,2"]), (), ("energy_j",))
    sweep = plan_sweep(Sweep(source[0], space, sampler="auto"), [source[1]])
    assert not any("front" in row for row in run_sweep(sweep, tmp_path / "s")["rows"])
    for number, evidence in ((0, "measured"), (1, "estimated")):
        path = tmp_path / "s" / "trials" / f"{number:04d}" / "7-report" / "summary.json"
        figure = figure_json(Figure(2e-6, "energy", "j", "board", evidence, covers="whole board"))
        path.write_text(json.dumps({**json.loads(path.read_text()), "energy": [{"figures": {"total": figure}}]}))
    measured, estimated = run_sweep(sweep, tmp_path / "s")["rows"]
    assert measured["figures"]["energy_j"] == {"value": 2e-6, "evidence": "measured", "scope": "board, whole board"}
    assert "energy_j" not in estimated["figures"] and estimated["figures"]["energy_estimate_j"]["value"] == 2e-6
    assert (measured.get("front"), estimated.get("front")) == (0, None)


def test_a_tracker_that_is_away_ends_nothing(tmp_path, source, monkeypatch):
    def on_stage(run, summary):
        raise ConnectionError("nobody answers\nat all")

    install(monkeypatch)
    row = run_sweep(plan(source, ["build.fps=1"]), tmp_path / "s", watch=Watch(on_stage=on_stage))["rows"][0]
    assert row["status"] == "done" and row["untracked"] == "trial: ConnectionError: nobody answers"


def test_builds_for_the_front_only(tmp_path, source, monkeypatch):
    from greenedge.backends.interface import Outline

    def outline(plan, target):
        return Outline((), (), figures={"estimated_cycles": 10 if b"1" in plan.files["fps"] else 20})

    def make_plan(graph, target, options, epilogue=None):
        made = fakes._plan(graph, fakes.COPY)
        return type(made)({**made.files, "fps": str(options["fps"]).encode()}, made.commands, made.products)

    fakes.install(monkeypatch, outline=outline, plan=make_plan)
    space = make_space(parse_vary(["build.fps=1,2,3"]), (), ("weight_bits", "estimated_cycles"))
    sweep = plan_sweep(Sweep(source[0], space, build="front", sampler="auto"), [source[1]])
    found = run_sweep(sweep, tmp_path / "s")
    assert [row["stage"] for row in found["rows"]] == ["report", "plan", "plan"]
    built = found["rows"][0]
    assert built["figures"]["estimated_cycles"]["evidence"] == "estimated" and built["figures"]["bytes"]["value"] > 0
    assert built["folder"] == "trials/0000" and built["front"] == 0


def test_estimates_choose_builds_and_nothing_built_can(source):
    with pytest.raises(TargetError) as caught:
        model, board = source
        space = make_space(parse_vary(["build.fps=1,2"]), (), ("accuracy", "lut4"))
        plan_sweep(Sweep(model, space, build="front", sampler="auto"), [board])
    assert str(caught.value) == (
        "--build front chooses by what is known before the build, and lut4 is not; judge by accuracy, weight_bits, "
        "parameters, bytes, estimated_lut4, estimated_bram_bits, estimated_cycles, training_energy_j, "
        "training_energy_simulated_j, training_energy_estimate_j, training_carbon_estimate_g."
    )


def test_another_sweep_or_something_else_in_the_folder(tmp_path, source, monkeypatch):
    install(monkeypatch)
    run_sweep(plan(source, ["build.fps=1"]), tmp_path / "s")
    with pytest.raises(GreenedgeError, match=r"s holds a study whose space is another \(.*\); choose another folder"):
        run_sweep(plan(source, ["build.fps=1,2"]), tmp_path / "s")
    fakes.write_model(Path(source[0]), hidden=6)
    with pytest.raises(GreenedgeError, match=r"s holds a study whose source has changed since \("):
        run_sweep(plan(source, ["build.fps=1"]), tmp_path / "s")
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "thesis.txt").touch()
    with pytest.raises(GreenedgeError, match=r"t holds 'thesis.txt' and is no study; choose another folder with --st"):
        run_sweep(plan(source, ["build.fps=1"]), tmp_path / "t")


def test_a_folder_that_cannot_be_written(tmp_path, source, monkeypatch):
    install(monkeypatch)
    sweep = plan(source, ["build.fps=1"])
    monkeypatch.setattr(Path, "mkdir", _refuse)
    with pytest.raises(GreenedgeError, match=r"s could not be written: permission denied; choose another folder with"):
        run_sweep(sweep, tmp_path / "s")


def _refuse(path, *words, **more):
    raise PermissionError(13, "Permission denied", str(path))


@pytest.mark.parametrize(
    "vary, facts, message",
    [
        (["train.epochs=1,2"], {}, r"^train.epochs belongs to a recipe; of a model file vary build.KEY, target, backend, quantise.bits, "),  # noqa: E501
        (["build.fpz=1,2"], {}, r"fpz"),
        (["target=ulx3s-85f"], {}, r"^target is varied, and --target names one too; leave one of the two out.$"),
        (["build.fps=1"], {"until": "train"}, r"^small is a model file, which is not trained; say --until lower, or"),
        (["build.fps=1"], {"until": "finish"}, r"^'finish' is none of: train, export, lower, plan, build, verify, report.$"),  # noqa: E501
        (["build.fps=1"], {"energy_j": 2.0}, r"^--energy buys epochs of a recipe's training, and .*small.onnx is a model file; leave it out.$"),  # noqa: E501
        (["build.fps=1,2,3"], {"sampler": "grid", "trials": 2}, r"^the grid has 3 points and --trials allows 2; leave --trials out"),  # noqa: E501
    ],
)  # fmt: skip
def test_what_is_no_sweep(source, monkeypatch, vary, facts, message):
    install(monkeypatch)
    with pytest.raises(TargetError, match=message):
        plan(source, vary, **facts)


def test_a_figure_that_there_is_not(source):
    with pytest.raises(
        TargetError, match=r"^there is no figure 'lut5' to judge by \(.*lut4.*\); figures are: accuracy"
    ):
        plan_sweep(Sweep(source[0], make_space(parse_vary(["build.fps=1"]), (), ("lut5",))), [source[1]])


def test_samples_of_a_model_give_accuracy(tmp_path, source, monkeypatch, rng):
    import numpy as np

    install(monkeypatch)
    np.save(tmp_path / "x.npy", rng.integers(0, 16, (8, 6)).astype(np.float32))
    np.save(tmp_path / "y.npy", rng.integers(0, 3, 8))
    given = Given(str(tmp_path / "x.npy"), str(tmp_path / "y.npy"))
    found = run_sweep(plan(source, ["build.fps=1"], given=given), tmp_path / "s")
    figures = found["rows"][0]["figures"]
    assert 0 <= figures["accuracy"]["value"] <= 1 and figures["accuracy"] == figures["built_accuracy"]
