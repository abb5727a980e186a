"""Shells as data: PLL settings, constraints, requests; and every sentence of theirs."""

import json
import re
from dataclasses import replace

import pytest

from greenedge.errors import TargetError
from greenedge.hdl.board_shell import UNITS, CoreInfo, join, shell, shell_request, write_shell
from greenedge.hdl.board_shell.clocks import Clock, clock_module, core_clock
from greenedge.hdl.board_shell.pins import constraint_file
from greenedge.target import load_target

MODEL = "ab" * 32
STREAM = {
    "name": "x",
    "edge": "x",
    "bits": 4,
    "signed": False,
    "elements": 4,
    "beats": 16,
    "shape": (64,),
    "offset": (),
}
BOARDS = ("ulx3s-85f", "ulx3s-45f", "ulx3s-25f", "colorlight-i5", "orangecrab-25f", "icebreaker", "tang-nano-9k")


def _output_hz(family: str, board_hz: int, s: dict[str, int]) -> float:
    """The PLL's output by its data sheet."""
    if family == "ecp5":
        return board_hz * s["CLKFB_DIV"] / s["CLKI_DIV"]
    if family == "ice40":
        return board_hz * (s["DIVF"] + 1) / (s["DIVR"] + 1) / 2 ** s["DIVQ"]
    return board_hz * (s["FBDIV_SEL"] + 1) / (s["IDIV_SEL"] + 1)


def test_pll_settings_give_the_frequency_they_claim():
    for family, board, wanted in (
        ("ecp5", 25_000_000, 50_000_000),
        ("ecp5", 48_000_000, 60_000_000),
        ("ice40", 12_000_000, 18_000_000),
        ("ice40", 12_000_000, 24_000_000),
        ("gowin", 27_000_000, 40_500_000),
    ):
        clock = core_clock(family, board, wanted)
        s = dict(clock.settings)
        assert _output_hz(family, board, s) == clock.hz == wanted
    vco = {"CLKI_DIV": 1, "CLKFB_DIV": 2, "CLKOP_DIV": 12}  # 600 MHz, the middle of the range: Lattice's own choice
    assert vco.items() <= dict(core_clock("ecp5", 25_000_000, 50_000_000).settings).items()
    # icepll -i 12 -o 18: DIVR 0, DIVF 47, DIVQ 5, FILTER_RANGE 1
    assert dict(core_clock("ice40", 12_000_000, 18_000_000).settings) == {
        "DIVR": 0,
        "DIVF": 47,
        "DIVQ": 5,
        "FILTER_RANGE": 1,
    }


def test_a_clock_is_never_faster_than_asked_for():
    clock = core_clock("ice40", 12_000_000, 19_000_000)
    assert 18_000_000 < clock.hz <= 19_000_000
    assert core_clock("nothing", 5, 5) == Clock("nothing", 5, 5)
    assert "assign clk = pin;" in clock_module(Clock("nothing", 5, 5))


@pytest.mark.parametrize(
    "family, wanted, message",
    [
        (
            "ice40",
            1_000_000,
            "the PLL of ice40 makes nothing at or below 1 MHz from 12 MHz; ask for another core clock.",
        ),
        (
            "xc7",
            50_000_000,
            "greenedge knows no PLL of family 'xc7'; it knows ecp5, ice40, gowin, or use the board's own 12 MHz.",
        ),
    ],
)
def test_a_clock_that_there_is_not(family, wanted, message):
    with pytest.raises(TargetError) as error:
        core_clock(family, 12_000_000, wanted)
    assert str(error.value) == message


@pytest.mark.parametrize("board", BOARDS)
def test_every_board_has_a_shell(board):
    target = load_target(board)
    made = shell(CoreInfo("core", STREAM, STREAM, MODEL, ("core.sv",)), target)
    top = made.files["board/board.sv"].decode()
    constraints = next(made.files[name].decode() for name in made.files if re.search(r"\.(lpf|pcf|cst)$", name))
    ports = re.search(r"module board \((.*?)\);", top, re.DOTALL).group(1)
    for signal in ("clk", "uart_rx", "uart_tx", "led", "button", "marker"):
        pin = target.clock_pin if signal == "clk" else target.pins[signal]
        assert re.search(rf"logic {signal}\b", ports) and re.search(rf"\b{signal}\b.*\b{pin}\b", constraints)
    assert ("led = !shine" in top) == ("led" in target.host.get("active_low", ()))
    assert made.simulation[0] == "core.sv" and made.sources[-1] == made.simulation[-1] == "board/board.sv"
    assert set(made.sources) <= set(made.files) and set(made.simulation) - {"core.sv"} <= set(made.files)
    assert made.clock_hz == target.host["core_hz"]


@pytest.mark.parametrize("board", ("icebreaker", "orangecrab-25f"))
def test_boards_with_a_host_cpu_have_spi(board):
    made = shell(CoreInfo("core", STREAM, STREAM, MODEL), load_target(board), link="spi")
    assert "ge_spi link" in made.files["board/board.sv"].decode() and made.board["link"] == "spi"


def test_the_same_request_gives_the_same_bytes():
    request = shell_request(load_target("ulx3s-85f"), MODEL)
    core = CoreInfo("core", STREAM, STREAM, MODEL)
    assert join(core, json.loads(json.dumps(request))).files == join(core, request).files


def test_the_lpf_in_full():
    name, content = constraint_file(
        "ecp5", {"clk": "G2", "led": "B2"}, {"default": ["IO_TYPE=LVCMOS33"], "led": []}, 25_000_000
    )
    assert name == "board.lpf" and content.decode() == (
        'LOCATE COMP "clk" SITE "G2";\nIOBUF PORT "clk" IO_TYPE=LVCMOS33;\nLOCATE COMP "led" SITE "B2";\n'
        'FREQUENCY PORT "clk" 25 MHZ;\n'
    )
    assert constraint_file("ice40", {"clk": "35"}, {}, 12_000_000)[1] == b"set_io clk 35\nset_frequency clk 12\n"
    assert constraint_file("gowin", {"clk": "52"}, {"clk": ["IO_TYPE=LVCMOS33"]}, 1)[1] == (
        b'IO_LOC "clk" 52;\nIO_PORT "clk" IO_TYPE=LVCMOS33;\n'
    )
    with pytest.raises(TargetError) as error:
        constraint_file("xc7", {}, {}, 1)
    assert str(error.value) == "greenedge writes no constraints for family 'xc7'; it knows ecp5, ice40, gowin."


@pytest.mark.parametrize(
    "options, message",
    [
        ({"link": "can"}, "ulx3s-85f: link is 'can'; a board is reached by uart or spi."),
        (
            {"link": "spi"},
            "ulx3s-85f: pins spi_sck, spi_mosi, spi_miso, spi_cs are not in the board file; link 'spi' needs them.",
        ),
        ({"baud": 9600}, "ulx3s-85f: 9,600 baud is asked for; a board's UART does 115,200 to 3,000,000."),
        (
            {"clock_hz": 10_000_000},
            "ulx3s-85f: 3,000,000 baud need a clock of at least 12 MHz and the core's is 10 MHz; choose a "
            "lower rate or a faster clock.",
        ),
    ],
)
def test_a_shell_that_cannot_be(options, message):
    with pytest.raises(TargetError) as error:
        shell_request(load_target("ulx3s-85f"), MODEL, **options)
    assert str(error.value) == message


def test_all_reasons_at_once():
    target = replace(load_target("ulx3s-85f"), pins={})
    with pytest.raises(TargetError) as error:
        shell_request(target, MODEL, baud=1)
    assert str(error.value).count("\n") == 1


def test_large_samples_get_a_larger_buffer():
    wide = {**STREAM, "beats": 1000}
    made = shell(CoreInfo("core", wide, STREAM, MODEL), load_target("ulx3s-85f"))
    assert made.board["input"]["bytes"] == 2000 and made.board["credit"] == 4096


def test_in_a_build_folder(tmp_path):
    (tmp_path / "shell.json").write_text(json.dumps(shell_request(load_target("ulx3s-85f"), MODEL)))
    (tmp_path / "streams.json").write_text(
        json.dumps({"top": "top", "streams": [STREAM, STREAM], "sources": ["top.sv"]})
    )
    board = write_shell(tmp_path)
    assert board["model"] == MODEL and json.loads((tmp_path / "board.json").read_text()) == json.loads(
        json.dumps(board)
    )
    assert {path.name for path in (tmp_path / "board").iterdir()} >= {*UNITS, "board.sv", "board.lpf", "ge_clock.v"}
    for name in ("client.py", "greenedge_client.h"):
        text = (tmp_path / name).read_text()
        assert not re.search(r"@\w+@", text)
    compile((tmp_path / "client.py").read_text(), "client.py", "exec")
