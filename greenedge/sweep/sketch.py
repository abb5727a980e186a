"""Refusals before training: what is wrong with a point whatever its weights will be.

A network of the same form, with random weights and scales that a few samples set, is exported, lowered and shown to the
back end. It has the layers, widths and sizes of the one that will be trained, not its values: only reasons that follow
from the form count, and once the network is trained it is asked itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from greenedge.errors import GreenedgeError, Reason, ReasonKind, UnsupportedError
from greenedge.files.locks import hold_lock
from greenedge.frontends.import_onnx import ModelFile
from greenedge.run.folder import RunFolder
from greenedge.run.job import Job

if TYPE_CHECKING:
    from greenedge.lower import Lowered
    from greenedge.train.recipe import Recipe

_SKETCHES = "sketches"
_SAMPLES = 64  # that set the scales
# what follows from layers, bit widths, options and machine, and from no weight
_OF_THE_FORM = frozenset(
    {
        ReasonKind.NO_TOOLCHAIN,
        ReasonKind.OPTION,
        ReasonKind.TOO_BIG,
        ReasonKind.TOO_SLOW,
        ReasonKind.UNKNOWN_LAYER,
        ReasonKind.UNSUPPORTED_BITS,
        ReasonKind.UNSUPPORTED_GRAPH,
        ReasonKind.UNSUPPORTED_LAYER,
        ReasonKind.UNSUPPORTED_MODE,
        ReasonKind.UNSUPPORTED_OP,
        ReasonKind.UNSUPPORTED_SHAPE,
        ReasonKind.UNSUPPORTED_TARGET,
    }
)
_TOLD = "judged before training, by a network of the same form"


def refuse_early(job: Job, study: Path, shared: Path) -> None:
    """Raises UnsupportedError where a recipe's point cannot be built whatever training gives. Nothing is said of a
    network that is trained already, nor of one whose form training decides."""
    source = job.source
    if isinstance(source, ModelFile) or job.target is None or RunFolder(shared).lower.is_dir():
        return
    options = source.options
    takes_form_later = options.search is not None or (options.prune is not None and options.prune.kind == "structured")
    if options.quantise is None or takes_form_later:
        return
    if (lowered := _sketch(source, study / _SKETCHES)) is None:
        return
    backend, reasons = _find_reasons(job, lowered)
    if reasons:
        assert job.target is not None
        what = f"{source.name} cannot be built for {job.target.name} by {backend} ({_TOLD}):"
        raise UnsupportedError(what, reasons)


def _find_reasons(job: Job, lowered: Lowered) -> tuple[str, list[Reason]]:
    """(back end, reasons of the form); none where there are others too, for which the trained network is asked."""
    from greenedge.backends import load_backend
    from greenedge.backends.select import select_backend
    from greenedge.legalise import legalise

    assert job.target is not None and job.backend is not None
    name = job.backend if job.is_chosen else select_backend(lowered.graph, job.target, job.options)[0]
    backend = load_backend(name)
    reasons = backend.check(legalise(lowered, backend.passes).graph, job.target, job.options)
    return name, list(reasons) if all(reason.kind in _OF_THE_FORM for reason in reasons) else []


def _sketch(recipe: Recipe, folder: Path) -> Lowered | None:
    """A network of the recipe's form, lowered; None where that cannot be had without training."""
    from greenedge.lower import load_lowering, lower_file, save_lowering
    from greenedge.run.manifest import staging_dir

    folder.mkdir(parents=True, exist_ok=True)
    place = folder / recipe.digest[:16]
    with hold_lock(folder / f".{place.name}.lock"):
        if not place.is_dir():
            with staging_dir(place) as work:
                try:
                    _export(recipe, work / "model.onnx")
                    save_lowering(lower_file(work / "model.onnx"), work)
                except GreenedgeError as error:
                    (work / "none.txt").write_text(f"{error}\n", encoding="utf-8")
        return None if (place / "none.txt").is_file() else load_lowering(place)


def _export(recipe: Recipe, path: Path) -> None:
    """Writes the untrained network as QONNX."""
    from greenedge.frontends.brevitas import export_model
    from greenedge.train.calibrate import calibrate
    from greenedge.train.fit import seed_torch
    from greenedge.train.fold_bn import fold_batch_norms
    from greenedge.train.quantise import quantise

    settings = recipe.options.quantise
    assert settings is not None, "a float network has no sketch"
    data = recipe.load_data()
    with seed_torch(recipe.train.seed, recipe.train.threads):
        model = calibrate(quantise(recipe.make_model(), settings, recipe.name), data.x_train[:_SAMPLES])
        if settings.fold_batch_norm:
            model = fold_batch_norms(model, settings)
        export_model(model.eval(), data.x_train[:2], path)
