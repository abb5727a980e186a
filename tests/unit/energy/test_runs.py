"""The energy of built runs: workloads and estimates from what lies in a run's folder, kept in it and shown by its
report."""

from __future__ import annotations

import json
import sys

import fakes
import numpy as np
import pytest
from typer.testing import CliRunner

from greenedge.cli import app
from greenedge.energy import results
from greenedge.energy.method import Window
from greenedge.energy.session import Repetition
from greenedge.energy.workloads import PipeWorkload, inferences_at_once
from greenedge.errors import GreenedgeError
from greenedge.run import energy

TDP = ("--source", "estimate", "--tdp", "15", "--threads", "4", "--tdp-source", "a data sheet", "--window", "0.2")


def cli(*words, code=0):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, (done.output, done.stderr, done.exception)
    return done


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small model, built for this machine and verified."""
    folder = tmp_path_factory.mktemp("edge")
    fakes.write_model(folder / "small.onnx")
    cli("build", folder / "small.onnx", "--target", "linux-x86", "-o", folder / "run")
    return folder / "run"


def test_an_estimate_is_kept_and_shown(run):
    done = cli("energy", "measure", run, *TDP, "--carbon", "FRA")
    assert "ESTIMATED ≈" in done.stdout and "TDP 15 W over 4 threads: a data sheet" in done.stdout
    data = results.load(run / "6-measure/estimate-cpu.json")
    (row,) = data["rows"]
    assert row["workload"] == "small on linux-x86, tflite" and row["ranking"] is False and row["latency_s"]["value"] > 0
    summary = json.loads((run / "7-report/summary.json").read_text())
    (shown,) = summary["energy"]
    assert "energy_estimate_j" in shown["figures"]["total"] and "energy_j" not in json.dumps(summary["energy"])
    page = (run / "7-report/report.html").read_text()
    assert "<h3>Energy</h3>" in page and "ESTIMATED ≈" in page and "CC BY 4.0" in page
    # Measuring again replaces, and the next run of the same command leaves it be.
    cli("energy", "measure", run, *TDP)
    assert [path.name for path in (run / "6-measure").iterdir()] == ["estimate-cpu.json"]
    assert cli("verify", run).exit_code == 0
    assert json.loads(cli("report", run, "--json", "-o", run / "../page.html").stdout)["runs"][0]["summary"]["energy"]


def test_an_estimate_needs_no_option(run):
    """The ledger's watts per core, and its label; a TDP in part is asked for whole."""
    done = cli("energy", "measure", run, "--source", "estimate", "--window", "0.2")
    assert "12 W per core, Green Algorithms' figure for any CPU" in done.stdout
    (row,) = results.load(run / "6-measure/estimate-cpu.json")["rows"]
    total = row["figures"]["total"]
    assert total["low"] == pytest.approx(0.4 * total["energy_estimate_j"]) and row["evidence"] == "estimated"
    assert total["high"] == pytest.approx(1.6 * total["energy_estimate_j"])
    (run / "6-measure/estimate-cpu.json").unlink()


def test_what_was_estimated_before_an_interruption_is_kept(run, monkeypatch):
    from greenedge.energy import request

    estimate, seen = request._cpu_estimate, []

    def once(*words):
        if seen:
            raise KeyboardInterrupt
        seen.append(words)
        return estimate(*words)

    monkeypatch.setattr(request, "_cpu_estimate", once)
    words = ("energy", "measure", run, "--runtime", "onnxruntime", "--batch", "4", "--batch", "1", "--source")
    done = cli(*words, "estimate", "--window", "0.2")
    assert "the command was interrupted: what was finished is here, the rest is not" in done.stdout
    (row,) = results.load(run / "6-measure/estimate-cpu.json")["rows"]
    assert row["batch"] == 4
    assert "interrupted; nothing was written" in cli(*words, "estimate", "--window", "0.2", code=130).stderr
    (run / "6-measure/estimate-cpu.json").unlink()


@pytest.mark.parametrize("stop", [None, 0, 3])
def test_toggles_are_counted_in_parts(stop):
    """Progress says how far it is; the parts that were finished before an interruption count."""
    from greenedge.backends.finn.activity import count_in_parts
    from greenedge.hdl.switching import Switching

    said, parts = [], []

    def count(part):
        if len(parts) == stop:
            raise KeyboardInterrupt
        parts.append(part)
        return Switching(int(part.sum()), 7, 10 * len(part), len(part), "netlist")

    x = np.arange(25)
    if stop == 0:
        with pytest.raises(KeyboardInterrupt):
            count_in_parts(count, x, said.append)
        return
    found = count_in_parts(count, x, said.append)
    assert said[:2] == ["counting toggles: 0 of 25 samples", "counting toggles: 3 of 25 samples"]
    n = 25 if stop is None else 9
    assert found == Switching(int(x[:n].sum()), 7, 10 * n, n, "netlist", None if stop is None else 25)


def test_an_interrupted_count_says_so():
    from greenedge.energy.estimate import Activity, fpga_row

    row = fpga_row("a", "ice40up5k", 12e6, Activity(1000, 1.0, 5, samples=40, asked=100), cycles=100, streaming=True)
    assert "toggles of the netlist on 40 of 100 real vectors (interrupted), without delays" in " ".join(
        row["source"]["notes"]
    )


def test_energy_of_another_build_is_not_shown(run):
    cli("energy", "measure", run, *TDP)
    path = run / "6-measure/estimate-cpu.json"
    data = json.loads(path.read_text())
    data["build"]["4-build/model.tflite"] = "0" * 64
    path.write_text(json.dumps(data))
    page = cli("report", run, "-o", run / "../page.html") and (run / "../page.html").read_text()
    assert (
        "<h3>Energy</h3>" not in page and "estimate-cpu.json is the energy of an earlier build; measure again." in page
    )
    path.unlink()


def test_what_a_run_says_where_nothing_can_be_measured(run, tmp_path, monkeypatch):
    done = cli("energy", "measure", run, "--root", tmp_path, code=3)
    assert "this machine has no energy source that can be read" in done.stderr
    assert "give each thing once" in cli("energy", "measure", run, run, "--root", tmp_path, code=1).stderr
    said = cli("energy", "measure", run, "--runtime", "tensorrt", code=1).stderr
    assert "there is no runtime 'tensorrt'; runtimes are: litert, litert-reference, tflite-runtime, onnxruntime" in said
    said = cli("energy", "measure", run, "--batch", "64", code=1).stderr
    assert (
        "tflite takes one sample at a time, --batch 64 was given; the runtimes that take more are: onnxruntime" in said
    )
    done = cli("energy", "measure", run, *TDP, "--require", "measured", "--json", code=3)
    assert json.loads(done.stdout)["error"]["exit_code"] == 3
    said = cli("energy", "measure", run, "--source", "estimate", "--tdp", "15", code=1).stderr
    assert "an estimate from CPU time needs --tdp in watts" in said
    assert "is no run: it has no manifest.json" in cli("energy", "measure", tmp_path, *TDP, code=1).stderr
    fakes.install(monkeypatch)
    fakes.write_board(tmp_path)
    monkeypatch.chdir(tmp_path)
    fakes.write_model("small.onnx")
    cli("build", "small.onnx", "--target", tmp_path / "boards" / "bench.toml", "-o", "fake")
    assert cli("energy", "measure", "fake", code=3).stderr.splitlines()[-1] == (
        "greenedge: fake is a package of fake, which no runtime here keeps loaded: measure the program that links it, "
        "`greenedge energy measure -- ./program`, or the same network on a runtime, --runtime onnxruntime."
    )
    manifest = tmp_path / "fake" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"kind": "cpu"', '"kind": "fpga"'))
    assert cli("energy", "measure", "fake", code=3).stderr.splitlines()[-1] == (
        "greenedge: fake is built for bench, which is not this machine: give the --port of the board and a meter "
        "on its "
        "supply, or --source estimate for an estimate from its switching activity."
    )
    (tmp_path / "fake/4-build/model.fake").write_bytes(b"")
    assert "model.fake is not the file that was made, its sha256" in cli("energy", "measure", "fake", code=5).stderr


@pytest.mark.parametrize("runtime", [None, "onnxruntime"])
def test_a_run_is_a_workload_on_every_runtime(run, runtime):
    opener = energy.RunWorkloads()
    workload = opener.open(run, None, runtime)
    assert workload.name == ("small on onnxruntime" if runtime else "small on linux-x86, tflite")
    try:
        workload.setup()
        workload.infer(1000, lambda: None)
        assert workload.cpu_seconds() > 0 and workload.host_included and workload.continuous
    finally:
        workload.teardown()
        opener.close()


def test_a_batch_is_told_as_one(run):
    cli("energy", "measure", run, "--runtime", "onnxruntime", "--batch", "64", "--batch", "1", *TDP, "--window", "0.2")
    many, one = results.load(run / "6-measure/estimate-cpu.json")["rows"]
    assert (many["workload"], many["batch"]) == ("small on onnxruntime, 64 at once", 64)
    assert (one["workload"], one["batch"]) == ("small on onnxruntime", 1)


def test_the_answers_of_a_batch_come_together():
    """128 inferences in 2 s are 15.6 ms each one after another, 1 s in batches of 64: each waits for all."""
    idle, window = Window(0, 1, 10.0, 0.0, 0, 0), Window(1, 3, 40.0, 0.0, 128, 2.0)
    assert Repetition(0, 0, idle, window, idle).latency_s == 2 / 128
    batched = Repetition(0, 0, idle, window, idle, inferences_at_once(PipeWorkload(("true",), "batched", batch=64)))
    assert batched.latency_s == 1.0 and batched.total_j == 40 / 128


def test_everything_after_the_dashes_is_the_command(tmp_path):
    done = cli("energy", "measure", "--root", tmp_path, "--", sys.executable, "-c", "pass", "--json", "--help", code=3)
    assert "this machine has no energy source" in done.stderr and not done.stdout
    done = cli("energy", "measure", "--source", "estimate", *TDP[2:], "--json", "--", sys.executable, "-c", "pass")
    assert json.loads(done.stdout)["rows"][0]["workload"].endswith("-c pass")


SPEAKS = "import sys\nprint('ready', flush=True)\nfor line in sys.stdin: {0}"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise SystemExit('no model')", "w ended with 1 while it was measured: no model."),
        ("print('steady', flush=True)", "w said b'steady\\n' where 'ready' was due; it must keep to the protocol."),
        (
            SPEAKS.format("import os; os.kill(os.getpid(), 11)"),
            "w ended with -11 while it was measured: without a word.",
        ),
        (
            SPEAKS.format("print('don', flush=True)"),
            "w said b'don\\n' where 'done' was due; it must keep to the protocol.",
        ),
        (SPEAKS.format("pass"), "w did not say 'done' within 0.3 s; give --timeout."),
    ],
)
def test_a_program_that_breaks_off_is_one_sentence(code, said):
    workload = PipeWorkload([sys.executable, "-c", code], "w", timeout_s=5.0)
    with pytest.raises(GreenedgeError) as caught:
        try:
            workload.setup()
            workload.timeout_s = 0.3 if "0.3" in said else 5.0
            workload.infer(3, lambda: None)
        finally:
            workload.teardown()
    assert str(caught.value) == said


# One byte a sample, answered a cycle later by its complement; `copy` is the same wire under another name.
TOP = b"""module top(input logic clk, input logic [7:0] s_tdata, input logic s_tvalid, output logic s_tready,
           output logic [7:0] m_tdata, output logic m_tvalid, input logic m_tready);
    logic full = 0;
    logic [7:0] held = 0;
    logic [7:0] copy;
    assign copy = held;
    assign s_tready = 1, m_tvalid = full, m_tdata = ~held;
    always_ff @(posedge clk) begin full <= s_tvalid; if (s_tvalid) held <= s_tdata; end
endmodule
"""


@pytest.mark.tool("verilator")
@pytest.mark.tool("g++")
def test_toggles_are_run_counter_once_and_without_the_clock(tmp_path, rng):
    """Against a count by hand: the input, the register and its complement toggle alike; the copy is not counted
    twice."""
    from greenedge.backends.finn.activity import compile_stream_counter, run_stream_counter
    from greenedge.hdl.axi_stream import Stream
    from greenedge.hdl.axi_stream.simulation import sim_top

    source = Stream("s", "x", 8, False, 1, 1, (1,))
    result = Stream("m", "y", 8, False, 1, 1, (1,))
    model = compile_stream_counter(
        {"top.sv": TOP, "sim_top.sv": sim_top("top", source, [result]).encode()}, lambda line: None
    )
    x = rng.integers(0, 256, (200, 1))
    said = run_stream_counter(model, tmp_path, source, [result], x)
    words = said.split()
    toggles, bits, cycles = (int(words[words.index(word) + 1]) for word in ("toggles", "bits", "cycles"))
    flips = int(np.bitwise_count(x[1:, 0].astype(np.uint8) ^ x[:-1, 0].astype(np.uint8)).sum())
    assert abs(toggles - 3 * flips) <= 3 * 8 + 6, (toggles, flips)
    assert cycles in (200, 201) and bits <= 8 * 3 + 4
