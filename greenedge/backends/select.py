"""Which back end builds a model for a target when nobody has named one, and why: a sentence for manifest and report."""

from __future__ import annotations

from greenedge.backends import BACKENDS, load_backend
from greenedge.backends.interface import Backend, Options, has_fitness
from greenedge.errors import Reason, TargetError
from greenedge.graph import Graph
from greenedge.legalise import legalise_graph
from greenedge.target import Target


def default_backend(target: Target, wanted: str | None = None) -> str:
    """The back end for a target before its graph is known: the one asked for, else the target's first.

    Raises TargetError for a back end that there is not, or that the target does not have.
    """
    if wanted is None:
        return target.backends[0]
    if wanted not in BACKENDS:
        load_backend(wanted)
    if wanted not in target.backends:
        raise TargetError(
            f"{target.name} cannot be built by {wanted!r}; its back ends are: {', '.join(target.backends)}."
        )
    return wanted


def select_backend(graph: Graph, target: Target, options: Options) -> tuple[str, str | None]:
    """(back end, reason). The reason is None where it is the target's first.

    Among back ends that rank themselves (Backend.fitness): one that alone has an option that was set; else the one of
    the highest rank among those that take the model. Otherwise the first of the target's that takes the model and
    whose tools are here; the target's first where there is none.
    """
    rivals = [backend for backend in map(load_backend, target.backends) if has_fitness(backend)]
    if len(rivals) < 2:
        return _first_taker(graph, target, options)
    for backend in rivals:
        others = [other for other in rivals if other is not backend]
        own = [key for key in options if key in backend.options and all(key not in other.options for other in others)]
        if own:
            rest = ", ".join(other.name for other in others)
            return backend.name, f"{backend.name} was chosen because build.{own[0]} was set, which {rest} does not have"
    refusals = {backend.name: _refusals(backend, graph, target, options) for backend in rivals}
    takers = [backend for backend in rivals if not refusals[backend.name]]
    if not takers:
        return _first_taker(graph, target, options)
    if len(takers) < len(rivals):
        other = next(backend.name for backend in rivals if refusals[backend.name])
        return takers[0].name, _describe_refusal(takers[0].name, other, refusals[other][0])
    ranked = [(backend, backend.fitness(legalise_graph(graph, backend.passes), target, options)) for backend in takers]
    best, fitness = max(ranked, key=lambda pair: pair[1].rank)
    reasons = [fitness.reason, *(other.reason for _, other in ranked if other is not fitness)]
    return best.name, f"{best.name} was chosen because {next(reason for reason in reasons if reason)}"


def _first_taker(graph: Graph, target: Target, options: Options) -> tuple[str, str | None]:
    """The first back end that takes the model, and why not the target's first; that one where none does."""
    from greenedge.tools.needs import find_missing

    first, *others = target.backends
    refused = _refusals(load_backend(first), graph, target, options) if others else []
    for name in others if refused else ():
        backend = load_backend(name)
        if all(key in backend.options for key in options) and not (
            _refusals(backend, graph, target, options) or find_missing(backend.needs(target, options))
        ):
            return name, _describe_refusal(name, first, refused[0])
    return first, None


def _describe_refusal(taker: str, other: str, why: Reason) -> str:
    return f"{taker} was chosen because {other} refuses the model ({why.node}: {why.value}; {why.rule})"


def _refusals(backend: Backend, graph: Graph, target: Target, options: Options) -> list[Reason]:
    return backend.check(legalise_graph(graph, backend.passes), target, options)
