"""The decoder's engine on an ECP5-85F: cycles a token, cells, clock, tokens a second.

    python benchmarks/decoder_engine.py [DECODER.npz] [-o FOLDER] [--lanes 64] [--mhz 65] [--seed 1]
        [--stories 5] [--no-place] [--netlist TOKENS] [--board]

Without a file the decoder has random weights in the shape of stories260K; DECODER.npz is what `greenedge quantise`
writes of a language model. Stories fill the context, with temperatures 0 and 1; every residual, logit
and token of the RTL is compared with numpy. Cells are yosys's counts and MHz nextpnr's after routing, one seed:
figures of the tools, not of silicon. Tokens a second are derived: clock over cycles. --board goes on to the bitstream
for ulx3s-85f, with the shell around the engine, and reads it back.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from greenedge.backends.decoder.board import plan_board  # noqa: E402
from greenedge.backends.decoder.engine import describe  # noqa: E402
from greenedge.backends.decoder.memories import write_memories  # noqa: E402
from greenedge.backends.decoder.place import plan_alone  # noqa: E402
from greenedge.backends.decoder.resources import count_blocks, count_multipliers, estimate  # noqa: E402
from greenedge.backends.decoder.simulate import (  # noqa: E402
    Story,
    compare,
    execute_story,
    simulate_netlist,
    simulate_stories,
)
from greenedge.decoder.sampling import Sampling  # noqa: E402
from greenedge.decoder.store import load_model  # noqa: E402
from greenedge.hdl.board_shell.read_back import read_back_bitstream  # noqa: E402
from greenedge.target import load_target  # noqa: E402
from greenedge.tools.run import execute  # noqa: E402

CELLS = ("LUT4", "CCU2C", "TRELLIS_DPR16X4", "TRELLIS_FF", "DP16KD", "MULT18X18D")


def read_decoder(path):
    if path:
        return load_model(Path(path))[0]
    from tests.decoder.models import random_decoder

    shape = dict(heads=8, kv_heads=4, head_dim=8, hidden=172, layers=5, vocabulary=512, context=256)
    return random_decoder(np.random.default_rng(1), norm_form="table", **shape)


def run_stories(decoder, count, lanes):
    """Prints what was compared; {temperature: mean cycles}."""
    stories = [Story((1,), decoder.context, Sampling(256 * (seed > 1), seed)) for seed in range(1, count + 1)]
    traces = simulate_stories(decoder, stories, lanes, progress=print)
    compared, cycles = 0, {}
    for story, trace in zip(stories, traces, strict=True):
        compared += compare(execute_story(decoder, story), trace)
        cycles.setdefault(story.sampling.temperature, []).extend(trace.cycles)
        first, last, mean = trace.cycles[0], trace.cycles[-1], sum(trace.cycles) / len(trace.cycles)
        print(f"{story.sampling}: {len(trace.tokens)} tokens; cycles {first} to {last}, mean {mean:.1f}")
    print(f"{compared:,} integers compared, 0 differ; {sum(len(trace.tokens) for trace in traces):,} tokens")
    return {temperature: sum(values) / len(values) for temperature, values in cycles.items()}


def place(decoder, lanes, folder, mhz, seed):
    """Prints cells beside their estimates; the clock in MHz."""
    engine, device = describe(decoder, lanes), load_target("ulx3s-85f").device
    plan = plan_alone(engine, write_memories(decoder, engine), device.toolchain["nextpnr"], mhz, seed)
    execute(plan, folder, print)
    found = json.loads((folder / "stat.json").read_text())["design"]["num_cells_by_type"]
    print({name: found.get(name, 0) for name in CELLS}, "counted by yosys")
    print(estimate(engine), count_blocks(engine), count_multipliers(engine), "estimated")
    report = json.loads((folder / "report.json").read_text())
    print({name: f"{one['used']} of {one['available']}" for name, one in report["utilization"].items() if one["used"]})
    return max(clock["achieved"] for clock in report["fmax"].values())


def build_board(decoder, lanes, folder, seed):
    """Prints the cells and the clock of the whole board, and what its bitstream was compared with."""
    target = load_target("ulx3s-85f")
    execute(plan_board(decoder, target, lanes, 60_000_000, seed), folder, print)
    report = json.loads((folder / "report.json").read_text())
    used = {name: f"{one['used']} of {one['available']}" for name, one in report["utilization"].items() if one["used"]}
    print("board:", used, (folder / "timing.log").read_text().strip())
    netlist = json.loads((folder / "netlist.json").read_text())
    for one in read_back_bitstream(folder, netlist, target.device.family, lambda line: None):
        print(f"{one.what} against {one.against}: {one.items:,} {one.unit}, {one.differs or 'all equal'}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("decoder", nargs="?")
    parser.add_argument("-o", type=Path, default=Path("decoder-engine"))
    parser.add_argument("--lanes", type=int, default=64)
    parser.add_argument("--mhz", type=float, default=65.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stories", type=int, default=5)
    parser.add_argument("--no-place", action="store_true")
    parser.add_argument("--netlist", type=int, default=0, metavar="TOKENS")
    parser.add_argument("--board", action="store_true")
    args = parser.parse_args()
    decoder = read_decoder(args.decoder)
    cycles = run_stories(decoder, args.stories, args.lanes) if args.stories else {}
    if not args.no_place:
        mhz = place(decoder, args.lanes, args.o, args.mhz, args.seed)
        print(f"{mhz:.2f} MHz after routing")
        for temperature, mean in cycles.items():
            print(f"temperature {temperature / 256:g}: {mhz * 1e6 / mean:,.0f} tokens/s (derived)")
    if args.netlist:
        story = Story((1,), args.netlist, Sampling(256, 3))
        trace = simulate_netlist(args.o / "netlist.json", decoder, [story], args.lanes, print)[0]
        print(f"netlist: {compare(execute_story(decoder, story), trace):,} integers of {args.netlist} tokens equal")
    if args.board:
        build_board(decoder, args.lanes, args.o / "board", args.seed)


if __name__ == "__main__":
    main()
