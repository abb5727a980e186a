"""What a plan writes and generates is told from anything else, to the byte, but for seconds and caches in JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from greenedge.tools.plan import Command, Plan
from greenedge.tools.replay import find_unplanned

GENERATE = (
    "import json, pathlib; pathlib.Path('rtl').mkdir(); pathlib.Path('rtl/top.sv').write_text('module top;'); "
    "pathlib.Path('about.json').write_text(json.dumps({'sources': ['top.sv'], 'seconds': 1.5, "
    "'kept': True, 'layers': [{'name': 'fc1', 'seconds': 0.5}]}))"
)
PLAN = Plan(
    {"graph.json": b'{"name": "x"}', "model.c": b"int x;"},
    (
        Command(("{python}", "-c", GENERATE), "log.txt", "generating", generates=True),
        Command(("{python}", "-c", "raise SystemExit('never run')"), "other.txt", "synthesis"),
    ),
    (),
)
ABOUT = {"sources": ["top.sv"], "seconds": 7, "kept": False, "layers": [{"name": "fc1", "seconds": 2}]}
MADE = {
    "graph.json": '{"name": "x"}',
    "model.c": "int x;",
    "rtl/top.sv": "module top;",
    "about.json": json.dumps(ABOUT),
}


@pytest.fixture
def build(tmp_path) -> Path:
    for name, content in MADE.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


def test_what_the_plan_makes_is_what_lies_there(build):
    (build / "top.bit").write_bytes(b"what tools make is not compared")
    assert find_unplanned(PLAN, build, lambda line: None) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("graph.json", '{"name": "y"}'),
        ("graph.json", "no JSON"),
        ("graph.json", "[" * 10_000),
        ("model.c", "int y;"),
        ("model.c", "int x;\n"),
        ("rtl/top.sv", "module top; initial $system"),
        ("about.json", json.dumps(ABOUT | {"sources": ["own.sv"]})),
        ("about.json", json.dumps(ABOUT | {"layers": [{"name": "fc2", "seconds": 2}]})),
        ("about.json", json.dumps(ABOUT | {"more": 1})),
        ("about.json", json.dumps(ABOUT) + " " * 100_000),
    ],
)
def test_anything_else_is_found(build, name, content):
    (build / name).write_text(content)
    assert find_unplanned(PLAN, build, lambda line: None) == [build / name]


def test_what_is_missing_or_a_link_is_found(build, tmp_path):
    (build / "model.c").rename(build / "elsewhere")
    (build / "model.c").symlink_to(build / "elsewhere")
    (build / "rtl" / "top.sv").unlink()
    assert find_unplanned(PLAN, build, lambda line: None) == [build / "model.c", build / "rtl" / "top.sv"]
