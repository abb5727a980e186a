"""The door: one normal form for every spelling of a network, and a sentence of ours for everything else."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from greenedge.errors import GreenedgeError, UnsupportedError
from greenedge.frontends.source import parse_normal, read_normal
from greenedge.graph import run_graph, verify_graph
from greenedge.lower import lower_file, lower_source
from greenedge.lower.float_io import run_epilogue, run_prologue
from greenedge.lower.float_ties.explain import explain
from greenedge.verify.reference import read_integers
from tests.lower import bad_models
from tests.lower.models import Model
from tests.lower.networks import networks
from tests.lower.spellings import respell
from tests.lower.test_property import _execute

LIMIT_S = 10
PARTS = int(os.environ.get("GREENEDGE_PARTS", "1"))
FAST, SLOW = 60, int(os.environ.get("GREENEDGE_FILES", "150"))


# -- files that are wrong ---------------------------------------------------------------------------------------------


class TooSlow(BaseException):
    """Not an Exception: nothing of ours may take it for a refusal."""


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raises TooSlow after so many seconds of this process, or ten times as many by the clock: a neighbour may work
    too."""

    def stop(*_: object) -> None:
        raise TooSlow

    kinds = {signal.SIGPROF: (signal.ITIMER_PROF, 1), signal.SIGALRM: (signal.ITIMER_REAL, 10)}
    before = {number: signal.signal(number, stop) for number in kinds}
    for timer, factor in kinds.values():
        signal.setitimer(timer, factor * seconds)
    try:
        yield
    finally:
        for timer, _ in kinds.values():
            signal.setitimer(timer, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def judge(path) -> str:
    """'error', 'refused' or 'accepted'; what is accepted also runs. Anything else that is raised is a defect."""
    try:
        lowered = lower_source(parse_normal(read_normal(path), path.stem))
    except UnsupportedError as refusal:
        assert all(reason.value and reason.rule and reason.cure for reason in refusal.reasons)
        return "refused"
    except GreenedgeError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
        return "error"
    verify_graph(lowered.graph)
    sizes = [int(np.prod(edge.shape)) for edge in lowered.graph.edges.values()]
    if lowered.prologue is not None and max(sizes) < 1 << 16:
        feeds = {v.name: np.zeros((2, *_shape(v)[1:]), np.float32) for v in lowered.prologue.graph.input}
        run_epilogue(lowered, run_graph(lowered.graph, run_prologue(lowered, feeds)))
    return "accepted"


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(d.dim_value for d in value.type.tensor_type.shape.dim)


def judge_all(cases, path) -> dict[str, int]:
    outcomes: dict[str, int] = {}
    for name, content in cases:
        path.write_bytes(content)
        start = time.process_time()
        try:
            with time_limit(LIMIT_S):
                outcome = judge(path)
        except (TooSlow, Exception) as error:
            raise AssertionError(f"{name}: {type(error).__name__} after {time.process_time() - start:.1f} s") from error
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    return outcomes


def _share(cases, part: int, parts: int):
    return (case for k, case in enumerate(cases) if k % parts == part)


def test_the_models_are_sound_before_they_are_spoiled(tmp_path):
    for name, make in bad_models.MODELS.items():
        onnx.save(make(), str(tmp_path / "m.onnx"))
        assert judge(tmp_path / "m.onnx") == "accepted", name


def test_bad_files_end_in_a_sentence(tmp_path):
    """A sample of the changes, all the huge ones, and damaged bytes."""
    changes = list(_share(bad_models.list_bad_models(), 0, 29))
    outcomes = judge_all(changes, tmp_path / "m.onnx")
    assert sum(outcomes.values()) >= 400 and outcomes["error"] + outcomes["refused"] > 300, outcomes


def test_damaged_bytes_end_in_a_sentence(tmp_path, rng):
    assert sum(judge_all(bad_models.damage_bytes(rng, 200), tmp_path / "m.onnx").values()) == 200


def test_the_limit_of_time_is_one():
    with pytest.raises(TooSlow), time_limit(1):
        while True:
            pass


def test_what_would_take_all_memory_or_all_day(tmp_path):
    judge_all(bad_models.list_huge_models(), tmp_path / "m.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_every_change_ends_in_a_sentence(tmp_path, part):
    """PARTS eighths of the changes, some 14,500; GREENEDGE_PARTS=8 runs all of them, in six minutes of a free core."""
    judge_all(_share(bad_models.list_bad_models(), part, 8), tmp_path / "m.onnx")


@pytest.mark.slow
def test_many_damaged_files_end_in_a_sentence(tmp_path, rng):
    judge_all(bad_models.damage_bytes(rng, 5000), tmp_path / "m.onnx")


# -- one network, many spellings --------------------------------------------------------------------------------------


def check_spelling(case, seed: int, folder, share: int = 1) -> str:
    """A network and a spelling of it: both are refused, or both give the same integers.

    In one of `share` cases qonnx's executor takes the normal form too.
    """
    model, inputs = case
    spelt, how = respell(model, np.random.default_rng(seed))
    (folder / "plain.onnx").write_bytes(model.SerializeToString())
    (folder / "spelt.onnx").write_bytes(spelt.SerializeToString())
    plain, normal = read_normal(folder / "plain.onnx"), read_normal(folder / "spelt.onnx")
    try:
        first = lower_source(parse_normal(plain, "net"))
    except UnsupportedError:
        with pytest.raises(UnsupportedError):
            lower_source(parse_normal(normal, "net"))
        return "refused"
    try:
        second = lower_source(parse_normal(normal, "net"))
    except GreenedgeError as error:
        raise AssertionError(f"{how}: {error}") from error
    a, b = (run_graph(one.graph, run_prologue(one, inputs)) for one in (first, second))
    for left, right in zip(first.graph.outputs, second.graph.outputs, strict=True):
        assert np.array_equal(a[left], b[right]), how
    _check_stable(normal, folder)
    if seed % share:
        return "equal"
    by_qonnx = read_integers(second, _execute(normal.proto, {"x": inputs[3:4]}))
    assert all(d.proven_tie for d in explain(second.graph, second.trace, by_qonnx)), how
    return "equal"


def _check_stable(normal, folder) -> None:
    """Normalising twice changes nothing."""
    content = normal.proto.SerializeToString(deterministic=True)
    (folder / "again.onnx").write_bytes(content)
    again = read_normal(folder / "again.onnx")
    assert again.proto.SerializeToString(deterministic=True) == content and not again.notes


@settings(max_examples=FAST, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(networks(), st.integers(0, 2**32))
def test_a_spelling_changes_no_integer(tmp_path_factory, case, seed):
    check_spelling(case, seed, tmp_path_factory.mktemp("door"), share=4)


@pytest.mark.slow
@settings(max_examples=SLOW, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), print_blob=True)
@given(networks(), st.integers(0, 2**32))
def test_no_spelling_changes_an_integer(tmp_path_factory, case, seed):
    check_spelling(case, seed, tmp_path_factory.mktemp("door"))


# -- what a user is told ----------------------------------------------------------------------------------------------


def test_a_batch_whose_samples_are_mixed_is_refused(tmp_path):
    m = Model((4, 4)).quant()
    m.node("Slice", *(m.constant(v, np.int64) for v in ([0], [2], [0])), name="half").dense().quant()
    with pytest.raises(UnsupportedError) as error:
        lower_file(m.save(tmp_path / "m.onnx"))
    assert "half: Slice of a batch of 4 gives shape (2, 4); every sample must be computed by itself" in str(error.value)


def test_an_unknown_domain_is_refused_by_name(tmp_path):
    m = Model((1, 2, 4, 4)).quant().node("MaxPool", domain="com.stranger", kernel_shape=[2, 2], name="pool").quant()
    with pytest.raises(UnsupportedError, match="pool: operator com.stranger.MaxPool; it is no standard ONNX"):
        lower_file(m.save(tmp_path / "m.onnx"))


def test_what_changes_the_reading_is_said(tmp_path):
    m = Model((8, 4), opset=11).quant().dense().quant()
    proto = m.proto()
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    onnx.save(proto, str(tmp_path / "m.onnx"))
    assert read_normal(tmp_path / "m.onnx").notes == (
        "opset 11 is read as opset 13",
        "its float16 numbers are read as float32, in which everything is computed",
        "its batch of 8 is read as a batch of 1",
    )


@pytest.mark.parametrize("fill", [np.inf, -np.inf, -1e30, 0.3])
def test_a_fill_that_is_no_level_is_a_sentence(tmp_path, fill):
    m = Model((1, 3, 4, 4)).quant()
    m.node("Pad", m.constant([0, 0, 1, 1, 0, 0, 1, 1], np.int64), m.constant(fill))
    m.quant()
    with pytest.raises(GreenedgeError, match="which is not on the tensor's grid|holds NaN or infinity"):
        lower_file(m.save(tmp_path / "m.onnx"))


def test_a_bias_of_another_size_is_a_sentence(tmp_path):
    """ONNX's own checker does not look at it."""
    m = Model().quant()
    m.node("Gemm", m.weight(np.ones((4, 3))), m.constant(np.arange(7.0)), name="fc").quant()
    with pytest.raises(UnsupportedError) as error:
        lower_file(m.save(tmp_path / "m.onnx"))
    assert [str(reason) for reason in error.value.reasons] == [
        "fc: a bias of shape (7,) against a tensor of shape (3,); it may not widen the tensor (cure: give it one value "
        "per channel, or expand the tensor explicitly)."
    ]


def test_a_scale_that_widens_what_it_does_not_divide_is_a_sentence(tmp_path):
    """A bipolar quantiser's levels do not depend on its scale, its output does."""
    m = Model().quant().dense()
    m.node("BipolarQuant", m.constant(np.ones(7)), domain="qonnx.custom_op.general", name="sign")
    with pytest.raises(UnsupportedError, match="sign: a scale of shape .* against a tensor of shape"):
        lower_file(m.save(tmp_path / "m.onnx"))


def test_a_quantised_number_alone_is_an_array(tmp_path):
    """It may stand where an image is expected."""
    m = Model((1, 1, 2, 2)).quant().node("GlobalAveragePool", source=None)
    m.nodes[-1].input[0] = m.weight(0.5)
    m.quant()
    with pytest.raises(GreenedgeError):
        lower_file(m.save(tmp_path / "m.onnx"))


@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_padding_by_name_is_stated_in_numbers(tmp_path, auto):
    """Also where strides are longer than windows: ONNX Runtime takes that for a negative padding and stops."""
    for kernel, stride, total in ((2, 1, 1), (1, 3, 0), (3, 2, 1)):
        m = Model((1, 2, 6, 6)).quant()
        m.node("MaxPool", kernel_shape=[kernel] * 2, strides=[stride] * 2, auto_pad=auto, name="pool").quant()
        normal = read_normal(m.save(tmp_path / "m.onnx"))
        pool = next(node for node in normal.proto.graph.node if node.name == "pool")
        pads = {"SAME_UPPER": [0, 0, total, total], "SAME_LOWER": [total, total, 0, 0], "VALID": [0] * 4}[auto]
        assert [list(a.ints) for a in pool.attribute if a.name == "pads"] == [pads]
        assert "auto_pad" not in {a.name for a in pool.attribute}
        _check_stable(normal, tmp_path)
