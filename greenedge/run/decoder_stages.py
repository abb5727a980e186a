"""What each stage of a language model's run does: it reads the folders before it and writes its own, whole or not at
all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greenedge import __version__
from greenedge.backends.decoder.stories import count_tokens
from greenedge.decoder.source import DecoderFile
from greenedge.decoder.store import save_decoder
from greenedge.errors import VerificationError
from greenedge.files.remove import remove
from greenedge.progress import ProgressFn
from greenedge.report.summary import SCORE, hardware_phrases
from greenedge.run.custody import require_planned
from greenedge.run.decoder_custody import DECODER, OpenDecoder
from greenedge.run.decoder_job import DecoderJob, make_plan
from greenedge.run.folder import MANIFEST, RunFolder
from greenedge.run.keys import digest_code, digest_shown, list_inputs, target_options
from greenedge.run.manifest import (
    Manifest,
    Record,
    digest_of,
    find_changed,
    load_manifest,
    require_unchanged,
    require_whole,
    staging_dir,
)
from greenedge.run.plan_view import show_plan
from greenedge.run.stages import describe_size, write_report
from greenedge.tools.run import execute
from greenedge.verify.decoder import verify_decoder

if TYPE_CHECKING:
    from greenedge.train.language_recipe import LanguageRecipe

_CODE = {
    "train": ("train/decoder", "decoder", "frontends/llama2c.py"),
    "decoder": ("decoder",),
    "verify": ("verify",),
    "report": ("report",),
}  # and the back end's own
_OF_RECIPES = ("train/decoder", "frontends/llama2c.py", "run/quantise_decoder.py")  # what makes their decoder besides


def _train(job: DecoderJob, run: RunFolder, progress: ProgressFn) -> str:
    assert not isinstance(job.source, DecoderFile), "a file is not trained"
    with _keep_attempt(run.train, job.source.digest) as work:
        return job.source.train(work, progress)


@contextmanager
def _keep_attempt(folder: Path, digest: str) -> Iterator[Path]:
    """The staging folder as a killed attempt at the same thing left it, so that a training goes on; of another, empty:
    its checkpoint would be refused."""
    with staging_dir(folder, keep=True) as work:
        mark = work / "digest"
        if not mark.is_file() or mark.read_text(encoding="utf-8") != digest:
            for path in work.iterdir():
                remove(path)
            mark.write_text(digest, encoding="utf-8")
        yield work
        mark.unlink()


def _decoder(job: DecoderJob, run: RunFolder, progress: ProgressFn) -> str:
    if not isinstance(job.source, DecoderFile):
        return _quantise(job.source, run, progress)
    decoder, tokenizer = job.source.load()
    with staging_dir(run.decoder) as work:
        save_decoder(work / DECODER, decoder, tokenizer)
    words = "" if tokenizer is not None else ", no tokenizer"
    return f"{len(decoder.layers)} layers, {decoder.parameters:,} weights of {decoder.weight_bits} bits{words}"


def _quantise(recipe: LanguageRecipe, run: RunFolder, progress: ProgressFn) -> str:
    """A recipe's trained floats as integers, with their score beside them (score.json)."""
    from greenedge.run.quantise_decoder import DecoderOptions, quantise_decoder
    from greenedge.train.language_recipe import FLOATS, TOKENIZER

    asked = recipe.quantise
    options = DecoderOptions(
        asked.bits,
        steps=asked.steps,
        seed=asked.seed,
        context=asked.context or None,
        tokenizer=run.train / TOKENIZER,
    )
    with _keep_attempt(run.decoder, digest_of([recipe.digest, recipe.settings["quantise"]])) as work:
        found = quantise_decoder(run.train / FLOATS, work / DECODER, options, lambda part: nullcontext(progress))
        (work / SCORE).write_text(json.dumps(found["bits"], indent=1) + "\n", encoding="utf-8")
    return str(found["shown"])


def _build(job: DecoderJob, run: RunFolder, progress: ProgressFn) -> str:
    backend = job.load_backend()
    assert job.target is not None, "a job with a back end has a target"
    opened = OpenDecoder(run, load_manifest(run.path))
    plan = make_plan(backend, opened.decoder, opened.tokenizer, job.target, job.options, job.source.name)
    execute(plan, run.build, lambda line: progress(0, 0, line))
    product = run.build / plan.products[0]
    return ", ".join([f"{product.name} {describe_size(product)}", *_name_clock(backend.report(run.build))])


def _name_clock(report: dict[str, object]) -> list[str]:
    hardware = report.get("hardware")
    return hardware_phrases(hardware) if isinstance(hardware, dict) else []


def _verify(job: DecoderJob, run: RunFolder, progress: ProgressFn) -> str:
    return compare_decoder(OpenDecoder(run, load_manifest(run.path), job.target), progress)


def compare_decoder(opened: OpenDecoder, progress: ProgressFn) -> str:
    """Fills the folder of verify anew; what a comparison that found a difference wrote stays there.

    Nothing in the folder is compiled or simulated before it was planned again. Raises VerificationError on a
    difference, also where only a file's digest differs, and where the manifest asks for another comparison than the
    decoder and its back end do.
    """
    run, difference = opened.folder, None
    require_unchanged(run.path, opened.manifest, "decoder")  # all the rest is planned from it
    require_whole(run.path, opened.manifest, "build")
    differing = require_planned(opened.plan_again(), run.build, progress, "decoder")
    if opened.manifest.about.get("evidence") != expect_evidence(opened):
        raise VerificationError(
            f"{run.path / MANIFEST} does not ask for the comparison that this run needs; run the same `greenedge "
            "build` again."
        )
    with staging_dir(run.verify) as work:
        try:
            note = verify_decoder(run.build, work, opened.backend, opened.decoder, opened.options, progress)
        except VerificationError as error:
            difference = error
    if difference is not None:
        raise difference
    if changed := [*differing, *filter(None, [find_changed(run.path, opened.manifest.stages["build"])])]:
        raise VerificationError(
            f"{changed[0]} is not the file that was built, although every token gave the same integers; run the same "
            "`greenedge build` again to build it anew."
        )
    require_unchanged(run.path, opened.manifest, "decoder", "build")
    return note


def expect_evidence(opened: OpenDecoder) -> dict[str, int]:
    """{stage: tokens that go through it and through numpy}: of the decoder and its back end alone."""
    return {stage.name: count_tokens(stage.stories(opened.decoder)) for stage in opened.backend.stages}


def _report(job: DecoderJob, run: RunFolder, progress: ProgressFn) -> str:
    return write_report(run)


STAGES: dict[str, Callable[[DecoderJob, RunFolder, ProgressFn], str]] = {
    "train": _train,
    "decoder": _decoder,
    "build": _build,
    "verify": _verify,
    "report": _report,
}


def plan_decoder_record(job: DecoderJob, manifest: Manifest, name: str) -> Record:
    """What would go into that stage now, with the key of it all (as keys.plan_record)."""
    inputs, source = list_inputs(manifest, name), job.source
    code, tools, options = _CODE.get(name, ()), {}, {}
    if isinstance(source, DecoderFile):
        inputs |= source.inputs if name == "decoder" else {}
    elif name in ("train", "decoder"):
        tools = {"torch": version("torch")}
        inputs |= {"recipe": source.digest} if name == "train" else {}
        options = source.settings["quantise"] if name == "decoder" else {}
        code = (*code, *(_OF_RECIPES if name == "decoder" else ()))
    if name == "report":
        inputs["manifest"] = digest_shown(manifest)
    if job.target is not None and name not in ("train", "decoder"):
        options = target_options(job.target, job.options, job.backend)
        backend = job.load_backend()
        if name in ("build", "verify"):
            code, tools = (*code, *backend.code), backend.tools() | {"numpy": version("numpy")}
    tools = {"greenedge": f"{__version__}+{digest_code(code)}", **tools}
    return Record("running", digest_of([name, inputs, options, tools]), inputs, options, tools)


def outline_decoder(job: DecoderJob) -> dict[str, Any]:
    """What the build would be, as plan_view.outline gives it."""
    assert isinstance(job.source, DecoderFile), "a recipe's build follows from what is trained"
    assert job.target is not None, "a job with a back end has a target"
    backend, (decoder, tokenizer) = job.load_backend(), job.source.load()
    plan = make_plan(backend, decoder, tokenizer, job.target, job.options, job.source.name)
    told = backend.outline(decoder, plan, job.target, job.options)
    return show_plan(job.source.name, job.target.name, backend.name, told, plan)
