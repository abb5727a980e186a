"""Samples for one input and for several: what is read, what is refused, and how a run keeps it."""

from __future__ import annotations

import io
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from greenedge.errors import GreenedgeError
from greenedge.files import arrays
from greenedge.files.arrays import read_archive, write_archive
from greenedge.frontends.import_onnx import SAMPLES, ModelFile, check_samples, import_stage
from greenedge.frontends.input_type import InputType
from greenedge.frontends.samples import ModelInput, open_samples, read_arguments, read_samples, write_samples
from tests.lower.models import Model
from tests.lower.several_inputs import CASES

ONE = (ModelInput("x", (3,)),)
TWO = (ModelInput("a", (4,)), ModelInput("b:0", (2, 2)))


def _two(count: int = 5) -> dict[str, np.ndarray]:
    return {"a": np.arange(4.0 * count).reshape(count, 4), "b:0": np.ones((count, 2, 2), np.float32)}


def _refused(path: Path, inputs, read=read_samples) -> str:
    with pytest.raises(GreenedgeError) as error:
        read(path, inputs)
    text = str(error.value)
    assert text.startswith(str(path)) and text.endswith(".") and text.count(". ") == 0
    return text.removeprefix(str(path))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("read", [read_samples, open_samples])
def test_arrays_come_by_their_names_in_the_models_order(tmp_path, save, read):
    save(tmp_path / "x.npz", **dict(reversed(_two().items())))
    found = read(tmp_path / "x.npz", TWO)
    assert list(found) == ["a", "b:0"]
    assert all(np.array_equal(found[name], x) and found[name].dtype == x.dtype for name, x in _two().items())


def test_arrays_without_a_name_are_in_the_models_order(tmp_path):
    np.savez(tmp_path / "x.npz", *_two().values())
    found = read_samples(tmp_path / "x.npz", TWO)
    assert list(found) == ["a", "b:0"] and found["a"].shape == (5, 4)
    named = (ModelInput("arr_1", (4,)), ModelInput("arr_0", (2, 2)))  # names that a model has are names
    np.savez(tmp_path / "x.npz", *reversed(_two().values()))
    assert read_samples(tmp_path / "x.npz", named)["arr_1"].shape == (5, 4)


def test_one_input_may_come_in_an_archive(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.ones((2, 3)))
    assert read_samples(tmp_path / "x.npz", ONE)["x"].shape == (2, 3)


def _change(**more):
    return {**_two(), **more}


@pytest.mark.parametrize(
    "given, says",
    [
        (
            {"a": np.ones((5, 4))},
            " holds the arrays 'a', and the model has the inputs 'a' ('samples', 4), 'b:0' ('samples', 2, 2); give one "
            "array for each, by its name.",
        ),
        (
            {"a": np.ones((5, 4)), "b": np.ones((5, 2, 2))},
            " holds the arrays 'a', 'b', and the model has the inputs 'a' ('samples', 4), 'b:0' ('samples', 2, 2); "
            "give one array for each, by its name.",
        ),
        (
            _change(c=np.ones(5)),
            " holds the arrays 'a', 'b:0', 'c', and the model has the inputs 'a' ('samples', 4), 'b:0' ('samples', 2, "
            "2); give one array for each, by its name.",
        ),
        (
            _change(a=np.ones((4, 4))),
            " holds different numbers of samples, 4 of 'a', 5 of 'b:0'; give as many for each input.",
        ),
        (
            _change(a=np.ones((5, 3))),
            ", array 'a', has shape (5, 3); input 'a' wants ('samples', 4).",
        ),
        (
            {"a": np.ones((0, 4)), "b:0": np.ones((0, 2, 2))},
            ", array 'a', holds 0 samples of float64; give at least one, as numbers.",
        ),
        (
            _change(**{"b:0": np.array([[["x"] * 2] * 2] * 5)}),
            ", array 'b:0', holds 5 samples of <U1; give at least one, as numbers.",
        ),
        (
            _change(**{"b:0": np.where(np.arange(20).reshape(5, 2, 2) == 9, np.nan, 1)}),
            ", array 'b:0', holds nan at (2, 0, 1); a sample is finite numbers: leave that one out.",
        ),
        (
            _change(a=np.where(np.arange(20).reshape(5, 4) == 6, 1e39, 1)),
            ", array 'a', holds 1e+39 at (1, 2); the model computes in float32: scale that one down.",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence_with_the_inputs_name(tmp_path, given, says):
    write_archive(tmp_path / "x.npz", given)
    assert _refused(tmp_path / "x.npz", TWO) == says


def test_one_array_for_two_inputs_says_how_to_give_two(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((5, 4)))
    assert _refused(tmp_path / "x.npy", TWO) == (
        " holds one array, and the model has the inputs 'a' ('samples', 4), 'b:0' ('samples', 2, 2); give an .npz file "
        "with an array for each: numpy.savez(path, **{'a': …, 'b:0': …})."
    )


@pytest.mark.parametrize(
    "values, says",
    [
        ([[0.5, 1.0]], None),
        ([[0.5, 0.3]], " holds 0.3, which is no multiple of its step 0.5; quantise the data or declare another input"),
        ([[0.5, 8.0]], " holds 8.0 at (0, 1); input 'x' takes the integers 0…15 times 0.5: leave that one out."),
        (np.array([[15, 16]]), " holds 16 at (0, 1); input 'x' takes the integers 0…15 times 0.5: leave that one out."),
        (np.array([[15, -1]]), " holds -1 at (0, 1); input 'x' takes the integers 0…15 times 0.5: leave that one out."),
    ],
)
def test_an_input_that_takes_integers_has_a_range(tmp_path, values, says):
    inputs = (ModelInput("x", (2,), InputType(0, 15, Fraction(1, 2))),)
    np.save(tmp_path / "x.npy", np.array(values))
    if says is None:
        assert read_samples(tmp_path / "x.npy", inputs)["x"].tolist() == values
    else:
        assert _refused(tmp_path / "x.npy", inputs).startswith(says)


# -- archives that are none -------------------------------------------------------------------------------------------


def _pack(path: Path, members: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _claim(path: Path, size: int) -> None:
    """Has the index of a zip file with one member say that it unpacks to `size` bytes."""
    content = bytearray(path.read_bytes())
    place = content.rindex(b"PK\x01\x02") + 24
    content[place : place + 4] = size.to_bytes(4, "little")
    path.write_bytes(content)


def test_an_archive_is_written_as_numpy_reads_it(tmp_path):
    given = {"file": np.arange(3), "a/b:0": np.ones((2, 2), np.float32), "allow_pickle": np.zeros(0)}
    for name in ("x.npz", "again.npz"):
        write_archive(tmp_path / name, given)
    assert (tmp_path / "x.npz").read_bytes() == (tmp_path / "again.npz").read_bytes()
    with np.load(tmp_path / "x.npz") as found:
        assert found.files == list(given) and all(np.array_equal(found[name], x) for name, x in given.items())
    assert list(read_archive(tmp_path / "x.npz")) == list(given)


def test_archives_that_are_none(tmp_path):
    path = tmp_path / "x.npz"
    bad = {
        "no array": ({}, "is no .npz file with a .npy file for each array"),
        "text": ({"a.txt": b"hello"}, "is no .npz file with a .npy file for each array"),
        "no header": ({"a.npy": b"hello"}, "array 'a', is no .npy file of numbers"),
        "too short": ({"a.npy": _npy(np.zeros(9))[:-1]}, "and holds 71"),
        "an object": ({"a.npy": _object()}, "array 'a', is no .npy file of numbers (it holds object)"),
    }
    for members, says in bad.values():
        _pack(path, members)
        assert says in _refused(path, TWO, lambda path, _: read_archive(path))
    path.write_bytes(b"PK\x03\x04" + bytes(60))
    assert "is a damaged .npz file (File is not a zip file)" in _refused(path, TWO, lambda path, _: read_archive(path))
    with pytest.raises(GreenedgeError, match=r"is no .npz file; write it with numpy.savez\.$"):
        np.save(tmp_path / "y.npy", np.zeros(3))
        read_archive(tmp_path / "y.npy")


def _object() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([{}], object), allow_pickle=True)
    return file.getvalue()


def test_every_cut_and_many_flips_of_an_archive_are_one_sentence_or_read(tmp_path, rng):
    np.savez_compressed(tmp_path / "x.npz", **_two())
    whole = (tmp_path / "x.npz").read_bytes()
    changed = [whole[:size] for size in range(2, len(whole), 7)]
    for _ in range(300):
        one = bytearray(whole)
        one[rng.integers(2, len(one))] ^= 1 << rng.integers(0, 8)
        changed.append(bytes(one))
    refused = 0
    for content in changed:
        (tmp_path / "y.npz").write_bytes(content)
        try:
            read_samples(tmp_path / "y.npz", TWO)
        except GreenedgeError as error:
            assert str(error).endswith(".") and "\n" not in str(error)
            refused += 1
    assert refused > len(changed) // 2


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_index_that_promises_more_than_there_is_spends_nothing(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(arrays, "read_stream", lambda *_: pytest.fail("it is unpacked"))
    _pack(tmp_path / "x.npz", {"a.npy": _npy(np.zeros(99))}, kind)
    _claim(tmp_path / "x.npz", (1 << 32) - 9)
    says = _refused(tmp_path / "x.npz", TWO, lambda path, _: read_archive(path))
    assert says == " is a damaged .npz file (its index does not fit it); write it with numpy.savez."


def test_what_would_unpack_to_too_much_is_not_unpacked(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros(100_000))
    size = 800_000 + 128
    monkeypatch.setattr(arrays, "_MAX_UNPACKED", size)
    assert len(read_archive(tmp_path / "x.npz")["a"]) == 100_000
    monkeypatch.setattr(arrays, "_MAX_UNPACKED", size - 1)
    monkeypatch.setattr(arrays, "read_stream", lambda *_: pytest.fail("it is unpacked"))
    assert _refused(tmp_path / "x.npz", TWO, lambda path, _: read_archive(path)) == (
        " would unpack to 800,128 bytes; at most 800,127 are accepted: write it with numpy.savez, which does not "
        "compress."
    )


# -- runs -------------------------------------------------------------------------------------------------------------


def test_one_input_is_kept_as_before(tmp_path):
    x = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    write_samples({"x": x}, tmp_path)
    np.save(tmp_path / "expected.npy", x)
    assert (tmp_path / "inputs.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()
    assert not (tmp_path / "inputs.npz").exists()


def test_the_import_draws_samples_for_every_input(tmp_path):
    model = CASES["concat"].model()
    (tmp_path / "run").mkdir()
    note = import_stage(ModelFile(model.save(tmp_path / "m.onnx")), tmp_path / "run")
    assert note.endswith(f"{SAMPLES} samples drawn at random of 2 inputs")
    found = read_archive(tmp_path / "run" / "inputs.npz")
    assert {name: x.shape for name, x in found.items()} == {"a": (SAMPLES, 4), "b": (SAMPLES, 6)}
    for x in found.values():  # beyond both ends of 4 bits at 0.25
        assert x.min() < -2 and x.max() > 1.75 and x.dtype == np.float32
    assert not np.array_equal(found["a"], found["b"][:, :4])
    assert not (tmp_path / "run" / "inputs.npy").exists()


def test_samples_and_labels_are_judged_by_check(tmp_path):
    path = CASES["concat"].model().save(tmp_path / "m.onnx")
    write_archive(tmp_path / "x.npz", {"a": np.ones((3, 4)), "b": np.ones((3, 6))})
    np.save(tmp_path / "y.npy", np.zeros(3, np.int64))
    check_samples(ModelFile(path, tmp_path / "x.npz", tmp_path / "y.npy"))
    write_archive(tmp_path / "x.npz", {"a": np.ones((3, 4)), "b": np.ones((3, 5))})
    with pytest.raises(GreenedgeError, match=r"array 'b', has shape \(3, 5\); input 'b' wants \('samples', 6\)\.$"):
        check_samples(ModelFile(path, tmp_path / "x.npz"))


def test_integers_of_several_inputs_come_by_their_own_names(tmp_path):
    """Edges are named after inputs as far as a name allows; here the edge of one input has the name of another."""
    from greenedge.graph import run_graph
    from greenedge.lower import load_lowering, lower_file, save_lowering
    from greenedge.lower.float_io import run_prologue

    m = Model()
    m.inputs = {"u": (1, 2), "b.1": (1, 4), "b_1": (1, 4)}
    m.annotations = dict.fromkeys(m.inputs, "INT4")
    m.node("Concat", "b_1", source="b.1", axis=1).dense(8).quant(0.5, 8)
    lowered = lower_file(m.save(tmp_path / "m.onnx"))
    assert lowered.graph.inputs == ("b_1", "b_1_2") and lowered.direct == {"b_1": "b.1", "b_1_2": "b_1"}
    save_lowering(lowered, tmp_path)
    stored = load_lowering(tmp_path)
    assert (stored.inputs[1:], stored.direct) == (lowered.inputs[1:], lowered.direct)
    assert [(one.name, one.shape) for one in stored.inputs] == [("u", (2,)), ("b.1", (4,)), ("b_1", (4,))]
    given = {"u": np.ones((1, 2)), "b.1": np.full((1, 4), 3.0), "b_1": np.full((1, 4), -5.0)}
    for one, feeds in ((lowered, given), (stored, dict(reversed(given.items())))):
        levels = run_prologue(one, feeds)
        assert levels["b_1"].tolist() == [[3] * 4] and levels["b_1_2"].tolist() == [[-5] * 4]
        run_graph(one.graph, levels)
    with pytest.raises(GreenedgeError, match="^the inputs have different numbers of samples, 1 of 'u', 1 of 'b.1', 2"):
        run_prologue(lowered, {**given, "b_1": np.zeros((2, 4))})


def test_one_input_of_two_quantisers_takes_one_array(tmp_path, rng):
    from greenedge.graph import run_graph
    from greenedge.lower import lower_file
    from greenedge.lower.float_io import run_epilogue, run_prologue
    from tests.lower.several_inputs import quantise, weights

    m = Model()
    fine = m.quant(0.25).tensor
    m.quant(0.5, source="x").node("Concat", fine, axis=1).dense(8).quant(0.5, 8)
    lowered = lower_file(m.save(tmp_path / "m.onnx"))
    assert len(lowered.graph.inputs) == 2 and [one.name for one in lowered.inputs] == ["x"]
    x = rng.uniform(-3, 3, (30, 4)).astype(np.float32)
    (got,) = run_epilogue(lowered, run_graph(lowered.graph, run_prologue(lowered, x))).values()
    both = np.concatenate([quantise(x, 0.5, 4), quantise(x, 0.25, 4)], axis=1)
    assert np.array_equal(got, quantise(both @ weights(8, 3), 0.5, 8))


def test_arguments_of_a_function_come_by_name_or_in_order(tmp_path):
    def forward(left, right, scale=1.0):
        """Is never called."""

    left, right = np.ones((2, 3)), np.zeros((2, 4))
    path = tmp_path / "x.npz"
    np.savez(path, right=right, left=left)
    assert [x.shape for x in read_arguments(path, forward)] == [(2, 3), (2, 4)]
    np.savez(path, left, right)
    assert [x.shape for x in read_arguments(path, forward)] == [(2, 3), (2, 4)]
    np.savez(path, left=left, wrong=right)
    assert _refused(path, forward, read_arguments) == (
        " holds the arrays 'left', 'wrong', and the network's forward takes (left, right, scale); give one array for "
        "each, by its name or in its order."
    )
    np.savez(path, left, right[:1])
    assert "holds different numbers of samples, 2 of 'arr_0', 1 of 'arr_1'" in _refused(path, forward, read_arguments)
