"""Recordings of 3 W over 10 s in the forms that programs write: 30.0 J, or a refusal whose offer gives 30.0 J."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from greenedge.energy import importers
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
