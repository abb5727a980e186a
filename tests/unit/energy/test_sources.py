"""Every source on a tree, port or library of its own, whole and with its faults; each message in full."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from greenedge.energy import counter_unwrap, perf_output
from greenedge.energy.clock import RealClock, VirtualClock
from greenedge.energy.liveness import check
from greenedge.energy.measurement import measure, measure_sources
from greenedge.energy.method import Method
from greenedge.energy.simulate import FAULTS, FakeCounter, FakeMachine, FakePower, FakePowercapTree, MachineWorkload
from greenedge.energy.source import SourceFault
from greenedge.energy.sources import SOURCES, find_all, hwmon, load, nvml, perf, powercap, ppk2
from greenedge.energy.sources import zeus as zeus_bridge
from greenedge.energy.sources.joulescope import Joulescope
from greenedge.energy.sources.otii import Otii
from greenedge.errors import EvidenceError, TargetError
from tests.unit.energy.fakes import NVML_STUB, device_tree, hwmon_chip, setup


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", [FakeCounter, FakePower])
def test_a_faulty_source_yields_no_number(kind, fault):
    """6: a reason and a cure, and exit 3 from the same fault through a whole measurement."""
    clock = VirtualClock()
    machine = FakeMachine(clock)
    found = check(kind(machine, fault=fault), clock, machine.load)
    if kind is FakePower and fault == "reset":
        assert found.ok, "a power has nothing to reset"
        return
    assert not found.ok and found.reason and found.fix, found
    clock = VirtualClock()
    machine = FakeMachine(clock)
    with pytest.raises(SourceFault) as caught:
        measure_sources(
            [MachineWorkload(machine)], [kind(machine, fault=fault)], clock=clock, method=Method(warm_up_s=6)
        )
    assert caught.value.exit_code == 3 and caught.value.reason and caught.value.fix


def test_a_fault_in_the_middle_of_a_run_yields_no_number():
    clock, machine, source = setup()
    workload = MachineWorkload(machine)
    done = workload.infer

    def infer(n, on_wait):
        source.fault = "frozen" if clock.time > 1080 else None
        done(n, on_wait)

    workload.infer = infer
    with pytest.raises(SourceFault):
        measure_sources([workload], [source], clock=clock, method=Method(warm_up_s=12))


def test_families_are_one_line_each(tmp_path):
    for name in SOURCES:
        found = load(name).find(tmp_path)
        assert found and all(f.reason and f.fix for f in found), found
    with pytest.raises(EvidenceError) as caught:
        load("oracle")
    assert str(caught.value) == (
        "there is no source 'oracle'; sources are: powercap, perf, hwmon, nvml, joulescope, otii, ppk2, zeus."
    )
    assert len(find_all(tmp_path)) == len(SOURCES)


def _tree(tmp_path, clock):
    tree = FakePowercapTree(
        tmp_path,
        {"intel-rapl:0": "package-0", "intel-rapl:0:0": "core", "intel-rapl:0:1": "dram", "intel-rapl:1": "psys"},
    )
    machine = FakeMachine(clock)
    outer = clock.watch

    def watch(t):
        outer(t)
        tree.tick("intel-rapl:0", 262100 + machine.joules)
        tree.tick("intel-rapl:1", 500 + 2 * machine.joules)
        tree.tick("intel-rapl:0:1", 7 + machine.joules / 10)

    clock.watch = watch
    return tree, machine


def test_powercap_keeps_its_domains_apart_and_wraps(tmp_path):
    clock = VirtualClock()
    tree, machine = _tree(tmp_path, clock)
    clock.sleep(0.001)
    found = {f.id: (f.scope, f.covers) for f in powercap.find(tmp_path)}
    assert found == {
        "powercap:intel-rapl:0": ("chip", "cpu package-0"),
        "powercap:intel-rapl:0:0": ("chip", "cpu core-0"),
        "powercap:intel-rapl:0:1": ("module", "cpu dram-0"),
        "powercap:intel-rapl:1": ("board", "psys"),
    }
    source = powercap.open_source("powercap:intel-rapl:0", tmp_path, clock)
    first = source.read().value
    clock.sleep(10)
    assert source.read().value - first == pytest.approx(200, rel=1e-4)
    assert source.raw() < 300, "it wrapped"
    assert "cpu package" in powercap.open_source("powercap:intel-rapl:1", tmp_path, clock).info.overlaps
    tree.close()


def test_powercap_mirrored_dies(tmp_path):
    clock = VirtualClock()
    tree = FakePowercapTree(
        tmp_path,
        {"intel-rapl:0": "package-0-die-0", "intel-rapl:1": "package-0-die-1", "intel-rapl:2": "package-1-die-0"},
    )

    def watch(t):
        for zone, factor in (("intel-rapl:0", 10), ("intel-rapl:1", 10), ("intel-rapl:2", 11)):
            tree.tick(zone, factor * t)

    clock.watch = watch
    clock.sleep(1)
    sources = [powercap.open_source(f.id, tmp_path, clock) for f in powercap.find(tmp_path)]
    assert powercap.find_mirrors(sources) == [("powercap:intel-rapl:0", "powercap:intel-rapl:1")]
    ids = [source.info.id for source in sources]
    with pytest.raises(SourceFault) as caught:
        measure([MachineWorkload(FakeMachine(clock))], ids, root=tmp_path, clock=clock)
    assert str(caught.value) == (
        "powercap:intel-rapl:1: it shows the same counter as powercap:intel-rapl:0 (cure: measure one of the two)."
    )


def test_a_greater_power_may_be_named(tmp_path):
    clock = VirtualClock()
    _tree(tmp_path, clock)
    source = powercap.open_source("powercap:intel-rapl:0", tmp_path, clock)
    before = source.info
    source.info = before.with_properties(gain_rel=0.01, max_power_w=4000.0)
    assert source.info.gain_rel == 0.01 and source.info.guard_s == source.info.range_j / 16000
    assert source.info.with_properties() == source.info, "None keeps the value"
    # 2000 J in a second: more than the 1000 W of before can explain, less than the 4000 W of now.
    assert counter_unwrap.greatest_step(before, 1.0) < 2000 < counter_unwrap.greatest_step(source.info, 1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds b'', not a whole number"),
        ("nan", "holds b'nan', not a whole number"),
        ("-5", "holds b'-5', not a whole number"),
    ],
)
def test_powercap_with_nonsense(tmp_path, text, message):
    clock = VirtualClock()
    _tree(tmp_path, clock)
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").write_text(text)
    (found,) = [f for f in powercap.find(tmp_path) if f.id == "powercap:intel-rapl:0"]
    assert message in found.reason and not found.ok


def test_powercap_denied(tmp_path, monkeypatch):
    clock = VirtualClock()
    _tree(tmp_path, clock)
    place = tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj"
    opened = os.open

    def denied(path, *rest):
        if Path(path) == place:
            raise PermissionError(13, "Permission denied")
        return opened(path, *rest)

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(SourceFault) as caught:
        powercap.open_source("powercap:intel-rapl:0", tmp_path, clock)
    assert str(caught.value) == (
        f"powercap:intel-rapl:0: {place} may be read by root alone (cure: sudo chmod o+r "
        "/sys/class/powercap/intel-rapl*:*/energy_uj /sys/class/powercap/intel-rapl*:*/max_energy_range_uj; for good "
        'the udev rule SUBSYSTEM=="powercap", RUN+="/bin/chmod -f o+r /sys%p/energy_uj /sys%p/max_energy_range_uj" in '
        "/etc/udev/rules.d/60-rapl.rules)."
    )


def _perf_tree(tmp_path, event="energy-psys"):
    folder = tmp_path / "sys/bus/event_source/devices/power"
    (folder / "events").mkdir(parents=True)
    for name, text in {
        "type": "9",
        "cpumask": "0,2-3",
        f"events/{event}": "event=0x05",
        f"events/{event}.scale": "2.3283064365386962890625e-10",
        f"events/{event}.unit": "Joules",
    }.items():
        (folder / name).write_text(text + "\n")


def test_perf_event_counts_over_its_cpus(tmp_path):
    _perf_tree(tmp_path, "energy-pkg")
    clock, calls = VirtualClock(), []

    def opener(kind, config, cpu):
        calls.append((kind, config, cpu))
        return os.open(tmp_path / "count", os.O_RDONLY)

    (tmp_path / "count").write_bytes(struct.pack("<Q", 0))
    source = perf.open_source("perf:energy-pkg", tmp_path, clock, opener)
    assert calls == [(9, 5, 0), (9, 5, 2), (9, 5, 3)]
    source.read()
    clock.sleep(1)
    (tmp_path / "count").write_bytes(struct.pack("<Q", 10 * 2**32))
    assert source.read().value == pytest.approx(30)
    source.close()


def test_perf_psys_that_is_dead(tmp_path):
    """An event that exists and answers 0 for ever, as some virtual machines have it."""
    _perf_tree(tmp_path)
    (tmp_path / "count").write_bytes(struct.pack("<Q", 0))
    clock = VirtualClock()
    source = perf.open_source("perf:energy-psys", tmp_path, clock, lambda *a: os.open(tmp_path / "count", os.O_RDONLY))
    found = check(source, clock, FakeMachine(clock).load)
    assert found.state == "dead" and "it does not move" in found.reason, found


def test_perf_psys_of_this_machine_is_absent_dead_or_alive():
    """Live: what this machine has. Never a number that has not been proved."""
    clock = RealClock()
    try:
        source = perf.open_source("perf:energy-psys", Path("/"), clock)
    except SourceFault as fault:
        assert fault.reason and fault.fix
        return
    found = check(source, clock, None, seconds=0.3)
    assert found.state in ("dead", "unproven"), found


def test_perf_denied(tmp_path):
    _perf_tree(tmp_path)

    def opener(*_):
        raise PermissionError(13, "Permission denied")

    with pytest.raises(SourceFault) as caught:
        perf.open_source("perf:energy-psys", tmp_path, VirtualClock(), opener)
    assert str(caught.value) == (
        "perf:energy-psys: perf_event_open says Permission denied (cure: run as root, or "
        "sudo sysctl "
        "kernel.perf_event_paranoid=0)."
    )


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("<not supported>,Joules,power/energy-pkg/,0,100.00,,\n", "absent"),
        ("0.00,Joules,power/energy-psys/,1000,100.00,,\n", "dead"),
        ("1,5,Joules,power/energy-pkg/\n", "absent"),
        ("", "absent"),
        ("4.2e,Joules,power/energy-pkg/,1,1,,\n", "implausible"),
        ("nan,Joules,power/energy-pkg/,1,1,,\n", "implausible"),
        ("1e999,Joules,power/energy-pkg/,1,1,,\n", "implausible"),
        ("-3.0,Joules,power/energy-pkg/,1,1,,\n", "implausible"),
    ],
)
def test_perf_stat_output_without_a_number(text, kind):
    with pytest.raises(SourceFault) as caught:
        perf_output.read_runs(text)
    assert caught.value.kind == kind


def test_perf_stat_output():
    text = "# started\n\n12.50,Joules,power/energy-pkg/,1000,100.00,,\n0.75,Joules,power/energy-ram/,1000,100.00,,\n"
    (run,) = perf_output.read_runs(text)
    assert run.joules == {"energy-pkg": {"": 12.5}, "energy-ram": {"": 0.75}}


def test_hwmon_power_and_product_and_rail_maps(tmp_path):
    hwmon_chip(
        tmp_path, 0, "ina260_u14", power1_input="4250000", curr1_input="850", in1_input="5000", update_interval="70"
    )
    hwmon_chip(
        tmp_path,
        1,
        "ina3221",
        **{
            "in1_input": "5000",
            "curr1_input": "1000",
            "in1_label": "VDD_IN",
            "in2_input": "5000",
            "curr2_input": "300",
            "in2_label": "VDD_CPU_GPU_CV",
        },
    )
    hwmon_chip(tmp_path, 2, "coretemp", temp1_input="40000")
    rails = {f"hwmon:hwmon{place}": ("rail", True) for place in ("0:1", "1:1", "1:2")}
    assert {f.id: (f.scope, f.ok) for f in hwmon.find(tmp_path)} == rails
    device_tree(tmp_path, "NVIDIA Jetson Orin Nano Developer Kit", "nvidia,p3768-0000+p3767-0005", "nvidia,p3767-0005")
    assert {f.id: (f.scope, f.ok) for f in hwmon.find(tmp_path)} == rails | {
        "hwmon:jetson-orin-nx/input": ("module", True),
        "hwmon:jetson-orin-nx/cpu-gpu": ("rail", True),
    }
    device_tree(tmp_path, "ZynqMP ZCU102 Rev1.0", "xlnx,zynqmp-zcu102-rev1.0", "xlnx,zynqmp-zcu102", "xlnx,zynqmp")
    with pytest.raises(SourceFault, match="rails without a sensor: VCCPSINTFP"):
        hwmon.open_source("hwmon:zcu102/ps", tmp_path, VirtualClock())
    device_tree(tmp_path, "ZynqMP KV260 revB", "xlnx,zynqmp-sk-kv260-revB", "xlnx,zynqmp")
    assert {f.id: (f.scope, f.ok) for f in hwmon.find(tmp_path)} == rails | {"hwmon:kv260/som": ("module", True)}
    clock = VirtualClock()
    som = hwmon.open_source("hwmon:kv260/som", tmp_path, clock)
    assert som.read().value == pytest.approx(4.25) and som.info.update_period_s == 0.07
    assert som.info.gain_rel == pytest.approx(0.0015 / 3**0.5)
    assert hwmon.open_source("hwmon:hwmon1:2", tmp_path, clock).read().value == pytest.approx(1.5)


@pytest.mark.parametrize("text", ["900000000", "-4", "busy"])
def test_hwmon_with_nonsense(tmp_path, text):
    hwmon_chip(tmp_path, 0, "ina226", power1_input=text)
    source = hwmon.open_source("hwmon:hwmon0:1", tmp_path, VirtualClock())
    with pytest.raises(SourceFault):
        source.read()


def test_rail_maps_are_whole(tmp_path):
    boards = {board.name: board for board in hwmon.rail_maps()}
    assert set(boards) == {"zcu102", "zcu104", "kv260", "ultra96", "jetson-orin-nx", "jetson-agx-orin"}
    assert len(boards["zcu102"].rails) == 18 and len({r.chip for r in boards["zcu102"].rails}) == 18
    assert all(board.source and board.experimental for board in boards.values())
    path = tmp_path / "bad.toml"
    path.write_text(
        'name = "good"\ntitle = "t"\nsource = "s"\ncolour = 1\n[groups]\na = "rail"\n[[rail]]\nname = "X"\n'
        'group = "b"\nchip = "ina226"\nchannel = 1\n'
    )
    with pytest.raises(TargetError) as caught:
        hwmon.load_rails(path)
    assert str(caught.value) == (
        "bad.toml: unknown key 'colour'; a rail map has: experimental, groups, machine, name, rail, source, title.\n"
        "bad.toml: key 'machine' is missing.\n"
        "bad.toml: rail 'X' is in group 'b'; [groups] has none of that name.\n"
        "bad.toml: name is 'good'; it must be the file's, 'bad'."
    )


@pytest.fixture(scope="module")
def stub(tmp_path_factory):
    """The stub as libnvidia-ml.so.1: loaded first, so pynvml's dlopen finds it by its soname."""
    pytest.importorskip("pynvml")
    folder = tmp_path_factory.mktemp("nvml")
    (folder / "stub.c").write_text(NVML_STUB)
    library = folder / "libnvidia-ml.so.1"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-w", "-o", library, "-Wl,-soname,libnvidia-ml.so.1", folder / "stub.c"], check=True
    )
    loaded = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    loaded.stub_set.argtypes = [ctypes.c_ulonglong, ctypes.c_uint, ctypes.c_int]
    loaded.stub_shape.argtypes = [ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_char_p]
    yield loaded
    loaded.stub_leave()  # it stays loaded, and other tests are of a machine without a GPU


def _gpu(stub, read=1.0):
    """A machine whose GPU the stub shows: a 100 ms counter, and a power that reads `read` times the truth."""
    clock = VirtualClock()
    machine = FakeMachine(clock, idle_w=60.0, busy_w=240.0)
    outer, held = clock.watch, [0.0, -1, 0.0]

    def watch(t):
        outer(t)
        tick = int(t / 0.1)
        if tick != held[1]:
            held[2] = (machine.joules - held[0]) / 0.1
            held[0], held[1] = machine.joules, tick
        stub.stub_set(int(held[0] * 1000), int(machine.power(t) * 1000 * read), 0)

    clock.watch = watch
    clock.sleep(0.2)
    return clock, machine


@pytest.mark.tool("g++")
def test_nvml_through_a_stub_library(stub, tmp_path):
    clock, machine = _gpu(stub)
    assert {f.id: f.ok for f in nvml.find(tmp_path)} == {"nvml:0:energy": True, "nvml:0:power": True}
    source = nvml.open_source("nvml:0:energy", tmp_path, clock)
    found = check(source, clock, machine.load)
    assert found.ok and abs(found.period_s / 0.1 - 1) < 0.1 and found.load_w == pytest.approx(300, rel=0.02), found
    document = measure_sources(
        [MachineWorkload(machine, 0.0031)], [source], clock=clock, method=Method(warm_up_s=30, max_reps=10)
    )
    (row,) = document["rows"]
    assert row["scope"] == "module" and row["host_included"] is False and row["evidence"] == "derived"
    assert row["method"]["delay_s"] == 0.1, "a sensor that looks part of the time gets random delays"
    # Total without its delays: 300 W · 3.1 ms; net 240 W · 3.1 ms.
    assert row["figures"]["total"]["energy_j"] == pytest.approx(0.93, rel=0.01)
    assert row["figures"]["net"]["energy_j"] == pytest.approx(0.744, rel=0.01)


@pytest.mark.tool("g++")
def test_nvml_refuses_by_name(stub, tmp_path):
    _gpu(stub)
    source = nvml.open_source("nvml:0:energy", tmp_path, VirtualClock())
    stub.stub_set(0, 0, 3)
    with pytest.raises(SourceFault) as caught:
        source.read()
    assert str(caught.value) == (
        "nvml:0:energy: NVML says Not Supported (cure: this GPU shows neither energy nor power: put a meter into the "
        "supply of the machine, or use its hwmon)."
    ), "no cure that leads in a circle"
    device_tree(tmp_path, "Jetson-AGX", "nvidia,p2972-0000", "nvidia,tegra194")
    assert [f.fix for f in nvml.find(tmp_path)] == [
        "a Jetson's GPU has no sensor in NVML: use the rails of the module, hwmon:… in `greenedge energy probe`"
    ] * 2
    stub.stub_set(0, 60_000, 0)
    stub.stub_shape(1, 3, 1, None)
    assert [(f.ok, f.fix) for f in nvml.find(tmp_path)] == [
        (False, "use nvml:0:power: this GPU has no energy counter (before Volta)"),
        (True, ""),
    ]
    notes = nvml.open_source("nvml:0:power", tmp_path, VirtualClock()).info.notes
    assert "the GPU is cut in MIG slices: this is the whole GPU, also the work of others" in notes
    stub.stub_shape(1, 0, 0, None)
    stub.stub_set(0, 0, 4)
    with pytest.raises(SourceFault) as caught:
        source.read()
    assert caught.value.kind == "denied"
    stub.stub_set(0, 3_000_000, 0)
    with pytest.raises(SourceFault, match="it reads 3000000 mW"):
        nvml.open_source("nvml:0:power", tmp_path, VirtualClock()).read()
    assert nvml.disagreement(187, 327) > 0.05 > nvml.disagreement(100, 99)


@pytest.mark.tool("g++")
@pytest.mark.parametrize(
    ("text", "order", "name", "gpus"),
    [
        (None, None, None, [0, 1, 2]),
        ("", None, None, []),
        ("-1", None, None, []),
        ("2,0", None, None, [0, 2]),
        ("1,7,0", None, None, [1]),
        ("GPU-1", None, None, [1]),
        ("GPU-", None, None, []),
        ("1", None, b"Stub 200", [0, 1, 2]),
        ("1", "PCI_BUS_ID", b"Stub 200", [1]),
        ("GPU-2aa", None, b"Stub 200", [2]),
        ("MIG-1f", None, None, [0, 1, 2]),
    ],
)
def test_the_gpus_that_cuda_programs_see(stub, monkeypatch, text, order, name, gpus):
    """CUDA's numbers are NVML's where the GPUs are alike or ordered by the bus; else all are taken, and it is said."""
    _gpu(stub)
    stub.stub_shape(3, 0, 0, name)
    for key, value in (("CUDA_VISIBLE_DEVICES", text), ("CUDA_DEVICE_ORDER", order)):
        monkeypatch.setenv(key, value) if value is not None else monkeypatch.delenv(key, raising=False)
    found, doubt = nvml.visible_gpus()
    stub.stub_shape(1, 0, 0, None)
    assert found == gpus
    assert bool(doubt) == (text is not None and gpus == [0, 1, 2])


class _Kit:
    """A PPK2 on a string: answers the calibration, streams samples of `codes`, may lose some or fall silent."""

    def __init__(self, lose=(), silent=False, text="Calibrated: 0\nR0: 1000.0\nGS0: 0\nUG0: 1.0\nI1: -nan\nEND\n"):
        self.lose, self.silent, self.text, self.sent, self.written = set(lose), silent, text.encode(), 0, []

    def write(self, data):
        self.written.append(bytes(data))

    def read(self, count):
        if self.text:
            text, self.text = self.text, b""
            return text
        if self.silent:
            return b""
        words = [(1000 | (k % 64) << 18) for k in range(self.sent, self.sent + count // 4) if k not in self.lose]
        self.sent += count // 4
        return np.array(words, "<u4").tobytes()

    def close(self):
        """Nothing is open."""


def test_ppk2_by_its_protocol():
    kit, clock = _Kit(), VirtualClock()
    source = ppk2.open_source("ppk2:x", Path("/"), clock, 3.0, lambda path: kit)
    assert kit.written == [b"\x19", b"\x11\x02", b"\x0d\x0b\xb8", b"\x0c\x01"]
    start = source.start()
    t, watts = (np.concatenate(parts) for parts in zip(*(source.poll() for _ in range(4)), strict=True))
    # 1000 codes of 4 steps: 4000 · 1.8/163840 / 1000 Ω, GS kept at Nordic's 1 (0 means absent), GI 1; times 3 V.
    bare = 4000 * 1.8 / 163840 / 1000
    assert watts == pytest.approx((bare * (bare + 1)) * 3.0, rel=1e-6)
    assert np.diff(t) == pytest.approx(1e-3) and t[0] == pytest.approx(start + 0.5e-3)
    source.stop()
    source.close()
    assert kit.written[-2:] == [b"\x07", b"\x0c\x00"]


def test_ppk2_shows_lost_samples_and_silence():
    source = ppk2.open_source("ppk2:x", Path("/"), VirtualClock(), 3.0, lambda path: _Kit(lose=range(450, 460)))
    source.start()
    t, _ = (np.concatenate(parts) for parts in zip(*(source.poll() for _ in range(3)), strict=True))
    assert np.sum(np.diff(t) > 1.5e-3) == 1, "the bin with the loss is left out"
    silent = ppk2.open_source("ppk2:x", Path("/"), VirtualClock(), 3.0, lambda path: _Kit(silent=True))
    silent.start()
    with pytest.raises(SourceFault, match="it sends nothing"):
        for _ in range(10):
            silent.poll()
    with pytest.raises(SourceFault, match="out of step"):
        ppk2.decode(np.array([7 << 14], "<u4").tobytes(), ppk2.calibration("END"), 3.0)
    with pytest.raises(SourceFault, match="does not answer"):
        ppk2.open_source("ppk2:x", Path("/"), VirtualClock(), 3.0, lambda path: _Kit(silent=True, text=""))


def test_joulescope_accumulator():
    class Driver:
        def open(self, path): ...
        def publish(self, topic, value): ...
        def close(self, path): ...
        def finalize(self): ...
        def subscribe(self, topic, flags, call):
            self.call = call

    clock = VirtualClock()
    source = Joulescope("u/js220/000001", clock, SimpleNamespace(Driver=Driver))
    with pytest.raises(SourceFault, match="no statistics in 2 s"):
        source.read()
    for joules in (5.0, 6.5):
        source.driver.call("", {"accumulators": {"energy": {"value": joules}}})
    assert source.read().value == pytest.approx(1.5)
    source.driver.call("", {"accumulators": {"energy": {"value": 1.0}}})
    with pytest.raises(SourceFault, match="went back"):
        source.read()


def test_otii_stream_multiplies_current_and_voltage():
    class Recording:
        def get_channel_data_count(self, device, channel):
            return 500 if channel == "mc" else 500

        def get_channel_data(self, device, channel, index, count):
            return {"timestamp": index * 1e-3, "interval": 1e-3, "values": [0.02 if channel == "mc" else 3.0] * count}

    project = SimpleNamespace(
        start_recording=lambda: None, stop_recording=lambda: None, get_last_recording=lambda: Recording()
    )
    server = SimpleNamespace(
        get_devices=lambda: [SimpleNamespace(id="d", enable_channel=lambda c, e: None)],
        get_active_project=lambda: project,
    )
    module = SimpleNamespace(OtiiClient=lambda: SimpleNamespace(connect=lambda: server))
    source = Otii("d", VirtualClock(), module)
    source.start()
    t, watts = source.poll()
    assert watts == pytest.approx(0.06) and len(t) == 500 and len(source.poll()[0]) == 0
    with pytest.raises(SourceFault, match="no such device"):
        Otii("e", VirtualClock(), module)


def test_zeus_bridge_takes_gpus_alone():
    clock = VirtualClock()
    gpus = SimpleNamespace(get_total_energy_consumption=lambda i: 1000.0 * clock.time * 50)
    source = zeus_bridge.open_source("zeus:0", Path("/"), clock, gpus)
    first = source.read().value
    clock.sleep(2)
    assert source.read().value - first == pytest.approx(100, rel=1e-3)


def test_zeus_bridge_takes_the_parts_of_an_apple_chip():
    clock = VirtualClock()
    machine = FakeMachine(clock)
    soc = SimpleNamespace(
        get_total_energy_consumption=lambda: SimpleNamespace(gpu_mj=round(machine.joules * 1000), ane_mj=None)
    )
    source = zeus_bridge.open_source("zeus:apple:gpu", Path("/"), clock, soc)
    assert (source.info.covers, source.info.scope, source.info.host_included) == ("apple gpu", "chip", False)
    found = check(source, clock, machine.load)
    assert found.ok and found.load_w == pytest.approx(30, rel=0.01)
    with pytest.raises(SourceFault, match="zeus has no figure for it"):
        zeus_bridge.open_source("zeus:apple:ane", Path("/"), clock, soc).read()
    with pytest.raises(SourceFault, match="a GPU is zeus:INDEX, a part of an Apple chip zeus:apple:gpu"):
        zeus_bridge.open_source("zeus:apple:lid", Path("/"), clock, soc)
