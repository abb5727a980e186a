"""Sweeps: the points of a space, each a run, in a study that many processes work on; their Pareto front."""
