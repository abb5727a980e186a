"""`greenedge quantise MODEL.bin|MODEL.gguf`: a language model's floats as integers, and what that costs in bits per
token on texts that were not trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greenedge.decoder.record import Decoder, NormForm
from greenedge.decoder.store import decoder_digest, save_decoder
from greenedge.decoder.tokenizer import MAX_TEXT_BYTES, Tokenizer, read_tokenizer
from greenedge.errors import GreenedgeError
from greenedge.frontends.gguf import read_gguf
from greenedge.frontends.gguf_file import is_gguf
from greenedge.frontends.llama2c import is_llama2c, read_llama2c
from greenedge.progress import ProgressFn

if TYPE_CHECKING:
    from torch import Tensor

    from greenedge.decoder.float_model import FloatDecoder
    from greenedge.train.decoder.float_network import FloatNetwork
    from greenedge.train.decoder.network import QuantisedNetwork
    from greenedge.train.decoder.score import Comparison

Stage = Callable[[str], AbstractContextManager[ProgressFn]]  # shows one part of the work
_LEAST_CONTEXT = 8
_SMALL_DIM = 256  # up to it, a matrix is multiplied faster than threads are woken
HELD_TEXTS = 48
_CALIBRATION_TEXTS = 16
_LEAST_TEXTS, _MOST_TEXTS, _TEXTS_A_STEP = 64, 20_480, 2
_MOST_LENGTH = 256  # of a text that is trained on; a longer context keeps its positions
_HELD_SEED = 1_000_003  # of texts that are scored; those of training have seeds below
_MOST_SEED = 1_000_000
_MOST_TEXT_BYTES = 16 * MAX_TEXT_BYTES


@dataclass(frozen=True)
class DecoderOptions:
    """bits of weights, 4 or 8; minutes of training (none: calibration alone); steps instead of minutes where the same
    bits are wanted on every machine; text: a file to calibrate on, train on and score, instead of the model's own;
    context: fewer positions than the model has, for the memory of keys and values."""

    bits: int = 8
    minutes: float = 0.0
    steps: int | None = None
    seed: int = 0
    tokenizer: Path | None = None
    text: Path | None = None
    context: int | None = None
    norm_form: NormForm = "table"

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise GreenedgeError(f"--bits {self.bits}: a language model's weights have 4 or 8 bits.")
        if not 0 <= self.minutes <= 10_000:
            raise GreenedgeError(f"--minutes {self.minutes:g}: 0 to 10,000 are possible.")
        if self.steps is not None and (self.minutes or not 0 <= self.steps <= 1_000_000):
            raise GreenedgeError(f"--steps {self.steps:,}: 0 to 1,000,000 are possible, without --minutes.")
        if self.context is not None and self.context < _LEAST_CONTEXT:
            raise GreenedgeError(f"--context {self.context}: at least {_LEAST_CONTEXT} positions are kept.")
        if not 0 <= self.seed < _MOST_SEED:
            raise GreenedgeError(f"--seed {self.seed}: 0 to {_MOST_SEED - 1:,} is possible.")


def check_request(model: Path, data_free: bool, text: Path | None, samples: Path | None) -> bool:
    """Whether a model is a language model, to be quantised as the words of the command line say.

    Raises GreenedgeError for words that its kind does not take.
    """
    if not is_language_model(model):
        if model.suffix != ".onnx" and (data_free or text is not None):
            read_llama2c(model)  # says what is wrong with it
        if data_free or text is not None or samples is None:
            raise GreenedgeError(
                f"{model} is neither a checkpoint of llama2.c nor GGUF: as ONNX it needs --calibrate X.npy, and takes "
                "neither --data-free nor --text."
            )
        return False
    if samples is not None or data_free == (text is not None):
        raise GreenedgeError(f"{model} is a language model: say --data-free, or --text T.txt, and no --calibrate.")
    return True


def show_decoder(found: dict[str, Any]) -> str:
    """The result in words, for a person."""
    trained = f"{found['steps']} steps of training" if found["steps"] else "calibrated, not trained"
    return (
        f"{found['layers']} layers, {found['parameters']:,} weights of {found['weight_bits']} bits (embedding and head "
        f"8), context {found['context']}, {trained}\n"
        f"{found['shown']}\n"
        f"{found['model']}: write with `greenedge chat {found['model']}`"
    )


def is_language_model(path: Path) -> bool:
    """Whether there is a file, llama2.c's checkpoint or GGUF. Raises GreenedgeError for one that may not be read."""
    try:
        return path.is_file() and (is_gguf(path) or is_llama2c(path))
    except PermissionError:
        raise GreenedgeError(f"{path} cannot be read: permission denied.") from None


def quantise_decoder(model: Path, out: Path, options: DecoderOptions, stage: Stage) -> dict[str, Any]:
    """Writes the decoder to `out`, with its tokenizer where there is one; returns sizes, bits per token before and
    after with the interval, and the digest. A training that was cut off goes on from `out` with `.part` behind it.

    Raises GreenedgeError for files that are no such model, tokenizer or text; nothing is written then.
    """
    floats, tokenizer = read_language_model(model, options.tokenizer)
    floats = _limit_context(floats, options.context)
    with _threads_for(floats):
        decoder, steps, found = _quantise(floats, tokenizer, options, out.with_name(f"{out.name}.part"), stage)
    save_decoder(out, decoder, tokenizer)
    out.with_name(f"{out.name}.part").unlink(missing_ok=True)
    return {"model": str(out), "steps": steps, "bits": asdict(found), "shown": str(found), **_describe(decoder)}


def _quantise(
    floats: FloatDecoder, tokenizer: Tokenizer | None, options: DecoderOptions, checkpoint: Path, stage: Stage
) -> tuple[Decoder, int, Comparison]:
    """The decoder, steps of training, and its score."""
    from greenedge.train.decoder.export import export_decoder
    from greenedge.train.decoder.float_network import FloatNetwork
    from greenedge.train.decoder.score import compare_bits, score_floats, score_integers

    teacher = FloatNetwork(floats)
    source = _Texts(teacher, tokenizer, options)
    with stage("texts") as progress:
        held, seen = source.make(HELD_TEXTS, _HELD_SEED, progress), source.make(_CALIBRATION_TEXTS, 0, progress)
    with stage("calibrate") as progress:
        network = _calibrate(floats, teacher, seen, options, progress)
    steps = _train(network, teacher, source, options, checkpoint, stage)
    decoder = export_decoder(network)
    with stage("score") as progress:
        before = score_floats(teacher.run, held)
        return decoder, steps, compare_bits(before, score_integers(decoder, held, progress))


def _calibrate(
    floats: FloatDecoder, teacher: FloatNetwork, texts: Tensor, options: DecoderOptions, progress: ProgressFn
) -> QuantisedNetwork:
    """The quantised network with scales from texts (batch, length), in the basis whose logits are nearest."""
    from greenedge.train.decoder.calibrate import calibrate
    from greenedge.train.decoder.compensate import compensate_rounding
    from greenedge.train.decoder.fit import measure_divergence
    from greenedge.train.decoder.network import QuantisedNetwork
    from greenedge.train.decoder.rotate import choose_rotation

    def make(model: FloatDecoder) -> QuantisedNetwork:
        network = QuantisedNetwork(model, options.bits, options.norm_form)
        calibrate(network, texts)
        compensate_rounding(network, texts)
        return network

    return make(choose_rotation(floats, lambda model: measure_divergence(make(model), teacher, texts), progress))


@contextmanager
def _threads_for(floats: FloatDecoder) -> Iterator[None]:
    """One thread for small models: more of them wait for each other, and the bits of a sum depend on their number."""
    import torch

    before = torch.get_num_threads()
    if floats.sizes.dim <= _SMALL_DIM:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def read_language_model(model: Path, tokenizer: Path | None) -> tuple[FloatDecoder, Tokenizer | None]:
    """The floats and the tokenizer: of its own file where given, else that of the GGUF."""
    own = None
    if is_gguf(model):
        floats, own = read_gguf(model)
    else:
        floats = read_llama2c(model)
    pieces = own if tokenizer is None else read_tokenizer(tokenizer)
    if pieces is not None and len(pieces.pieces) != floats.sizes.vocabulary:
        raise GreenedgeError(
            f"{tokenizer or model} has {len(pieces.pieces):,} pieces, {model} {floats.sizes.vocabulary:,} tokens; give "
            "the tokenizer that the model was trained with."
        )
    return floats, pieces


def _limit_context(floats: FloatDecoder, context: int | None) -> FloatDecoder:
    if context is None or context == floats.sizes.context:
        return floats
    if context > floats.sizes.context:
        raise GreenedgeError(f"--context {context:,}: the model was trained for {floats.sizes.context:,} positions.")
    return replace(floats, sizes=replace(floats.sizes, context=context))


def _describe(decoder: Decoder) -> dict[str, Any]:
    return {
        "layers": len(decoder.layers),
        "parameters": decoder.parameters,
        "weight_bits": decoder.weight_bits,
        "context": decoder.context,
        "digest": decoder_digest(decoder),
    }


class _Texts:
    """Token texts to train on and to score: the model's own, or windows of a file, whose last tenth is scored."""

    def __init__(self, teacher: FloatNetwork, tokenizer: Tokenizer | None, options: DecoderOptions) -> None:
        self.teacher, self.length = teacher, min(teacher.sizes.context, _MOST_LENGTH)
        self.tokens = None if options.text is None else _read_text(options.text, tokenizer, self.length)

    def make(self, count: int, seed: int, progress: ProgressFn) -> Tensor:
        """(count, length)."""
        if self.tokens is None:
            return self.teacher.write(count, self.length, seed, progress)
        import torch

        from greenedge.train.decoder.float_network import BEGIN

        border = len(self.tokens) * 9 // 10
        part = self.tokens[border:] if seed == _HELD_SEED else self.tokens[:border]
        generator = torch.Generator().manual_seed(seed)
        starts = torch.randint(len(part) - self.length + 1, (count,), generator=generator)
        if seed == _HELD_SEED:  # apart from each other, so that the interval is one of independent texts
            starts = torch.arange(0, len(part) - self.length + 1, self.length)[:count]
        windows = [[BEGIN, *part[start : start + self.length - 1]] for start in starts.tolist()]
        return torch.tensor(windows)


def _read_text(path: Path, tokenizer: Tokenizer | None, length: int) -> list[int]:
    if tokenizer is None:
        raise GreenedgeError(f"{path} cannot be cut into tokens without a tokenizer; give it with --tokenizer TOK.bin.")
    if not path.is_file():
        raise GreenedgeError(f"there is no file {path}.")
    if (size := path.stat().st_size) > _MOST_TEXT_BYTES:
        raise GreenedgeError(f"{path} has {size:,} bytes; at most {_MOST_TEXT_BYTES:,} are read.")
    try:
        content = path.read_bytes().decode()
    except UnicodeDecodeError:
        raise GreenedgeError(f"{path} is no text in UTF-8; give a text file.") from None
    step = MAX_TEXT_BYTES // 4  # characters, each of at most four bytes
    tokens = [token for at in range(0, len(content), step) for token in tokenizer.encode(content[at : at + step])]
    if len(tokens) < (wanted := 100 * length):
        raise GreenedgeError(f"{path} has {len(tokens):,} tokens; at least {wanted:,} are wanted: give a longer text.")
    return tokens


def _train(
    network: QuantisedNetwork,
    teacher: FloatNetwork,
    source: _Texts,
    options: DecoderOptions,
    checkpoint: Path,
    stage: Stage,
) -> int:
    """Trains for the minutes or steps asked for; how many steps there were."""
    from greenedge.train.decoder.fit import FitSettings, choose_settings, fit, measure_step
    from greenedge.train.decoder.resume import read_steps

    if not options.minutes and not options.steps:
        return 0
    steps = options.steps
    if steps is None:
        steps = read_steps(checkpoint)  # a run that was cut off keeps the number that it began with
    if steps is None:
        with stage("measure"):
            seconds = measure_step(network, teacher, source.make(FitSettings(1).batch, 0, lambda *_: None))
        steps = max(1, round(options.minutes * 60 / seconds))
    texts = min(max(_TEXTS_A_STEP * steps, _LEAST_TEXTS), _MOST_TEXTS)
    with stage("texts") as progress:
        written = source.make(texts, options.seed + 1, progress)
    with stage("train") as progress:
        fit(network, teacher, written, choose_settings(steps, options.seed), checkpoint, progress)
    return steps
