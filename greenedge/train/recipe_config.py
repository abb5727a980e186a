"""The tables of flow.toml that greenedge defines; a recipe defines [data] and [model] itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TypeAlias

from greenedge.train.toml_tables import setting

OPTIMISERS = ("sgd", "momentum", "adam", "adamw")
SCHEDULES = ("constant", "cosine", "onecycle")
METHODS = ("qat", "ptq")
PRUNINGS = ("magnitude", "n:m", "structured")
SUBSETS = ("random", "el2n", "forgetting", "kcenter")
UNITS = ("bytes", "luts", "joules")


@dataclass(frozen=True)
class TrainSettings:
    """[train]: how the weights are found.

    epochs          passes over the training samples
    validation      share of the training samples held out for validation; 0 trains on all of them
    patience        epochs without a better validation loss before training stops; 0 never stops early
    threads         of torch in training; the weights of a seed are reproducible for a given number of threads
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

    method          "qat" trains with quantisers; "ptq" trains in float and sets the scales afterwards
    float_epochs    qat: epochs in float before the quantisers are inserted
    calibration     ptq: training samples that set the scales of the activations
    fold_batch_norm folds the batch norms into the weights at the end, biases on the accumulators' grid (Int32Bias)
    weight_bits     narrow range for 2 to 8, {-1, +1} for 1
    act_bits        after activations; unsigned after an activation that is never negative
    add_bits        signed, at the inputs of additions and concatenations
    input_scale     real value of one level of the input; 0 learns it from the data
    output_bits     signed, at the outputs; 0 leaves the outputs unquantised
    per_channel     a scale for each output channel of a layer's weights
    power_of_two    scales are powers of two
    mse_scales      scales below 8 bits start from the least squared error, not from the largest value
    layers          widths of single layers, by torch module path
    """

    method: str = setting("qat", choices=METHODS)
    float_epochs: int = setting(0, least=0)
    calibration: int = setting(512, least=2)
    fold_batch_norm: bool = setting(False)
    weight_bits: int = setting(4, least=1, most=8)
    act_bits: int = setting(4, least=1, most=8)
    add_bits: int = setting(8, least=2, most=8)
    input_bits: int = setting(8, least=1, most=8)
    input_signed: bool = setting(False)
    input_scale: float = setting(0.0, least=0)
    output_bits: int = setting(8, least=0, most=8)
    per_channel: bool = setting(False)
    power_of_two: bool = setting(False)
    mse_scales: bool = setting(False)
    layers: dict[str, LayerBits] = field(default_factory=dict)

    def __post_init__(self) -> None:
        binary = 1 in (self.weight_bits, *(layer.weight_bits for layer in self.layers.values()))
        if self.fold_batch_norm and (binary or not self.per_channel):
            raise ValueError(
                "folds batch norms, which gives each channel a scale of its own; set per_channel to true "
                "and weight_bits to 2 or more"
            )
        if self.method == "ptq" and self.float_epochs:
            raise ValueError('has float_epochs with method "ptq", which trains in float only; set float_epochs to 0')

    def with_weight_bits(self, bits: Mapping[str, int]) -> QuantiseSettings:
        """These settings with the weight bits of single layers, by module path; their act_bits remain."""
        activations = {path: layer.act_bits for path, layer in self.layers.items()}
        layers = {path: LayerBits(width, activations.get(path, 0)) for path, width in bits.items()}
        return replace(self, layers={**self.layers, **layers})


@dataclass(frozen=True)
class PruneSettings:
    """[prune]: what is removed from the network, and when.

    kind        "magnitude" the smallest weights of each layer; "n:m" all but `n` of every `m` neighbours along a
                layer's inputs; "structured" whole neurons and channels, which are then removed from the network
    share       pruned of each layer's weights, or of its neurons and channels
    group       structured: the number that remains is a multiple of this, so that PE and SIMD divide it
    start, end  of pruning, as shares of the training; what follows is fine-tuning
    keep        layers that are not pruned, by torch module path
    """

    kind: str = setting(choices=PRUNINGS)
    share: float = setting(0.5, least=0, most=0.99)
    n: int = setting(2, least=1, most=64)
    m: int = setting(4, least=2, most=64)
    group: int = setting(8, least=1, most=1024)
    start: float = setting(0.1, least=0, most=1)
    end: float = setting(0.6, least=0, most=1)
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.start > self.end:
            raise ValueError(
                f"starts at {self.start:g} and ends at {self.end:g} of the training; end comes after start"
            )
        if self.n >= self.m:
            raise ValueError(f"keeps {self.n} of {self.m} weights; n must be below m")


@dataclass(frozen=True)
class DistilSettings:
    """[distil]: a teacher's outputs as targets besides the labels (Hinton et al., 2015).

    teacher         an ONNX file in the recipe's folder; without one recipe.py's `teacher`, else the network with
                    [teacher]'s keys over [model]'s, which is trained first, in float
    epochs          of that training; 0 for [train]'s
    temperature     T of softmax(logits / T)
    share           of the loss that comes from the teacher's logits
    teacher_scale   multiplies the teacher's logits first; below 1 where the student's output range is too narrow for
                    a confident teacher's, as that of an output quantiser is early in training
    features        "student=teacher" pairs of layers whose outputs should relate samples alike (Tung and Mori, 2019)
    feature_weight  weight of that term
    mix             trains on mixtures of two inputs, which only a teacher can label; needs share 1 (mixup's inputs,
                    Zhang et al., 2018, labelled by a teacher: Beyer et al., 2022)
    """

    teacher: str = setting("")
    epochs: int = setting(0, least=0)
    temperature: float = setting(4.0, least=0.01, most=100)
    share: float = setting(0.7, least=0, most=1)
    teacher_scale: float = setting(1.0, least=0.001, most=1000)
    features: tuple[str, ...] = ()
    feature_weight: float = setting(1.0, least=0)
    mix: bool = setting(False)

    def __post_init__(self) -> None:
        if self.mix and self.share != 1:
            raise ValueError(
                f"mixes inputs with share {self.share:g}; mixtures have no label of their own, set share to 1"
            )
        odd = [pair for pair in self.features if pair.count("=") != 1 or not all(pair.split("="))]
        if odd:
            raise ValueError(f'has features {odd[0]!r}; write pairs such as "relu1=relu1"')


@dataclass(frozen=True)
class SubsetSettings:
    """[subset]: which training samples are used, and in what order.

    method          "random"; "el2n" the largest error norms (Paul et al., 2021); "forgetting" the most often forgotten
                    (Toneva et al., 2019); "kcenter" the greedy cover of the inputs (Sener and Savarese, 2018)
    share           of the training samples
    score_epochs    el2n, forgetting and curriculum: epochs of a separate network that scores the samples
    curriculum      easy samples first; all are used after half of the epochs (Bengio et al., 2009)
    """

    method: str = setting("random", choices=SUBSETS)
    share: float = setting(0.5, least=0.001, most=1)
    score_epochs: int = setting(4, least=1)
    curriculum: bool = setting(False)

    @property
    def needs_scores(self) -> bool:
        """Whether a short training must score the samples."""
        return self.curriculum or self.method in ("el2n", "forgetting")


@dataclass(frozen=True)
class SearchSettings:
    """[search]: weight bits layer by layer, chosen for the least loss under a budget.

    budget      of all weights, in `unit`: bytes; luts and joules (per inference) by the formulas in search.py
    widths      weight bits that a layer may have
    cycles      luts: clock cycles per inference; a layer computes its multiplications / cycles in each of them
    samples     training samples on which a layer's sensitivity is measured
    """

    budget: float = setting(least=1e-15)
    unit: str = setting("bytes", choices=UNITS)
    widths: tuple[int, ...] = setting((2, 3, 4, 6, 8), least=2, most=8)
    cycles: int = setting(512, least=1)
    samples: int = setting(512, least=2)

    def __post_init__(self) -> None:
        if not self.widths:
            raise ValueError("has no widths; give some of 2 to 8")


@dataclass(frozen=True)
class LedgerSettings:
    """[ledger]: how the energy and carbon of training are reported.

    source          an energy source as `greenedge energy probe` names it; "auto" takes the first that proves alive,
                    "none" estimates
    watts_per_core  for estimates: joules = watts × CPU seconds, ×0.4 to ×1.6
    watts_from      the source of that figure
    country         ISO code or name, for g CO2e; empty reports no carbon
    """

    source: str = setting("auto")
    watts_per_core: float = setting(12.0, least=0.01, most=1000)
    watts_from: str = setting("Green Algorithms' figure for any CPU (Lannelongue et al., 2021)")
    country: str = setting("")


@dataclass(frozen=True)
class RecipeOptions:
    """The tables that a recipe may leave out; None for one that it does."""

    quantise: QuantiseSettings | None = None
    prune: PruneSettings | None = None
    distil: DistilSettings | None = None
    subset: SubsetSettings | None = None
    search: SearchSettings | None = None
    ledger: LedgerSettings | None = None

    def tables(self) -> dict[str, OptionalTable]:
        """The tables that the recipe has, by name."""
        tables = {
            "quantise": self.quantise,
            "prune": self.prune,
            "distil": self.distil,
            "subset": self.subset,
            "search": self.search,
            "ledger": self.ledger,
        }
        return {name: table for name, table in tables.items() if table is not None}


OptionalTable: TypeAlias = (
    QuantiseSettings | PruneSettings | DistilSettings | SubsetSettings | SearchSettings | LedgerSettings
)
OPTIONAL_TABLES: tuple[str, ...] = tuple(item.name for item in fields(RecipeOptions))
