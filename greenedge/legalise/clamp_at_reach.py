"""Step functions clamped to the levels that they reach."""

from __future__ import annotations

from dataclasses import replace

from greenedge.graph import Graph, Op, Requantise, Steps, freeze
from greenedge.graph.affine import fit_affine
from greenedge.graph.lines import is_straight


def clamp_at_reach(graph: Graph) -> Graph:
    """step → step with lo, hi at the levels it reaches, where it is a line over those but not over all: ReLU6 and its
    like. It gets the affine form that it then has."""
    ops: list[Op] = [clamp_step(op) if isinstance(op, Requantise) else op for op in graph.ops]
    return graph if all(a is b for a, b in zip(ops, graph.ops, strict=True)) else graph.replace_ops(ops)


def clamp_step(step: Requantise) -> Requantise:
    """The quantiser clamped at the levels that it reaches where it is a line over those alone; itself otherwise."""
    if not isinstance(step.forms, Steps) or is_straight(step):
        return step
    thresholds, (low, high) = step.forms.thresholds, step.reach
    least = step.lo + int((thresholds <= low[:, None]).sum(axis=1).min())
    most = step.lo + int((thresholds <= high[:, None]).sum(axis=1).max())
    if least >= most:
        return step
    inside = freeze(thresholds[:, least - step.lo : most - step.lo])
    some = replace(step, lo=least, hi=most).with_steps(thresholds=inside)
    if not is_straight(some):
        return step
    affine = fit_affine(inside, least, most, low, high)
    if affine is not None:
        affine = replace(affine, m=freeze(affine.m * step.forms.sign))
    return some.with_steps(affine=affine)
