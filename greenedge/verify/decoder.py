"""What was built of a decoder against its numpy execution, on stories, integers compared with ==."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from greenedge.backends.decoder.interface import DecoderBackend, Options, Stage
from greenedge.backends.decoder.simulate import Story, Trace, compare, count_differing, execute_story
from greenedge.backends.decoder.stories import count_tokens
from greenedge.decoder.record import Decoder
from greenedge.errors import VerificationError
from greenedge.files.atomic_write import atomic_write
from greenedge.hdl.board_shell.read_back import ReadBack
from greenedge.progress import ProgressFn

REFERENCE = "decoder"  # as verify.json names the numpy execution
UNIT = "tokens"


def verify_decoder(
    build: Path, folder: Path, backend: DecoderBackend, decoder: Decoder, options: Options, progress: ProgressFn
) -> str:
    """Compares every stage of a build, and reads it back; writes verify.json into `folder`; returns a note.

    Raises VerificationError for the first difference after what was compared until then has been written.
    """
    entries: list[dict[str, Any]] = []
    figures: dict[str, float] = {}
    back: tuple[ReadBack, ...] = ()
    difference: VerificationError | None = None
    for stage in backend.stages:
        stories = stage.stories(decoder)
        expected = [_execute(decoder, story, stage, progress) for story in stories]
        progress(0, 0, f"{stage.title}, {count_tokens(stories):,} tokens")
        found = stage.tell(build, decoder, options, stories, progress)
        entry, difference = _compare_stage(stage, stories, expected, found)
        entries.append(entry)
        if difference is not None:
            break
        if stage.name == "rtl":
            figures = _count_cycles(stories, found)
    if difference is None:
        back = backend.read_back(build, decoder, options, progress)
        wrong = next((one.differs for one in back if one.differs), None)
        difference = VerificationError(wrong) if wrong else None
    _write(folder, entries, back, figures)
    if difference is not None:
        raise difference
    return _describe(backend, entries, back)


def _execute(decoder: Decoder, story: Story, stage: Stage, progress: ProgressFn) -> Trace:
    progress(0, 0, f"numpy, for {stage.title}")
    return execute_story(decoder, story)


def _compare_stage(
    stage: Stage, stories: Sequence[Story], expected: Sequence[Trace], found: Sequence[Trace]
) -> tuple[dict[str, Any], VerificationError | None]:
    """(the entry of verify.json, the first difference)."""
    integers, differing, difference = 0, 0, None
    for number, (ours, theirs) in enumerate(zip(expected, found, strict=True)):
        try:
            integers += compare(ours, theirs, stage.title, stage.observed)
        except VerificationError as error:
            where = f"story {number + 1} of {len(stories)}"
            difference = difference or VerificationError(f"{str(error).rstrip('.')} ({where}).")
            differing += _count(ours, theirs, stage)
    entry: dict[str, Any] = {
        "reference": REFERENCE,
        "candidate": stage.name,
        "samples": sum(story.positions for story in stories),
        "unit": UNIT,
        "outputs": 0,  # a token has others within a prompt than behind it
        "integers": integers,
        "observed": list(stage.observed),
        "mismatches": differing,
        "float_ties": 0,
        "proved": None,
        "first": None,
        "within": None,
    }
    return entry, difference


def _count(ours: Trace, theirs: Trace, stage: Stage) -> int:
    """Positions that differ; all of them where something is missing."""
    try:
        return count_differing(ours, theirs, stage.observed)
    except (IndexError, ValueError):
        return len(ours.residuals)


def _count_cycles(stories: Sequence[Story], traces: Sequence[Trace]) -> dict[str, float]:
    """Mean cycles a token: of drawn stories behind one token, and of the likeliest tokens."""

    def mean(temperature: bool) -> float:
        chosen = [
            cycles
            for story, trace in zip(stories, traces, strict=True)
            if len(story.prompt) == 1 and (story.sampling.temperature > 0) == temperature
            for cycles in trace.cycles
        ]
        return round(sum(chosen) / len(chosen), 1)

    return {"cycles_per_token": mean(True), "cycles_per_token_greedy": mean(False)}


def _write(
    folder: Path, entries: Sequence[dict[str, Any]], back: Sequence[ReadBack], figures: dict[str, float]
) -> None:
    content = {
        "format": "greenedge-verify/1",
        "stages": [REFERENCE, *(str(entry["candidate"]) for entry in entries)],
        "verify": list(entries),
        **({"read_back": [asdict(one) for one in back]} if back else {}),
        **({"figures": figures} if figures else {}),
    }
    with atomic_write(folder / "verify.json") as path:
        path.write_text(json.dumps(content, indent=1) + "\n")


def _describe(backend: DecoderBackend, entries: Sequence[dict[str, Any]], back: Sequence[ReadBack]) -> str:
    """What was compared, in one line."""
    titles = {stage.name: stage.title for stage in backend.stages}
    parts = [f"{entry['samples']:,} tokens equal in {titles[entry['candidate']]}" for entry in entries]
    return "; ".join([*parts, *(f"{one.what} read back" for one in back)])
