"""Training: from a recipe to a trained network, its metrics, and the energy that training it took.

A **recipe** is a folder that a newcomer can copy:

    flow.toml     the choices: `name` (same as the folder), `title`, and the tables [data], [model], [train] and, where
                  used, [quantise], [prune], [distil] with [teacher], [subset], [search], [ledger]; recipe_config.py
                  says what each key means
    recipe.py     the data and the network, in plain Python and PyTorch
    README.md     the command and what to expect

recipe.py is the user's own code, loaded by path. It defines

    class DataSettings     frozen dataclass: the keys of [data], typed; unknown, missing and ill-typed keys are refused
    class ModelSettings    frozen dataclass: the keys of [model], likewise
    load_data(settings: DataSettings) -> Data          numpy arrays; x float32 (N, *shape), y int64 (N,) or targets
    make_model(settings: ModelSettings) -> nn.Module   a plain torch.nn network where flow.toml has [quantise], else a
                                                       Brevitas one; import torch inside the function
    data_files(settings: DataSettings) -> list[Path]   optional: what load_data reads; enters the digest by content
    loss(outputs, x, y) -> scalar tensor               optional; cross-entropy of the logits if absent
    augment(x, generator) -> x                         optional, on a training batch (torch)
    score(outputs, x, y) -> {metric: float}            optional, numpy; {"accuracy": share of argmax == y} if absent
    teacher() -> callable                              optional, for [distil]: x → logits, or (logits, {feature: array})

A recipe whose flow.toml says `kind = "language model"` has [model], [train] and [quantise], and a recipe.py of the form
that language_recipe.py says.

What the flow uses; importing greenedge.train does not import torch:

    recipe = load_recipe(folder, {"train.epochs": "2"})
                                overrides as text, as from --set KEY=VALUE; TargetError with every reason at once
    recipe.name, .title
    recipe.settings             nested dict of plain values, all defaults filled in
    recipe.digest               sha256 of recipe.py, the settings and the data files: with the versions in tools(), the
                                train stage's cache key
    recipe.score(outputs, x, y) {metric: float} for any stage's outputs; "accuracy" first where the recipe classifies
    train_stage(recipe, folder, progress) -> metrics
    greenedge.frontends.brevitas.export_stage(recipe, train_folder, folder) -> facts
    progress_bar(title)         context manager that yields `progress`, a callable (done, total, text) drawn by rich

train_stage writes  model.pt (the weights, `weights_only`, and the form of the trained network), metrics.json,
x_test.npy, y_test.npy; while it runs, checkpoint.pt and a file for each finished phase (all removed at the end). After
a kill, call it again with the same folder, left as it is: it resumes and ends with the same weights, bit for bit. A
checkpoint of another digest is ignored and replaced.

metrics.json: {"recipe", "digest", "seed", "epochs", "metric": name, the metrics themselves ("accuracy": …) on the test
set, "seconds", "samples_seen", "steps", "weights_sha256", "parameters", "ledger": {phases, total, each with "energy"
under its label}, "spent": joules after each epoch, "curve" where there are validation samples, and a part for each
technique: "prune", "distil", "subset", "search"}; train_stage returns the same.

The same as plain functions, for a notebook:

    model = quantise(network, QuantiseSettings(weight_bits=4))
    pruner = make_pruner(model, PruneSettings(kind="structured"), find_channels(network, x.shape[1:]))
    with seed_torch(0, 1):
        distillation = Distillation(model, teacher, DistilSettings())
        history = fit(model, x, y, TrainSettings(epochs=20), FitOptions(prune=pruner, teach=distillation))

from quantise.py, prune.py, channels.py, distil.py, coreset.py, search.py, calibrate.py, fold_bn.py and fit.py.

export_stage writes  model.onnx (one QONNX file, no external data), inputs.npy (the test samples, float32), labels.npy,
torch.npy (float32 outputs of the trained network on them) and export.json.
"""

from greenedge.train.progress import progress_bar
from greenedge.train.recipe import Recipe, load_recipe
from greenedge.train.recipe_module import Data
from greenedge.train.toml_tables import setting
from greenedge.train.train_stage import tools, train_stage

__all__ = ["Data", "Recipe", "load_recipe", "progress_bar", "setting", "tools", "train_stage"]
