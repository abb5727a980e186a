"""A decoder on a board: the engine behind a stream of requests, in the shell that every core has.

Ids travel on the wire; the tokenizer stays with the host. A request is ge_decoder_stream's: 16 bytes in, 8 bytes out,
and each may be asked again, so the shell's frames, credits and repetitions hold for a story as they do for samples.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from greenedge.backends.decoder.check import check
from greenedge.backends.decoder.client import write_client
from greenedge.backends.decoder.engine import CORE, LANES, Engine, describe, sources
from greenedge.backends.decoder.memories import write_memories
from greenedge.backends.decoder.simulate import Story, unit_of
from greenedge.decoder.record import Decoder
from greenedge.decoder.sampling import advance, seed_state
from greenedge.decoder.tokenizer import Tokenizer
from greenedge.errors import GreenedgeError, UnsupportedError
from greenedge.hdl import RTL
from greenedge.hdl.axi_stream import Stream
from greenedge.hdl.axi_stream.core import TOP, core
from greenedge.hdl.board_shell import shell_request
from greenedge.hdl.board_shell.bitstream import PRODUCT, bitstream_commands, bitstream_files
from greenedge.target import Target
from greenedge.tools.plan import Plan

REQUEST = Stream("request", "request", 8, False, 16, 1, (16,))
ANSWER = Stream("answer", "answer", 8, False, 8, 1, (8,))
MEMORIES = "memories/"  # below the build folder
_SAMPLE, _FOLLOW = 1, 2
_STATUS = {1: "has no such token", 2: "has no such position"}


@dataclass(frozen=True)
class Answer:
    """What a board says to one request: the next token (without meaning where none was asked for), the cycles."""

    token: int
    cycles: int


def digest(decoder: Decoder, lanes: int = LANES) -> str:
    """sha256 of the engine's parameters and memories: which model a board holds."""
    engine = describe(decoder, lanes)
    total = hashlib.sha256(repr(engine).encode())
    for name, content in sorted(write_memories(decoder, engine).items()):
        total.update(f"{name}\0{len(content)}\0".encode() + content)
    return total.hexdigest()


def write_stream_core(engine: Engine) -> str:
    """SystemVerilog of the module `top`: requests in, answers out."""
    body = f"""    logic [{ANSWER.width - 1}:0] answer_tdata;
    logic answer_tvalid, answer_tready, ready, start, sample, done;
    logic [{(engine.vocabulary - 1).bit_length() - 1}:0] token, next;
    logic [{(max(2, engine.context) - 1).bit_length() - 1}:0] at;
    logic [31:0] unit, state, cycles;
    ge_decoder_stream #(.VOCABULARY({engine.vocabulary}), .CONTEXT({engine.context})) requests (
        .clk, .rst, .s_tdata, .s_tvalid, .s_tready, .m_tdata(answer_tdata), .m_tvalid(answer_tvalid),
        .m_tready(answer_tready), .ready, .start, .token, .at, .sample, .unit, .state, .done, .next, .cycles);
    {CORE} decoder (
        .clk, .rst, .ready, .start, .token, .at, .sample, .unit, .state, .done, .next, .cycles, .watch_x(),
        .watch_x_index(), .watch_x_value(), .watch_layer(), .watch_logit(), .watch_logit_index(), .watch_logit_value());
"""
    return core("// A decoder as a core with streams. Made by greenedge.", REQUEST, ANSWER, body)


def board_files(
    decoder: Decoder, request: Mapping[str, Any], lanes: int = LANES, tokenizer: Tokenizer | None = None
) -> dict[str, bytes]:
    """The core's sources, memories and streams.json, and shell.json, which `write_shell` makes the board of; with a
    tokenizer a client.py that writes text."""
    engine = describe(decoder, lanes)
    core = sources(engine, MEMORIES)
    stream = {
        "ge_decoder_stream.sv": (RTL / "decoder" / "ge_decoder_stream.sv").read_bytes(),
        f"{TOP}.sv": write_stream_core(engine).encode(),
    }
    units = {**core, **stream}
    about: dict[str, Any] = {"top": TOP, "sources": list(units), "streams": [REQUEST.plain(), ANSWER.plain()]}
    client = {}
    if tokenizer is not None:
        about["clients"] = ["client.py"]
        client = write_client(decoder, tokenizer, request["target"], request["model"], request["baud"])
    lists = {"engine.f": core, "stream.f": stream}
    return {
        **client,
        **{name: "".join(f"rtl/{unit}\n" for unit in listed).encode() for name, listed in lists.items()},
        **{f"rtl/{name}": content for name, content in units.items()},
        **{MEMORIES + name: content for name, content in write_memories(decoder, engine).items()},
        "streams.json": (json.dumps(about, indent=1) + "\n").encode(),
        "shell.json": (json.dumps(request, indent=1) + "\n").encode(),
    }


def plan_board(
    decoder: Decoder,
    target: Target,
    lanes: int = LANES,
    clock_hz: int | None = None,
    seed: int = 1,
    seeds: int = 1,
    tokenizer: Tokenizer | None = None,
) -> Plan:
    """From the decoder to the board's bitstream. Raises UnsupportedError with every reason why the board cannot have
    it, TargetError for a board without a shell."""
    if reasons := check(decoder, target.device, lanes):
        raise UnsupportedError(f"this decoder does not go onto {target.name}:", reasons)
    request = shell_request(target, digest(decoder, lanes), clock_hz)
    scripts = bitstream_files(target, TOP, (CORE, "engine.f", "stream.f"))
    files = {**board_files(decoder, request, lanes, tokenizer), **scripts}
    return Plan(files, bitstream_commands(target, request, seed, seeds), (PRODUCT[target.device.family], "board.json"))


def list_requests(decoder: Decoder, story: Story) -> Iterator[bytes]:
    """The requests of a story: its prompt, then followers, which need no answer to be sent. Raises GreenedgeError for
    tokens that the decoder does not have, and for more than its context holds."""
    story.check(decoder)
    unit, state = unit_of(decoder, story.sampling.temperature), seed_state(story.sampling.seed)
    for at in range(story.positions):
        prompted, drawn = at < len(story.prompt), at >= len(story.prompt) - 1
        flags = _SAMPLE * drawn | _FOLLOW * (not prompted)
        yield pack_request(flags, story.prompt[at] if prompted else 0, at, unit, state)
        state = advance(state) if drawn else state


def pack_request(flags: int, token: int, at: int, unit: int, state: int) -> bytes:
    """One request, 16 bytes."""
    return struct.pack("<IHHII", flags | token << 8, at, 0, unit, state)


def read_answers(answers: Sequence[bytes], board: str = "the board") -> list[Answer]:
    """Raises GreenedgeError for one that refuses."""
    found = []
    for at, data in enumerate(answers):
        word, cycles = struct.unpack("<II", data)
        if word & 0xFF:
            raise GreenedgeError(f"{board} {_STATUS.get(word & 0xFF, 'refuses')}: request {at} of {len(answers)}.")
        found.append(Answer(word >> 8, cycles))
    return found
