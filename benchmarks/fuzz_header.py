"""Fuzzes the C header of the build folder, guided by coverage, with address and undefined-behaviour sanitizers.

    python benchmarks/fuzz_header.py [--executions N] [--seeds N]

Needs gcc alone. Prints per seed: executions, edges reached, inputs kept; then compares the frames of every kept input
with the Python codec's. A crash, a hang or a difference ends it with an error.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from greenedge.hdl.board_shell.protocol import Decoder  # noqa: E402
from tests.fuzz import compile_fuzzer, run_fuzzer  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--executions", type=int, default=300_000)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        program = compile_fuzzer(Path(folder))
        for seed in range(1, arguments.seeds + 1):
            began = time.process_time()
            found = run_fuzzer(program, seed, arguments.executions, timeout_s=3600)
            for data, frames, bad in found.corpus:
                decoder = Decoder(limit=137)
                same = [(f.kind, f.seq, f.payload) for f in decoder.feed(data)] == frames and decoder.bad == bad
                assert same, f"the codecs differ on {data.hex()}"
            print(
                f"seed {seed}: {found.executions:,} executions, {found.edges} edges, {len(found.corpus)} inputs kept, "
                f"all with the Python codec's frames; {time.process_time() - began:.0f} s",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
