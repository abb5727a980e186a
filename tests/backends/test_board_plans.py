"""A plan for every open board: its own tools, its own product, the core at the board's clock."""

from __future__ import annotations

import json

import numpy as np
import pytest

from greenedge.backends import finn
from greenedge.errors import TargetError
from greenedge.target import load_target
from tests.backends.nets import mlp

BOARDS = {
    "ulx3s-85f": ("{nextpnr-ecp5}", "top.bit"),
    "ulx3s-45f": ("{nextpnr-ecp5}", "top.bit"),
    "ulx3s-25f": ("{nextpnr-ecp5}", "top.bit"),
    "colorlight-i5": ("{nextpnr-ecp5}", "top.bit"),
    "orangecrab-25f": ("{nextpnr-ecp5}", "top.bit"),
    "icebreaker": ("{nextpnr-ice40}", "top.bin"),
    "tang-nano-9k": ("{nextpnr-himbaechel}", "top.fs"),
}


@pytest.mark.parametrize("name", BOARDS)
def test_every_open_board_has_a_plan(name):
    tool, product = BOARDS[name]
    graph, target = mlp(np.random.default_rng(0)), load_target(name)
    assert finn.check(graph, target, {}) == []
    plan = finn.plan(graph, target, {})
    assert product in plan.products and tool in {command.argv[0] for command in plan.commands}
    request = json.loads(plan.files["shell.json"])
    assert (
        request["clock_hz"] == target.host["core_hz"]
        and request["baud"] == target.host["baud"]
        and request["target"] == name
    )


def test_options_of_the_board():
    graph, target = mlp(np.random.default_rng(0)), load_target("icebreaker")
    request = json.loads(
        finn.plan(graph, target, {"clock_hz": 12_000_000, "baud": 115_200, "link": "spi"}).files["shell.json"]
    )
    assert (request["clock_hz"], request["pll"], request["baud"], request["link"]) == (12_000_000, [], 115_200, "spi")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"clock_hz": "fast"}, "--set build.clock_hz=fast: it must be a whole number above 0."),
        ({"baud": 9600}, "icebreaker: 9,600 baud is asked for; a board's UART does 115,200 to 3,000,000."),
        ({"link": "can"}, "icebreaker: link is 'can'; a board is reached by uart or spi."),
        (
            {"clock_hz": 1_000_000},
            "the PLL of ice40 makes nothing at or below 1 MHz from 12 MHz; ask for another core clock.",
        ),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(TargetError) as error:
        finn.check(mlp(np.random.default_rng(0)), load_target("icebreaker"), options)
    assert str(error.value) == message
