"""Recordings of 3 W over 10 s in the forms that programs write: 30.0 J, or a refusal whose offer gives 30.0 J."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from greenedge.energy import importers
from greenedge.energy.columns import read_name
from greenedge.energy.source import integrate
from greenedge.errors import GreenedgeError

JOULES = 30.0
STEPS = 1000


def _power(k: int) -> float:
    """Watts: steps of 2 W and 4 W, symmetric in time, so that the mean is 3 W."""
    return 2.0 if (k // 100) % 2 == 0 else 4.0


@dataclass(frozen=True)
class Form:
    name: str
    data: bytes
    volts: float | None = None


def _form(
    name: str,
    header: str,
    line: Callable[[int], Sequence[object]],
    sep: str = ",",
    encoding: str = "utf-8",
    volts: float | None = None,
    above: str = "",
) -> Form:
    lines = [sep.join(map(str, line(k))) for k in range(STEPS + 1)]
    text = above + (header + "\n" if header else "") + "\n".join(lines) + "\n"
    return Form(name, text.encode(encoding), volts)


def _iso(k: int, zone: str = "") -> str:
    moment = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC) + timedelta(milliseconds=10 * k)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f") + zone


def _nvidia(k: int) -> str:
    return _iso(k).replace("T", " ").replace("-", "/")


def _comma(value: float) -> str:
    return f"{value:.4f}".replace(".", ",")


def _seconds(header: str, scale: float, sep: str = ",", **more: object) -> Form:
    return _form(header, header, lambda k: (f"{k / 100:.2f}", f"{_power(k) * scale:.4f}"), sep, **more)  # type: ignore[arg-type]


def _millis(header: str, scale: float) -> Form:
    return _form(header, header, lambda k: (k * 10, f"{_power(k) * scale:.4f}"))


def _tegrastats(name: str, line: str) -> Form:
    """A line a second: 2 W that become 4 W in ten of them, straight."""
    begin = datetime(2026, 3, 1, 23, 59, 55, tzinfo=UTC)
    stamps = [(begin + timedelta(seconds=k)).strftime("%m-%d-%Y %H:%M:%S") for k in range(11)]
    text = "".join(line.format(stamp=stamp, mw=2000 + 200 * k) + "\n" for k, stamp in enumerate(stamps))
    return Form(name, text.encode())


FORMS = [
    _seconds("time_s,power_w", 1),
    _seconds("time (s),power (mW)", 1e3),
    _seconds("Time [s],Power [W]", 1),
    _seconds("#time (s),power (W)", 1),
    _seconds("# time_s\tpower_mw", 1e3, "\t"),
    _seconds("elapsed_seconds;power_uw", 1e6, ";"),
    _seconds("t (s),P (W)", 1),
    _seconds("Seconds,Watts", 1),
    _seconds("time_s,gpuPowerMw", 1e3),
    _seconds("time_s,power in µW", 1e6),
    _seconds("time_s,power (MW)", 1e3),
    _seconds("time,power", 1),
    _seconds("time,power ", 1e3),
    _seconds("timestamp,watts", 1),
    _seconds("time_s,power", 1e6),
    _seconds("time,power_mw", 1e3),
    _seconds("a,b", 1),
    _seconds("time_s|power_mw", 1e3, "|"),
    _seconds("time_s power_w", 1, " "),
    _seconds("time_s,power_kw", 1e-3),
    _millis("time_ms,power_mw", 1e3),
    _millis("Timestamp (ms),Power (W)", 1),
    _millis("timestamp_ms,power_w", 1),
    _millis("time,power (W)", 1),
    _millis("ms,mW", 1e3),
    _form("microseconds", "time_us,power_w", lambda k: (k * 10000, _power(k))),
    _form("nanoseconds", "time_ns,power_w", lambda k: (k * 10**7, _power(k))),
    _form("epoch seconds", "timestamp_s,power_w", lambda k: (f"{1.77e9 + k / 100:.2f}", _power(k))),
    _form("epoch ms", "epoch_ms,power_mw", lambda k: (1770000000000 + 10 * k, _power(k) * 1e3)),
    _form("epoch ns", "timestamp_ns,power_w", lambda k: (1770000000 * 10**9 + k * 10**7, _power(k))),
    _form("epoch open", "timestamp,power_w", lambda k: (1770000000000 + 10 * k, _power(k))),
    _form("iso", "timestamp,power_w", lambda k: (_iso(k), _power(k))),
    _form("iso zone", "time,power (mW)", lambda k: (_iso(k, "+01:00"), _power(k) * 1e3)),
    _form("decimal comma", "Zeit (s);Leistung (W)", lambda k: (_comma(k / 100), _comma(_power(k))), ";"),
    _form("decimal comma, tabs", "time (s)\tpower (mW)", lambda k: (_comma(k / 100), _comma(_power(k) * 1e3)), "\t"),
    _form("utf-8 mark", "time_s,power_w", lambda k: (k / 100, _power(k)), encoding="utf-8-sig"),
    _form("utf-16", "time_s,power_w", lambda k: (k / 100, _power(k)), encoding="utf-16"),
    _form("utf-16 no mark", "time_s\tpower_mw", lambda k: (k / 100, _power(k) * 1e3), "\t", "utf-16-le"),
    _form("windows", "time (s);power (µW)", lambda k: (k / 100, _power(k) * 1e6), ";", "cp1252"),
    _form("comments above", "time_s,power_w", lambda k: (k / 100, _power(k)), above="# meter 7\n# a, b, c\n"),
    _form("line of units", "time,power\n(s),(mW)", lambda k: (k / 100, _power(k) * 1e3)),
    _form("ppk2", "Timestamp(ms),Current(uA),D0", lambda k: (10 * k, _power(k) / 3 * 1e6, 0), volts=3.0),
    _form("joulescope", "#time (s),current (A),voltage (V)", lambda k: (k / 100, _power(k) / 5, 5.0)),
    _form("current and voltage", "time_s,current_ma,voltage_mv", lambda k: (k / 100, _power(k) / 5 * 1e3, 5000)),
    _form("monsoon", "Time (s),Main (mA),Main Voltage (V)", lambda k: (k / 100, _power(k) / 4 * 1e3, 4.0)),
    _form("otii", "Timestamp,Main current (A),Main voltage (V)", lambda k: (k / 100, _power(k) / 4, 4.0)),
    _form("nvidia-smi", "timestamp, power.draw [W]", lambda k: (_nvidia(k), f"{_power(k)} W"), ", "),
    _form("nvidia-smi, values with units", "timestamp, power.draw", lambda k: (_iso(k), f"{_power(k):.2f} W"), ", "),
    _form("two columns of power", "time_s,power_cpu_w,power_board_w", lambda k: (k / 100, 1.0, _power(k))),
    _form("power and its limit", "time_s,power_limit_w,power_w", lambda k: (k / 100, 75, _power(k))),
    _form("negative", "time_s,power_w", lambda k: (k / 100, -_power(k))),
    _form("no header", "", lambda k: (f"{k / 100:.2f}", _power(k))),
    _form("jtop", "time,uptime,CPU1,Power CPU,Power TOT",
          lambda k: (_iso(k).replace("T", " "), k, 5, 400, _power(k) * 1e3)),
    _form("jtop of one rail", "time,Power TOT", lambda k: (_iso(k), _power(k) * 1e3)),
    _tegrastats("tegrastats", "{stamp} RAM 1500/7620MB (lfb 2x4MB) CPU [5%@1190] CPU@45C VDD_IN {mw}mW/3000mW"),
    _tegrastats("tegrastats of several rails", "{stamp} RAM 1500/7620MB (lfb 2x4MB) SWAP 0/3810MB CPU [5%@1190,off] "
                "VDD_IN {mw}mW/3000mW VDD_CPU_GPU_CV 900mW/900mW VDD_SOC 700mW/700mW"),
    _tegrastats("tegrastats of JetPack 4", "RAM 1500/3956MB (lfb 2x4MB) CPU [5%@1190] POM_5V_IN {mw}/3000"),
    _tegrastats("tegrastats of JetPack 4, several rails", "RAM 1500/3956MB (lfb 2x4MB) CPU [5%@1190] "
                "POM_5V_IN {mw}/3000 POM_5V_GPU 0/0 POM_5V_CPU 500/500"),
]  # fmt: skip


def _joules(path, volts, columns=None) -> float:
    trace = importers.read_csv(path, volts, columns)
    return integrate(trace, float(trace.t[0]), float(trace.t[-1]))[0]


@pytest.mark.parametrize("form", FORMS, ids=[f"{k}-{form.name.strip()}" for k, form in enumerate(FORMS)])
def test_a_form_is_read_right_or_refused_with_an_offer_that_reads_it(tmp_path, form):
    path = tmp_path / "recording.csv"
    path.write_bytes(form.data)
    try:
        assert _joules(path, form.volts) == pytest.approx(JOULES, rel=5e-3)
        return
    except GreenedgeError as refusal:
        said = str(refusal)
    offers = re.findall(r"--columns (\S+)", said)
    found = [_joules(path, form.volts, offer) for offer in offers]
    assert any(joules == pytest.approx(JOULES, rel=5e-3) for joules in found), said


def test_codecarbon_has_the_joules_of_its_kilowatt_hours(tmp_path):
    """Of a whole run, and estimated: what of it a counter saw, the file does not say."""
    path = tmp_path / "emissions.csv"
    head = "timestamp,project_name,run_id,duration,emissions,cpu_power,cpu_energy,gpu_energy,ram_energy,energy_consumed"
    kwh = JOULES / 3.6e6
    path.write_text(f"{head}\n2026-03-01T12:00:00,net,ab-1,10,1e-6,3,{kwh / 2},0,{kwh / 2},{kwh}\n")
    (row,) = importers.codecarbon_row(path, 10)
    assert row["figures"]["total"]["energy_estimate_j"] == pytest.approx(JOULES / 10)
    assert row["latency_s"]["value"] == 1.0 and row["ranking"] is False and row["workload"] == "net ab-1"
    path.write_text(f"duration,cpu_energy,gpu_energy,ram_energy\n10,{kwh / 2},,{kwh / 2}\n")
    assert importers.codecarbon_row(path, 1)[0]["figures"]["total"]["energy_estimate_j"] == pytest.approx(JOULES)
    with pytest.raises(GreenedgeError, match="is no table of power over time but of another kind: add --as codecarbon"):
        importers.read_csv(path)


def test_the_file_is_read_for_the_offers_that_its_first_lines_pass(tmp_path, monkeypatch):
    """Of a large file, which is not read once for every unit that there is."""
    from greenedge.energy import recording

    lines = [f"{k * 10},{_power(k) * 1e3:.1f}" for k in range(5001)]
    (tmp_path / "f.csv").write_text("time,power\n" + "\n".join(lines) + "\n")
    sizes: list[int] = []
    read = recording.read_trace

    def count(table, layout, asked):
        found = read(table, layout, asked)
        sizes.append(len(found.t))
        return found

    monkeypatch.setattr(recording, "read_trace", count)
    with pytest.raises(GreenedgeError, match="--columns time=time:ms,power=power:mW"):
        importers.read_csv(tmp_path / "f.csv")
    assert sum(size > 2000 for size in sizes) <= 3 < len(sizes), sizes


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("POM_5V_IN (mW)", 1e-3),
        ("VDD_3V3_SYS [W]", 1.0),
        ("power 12V (W)", 1.0),
        ("power (10 mW)", None),
        ("power 10 mW (W)", None),
        ("power raw 5V (mW)", None),
        ("power x10 5V (mW)", None),
        ("power 5V", None),
    ],
)
def test_the_voltage_of_a_supply_is_no_scale(name, factor):
    meaning = read_name(name)
    assert meaning is not None and (meaning.quantity, meaning.factor) == ("power", factor)
