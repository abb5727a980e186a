"""A float ONNX file as a quantised one: the one way in for whatever brings a float model and samples.

    facts = quantise_float(model, samples, out, QuantiseOptions(bits="4"), progress)

8 bits are onnxruntime's static quantisation (post_training.py): measured, it is as accurate at 8 bits and takes more
operators. Everything else goes through torch: the file becomes a network (torch_network), Brevitas quantises it
(train/post_training.py), and the exporter writes QONNX.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from greenedge.errors import GreenedgeError
from greenedge.files.scratch import scratch_folder
from greenedge.frontends.post_training import quantise_file, read_float_model
from greenedge.frontends.samples import Samples
from greenedge.progress import ProgressFn

if TYPE_CHECKING:
    from torch import fx

    from greenedge.train.recipe_config import QuantiseSettings

MIXED = "mixed"
_WIDTHS = (4, 6, 8)  # weight bits that a layer may have where they are mixed
_MIXED_SHARE = 0.75  # of the bytes at 8 bits, where no budget is given
_ENDS = 8  # weight bits of the first and the last layer, which lose most and weigh least
_EPOCHS = 20  # of fine-tuning
_THREADS = 1  # of torch: the same weights on every machine, and no waiting for each other on a busy one
_MEASURED = 256  # samples on which a layer's sensitivity is measured


@dataclass(frozen=True)
class QuantiseOptions:
    """bits: of weights, "2" to "8" (the first and the last layer have 8), or "mixed", layer by layer under a budget of
    bytes or LUTs. act_bits: of activations, 2 to 8; inputs, outputs and what is added have 8. finetune: 20 epochs of
    training to answer as the float model.

    Raises GreenedgeError for options that do not go together.
    """

    bits: str = "8"
    act_bits: int = 8
    budget_bytes: int | None = None
    budget_luts: int | None = None
    cycles: int = 512
    finetune: bool = False

    def __post_init__(self) -> None:
        if self.bits != MIXED and self.bits not in "2345678":
            raise GreenedgeError(f"--bits {self.bits}: weights have 2 to 8 bits; say 8, 4 or mixed.")
        if self.act_bits not in range(2, 9):
            raise GreenedgeError(f"--act-bits {self.act_bits}: activations have 2 to 8 bits; say 8 or 4.")
        budgets = [each for each in (self.budget_bytes, self.budget_luts) if each is not None]
        if budgets and self.bits != MIXED:
            raise GreenedgeError(f"a budget chooses bits layer by layer, and --bits is {self.bits}; say --bits mixed.")
        if len(budgets) > 1:
            raise GreenedgeError("two budgets, of bytes and of LUTs; give one of them.")
        if any(budget < 1 for budget in budgets):
            raise GreenedgeError(f"a budget of {budgets[0]}; give at least 1.")

    @property
    def by_onnxruntime(self) -> bool:
        """Whether onnxruntime's quantiser does all that is asked for."""
        return self == QuantiseOptions(cycles=self.cycles)


DEFAULT_OPTIONS = QuantiseOptions()


def quantise_float(
    model: Path, samples: Samples, out: Path, options: QuantiseOptions, progress: ProgressFn
) -> dict[str, Any]:
    """Writes the quantised model of a float one to `out`; samples are float32 (N, …) by the names of its inputs.

    Returns {"by", "act_bits"} and, by Brevitas, "weight_bits" {layer: bits}, "weight_bytes", and "sensitivity", a list
    of {"layer", "weights", "bits", "error"}: the squared error of the outputs, as a share of their variance, where that
    layer's weights alone have 4 bits. The same samples give the same file. Raises GreenedgeError for a model that is
    quantised already or has several inputs (below 8 bits), UnsupportedError with every layer that has no quantised
    form.
    """
    if options.by_onnxruntime:
        quantise_file(model, samples, out, progress)
        return {"by": "onnxruntime", "act_bits": 8}
    source = read_float_model(model)
    if len(source.inputs) != 1 or len(source.outputs) != 1:
        raise GreenedgeError(
            f"{model} has {len(source.inputs)} inputs and {len(source.outputs)} outputs; a model of one each is "
            "quantised so: say `--bits 8` alone, which takes several."
        )
    import torch

    from greenedge.frontends.brevitas import export_model
    from greenedge.frontends.torch_network import read_network
    from greenedge.train.fit import seed_torch
    from greenedge.train.post_training import fine_tune, quantise_trained

    x = np.ascontiguousarray(next(iter(samples.values())), np.float32)
    network = read_network(model)
    with seed_torch(0, _THREADS), torch.enable_grad():
        settings, facts = _choose_widths(network, x, options, model.name)
        quantised = quantise_trained(network, x, settings, progress)
        if options.finetune:
            fine_tune(quantised, network, x, _EPOCHS, progress)
        with scratch_folder("quantised") as scratch:
            written = Path(scratch) / f"{model.stem}.onnx"
            export_model(quantised, x[:4], written)
            _name_ends(written, out, next(iter(source.inputs)), next(iter(source.outputs)))
    return {"by": "brevitas", "act_bits": options.act_bits, "finetuned": options.finetune, **facts}


def _choose_widths(
    network: fx.GraphModule, x: NDArray[np.float32], options: QuantiseOptions, shown: str
) -> tuple[QuantiseSettings, dict[str, Any]]:
    """The settings with the weight bits of every layer, and what they were chosen by."""
    from greenedge.train.layers import weight_layers
    from greenedge.train.recipe_config import QuantiseSettings

    settings = QuantiseSettings(
        weight_bits=8, act_bits=options.act_bits, per_channel=True, mse_scales=True, output_bits=8
    )
    layers = weight_layers(network)
    if not layers:
        raise GreenedgeError(f"{shown} has no dense or convolutional layer; there is nothing to quantise.")
    found = _measure(network, x, settings, options)
    if options.bits == MIXED:
        bits = _choose_mixed(found, options, shown)
    else:
        ends = (next(iter(layers)), next(reversed(layers)))
        bits = {path: _ENDS if path in ends else int(options.bits) for path in layers}
    table = [
        {
            "layer": path,
            "weights": layers[path].weight.numel(),
            "bits": bits[path],
            "error": next(option.loss for option in each if option.bits == 4),
        }
        for path, each in found.items()
    ]
    size = sum(row["weights"] * row["bits"] for row in table) / 8
    return settings.with_weight_bits(bits), {"weight_bits": bits, "weight_bytes": size, "sensitivity": table}


def _measure(
    network: fx.GraphModule, x: NDArray[np.float32], settings: QuantiseSettings, options: QuantiseOptions
) -> Mapping[str, Any]:
    """Each layer's options: what its weights cost at each width, and the error of the outputs they bring alone."""
    import torch

    from greenedge.train.fit import predict
    from greenedge.train.post_training import output_error
    from greenedge.train.recipe_config import SearchSettings
    from greenedge.train.search import measure_sensitivities

    def error(outputs: torch.Tensor, _x: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return torch.tensor(output_error(outputs.numpy(), wanted.numpy()))

    unit = "bytes" if options.budget_luts is None else "luts"
    search = SearchSettings(budget=1.0, unit=unit, widths=_WIDTHS, cycles=options.cycles, samples=_MEASURED)
    return measure_sensitivities(network, x, predict(network, x[:_MEASURED]), search, settings, error)


def _choose_mixed(found: Mapping[str, Any], options: QuantiseOptions, shown: str) -> dict[str, int]:
    """{layer: weight bits} of the least error within the budget. Raises GreenedgeError where nothing is within it."""
    from greenedge.train.search import cheapest_loss

    most, least = (sum(choose(o.cost for o in each) for each in found.values()) for choose in (max, min))
    unit = "bytes" if options.budget_luts is None else "LUTs"
    given = options.budget_bytes if options.budget_luts is None else options.budget_luts
    budget = most * _MIXED_SHARE if given is None else given
    chosen = cheapest_loss(found, budget)
    if chosen is None:
        raise GreenedgeError(
            f"{shown}: a budget of {budget:,.0f} {unit} is less than its weights take at {_WIDTHS[0]} bits, "
            f"{least:,.0f}; give at least that."
        )
    return {path: option.bits for path, option in chosen.items()}


def _name_ends(written: Path, out: Path, entry: str, end: str) -> None:
    """The exported file with the float model's own names at its input and its output."""
    import onnx

    proto = onnx.load(str(written))
    graph = proto.graph
    wanted = {graph.input[0].name: entry, graph.output[0].name: end}
    inner = {name for node in graph.node for name in (*node.input, *node.output)} - wanted.keys()
    names = {old: new if new not in inner else f"{new}_end" for old, new in wanted.items()}
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (graph.input[0], graph.output[0]):
        value.name = names[value.name]
    out.write_bytes(proto.SerializeToString(deterministic=True))
