"""Several placements at once, with a nextpnr that reaches what it is told to, fails, is killed or hangs."""

from __future__ import annotations

import json
import os
import sys
import time

import pytest

from greenedge.errors import ToolError
from greenedge.hdl.board_shell import seeds
from greenedge.tools.plan import Command, Plan
from greenedge.tools.run import execute

FAKE = """#!{python}
import json, os, signal, sys, time
if "--version" in sys.argv:
    print("nextpnr 9.9"); sys.exit(0)
seed = int(sys.argv[sys.argv.index("--seed") + 1])
behaviour = {behaviour}[seed]
open("began-%d" % seed, "w").write(str(os.getpid()))
if behaviour == "fails":
    print("Info: packing"); print("ERROR: no room for 9 cells."); sys.exit(1)
if behaviour == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if behaviour == "hangs":
    time.sleep(60)
report = sys.argv[sys.argv.index("--report") + 1]
report_of = {{"fmax": {{"clk": {{"achieved": behaviour}}}}, "critical_paths": []}}
text = "{{" if behaviour == "damaged" else json.dumps(report_of)
open(report, "w").write(text)
open(sys.argv[sys.argv.index("--textcfg") + 1], "w").write("placed with %d" % seed)
"""


def _race(tmp_path, monkeypatch, behaviour: dict, processors: int = 8) -> int:
    tool = tmp_path / "bin" / "nextpnr-ecp5"
    tool.parent.mkdir()
    tool.write_text(FAKE.format(python=sys.executable, behaviour=behaviour))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(seeds.os, "cpu_count", lambda: processors)
    work = tmp_path / "work"
    work.mkdir()
    (work / "shell.json").write_text('{"clock_hz": 100000000}')
    monkeypatch.chdir(work)
    return seeds.main(
        "1",
        str(len(behaviour)),
        "top.config,report.json",
        "nextpnr-ecp5",
        "--textcfg",
        "top.config",
        "--report",
        "report.json",
    )


def test_the_first_that_meets_the_clock_is_taken(tmp_path, monkeypatch, capsys):
    began = time.monotonic()
    assert _race(tmp_path, monkeypatch, {1: "hangs", 2: 90.0, 3: 105.0, 4: "fails"}, processors=3) == 0
    assert time.monotonic() - began < 30
    assert (tmp_path / "work" / "top.config").read_text() == "placed with 3"
    assert json.loads((tmp_path / "work" / "seeds.json").read_text())["chosen"] == 3
    assert not (tmp_path / "work" / "seeds").exists()
    assert "seed 3 reaches 105.0 MHz of 100 MHz" in capsys.readouterr().out
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "work" / "began-1").read_text()), 0)


def test_without_one_the_fastest_is_left_for_the_check_of_the_clock(tmp_path, monkeypatch):
    assert _race(tmp_path, monkeypatch, {1: 80.0, 2: 95.5, 3: "killed"}, processors=1) == 0
    assert (tmp_path / "work" / "top.config").read_text() == "placed with 2"
    assert json.loads((tmp_path / "work" / "seeds.json").read_text())["fmax_hz"] == {"1": 80e6, "2": 95.5e6}


@pytest.mark.parametrize(
    "behaviour, message",
    [
        ({1: "fails"}, "error: nextpnr-ecp5 with seed 1 ended with exit status 1: ERROR: no room for 9 cells\n"),
        ({1: "killed"}, "error: nextpnr-ecp5 with seed 1 was killed by SIGKILL: it printed nothing\n"),
        (
            {1: "damaged"},
            "error: seeds/1/report.json is missing or damaged (Expecting property name enclosed in double quotes: "
            "line 1 column 2 (char 1)); run the build stage again\n",
        ),
    ],
)
def test_when_every_seed_fails_one_sentence_says_so(tmp_path, monkeypatch, capsys, behaviour, message):
    assert _race(tmp_path, monkeypatch, behaviour) == 1
    assert capsys.readouterr().out == message
    assert not (tmp_path / "work" / "top.config").exists()


def test_whoever_ends_the_race_ends_every_placement(tmp_path, monkeypatch):
    assert _race(tmp_path, monkeypatch, {1: 120.0}) == 0  # the fake is on PATH now
    (tmp_path / "bin" / "nextpnr-ecp5").write_text(
        FAKE.format(python=sys.executable, behaviour={1: "hangs", 2: "hangs"})
    )
    command = Command(
        (
            "{python}",
            "-m",
            "greenedge.hdl.board_shell.seeds",
            "1",
            "2",
            "top.config,report.json",
            "nextpnr-ecp5",
            "--textcfg",
            "top.config",
            "--report",
            "report.json",
        ),
        "nextpnr.log",
        "place and route",
        timeout_s=6,
    )
    with pytest.raises(ToolError, match="^place and route did not end within 6 s and was stopped"):
        execute(Plan({"shell.json": b'{"clock_hz": 1}'}, (command,), ("top.config",)), tmp_path / "build")
    for began in (tmp_path / "build.part").glob("began-*"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(began.read_text()), 0)
    assert not (tmp_path / "build").exists()
