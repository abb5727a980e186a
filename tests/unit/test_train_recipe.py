"""A recipe's folder: what is wrong with it is said in full, all at once."""

from __future__ import annotations

import numpy as np
import pytest

from greenedge.errors import TargetError
from greenedge.train import load_recipe

FLOW = """name = "tiny"
title = "A tiny recipe"

[data]
samples = 8

[model]
hidden = [4, 4]

[train]
epochs = 1
"""
RECIPE = """
from __future__ import annotations
from dataclasses import dataclass
import numpy as np
from greenedge.train import Data, setting

@dataclass(frozen=True)
class DataSettings:
    samples: int = setting(least=1)
    noise: float = 0.0

@dataclass(frozen=True)
class ModelSettings:
    hidden: tuple[int, ...]
    dropout: bool = False
    norm: str = setting("batch", choices=("batch", "none"))

    def __post_init__(self):
        if len(self.hidden) > 3:
            raise ValueError(f"hidden has {len(self.hidden)} layers; this network takes at most 3")

def load_data(settings):
    x = np.zeros((settings.samples, 2), np.float32)
    return Data(x, np.zeros(len(x), np.int64), x, np.zeros(len(x), np.int64))

def make_model(settings):
    raise AssertionError("no test here builds it")
"""


@pytest.fixture
def recipe(tmp_path):
    """write(flow, recipe) → the folder of a recipe."""

    def write(flow: str = FLOW, code: str = RECIPE):
        folder = tmp_path / "tiny"
        folder.mkdir(exist_ok=True)
        (folder / "flow.toml").write_text(flow)
        (folder / "recipe.py").write_text(code)
        return folder

    return write


def refusal(folder, overrides=None) -> str:
    with pytest.raises(TargetError) as caught:
        load_recipe(folder, overrides)
    return str(caught.value)


def test_a_good_recipe_fills_in_its_defaults(recipe):
    loaded = load_recipe(recipe(), {"train.epochs": "2", "model.hidden": "[8]", "model.norm": "none"})
    assert loaded.name == "tiny" and loaded.title == "A tiny recipe"
    assert loaded.settings["data"] == {"samples": 8, "noise": 0.0}
    assert loaded.settings["model"] == {"hidden": [8], "dropout": False, "norm": "none"}
    assert loaded.settings["train"]["epochs"] == 2 and loaded.settings["train"]["optimiser"] == "adam"
    assert "quantise" not in loaded.settings
    assert loaded.score(np.eye(3)[[0, 1, 1]], None, np.array([0, 1, 2])) == {"accuracy": pytest.approx(2 / 3)}


def test_unknown_keys_are_named_with_the_known_ones(recipe):
    text = FLOW.replace("samples = 8", "samples = 8\nnoize = 1.0") + "\n[pruning]\namount = 0.5\n"
    assert refusal(recipe(text)) == (
        "tiny/flow.toml: unknown key 'pruning'; a recipe has: build, data, distil, ledger, model, name, prune, "
        "quantise, search, subset, teacher, title, train.\n"
        "tiny/flow.toml: unknown key 'data.noize'; [data] has: noise, samples."
    )


def test_missing_keys_are_named(recipe):
    assert refusal(recipe('name = "tiny"\n')) == (
        "tiny/flow.toml: 'title' is missing; a recipe has: build, data, distil, ledger, model, name, prune, "
        "quantise, search, subset, teacher, title, train.\n"
        "tiny/flow.toml: 'data.samples' is missing; [data] has: noise, samples.\n"
        "tiny/flow.toml: 'model.hidden' is missing; [model] has: dropout, hidden, norm.\n"
        "tiny/flow.toml: 'train.epochs' is missing; [train] has: batch, epochs, label_smoothing, learning_rate, "
        "momentum, optimiser, patience, schedule, seed, threads, validation, weight_decay."
    )


def test_wrong_types_and_ranges_are_named(recipe):
    text = FLOW.replace("samples = 8", "samples = 0\nnoise = true")
    text = text.replace("[4, 4]", '["a"]\ndropout = 1\nnorm = "layer"')
    assert refusal(recipe(text.replace("epochs = 1", "epochs = 1.5\nvalidation = 0.9"))) == (
        "tiny/flow.toml: data.samples is 0; it must be a whole number of at least 1.\n"
        "tiny/flow.toml: data.noise is True; it must be a number.\n"
        "tiny/flow.toml: model.hidden is ['a']; it must be a list of whole numbers.\n"
        "tiny/flow.toml: model.dropout is 1; it must be true or false.\n"
        "tiny/flow.toml: model.norm is 'layer'; it must be one of: batch, none.\n"
        "tiny/flow.toml: train.epochs is 1.5; it must be a whole number of at least 1.\n"
        "tiny/flow.toml: train.validation is 0.9; it must be a number from 0 to 0.5."
    )


def test_overrides_are_checked_like_the_file_and_named_as_what_they_are(recipe):
    overrides = {"train.epochs": "two", "model.depth": "2", "data.samples.x": "1", "epochs": "2"}
    assert refusal(recipe(), overrides) == (
        "--set: 'data.samples.x' goes below a value that is no table.\n"
        "--set: 'epochs' names no setting; write TABLE.KEY=VALUE, such as train.epochs=2.\n"
        "--set: unknown key 'model.depth'; [model] has: dropout, hidden, norm.\n"
        "--set: train.epochs is 'two'; it must be a whole number of at least 1."
    )


def test_a_rule_across_keys_is_told_in_place(recipe):
    assert refusal(recipe(), {"model.hidden": "[1, 1, 1, 1]"}) == (
        "tiny/flow.toml: [model] hidden has 4 layers; this network takes at most 3."
    )
    assert refusal(recipe(FLOW + "patience = 3\n")) == (
        "tiny/flow.toml: [train] has patience without validation samples; set validation to 0.1, or patience to 0."
    )


def test_quantise_table_reaches_single_layers(recipe):
    text = FLOW + '[quantise]\nweight_bits = 2\n[quantise.layers."fc.2"]\nweight_bits = 8\n'
    assert load_recipe(recipe(text)).options.quantise.layers["fc.2"].weight_bits == 8
    assert refusal(recipe(text + "bits = 3\n")) == (
        "tiny/flow.toml: unknown key 'quantise.layers.fc.2.bits'; [quantise.layers.fc.2] has: act_bits, weight_bits."
    )


def test_the_name_is_the_folder(recipe):
    assert refusal(recipe(FLOW.replace('"tiny"', '"other"'))) == (
        "tiny/flow.toml: name is 'other'; it must be the folder's name, 'tiny'."
    )


def test_files_that_are_no_recipe(recipe, tmp_path):
    assert refusal(tmp_path / "gone") == (
        f"{tmp_path}/gone is no recipe: it has no flow.toml; `greenedge run` takes a recipe's name or folder."
    )
    assert refusal(recipe("name = ")) == "tiny/flow.toml is not TOML: Invalid value (at end of document)."
    folder = recipe()
    (folder / "recipe.py").unlink()
    assert refusal(folder) == (
        f"{folder} is no recipe: it has no recipe.py; `greenedge run` takes a recipe's name or folder."
    )
    (folder / "flow.toml").write_text("#" * (1 << 20) + "\n")
    assert refusal(folder) == "tiny/flow.toml has 1048577 bytes; a recipe's settings take at most 1048576."


def test_code_that_is_no_recipe(recipe):
    assert refusal(recipe(code="import no_such_thing")) == (
        "tiny/recipe.py cannot be loaded: ModuleNotFoundError: No module named 'no_such_thing'."
    )
    assert refusal(recipe(code="class DataSettings: pass\nscore = 3\ndef load_data(s): pass")) == (
        "tiny/recipe.py: 'DataSettings' is no dataclass; it must be a frozen dataclass "
        "(see the docstring of greenedge.train).\n"
        "tiny/recipe.py: 'ModelSettings' is missing; it must be a frozen dataclass "
        "(see the docstring of greenedge.train).\n"
        "tiny/recipe.py: 'make_model' is missing; it must be a function (see the docstring of greenedge.train).\n"
        "tiny/recipe.py: 'score' is 3; it must be a function."
    )


def test_data_is_checked(recipe):
    code = RECIPE.replace("np.float32", "np.float64").replace("np.zeros(len(x), np.int64))", "np.zeros(3))")
    folder = recipe(code=code)
    with pytest.raises(TargetError) as caught:
        load_recipe(folder).load_data()
    assert str(caught.value) == (
        "tiny: x_train is float64 with 8 samples; it must be float32, finite and not empty.\n"
        "tiny: x_test is float64 with 8 samples; it must be float32, finite and not empty.\n"
        "tiny: x_test has 8 samples and y_test 3; they must be as many."
    )
    with pytest.raises(TargetError, match="^tiny: load_data returned NoneType; it must return greenedge.train.Data.$"):
        load_recipe(recipe(code=RECIPE.replace("return Data", "Data"))).load_data()


def test_the_digest_covers_code_settings_and_data(recipe, tmp_path):
    listed = RECIPE + f"\ndef data_files(settings):\n    return [{str(tmp_path / 'images.bin')!r}]\n"
    with pytest.raises(TargetError) as caught:
        _ = load_recipe(recipe(code=listed)).digest
    assert str(caught.value) == f"tiny: no file {tmp_path}/images.bin; the recipe's README.md says where to get it."
    (tmp_path / "images.bin").write_bytes(b"1")
    digests = [load_recipe(recipe(code=listed)).digest, load_recipe(recipe(code=listed)).digest]
    assert digests[0] == digests[1]
    digests.append(load_recipe(recipe(code=listed), {"train.seed": "1"}).digest)
    digests.append(load_recipe(recipe(code=listed + "# more\n")).digest)
    (tmp_path / "images.bin").write_bytes(b"2")
    digests.append(load_recipe(recipe(code=listed)).digest)
    assert len(set(digests)) == 4


def test_build_options_are_no_part_of_the_training(recipe):
    plain, fast = (load_recipe(recipe(FLOW + extra)) for extra in ("", "\n[build]\nfps = 1000\n"))
    assert (plain.build, fast.build) == ({}, {"fps": 1000})
    assert plain.digest == fast.digest
    assert refusal(recipe(FLOW + "\n[build]\nfps = [1]\n")) == (
        "tiny/flow.toml: build is {'fps': [1]}; it must be a table of numbers and texts for the back end, such as "
        "fps = 100_000."
    )
