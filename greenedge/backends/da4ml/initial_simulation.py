"""Counts cycles of the core on random samples, with and without stalls: simulated, not estimated.

python -m greenedge.backends.da4ml.initial_simulation      in the build folder, after generate; writes simulation.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from greenedge.backends.da4ml.build_dir import read_json, rtl_digest, sources_of, streams_of
from greenedge.backends.da4ml.tapped_core import MODULE, read_probes, write_tapped_core
from greenedge.errors import GreenedgeError
from greenedge.files.atomic_write import atomic_write
from greenedge.graph import load_graph, run_graph
from greenedge.graph.joined_inputs import join_inputs
from greenedge.graph.joined_outputs import join_output_edges, join_outputs, split_outputs
from greenedge.graph.ops.base import Ints
from greenedge.hdl.axi_stream.core import TOP
from greenedge.hdl.axi_stream.simulation import Simulated, Stall, compile_model, run_model, sim_top

SAMPLES, SEED = 64, 1


def run(folder: Path, x: Ints, stall: Stall, progress: Callable[[str], None], keep: Sequence[str] = ()) -> Simulated:
    """Verilator on the folder's RTL for x (N, *shape): the output, the edges of `keep` at which layers end, cycles."""
    source, output = streams_of(folder)
    sources, dut, streams = sources_of(folder), TOP, [output]
    if keep:
        edges = load_graph(folder).edges
        probes, latency = read_probes(read_json(folder, "streams.json"), edges)
        probes = [probe for probe in probes if probe.edge in keep and probe.edge != output.edge]
        text, taps = write_tapped_core(probes, latency, source, output, edges)
        sources, dut, streams = {**sources, "probed.sv": text.encode()}, MODULE, [output, *taps]
    progress("compiling the RTL with Verilator (kept for the next time)")
    top = sim_top(dut, source, streams, ".restart(1'b0), ")
    model = compile_model({**sources, "sim_top.sv": top.encode()}, progress)
    progress(f"simulating {len(x)} samples cycle by cycle")
    return run_model(model, folder, source, streams, x, keep, stall)


def _require_latency(job: Mapping[str, Any], cycles: int) -> None:
    """Raises GreenedgeError for a core that is slower than asked for: before placement, which takes minutes."""
    wanted, reached = job.get("latency_s"), cycles / job["clock_hz"]
    if wanted is not None and reached > wanted:
        raise GreenedgeError(
            f"a result takes {cycles} cycles, {reached * 1e9:,.0f} ns at {job['clock_hz'] / 1e6:g} "
            f"MHz, and {wanted * 1e9:,.0f} ns were "
            "asked for; use a faster clock (--set build.clock_hz) or fewer stages (--set "
            "build.cutoff=6)"
        )


def main() -> int:
    """Simulates the core in the working directory with and without stalls; exit status 1 where it differs from the
    graph or is slower than asked for.
    """
    here = Path(".")
    try:
        graph = load_graph(here)
        rng = np.random.default_rng(SEED)
        levels = {
            edge.name: rng.integers(edge.lo, edge.hi + 1, (SAMPLES, *edge.shape))
            for edge in map(graph.edges.__getitem__, graph.inputs)
        }
        x = join_inputs(graph, levels)
        free = run(here, x, Stall(), print)
        stalled = run(here, x, Stall.at_pace(*streams_of(here), free.interval_cycles, seed=2), print)
        expected = join_outputs(graph, run_graph(graph, levels))
        for how, result in (("", free), (" with random stalls", stalled)):
            values = split_outputs(graph, result.values[join_output_edges(graph).name])
            if not np.array_equal(join_outputs(graph, values), expected):
                raise GreenedgeError(f"the unrolled RTL differs from the integer graph on random samples{how}")
        _require_latency(read_json(here, "job.json"), free.first_output_cycles)
        record = {
            "samples": SAMPLES,
            "interval_cycles": free.interval_cycles,
            "latency_cycles": free.first_output_cycles,
            "stalled": "equal",
            "rtl_sha256": rtl_digest(here),
        }
        with atomic_write(here / "simulation.json") as path:
            path.write_text(json.dumps(record, indent=1) + "\n")
    except GreenedgeError as error:
        print(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
