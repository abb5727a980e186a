"""Differences that a build's certificate foretold: allowed where it says so, by as much as it says, and nowhere
else."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from greenedge.backends import load_backend
from greenedge.cli import app
from greenedge.errors import VerificationError
from greenedge.graph import run_graph
from greenedge.progress import no_progress
from greenedge.verify.built import compare_build
from greenedge.verify.certified import allow_certified
from greenedge.verify.compare import VerificationReport, require_equal
from tests.backends.graphs import Sketch

CHANNELS = 4


@pytest.fixture
def network(rng):
    """(graph, samples): two layers, each with a quantiser."""
    s = Sketch(rng, (6,))
    hidden = s.step(s.dense("x", CHANNELS, bits=6), "u4")
    graph = s.graph(s.step(s.dense(hidden, CHANNELS, bits=6), "s8"))
    return graph, rng.integers(graph.edges["x"].lo, graph.edges["x"].hi + 1, (200, 6))


def judge(network, change, limits):
    """The report on a build whose layers `change` alters, with a certificate that allows `limits`."""
    graph, x = network
    first, second = (op.output for op in graph.requantisers)

    def simulate(folder, values, keep=(), progress=no_progress):
        hidden = change(first, run_graph(graph, values, keep=[first])[first].copy(), values)
        layers = {op.output: op for op in graph.ops}
        dense = layers[layers[second].inputs[0]]
        total = dense.execute([hidden], graph.input_edges(dense))
        out = layers[second].execute([total], graph.input_edges(layers[second]))
        return {first: hidden, second: change(second, out, values)}

    backend = dataclasses.replace(
        load_backend("tflite"), simulate=simulate, list_certified_differences=lambda folder: limits(first, second)
    )
    expected, stages = run_graph(graph, x), {}
    report = compare_build(graph, simulate, "tflite", Path("."), x, expected, stages, no_progress)
    return allow_certified(graph, backend, Path("."), x, report, expected[second], stages["tflite"])


def one_level_up(layer, channel, levels=1):
    """A build that gives more levels in one channel of one layer, wherever the first input is odd."""

    def change(name, values, x):
        if name == layer:
            values[:, channel] += levels * (x[:, 0] % 2)
        return values

    return change


def layers_of(network):
    return [op.output for op in network[0].requantisers]


def test_what_the_certificate_foretold_is_no_mismatch(network):
    first, second = layers_of(network)
    for layer in (first, second):
        report = judge(network, one_level_up(layer, 2), lambda a, b, layer=layer: {layer: {2: 1}})
        assert report.mismatches == 0 and report.first is None and report.within_certificate > 50
        with pytest.raises(
            VerificationError, match=r"^tflite differs on \d+ of 200 samples, within its certificate, and"
        ):
            require_equal(report.candidate, report.within_certificate, report.samples)


@pytest.mark.parametrize(
    "channel, levels, limits",
    [
        (2, 1, {}),
        (2, 1, {1: 1}),  # another channel
        (2, 2, {2: 1}),  # a level more
        (2, -2, {0: 9, 2: 1}),
    ],
)
def test_any_other_difference_is_one(network, channel, levels, limits):
    _, second = layers_of(network)
    report = judge(network, one_level_up(second, channel, levels), lambda a, b: {b: limits} if limits else {})
    assert report.mismatches > 50 and report.within_certificate == 0
    assert report.first is not None and report.first.layer == second
    sample = network[1][report.first.sample]
    assert sample[0] % 2 == 1, "the first sample that the certificate does not allow"


def test_a_difference_in_another_layer_is_one(network):
    first, second = layers_of(network)
    report = judge(network, one_level_up(first, 2), lambda a, b: {b: dict.fromkeys(range(CHANNELS), 200)})
    assert report.mismatches > 50 and report.first.layer == first


def test_equal_builds_need_no_certificate(network):
    report = judge(network, lambda name, values, x: values, lambda a, b: 1 / 0)
    assert isinstance(report, VerificationReport) and not report.mismatches and not report.within_certificate
    require_equal(report.candidate, report.within_certificate, report.samples)


def test_exact_can_be_required_of_a_finished_run(tmp_path):
    """verify.json says what was allowed; with --require exact it ends with status 5, as it does where there is none: a
    run that ends before its report has no summary."""
    from greenedge.run.runs import require_exact

    entry = {"reference": "graph", "candidate": "tflite", "samples": 64, "mismatches": 0}
    folder = tmp_path / "5-verify"
    folder.mkdir()
    with pytest.raises(VerificationError, match="has not been verified, and exact equality was required"):
        require_exact(tmp_path)
    for count in (0, 3):
        (folder / "verify.json").write_text(json.dumps({"verify": [entry | {"within_certificate": count}]}))
        if count:
            with pytest.raises(VerificationError) as error:
                require_exact(tmp_path)
            assert error.value.exit_code == 5
        else:
            require_exact(tmp_path)
    done = CliRunner().invoke(app, ["verify", str(tmp_path), "--require", "nearly"])
    assert done.exit_code == 2
