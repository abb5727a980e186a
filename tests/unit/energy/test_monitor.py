"""Windows around any code: what they read, their intervals, what they refuse, and their files."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import greenedge.energy as energy
from greenedge.energy import monitor as monitors
from greenedge.energy import results
from greenedge.energy.clock import VirtualClock
from greenedge.energy.liveness import Liveness
from greenedge.energy.meters import CounterMeter
from greenedge.energy.monitor import Monitor, summarise
from greenedge.energy.monitor_files import csv_text, make_document, openmetrics_text, save
from greenedge.energy.simulate import FakeCounter, FakeMachine, FakePowercapTree
from greenedge.energy.source import SourceFault
from greenedge.errors import EvidenceError, GreenedgeError


def packages(tmp_path, clock, count=2, **options):
    """A monitor on `count` packages: 20 W, 30 W under load, the second half of it."""
    tree = FakePowercapTree(tmp_path, {f"intel-rapl:{k}": f"package-{k}" for k in range(count)}, **options)
    machine = FakeMachine(clock)
    outer = clock.watch

    def watch(t):
        outer(t)
        for k in range(count):
            tree.tick(f"intel-rapl:{k}", 50 + machine.joules / (1 + k))

    clock.watch = watch
    clock.sleep(0.1)
    return machine


def test_windows_nest_and_repeat(tmp_path):
    clock = VirtualClock()
    machine = packages(tmp_path, clock)
    with Monitor(root=tmp_path, clock=clock, load=machine.load) as monitor:
        whole = monitor.begin("run")
        for _ in range(3):
            with monitor.window("epoch") as epoch:
                machine.work(4.0)
            clock.sleep(1.0)
            assert epoch.joules == pytest.approx(180, rel=1e-3) and epoch.joules_estimate is None
        monitor.end("run")
    assert whole.joules == pytest.approx(3 * (180 + 30), rel=1e-3)
    (part,) = whole.parts
    assert part.info.id == "powercap:intel-rapl:0+powercap:intel-rapl:1" and part.info.scope == "chip"
    assert part.low < 630 < part.high and part.high - part.low < 1


def test_several_sources_are_several_figures(tmp_path):
    clock = VirtualClock()
    machine = packages(tmp_path, clock)
    ids = ("powercap:intel-rapl:0", "powercap:intel-rapl:1")
    with Monitor(ids, root=tmp_path, clock=clock, load=machine.load) as monitor, monitor.window("w") as w:
        machine.work(4.0)
    assert [part.energy for part in w.parts] == pytest.approx([120, 60], rel=1e-3)


def test_without_a_meter_it_is_an_estimate_under_another_name(tmp_path):
    with Monitor(root=tmp_path) as monitor, monitor.window("epoch") as w:
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass
    assert w.joules is None and w.joules_estimate == pytest.approx(12 * 0.05, rel=0.5)
    (row,) = make_document(monitor)["rows"]
    assert row["evidence"] == "estimated" and row["ranking"] is False and "energy_j" not in json.dumps(row)
    assert row["flags"][0].startswith("estimated: this machine has no energy source")
    (line,) = csv.DictReader(io.StringIO(csv_text(monitor.windows)))
    assert line["energy_j"] == "" and float(line["energy_estimate_j"]) == w.joules_estimate
    assert "greenedge_energy_estimate_joules_total{" in openmetrics_text(monitor)
    assert "greenedge_energy_joules" not in openmetrics_text(monitor)


@pytest.mark.parametrize("options", [{"required": "measured"}, {"sources": ("powercap:intel-rapl:0",)}])
def test_a_measurement_that_was_asked_for_is_not_replaced(tmp_path, options):
    with pytest.raises(EvidenceError):
        Monitor(root=tmp_path, **options)


def test_a_frozen_source_is_no_meter(tmp_path):
    clock = VirtualClock()
    FakePowercapTree(tmp_path, {"intel-rapl:0": "package-0"}).tick("intel-rapl:0", 50)
    machine = FakeMachine(clock)
    with Monitor(root=tmp_path, clock=clock, load=machine.load) as monitor:
        assert not monitor.groups and "it is frozen" in monitor.reason


def test_names_that_are_misused(tmp_path):
    with Monitor(root=tmp_path) as monitor:
        w = monitor.begin("a")
        with pytest.raises(GreenedgeError) as caught:
            monitor.begin("a")
        assert str(caught.value) == ("the window 'a' is open already; end it first, or give the inner another name.")
        with pytest.raises(GreenedgeError, match="the window 'a' has not ended"):
            _ = w.joules
        with pytest.raises(GreenedgeError, match="there is no open window 'b'"):
            monitor.end("b")
        with pytest.raises(GreenedgeError, match="no window 'c' has ended"):
            summarise(monitor.windows, "c")
        with pytest.raises(ValueError, match="mine"), monitor.window("d"):
            raise ValueError("mine")
        assert [w.name for w in monitor.windows] == ["d"], "a block that raises ends its window"


def test_a_source_that_breaks_off_in_a_window_gives_no_number(tmp_path):
    clock = VirtualClock()
    machine = packages(tmp_path, clock, 1)
    monitor = Monitor(root=tmp_path, clock=clock, load=machine.load)
    monitor.begin("w")
    clock.watch = None  # the tree stands still from here
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").write_text("12\n")
    with pytest.raises(SourceFault):
        monitor.end("w")


def fake_monitor(monkeypatch, period_s, **options):
    """A monitor on one simulated counter, without its proof of life."""
    clock = VirtualClock()
    machine = FakeMachine(clock)
    source = FakeCounter(machine, period_s=period_s, **options)
    meter = CounterMeter(source, clock, period_s)
    meter.start()
    from greenedge.energy.coverage import Group
    from greenedge.energy.proving import Proved

    proved = [Proved(Group((source.info.id,)), (meter,), (Liveness("alive"),))]
    monkeypatch.setattr(monitors, "make_plan", lambda *_: None)
    monkeypatch.setattr(monitors, "prove_plan", lambda *_: (proved, []))
    return clock, machine, Monitor(clock=clock)


@pytest.mark.parametrize("ticks", [3.0, 40.0])
def test_95_percent_of_the_windows_hold_the_truth(monkeypatch, rng, ticks):
    """A counter of 100 ms read at any moment: 2,000 windows of about so many ticks."""
    clock, machine, monitor = fake_monitor(monkeypatch, 0.1, lsb_j=1e-6, range_j=None)
    clock.sleep(5.0)
    held = 0
    for length in rng.uniform(0.5 * ticks, 1.5 * ticks, 2000) * 0.1:
        clock.sleep(float(rng.uniform(0, 0.3)))
        before = machine.joules
        monitor.begin("w")
        clock.sleep(float(length))
        part = monitor.end("w").parts[0]
        held += part.low <= machine.joules - before <= part.high
    assert 0.93 <= held / 2000 <= 0.97, held


def test_95_percent_of_the_means_hold_the_truth(monkeypatch, rng):
    """1,500 runs of eight epochs whose power varies by a tenth: the interval of their mean."""
    clock, machine, monitor = fake_monitor(monkeypatch, 976e-6)
    held = 0
    for _ in range(1500):
        monitor.windows.clear()
        for watts in 20 + 2 * rng.standard_normal(8):
            machine.idle_w = float(watts)
            with monitor.window("epoch"):
                clock.sleep(10.0)
        ((_, figure, _),) = summarise(monitor.windows, "epoch")
        held += figure.low <= 200 <= figure.high
    assert 0.93 <= held / 1500 <= 0.97, held


def test_a_window_within_a_tick_is_flagged_and_not_certain(monkeypatch):
    clock, _, monitor = fake_monitor(monkeypatch, 0.1, lsb_j=1e-6)
    clock.sleep(5.05)
    with monitor.window("short") as w:
        clock.sleep(0.01)
    (part,) = w.parts
    assert part.energy == 0 and part.high > 0.2, "the tick holds 2 J, of which it cannot say whether any is in it"
    assert part.flags == ("shorter than 10 updates of fake:counter (0.1 s)",)


def test_files(tmp_path):
    clock = VirtualClock()
    machine = packages(tmp_path, clock, 1)
    monitor = Monitor(root=tmp_path, clock=clock, load=machine.load)
    for name in ("epoch", "epoch", 'a "b"\\\n'):
        with monitor.window(name):
            machine.work(4.0)
    for name in ("w.json", "w.csv", "w.prom"):
        save(monitor, tmp_path / name)
    rows = results.load(tmp_path / "w.json")["rows"]
    assert [(row["workload"], len(row["repetitions"])) for row in rows] == [("epoch", 2), ('a "b"\\\n', 1)]
    assert rows[0]["figures"]["total"]["energy_j"] == pytest.approx(120, rel=1e-3) and rows[0]["kind"] == "window"
    lines = list(csv.DictReader(io.StringIO((tmp_path / "w.csv").read_text())))
    assert [line["window"] for line in lines] == ["epoch", "epoch", 'a "b"\\\n']
    assert float(lines[0]["energy_j"]) == pytest.approx(120, rel=1e-3) and lines[0]["scope"] == "chip"
    text = (tmp_path / "w.prom").read_text()
    assert text.endswith("# EOF\n") and "# TYPE greenedge_window_energy_joules counter\n" in text
    assert 'greenedge_windows_total{window="epoch"} 2' in text and 'window="a \\"b\\"\\\\\\n"' in text
    (value,) = [float(line.split()[-1]) for line in text.splitlines() if line.startswith("greenedge_energy_joules_t")]
    assert value == pytest.approx(360, rel=0.01)
    for line in text.splitlines():
        assert line.startswith("# ") or line.rpartition(" ")[0].partition("{")[0].endswith("_total"), line


def test_a_long_window_does_not_miss_a_wrap(tmp_path):
    """The thread looks once a second, and what it finds broken is said at the next end."""
    from greenedge.energy.clock import RealClock
    from greenedge.energy.meters import Boundary

    looks: list[float] = []

    class Meter:
        info, period_s = None, 0.1

        def now(self):
            return Boundary(0.0, 0.0, 0.0)

        def guard(self):
            looks.append(time.monotonic())
            if len(looks) == 2:
                raise SourceFault("m", "reset", "it went back", "measure again")

    monitor = Monitor.__new__(Monitor)
    monitor.groups, monitor._lock, monitor._closing, monitor._fault = [(Meter(),)], threading.Lock(), FastEvent(), None
    monitor.clock = RealClock()
    monitor._watch()
    assert len(looks) == 2
    with pytest.raises(SourceFault, match="it went back"):
        monitor._boundaries()


class FastEvent:
    """An event that is never set and does not wait."""

    def wait(self, seconds: float) -> bool:
        assert seconds <= 1.0
        return False


def test_energy_window_is_one_line(tmp_path):
    """From a fresh interpreter: importing stays light, the shared monitor is opened once and closed at the end."""
    code = (
        "import sys, greenedge.energy as e\nassert 'numpy' not in sys.modules\n"
        "for k in range(2):\n    with e.window('epoch') as w:\n        sum(range(10**5))\n"
        "print(w.joules is not None or w.joules_estimate is not None)"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=120, check=False
    )
    assert done.stdout.strip() == "True", done.stderr
    assert energy.Monitor is Monitor and energy.save_windows is save


@pytest.mark.slow
def test_a_torch_loop_on_a_live_tree(tmp_path: Path):
    """In real time, on a tree that a thread moves with the CPU time of this process: the loop's joules are those of
    the tree within the window's own interval, nearly always."""
    import torch

    tree = FakePowercapTree(tmp_path, {"intel-rapl:0": "package-0"})
    stop = threading.Event()
    state = {"joules": 50.0}

    def move() -> None:
        last, cpu = time.monotonic(), time.process_time()
        while not stop.wait(0.002):
            now, used = time.monotonic(), time.process_time()
            state["joules"] += 10 * (now - last) + 20 * min(used - cpu, now - last)
            last, cpu = now, used
            tree.tick("intel-rapl:0", state["joules"])

    thread = threading.Thread(target=move, daemon=True)
    thread.start()
    try:
        with Monitor(root=tmp_path) as monitor:
            assert monitor.groups, monitor.reason
            model = torch.nn.Linear(256, 256)
            optimiser = torch.optim.SGD(model.parameters(), 0.01)
            x = torch.randn(128, 256)
            held = 0
            for _ in range(8):
                before = state["joules"]
                with monitor.window("epoch") as w:
                    for _ in range(30):
                        optimiser.zero_grad()
                        model(x).square().mean().backward()
                        optimiser.step()
                held += abs(w.joules - (state["joules"] - before)) <= 0.05 * w.joules + 0.5
            assert held >= 7 and np.isfinite(w.joules)
    finally:
        stop.set()
        thread.join()


def test_the_exporter_serves_and_writes(tmp_path):
    """Prometheus's own text, over HTTP and in a file, also of an estimate; what is not there is 404."""
    import urllib.error
    import urllib.request

    from greenedge.energy.exporter import export_metrics

    said: list[str] = []
    answers: dict[str, str] = {}

    def say(text: str) -> None:
        said.append(text)
        if "http" in text:
            url = text.split(" at ")[1].split(" ")[0]
            with urllib.request.urlopen(url, timeout=10) as answer:
                answers["type"], answers["text"] = answer.headers["Content-Type"], answer.read().decode()
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(url.replace("/metrics", "/etc/passwd"), timeout=10)

    file = tmp_path / "energy.prom"
    export_metrics((), tmp_path, None, "127.0.0.1:0", file, 1.0, 0.2, say)
    assert answers["type"].startswith("application/openmetrics-text") and answers["text"].endswith("# EOF\n")
    assert "greenedge_energy_estimate_joules_total" in file.read_text()
    assert said[1].startswith("estimated: this machine has no energy source")
    with pytest.raises(GreenedgeError, match="does not end in .prom"):
        export_metrics((), tmp_path, None, None, tmp_path / "x.txt", 1.0, 0.1, say)
    with pytest.raises(GreenedgeError, match="is not HOST:PORT"):
        export_metrics((), tmp_path, None, "here", None, 1.0, 0.1, say)
    with pytest.raises(EvidenceError):
        export_metrics((), tmp_path, "measured", None, file, 1.0, 0.1, say)
