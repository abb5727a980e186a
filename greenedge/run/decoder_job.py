"""A language model for a target: what is to be run, and how the command line's words become it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from greenedge.backends.decoder.choice import check_decoder_options, choose_decoder_backend, load_decoder_backend
from greenedge.backends.decoder.interface import DecoderBackend
from greenedge.decoder.record import Decoder
from greenedge.decoder.source import DecoderFile
from greenedge.decoder.tokenizer import Tokenizer
from greenedge.errors import TargetError, UnsupportedError
from greenedge.run.custody import LANGUAGE_MODEL
from greenedge.run.job import describe_target
from greenedge.target import Target, load_target, nearest
from greenedge.tools.needs import require_tools
from greenedge.tools.plan import Plan

if TYPE_CHECKING:
    from greenedge.train.language_recipe import LanguageRecipe

DECODER_ORDER = ("train", "decoder", "build", "verify", "report")  # of the stages; a file's run begins at its decoder


@dataclass(frozen=True)
class DecoderJob:
    """What to run: a language model's file or recipe, for a target, by a back end of greenedge.backends.decoder.
    Without a target it ends before the build."""

    source: DecoderFile | LanguageRecipe
    target: Target | None = None
    backend: str | None = None
    options: Mapping[str, object] = field(default_factory=dict)

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of this job, in order."""
        return DECODER_ORDER[1:] if isinstance(self.source, DecoderFile) else DECODER_ORDER

    @property
    def title(self) -> str:
        """What a person sees above the stages."""
        return f"{self.source.name} → {self.target.name}" if self.target else self.source.name

    @property
    def about(self) -> dict[str, Any]:
        """What the manifest says the run is about."""
        about: dict[str, Any] = {
            "source": {"kind": LANGUAGE_MODEL, "name": self.source.name, "title": self.source.title}
        }
        if self.target is not None:
            about |= {"target": describe_target(self.target), "backend": self.backend, "options": dict(self.options)}
        return about

    def load_backend(self) -> DecoderBackend:
        """Raises TargetError for a job without a target."""
        if self.backend is None:
            raise TargetError(f"{self.source.name} has no target; say --target NAME.")
        return load_decoder_backend(self.backend)


def decoder_jobs(
    source: DecoderFile | LanguageRecipe,
    targets: Sequence[str],
    backend: str | None,
    options: Mapping[str, object],
    until: str = "report",
    runs_tools: bool = True,
) -> list[DecoderJob]:
    """One job per target, each checked as far as it goes without work. Raises TargetError, ToolError, and, where the
    decoder is there already, UnsupportedError with every reason why a target cannot have it."""
    stages = DecoderJob(source).stages
    if until not in stages:
        raise TargetError(
            f"there is no stage {until!r}{nearest(until, stages)} of {source.name}, a language model; stages are: "
            f"{', '.join(stages)}."
        )
    if stages.index(until) < stages.index("build"):
        return [DecoderJob(source)]
    if not targets:
        raise TargetError(
            "no target: say --target NAME (`greenedge targets` lists them), or --until decoder to stop before the "
            "build."
        )
    model = source.load() if isinstance(source, DecoderFile) else None
    jobs = []
    for name in dict.fromkeys(targets):
        target = load_target(name)
        chosen = choose_decoder_backend(target, backend)
        check_decoder_options(chosen, options)
        if model is not None:
            make_plan(chosen, *model, target, options, source.name)
        if runs_tools:
            require_tools(chosen.needs(target), f"a build for {target.name} by {chosen.name}")
        jobs.append(DecoderJob(source, target, chosen.name, dict(options)))
    return jobs


def make_plan(
    backend: DecoderBackend,
    decoder: Decoder,
    tokenizer: Tokenizer | None,
    target: Target,
    options: Mapping[str, object],
    what: str,
) -> Plan:
    """The back end's plan. Raises UnsupportedError with every reason why it cannot; `what` is the model in words."""
    if reasons := backend.check(decoder, target, options):
        raise UnsupportedError(f"{what} cannot be built for {target.name} by {backend.name}:", reasons)
    return backend.plan(decoder, tokenizer, target, options)
