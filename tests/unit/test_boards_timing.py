"""The clock of a routed board: met or not, and through which layer the longest path runs."""

import json

import pytest

from greenedge.hdl.board_shell import timing


def _report(
    reached: float = 15.6,
    ends: tuple[str, str] = ("core.fc1_unit.credit_SB_DFF_Q", "core.act1_unit.lane[0].sum_SB_DFF_Q"),
    core_ns: float = 60.0,
) -> dict:
    def step(kind, delay, a, b):
        return {"type": kind, "delay": delay, "from": {"cell": a, "port": "Q"}, "to": {"cell": b, "port": "D"}}

    def net(cell, delay, event="posedge clk", began="posedge clk"):
        return {
            "net": "n",
            "driver": "d",
            "event": began,
            "endpoints": [{"cell": cell, "delay": [1.0, delay], "event": event}],
        }

    path = [
        step("clk-to-q", 1.4, ends[0], ends[0]),
        step("routing", 60.0, ends[0], ends[1]),
        step("setup", 1.0, *ends[1:], ends[1]),
    ]
    return {
        "fmax": {"clock.clk": {"achieved": reached, "constraint": 18}},
        "critical_paths": [
            {"from": "<async>", "to": "posedge clk", "path": [step("source", 900.0, "uart_rx$io", "x")]},
            {"from": "posedge clk", "to": "posedge clk", "path": path},
        ],
        "detailed_net_timings": [
            net("core.fc1_unit.a", core_ns),
            net("host.feeder.rp", 64.0),
            net("core.fc1_unit.b", 99.0, "<async>"),
            net("core.fc1_unit.c", 99.0, began="<async>"),
        ],
    }


def test_what_the_report_says():
    found = timing.timing(_report(), 18_000_000)
    assert found == {
        "clock_hz": 18_000_000,
        "fmax_hz": 15.6e6,
        "core_fmax_hz": pytest.approx(1 / 60e-9),
        "from": "layer fc1",
        "to": "layer act1",
    }
    assert timing.timing({}, 5) == {"clock_hz": 5, "fmax_hz": None, "core_fmax_hz": None, "from": None, "to": None}


@pytest.mark.parametrize(
    "cell, where",
    [
        ("core.fc1_in_width.widen.full_TRELLIS_FF_Q", "layer fc1_in"),
        ("core.s_tvalid_LUT4_C", "layer s_tvalid_LUT4_C"),
        ("host.feeder.rp_TRELLIS_FF_Q", "the board's host.feeder"),
        ("transmitter.bits_TRELLIS_FF_Q", "the board's transmitter"),
        ("host.state_LUT4_A", "the board's host"),
        ("$nextpnr_GND", "the board's $nextpnr_GND"),
    ],
)
def test_where_a_cell_belongs(cell, where):
    assert timing.place(cell) == where


def _main(folder, monkeypatch, report) -> int:
    (folder / "shell.json").write_text(json.dumps({"clock_hz": 18_000_000}))
    (folder / "report.json").write_text(json.dumps(report))
    monkeypatch.chdir(folder)
    return timing.main()


def test_a_clock_that_is_met(tmp_path, monkeypatch, capsys):
    assert _main(tmp_path, monkeypatch, _report(18.0)) == 0
    assert capsys.readouterr().out == "18.0 MHz are reached of 18 MHz\n"
    assert json.loads((tmp_path / "timing.json").read_text())["fmax_hz"] == 18e6


@pytest.mark.parametrize(
    "report, message",
    [
        (
            _report(),
            "error: the clock is not met: 15.6 MHz are reached of 18 MHz, the longest path runs from layer fc1 to "
            "layer act1; ask for a lower clock (--set build.clock_hz=14000000) or several "
            "placements (--set build.seeds=4)\n",
        ),
        ({}, "error: nextpnr reports no clock at all; is anything left of the design?\n"),
    ],
)
def test_a_clock_that_is_not_met(tmp_path, monkeypatch, capsys, report, message):
    assert _main(tmp_path, monkeypatch, report) == 1
    assert capsys.readouterr().out == message
