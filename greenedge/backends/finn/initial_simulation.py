"""Counts cycles of the stitched RTL on a few random samples: simulated, not estimated.

python -m greenedge.backends.finn.initial_simulation      in the build folder, after stitching; writes simulation.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from greenedge.backends.finn import build_dir
from greenedge.backends.finn.design import FILE
from greenedge.errors import GreenedgeError
from greenedge.files.atomic_write import atomic_write
from greenedge.graph import load_graph, run_graph
from greenedge.graph.joined_inputs import join_inputs
from greenedge.graph.joined_outputs import join_outputs
from greenedge.hdl.axi_stream.simulation import Stall

SAMPLES, SEED = 12, 1


def _require_latency(asked: int | None, cycles: int) -> None:
    """Refuses a core that is slower than was promised, before synthesis: the schedule knows it to a few cycles."""
    if asked is not None and cycles > asked:
        raise GreenedgeError(
            f"a result takes {cycles:,} cycles in simulation, and {asked:,} were asked for; ask for a little "
            "less with --latency, or raise build.clock_hz"
        )


def main() -> int:
    """Simulates what lies in the working directory, with and without stalls, and refuses a first difference at once."""
    here = Path(".")
    try:
        graph = load_graph(here)
        rng = np.random.default_rng(SEED)
        levels = {
            edge.name: rng.integers(edge.lo, edge.hi + 1, (SAMPLES, *edge.shape))
            for edge in map(graph.edges.__getitem__, graph.inputs)
        }
        x = join_inputs(graph, levels)
        free = build_dir.simulate(here, x, (), Stall(), print)
        source, streams, _ = build_dir.streams_of(here)
        stalled = build_dir.simulate(
            here, x, (), Stall.at_pace(source, streams[0], free.interval_cycles, seed=2), print
        )
        expected, output = join_outputs(graph, run_graph(graph, levels)), streams[0].edge
        for how, result in (("", free), (" with random stalls", stalled)):
            if not np.array_equal(result.values[output].reshape(SAMPLES, -1), expected):
                raise GreenedgeError(f"the stitched RTL differs from the integer graph on random samples{how}")
        _require_latency(build_dir.read(here, FILE).get("asked_latency_cycles"), free.first_output_cycles)
        record = {
            "samples": SAMPLES,
            "interval_cycles": free.interval_cycles,
            "latency_cycles": free.first_output_cycles,
            "stalled": "equal",
            "rtl_sha256": build_dir.rtl_digest(here),
        }
        with atomic_write(here / "simulation.json") as path:
            path.write_text(json.dumps(record, indent=1) + "\n")
    except GreenedgeError as error:
        print(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
