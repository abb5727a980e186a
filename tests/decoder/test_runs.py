"""Runs of language models, as they are typed: build, verify, chat, report; and what must not pass."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from greenedge.backends.decoder import fpga
from greenedge.backends.decoder.simulate import execute_story
from greenedge.boards.virtual import VirtualBoard
from greenedge.decoder.sampling import Sampling, generate
from greenedge.decoder.store import load_model, save_decoder
from greenedge.decoder.tokenizer import Tokenizer
from greenedge.energy.results import figure
from greenedge.run.chat import Chat, describe_chat
from greenedge.run.decoder_energy import find_token_energy
from greenedge.run.manifest import load_manifest
from tests.decoder.mock_board import serve
from tests.decoder.models import random_decoder
from tests.decoder.test_verbs import call
from tests.decoder.unplaced import without_placement

pytestmark = pytest.mark.tool("g++")
# as in tests/backends/test_decoder_board.py, so that the simulator is compiled once
_SHAPE = {"heads": 4, "kv_heads": 2, "head_dim": 4, "hidden": 19, "vocabulary": 24, "context": 20, "layers": 2}
_PIECES = Tokenizer(
    (b"<unk>", b"\n<s>\n", b"\n</s>\n", b" ", *(bytes([97 + n]) for n in range(18)), b"ab", b"<0x41>"),
    tuple(-float(n) for n in range(24)),
)
_BOARD_FIGURES = {
    "evidence": "simulated",
    "clock_hz": 50_000_000,
    "cycles_per_token": 100.0,
    "tokens_per_s": 5e5,
    "first_token_s": 1e-3,
    "line_s": 2e-3,
}
_BOARD = ("--set", "build.lanes=8", "--set", "build.clock_hz=50000000")


def _save(path: Path, tokenizer: Tokenizer | None = _PIECES, **shape: int) -> Path:
    decoder = random_decoder(np.random.default_rng(1), norm_form="table", **{**_SHAPE, **shape})
    save_decoder(path, decoder, tokenizer)
    return path


def _expect(model: Path, prompt: str, seed: int, temperature: int = 256) -> str:
    decoder, pieces = load_model(model)
    assert pieces is not None
    said, begun = [], pieces.encode(prompt)
    for token in generate(decoder, begun, Sampling(temperature, seed)):
        if token in (pieces.begin, pieces.end):
            break
        said.append(token)
    text = b"".join(pieces.spell(before, token) for before, token in zip([begun[-1], *said], said, strict=False))
    return text.decode("utf-8", "replace")


def _flip(path: Path, place: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def _edit(path: Path, **changes: object) -> None:
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | changes))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return _save(tmp_path_factory.mktemp("model") / "tiny.npz")


@pytest.fixture(scope="module")
def program(model) -> Path:
    """A finished run for this machine."""
    code, told = call("build", model, "--target", "linux-x86", "-o", model.parent / "program")
    assert code == 0, told
    return model.parent / "program"


@pytest.fixture
def copied(program, tmp_path) -> Path:
    shutil.copytree(program, tmp_path / "run")
    return tmp_path / "run"


def test_a_run_has_its_stages_and_is_not_repeated(model, program):
    manifest = load_manifest(program)
    assert {name: record.status for name, record in manifest.stages.items()} == dict.fromkeys(
        ("decoder", "build", "verify", "report"), "done"
    )
    assert manifest.stages["verify"].note == "100 tokens equal in the C99 package"
    assert manifest.about["evidence"] == {"c99": 100}
    assert (program / "3-decoder" / "decoder.npz").read_bytes() == model.read_bytes()
    code, told = call("build", model, "--target", "linux-x86", "-o", program)
    assert code == 0 and told.count("unchanged") == 4


def test_a_run_chats_by_its_program(model, program):
    code, told = call("chat", program, "--prompt", "ab", "--seed", 3)
    assert code == 0 and told.startswith("ab" + _expect(model, "ab", 3)) and "a second here" in told
    code, told = call("chat", program, "--seed", 4, "--temperature", 0.5, "--tokens", 3, "--json")
    said = json.loads(told)
    assert code == 0 and said["tokens"] <= 3 and said["board"] is None
    assert _expect(model, "", 4, 128).startswith(said["text"])
    done = subprocess.run(
        [sys.executable, "client.py", "--prompt", "ab", "--seed", "3"],
        cwd=program / "4-build",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "ab" + _expect(model, "ab", 3)
    for words, sentence in (
        (("--virtual",), "has no board; leave --port and --virtual out"),
        (("--prompt", "a" * 50), "the prompt has 52 tokens, the context 20"),
        (("--temperature", 5), "temperature 5: 0 to 4 is possible"),
    ):
        code, told = call("chat", program, *words)
        assert code == 1 and sentence in told


def test_a_run_is_verified_again_and_reported(program):
    code, told = call("verify", program)
    assert code == 0 and "100 tokens" in told
    code, told = call("report", program, "--json")
    summary = json.loads(told)["runs"][0]["summary"]
    assert code == 0 and summary["verify"][0]["integers"] > 1000 and summary["edge"]["bytes"] > 0
    page = (program / "report.html").read_text()
    assert "Decoder in numpy and C99 gave the same integers on all 100 tokens" in page.replace("the decoder", "Decoder")
    assert "cable" not in page  # a tokenizer is no bitstream
    assert "Joules per token that others published" in page and "not ranked" in page and "NVIDIA RTX 3060" in page


@pytest.mark.parametrize("verb", [("infer", "--inputs", "x.npy"), ("energy", "measure")])
def test_verbs_of_samples_name_the_cure(program, verb):
    for words in ((), ("--source", "estimate")) if verb[0] == "energy" else ((),):
        code, told = call(verb[0], program, *verb[1:]) if verb[0] == "infer" else call(*verb, program, *words)
        assert code == 1 and f"greenedge chat {program}" in " ".join(told.split()), told


def test_a_run_that_stops_early_says_so(model, tmp_path):
    code, told = call("build", model, "--until", "decoder", "-o", tmp_path / "run")
    assert code == 0 and "stopped after decoder" in told
    code, told = call("report", tmp_path / "run")
    assert code == 0 and "Nothing has been compared yet" in (tmp_path / "run" / "report.html").read_text()
    for verb in ("verify", "chat"):
        code, told = call(verb, tmp_path / "run")
        assert code == 1 and "has nothing built" in told
    code, told = call("build", model, "--target", "linux-x86", "--docker", "-o", tmp_path / "run")
    assert code == 1 and "which takes no --docker" in told
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    manifest["source"]["kind"] = "model"
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    code, told = call("build", model, "--target", "linux-x86", "-o", tmp_path / "run")
    assert code == 1 and "holds a run of a network; choose another folder" in told


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("3-decoder/decoder.npz", "its sha256 differs"),
        ("4-build/model_data.h", "is not what greenedge writes for the decoder of this run"),
        ("4-build/chat.c", "is not what greenedge writes for the decoder of this run"),
        ("4-build/client.py", "is not what greenedge writes for the decoder of this run"),
        ("4-build/tokenizer.llama2c", "is not what greenedge writes for the decoder of this run"),
        ("4-build/chat", "4-build/chat is not the file that was built"),
    ],
)
def test_a_flipped_bit_is_found(copied, file, sentence):
    _flip(copied / file, -9)
    code, told = call("verify", copied)
    assert code == 5 and sentence in told, told
    code, told = call("chat", copied)
    assert code == 5 and "sha256" in told  # nothing of it is run
    assert load_manifest(copied).stages["verify"].status in ("failed", "done")


def test_a_weight_that_is_consistent_with_the_manifest_is_found(copied):
    """Somebody changes a weight in the C source, and the digests with it."""
    source = copied / "4-build" / "model_data.h"
    text = source.read_text()
    at = text.index("{", text.index("head[")) + 2
    end = min(text.index(",", at), text.index("}", at))
    source.write_text(text[:at] + str(1 - int(text[at:end].strip("{")) % 2) + text[end:])
    import hashlib

    manifest = json.loads((copied / "manifest.json").read_text())
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    manifest["stages"]["build"]["outputs"]["4-build/model_data.h"] = digest
    (copied / "manifest.json").write_text(json.dumps(manifest))
    for verb in ("verify", "chat"):
        code, told = call(verb, copied)
        assert code == 5 and "model_data.h is not what greenedge writes for the decoder of this run" in told


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"evidence": {"c99": 1}}, 5, "does not ask for the comparison that this run needs"),
        ({"evidence": None}, 5, "does not ask for the comparison that this run needs"),
        ({"backend": "finn"}, 1, "there is no back end 'finn' for language models"),
        ({"backend": "decoder"}, 4, "cannot be built for linux-x86 by decoder"),
        ({"source": {"kind": "model", "name": "tiny", "title": "tiny"}}, 1, "back ends are:"),
        ({"target": {"name": "linux-arm64", "title": "x"}}, 5, "is not what greenedge writes"),
    ],
)
def test_a_changed_manifest_is_found(copied, changes, status, words):
    _edit(copied / "manifest.json", **changes)
    code, told = call("verify", copied)
    assert code == status and words in " ".join(told.split()), told


def test_what_cannot_be_built_is_said(model, tmp_path):
    for words, status, sentence in (
        (("--target", "cortex-m4"), 4, "kind 'mcu'"),
        (("--target", "icebreaker"), 4, "family ice40"),
        (("--target", "linux-x86", "--backend", "finn"), 1, "there is no back end 'finn' for language models"),
        (("--target", "linux-x86", "--set", "build.lanes=8"), 1, "decoder-c99 has no option build.lanes"),
        (("--target", "ulx3s-85f", "--set", "build.lanes=x"), 1, "build.lanes is 'x'; a whole number"),
        (("--target", "ulx3s-85f", "--set", "build.lanes=48"), 4, "48 lanes"),
        (("--target", "linux-x86", "--inputs", "x.npy"), 1, "which takes no --inputs"),
        ((), 1, "no target: say --target NAME"),
        (("--target", "linux-x86", "--until", "lower"), 1, "there is no stage 'lower' of tiny, a language model"),
    ):
        code, told = call("build", model, *words, "-o", tmp_path / "run")
        assert code == status and sentence in " ".join(told.split()), told
        assert not (tmp_path / "run" / "manifest.json").exists()
    (tmp_path / "no.npz").write_bytes(model.read_bytes()[:900])
    code, told = call("build", tmp_path / "no.npz", "--target", "linux-x86")
    assert code == 1 and "Traceback" not in told
    code, told = call("chat", model, "--virtual")
    assert code == 1 and "has no board; build it first" in told


def test_a_plan_shows_what_would_be_built(model):
    code, told = call("build", model, "--target", "ulx3s-85f", "--until", "plan")
    assert code == 0 and "weights" in told and "block RAMs: 78 of 208 (estimated)" in told
    code, told = call("build", model, "--target", "ulx3s-85f", "--dry-run")
    assert code == 0 and "{nextpnr-ecp5} --85k" in told.replace("'", "")


def test_without_a_tokenizer_it_is_built_and_does_not_chat(tmp_path):
    code, told = call("build", _save(tmp_path / "m.npz", None), "--target", "linux-x86", "-o", tmp_path / "run")
    assert code == 0 and "no tokenizer" in told
    assert not (tmp_path / "run" / "4-build" / "client.py").exists()
    code, told = call("chat", tmp_path / "run")
    assert code == 1 and "has no tokenizer; quantise its model again with --tokenizer" in told


@pytest.fixture(scope="module")
def board_run(model) -> Path:
    """A run for a board that is neither synthesised nor placed: its RTL and its virtual board are compared."""
    with without_placement():
        code, told = call("build", model, "--target", "ulx3s-85f", *_BOARD, "-o", model.parent / "board")
        assert code == 0, told
        yield model.parent / "board"


@pytest.fixture
def copied_board(board_run, tmp_path) -> Path:
    shutil.copytree(board_run, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.tool("verilator")
def test_a_board_is_verified_by_its_rtl_and_its_pins(board_run):
    verified = json.loads((board_run / "5-verify" / "verify.json").read_text())
    assert {entry["candidate"]: entry["samples"] for entry in verified["verify"]} == {"rtl": 100, "board": 35}
    assert verified["verify"][0]["observed"] == ["residuals", "logits", "tokens"]
    assert verified["figures"]["cycles_per_token"] > verified["figures"]["cycles_per_token_greedy"] > 100
    code, told = call("report", board_run)
    assert code == 0


@pytest.mark.tool("verilator")
@pytest.mark.parametrize(
    ("file", "place"),
    [("4-build/memories/weights.0", 7), ("4-build/memories/cache", -2), ("4-build/rtl/ge_decoder.sv", 30)]
    + [("4-build/board/board.sv", 10), ("4-build/board.json", 30), ("4-build/streams.json", 30)],
)
def test_a_flipped_bit_of_a_board_is_found_before_anything_is_simulated(copied_board, monkeypatch, file, place):
    def refuse(*_, **__):
        raise AssertionError("compiled")

    monkeypatch.setattr("greenedge.backends.decoder.simulate.compile_model", refuse)
    _flip(copied_board / file, place)
    for words in (("verify", copied_board), ("chat", copied_board, "--virtual")):
        code, told = call(*words)
        assert code == 5 and f"{file} is not" in told, told


@pytest.mark.tool("verilator")
def test_a_difference_of_the_rtl_ends_with_its_place(copied_board, monkeypatch):
    """A memory that is otherwise than the decoder although every file is as planned: the comparison itself."""
    from greenedge.backends.decoder import simulate

    run_stories = simulate.run_stories

    def spoil(model, decoder, engine, stories, memories):
        lines = memories["memories/weights.0"].split(b"\n")
        lines[2 * 86 + 45] = b"%08x" % (int(lines[2 * 86 + 45], 16) ^ 4)
        spoiled = {**memories, "memories/weights.0": b"\n".join(lines)}
        return run_stories(model, decoder, engine, stories, spoiled)

    monkeypatch.setattr(simulate, "run_stories", spoil)
    code, told = call("verify", copied_board)
    assert code == 5 and "the RTL differs from the decoder at position 0, layer 0: 1 of 16 integers" in told
    assert "(story 1 of 5)" in told
    verified = json.loads((copied_board / "5-verify" / "verify.json").read_text())
    assert verified["verify"][0]["mismatches"] > 50
    assert load_manifest(copied_board).stages["verify"].status == "failed"
    code, told = call("report", copied_board)
    assert code == 0 and "differs from the decoder in numpy" in (copied_board / "report.html").read_text()


@pytest.mark.tool("verilator")
def test_a_virtual_board_chats_through_its_pins(model, board_run):
    code, told = call("chat", board_run, "--virtual", "--prompt", "ab", "--seed", 3)
    assert code == 0 and told.startswith("ab" + _expect(model, "ab", 3)), told
    assert "tokens/s of the engine at 50 MHz (simulated)" in told and "with the line (simulated)" in told
    code, told = call("chat", board_run, "--virtual", "--seed", 4, "--tokens", 2, "--json")
    board = json.loads(told)["board"]
    assert code == 0 and board["evidence"] == "simulated" and board["first_token_s"] <= board["line_s"] < 1
    code, told = call("chat", board_run)
    assert code == 1 and "say --port DEV for its serial port, or --virtual" in told
    code, told = call("chat", board_run, "--port", "/dev/none")
    assert code == 1 and "there is no port /dev/none" in told


@pytest.mark.tool("verilator")
def test_a_serial_port_chats_with_and_without_greenedge(model, board_run, tmp_path):
    bare = {**os.environ, "PYTHONPATH": str(tmp_path)}
    (tmp_path / "serial.py").write_text("raise ImportError\n")  # the standard library alone
    with VirtualBoard(board_run / "4-build", limit_s=120) as board:
        code, told = call("chat", board_run, "--port", board.port, "--prompt", "ab", "--seed", 3)
        assert code == 0 and told.startswith("ab" + _expect(model, "ab", 3)), told
        assert "by its own counter" in told and "(measured)" in told
        for env in (None, bare):
            argv = [sys.executable, board_run / "4-build" / "client.py", board.port, "--prompt", "ab", "--seed", "3"]
            done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True, env=env)
            assert done.stdout == "ab" + _expect(model, "ab", 3)


def _break_check(data: bytes) -> bytes:
    """A frame whose last check has another bit."""
    return data[:-2] + bytes((data[-2] ^ 1,)) + data[-1:]


@pytest.mark.tool("verilator")
@pytest.mark.parametrize(
    ("fault", "host", "alone"),
    [
        ({}, None, None),
        ({"model": "ab" * 32}, "holds model abababababab", "the board holds another model"),
        ({"spoil": _break_check}, "nobody answers at", "the board does not answer"),
        ({"spoil": lambda data: b""}, "nobody answers at", "the board does not answer"),
        ({"status": 1}, "has no such token", "the board refuses a token"),
    ],
    ids=["right", "another model", "wrong check", "silence", "refusal"],
)
def test_a_board_at_a_port_that_misbehaves_is_named(model, board_run, tmp_path, monkeypatch, fault, host, alone):
    monkeypatch.setattr("greenedge.boards.link_session._OPEN_TRIES", 2)
    decoder, _ = load_model(model)
    held = json.loads((board_run / "4-build" / "board.json").read_text())["model"]
    text = (board_run / "4-build" / "client.py").read_text()
    assert "range(65536), 20)" in text
    (tmp_path / "client.py").write_text(text.replace("range(65536), 20)", "range(65536), 2)"))  # else 20 s of silence
    shutil.copy(board_run / "4-build" / "tokenizer.llama2c", tmp_path)
    with serve(decoder, **{"model": held, **fault}) as port:
        code, told = call("chat", board_run, "--port", port, "--prompt", "ab", "--seed", 3)
        argv = [sys.executable, tmp_path / "client.py", port, "--prompt", "ab", "--seed", "3"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    if host is None:
        assert code == 0 and told.startswith("ab" + _expect(model, "ab", 3)) and "5,000 cycles a token" in told
        assert done.returncode == 0 and done.stdout == "ab" + _expect(model, "ab", 3)
        return
    assert code == 1 and host in told and "Traceback" not in told, told
    assert done.returncode == 1 and alone in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_run_that_was_killed_goes_on(model, tmp_path, monkeypatch):
    from greenedge.run import decoder_stages

    words = ("build", model, "--target", "linux-x86", "-o", tmp_path / "run")

    def interrupt(*_: object) -> str:
        raise KeyboardInterrupt

    for name in ("build", "verify"):
        with monkeypatch.context() as patch:
            patch.setitem(decoder_stages.STAGES, name, interrupt)
            assert call(*words)[0] == 130
        assert load_manifest(tmp_path / "run").stages[name].status == "interrupted"
        (tmp_path / "run" / "4-build.part").mkdir(exist_ok=True)
        (tmp_path / "run" / "4-build.part" / "left").write_text("half")
    code, told = call("chat", tmp_path / "run")
    assert code in (0, 5)  # what is built is whole, or it is said
    code, told = call(*words)
    assert code == 0 and told.count("unchanged") == 2, told
    assert not (tmp_path / "run" / "4-build" / "left").exists()
    (tmp_path / "run" / ".lock").unlink()
    (tmp_path / "run" / ".lock").symlink_to(model)
    code, told = call(*words)
    assert code == 1 and "is no lock that greenedge made" in told


@pytest.mark.slow
@pytest.mark.tool("verilator")
@pytest.mark.tool("yosys")
@pytest.mark.tool("nextpnr-ecp5")
def test_a_bitstream_is_placed_simulated_and_read_back(tmp_path, monkeypatch):
    """The whole chain but for RTL and pins, which the tests above have: synthesis, placement, netlist, bitstream."""
    shape = {"heads": 2, "kv_heads": 1, "head_dim": 4, "hidden": 5, "context": 8, "layers": 1}
    netlist = next(stage for stage in fpga.BACKEND.stages if stage.name == "netlist")
    monkeypatch.setattr(fpga, "BACKEND", dataclasses.replace(fpga.BACKEND, stages=(netlist,)))
    run = tmp_path / "run"
    words = ("--target", "ulx3s-25f", "--set", "build.lanes=4", "--set", "build.clock_hz=25000000", "-o", run)
    code, told = call("build", _save(tmp_path / "m.npz", **shape), *words)
    assert code == 0 and "8 tokens equal in the simulated netlist; netlist memories read back" in told, told
    summary = json.loads((run / "7-report" / "summary.json").read_text())
    assert [one["differs"] for one in summary["read_back"]] == [None] * 4
    assert summary["read_back"][0]["items"] > 5000
    assert summary["hardware"]["fmax_hz"] > 25e6 and summary["hardware"]["bram_bits"] == 11 * 18432
    assert (run / "4-build" / "top.bit").stat().st_size > 100_000
    code, told = call("program", run, "--dry-run")
    assert code == 0 and "openFPGALoader" in told
    _check_energy(run)

    def tell(folder, decoder, options, stories, progress):  # what reading back finds alone
        return [execute_story(decoder, story) for story in stories]

    told_by_numpy = dataclasses.replace(netlist, tell=tell)
    monkeypatch.setattr(fpga, "BACKEND", dataclasses.replace(fpga.BACKEND, stages=(told_by_numpy,)))
    assert call("verify", run)[0] == 0
    for file, spoil, sentence in (
        ("netlist.json", _spoil_netlist, "in no block RAM as the decoder has it"),
        ("top.bit", _flip, "top.bit differs in byte"),
        ("top.config", _spoil_routed, "no equal in top.config"),
        ("report.json", _flip, "report.json is not the file that was built"),
    ):
        path = run / "4-build" / file
        kept = path.read_bytes()
        spoil(path)
        code, told = call("verify", run)
        assert code == 5 and sentence in " ".join(told.split()), told
        path.write_bytes(kept)
    assert call("verify", run)[0] == 0


def _check_energy(run: Path) -> None:
    """Joules per token, estimated from the netlist's toggles, kept in the run and said by `chat`."""
    assert find_token_energy(run) is None
    code, told = call("energy", "measure", run, "--source", "estimate", "--json")
    (row,) = json.loads(told)["rows"]
    total = figure(row, "total")
    assert code == 0 and total.evidence == "estimated" and total.low < total.value < total.high
    assert {part["part"] for part in row["parts"]} >= {"static", "switching"} and "a token" in row["workload"]
    assert all(part["power_estimate_w"] > 0 for part in row["parts"])
    assert find_token_energy(run) == total
    known = {**_BOARD_FIGURES, "j_per_token": {"value": 3.2e-6, "evidence": "estimated"}}
    assert "3.2 µJ a token (estimated" in describe_chat(Chat(1, 2, 1.0, "", known))
    assert "energy measure RUN --source estimate" in describe_chat(Chat(1, 2, 1.0, "", _BOARD_FIGURES))
    code, told = call("energy", "measure", run, "--source", "estimate:rtl")
    assert code == 1 and "the netlist alone is counted" in told


def _spoil_netlist(path: Path) -> None:
    """One bit of a block RAM that belongs to a memory."""
    netlist = json.loads(path.read_text())
    cells = netlist["modules"]["decoder_core"]["cells"].values()
    parameters = [cell["parameters"] for cell in cells if cell["type"] == "DP16KD"]
    one = max(parameters, key=lambda each: each["INITVAL_00"].count("1"))
    text = one["INITVAL_00"]
    place = text.rindex("1")
    one["INITVAL_00"] = text[:place] + "0" + text[place + 1 :]
    path.write_text(json.dumps(netlist))


def _spoil_routed(path: Path) -> None:
    """A word of a block RAM that is not zero."""
    lines = path.read_text().split("\n")
    begin = next(k for k, line in enumerate(lines) if line.startswith(".bram_init"))
    at = next(k for k in range(begin + 1, len(lines)) if lines[k].strip("0 "))
    first, _, rest = lines[at].partition(" ")
    lines[at] = f"{int(first, 16) ^ 1:03x} {rest}"
    path.write_text("\n".join(lines))
