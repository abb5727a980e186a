"""Builds the board shell around the small test core for every open board: pins, PLL, clock met.

    python benchmarks/board_bitstreams.py [-o FOLDER] [BOARD…]

Prints per board: family, clock asked for, clock reached after routing, logic cells, size of the bitstream.
"""

import argparse
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "backends")]

from standin import CORE, MODEL, OUTPUT, SOURCE  # noqa: E402

from greenedge.errors import GreenedgeError  # noqa: E402
from greenedge.hdl.board_shell import CoreInfo, join, shell_request  # noqa: E402
from greenedge.hdl.board_shell.bitstream import (  # noqa: E402
    PRODUCT,
    REPORT,
    STAT,
    TIMING,
    bitstream_commands,
    bitstream_files,
)
from greenedge.target import load_target  # noqa: E402
from greenedge.tools.plan import Plan  # noqa: E402
from greenedge.tools.run import execute  # noqa: E402

BOARDS = ("ulx3s-85f", "colorlight-i5", "orangecrab-25f", "icebreaker", "tang-nano-9k")


def build(board: str, folder: Path) -> str:
    target = load_target(board)
    request = shell_request(target, MODEL)
    made = join(CoreInfo("ge_standin", SOURCE, OUTPUT, MODEL, ("ge_standin.sv",)), request)
    product = PRODUCT[target.device.family]
    files = {
        **made.files,
        **bitstream_files(target, "ge_standin"),
        "ge_standin.sv": CORE.read_bytes(),
        "shell.json": json.dumps(request).encode(),
    }
    plan = Plan(files, bitstream_commands(target, request), (product, REPORT, STAT, TIMING))
    began = time.monotonic()
    execute(plan, folder, lambda line: print(f"  {line}", file=sys.stderr))
    report = json.loads((folder / REPORT).read_text())
    reached = min(clock["achieved"] for clock in report["fmax"].values())
    used = {key: value["used"] for key, value in report["utilization"].items() if value["used"]}
    return (
        f"{board:15s} {target.device.family:6s} {made.clock_hz / 1e6:5.1f} MHz asked, {reached:6.1f} MHz reached, "
        f"{(folder / product).stat().st_size:,} bytes of {product}, {time.monotonic() - began:.0f} s, {used}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", default="build/boards")
    parser.add_argument("boards", nargs="*", default=BOARDS)
    arguments = parser.parse_args()
    failed = 0
    for board in arguments.boards:
        try:
            print(build(board, Path(arguments.o) / board), flush=True)
        except GreenedgeError as error:
            failed = 1
            print(f"{board:15s} {error}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
