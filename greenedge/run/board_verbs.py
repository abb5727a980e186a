"""The ways out of a finished run: its bitstream onto a board, its samples through one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from greenedge.progress import ProgressFn
from greenedge.run.custody import open_run


def infer_on_board(
    run: Path,
    samples: Path,
    port: str | None,
    baud: int | None,
    progress: ProgressFn,
    out: Path | None = None,
) -> tuple:
    """The samples of an .npy file through the board at `port`, or through the virtual board where that is None.

    Returns ({model output: float array}, or with `out` what `greenedge.run.infer.write` returns; the board's figures,
    see greenedge.boards.board_runner.Figures).
    Every integer is compared with the integer graph's. Raises VerificationError where one differs, BoardError where the
    board cannot be reached or is another, GreenedgeError where nothing has been built for a board.
    """
    from greenedge.boards import board_runner
    from greenedge.frontends.samples import read_samples
    from greenedge.graph import run_graph
    from greenedge.graph.joined_inputs import join_inputs
    from greenedge.graph.joined_outputs import split_outputs
    from greenedge.lower.float_io import run_epilogue, run_prologue
    from greenedge.run.infer import write
    from greenedge.verify.compare import compare

    opened = open_run(run, "lower", "build")
    if port is None:  # the virtual board is compiled from the build's own RTL
        opened.require_planned(progress)
    lowered, folder = opened.legal, opened.folder
    levels = run_prologue(lowered, read_samples(samples, lowered.inputs))
    expected = run_graph(lowered.graph, levels)
    outputs, figures = board_runner.infer_on_board(
        folder.build, join_inputs(lowered.graph, levels), port, baud, progress
    )
    got = split_outputs(lowered.graph, next(iter(outputs.values())))  # a board calls its output after the stream
    for edge, values in got.items():
        compare("graph", "the board" if port else "the virtual board", expected[edge], values, layer=edge).require()
    floats = run_epilogue(lowered, got)
    return floats if out is None else write(out, figures.samples, iter([floats])), figures.plain()


def in_words(figures: Mapping) -> str:
    """The figures for a person, each with how it is known."""
    from greenedge.report.page import duration

    latency, line = figures.get("latency_s"), figures.get("line_s")
    parts = [f"{figures['samples']:,} samples, every integer equal to the integer graph's"]
    if latency is not None:
        parts.append(f"latency {duration(latency)} by the board's own counters ({figures['evidence']})")
    parts.append(
        f"{figures['wall_s']:.1f} s for the host" + (f", {duration(line)} on the line (simulated)" if line else "")
    )
    if figures["requests_lost"] or figures["resets"]:
        parts.append(f"{figures['requests_lost']:,} requests sent again, {figures['resets']:,} resets")
    return "; ".join(parts) + "."


def udev_rules() -> str:
    """The text of a udev rules file."""
    from greenedge.boards.programming import UDEV

    return UDEV


def program_run(run: Path, target: str | None, docker: bool, dry_run: bool, progress: ProgressFn) -> list[str]:
    """Programs the run's board; returns the command. `target` is the board file where it is none that ships with
    greenedge.

    Raises VerificationError for a bitstream that is not the one that was built, ToolError for what goes wrong on the
    way.
    """
    from greenedge.boards.programming import program as load
    from greenedge.boards.programming import program_argv
    from greenedge.hdl.board_shell.bitstream import bitstream_of

    opened = open_run(run, "build", given=target)
    board = opened.trusted_target
    bitstream = bitstream_of(opened.folder.build)
    return program_argv(board, bitstream, docker) if dry_run else load(bitstream.parent, board, docker, progress)
