"""`greenedge chat`: text from a quantised decoder, piece by piece as it comes: by numpy, or by what a run has built."""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from greenedge.backends.decoder.interface import Draw, Line
from greenedge.backends.decoder.simulate import Story
from greenedge.decoder.record import Decoder
from greenedge.decoder.sampling import TEMPERATURE_ONE, Sampling, generate
from greenedge.decoder.store import load_model
from greenedge.decoder.tokenizer import Tokenizer
from greenedge.energy.estimate import digits
from greenedge.errors import GreenedgeError
from greenedge.progress import ProgressFn, no_progress

MOST_STEPS = 4  # temperatures above are no text


@dataclass(frozen=True)
class Wish:
    """What is to be written: behind `prompt`, until the text ends, `tokens` are written, or the context is full."""

    prompt: str = ""
    seed: int = 1
    temperature: float = 1.0
    tokens: int | None = None

    def __post_init__(self) -> None:
        if self.tokens is not None and self.tokens < 1:
            raise GreenedgeError(f"{self.tokens} tokens: at least one is written.")
        if not 0 <= self.temperature <= MOST_STEPS:
            raise GreenedgeError(f"temperature {self.temperature:g}: 0 to {MOST_STEPS} is possible.")

    @property
    def sampling(self) -> Sampling:
        return Sampling(round(self.temperature * TEMPERATURE_ONE), self.seed)


@dataclass(frozen=True)
class Chat:
    """What was said: tokens behind the prompt, seconds from the prompt's first step to the last token, and both of
    them together per second, by this machine's clock. `board` has a board's own figures (see Tally)."""

    prompt_tokens: int
    tokens: int
    seconds: float
    text: str
    board: dict[str, Any] | None = None

    @property
    def tokens_per_second(self) -> float:
        """Tokens of prompt and text, per second."""
        return (self.prompt_tokens + self.tokens) / self.seconds


@dataclass
class Tally:
    """What an engine counts for its tokens, and when the first and the last came on a simulated line."""

    cycles: list[int] = field(default_factory=list)
    first_s: float | None = None
    line_s: float | None = None

    def plain(self, clock_hz: int, evidence: str) -> dict[str, Any]:
        """Mean cycles a token (those of the prompt among them) and tokens per second of the engine at its clock."""
        mean = sum(self.cycles) / len(self.cycles)
        found = {
            "evidence": evidence,
            "clock_hz": clock_hz,
            "cycles_per_token": round(mean, 1),
            "tokens_per_s": round(clock_hz / mean, 1),
            "first_token_s": self.first_s,
            "line_s": self.line_s,
        }
        return {key: value for key, value in found.items() if value is not None}


def chat(path: Path, wish: Wish, show: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> Chat:
    """Continues a prompt by numpy; `show` gets the text as it comes.

    Raises GreenedgeError for a file that is no decoder or has no tokenizer, and for a prompt that it cannot take.
    """
    decoder, tokenizer = load_model(path)
    tokenizer = _require_tokenizer(tokenizer, path)
    begun = tokenizer.encode(wish.prompt)
    _check_room(decoder, begun)
    started = clock()
    said = _write(wish, tokenizer, begun, generate(decoder, begun, wish.sampling), show)
    return Chat(len(begun), len(said), clock() - started, "".join(said))


def chat_with_run(
    run: Path,
    wish: Wish,
    line: Line,
    show: Callable[[str], None],
    progress: ProgressFn = no_progress,
    clock: Callable[[], float] = time.monotonic,
) -> Chat:
    """As `chat`, by what a run has built: on its board, real or virtual, or by its compiled program.

    Raises VerificationError where the run's folder does not hold what the run made, BoardError where no board answers,
    or one with another model.
    """
    from greenedge.run.decoder_custody import open_decoder
    from greenedge.run.decoder_energy import find_token_energy

    opened = open_decoder(_find_run(run))
    decoder, tokenizer = opened.decoder, _require_tokenizer(opened.tokenizer, run)
    begun = tokenizer.encode(wish.prompt)
    _check_room(decoder, begun)
    room = decoder.context + 1 - len(begun)
    story = Story(tuple(begun), min(wish.tokens or room, room), wish.sampling)
    if line.port is None:  # what runs here is compiled from the run's files
        opened.require_planned(progress)
    tally = Tally()
    with opened.backend.talk(opened.folder.build, decoder, story, line, progress) as talk:
        started = clock()
        with closing(_count(talk.draws, len(begun), tally, talk.line_s)) as drawn:
            said = _write(wish, tokenizer, begun, drawn, show)
        seconds = clock() - started
        tally.line_s = talk.line_s() if talk.line_s is not None else None
    board = tally.plain(talk.clock_hz, talk.evidence) if talk.clock_hz is not None else None
    if board is not None and (energy := find_token_energy(opened.path)) is not None:
        known = {"value": energy.value, "low": energy.low, "high": energy.high, "evidence": energy.evidence}
        board["j_per_token"] = {key: value for key, value in known.items() if value is not None}
    return Chat(len(begun), len(said), seconds, "".join(said), board)


def _find_run(folder: Path) -> Path:
    """The run that a folder is, or the only one that it holds."""
    from greenedge.run.runs import runs_in

    runs = runs_in(folder)
    if len(runs) > 1:
        raise GreenedgeError(f"{folder} holds {len(runs)} runs; name one of them, such as {runs[0]}.")
    return runs[0]


def describe_chat(said: Chat) -> str:
    """The figures for a person, each with how it is known."""
    words = f"{said.tokens} tokens behind {said.prompt_tokens}"
    if (board := said.board) is None:
        return f"{words}, {said.tokens_per_second:.0f} a second here"
    engine = (
        f"{board['cycles_per_token']:,.0f} cycles a token, {board['tokens_per_s']:,.0f} tokens/s of the engine at "
        f"{board['clock_hz'] / 1e6:g} MHz"
    )
    energy = _describe_energy(board)
    if board["evidence"] == "measured":
        speed = f"{said.tokens_per_second:,.0f} tokens/s with the line (measured)"
        return f"{words}: {engine} by its own counter, {speed}\n{energy}"
    line = f"first token after {board['first_token_s'] * 1e3:.1f} ms, all after {board['line_s'] * 1e3:.1f} ms"
    simulated = f"{line} with the line (simulated); simulating took {said.seconds:.1f} s"
    return f"{words}: {engine} (simulated)\n{simulated}\n{energy}"


def _describe_energy(board: dict[str, Any]) -> str:
    """Joules per token with their evidence, or how to have them."""
    if (found := board.get("j_per_token")) is None:
        return "joules per token are not known yet: `greenedge energy measure RUN --source estimate`"
    band = f", {digits(found['low'] * 1e6)} to {digits(found['high'] * 1e6)}" if {"low", "high"} <= set(found) else ""
    return f"{digits(found['value'] * 1e6)} µJ a token ({found['evidence']}{band}; the report says of what)"


def _count(
    drawn: Iterator[Draw], prompted: int, tally: Tally, line_s: Callable[[], float] | None
) -> Generator[int, None, None]:
    """The tokens behind the prompt."""
    for position, one in enumerate(drawn):
        if one.cycles is not None:
            tally.cycles.append(one.cycles)
        if position >= prompted - 1:
            if tally.first_s is None and line_s is not None:
                tally.first_s = line_s()
            yield one.token


def _require_tokenizer(tokenizer: Tokenizer | None, path: Path) -> Tokenizer:
    if tokenizer is None:
        raise GreenedgeError(f"{path} has no tokenizer; quantise its model again with --tokenizer TOK.bin.")
    return tokenizer


def _check_room(decoder: Decoder, begun: list[int]) -> None:
    if len(begun) >= decoder.context:
        raise GreenedgeError(
            f"the prompt has {len(begun)} tokens, the context {decoder.context}; give a shorter prompt."
        )


def _write(
    wish: Wish, tokenizer: Tokenizer, begun: list[int], drawn: Iterator[int], show: Callable[[str], None]
) -> list[str]:
    """Shows prompt and text; the text of every token."""
    said = []
    show(wish.prompt)
    for text in _spell(tokenizer, begun[-1], _limit(drawn, tokenizer, wish.tokens)):
        said.append(text)
        show(text)
    return said


def _limit(drawn: Iterator[int], tokenizer: Tokenizer, most: int | None) -> Iterator[int]:
    """Tokens up to the one that ends a text, and not more than `most`."""
    for number, token in enumerate(drawn, 1):
        if token in (tokenizer.begin, tokenizer.end):
            return
        yield token
        if number == most:
            return


def _spell(tokenizer: Tokenizer, previous: int, drawn: Iterator[int]) -> Iterator[str]:
    """The text of each token; a character of several tokens comes with its last."""
    utf8 = codecs.getincrementaldecoder("utf-8")("replace")
    for token in drawn:
        yield utf8.decode(tokenizer.spell(previous, token))
        previous = token
