"""Back end `decoder`: the engine of a decoder on an open board, from memories to bitstream.

Options: lanes (multipliers side by side), clock_hz, seed and seeds (of nextpnr's placement).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from greenedge.backends.decoder.board import list_requests, plan_board, read_answers
from greenedge.backends.decoder.check import check as check_device
from greenedge.backends.decoder.engine import LANES, describe
from greenedge.backends.decoder.interface import (
    DecoderBackend,
    Draw,
    Line,
    Options,
    Stage,
    Talk,
    read_whole,
)
from greenedge.backends.decoder.memories import list_widths, write_memories
from greenedge.backends.decoder.memory_read import read_memories
from greenedge.backends.decoder.resources import BLOCK_BITS, count_blocks, estimate
from greenedge.backends.decoder.simulate import OBSERVED, Story, Trace, simulate_build, simulate_netlist
from greenedge.backends.decoder.stories import list_few_stories, list_line_stories, list_stories
from greenedge.backends.interface import Outline
from greenedge.boards.board_runner import connect_board
from greenedge.decoder.record import Decoder
from greenedge.decoder.tokenizer import Tokenizer
from greenedge.errors import GreenedgeError, Reason, ToolError
from greenedge.files.json_file import read_json
from greenedge.hdl.board_shell.bitstream import NETLIST, REPORT, STAT, TIMING, bitstream_needs, bitstream_of
from greenedge.hdl.board_shell.read_back import ReadBack, read_back_bitstream
from greenedge.hdl.switching import Switching
from greenedge.progress import ProgressFn
from greenedge.target import Target
from greenedge.tools.discover import find_tool
from greenedge.tools.plan import Plan
from greenedge.tools.run import RECORD

CLOCK_HZ = 60_000_000  # of the engine where nobody asks for another: every shape that was routed on an ECP5 met it
_SILENCE_S = 10.0  # a virtual board takes a good part of a second for a token
_LIMIT_S = 24 * 3600  # of a conversation with it; it ends with its parent anyway
_MAX_BYTES = 256 << 20  # of a netlist: that of stories260K has 27 MB
_CELLS = {"lut4": ("LUT4", 1), "ff": ("TRELLIS_FF", 1), "dsp": ("MULT18X18D", 1), "bram_bits": ("DP16KD", BLOCK_BITS)}


def check(decoder: Decoder, target: Target, options: Options) -> tuple[Reason, ...]:
    """Every reason why the engine cannot run this decoder on the board."""
    _read_clock(options)
    _read_seeds(options)
    return check_device(decoder, target.device, _read_lanes(options))


def plan(decoder: Decoder, tokenizer: Tokenizer | None, target: Target, options: Options) -> Plan:
    """From the decoder to the bitstream, with a client that writes text where there is a tokenizer."""
    return plan_board(
        decoder, target, _read_lanes(options), _read_clock(options), *_read_seeds(options), tokenizer=tokenizer
    )


def _read_lanes(options: Options) -> int:
    return read_whole(options, "lanes", LANES, 1, 4096)


def _read_clock(options: Options) -> int:
    return read_whole(options, "clock_hz", CLOCK_HZ, 1_000_000, 400_000_000)


def _read_seeds(options: Options) -> tuple[int, int]:
    return read_whole(options, "seed", 1, 0, 1 << 30), read_whole(options, "seeds", 1, 1, 64)


def tell_by_rtl(
    folder: Path, decoder: Decoder, options: Options, stories: Sequence[Story], progress: ProgressFn
) -> list[Trace]:
    """The SystemVerilog and the memories of the build in Verilator."""
    return simulate_build(folder, decoder, stories, _read_lanes(options), lambda line: progress(0, 0, line))


def tell_by_netlist(
    folder: Path, decoder: Decoder, options: Options, stories: Sequence[Story], progress: ProgressFn
) -> list[Trace]:
    """The engine of the netlist that was placed, cell by cell, its memories in it."""
    return simulate_netlist(folder / NETLIST, decoder, stories, _read_lanes(options), lambda line: progress(0, 0, line))


def tell_by_board(
    folder: Path, decoder: Decoder, options: Options, stories: Sequence[Story], progress: ProgressFn
) -> list[Trace]:
    """The virtual board through the pins of its UART; it shows tokens and cycles."""
    none = np.zeros((0, len(decoder.layers), decoder.dim), np.int64)
    traces = []
    connected = connect_board(
        folder, progress=lambda line: progress(0, 0, line), silence_s=_SILENCE_S, limit_s=_LIMIT_S
    )
    with connected as (session, _):
        for story in stories:
            answers = read_answers(list(session.stream(list(list_requests(decoder, story)))), session.name)
            tokens = tuple(answer.token for answer in answers[len(story.prompt) - 1 :])
            traces.append(Trace(tokens, tuple(answer.cycles for answer in answers), none, none))
    return traces


@contextmanager
def talk(folder: Path, decoder: Decoder, story: Story, line: Line, progress: ProgressFn) -> Iterator[Talk]:
    """One story through a UART: that of the board at line.port, or of the virtual board."""
    if line.port is None and not line.virtual:
        raise GreenedgeError("the run is built for a board; say --port DEV for its serial port, or --virtual.")
    connected = connect_board(
        folder, line.port, line.baud, lambda text: progress(0, 0, text), silence_s=_SILENCE_S, limit_s=_LIMIT_S
    )
    with connected as (session, virtual):
        clock_hz = int(session.board["clock_hz"])
        begun = virtual.status()["active"] if virtual is not None else 0

        def count_seconds() -> float:
            assert virtual is not None
            return float((virtual.status()["active"] - begun) / clock_hz)

        requests = list(list_requests(decoder, story))
        answers = (read_answers([answer], session.name)[0] for answer in session.stream(requests))
        drawn = (Draw(answer.token, answer.cycles) for answer in answers)
        known = "simulated" if virtual is not None else "measured"
        yield Talk(drawn, clock_hz, known, count_seconds if virtual is not None else None)


def read_back(folder: Path, decoder: Decoder, options: Options, progress: ProgressFn) -> tuple[ReadBack, ...]:
    """The decoder's memories in the netlist, the netlist's in what was routed, and that in the bitstream."""
    progress(0, 0, "reading the netlist's memories back")
    netlist = _read(folder, NETLIST)
    engine = describe(decoder, _read_lanes(options))
    try:
        there = read_memories(netlist, write_memories(decoder, engine), list_widths(decoder, engine))
        return there, *read_back_bitstream(folder, netlist, "ecp5", lambda line: progress(0, 0, line))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ToolError(
            f"{folder / NETLIST} is damaged ({type(error).__name__}: {error}); run the build stage again."
        ) from None


def report(folder: Path) -> dict[str, Any]:
    """Cells in yosys's count, clock in nextpnr's, of the whole board."""
    stat, placed, timing, record, board = (_read(folder, name) for name in (STAT, REPORT, TIMING, RECORD, "board.json"))
    cells = stat["design"]["num_cells_by_type"]
    counted = {key: int(cells.get(kind, 0)) * size for key, (kind, size) in _CELLS.items()}
    hardware = {
        **counted,
        "comb": placed["utilization"]["TRELLIS_COMB"]["used"],
        "fmax_hz": timing["fmax_hz"],
        "clock_hz": board["clock_hz"],
        "bitstream_bytes": bitstream_of(folder).stat().st_size,
        "host_interface": f"{board['link']}, {board['baud']:,} baud",
        "tools": dict(record["tools"]),
    }
    evidence = {
        **dict.fromkeys(counted, "reported by yosys"),
        **dict.fromkeys(("comb", "fmax_hz"), "reported by nextpnr"),
        **dict.fromkeys(("cycles_per_token", "cycles_per_token_greedy", "tokens_per_s"), "simulated"),
    }
    return {"hardware": hardware, "evidence": evidence, "notes": [_NOTE], "tools": dict(record["tools"])}


_NOTE = (
    "4-build/client.py writes text with the board and needs no greenedge; tokens per second are the engine's at its "
    "clock, without the line."
)


def _read(folder: Path, name: str) -> Mapping[str, Any]:
    try:
        found = read_json(folder / name, _MAX_BYTES)
    except (OSError, ValueError) as error:
        raise GreenedgeError(f"{folder / name} is missing or damaged ({error}); run the build stage again.") from None
    if not isinstance(found, dict):
        raise GreenedgeError(f"{folder / name} is damaged; run the build stage again.")
    return found


def switching(folder: Path, decoder: Decoder, options: Options, progress: Callable[[str], None]) -> Switching:
    """How often the nets of the placed engine change."""
    from greenedge.backends.decoder.activity import count_switching

    return count_switching(folder, decoder, _read_lanes(options), progress)


def outline(decoder: Decoder, plan: Plan, target: Target, options: Options) -> Outline:
    """The memories in block RAMs, and what the engine takes: estimates."""
    engine = describe(decoder, _read_lanes(options))
    cost = estimate(engine)
    rows = tuple((name, count) for name, count in count_blocks(engine).items())
    estimated = {
        "block RAMs": f"{cost.blocks:,} of {target.device.resources.get('bram_bits', 0) // BLOCK_BITS:,}",
        "multipliers": f"{cost.multipliers:,} of {target.device.resources.get('dsp', 0):,}",
        "LUT4": f"{cost.logic:,} of {target.device.resources.get('lut4', 0):,}",
    }
    return Outline(("memory", "block RAMs"), rows, estimated)


def tools() -> dict[str, str]:
    """Programs with their versions."""
    return {name: str(find_tool(name)) for name in ("yosys", "nextpnr-ecp5", "ecppack", "verilator")}


BACKEND = DecoderBackend(
    name="decoder",
    options=("lanes", "clock_hz", "seed", "seeds"),
    check=check,
    plan=plan,
    stages=(
        Stage("rtl", "the RTL", tell_by_rtl, OBSERVED, list_stories),
        Stage("netlist", "the simulated netlist", tell_by_netlist, OBSERVED, list_few_stories),
        Stage("board", "the virtual board", tell_by_board, ("tokens",), list_line_stories),
    ),
    read_back=read_back,
    report=report,
    outline=outline,
    talk=talk,
    needs=bitstream_needs,
    tools=tools,
    code=("decoder", "backends/decoder", "hdl", "boards", "tools"),
    switching=switching,
)
