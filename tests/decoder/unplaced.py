"""The board's back end without synthesis and placement, which take minutes: its RTL and its virtual board remain."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from greenedge.backends.decoder import fpga


@contextmanager
def without_placement() -> Iterator[None]:
    """While it is open, a build for a board ends with its files, and neither netlist nor bitstream is compared."""

    def plan(decoder, tokenizer, target, options):
        whole = fpga.plan(decoder, tokenizer, target, options)
        commands = tuple(command for command in whole.commands if command.generates)
        return dataclasses.replace(whole, commands=commands, products=("board.json",))

    stages = tuple(stage for stage in fpga.BACKEND.stages if stage.name != "netlist")
    partial = dataclasses.replace(
        fpga.BACKEND, plan=plan, stages=stages, read_back=lambda *_: (), report=lambda folder: {}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fpga, "BACKEND", partial)
        yield
