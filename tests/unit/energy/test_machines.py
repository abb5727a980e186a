"""Which machine it is, and what its sensors may be said to cover: trees rebuilt from public reports, each with the
right scope and figure or a reason that fits the machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from greenedge.energy.clock import VirtualClock
from greenedge.energy.machine import identify
from greenedge.energy.source import SourceFault
from greenedge.energy.sources import find_all, hwmon, open_source, perf, powercap
from tests.unit.energy.fakes import PI, device_tree, dmi, hwmon_chip

INA = {"in1_input": "12000", "curr1_input": "1000", "power1_input": "12000000"}


def read(root: Path, source: str) -> tuple[str, float]:
    opened = open_source(source, root, VirtualClock())
    try:
        return opened.info.scope, opened.read().value
    finally:
        opened.close()


def fault(root: Path, source: str) -> SourceFault:
    with pytest.raises(SourceFault) as caught:
        read(root, source)
    return caught.value


def follow(root: Path, source: str) -> tuple[str, float]:
    """The reading after following the cure, which must name a source that can be given."""
    said = re.search(r"--source ([^\s;]+?),?(?= |$|;)", fault(root, source).fix)
    assert said, fault(root, source).fix
    return read(root, said[1])


@pytest.mark.parametrize(
    ("model", "compatible", "map_"),
    [
        ("ZynqMP ZCU104 RevC", ("xlnx,zynqmp-zcu104-revC", "xlnx,zynqmp-zcu104", "xlnx,zynqmp"), "zcu104"),
        ("Avnet Ultra96 Rev1", ("avnet,ultra96-rev1", "avnet,ultra96", "xlnx,zynqmp-zcu100-revC"), "ultra96"),
        ("ZynqMP ZCU106 RevA", ("xlnx,zynqmp-zcu106-revA", "xlnx,zynqmp-zcu106", "xlnx,zynqmp"), None),
        ("ZynqMP ZCU1040", ("xlnx,zynqmp-zcu1040",), None),
        PI[:1] + (PI[1:], None),
    ],
)
def test_a_rail_map_counts_on_its_board_alone(tmp_path, model, compatible, map_):
    device_tree(tmp_path, model, *compatible)
    hwmon_chip(tmp_path, 0, "ina226", **INA)
    found = {f.id: f.scope for f in hwmon.find(tmp_path)}
    assert found == {"hwmon:hwmon0:1": "rail"} | ({f"hwmon:{map_}/input": "board"} if map_ else {})
    assert read(tmp_path, "hwmon:hwmon0:1") == ("rail", pytest.approx(12.0))
    if map_ is None:
        assert str(fault(tmp_path, "hwmon:zcu104/input")) == (
            "hwmon:zcu104/input: its rails are those of AMD ZCU104, and this machine is "
            f"{identify(tmp_path)} (cure: name the sensor itself, hwmon:hwmonN:CHANNEL, whose scope is one rail "
            "(greenedge energy probe lists them))."
        )


def test_a_laptop_with_an_ina226_is_no_board(tmp_path):
    dmi(tmp_path, "LENOVO", "21CB", "10")
    hwmon_chip(tmp_path, 0, "ina226", **INA)
    assert {f.id: f.scope for f in hwmon.find(tmp_path)} == {"hwmon:hwmon0:1": "rail"}
    assert "this machine is a laptop (LENOVO 21CB)" in fault(tmp_path, "hwmon:ultra96/input").reason


@pytest.mark.parametrize(
    ("kind", "make", "cpu", "rails"),
    [
        ("pi", lambda root: device_tree(root, *PI), "a Raspberry Pi has no RAPL", "no power sensor that Linux shows"),
        ("laptop", lambda root: dmi(root, "Dell", "XPS 13", "10"), "unplug it", "unplug it"),
        ("server", lambda root: dmi(root, "Supermicro", "SYS-1", "23"), "acpi_power_meter", "acpi_power_meter"),
        ("pc", lambda root: dmi(root, "ASUS", "PRIME", "3"), "modprobe intel_rapl_msr", "a PC shows no supply rails"),
        ("vm", lambda root: dmi(root, "QEMU", "Standard PC", "1"), "measure on its host", "measure on its host"),
        (
            "jetson",
            lambda root: device_tree(root, "NVIDIA Jetson Xavier NX", "nvidia,tegra194"),
            "use its power rails",
            "ina3221x",
        ),
        ("board", lambda root: device_tree(root, "ZynqMP ZCU106", "xlnx,zynqmp-zcu106"), "its rails", "device tree"),
        ("unknown", lambda root: None, "external meter", "shows no power sensor"),
    ],
)
def test_cures_name_what_the_machine_is(tmp_path, kind, make, cpu, rails):
    make(tmp_path)
    assert identify(tmp_path).kind == kind
    for family in (powercap, perf):
        (found,) = family.find(tmp_path)
        assert cpu in found.fix and "this machine is" in found.reason, found
    (found,) = hwmon.find(tmp_path)
    assert rails in found.fix and ("device tree" in found.fix) == (kind == "board"), found


def test_a_guest_without_dmi_is_known_by_its_cpu(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor : 0\nflags : fpu vme hypervisor lahf_lm\n")
    assert identify(tmp_path).kind == "vm"
    (tmp_path / "proc/cpuinfo").write_text("processor : 0\nflags : fpu vme lahf_lm\nmodel : hypervisor\n")
    assert identify(tmp_path).kind == "unknown"


@pytest.mark.parametrize(
    ("chip", "files", "scope", "watts"),
    [
        ("amdgpu", {"power1_average": "35000000", "power1_label": "PPT", "in0_input": "800"}, "module", 35.0),
        ("amdgpu", {"power1_input": "15000000", "in0_input": "800", "in1_label": "vddnb"}, "chip", 15.0),
        ("power_meter", {"power1_average": "120000000", "power1_average_interval": "1000"}, "board", 120.0),
        ("occ", {"power1_input": "300000000", "power1_label": "system"}, "board", 300.0),
        ("ina3221", {"in2_input": "5000", "curr2_input": "400", "in2_label": "CPU"}, "rail", 2.0),
    ],
)
def test_drivers_say_their_scope(tmp_path, chip, files, scope, watts):
    hwmon_chip(tmp_path, 3, chip, **files)
    (found,) = hwmon.find(tmp_path)
    assert (found.scope, found.ok) == (scope, True), found
    assert read(tmp_path, found.id) == (scope, pytest.approx(watts))


def test_an_acpi_meter_is_read_no_faster_than_it_averages(tmp_path):
    hwmon_chip(tmp_path, 0, "power_meter", power1_average="120000000", power1_average_interval="1000")
    assert open_source("hwmon:hwmon0:1", tmp_path, VirtualClock()).info.update_period_s == 1.0


def test_energy_counters_of_a_gpu(tmp_path):
    """xe: the card holds its package; microjoules since the driver was loaded."""
    labels = {"energy1_label": "card", "energy2_label": "pkg"}
    folder = hwmon_chip(tmp_path, 0, "xe", energy1_input="1000000", energy2_input="700000", in1_input="900", **labels)
    found = {f.id: (f.scope, f.covers) for f in hwmon.find(tmp_path)}
    assert found == {
        "hwmon:hwmon0:energy1": ("module", "gpu card"),
        "hwmon:hwmon0:energy2": ("chip", "gpu package"),
    }
    clock = VirtualClock()
    source = open_source("hwmon:hwmon0:energy1", tmp_path, clock)
    assert "gpu package" in source.info.overlaps and source.info.kind == "counter"
    source.read()
    clock.sleep(1.0)
    (folder / "energy1_input").write_text("31000000\n")
    assert source.read().value == pytest.approx(30.0)
    (folder / "energy1_input").write_text("30000000\n")
    with pytest.raises(SourceFault, match=r"it went back by 1 J"):
        source.read()


@pytest.mark.parametrize(("text", "factor"), [("20000", "1000"), ("20", "1000000")])
def test_a_firmware_that_does_not_keep_to_microwatts(tmp_path, text, factor):
    """Milliwatts (OFS#25) and watts (openbmc#2136) under a name that hwmon has for microwatts: 20 W is never 0.02 W."""
    hwmon_chip(tmp_path, 0, "n6000bmc_hwmon", power1_input=text, power1_label="Board Power")
    said = fault(tmp_path, "hwmon:hwmon0:1")
    assert f"hwmon:hwmon0:1,scale={factor} if" in said.fix and "(20 W)" in said.fix
    assert read(tmp_path, f"hwmon:hwmon0:1,scale={factor}") == ("board", pytest.approx(20.0))
    notes = open_source(f"hwmon:hwmon0:1,scale={factor}", tmp_path, VirtualClock()).info.notes
    assert f"scaled by {float(factor):g}, as asked for" in notes
    assert read(tmp_path, "hwmon:hwmon0:1,scale=1")[1] == pytest.approx(float(text) * 1e-6), "said to be right"


def test_a_sensor_that_is_wired_the_other_way_round(tmp_path):
    hwmon_chip(tmp_path, 0, "ina219", in1_input="5000", curr1_input="-4000")
    assert str(fault(tmp_path, "hwmon:hwmon0:1")) == (
        "hwmon:hwmon0:1: it reads -20 W: its current flows the other way than its driver counts (cure: --source "
        "hwmon:hwmon0:1,sign=-1 where it is wired that way)."
    )
    assert follow(tmp_path, "hwmon:hwmon0:1") == ("rail", pytest.approx(20.0))


def test_a_power_register_without_a_sign_follows_its_current(tmp_path):
    hwmon_chip(tmp_path, 0, "ina219", in1_input="5000", curr1_input="-4000", power1_input="20000000")
    assert "it reads -20 W" in fault(tmp_path, "hwmon:hwmon0:1").reason
    assert follow(tmp_path, "hwmon:hwmon0:1")[1] == pytest.approx(20.0)


def test_a_power_that_is_not_voltage_times_current(tmp_path):
    """A shunt that one of the two does not know (NUT's report): neither is guessed."""
    hwmon_chip(tmp_path, 0, "ina219", in0_input="-4", in1_input="4228", curr1_input="-40", power1_input="20000000")
    said = fault(tmp_path, "hwmon:hwmon0:1")
    assert said.reason == "its power is 20 W and its voltage times its current -0.169 W"
    assert read(tmp_path, "hwmon:hwmon0:1,take=power")[1] == pytest.approx(20.0)
    assert read(tmp_path, "hwmon:hwmon0:1,take=product,sign=-1")[1] == pytest.approx(0.16912)


@pytest.mark.parametrize(("power", "sign"), [("20000000", "1"), ("-20000000", "-1")])
def test_a_battery_counts_while_it_discharges(tmp_path, power, sign):
    hwmon_chip(tmp_path, 0, "BAT0", in0_input="11407", power1_input=power)
    hwmon_chip(tmp_path, 1, "ina226", **INA)
    assert [f.id for f in hwmon.find(tmp_path)] == ["hwmon:hwmon1:1", "hwmon:hwmon0:1"], "batteries come last"
    assert "whether BAT0 charges or discharges is not said" in fault(tmp_path, "hwmon:hwmon0:1").reason
    assert read(tmp_path, f"hwmon:hwmon0:1,sign={sign}") == ("board", pytest.approx(20.0))
    status = tmp_path / "sys/class/power_supply/BAT0/status"
    status.parent.mkdir(parents=True)
    for word in ("Charging", "Full", "Not charging", "Unknown"):
        status.write_text(word + "\n")
        for source in ("hwmon:hwmon0:1", f"hwmon:hwmon0:1,sign={sign}"):
            said = fault(tmp_path, source)
            assert f"the battery says {word!r}" in said.reason and said.fix.startswith("unplug the power supply")
    status.write_text("Discharging\n")
    source = "hwmon:hwmon0:1" + ("" if sign == "1" else ",sign=-1")
    assert read(tmp_path, source) == ("board", pytest.approx(20.0))


def test_a_battery_that_begins_to_charge_ends_the_measurement(tmp_path):
    hwmon_chip(tmp_path, 0, "BAT0", in0_input="11407", curr1_input="1000")
    status = tmp_path / "sys/class/hwmon/hwmon0/device/status"
    status.parent.mkdir()
    status.write_text("Discharging\n")
    source = open_source("hwmon:hwmon0:1", tmp_path, VirtualClock())
    assert source.read().value == pytest.approx(11.407)
    status.write_text("Charging\n")
    with pytest.raises(SourceFault, match="the battery says 'Charging'"):
        source.read()


def test_an_old_jetson_has_its_rails_under_iio(tmp_path):
    device_tree(tmp_path, "NVIDIA Jetson Nano Developer Kit", "nvidia,p3450-0000", "nvidia,tegra210")
    folder = tmp_path / "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    folder.mkdir(parents=True)
    for name, text in {
        "in_power0_input": "20000",
        "rail_name_0": "POM_5V_IN",
        "in_power1_input": "4000",
        "rail_name_1": "POM_5V_GPU",
    }.items():
        (folder / name).write_text(text + "\n")
    found = {f.id: f.scope for f in hwmon.find(tmp_path)}
    assert found == {"hwmon:device0:0": "module", "hwmon:device0:1": "rail"}
    assert read(tmp_path, "hwmon:device0:0") == ("module", pytest.approx(20.0))
    device_tree(tmp_path, *PI)
    assert {f.id: f.scope for f in hwmon.find(tmp_path)}["hwmon:device0:0"] == "rail", "a name alone is no module"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("hwmon:hwmon0:1,scale=0", "'scale=0' is no setting of a source"),
        ("hwmon:hwmon0:1,scale=nan", "'scale=nan' is no setting of a source"),
        ("hwmon:hwmon0:1,sign=2", "'sign=2' is no setting of a source"),
        ("hwmon:hwmon0:1,sign=1,sign=-1", "'sign' is said twice"),
        ("hwmon:hwmon0:1,colour=red", "'colour=red' is no setting of a source"),
        ("powercap:intel-rapl:0,scale=2", "scale=, sign= and take= are for sources of hwmon"),
    ],
)
def test_settings_that_there_are_not(tmp_path, source, said):
    hwmon_chip(tmp_path, 0, "ina226", **INA)
    assert said in str(fault(tmp_path, source))


def test_a_zone_without_its_range(tmp_path):
    """Counted up to a wrap, at which it ends: the range is not known."""
    zone = tmp_path / "sys/class/powercap/intel-rapl:0"
    zone.mkdir(parents=True)
    (zone / "name").write_text("package-0\n")
    (zone / "energy_uj").write_text("50000000\n")
    assert all(f.ok for f in powercap.find(tmp_path))
    clock = VirtualClock()
    source = open_source("powercap:intel-rapl:0", tmp_path, clock)
    assert "its range is not stated: where it wraps the measurement ends" in source.info.notes
    source.read()
    clock.sleep(1.0)
    (zone / "energy_uj").write_text("80000000\n")
    assert source.read().value == pytest.approx(30.0)
    (zone / "energy_uj").write_text("10000000\n")
    with pytest.raises(SourceFault) as caught:
        source.read()
    assert caught.value.kind == "reset"


def test_a_denied_sensor_names_every_file_that_it_needs(tmp_path, monkeypatch):
    import os

    folder = hwmon_chip(tmp_path, 0, "ina219", in1_input="5000", curr1_input="4000")
    opened = os.open

    def denied(path, *rest):
        if str(path).endswith("_input"):
            raise PermissionError(13, "Permission denied")
        return opened(path, *rest)

    monkeypatch.setattr(os, "open", denied)
    said = fault(tmp_path, "hwmon:hwmon0:1")
    assert said.kind == "denied"
    assert said.fix == f"sudo chmod o+r {folder}/in1_input {folder}/curr1_input, or run as root"


def test_everything_of_an_empty_machine_has_a_cure(tmp_path):
    dmi(tmp_path, "QEMU", "Standard PC", "1")
    for found in find_all(tmp_path):
        assert found.reason and found.fix
