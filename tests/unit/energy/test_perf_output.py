"""What `perf stat` prints, in every form that it has: 30 J, or a reason."""

from __future__ import annotations

import json

import pytest

from greenedge.energy.perf_output import read_runs
from greenedge.energy.source import SourceFault

EVENT = "power/energy-pkg/"
HUMAN = f"""
 Performance counter stats for 'system wide':

             30.00 Joules {EVENT}

      10.001234567 seconds time elapsed
"""
ENDS = [f"{k:15.9f}" for k in (1.0, 2.0, 3.0)]
FORMS = {
    "people": HUMAN,
    "a decimal comma": HUMAN.replace("30.00", "30,00"),
    "-x,": f"30.00,Joules,{EVENT},10001234567,100.00,,\n",
    "-x;": f"30.00;Joules;{EVENT};10001234567;100.00;;\n",
    "-x; with decimal commas": f"30,00;Joules;{EVENT};10001234567;100,00;;\n",
    "-x in tabs": f"30.00\tJoules\t{EVENT}\t10001234567\t100.00\t\t\n",
    "-I": "\n".join(["#           time             counts unit events", *(f"{t}  10.00 Joules {EVENT}" for t in ENDS)]),
    "-I -x,": "\n".join(f"{t.strip()},10.00,Joules,{EVENT},1000,100.00,," for t in ENDS),
    "--per-socket": f"S0        1       12.50 Joules {EVENT}\nS1        1       17.50 Joules {EVENT}\n",
    "--per-socket -x,": f"S0,1,12.50,Joules,{EVENT},1,100.00,,\nS1,1,17.50,Joules,{EVENT},1,100.00,,\n",
    "--per-socket -I -x,": "\n".join(
        f"{t.strip()},S{k},1,5.00,Joules,{EVENT},1,100.00,," for t in ENDS for k in range(2)
    ),
    "-j": json.dumps({"counter-value": "30.000000", "unit": "Joules", "event": EVENT}),
    "-j -I": "\n".join(
        json.dumps({"interval": float(t), "counter-value": "10.000000", "unit": "Joules", "event": EVENT}) for t in ENDS
    ),
    "-j --per-socket": "\n".join(
        json.dumps({"socket": f"S{k}", "counter-value": "15.0", "unit": "Joules", "event": EVENT}) for k in range(2)
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_its_joules(form):
    (run,) = read_runs(FORMS[form])
    assert run.total("energy-pkg") == pytest.approx(30.0)
    trace = run.trace("energy-pkg")
    assert (trace is not None) == ("-I" in form)
    if trace is not None:
        assert trace.watts == pytest.approx(10.0) and trace.t[0] == 0 and trace.t[-1] == pytest.approx(3.0)


@pytest.mark.parametrize("form", ["people", "-x,", "-I -x,", "-j", "--per-socket"])
def test_an_appended_file_is_several_runs(form):
    assert [run.total("energy-pkg") for run in read_runs(FORMS[form] + "\n" + FORMS[form])] == pytest.approx([30, 30])


def test_two_sockets_are_kept_apart():
    (run,) = read_runs(FORMS["--per-socket"])
    assert run.joules["energy-pkg"] == {"S0": 12.5, "S1": 17.5}


@pytest.mark.parametrize(
    "text, said",
    [
        (f"<not supported>,Joules,{EVENT},0,100.00,,", "not supported"),
        (f"0.00,Joules,{EVENT},1,100.00,,", "0.00 Joules"),
        (f"30,00,Joules,{EVENT},1,100,00,,", "cannot be told apart"),
        ("1234,instructions,1,100.00,,", "no energy event"),
        (f"S0,1,12.50,Joules,{EVENT},1,100.00,,\nS1,1,0.00,Joules,{EVENT},1,100.00,,", "0.00 Joules of S1"),
    ],
)
def test_what_is_no_count_is_refused(text, said):
    with pytest.raises(SourceFault, match=said):
        read_runs(text)
