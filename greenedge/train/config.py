"""The tables of flow.toml that are greenedge's own; [data] and [model] are the recipe's."""

from __future__ import annotations

from dataclasses import dataclass, field

from greenedge.train.settings import setting

OPTIMISERS = ("sgd", "momentum", "adam", "adamw")
SCHEDULES = ("constant", "cosine", "onecycle")


@dataclass(frozen=True)
class TrainSettings:
    """[train]: how the weights are found.

    epochs          passes over the training samples
    validation      share of the training samples held out to stop early; 0 trains on all of them
    patience        epochs without a better validation loss before it stops; 0 never stops early
    threads         of torch while it trains; the weights of a seed are reproducible for a given number
    """

    epochs: int = setting(least=1)
    batch: int = setting(64, least=2)
    optimiser: str = setting("adam", choices=OPTIMISERS)
    learning_rate: float = setting(0.003, least=1e-9)
    momentum: float = setting(0.9, least=0, most=0.9999)
    weight_decay: float = setting(0.0, least=0)
    schedule: str = setting("cosine", choices=SCHEDULES)
    label_smoothing: float = setting(0.0, least=0, most=0.9)
    validation: float = setting(0.0, least=0, most=0.5)
    patience: int = setting(0, least=0)
    seed: int = setting(0, least=0, most=2**31 - 1)
    threads: int = setting(1, least=1, most=256)

    def __post_init__(self) -> None:
        if self.patience and not self.validation:
            raise ValueError("has patience without validation samples; set validation to 0.1, or patience to 0")


@dataclass(frozen=True)
class LayerBits:
    """[quantise.layers."PATH"]: bit widths of one layer, 0 for the network's."""

    weight_bits: int = setting(0, least=0, most=8)
    act_bits: int = setting(0, least=0, most=8)


@dataclass(frozen=True)
class QuantiseSettings:
    """[quantise]: bit widths and scales.

    weight_bits     narrow range for 2 to 8, {-1, +1} for 1
    act_bits        after activations, unsigned where these are
    add_bits        signed, at the inputs of additions and concatenations
    input_scale     real value of one level of the input; 0 learns it from the data
    output_bits     signed, at the outputs; 0 leaves them as they are
    per_channel     a scale for each output channel of a layer's weights
    power_of_two    scales are powers of two
    layers          widths of single layers, by torch module path
    """

    weight_bits: int = setting(4, least=1, most=8)
    act_bits: int = setting(4, least=1, most=8)
    add_bits: int = setting(8, least=2, most=8)
    input_bits: int = setting(8, least=1, most=8)
    input_signed: bool = setting(False)
    input_scale: float = setting(0.0, least=0)
    output_bits: int = setting(8, least=0, most=8)
    per_channel: bool = setting(False)
    power_of_two: bool = setting(False)
    layers: dict[str, LayerBits] = field(default_factory=dict)


OPTIONS: dict[str, type] = {"quantise": QuantiseSettings}  # tables that a recipe may leave out
