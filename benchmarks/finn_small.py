"""Small MLPs on the small parts: iCE40UP5K (icebreaker) and, experimental, Gowin GW1NR-9 (tang-nano-9k).

    python benchmarks/finn_small.py [icebreaker] [tang-nano-9k] [-o FOLDER]

Whole boards through the finn back end's own plan: bitstream, clock asked and reached, cells; then RTL and the netlist
that was placed against the integer graph on 24 vectors.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

from greenedge.backends import finn  # noqa: E402
from greenedge.errors import GreenedgeError  # noqa: E402
from greenedge.graph import run_graph  # noqa: E402
from greenedge.target import load_target  # noqa: E402
from greenedge.tools.run import execute  # noqa: E402
from tests.backends.nets import inputs, mlp  # noqa: E402

BOARDS = ("icebreaker", "tang-nano-9k")


def build(board: str, folder: Path) -> str:
    """One line of the table."""
    rng = np.random.default_rng(1)
    graph, target, began = mlp(rng, (64, 32, 10), 4, 4), load_target(board), time.monotonic()
    options = {"fps": 1000}
    if reasons := finn.check(graph, target, options):
        return f"{board:14s} refused: {reasons[0]}"
    try:
        execute(finn.plan(graph, target, options), folder, lambda line: print(f"  {line}", file=sys.stderr, flush=True))
    except GreenedgeError as error:
        return f"{board:14s} not built: {error}"
    x = inputs(rng, graph, 24)
    expected = run_graph(graph, x)[graph.outputs[0]]
    stages = {
        "rtl": finn.simulate(folder, x),
        **{name: run(folder, x, lambda *_: None) for name, run in finn.partial_stages(folder).items()},
    }
    exact = ", ".join(
        f"{name} {'exact' if np.array_equal(got[graph.outputs[0]], expected) else 'DIFFERS'}"
        for name, got in stages.items()
    )
    hardware = finn.report(folder)["hardware"]
    counts = ", ".join(
        f"{hardware[name]:,} {name}" for name in ("lut4", "ff", "bram_bits", "comb") if hardware[name] is not None
    )
    return (
        f"{board:14s} {hardware['clock_hz'] / 1e6:g} MHz asked, {hardware['fmax_hz'] / 1e6:.1f} reached, {counts}, "
        f"bitstream of {hardware['bitstream_bytes']:,} bytes; {exact} on {len(x)} vectors; "
        f"{time.monotonic() - began:.0f} s"
    )


def main() -> int:
    """Prints a line per board; exit 1 where something differs or is not built."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("boards", nargs="*", default=list(BOARDS))
    parser.add_argument("-o", "--out", type=Path, default=Path(tempfile.gettempdir()) / "greenedge-finn-small")
    options = parser.parse_args()
    lines = []
    for board in options.boards:
        lines.append(build(board, options.out / board))
        print(lines[-1], flush=True)
    return int(any("DIFFERS" in line or "not built" in line or "refused" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
