"""Importers, estimates, carbon, workloads, the sampler and the verbs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from greenedge.energy import carbon, estimate, importers, results, stats
from greenedge.energy.commands import app
from greenedge.energy.counter_unwrap import Unwrapper
from greenedge.energy.evidence import Figure
from greenedge.energy.measurement import measure
from greenedge.energy.method import Method
from greenedge.energy.sampler import SamplerProcess
from greenedge.energy.simulate import FakePowercapTree
from greenedge.energy.source import SourceFault, SourceInfo, Trace, integrate
from greenedge.energy.workloads import CallableWorkload, CommandWorkload, SerialWorkload
from greenedge.errors import GreenedgeError
from tests.unit.energy.fakes import hwmon_chip


@pytest.mark.parametrize(
    ("p", "dof", "value"),
    [
        (0.975, 1, 12.7062047),
        (0.975, 9, 2.2621572),
        (0.975, 29, 2.0452296),
        (0.95, 4, 2.1318468),
        (0.995, 19, 2.8609346),
    ],
)
def test_quantiles_of_student_t(p, dof, value):
    """Against the printed table (Abramowitz and Stegun 26.10, seven digits from R)."""
    assert stats.t_quantile(p, dof) == pytest.approx(value, abs=1e-6)


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=8))
def test_a_ratio_with_itself_is_one(values):
    ratio = stats.estimate_paired_ratio(values, values)
    assert ratio.low == ratio.mean == ratio.high == pytest.approx(1)
    assert "not distinguishable" in stats.verdict(ratio, "a", "b")


def test_ratios_without_an_answer():
    with pytest.raises(GreenedgeError) as caught:
        stats.estimate_paired_ratio([1.0], [1.0, 2.0])
    assert str(caught.value) == (
        "a paired ratio takes the same number of repetitions on both sides, at least 2; "
        "there are 1 and 2: "
        "measure both in one interleaved session."
    )
    with pytest.raises(GreenedgeError, match="a repetition is not above 0 J"):
        stats.estimate_paired_ratio([1.0, 2.0], [1.0, -2.0])
    with pytest.raises(GreenedgeError, match="3 repetitions with 1 not finite"):
        stats.mean_interval([1.0, float("nan"), 2.0])


def test_instrument_uncertainty_is_unknown_where_the_gain_is():
    assert stats.instrument_u(10, 2, None, 0.1, 0.1) is None
    assert stats.instrument_u(10, 2, 0.01, 0.1, 0.05) == pytest.approx((0.1**2 + 0.2**2 + 0.05**2) ** 0.5)


def test_traces_that_are_refused():
    t = np.arange(0, 10, 0.01)
    with pytest.raises(GreenedgeError, match="time does not rise at sample 3"):
        Trace(np.array([0.0, 1, 2, 2, 3]), np.ones(5))
    with pytest.raises(GreenedgeError, match="sample 7 of the trace is not a finite number"):
        Trace(t, np.where(np.arange(len(t)) == 7, np.nan, 1.0))
    with pytest.raises(SourceFault, match="s are missing at"):
        integrate(Trace(np.delete(t, range(300, 400)), np.ones(len(t) - 100)), 1, 9)
    with pytest.raises(SourceFault, match="is not inside the trace"):
        integrate(Trace(t, np.ones(len(t))), 5, 11)


def test_csv_traces(tmp_path):
    path = tmp_path / "ppk.csv"
    path.write_text(
        "Timestamp(ms),Current(uA),D0\n"
        + "".join(f"{k},{2000 if k < 50 else 4000},{int(20 <= k < 80)}\n" for k in range(100))
    )
    trace = importers.read_csv(path, volts=3.0)
    assert trace.watts[0] == pytest.approx(6e-3) and trace.t[-1] == pytest.approx(0.099)
    with pytest.raises(GreenedgeError) as caught:
        importers.read_csv(path)
    assert str(caught.value) == (
        f"{path}: it has current and neither power nor voltage: add --volts with the volts of the supply."
    )
    path.write_text("time_s,power_w\n0,1\n1,x\n")
    with pytest.raises(GreenedgeError, match="has a line that is not numbers"):
        importers.read_csv(path)


def test_windows_that_overlap_are_refused_and_notes_become_flags():
    trace = Trace(np.arange(0, 10, 0.1), np.full(100, 3.0), None, {}, ("2 stamps stand twice",))
    assert "2 stamps stand twice" in importers.trace_row("dut", trace, [(1, 2), (2, 3)], 1)["flags"]
    with pytest.raises(GreenedgeError, match="overlap"):
        importers.trace_row("dut", trace, [(1, 3), (2, 4)], 1)


def test_a_replayed_trace_has_total_and_net():
    t = np.arange(0, 60, 0.01)
    watts = np.where((t % 20 > 5) & (t % 20 < 15), 12.0, 2.0)
    row = importers.trace_row(
        "dut", Trace(t, watts), [(5.5, 14.5), (25.5, 34.5)], 100, idle=[(1, 4), (16, 19), (21, 24), (36, 39)]
    )
    assert row["evidence"] == "replayed"
    assert row["figures"]["total"]["energy_j"] == pytest.approx(12 * 9 / 100)
    assert row["figures"]["net"]["energy_j"] == pytest.approx(10 * 9 / 100)


TRIAL = """Energy data for trial {k}
  Elapsed time  : {s}
  Inferences    : 500
  Power         : 30.0000 mW.
  Total Energy  : {t:.3f} uJ
  Energy/Inf    : {e:.3f} uJ/inf
"""


def _tiny(path: Path, energies, seconds=11.0, median=None):
    text = "".join(TRIAL.format(k=k, s=seconds, t=e * 500, e=e) for k, e in enumerate(energies))
    path.write_text(text + f"Median energy cost is {median or np.median(energies):.4f} uJ/inf.\n")
    return path


def test_the_streaming_wake_word_is_not_asked_for_trials(tmp_path):
    path = _tiny(tmp_path / "r.txt", [100, 101])
    path.write_text("Running sww01 in energy mode\n" + path.read_text())
    assert importers.mlperf_tiny_row(path)["flags"] == []
    path.write_text(path.read_text().replace("sww01", "kws01"))
    assert importers.mlperf_tiny_row(path)["flags"] == ["MLPerf Tiny asks for 5 trials, there are 2"]


def test_sentences_hold_numbers_and_no_types():
    with pytest.raises(GreenedgeError) as caught:
        Trace(np.array([0.0, 2.0, 1.0]), np.ones(3))
    assert str(caught.value) == (
        "time does not rise at sample 2 of the trace (1.0 s after 2.0 s); sort it, or record it again."
    )
    with pytest.raises(SourceFault, match="it reads nan J"):
        Unwrapper().add(SourceInfo("a", "counter", "chip", "cpu"), 0.0, np.float64("nan"))


def test_a_header_alone_is_one_sentence_without_a_warning(tmp_path, recwarn):
    for kind, text in {
        "trace": "time_s,power_w\n",
        "codecarbon": "timestamp,duration,energy_consumed\n",
        "toggles": "net,toggles\n",
        "perf": "# started on\n",
        "mlperf-tiny": "Results\n",
    }.items():
        path = tmp_path / f"{kind}.csv"
        path.write_text(text)
        words = ("--device", "ice40up5k", "--cycles", "10", "--clock-hz", "1e6") if kind == "toggles" else ()
        done = CliRunner().invoke(app, ["replay", str(path), "--as", kind, "--window", "0:1", *words])
        assert done.exit_code in (1, 3) and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, done.stderr
    assert not recwarn.list


def test_mlperf_tiny_logs(tmp_path):
    row = importers.mlperf_tiny_row(_tiny(tmp_path / "r.txt", [100, 101, 99, 100.5, 99.5]))
    assert row["figures"]["total"]["energy_j"] == pytest.approx(100e-6) and row["flags"] == []
    row = importers.mlperf_tiny_row(_tiny(tmp_path / "r.txt", [100, 101], seconds=9.0))
    assert row["flags"] == [
        "MLPerf Tiny asks for 5 trials, there are 2",
        "trial 0 took 9 s, MLPerf Tiny asks for 10 s",
        "trial 1 took 9 s, MLPerf Tiny asks for 10 s",
    ]
    with pytest.raises(GreenedgeError, match="says a median of 90 uJ, its trials have 100 uJ"):
        importers.mlperf_tiny_row(_tiny(tmp_path / "r.txt", [100, 101, 99], median=90))


VIVADO = """<?xml version="1.0"?><RptDoc><section title="Summary"><table>
<tablerow><tablecell contents="Total On-Chip Power (W)"/><tablecell contents="{total}"/></tablerow>
<tablerow><tablecell contents="Dynamic (W)"/><tablecell contents="1.100"/></tablerow>
<tablerow><tablecell contents="Device Static (W)"/><tablecell contents="0.150"/></tablerow>
<tablerow><tablecell contents="Confidence Level"/><tablecell contents="Low"/></tablerow></table></section></RptDoc>"""


def test_vivado_reports_are_estimates(tmp_path):
    path = tmp_path / "power.xml"
    path.write_text(VIVADO.format(total="1.250"))
    row = importers.vivado_row("mlp", path, cycles=100, clock_hz=100e6)
    assert row["evidence"] == "estimated" and row["figures"]["total"]["energy_estimate_j"] == pytest.approx(1.25e-6)
    assert "confidence level Low" in row["source"]["notes"][0]
    path.write_text(VIVADO.format(total="N/A"))
    with pytest.raises(GreenedgeError, match=r"has no number for Total On-Chip Power \(W\)"):
        importers.vivado_power(path)
    path.write_text('<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>')
    with pytest.raises(GreenedgeError, match="declares entities"):
        importers.vivado_power(path)


SAIF = """(SAIFILE (SAIFVERSION "2.0") (TIMESCALE 1 ns) (DURATION 1000000)
 (INSTANCE top (NET (a (T0 1) (T1 1) (TX 0) (TC 24000) (IG 0)) (b (T0 1) (T1 1) (TC 0)))))"""


def test_fpga_estimate_from_a_netlists_toggles(tmp_path):
    path = tmp_path / "a.saif"
    path.write_text(SAIF)
    activity = estimate.read_saif(path)
    assert activity == estimate.Activity(24000, 1e-3, 2)
    row = estimate.fpga_row("net", "ice40up5k", 12e6, activity, cycles=1200, streaming=True)
    # 1.219 V · (94 uA + 44.5 pA/Hz · 12 MHz) + 0.2 pJ · 24 M toggles/s, for 100 us.
    watts = 1.219 * (94e-6 + 44.5e-12 * 12e6) + 0.2e-12 * 24e6
    part = row["figures"]["total"]
    assert part["energy_estimate_j"] == pytest.approx(watts * 1e-4) and part["low"] == pytest.approx(watts * 0.5e-4)
    assert row["evidence"] == "estimated" and "ice40_power" in row["source"]["notes"][2]
    assert row["source"]["notes"][:2] == [
        "estimated core supply: static 0.11 mW + clock 0.65 mW + switching 0.0048 mW; band ×0.5 to ×1.5",
        "toggles of the netlist, without delays: glitches are not in it",
    ]
    with pytest.raises(GreenedgeError, match="ice40up5k needs the switching activity of its netlist"):
        estimate.fpga_row("net", "ice40up5k", 12e6, None, cycles=1200, streaming=True)
    with pytest.raises(
        GreenedgeError, match="there are no power coefficients for 'xc7'; devices are: ice40up5k, lfe5u-25f"
    ):
        estimate.fpga_power("xc7", 1e6, activity)
    path.write_text(SAIF.replace("24000", "0"))
    with pytest.raises(GreenedgeError, match="holds 2 nets with 0 toggles"):
        estimate.read_saif(path)


def test_ecp5_within_a_factor_of_two():
    """Static power by the data sheet; switching, where it is known, by the energy per toggle of the other 40 nm
    part."""
    row = estimate.fpga_row("net", "lfe5u-85f", 50e6, None, cycles=184, streaming=True)
    part = row["figures"]["total"]
    assert part["energy_estimate_j"] == pytest.approx(1.1 * 0.212 * 184 / 50e6)
    assert part["high"] / part["energy_estimate_j"] == part["energy_estimate_j"] / part["low"] == pytest.approx(2)
    assert part["covers"] == "lfe5u-85f core rail, static alone"
    activity = estimate.Activity(1_000_000, 1e-3, 100, "RTL of this build", 64)
    row = estimate.fpga_row("net", "LFE5U-85F-6BG381C", 50e6, activity, cycles=184, streaming=True)
    assert {part["part"]: part["power_estimate_w"] for part in row["parts"]} == {
        "static": pytest.approx(1.1 * 0.212),
        "switching": pytest.approx(0.16e-12 * 1e9),
    }
    assert (
        row["source"]["notes"][1]
        == "toggles of RTL of this build on 64 real vectors, without delays: glitches are not in it"
    )
    with pytest.raises(GreenedgeError, match="there are no power coefficients for 'GW1NR-9'; devices are: ice40up5k"):
        estimate.device_of("GW1NR-9")


def test_toggle_counts_as_csv(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("net,toggles\n#seconds,0.5\na,10\nb,5\n")
    assert estimate.read_toggles(path) == estimate.Activity(15, 0.5, 2)
    path.write_text("a,b,c\n")
    with pytest.raises(GreenedgeError, match="is neither net,toggles nor #seconds,S"):
        estimate.read_toggles(path)


def test_cpu_estimate_may_not_be_ranked():
    row = estimate.cpu_row("w", 10.0, 1000, 65.0, 16, "data sheet")
    part = row["figures"]["total"]
    assert part["energy_estimate_j"] == pytest.approx(65 / 16 * 10 / 1000)
    assert (part["low"], part["high"]) == pytest.approx((0.4 * 65 / 1600, 1.6 * 65 / 1600)) and row["ranking"] is False
    with pytest.raises(GreenedgeError, match="needs --tdp"):
        estimate.cpu_row("w", 10.0, 1000, 65.0, 16, "")


def test_carbon_is_an_estimate_with_a_range():
    at = carbon.intensity("FRA")
    assert (at.country, at.year) == ("France", 2023) and carbon.intensity("france") == at
    grams = carbon.carbon(Figure(3.6e6, "energy", "j", "chip", "measured", 3.5e6, 3.7e6), at)
    assert (
        grams.evidence == "estimated"
        and grams.key == "carbon_estimate_g"
        and grams.value == pytest.approx(at.g_per_kwh)
    )
    assert grams.low < at.low and grams.high > at.high
    assert all(e.low <= e.g_per_kwh <= e.high and e.year and e.source for e in carbon.table().values())
    assert "CC BY 4.0" in carbon.ATTRIBUTION
    with pytest.raises(GreenedgeError, match="there is no carbon intensity for 'Atlantis'; give --intensity"):
        carbon.intensity("Atlantis")
    with pytest.raises(GreenedgeError, match="--intensity -1 is not between 0 and 3000"):
        carbon.intensity(None, -1)


def test_carbon_agrees_with_codecarbon():
    """The other tool's table, where it is installed: within 1 % for five countries."""
    codecarbon = pytest.importorskip("codecarbon")
    mixes = json.loads((Path(codecarbon.__file__).parent / "data/private_infra/global_energy_mix.json").read_text())
    for iso in ("FRA", "DEU", "USA", "SWE", "IND"):
        assert carbon.intensity(iso).g_per_kwh == pytest.approx(mixes[iso]["carbon_intensity"], rel=0.01)


def test_commands_as_workloads():
    workload = CommandWorkload([sys.executable, "-c", "pass"], inferences=7)
    workload.infer(1, lambda: None)
    assert workload.batch == 7
    with pytest.raises(GreenedgeError, match="ended with 3; it must end with 0 to be measured"):
        CommandWorkload([sys.executable, "-c", "raise SystemExit(3)"], name="bad").infer(1, lambda: None)
    with pytest.raises(GreenedgeError) as caught:
        CommandWorkload(["/no/such/thing"]).infer(1, lambda: None)
    assert str(caught.value) == "/no/such/thing could not be started: No such file or directory; give its full path."


def test_a_device_under_test_on_a_port():
    class Port:
        def __init__(self, answer):
            self.answer, self.asked, self.left = answer, [], b""

        def write(self, data):
            self.asked.append(data)
            self.left = self.answer

        def read(self, count):
            data, self.left = self.left[:count], self.left[count:]
            return data

    port = Port(b"m-lap-us-100\r\nm-ready\r\n")
    workload = SerialWorkload(port)
    workload.setup()
    workload.infer(40, lambda: None)
    assert port.asked == [b"name%", b"infer 40 0%"]
    with pytest.raises(GreenedgeError, match="answered 'infer 1 0%' with"):
        SerialWorkload(Port(b"e-[unknown command]\r\n")).infer(1, lambda: None)
    with pytest.raises(GreenedgeError, match="did not answer 'infer 1 0%' with m-ready in 0.01 s"):
        SerialWorkload(Port(b""), timeout_s=0.01).infer(1, lambda: None)


def test_the_sampler_is_a_process_of_its_own(tmp_path):
    hwmon_chip(tmp_path, 0, "ina226", power1_input="2500000")
    sampler = SamplerProcess("hwmon:hwmon0:1", tmp_path, 100)
    sampler.start()
    time.sleep(0.3)
    rows = sampler.rows()
    assert sampler._child.pid != os.getpid()
    sampler.stop()
    assert len(rows) > 10 and np.all(rows[:, 1] == 2.5) and np.all(np.diff(rows[:, 0]) > 0)
    with pytest.raises(SourceFault) as caught:
        SamplerProcess("hwmon:hwmon9:1", tmp_path, 10).start()
    assert "its sampler ended: hwmon:hwmon9:1: there is no such channel" in str(caught.value)


def test_a_measurement_in_real_time(tmp_path):
    """Files, a process that writes them, this process that reads: short, with real clocks and coarse bounds."""
    folder = tmp_path / "run"
    FakePowercapTree(folder, {"intel-rapl:0": "package-0"}).close()
    code = f"""
import time, sys
from pathlib import Path
p = Path({str(folder)!r}) / 'sys/class/powercap/intel-rapl:0/energy_uj'
flag = Path({str(folder)!r}) / 'busy'
with open(p, 'r+b', buffering=0) as f:
    j, t = 0.0, time.monotonic()
    while True:
        n = time.monotonic(); j += (n - t) * (50 if flag.exists() else 20); t = n
        f.seek(0); f.write(b'%18d' % int(j * 1e6)); time.sleep(0.001)
"""
    writer = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    flag = folder / "busy"

    class Work(CallableWorkload):
        def infer(self, n, on_wait):
            flag.touch()
            super().infer(n, on_wait)
            flag.unlink()

    try:
        time.sleep(0.3)
        method = Method(min_window_s=0.4, idle_s=0.15, cooldown_s=0.05, warm_up_s=1.0, min_reps=3, max_reps=3)
        data = measure([Work(lambda: time.sleep(0.01), "nap")], ["powercap:intel-rapl:0"], root=folder, method=method)
    finally:
        writer.kill()
        writer.wait()
    (row,) = data["rows"]
    assert row["evidence"] == "measured" and row["liveness"]["state"] == "alive"
    assert 0.2 < row["figures"]["total"]["energy_j"] < 1.0 and "energy_estimate_j" not in json.dumps(row)


runner = CliRunner()


def _run(*argv, code=0):
    result = runner.invoke(app, list(argv))
    assert result.exit_code == code, (result.output, result.stderr, result.exception)
    return result


def test_probe_names_the_cure_and_require_exits_3(tmp_path):
    found = json.loads(_run("probe", "--json", "--root", str(tmp_path)).output)
    assert {one["state"] for one in found} == {"absent"} and all(one["fix"] for one in found)
    result = _run("probe", "--root", str(tmp_path), "--require", "measured", code=3)
    assert "no source on this machine is alive, --require measured was given" in result.stderr
    result = _run("measure", "--root", str(tmp_path), "--require", "measured", "--", "true", code=3)
    assert result.stderr.splitlines()[-1] == (
        "greenedge: this machine has no energy source that can be read, so nothing can be measured here: plug in "
        "a meter "
        "(`greenedge energy probe` says what each source lacks), or ask for an estimate with --source estimate."
    )
    _run(
        "measure",
        "--source",
        "estimate:cpu",
        "--tdp",
        "65",
        "--threads",
        "2",
        "--tdp-source",
        "x",
        "--require",
        "measured",
        "--",
        "true",
        code=3,
    )
    assert "--require 'maybe' is not known" in _run("measure", "--require", "maybe", "--", "true", code=1).stderr
    assert "there is nothing to measure: give a RUN" in _run("measure", code=1).stderr


def test_replay_compare_and_carbon(tmp_path):
    t = np.arange(0, 100, 0.01)
    rng = np.random.default_rng(0)
    for name, watts in (("a", 10.0), ("b", 12.0)):
        noisy = watts + 0.05 * rng.standard_normal(len(t))
        np.savetxt(
            tmp_path / f"{name}.csv", np.stack([t, noisy], axis=1), delimiter=",", header="time_s,power_w", comments=""
        )
        spans = [x for k in range(5) for x in ("--window", f"{15 * k + 1}:{15 * k + 12}")]
        _run(
            "replay",
            str(tmp_path / f"{name}.csv"),
            *spans,
            "--inferences",
            "100",
            "--carbon",
            "FRA",
            "-o",
            str(tmp_path / f"{name}.json"),
            "--html",
            str(tmp_path / f"{name}.html"),
            "--csv",
            str(tmp_path / f"{name}.table"),
        )
    data = results.load(tmp_path / "a.json")
    assert data["rows"][0]["evidence"] == "replayed" and data["rows"][0]["figures"]["carbon"]["evidence"] == "estimated"
    assert "CC BY 4.0" in (tmp_path / "a.html").read_text() and "replayed" in (tmp_path / "a.table").read_text()
    found = json.loads(_run("compare", str(tmp_path / "b.json"), str(tmp_path / "a.json"), "--json").output)
    assert found["ratio"] == pytest.approx(1.2, rel=0.01) and found["evidence"] == "replayed"
    assert "takes more than" in _run("compare", str(tmp_path / "b.json"), str(tmp_path / "a.json")).output
    _run("replay", str(tmp_path / "a.csv"), "--window", "1:9", "--require", "measured", code=3)
    assert (
        "has 1 rows, row 4 was asked for"
        in _run("compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--row", "4", code=1).stderr
    )


def test_replay_with_a_lost_marker(tmp_path):
    t = np.arange(0, 10, 0.01)
    np.savetxt(
        tmp_path / "m.csv",
        np.stack([t, np.ones(len(t)), (t > 5) * 1.0], axis=1),
        delimiter=",",
        header="time_s,power_w,marker",
        comments="",
    )
    result = _run("replay", str(tmp_path / "m.csv"), "--markers", code=1)
    assert (
        "has 1 marker edges; every window has one up and one down: one is lost, so no window can be trusted."
        in result.stderr
    )


def test_replay_of_reports(tmp_path):
    (tmp_path / "p.xml").write_text(VIVADO.format(total="1.25"))
    (tmp_path / "a.saif").write_text(SAIF)
    (tmp_path / "perf.txt").write_text("0.00,Joules,power/energy-psys/,1000,100.00,,\n")
    out = _run("replay", str(tmp_path / "p.xml"), "--as", "vivado", "--cycles", "100", "--clock-hz", "1e8").output
    assert "ESTIMATED ≈ 1.2 µJ" in out
    out = _run(
        "replay",
        str(tmp_path / "a.saif"),
        "--as",
        "saif",
        "--device",
        "ice40up5k",
        "--cycles",
        "1200",
        "--clock-hz",
        "12e6",
    ).output
    assert re.search(r"ESTIMATED ≈ 77 nJ \(39 nJ…120 nJ\)", out), out
    result = _run("replay", str(tmp_path / "perf.txt"), "--as", "perf", code=3)
    assert result.stderr.startswith(
        "greenedge: perf:energy-psys: perf says 0.00 Joules: the event exists, the counter does not (cure: "
    )


def test_selftest_says_what_it_found(tmp_path):
    result = _run("selftest", "--root", str(tmp_path), "-o", str(tmp_path / "self.json"))
    data = json.loads((tmp_path / "self.json").read_text())
    assert data["ok"] and len(data["checks"]) == 9 and "ok   a counter that wraps in the run" in result.output
    _run("selftest", "--root", str(tmp_path), "--require", "measured", code=3)


def test_importing_is_light():
    """numpy alone: nothing else that is heavy comes with it."""
    code = (
        "import sys, greenedge.energy; print([m for m in "
        "('typer','rich','matplotlib','scipy','torch','pynvml','zeus') "
        "if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ).stdout
    assert out.strip() == "[]"
