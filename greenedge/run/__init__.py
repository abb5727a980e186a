"""Runs: the stages and their order, the run folder, the manifest, jobs."""
