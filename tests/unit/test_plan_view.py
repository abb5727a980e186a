"""`greenedge build MODEL.onnx --until plan` shows what would be built, and runs and writes nothing."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from greenedge.cli import app
from greenedge.tools import needs
from tests.lower.models import Model


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Model((1, 8)).quant().dense(8, 3).quant(scale=2.0).save(tmp_path / "m.onnx")


def show(*words: str) -> str:
    done = CliRunner().invoke(app, ["build", *words, "--until", "plan"])
    assert done.exit_code == 0, done.output
    return done.output


def test_a_core_is_shown_with_folding_cycles_and_cells(file, tmp_path):
    told = show(str(file), "--target", "alveo-u250", "--backend", "finn").splitlines()
    assert told[0] == "m for alveo-u250 by finn, planned, nothing built:"
    assert told[1].split() == ["layer", "unit", "PE", "SIMD", "cycles"]
    assert ["MatMul_3", "MatVec"] == told[2].split()[:2]
    assert [line.partition(":")[0] for line in told[-4:]] == [
        "cycles a sample",
        "cycles of latency",
        "logic cells (4-input tables)",
        "memory blocks",
    ]
    assert all(line.endswith("(estimated)") for line in told[-4:]) and " that the core may take" in told[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_every_back_end_has_a_table(file):
    told = json.loads(show(str(file), "--target", "vcu118", "--backend", "hls4ml", "--json"))
    assert told[0]["columns"] == ["layer", "strategy", "reuse", "cycles"] and len(told[0]["layers"]) == 1
    (told,) = json.loads(show(str(file), "--target", "cortex-m4", "--json"))
    assert told["columns"] == ["file", "bytes"] and told["bytes"]["model.c"] > 0 and told["estimated"] == {}


def test_no_tool_is_needed(file, monkeypatch):
    monkeypatch.setattr(needs, "find_missing", lambda names: list(names))
    assert "planned, nothing built" in show(str(file), "--target", "ulx3s-85f", "--backend", "finn")


def test_what_cannot_be_built_is_refused(file):
    done = CliRunner().invoke(app, ["build", str(file), "--until", "plan"])
    assert done.exit_code != 0 and "no target: say --target NAME" in done.output
