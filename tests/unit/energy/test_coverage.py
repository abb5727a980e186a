"""What is measured without being asked for: every package and every GPU, or the result says what is not in it; a dead
sensor gives way; sums are of one scope, with the interval of the sums."""

from __future__ import annotations

import os
import struct

import numpy as np
import pytest

from greenedge.energy import proving, request, results
from greenedge.energy.clock import VirtualClock
from greenedge.energy.comparison import compare
from greenedge.energy.coverage import choose, find_missing
from greenedge.energy.evidence import Figure
from greenedge.energy.measurement import measure
from greenedge.energy.method import Method, Window
from greenedge.energy.session import Repetition
from greenedge.energy.simulate import FakeMachine, FakePowercapTree, MachineWorkload
from greenedge.energy.source import SourceFault, SourceInfo
from greenedge.energy.sources import perf
from greenedge.energy.stats import mean_interval
from greenedge.energy.summed import _sum_reps, check_sum, sum_infos
from greenedge.errors import EvidenceError, GreenedgeError
from tests.unit.energy.fakes import hwmon_chip

QUICK = Method(min_window_s=2, warm_up_s=2, idle_s=1, cooldown_s=1, min_reps=3, max_reps=3, target=0.5)


def sockets(tmp_path, clock, second=lambda machine: machine.joules / 2, first=lambda machine: machine.joules, **zones):
    """Two packages: 20 W and 30 W under load, and half of it; `first` and `second` replace their joules."""
    tree = FakePowercapTree(tmp_path, {"intel-rapl:0": "package-0", "intel-rapl:1": "package-1"} | zones)
    machine = FakeMachine(clock)
    outer = clock.watch

    def watch(t):
        outer(t)
        tree.tick("intel-rapl:0", 50 + first(machine))
        tree.tick("intel-rapl:1", 70 + second(machine))

    clock.watch = watch
    clock.sleep(0.1)
    return machine


def quick(machine, tmp_path, clock, ids=(), **options):
    return measure([MachineWorkload(machine)], ids, root=tmp_path, clock=clock, method=QUICK, **options)["rows"]


def test_all_packages_are_measured_and_summed(tmp_path):
    clock = VirtualClock()
    machine = sockets(tmp_path, clock)
    (row,) = quick(machine, tmp_path, clock)
    assert row["source"]["id"] == "powercap:intel-rapl:0+powercap:intel-rapl:1"
    assert row["source"]["covers"] == "cpu package-0 + cpu package-1" and row["scope"] == "chip"
    assert row["figures"]["total"]["energy_j"] == pytest.approx(0.18, rel=0.005)
    assert row["figures"]["net"]["energy_j"] == pytest.approx(0.06, rel=0.01)
    assert row["evidence"] == "derived" and not row["flags"], row["flags"]
    assert [round(part["energy_j"], 3) for part in row["parts"]] == [0.12, 0.06]
    assert sum(part["energy_j"] for part in row["parts"]) == pytest.approx(row["figures"]["total"]["energy_j"])
    assert compare(row, row).ratio.mean == pytest.approx(1.0), "a sum has repetitions"
    results.check_labels({"rows": [row]})


def test_one_of_two_packages_says_so(tmp_path):
    clock = VirtualClock()
    machine = sockets(tmp_path, clock)
    (row,) = quick(machine, tmp_path, clock, ["powercap:intel-rapl:0"])
    assert row["figures"]["total"]["energy_j"] == pytest.approx(0.12, rel=0.005)
    assert row["flags"] == ["1 of 2 packages: powercap:intel-rapl:1 not in it"]


def test_a_package_without_work_is_in_the_sum_and_said(tmp_path):
    clock = VirtualClock()
    machine = sockets(tmp_path, clock, second=lambda machine: 8.0 * (clock.time - 1000))
    (row,) = quick(machine, tmp_path, clock)
    assert row["figures"]["total"]["energy_j"] == pytest.approx((30 + 8) * 0.004, rel=0.005)
    assert row["flags"] == ["powercap:intel-rapl:1 counts but did not follow the load: it may have had none of it"]


@pytest.mark.parametrize("dead", [0, 1])
def test_a_frozen_package_gives_way(tmp_path, dead):
    clock = VirtualClock()
    frozen = {("first", "second")[dead]: lambda machine: 1.0}
    machine = sockets(tmp_path, clock, **frozen)
    (row,) = quick(machine, tmp_path, clock)
    assert row["source"]["id"] == f"powercap:intel-rapl:{1 - dead}"
    assert row["figures"]["total"]["energy_j"] == pytest.approx(0.06 if dead == 0 else 0.12, rel=0.005)
    assert any(f.startswith(f"1 of 2: powercap:intel-rapl:{dead}: it is frozen") for f in row["flags"]), row["flags"]
    with pytest.raises(SourceFault, match="it is frozen"):
        quick(machine, tmp_path, clock, ["powercap:intel-rapl:0+powercap:intel-rapl:1"])


def test_frozen_packages_give_way_to_perf(tmp_path, monkeypatch):
    clock = VirtualClock()
    machine = sockets(tmp_path, clock, first=lambda machine: 1.0, second=lambda machine: 1.0)
    folder = tmp_path / "sys/bus/event_source/devices/power"
    (folder / "events").mkdir(parents=True)
    for name, text in {
        "type": "9",
        "cpumask": "0,8",
        "events/energy-pkg": "event=0x02",
        "events/energy-pkg.scale": "2.3283064365386962890625e-10",
        "events/energy-pkg.unit": "Joules",
    }.items():
        (folder / name).write_text(text + "\n")
    (tmp_path / "count").write_bytes(bytes(8))
    out = os.open(tmp_path / "count", os.O_WRONLY)
    outer = clock.watch

    def watch(t):
        outer(t)
        os.pwrite(out, struct.pack("<Q", int(machine.joules * 2**32)), 0)

    clock.watch = watch
    monkeypatch.setattr(perf, "perf_event_open", lambda *_: os.open(tmp_path / "count", os.O_RDONLY))
    (row,) = quick(machine, tmp_path, clock)
    assert row["source"]["id"] == "perf:energy-pkg"
    assert row["figures"]["total"]["energy_j"] == pytest.approx(0.24, rel=0.005), "30 W on each of two CPUs of the mask"
    assert sum("gave way: it is frozen" in flag for flag in row["flags"]) == 2, row["flags"]


def test_nothing_alive_is_an_error_and_no_number(tmp_path):
    clock = VirtualClock()
    machine = sockets(tmp_path, clock, first=lambda machine: 1.0, second=lambda machine: 1.0)
    with pytest.raises(EvidenceError, match="powercap:intel-rapl:0: it is frozen"):
        quick(machine, tmp_path, clock)


def test_packages_that_count_but_feel_no_load_are_no_figure(tmp_path):
    """Each could be the idle one beside a loaded other; there is none."""
    clock = VirtualClock()
    idle = {key: lambda machine: 8.0 * (clock.time - 1000) for key in ("first", "second")}
    machine = sockets(tmp_path, clock, **idle)
    with pytest.raises(SourceFault, match="it does not follow the load"):
        quick(machine, tmp_path, clock)


def test_a_counter_is_not_taken_twice(tmp_path):
    """The view of a package through MMIO, and a die that shows the counter of the other."""
    clock = VirtualClock()
    machine = sockets(tmp_path, clock, **{"intel-rapl-mmio:0": "package-0"})
    assert choose(tmp_path, clock)[0][0].groups[0].ids == ("powercap:intel-rapl:0", "powercap:intel-rapl:1")
    (row,) = quick(machine, tmp_path, clock)
    assert row["figures"]["total"]["energy_j"] == pytest.approx(0.18, rel=0.005)
    assert not find_missing(["powercap:intel-rapl:0", "powercap:intel-rapl:1"], tmp_path, clock)


def test_a_package_that_may_not_be_read_is_said(tmp_path):
    clock = VirtualClock()
    machine = sockets(tmp_path, clock)
    (tmp_path / "sys/class/powercap/intel-rapl:1/energy_uj").unlink()
    (row,) = quick(machine, tmp_path, clock)
    assert row["source"]["id"] == "powercap:intel-rapl:0"
    (flag,) = row["flags"]
    assert flag.startswith("1 of 2 packages: powercap:intel-rapl:1: "), flag


def test_the_gpus_that_the_work_may_use(tmp_path, monkeypatch):
    from greenedge.energy import coverage
    from greenedge.energy.source import Probe

    probes = [Probe(f"nvml:{k}:{kind}", "module", f"gpu {k}") for k in range(3) for kind in ("energy", "power")]
    monkeypatch.setattr(coverage, "find_all", lambda root: probes)
    monkeypatch.setattr("greenedge.energy.sources.nvml.visible_gpus", lambda: ([0, 2], ""))
    (wanted,), _ = choose(tmp_path, VirtualClock())
    assert [g.ids for g in wanted.groups] == [("nvml:0:energy", "nvml:2:energy"), ("nvml:0:power", "nvml:2:power")]
    plan = proving.make_plan((), tmp_path, VirtualClock())
    assert [w.groups[0].id for w in plan.wanted] == ["nvml:0:energy+nvml:2:energy", "nvml:0:power+nvml:2:power"]
    probes[4] = Probe("nvml:2:energy", "module", "gpu 2", "NVML says Not Supported", "use nvml:2:power")
    (wanted,), _ = choose(tmp_path, VirtualClock())
    assert [g.ids for g in wanted.groups] == [("nvml:0:power", "nvml:2:power"), ("nvml:0:energy",)]
    assert wanted.groups[1].flags == ("1 of 2 GPUs: nvml:2:energy: NVML says Not Supported",)


def test_without_a_processor_and_gpus_what_there_is(tmp_path):
    hwmon_chip(tmp_path, 0, "ina226", power1_input="12000000")
    hwmon_chip(tmp_path, 1, "ina226", power1_input="13000000")
    wanted, others = choose(tmp_path, VirtualClock())
    assert not wanted and [g.id for g in others[0].groups] == ["hwmon:hwmon0:1", "hwmon:hwmon1:1"]


def test_what_may_not_be_summed(tmp_path):
    chip = SourceInfo("a", "counter", "chip", "cpu package-0")
    board = SourceInfo("b", "counter", "board", "psys", overlaps=("cpu package",))
    with pytest.raises(GreenedgeError) as caught:
        check_sum([chip, board])
    assert str(caught.value) == (
        "a (chip), b (board) are of scope board and chip and not summed: give each a --source of its own, without "
        "--sum and +."
    )
    with pytest.raises(GreenedgeError, match="a stands twice in a sum; give it once."):
        check_sum([chip, chip])
    with pytest.raises(GreenedgeError, match=r"b \(psys\) holds a \(cpu package-0\)"):
        check_sum([SourceInfo("a", "counter", "board", "cpu package-0"), board])
    for words in ((), ("estimate",)):
        with pytest.raises(GreenedgeError, match="leave --sum out|give each with --source"):
            request.settle_sources(words, True, None, None)
    assert request.settle_sources(["hwmon:hwmon0:1", "hwmon:hwmon1:1"], True, 1e-3, -1) == (
        "hwmon:hwmon0:1,scale=0.001,sign=-1+hwmon:hwmon1:1,scale=0.001,sign=-1",
    )


def test_the_interval_of_a_sum_holds_what_its_parts_share(rng):
    """Two meters with one noise of the work: the sum's interval is that of twice the one, and not √2 of it. The
    boundaries, which are independent, add as squares; gains, which may be one, as they are."""
    noise = rng.standard_normal(12)
    idle = Window(0, 3, 30.0, 0.01, 0, 0)
    one = [Repetition(k, 0, idle, Window(3, 13, 300 + n, 0.3, 100, 8.0), idle) for k, n in enumerate(noise)]
    other = [Repetition(k, 0, idle, Window(3, 13.1, 303 + n, 0.4, 101, 8.08), idle) for k, n in enumerate(noise)]
    summed = [_sum_reps(pair) for pair in zip(one, other, strict=True)]
    assert [rep.total_j for rep in summed] == pytest.approx(
        [a.total_j + b.total_j for a, b in zip(one, other, strict=True)]
    )
    assert [rep.net_j for rep in summed] == pytest.approx([a.net_j + b.net_j for a, b in zip(one, other, strict=True)])
    assert summed[0].idle_w == pytest.approx(20.0) and summed[0].window.boundary_u == pytest.approx(0.5)
    halves = [mean_interval([r.total_j for r in reps]) for reps in (one, other, summed)]
    widths = [half.high - half.low for half in halves]
    assert widths[2] == pytest.approx(widths[0] + widths[1])
    infos = [SourceInfo(n, "power", "rail", n, gain_rel=g) for n, g in (("a", 0.01), ("b", 0.02))]
    assert sum_infos(infos, [3.0, 1.0]).gain_rel == pytest.approx(0.0125)
    assert sum_infos([infos[0], SourceInfo("c", "power", "rail", "c")], [1, 1]).gain_rel is None
    assert np.isfinite(Figure(1.0, "energy", "j", "rail", "measured").value)


def test_the_ledger_of_a_training_run_counts_every_package(tmp_path):
    from greenedge.train.recipe_config import LedgerSettings
    from greenedge.train.training_energy import open_power

    clock = VirtualClock()
    machine = sockets(tmp_path, clock)
    import greenedge.train.training_energy as training_energy

    worked = training_energy._run_load
    training_energy._run_load = machine.load
    try:
        with open_power(LedgerSettings(), tmp_path, clock) as power:
            before = machine.joules
            machine.work(10.0)
            assert power.source == "powercap:intel-rapl:0+powercap:intel-rapl:1", power.reason
            assert power.read() == pytest.approx((machine.joules - before) * 1.5, rel=1e-3)
    finally:
        training_energy._run_load = worked
