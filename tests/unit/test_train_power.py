"""Training's energy: measured where a meter has proved alive, else estimated, and never one under the other's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from greenedge.energy.clock import VirtualClock
from greenedge.energy.coverage import Group
from greenedge.energy.proving import Proved
from greenedge.energy.source import SourceInfo
from greenedge.errors import EvidenceError
from greenedge.train import training_energy
from greenedge.train.ledger import Ledger
from greenedge.train.recipe_config import LedgerSettings
from greenedge.train.training_energy import Power, bill, energy_of, open_power

MEASURED = Power(lambda: 1.0, "powercap:0", "chip", "cpu package", "measured")


class FakeMeter:
    """A counter of ten watts on a virtual clock."""

    info = SourceInfo("powercap:0", "counter", "chip", "cpu package")

    def __init__(self, clock: VirtualClock):
        self.clock, self.stopped = clock, False

    def start(self) -> None:
        pass

    def now(self):
        from greenedge.energy.meters import Boundary

        return Boundary(self.clock.now(), 0.0, 10 * self.clock.now())

    def energy(self, a, b):
        return b.joules - a.joules, 0.0

    def stop(self) -> None:
        self.stopped = True


def test_a_live_meter_counts_from_its_opening(monkeypatch):
    clock = VirtualClock()
    clock.sleep(5)
    meter = FakeMeter(clock)

    def open_meters(source, root, clock, opened):
        opened.callback(meter.stop)
        return Proved(Group(("powercap:0",)), (meter,), ())

    monkeypatch.setattr(training_energy, "_open_live_meters", open_meters)
    with open_power(LedgerSettings()) as found:
        assert found.read() == pytest.approx(0, abs=0.01)  # the virtual clock moves a little at every look
        clock.sleep(3)
        assert found.read() == pytest.approx(30, abs=0.01) and found.evidence == "measured"
    assert meter.stopped


def test_a_measured_run_is_labelled_so():
    ledger = Ledger(samples_seen=5).add_time(2.0, 1.5, 40.0)
    found = bill({"train": ledger}, LedgerSettings(country="DEU"), MEASURED)
    energy = found["total"]["energy"]
    assert energy["energy_j"] == 40.0 and energy["evidence"] == "measured" and "energy_estimate_j" not in energy
    assert found["source"] == "powercap:0" and "estimate" not in found
    assert found["total"]["carbon"]["evidence"] == "estimated"  # grams always are


def test_a_part_without_a_meter_makes_the_sum_an_estimate():
    with_meter, without = Ledger().add_time(1.0, 1.0, 9.0), Ledger().add_time(1.0, 1.0, None)
    assert (with_meter + without).joules is None
    assert energy_of(with_meter + without, LedgerSettings(watts_per_core=5), MEASURED).evidence == "estimated"
    figure = energy_of(with_meter + without, LedgerSettings(watts_per_core=5), MEASURED)
    assert (figure.value, figure.low, figure.high) == (10.0, 4.0, 16.0)


def test_without_a_source_it_is_estimated_and_says_why(tmp_path):
    with open_power(LedgerSettings(), tmp_path) as found:
        assert found.read() is None and found.source is None
        assert found.reason == "no energy source of this machine's CPU can be read (greenedge energy probe says why)"


def test_a_source_that_was_asked_for_must_be_there(tmp_path):
    with pytest.raises(EvidenceError):
        with open_power(LedgerSettings(source="powercap:package-0"), tmp_path):
            pass


def test_a_dead_counter_is_no_source(tmp_path: Path):
    """A powercap tree whose counter stands still: opened, tried under load, not believed."""
    zone = tmp_path / "sys/class/powercap/intel-rapl:0"
    zone.mkdir(parents=True)
    for name, text in {"name": "package-0", "energy_uj": "1000", "max_energy_range_uj": "262143328850"}.items():
        (zone / name).write_text(text + "\n")
    with open_power(LedgerSettings(), tmp_path) as found:
        assert found.source is None and "powercap" in found.reason and "frozen" in found.reason
