"""The C header under a coverage-guided fuzzer, and what it kept through the Python codec: the same frames from both."""

import pytest

from greenedge.hdl.board_shell.protocol import Decoder
from tests.fuzz import compile_fuzzer, run_fuzzer

_MAX_BODY = 5 + 128 + 4  # as target.c has it


@pytest.mark.tool("g++")
def test_the_c_header_under_fuzzing(tmp_path):
    found = run_fuzzer(compile_fuzzer(tmp_path), 1, 6_000)
    assert found.executions == 6_000 and found.edges > 40 and len(found.corpus) > 30, (found.edges, len(found.corpus))
    assert sum(len(frames) for _, frames, _ in found.corpus) > 20
    for data, frames, bad in found.corpus:
        decoder = Decoder(limit=_MAX_BODY)
        assert [(f.kind, f.seq, f.payload) for f in decoder.feed(data)] == frames and decoder.bad == bad, data.hex()
