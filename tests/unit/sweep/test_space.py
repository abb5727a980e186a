"""What a sweep varies: axes from the command line and from a file, their grid, and every refusal."""

from __future__ import annotations

import pytest

from greenedge.errors import TargetError
from greenedge.sweep.space import Axis, Space, make_space, name_point, parse_vary, read_space


def test_axes_and_every_point_in_order():
    space = make_space(parse_vary(["a.b=1,2", "c.d=x"]))
    assert list(space.grid()) == [{"a.b": "1", "c.d": "x"}, {"a.b": "2", "c.d": "x"}]
    assert parse_vary(['distil.features=["a=b","c=d"],[]'])[0].values == ('["a=b","c=d"]', "[]")
    assert name_point({"train.optimiser": "sgd", "train.seed": "1"}) == "optimiser=sgd seed=1"
    assert name_point({"a.bits": "1", "b.bits": "2"}) == "a.bits=1 b.bits=2"


def test_a_point_by_its_number_is_the_grids():
    space = Space((Axis("a", ("1", "2", "3")), Axis("b", ("x", "y")), Axis("c", ("p", "q"))))
    assert space.size == 12 and [space.point(k) for k in range(12)] == list(space.grid())


def test_a_file(tmp_path):
    path = tmp_path / "space.toml"
    path.write_text("""
objectives = ["accuracy", "estimated_lut4"]
[vary]
target = ["ulx3s-85f", "icebreaker"]
quantise.weight_bits = [2, 4]
"quantise.layers.fc1.weight_bits" = [3, 8]
"quantise.per_channel" = [true, false]
[vary.build]
fps = [1e4, 20_000]
[set]
train.epochs = 2
""")
    space = read_space(path)
    assert {axis.key: axis.values for axis in space.axes} == {
        "target": ("ulx3s-85f", "icebreaker"),
        "quantise.weight_bits": ("2", "4"),
        "quantise.layers.fc1.weight_bits": ("3", "8"),
        "quantise.per_channel": ("true", "false"),
        "build.fps": ("10000.0", "20000"),
    }
    assert space.sets == ("train.epochs=2",) and space.objectives == ("accuracy", "estimated_lut4")


@pytest.mark.parametrize(
    "vary, message",
    [
        (["train.seed"], "--vary 'train.seed' is not understood; write KEY=VALUE,VALUE, such as train.optimiser=sgd,adam."),  # noqa: E501
        (["train.seed=1,,2"], "--vary 'train.seed=1,,2' is not understood; write KEY=VALUE,VALUE, such as train.optimiser=sgd,adam."),  # noqa: E501
        ([], "a sweep varies something and this one nothing; say --vary KEY=VALUE,VALUE, such as train.optimiser=sgd,adam, or --space FILE."),  # noqa: E501
        (["a.b=1,2,1"], "--vary: a.b has the value '1' twice; leave one out."),
        (["a.b=1", "a.b=2"], "--vary: a.b is varied twice; write all its values once."),
        ([f"a.x{k}={','.join(map(str, range(1000)))}" for k in range(4)], "--vary: the grid has 1,000,000,000,000 points; at most 1,000,000,000 can be sampled."),  # noqa: E501
    ],
)  # fmt: skip
def test_what_is_no_space(vary, message):
    with pytest.raises(TargetError) as caught:
        make_space(parse_vary(vary))
    assert str(caught.value) == message


def test_a_file_is_refused_with_every_reason(tmp_path):
    path = tmp_path / "space.toml"
    path.write_text('objectives = "accuracy"\nvarry = 1\n[vary]\n"a.b" = 3\n"a.c" = [{x = 1}]\n')
    with pytest.raises(TargetError) as caught:
        read_space(path)
    assert str(caught.value).splitlines() == [
        f"{path}: unknown key 'varry'; a space has: objectives, set, vary.",
        f"{path}: [vary] a.b is 3; write a list of values, such as [2, 4, 8].",
        f"{path}: [vary] a.c is [{{'x': 1}}]; write a list of values, such as [2, 4, 8].",
        f'{path}: objectives is \'accuracy\'; write a list of names, such as ["accuracy", "bytes"].',
    ]
    path.write_text("[vary\n")
    with pytest.raises(TargetError, match=r"space.toml is not TOML: .*\.$"):
        read_space(path)
    path.write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(TargetError, match=r"has 1,048,577 bytes; a space takes at most 1,048,576\.$"):
        read_space(path)
    with pytest.raises(TargetError, match=r"^there is no file .*none.toml; write one with \[vary\]"):
        read_space(tmp_path / "none.toml")


def test_set_and_varied():
    with pytest.raises(TargetError, match=r"^--vary: a.b is both set and varied; leave one of the two out.$"):
        make_space([Axis("a.b", ("1",))], ["a.b=2"])
