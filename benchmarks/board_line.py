"""How much of a board's line the driver uses, in simulated time: the virtual board with its UART at 3 Mbaud.

    python benchmarks/board_line.py [RUN]      a run built for a board; without it the small test core

Prints inferences per second over the line, the most that the line carries (10 bits a byte, the longer direction), and
their ratio, for several portion sizes. Time is simulated, and the simulation waits for the host: the delays of a real
host are not included.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from greenedge.boards.board_runner import pack_samples, streams_of  # noqa: E402
from greenedge.boards.link_session import Session  # noqa: E402
from greenedge.boards.ports import SerialPort  # noqa: E402
from greenedge.boards.virtual import VirtualBoard  # noqa: E402
from tests.backends.standin import build_standin  # noqa: E402

PORTIONS = (10, 100, 1000, 3000)


def measure(board: VirtualBoard, portion: int) -> tuple[float, float]:
    """(inferences per simulated second, the line's limit)."""
    about = board.board
    source, _ = streams_of(about)
    rng = np.random.default_rng(1)
    low = -(1 << source.bits - 1) if source.signed else 0
    samples = pack_samples(about, rng.integers(low, low + (1 << source.bits), (portion, *source.shape)))
    with Session(lambda: SerialPort(board.port, about["baud"]), about, board.port) as session:
        session.infer(samples)
        before = board.status()
        results = session.infer(samples)
        after = board.status()
    assert all(result is not None for result in results)
    seconds = (after["active"] - before["active"]) / about["clock_hz"]
    return portion / seconds, about["baud"] / 10 / max(about["input"]["bytes"], about["output"]["bytes"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.run / "4-build" if arguments.run else Path(scratch)
        if not arguments.run:
            build_standin(folder)
        with VirtualBoard(folder) as board:
            print(
                f"{board.board['target']}, {board.board['baud']:,} baud, {board.board['input']['bytes']} bytes in, "
                f"{board.board['output']['bytes']} out"
            )
            print("portion  inferences/s  line's limit  share")
            for portion in PORTIONS:
                rate, limit = measure(board, portion)
                print(f"{portion:7,}  {rate:12,.0f}  {limit:12,.0f}  {rate / limit:5.1%}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
