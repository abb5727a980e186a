"""Back end `decoder-c99`: the decoder as a C99 package with a program that writes, for machines with an operating
system.

The program that lies in a build's folder is never run: what is compared, and what chats, is compiled from the sources
there, after they were found to be those that greenedge writes for the decoder.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from greenedge.backends.decoder.client import write_client
from greenedge.backends.decoder.interface import DecoderBackend, Draw, Line, Options, Stage, Talk
from greenedge.backends.decoder.simulate import Story, Trace
from greenedge.backends.decoder.stories import list_stories
from greenedge.backends.interface import Outline
from greenedge.decoder.c99 import count_flash_bytes, write_package, write_program
from greenedge.decoder.record import Decoder
from greenedge.decoder.store import decoder_digest
from greenedge.decoder.tokenizer import Tokenizer
from greenedge.errors import GreenedgeError, Reason, ReasonKind, ToolError
from greenedge.files.json_file import read_table
from greenedge.files.scratch import scratch_folder
from greenedge.hdl.board_shell.read_back import ReadBack
from greenedge.progress import ProgressFn
from greenedge.target import Target
from greenedge.tools.capture import capture, end_with_parent
from greenedge.tools.plan import Command, Plan
from greenedge.tools.run import execute_once

PROGRAM = "chat"
_SOURCES = ("model.h", "model_data.h", "model.c", "chat.c")
_FLAGS = ("-std=c99", "-O3")
_RUN_S = 600


def check(decoder: Decoder, target: Target, options: Options) -> tuple[Reason, ...]:
    """Reasons against a target that runs no programs."""
    if target.kind == "cpu":
        return ()
    rule, cure = "the C99 package is built with a program that writes text", "take linux-x86, and link model.c yourself"
    return (Reason("decoder", ReasonKind.UNSUPPORTED_TARGET, f"kind {target.kind!r}", rule, cure),)


def plan(decoder: Decoder, tokenizer: Tokenizer | None, target: Target, options: Options) -> Plan:
    """The package, compiled for this machine."""
    digest = decoder_digest(decoder)
    sizes = {"model": digest, "bytes": count_flash_bytes(decoder), "kv_cache_bytes": _count_cache_bytes(decoder)}
    client = {} if tokenizer is None else write_client(decoder, tokenizer, target.name, digest, 0)
    files = {
        **{name: text.encode() for name, text in write_package(decoder).items()},
        "chat.c": write_program().encode(),
        "sizes.json": (json.dumps(sizes, indent=1) + "\n").encode(),
        **client,
    }
    return Plan(files, (_compile(),), (PROGRAM,))


def _compile() -> Command:
    argv = ("cc", *_FLAGS, "model.c", "chat.c", "-o", PROGRAM)
    return Command(argv, "cc.log", "compiling the C package", 600)


def _count_cache_bytes(decoder: Decoder) -> int:
    return 2 * len(decoder.layers) * decoder.kv_heads * decoder.head_dim * decoder.context


def compile_program(folder: Path, progress: ProgressFn) -> Path:
    """The program of the sources in a build's folder, from the cache where it is there. Raises GreenedgeError for a
    source that is missing, ToolError."""
    try:
        files = {name: (folder / name).read_bytes() for name in _SOURCES}
    except OSError as error:
        raise GreenedgeError(f"{error.filename} is missing; run the build stage again.") from None
    made = Plan(files, (_compile(),), (PROGRAM,))
    where, _, _ = execute_once(made, "decoder-c99", made.digest()[:32], lambda line: progress(0, 0, line))
    return where / PROGRAM


def tell(
    folder: Path, decoder: Decoder, options: Options, stories: Sequence[Story], progress: ProgressFn
) -> list[Trace]:
    """Tokens and logits of the compiled package; it shows no residuals."""
    program, traces = compile_program(folder, progress), []
    none = np.zeros((0, len(decoder.layers), decoder.dim), np.int64)
    for number, story in enumerate(stories):
        progress(number, len(stories), "")
        with scratch_folder("chat") as scratch:
            log = Path(scratch) / "logits.bin"
            try:
                done = capture([program, "-l", log, *_list_words(story)], _RUN_S)
            except subprocess.TimeoutExpired:
                raise ToolError(f"the C program did not end within {_RUN_S} s.") from None
            if done.returncode:
                raise ToolError(f"the C program stopped with exit status {done.returncode}.")
            logits = np.fromfile(log, np.int32).astype(np.int64).reshape(-1, decoder.vocabulary)
        traces.append(Trace(tuple(map(int, done.stdout.split())), (), none, logits))
    return traces


def _list_words(story: Story) -> list[str]:
    sampling = story.sampling
    return [str(word) for word in (sampling.temperature, sampling.seed, story.length, *story.prompt)]


@contextmanager
def talk(folder: Path, decoder: Decoder, story: Story, line: Line, progress: ProgressFn) -> Iterator[Talk]:
    """One story, told by the compiled package."""
    if line.port is not None or line.virtual:
        raise GreenedgeError("the run is built for this machine and has no board; leave --port and --virtual out.")
    program = compile_program(folder, progress)
    process = subprocess.Popen(
        [str(program), *_list_words(story)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=end_with_parent,
    )
    try:
        yield Talk(_read_tokens(process, len(story.prompt)), None, "measured")
    finally:
        process.kill()
        process.communicate()


def _read_tokens(process: subprocess.Popen[str], prompted: int) -> Iterator[Draw]:
    assert process.stdout is not None, "started with a pipe"
    yield from (Draw(0) for _ in range(prompted - 1))
    for line in process.stdout:
        yield Draw(int(line))
    if process.wait():
        raise ToolError(f"the C program stopped with exit status {process.returncode}.")


def read_back(folder: Path, decoder: Decoder, options: Options, progress: ProgressFn) -> tuple[ReadBack, ...]:
    """Nothing: sources are compared when the build is planned again."""
    return ()


def report(folder: Path) -> dict[str, Any]:
    """Bytes of the weights and tables, and of keys and values."""
    try:
        sizes = read_table(folder / "sizes.json")
    except (OSError, ValueError) as error:
        raise GreenedgeError(f"{folder} is damaged ({error}); run the build stage again.") from None
    edge = {"bytes": sizes["bytes"], "kv_cache_bytes": sizes["kv_cache_bytes"], "runtime": "C99 without heap or float"}
    return {"edge": edge, "evidence": {"bytes": "counted", "kv_cache_bytes": "counted"}, "notes": [_NOTE]}


_NOTE = (
    "The package is the folder 4-build: model.c links into any program, chat.c is one, client.py writes text with it. "
    "It was compiled for the machine that built it and compared there; for another: cc -std=c99 -O3 model.c chat.c -o "
    "chat."
)


def outline(decoder: Decoder, plan: Plan, target: Target, options: Options) -> Outline:
    """The files, with their bytes."""
    return Outline(("file", "bytes"), tuple((name, len(content)) for name, content in sorted(plan.files.items())))


def tools() -> dict[str, str]:
    """The compiler's own word for its version."""
    try:
        done = capture(["cc", "--version"], 60)
    except OSError:
        raise ToolError("cc is not on PATH; install a C compiler (apt install gcc).") from None
    return {"cc": (done.stdout.splitlines() or ["unknown"])[0]}


BACKEND = DecoderBackend(
    name="decoder-c99",
    options=(),
    check=check,
    plan=plan,
    stages=(Stage("c99", "the C99 package", tell, ("logits", "tokens"), list_stories),),
    read_back=read_back,
    report=report,
    outline=outline,
    talk=talk,
    needs=lambda target: ("cc",),
    tools=tools,
    code=("decoder", "backends/decoder", "tools"),
)
