"""A meter that records by itself, from the timed run to the replayed figure, by load pattern and by pin."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from greenedge.energy import external_meter
from greenedge.energy.clock import VirtualClock
from greenedge.energy.commands import app
from greenedge.energy.method import Method
from greenedge.energy.simulate import FakeMachine, MachineWorkload
from greenedge.errors import GreenedgeError

OFFSET_S, DRIFT, RATE = 73.137, 50e-6, 500.0


def _recorded(tmp_path, pin_line: bool):
    """The machine's power as a meter with another clock records it, and the timing of the run."""
    clock = VirtualClock()
    machine = FakeMachine(clock, idle_w=5.0, busy_w=15.0)
    rows = []
    outer = clock.watch

    class Pin:
        high = 0

        def set(self, high):
            self.high = int(high)
            clock.advance(1e-5)

        def close(self):
            pass

    pin = Pin() if pin_line else None

    def watch(t):
        outer(t)
        rows.append((t, machine.power(t), pin.high if pin else 0))

    clock.watch = watch
    clock.sleep(1.3)
    method = Method(min_window_s=10, idle_s=3, cooldown_s=1)
    timing = external_meter.time_workload(MachineWorkload(machine, 0.004), method, clock, pin, 5)
    clock.sleep(2.1)
    t, watts, level = np.array(rows).T
    # A change of power holds until the next move of the clock.
    meter = np.arange((t[0] - OFFSET_S) * 1.0, (t[-1] - OFFSET_S) * (1 + DRIFT), 1 / RATE)
    host = meter / (1 + DRIFT) + OFFSET_S
    place = np.minimum(np.searchsorted(t, host), len(t) - 1)
    noisy = watts[place] * (1 + 0.02 * np.random.default_rng(2).standard_normal(len(meter)))
    np.savetxt(
        tmp_path / "meter.csv",
        np.stack([meter, noisy, level[place]], 1),
        "%.9g",
        ",",
        header="time_s,power_w,d0",
        comments="",
    )
    external_meter.save_timing(timing, tmp_path / "timing.json")
    return timing


@pytest.mark.parametrize("pin_line", [False, True])
def test_a_recording_is_tied_to_the_timed_run(tmp_path, pin_line):
    """The meter's zero is 73 s away and it runs 50 ppm fast, 2 % noise: total and net within 0.1 and 0.3 %."""
    timing = _recorded(tmp_path, pin_line)
    assert len(timing["windows"]) == 5 and bool(timing["edges"]) == pin_line != bool(timing["patterns"])
    words = ["replay", str(tmp_path / "meter.csv"), "--timing", str(tmp_path / "timing.json"), "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.output)["rows"]
    middle = timing["windows"][2]["span"][0]
    there = row["sync"]["offset_s"] + (1 + row["sync"]["drift_ppm"] * 1e-6) * middle
    assert there == pytest.approx((middle - OFFSET_S) * (1 + DRIFT), abs=1 / RATE)
    assert row["sync"]["drift_ppm"] == pytest.approx(50, abs=15) and row["evidence"] == "replayed"
    assert row["figures"]["total"]["energy_j"] == pytest.approx(20 * 0.004, rel=1e-3)
    assert row["figures"]["net"]["energy_j"] == pytest.approx(15 * 0.004, rel=3e-3)
    assert len(row["repetitions"]) == 5


def test_a_joulescope_recording_with_its_marker(tmp_path):
    """A JLS file as pyjls writes it: power, and the first general-purpose input as one bit a sample."""
    pyjls = pytest.importorskip("pyjls")
    fsr, rate, n = pyjls.SignalType.FSR, 1000, 10_000
    blocks = {"samples_per_data": 65536, "sample_decimate_factor": 1024, "entries_per_summary": 1280}
    blocks |= {"summary_decimate_factor": 20, "annotation_decimate_factor": 100, "utc_decimate_factor": 100}
    writer = pyjls.Writer(str(tmp_path / "a.jls"))
    writer.source_def(source_id=1, name="js220", vendor="x", model="x", version="1", serial_number="1")
    for signal, kind, name in ((3, pyjls.DataType.F32, "power"), (5, pyjls.DataType.U1, "gpi[0]")):
        writer.signal_def(
            signal_id=signal,
            source_id=1,
            signal_type=fsr,
            data_type=kind,
            sample_rate=rate,
            name=name,
            units="",
            **blocks,
        )
    high = (np.arange(n) >= 3000) & (np.arange(n) < 7000)
    writer.fsr_f32(3, 0, np.where(high, 5.0, 2.0).astype(np.float32))
    writer.fsr(5, 0, np.packbits(high, bitorder="little"))
    writer.close()
    words = ["replay", str(tmp_path / "a.jls"), "--markers", "--inferences", "100", "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    figures = json.loads(done.output)["rows"][0]["figures"]
    assert figures["total"]["energy_j"] == pytest.approx(5.0 * 4 / 100, rel=1e-3)
    (tmp_path / "b.jls").write_bytes(b"no such file")
    done = CliRunner().invoke(app, ["replay", str(tmp_path / "b.jls"), "--markers"])
    assert done.exit_code == 1 and "b.jls is not a JLS file" in done.stderr


def test_a_lost_edge_or_pattern_makes_the_run_void(tmp_path):
    timing = _recorded(tmp_path, True)
    timing["edges"].pop(3)
    external_meter.save_timing(timing, tmp_path / "timing.json")
    done = CliRunner().invoke(app, ["replay", str(tmp_path / "meter.csv"), "--timing", str(tmp_path / "timing.json")])
    assert done.exit_code == 3 and "the meter saw 10 edges, the host made 9: one is lost or extra" in done.stderr
    timing["edges"], timing["patterns"] = [], [[1.0, 2.0, 3.5, 4.5], [101.0, 102.0, 103.5, 104.5]]
    external_meter.save_timing(timing, tmp_path / "timing.json")
    done = CliRunner().invoke(app, ["replay", str(tmp_path / "meter.csv"), "--timing", str(tmp_path / "timing.json")])
    assert done.exit_code == 3 and "the load pattern is not in the trace" in done.stderr


def test_markers_from_the_command_line(tmp_path):
    pin = tmp_path / "value"
    pin.write_text("0\n")
    words = [
        "measure",
        "--external",
        str(tmp_path / "t.json"),
        "--marker",
        f"gpio:{pin}",
        "--window",
        "0.1",
        "--idle",
        "0.05",
    ]
    done = CliRunner().invoke(app, [*words, "--max-reps", "2", "--callable", "time:thread_time"])
    assert done.exit_code == 0, done.output
    assert f"now: greenedge energy replay RECORDING.csv --timing {tmp_path / 't.json'}" in done.stdout
    assert len(external_meter.load_timing(tmp_path / "t.json")["edges"]) == 4 and pin.read_text() == "0\n"
    for marker, said in (
        ("gpio:", "--marker 'gpio:' is not known; take pattern, gpio:FILE or rts:PORT."),
        (f"gpio:{tmp_path}/no/value", "cannot be written: No such file or directory; export the GPIO line first."),
    ):
        with pytest.raises(GreenedgeError) as caught:
            external_meter.open_pin(marker)
        assert said in str(caught.value)
    (tmp_path / "t.json").write_text("{}")
    with pytest.raises(
        GreenedgeError, match="is no timing .*; give a file written by greenedge energy measure --external"
    ):
        external_meter.load_timing(tmp_path / "t.json")
