"""Switching activity of an engine: how often the nets of its netlist change while it writes (hdl/switching.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from greenedge.backends.decoder.engine import CORE, describe
from greenedge.backends.decoder.simulate import HARNESS, compare, execute_story, run_stories, write_top
from greenedge.backends.decoder.stories import list_few_stories
from greenedge.decoder.record import Decoder
from greenedge.hdl.netlist import FLAGS, NETLIST, netlist_sources
from greenedge.hdl.switching import Switching, compile_counter, read_count, trace_all, trace_nets

TOKENS = 8  # every change of every net is looked at
_COUNTER = Path(__file__).with_name("activity.cpp")


def count_switching(
    folder: Path, decoder: Decoder, lanes: int, progress: Callable[[str], None] = lambda line: None
) -> Switching:
    """The nets of the netlist that was placed, on the first tokens of a drawn story; `samples` are tokens.

    Raises VerificationError where the engine does not write that story, ToolError.
    """
    (few,) = list_few_stories(decoder)
    story, engine = replace(few, length=min(few.length, TOKENS)), describe(decoder, lanes)
    sources = trace_nets(netlist_sources(folder / NETLIST, CORE, "ecp5", progress))
    top = trace_all(write_top(engine).encode())
    model = compile_counter({**sources, "sim_top.sv": top}, _COUNTER, HARNESS, progress, *FLAGS)
    progress(f"counting toggles over {story.positions} tokens")
    (trace,), said = run_stories(model, decoder, engine, [story], {})
    compare(execute_story(decoder, story), trace, "the simulated netlist")
    return replace(read_count(said, story.positions, "netlist", model), cycles=sum(trace.cycles))
