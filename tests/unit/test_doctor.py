"""The doctor tells what is there and how to get what is not, and never fails for something optional."""

import json

from typer.testing import CliRunner

from greenedge.cli import app
from greenedge.run import doctor


def test_what_is_missing_comes_with_its_cure(monkeypatch):
    monkeypatch.setenv("PATH", "")
    found = {finding.name: finding for finding in doctor.examine()}
    assert (found["g++"].found, found["g++"].cure) == (False, "apt install g++")
    assert (found["docker"].found, found["docker"].cure) == (False, "apt install docker.io")
    assert found["python"].found and found["greenedge"].version


def test_a_missing_tool_names_the_extra(monkeypatch):
    def none(name):
        from greenedge.errors import ToolError

        raise ToolError(f"{name} is not on PATH and x is not installed: pip install x.")

    monkeypatch.setattr("greenedge.tools.discover.find_tool", none)
    found = {finding.name: finding for finding in doctor.examine()}
    assert (found["yosys"].found, found["yosys"].version, found["yosys"].cure) == (
        False,
        None,
        'pip install "greenedge[fpga]"',
    )
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 0 and 'pip install "greenedge[fpga]"' in done.stdout


def test_a_program_that_answers_nonsense_has_no_version(tmp_path, monkeypatch):
    for name, text in (("g++", "#!/bin/sh\nexit 3\n"), ("make", "#!/bin/sh\necho GNU Make 4.3\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = {finding.name: finding for finding in doctor.examine() if finding.group == "program"}
    assert (found["g++"].found, found["g++"].version) == (True, None)
    assert found["make"].version == "4.3"


def test_json():
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 0
    assert {"name", "found", "version", "needed_for", "cure", "group", "where"} == set(json.loads(done.stdout)[0])
