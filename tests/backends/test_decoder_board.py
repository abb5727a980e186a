"""A decoder behind a board's UART: whole stories through frames and credits, told twice, and refusals."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from greenedge.backends.decoder.board import (
    board_files,
    digest,
    list_requests,
    pack_request,
    plan_board,
    read_answers,
)
from greenedge.backends.decoder.simulate import Story, execute_story
from greenedge.boards.link_session import Session
from greenedge.boards.ports import SerialPort
from greenedge.boards.virtual import VirtualBoard
from greenedge.decoder.sampling import Sampling
from greenedge.errors import GreenedgeError, UnsupportedError
from greenedge.hdl.board_shell import shell_request, write_shell
from greenedge.target import load_target
from tests.decoder.models import random_decoder

_LANES = 8
_STORY = Story((3, 1), 19, Sampling(256, 7))


@pytest.fixture(scope="module")
def decoder():
    shape = {"heads": 4, "kv_heads": 2, "head_dim": 4, "hidden": 19, "vocabulary": 24, "context": 20, "layers": 2}
    return random_decoder(np.random.default_rng(1), norm_form="table", **shape)


@pytest.fixture(scope="module")
def folder(decoder, tmp_path_factory):
    path = tmp_path_factory.mktemp("decoder")
    request = shell_request(load_target("ulx3s-85f"), digest(decoder, _LANES), baud=3_000_000)
    for name, content in board_files(decoder, request, _LANES).items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(content)
    write_shell(path)
    return path


@pytest.mark.tool("verilator")
@pytest.mark.tool("g++")
def test_a_board_tells_the_story_of_numpy(decoder, folder, tmp_path):
    expected = execute_story(decoder, _STORY).tokens
    requests = list(list_requests(decoder, _STORY))
    with VirtualBoard(folder, limit_s=120) as board:

        def connect():
            return Session(lambda: SerialPort(board.port, board.board["baud"]), board.board, board.port)

        with connect() as session:
            answers = read_answers(session.infer(requests), board.port)
            assert tuple(answer.token for answer in answers[1:]) == expected
            assert 100 < answers[0].cycles < answers[1].cycles  # the prompt's first token has no head
            # asked again, in the middle too, the same: nothing depends on how often a request came
            again = read_answers(session.infer([requests[7], requests[7], *requests[8:]]))
            assert [answer.token for answer in again[1:]] == [answer.token for answer in answers[7:]]
            for wrong, words in (
                (pack_request(1, 24, 0, 0, 1), "has no such token: request 0 of 1"),
                (pack_request(1, 3, 20, 0, 1), "has no such position"),
                (pack_request(3, 0, 0, 0, 1), "has no such position"),
            ):
                with pytest.raises(GreenedgeError, match=words):
                    read_answers(session.infer([wrong]))
            assert read_answers(session.infer([requests[0]]))[0].cycles == answers[0].cycles
        board.noise(0.002, 0.001)
        with connect() as session:
            answers = read_answers(session.infer(requests), board.port)
            assert tuple(answer.token for answer in answers[1:]) == expected
        board.noise(0, 0)
        # the client that needs no greenedge
        np.save(tmp_path / "x.npy", np.array([list(request) for request in requests]))
        argv = [sys.executable, folder / "client.py", board.port, tmp_path / "x.npy"]
        said = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=True).stdout.split("\n")
        assert [int(line.split()[1]) for line in said[1:-1]] == list(expected)


def test_the_plan_holds_core_memories_and_board(decoder):
    plan = plan_board(decoder, load_target("ulx3s-85f"), _LANES)
    assert plan.products == ("top.bit", "board.json")
    assert plan.digest() == plan_board(decoder, load_target("ulx3s-85f"), _LANES).digest()
    assert json.loads(plan.files["shell.json"])["model"] == digest(decoder, _LANES)
    assert {"memories/weights.0", "memories/cache", "rtl/ge_decoder.sv", "rtl/top.sv"} <= set(plan.files)
    with pytest.raises(UnsupportedError, match="this decoder does not go onto ulx3s-85f:\n.*48 lanes"):
        plan_board(decoder, load_target("ulx3s-85f"), 48)


def test_another_model_has_another_digest(decoder):
    head = decoder.head.copy()
    head[23, 15] ^= 1
    assert digest(dataclasses.replace(decoder, head=head)) != digest(decoder) != digest(decoder, 8)
