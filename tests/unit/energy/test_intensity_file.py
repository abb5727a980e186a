"""Hours of carbon intensity as their publishers write them, and the starts that are ranked by them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from greenedge.energy.commands import app
from greenedge.energy.intensity_file import rank_starts, read_hourly
from greenedge.errors import GreenedgeError

DAY = [300, 280, 260, 250, 250, 270, 300, 340, 330, 280, 220, 180, 150, 140, 160, 200, 260, 330, 380, 400, 390, 370]
DAY += [340, 320]


def run(*words, code=0):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, (done.output, done.stderr, done.exception)
    return done


def stamps(form: str, minutes: int = 60) -> list[str]:
    begin = datetime(2026, 5, 1)
    return [(begin + timedelta(minutes=minutes * k)).strftime(form) for k in range(24)]


FORMS = {
    "electricitymaps": (
        "Datetime (UTC),Country,Zone name,Zone id,Carbon intensity gCO₂eq/kWh (direct),"
        "Carbon intensity gCO₂eq/kWh (Life cycle),Carbon-free energy percentage (CFE%)",
        [f"{t},Germany,Germany,DE,{g - 50},{g}.0,51.2" for t, g in zip(stamps("%Y-%m-%d %H:%M:%S"), DAY, strict=True)],
    ),
    "electricitymaps of 2023": (
        "Datetime (UTC),Country,Zone Name,Zone Id,Carbon Intensity gCO₂eq/kWh (direct),"
        "Carbon Intensity gCO₂eq/kWh (LCA),Low Carbon Percentage,Data Source",
        [f"{t},DE,DE,DE,{g - 50},{g},5,x" for t, g in zip(stamps("%Y-%m-%d %H:%M:%S"), DAY, strict=True)],
    ),
    "great britain": (
        "DATETIME,GAS,COAL,CARBON_INTENSITY",
        [f"{t},10,0,{g}" for t, g in zip(stamps("%Y-%m-%d %H:%M:%S"), DAY, strict=True)],
    ),
    "great britain's api": (
        "from,to,intensity.forecast,intensity.actual",
        [f"{t},x,1,{g}" for t, g in zip(stamps("%Y-%m-%dT%H:%MZ"), DAY, strict=True)],
    ),
    "france": (
        "Périmètre;Nature;Date;Heures;Consommation;Taux de CO2 (g/kWh)",
        [f"France;Données;{t};5;{g}" for t, g in zip(stamps("%Y-%m-%d;%H:%M"), DAY, strict=True)],
    ),
    "denmark": (
        "HourUTC;HourDK;PriceArea;CO2Emission",
        [f"{t};x;DK1;{g},000" for t, g in zip(stamps("%Y-%m-%d %H:%M"), DAY, strict=True)],
    ),
    "anybody's, kg/MWh": (
        "time\tcarbon intensity (kg/MWh)",
        [f"{t}\t{g}" for t, g in zip(stamps("%Y-%m-%dT%H:%M:%S+02:00"), DAY, strict=True)],
    ),
    "anybody's, t/MWh": (
        "timestamp,co2 intensity [tCO2/MWh]",
        [f"{t},{g / 1000}" for t, g in zip(stamps("%d/%m/%Y %H:%M"), DAY, strict=True)],
    ),
}


def write(path: Path, name: str, encoding: str = "utf-8") -> Path:
    head, lines = FORMS[name]
    path.write_text("\n".join([head, *lines, ""]), encoding=encoding)
    return path


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_hours(tmp_path, name):
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        hourly = read_hourly(write(tmp_path / "f.csv", name, encoding))
        assert hourly.grams == pytest.approx(DAY) and hourly.step == timedelta(hours=1)
        assert hourly.aware == ("UTC" in FORMS[name][0] or name in ("great britain's api", "anybody's, kg/MWh"))
        first = rank_starts(hourly, timedelta(hours=3), 3.6e6)[0]
        assert first.at.replace(tzinfo=None).hour == (10 if "+02:00" in FORMS[name][1][0] else 12)
        assert first.grams == pytest.approx(150) and first.g_per_kwh == pytest.approx(150)


def test_life_cycle_before_direct_and_actual_before_forecast(tmp_path):
    assert read_hourly(write(tmp_path / "f.csv", "electricitymaps")).notes == (
        "'Carbon intensity gCO₂eq/kWh (Life cycle)' was read",
    )
    assert read_hourly(write(tmp_path / "f.csv", "great britain's api")).column == "intensity.actual"


def test_a_part_of_an_hour_counts_as_a_part(tmp_path):
    hourly = read_hourly(write(tmp_path / "f.csv", "great britain"))
    best = rank_starts(hourly, timedelta(hours=1, minutes=30), None)[0]
    assert best.at.hour == 12 and best.g_per_kwh == pytest.approx((150 + 140 / 2) / 1.5) and best.grams is None


def test_a_gap_is_no_hour(tmp_path):
    """No start runs through hours that the file does not have, and none beyond its end."""
    head, lines = FORMS["great britain"]
    path = tmp_path / "f.csv"
    path.write_text("\n".join([head, *lines[:12], *lines[14:]]))
    starts = rank_starts(read_hourly(path), timedelta(hours=3), None)
    assert {one.at.hour for one in starts} == {*range(10), *range(14, 22)}
    with pytest.raises(GreenedgeError, match=r"covers 24 hours without a gap at most, the work takes 30"):
        rank_starts(read_hourly(path), timedelta(hours=30), None)


def test_an_hour_that_stands_twice_is_averaged_and_said(tmp_path):
    head, lines = FORMS["great britain"]
    path = tmp_path / "f.csv"
    path.write_text("\n".join([head, *lines, lines[0].replace(",300", ",100")]))
    hourly = read_hourly(path)
    assert hourly.grams[0] == 200 and hourly.notes == ("1 times stand several times: their mean was taken",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no column of carbon intensity below ''"),
        ("time,watts\n2026-05-01 00:00,3\n", "has no column of carbon intensity below 'time,watts'"),
        ("time,carbon intensity\n2026-05-01 00:00,3\n", "says no unit for 'carbon intensity', and none is guessed"),
        ("place,CO2 (g/kWh)\nx,3\n", "has no column of time among 'place', 'CO2 (g/kWh)'"),
        ("time,CO2 (g/kWh)\nnoon,3\n", ":2: 'noon' is no time; write 2026-05-01 13:00."),
        ("time,CO2 (g/kWh)\n2026-05-01 00:00,-3\n", ":2: '-3' is no carbon intensity between 0 and 3000 g/kWh"),
        ("time,CO2 (g/kWh)\n2026-05-01 00:00,3001\n", ":2: '3001' is no carbon intensity"),
        ("time,CO2 (g/kWh)\n2026-05-01 00:00,nan\n", ":2: 'nan' is no carbon intensity"),
        ("time,CO2 (g/kWh)\n", "has 0 hours with an intensity; give a day or more."),
        ("time,CO2 a (g/kWh),CO2 b (g/kWh)\n2026-05-01 00:00,3,4\n", "has several columns of carbon intensity"),
        ("time,CO2 (g/kWh)\n2026-05-01 00:00,3\n2026-05-01T01:00Z,3\n", "has times with and without a zone"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path, text, said):
    (tmp_path / "f.csv").write_text(text)
    done = run("when", "--hours", "2", "--intensity-file", tmp_path / "f.csv", code=1)
    assert said in done.stderr and done.stderr.count("\n") == 1
    if "name it so in its first line" in done.stderr and text:
        cure = done.stderr.split("first line: ")[1].strip().rstrip(".")
        lines = [f"2026-05-01 0{k}:00,{k}" for k in range(4)]
        (tmp_path / "f.csv").write_text("\n".join([cure, *lines]))
        assert "00:00 UTC" in run("when", "--hours", "1", "--intensity-file", tmp_path / "f.csv").stdout


def test_when_to_train(tmp_path):
    """A run's ledger gives the length and the joules; the carbon is an estimate, and no key says otherwise."""
    path = write(tmp_path / "f.csv", "electricitymaps")
    folder = tmp_path / "run/1-train"
    folder.mkdir(parents=True)
    total = {"seconds": 7200.0, "energy": {"energy_estimate_j": 7.2e6, "evidence": "estimated"}}
    (folder / "metrics.json").write_text(json.dumps({"ledger": {"total": total}}))
    done = run("when", tmp_path / "run", "--intensity-file", path, "--top", "2")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[1][:6] == ["1", "2026-05-01", "12:00", "UTC", "145", "≈"] and lines[1][6] == "290"
    assert lines[3][:3] == ["23", "2026-05-01", "19:00"], "the worst is shown too"
    assert "The first of 23 starts for 2 hours is " in done.stdout
    found = json.loads(run("when", tmp_path / "run", "--intensity-file", path, "--hours", "1", "--json").stdout)
    assert found["starts"][0] == {"at": "2026-05-01T13:00:00+00:00", "g_per_kwh": 140.0, "carbon_estimate_g": 140.0}
    assert found["evidence"] == found["energy_evidence"] == "estimated"
    assert "has no ledger of a training" in run("when", tmp_path, "--intensity-file", path, code=1).stderr
    assert "give a trained RUN, or its --hours" in run("when", "--intensity-file", path, code=1).stderr
    assert "--intensity-file FILE is needed" in run("when", "--hours", "1", code=1).stderr


def test_a_measurement_takes_the_hour_that_it_is_in(tmp_path):
    hourly = read_hourly(write(tmp_path / "f.csv", "electricitymaps"))
    at = hourly.intensity_at(datetime(2026, 5, 1, 13, 20, tzinfo=UTC))
    assert (at.g_per_kwh, at.low, at.high) == (140, 140, 140) and "13:00" in at.source
    other = hourly.intensity_at(datetime(2027, 1, 1, tzinfo=UTC))
    assert other.g_per_kwh == pytest.approx(sum(DAY) / 24) and (other.low, other.high) == (140, 400)
    naive = read_hourly(write(tmp_path / "f.csv", "great britain"))
    assert naive.intensity_at(datetime(2026, 5, 1, 13, 20, tzinfo=UTC)).low == 140, "whose clock is not said"
    words = ("measure", "--source", "estimate", "--window", "0.1", "--intensity-file", tmp_path / "f.csv")
    done = run(*words, "--", "true")
    assert "CO2e per inference" in done.stdout and "Our World in Data" not in done.stdout
    assert "each name the grid" in run(*words, "--carbon", "FRA", "--", "true", code=1).stderr
