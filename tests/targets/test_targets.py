"""Every board and device that ships: it loads, its facts have sources, and the loader refuses what is not as it must
be."""

import re
from pathlib import Path

import pytest

from greenedge.backends import BACKENDS
from greenedge.errors import TargetError
from greenedge.files.package_data import data_folder
from greenedge.target import list_targets, load_device, load_target

BOARDS = sorted((data_folder("targets") / "boards").glob("*.toml"))
DEVICES = sorted((data_folder("targets") / "devices").glob("*.toml"))


def test_some_ship():
    assert {"ulx3s-85f", "icebreaker", "linux-x86"} <= set(list_targets())


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_board(path: Path):
    target = load_target(path.stem)
    assert target.name == path.stem
    assert set(target.backends) <= set(BACKENDS)
    if target.kind == "fpga":
        assert {"ff", "dsp", "bram_bits"} <= set(target.device.resources)
        assert target.clock_hz and target.clock_pin
    if target.kind == "fpga" and "nextpnr" in target.device.toolchain:  # what the open tools build
        assert "lut4" in target.device.resources
        assert "{bitstream}" in target.program


@pytest.mark.parametrize("path", DEVICES, ids=lambda path: path.stem)
def test_device(path: Path):
    device = load_device(path)
    used = [board for board in BOARDS if load_target(board.stem).device.name == device.name]
    assert used, "no board has this device"


def _copy(tmp_path: Path, change) -> Path:
    (tmp_path / "boards").mkdir(exist_ok=True)
    text = (data_folder("targets") / "boards" / "ulx3s-85f.toml").read_text()
    path = tmp_path / "boards" / "ulx3s-85f.toml"
    path.write_text(change(text))
    return path


def test_a_board_file_of_ones_own(tmp_path):
    assert load_target(_copy(tmp_path, lambda text: text)) == load_target("ulx3s-85f")


KEYS = "backends, clock, device, experimental, host, io, kind, name, pins, power, program, source, title"


@pytest.mark.parametrize(
    "old, new, message",
    [
        (
            "clock    =",
            "clok     =",
            f"ulx3s-85f.toml: unknown key 'clok'; a board has: {KEYS}.\n"
            "ulx3s-85f.toml: source.clock names no fact of this file; facts are: device, clock, pins, io, host, "
            "program, power.\n"
            "ulx3s-85f.toml: key 'clock' is missing; an FPGA board says clock = { pin = \"…\", hz = … }.",
        ),
        (
            'title    = "Radiona ULX3S with ECP5-85F"\n',
            "",
            f"ulx3s-85f.toml: key 'title' is missing; a board has: {KEYS}.",
        ),
        ('"ulx3s-85f"', '"ulx3s"', "ulx3s-85f.toml: name is 'ulx3s'; it must be the file's, 'ulx3s-85f'."),
        (
            'clock   = "emard/ulx3s doc/constraints/ulx3s_v20.lpf: clk_25mhz"\n',
            "",
            "ulx3s-85f.toml: 'clock' has no source; [source] names the document it was taken from.",
        ),
        (
            "25_000_000",
            "0",
            "ulx3s-85f.toml: clock is {'pin': 'G2', 'hz': 0}; it must be { pin = \"…\", hz = a whole number above 0 }.",
        ),
        ('"B2"', '"M1"', "ulx3s-85f.toml: pin 'M1' is given to both 'uart_rx' and 'led'; a pin has one signal."),
        ('"fpga"', '"asic"', "ulx3s-85f.toml: kind is 'asic'; a board is one of fpga, cpu, mcu, npu, gpu."),
        ('["finn", "da4ml"]', "[]", "ulx3s-85f.toml: backends is []; it must be a list of at least one text."),
        (
            ', "{bitstream}"',
            "",
            "ulx3s-85f.toml: program is {'argv': ['openFPGALoader', '-b', 'ulx3s']}; "
            'it must be { argv = ["tool", …, "{bitstream}"] }.',
        ),
        ('kind     = "fpga"', "kind     = 7", "ulx3s-85f.toml: kind is 7; it must be text."),
    ],
)
def test_a_board_that_is_not_as_it_must_be(tmp_path, old, new, message):
    path = _copy(tmp_path, lambda text: text.replace(old, new, 1))
    with pytest.raises(TargetError) as error:
        load_target(path)
    assert str(error.value) == message


def test_a_device_name_cannot_leave_its_folder(tmp_path):
    path = _copy(tmp_path, lambda text: text.replace('"lfe5u-85f-6bg381c"', '"../../etc/passwd"'))
    with pytest.raises(
        TargetError, match=re.escape("ulx3s-85f.toml: there is no device '../../etc/passwd'; devices are: ")
    ):
        load_target(path)


def test_no_such_target():
    with pytest.raises(TargetError) as error:
        load_target("ulx3s-85")
    assert str(error.value) == (
        f"there is no target 'ulx3s-85' (did you mean 'ulx3s-85f'?); targets are: {', '.join(list_targets())}."
    )


def test_not_toml(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text("name = \n")
    with pytest.raises(TargetError) as error:
        load_target(path)
    assert str(error.value) == "x.toml: is not TOML: Invalid value (at line 1, column 8)."


def test_a_device_that_is_not_as_it_must_be(tmp_path):
    text = (data_folder("targets") / "devices" / "ice40up5k-sg48.toml").read_text()
    path = tmp_path / "ice40up5k-sg48.toml"
    path.write_text(text.replace("5_280", "-1", 1).replace('["--up5k", "--package", "sg48"]', "3"))
    with pytest.raises(TargetError) as error:
        load_device(path)
    assert str(error.value) == (
        "ice40up5k-sg48.toml: resources.lut4 is -1; it must be a whole number above 0.\n"
        "ice40up5k-sg48.toml: toolchain.nextpnr is 3; it must be text or a list of texts."
    )
