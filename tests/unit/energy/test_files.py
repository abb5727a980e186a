"""Files from strangers: whatever is in them, an answer or one sentence, never a traceback."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from greenedge.energy import estimate, external_meter, importers, plots, results, terminal
from greenedge.energy.commands import app
from greenedge.energy.comparison import compare
from greenedge.energy.html import page
from greenedge.energy.selftest import simulate_document
from greenedge.energy.source import Trace
from greenedge.errors import GreenedgeError

SOUND = simulate_document(names=("a", "b"))
for _row in SOUND["rows"]:
    del _row["repetitions"][3:]
    del _row["trace"]
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)


def _places(value, path=()):
    """Every place in a document."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from _places(part, (*path, key))


PLACES = [path for path in _places(SOUND) if path]


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(PLACES), values, st.booleans())
def test_a_changed_result_is_read_or_refused(tmp_path_factory, path, value, remove):
    data = copy.deepcopy(SOUND)
    holder = data
    for key in path[:-1]:
        holder = holder[key]
    if remove:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    file = tmp_path_factory.getbasetemp() / "changed.json"
    file.write_text(json.dumps(data))
    try:
        read = results.load(file)
    except GreenedgeError as error:
        assert str(error)
        return
    terminal.notes(read)
    results.csv_text(read)
    for row in read["rows"]:
        terminal.result_cells(row)
    if len(read["rows"]) == 2:
        try:
            compare(*read["rows"])
        except GreenedgeError:
            pass


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "is not JSON"),
        ('{"schema": "greenedge-energy/1", "rows": [1]}', "is damaged: row 0 is int '1'; measure again."),
        ('{"schema": "greenedge-energy/1", "rows": [{}]}', "is damaged: row 0 has no 'workload'; measure again."),
        (
            '{"schema": "greenedge-energy/9", "rows": []}',
            "has schema 'greenedge-energy/9'; 'greenedge-energy/1' is read here",
        ),
    ],
)
def test_broken_results_are_refused(tmp_path, text, said):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(GreenedgeError) as caught:
        results.load(tmp_path / "x.json")
    assert said in str(caught.value)


def test_numbers_without_end_are_refused(tmp_path):
    data = copy.deepcopy(SOUND)
    data["rows"][0]["repetitions"][0]["window_s"] = float("inf")
    (tmp_path / "x.json").write_text(json.dumps(data))
    with pytest.raises(GreenedgeError, match=r"is damaged: row 0, repetitions\[0\], window_s is inf; measure again"):
        results.load(tmp_path / "x.json")


def test_names_from_strangers_are_drawn_as_they_are():
    data = copy.deepcopy(simulate_document(names=("a", "b")))
    for row, name in zip(data["rows"], ("<script>alert(1)</script>", "$\\frac{1$"), strict=True):
        row["workload"] = name
    html = page(data)
    assert "<script>" not in html and "&lt;script&gt;" in html
    assert plots.pareto_svg(data) and plots.strip_svg(data) and plots.power_svg(data["rows"][1])


READERS = {
    "t.csv": importers.read_csv,
    "v.xml": importers.vivado_power,
    "m.txt": importers.mlperf_tiny_row,
    "p.txt": lambda path: importers.perf_row("w", path, 1),
    "a.saif": estimate.read_saif,
    "t.toggles": estimate.read_toggles,
    "t.json": external_meter.load_timing,
}
GOOD = {
    "t.csv": "time_s,power_w,marker\n0,1,0\n1,2,1\n2,1,0\n",
    "v.xml": '<r><tablerow><tablecell contents="Total On-Chip Power (W)"/><tablecell contents="1.2"/></tablerow></r>',
    "m.txt": "Energy data for trial 0\n Elapsed time : 11.0\n Inferences : 5\n Energy/Inf : 1.5 uJ/inf\n"
    "Median energy cost is 1.5 uJ/inf.\n",
    "p.txt": "3.00,Joules,power/energy-pkg/,1000,100.00,,\n",
    "a.saif": "(SAIFILE (TIMESCALE 1 ns) (DURATION 1000) (NET (a (TC 24))))",
    "t.toggles": "net,toggles\n#seconds,0.5\na,10\n",
    "t.json": '{"schema": "greenedge-energy-timing/1", "workload": {"name": "w"}, "edges": [], "patterns": [[1, 2]],'
    ' "windows": [{"span": [3, 4], "inferences": 5, "idle": [[2, 3], [4, 5]]}]}',
}


@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
def test_any_bytes_are_read_or_refused(tmp_path_factory, name, data):
    whole = GOOD[name].encode()
    place = data.draw(st.integers(0, len(whole)))
    length = data.draw(st.integers(0, 8))
    other = data.draw(
        st.one_of(st.binary(max_size=12), st.sampled_from([b"9" * 5000, b"1e999", b"nan", b"-1", b"\xff\xfe"]))
    )
    file = tmp_path_factory.getbasetemp() / name
    file.write_bytes(whole[:place] + other + whole[place + length :])
    try:
        READERS[name](file)
    except GreenedgeError as error:
        assert str(error)


LONG = {
    "m.txt": (
        "Energy data for trial 1\n" * 40_000,
        "Energy data for trial 1\n Elapsed time : 9\n" * 20_000,
        "Median energy cost is " + "9" * 400_000,
        "Energy data for trial 1 Elapsed time " + " " * 400_000,
    ),
    "t.csv": ("time_s,power_w," + "x" * 200_000 + "\n0,1,0\n", "time_s,power_w\n0,1\n1," + "x" * 400_000 + "\n"),
    "a.saif": ("(TIMESCALE " + " " * 400_000, "(TC " * 100_000, "(DURATION " + "9" * 400_000),
    "t.toggles": ("a," * 200_000, "x" * 400_000 + ",3\n"),
    "p.txt": ("3.00," * 100_000, "9" * 400_000 + ",Joules,power/energy-pkg/,1\n"),
    "v.xml": ("<r>" * 100_000, "<tablecell contents='1'/>" * 50_000),
    "t.json": ("[" * 200_000, '{"a":' * 100_000),
}


@pytest.mark.parametrize("name", LONG)
def test_a_long_file_is_refused_in_a_moment_and_in_few_words(tmp_path, name):
    """In time that grows with the file and no faster."""
    for text in LONG[name]:
        (tmp_path / name).write_text(text)
        begin = time.process_time()
        with pytest.raises(GreenedgeError) as error:
            READERS[name](tmp_path / name)
        assert time.process_time() - begin < 3 and len(str(error.value)) < 1000 and "\n" not in str(error.value)


def test_many_windows_of_a_long_trace():
    """Each window is cut out of the trace, not searched for in all of it."""
    t = np.arange(1_000_000.0)
    windows = [(10.0 * k, 10.0 * k + 5) for k in range(2000)]
    begin = time.process_time()
    row = importers.trace_row("w", Trace(t, t % 3), windows, 1)
    assert [rep["energy_j"] for rep in row["repetitions"][:4]] == [5.0, 5.5, 4.5, 5.0]
    assert time.process_time() - begin < 5


def test_entities_are_refused_in_any_encoding(tmp_path):
    text = '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>'
    (tmp_path / "p.xml").write_text(text, encoding="utf-16")
    with pytest.raises(GreenedgeError, match="declares entities"):
        importers.vivado_power(tmp_path / "p.xml")


def test_a_file_that_is_not_there_is_one_sentence(tmp_path):
    for kind in ("trace", "vivado", "saif", "toggles", "perf", "mlperf-tiny", "results"):
        done = CliRunner().invoke(app, ["replay", str(tmp_path / "no"), "--as", kind])
        assert done.exit_code == 1 and str(tmp_path / "no") in done.stderr and done.stderr.count("\n") == 1, done.stderr


RECORDS = sorted((Path(__file__).parents[3] / "benchmarks" / "records").glob("*.json"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_records_of_machines_that_were_at_hand_are_whole(path):
    """They load by the rules of today, are measured, and say that a GPU does not see its host."""
    data = results.load(path)
    assert all(
        row["evidence"] in ("measured", "derived") and row["liveness"]["state"] == "alive" for row in data["rows"]
    )
    assert {row["host_included"] for row in data["rows"]} == {False}
    assert "<svg" in page(data)
