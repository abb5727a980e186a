"""Runs the engine's RTL in Verilator, and compares it with the decoder, integer for integer."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from greenedge.backends.decoder.engine import CORE, LANES, UNITS, Engine, describe, list_ports, sources
from greenedge.backends.decoder.memories import write_memories
from greenedge.decoder.execute import StepDecoder, check_tokens
from greenedge.decoder.record import Decoder
from greenedge.decoder.sampling import TEMPERATURE_ONE, Sampling, advance, choose, seed_state
from greenedge.errors import GreenedgeError, ToolError, VerificationError
from greenedge.files.scratch import scratch_folder
from greenedge.hdl.axi_stream.simulation import compile_model
from greenedge.hdl.netlist import FLAGS, netlist_sources
from greenedge.tools.capture import capture

HARNESS = Path(__file__).with_name("decoder_harness.cpp")
_RUN_S = 3600
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Story:
    """A prompt and how many tokens, one at least, are generated behind it."""

    prompt: tuple[int, ...]
    length: int
    sampling: Sampling = Sampling()

    def __post_init__(self) -> None:
        if not self.prompt or self.length < 1:
            raise GreenedgeError(
                f"a story of {self.length} tokens behind {len(self.prompt)} of a prompt; both are at least 1."
            )

    @property
    def positions(self) -> int:
        """Tokens that go through the decoder: the last that comes out does not."""
        return len(self.prompt) + self.length - 1

    def check(self, decoder: Decoder) -> None:
        """Raises GreenedgeError for tokens that the decoder does not have, and for more than its context holds."""
        check_tokens(decoder, np.array([self.prompt]), self.length - 1)


@dataclass(frozen=True)
class Trace:
    """What happened at every position of a story.

    tokens     (n,) that came out, those behind the prompt's last token and later
    cycles     (positions,)
    residuals  (positions, layers, dim) behind every layer
    logits     (n, vocabulary)
    """

    tokens: tuple[int, ...]
    cycles: tuple[int, ...]
    residuals: Ints
    logits: Ints


def unit_of(decoder: Decoder, temperature: int) -> int:
    """What the engine multiplies logits with, for a temperature in 256ths; 0 asks for the largest."""
    return decoder.temperature_unit * TEMPERATURE_ONE // temperature if temperature else 0


def execute_story(decoder: Decoder, story: Story) -> Trace:
    """The story in numpy."""
    residuals: list[Ints] = []

    def keep(name: str, value: Ints) -> None:
        if name.endswith("residual"):
            residuals.append(value)

    machine, state = StepDecoder(decoder, keep), seed_state(story.sampling.seed)
    tokens: list[int] = []
    logits = [machine.step(token) for token in story.prompt][-1:]
    while True:
        state = advance(state)
        tokens.append(choose(decoder, logits[-1], story.sampling.temperature, state))
        if len(tokens) == story.length:
            break
        logits.append(machine.step(tokens[-1]))
    shape = (machine.position, len(decoder.layers), decoder.dim)
    return Trace(tuple(tokens), (), np.array(residuals).reshape(shape), np.array(logits))


def write_top(engine: Engine) -> str:
    """sim_top for the harness: the core with every number as 32 bits."""
    ports, nets, pins = [], [], []
    for direction, name, bits, has_sign in list_ports(engine):
        ports.append(f"    {direction} logic {'[31:0] ' if bits > 1 else ''}{name}")
        if direction == "input":
            pins.append(f".{name}({name}[{bits - 1}:0])" if bits > 1 else f".{name}")
        else:
            nets.append(f"    logic {'signed ' if has_sign else ''}[{bits - 1}:0] {name}_;")
            nets.append(f"    assign {name} = {32 if bits > 1 else 1}'({name}_);")
            pins.append(f".{name}({name}_)")
    lines = ["module sim_top (", ",\n".join(ports), ");", *nets, f"    {CORE} dut ({', '.join(pins)});", "endmodule"]
    return "\n".join(["// Simulation only.", "`default_nettype none", *lines, "`default_nettype wire", ""])


def compile_engine(engine: Engine, progress: Callable[[str], None] = lambda _: None) -> Path:
    """The simulator of an engine, from the cache where it is there. Raises ToolError."""
    return compile_model({**sources(engine), "sim_top.sv": write_top(engine).encode()}, progress, harness=HARNESS)


def simulate_stories(
    decoder: Decoder,
    stories: Sequence[Story],
    lanes: int = LANES,
    memories: dict[str, bytes] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Trace]:
    """The stories on the RTL, one after another; `memories` replaces files of write_memories. Raises ToolError."""
    for story in stories:
        story.check(decoder)
    engine = describe(decoder, lanes)
    model = compile_engine(engine, progress)
    return run_stories(model, decoder, engine, stories, {**write_memories(decoder, engine), **(memories or {})})[0]


def simulate_build(
    folder: Path,
    decoder: Decoder,
    stories: Sequence[Story],
    lanes: int = LANES,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Trace]:
    """The same with the sources and the memories that lie in a build's folder (board.board_files)."""
    for story in stories:
        story.check(decoder)
    engine = describe(decoder, lanes)
    try:
        units = {name: (folder / "rtl" / name).read_bytes() for name in (*UNITS, f"{CORE}.sv")}
        memories = {f"memories/{path.name}": path.read_bytes() for path in sorted((folder / "memories").iterdir())}
    except OSError as error:
        raise GreenedgeError(f"{error.filename} is missing; run the build stage again.") from None
    model = compile_model({**units, "sim_top.sv": write_top(engine).encode()}, progress, harness=HARNESS)
    return run_stories(model, decoder, engine, stories, memories)[0]


def simulate_netlist(
    netlist: Path,
    decoder: Decoder,
    stories: Sequence[Story],
    lanes: int = LANES,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Trace]:
    """The same on the module CORE of a netlist (place.py), whose memories are part of it. Raises ToolError."""
    for story in stories:
        story.check(decoder)
    engine = describe(decoder, lanes)
    cells = netlist_sources(netlist, CORE, "ecp5", progress)
    top = write_top(engine).encode()
    model = compile_model({**cells, "sim_top.sv": top}, progress, harness=HARNESS, flags=FLAGS)
    return run_stories(model, decoder, engine, stories, {})[0]


def run_stories(
    model: Path, decoder: Decoder, engine: Engine, stories: Sequence[Story], memories: dict[str, bytes], seed: int = 1
) -> tuple[list[Trace], str]:
    """The stories on a compiled model of `write_top`, which finds `memories` where it runs; and what it said. `seed` is
    of what registers and memories hold before the reset."""
    requests = [line for story in stories for line in _list_requests(decoder, story)]
    with scratch_folder("decoder") as scratch:
        folder = Path(scratch)
        for name, content in memories.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        (folder / "requests.txt").write_text("\n".join(requests) + "\n")
        said = _run(model, folder, engine, seed)
        words = np.fromfile(folder / "results.bin", "<i4").astype(np.int64)
    return _split(engine, stories, words), said


def _list_requests(decoder: Decoder, story: Story) -> Iterator[str]:
    """The harness's lines: token (-1: the one that came out), position, whether one is drawn, unit, state."""
    unit, state = unit_of(decoder, story.sampling.temperature), seed_state(story.sampling.seed)
    for at in range(story.positions):
        drawn = at >= len(story.prompt) - 1
        yield f"{story.prompt[at] if at < len(story.prompt) else -1} {at} {int(drawn)} {unit} {state}"
        state = advance(state) if drawn else state


def _run(model: Path, folder: Path, engine: Engine, seed: int) -> str:
    sizes = [str(number) for number in (engine.dim, engine.layers, engine.vocabulary)]
    try:
        argv = [str(model), "requests.txt", "results.bin", *sizes, f"+verilator+seed+{seed}"]
        done = capture(argv, _RUN_S, cwd=folder)
    except subprocess.TimeoutExpired:
        raise ToolError(f"the simulation of the decoder did not end within {_RUN_S} s; ask for fewer tokens.") from None
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines() or [f"exit status {done.returncode}"]
        raise ToolError(f"the simulation of the decoder stopped: {said[-1].removeprefix('error: ').rstrip('.')}.")
    return done.stdout


def _split(engine: Engine, stories: Sequence[Story], words: Ints) -> list[Trace]:
    at, traces = 0, []
    size = engine.layers * engine.dim
    for story in stories:
        tokens, cycles, residuals, logits = [], [], [], []
        for position in range(story.positions):
            next_, count = words[at : at + 2].tolist()
            residuals.append(words[at + 2 : at + 2 + size].reshape(engine.layers, engine.dim))
            cycles.append(count)
            at += 2 + size
            if position >= len(story.prompt) - 1:
                tokens.append(next_)
                logits.append(words[at : at + engine.vocabulary])
                at += engine.vocabulary
        traces.append(Trace(tuple(tokens), tuple(cycles), np.array(residuals), np.array(logits)))
    return traces


OBSERVED = ("residuals", "logits", "tokens")  # of a Trace, in the order of computing


def compare(expected: Trace, found: Trace, stage: str = "rtl", observed: Sequence[str] = OBSERVED) -> int:
    """How many integers were compared: those of the fields that `stage` shows. Raises VerificationError with the first
    place, in the order of computing, where two differ."""
    for name in observed:
        ours, theirs = np.shape(getattr(expected, name)), np.shape(getattr(found, name))
        if ours != theirs or not ours[0]:
            raise VerificationError(
                f"{stage} gave {name} of shape {theirs}; the decoder gives {ours}, and none is no pass."
            )
    for position, name, ours, theirs in _list_pairs(expected, found, observed):
        wrong = np.flatnonzero(ours != theirs)
        if len(wrong):
            first = int(wrong[0])
            raise VerificationError(
                f"{stage} differs from the decoder at position {position}, {name}: {len(wrong)} of {len(ours)} "
                f"integers, first element {first}: expected {int(ours[first])}, got {int(theirs[first])}."
            )
    return sum(int(np.size(getattr(expected, name))) for name in observed)


def count_differing(expected: Trace, found: Trace, observed: Sequence[str] = OBSERVED) -> int:
    """At how many positions anything differs. Both have the same shapes."""
    pairs = _list_pairs(expected, found, observed)
    return len({position for position, _, ours, theirs in pairs if (ours != theirs).any()})


def _list_pairs(expected: Trace, found: Trace, observed: Sequence[str]) -> Iterator[tuple[int, str, Ints, Ints]]:
    """(position, what, the decoder's integers, the other's), in the order of computing."""
    begin = len(expected.residuals) - len(expected.tokens)
    for position, layers in enumerate(expected.residuals):
        for number, ours in enumerate(layers if "residuals" in observed else ()):
            yield position, f"layer {number}", ours, found.residuals[position][number]
        if (at := position - begin) < 0:
            continue
        if "logits" in observed:
            yield position, "logits", expected.logits[at], found.logits[at]
        if "tokens" in observed:
            yield position, "token", np.array([expected.tokens[at]]), np.array([found.tokens[at]])
