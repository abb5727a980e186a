"""Files of one LiteRT operator each: the integer graph of the reader against LiteRT's arm64 kernels on an emulated
Cortex-A72, for both kernel sets.

    python benchmarks/arm64_operators.py [--files 60] [--only KIND]

Reader and graph run here, LiteRT under qemu (benchmarks/arm64.py says what that needs). Which kernels arm64 shares with
x86 is what this shows: a kind with differences is not claimed there. Emulated time is no latency; none is printed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import platformdirs

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.arm64 import PYTHON, arm64_root, emulator_argv  # noqa: E402
from greenedge.frontends.source import read_model  # noqa: E402
from greenedge.graph import run_graph  # noqa: E402
from greenedge.lower import lower_source  # noqa: E402
from tests.lower.tflite_files import ONE_OPERATOR, one_operator  # noqa: E402

KERNELS = {"xnnpack": "AUTO", "reference": "BUILTIN_REF"}
_STEP_S = 3000
_RUNNER = """
import json, sys
import numpy as np
from ai_edge_litert import interpreter as litert
found = []
for entry in json.load(open("list.json")):
    kind = getattr(litert.OpResolverType, entry["resolver"])
    one = litert.Interpreter(model_path=entry["file"], num_threads=1, experimental_op_resolver_type=kind)
    one.allocate_tensors()
    given = np.load(entry["file"] + ".npz")
    xs = [given[f"x{k}"] for k in range(len(one.get_input_details()))]
    y, (out,) = given[entry["name"]], one.get_output_details()
    differing = 0
    for k in range(len(y)):
        for detail, x in zip(one.get_input_details(), xs):
            one.set_tensor(detail["index"], x[k : k + 1])
        one.invoke()
        differing += int((one.get_tensor(out["index"]).reshape(-1) != y[k].reshape(-1)).sum())
    found.append([entry["kind"], entry["name"], differing, int(y.size)])
json.dump(found, open("found.json", "w"))
"""


def main() -> int:
    """Prints a line for each kind; 1 where one differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=60)
    parser.add_argument("--only", choices=ONE_OPERATOR)
    args = parser.parse_args()
    kinds = [args.only] if args.only else list(ONE_OPERATOR)
    root = arm64_root(Path(platformdirs.user_cache_dir("greenedge")) / f"arm64-{PYTHON}")
    worst = 0
    print(f"{'operator':26}  {'files':>5}  {'kernels':9}  {'integers':>9}  differing")
    for kind in kinds:
        with tempfile.TemporaryDirectory(prefix="greenedge-arm64-") as scratch:
            for name, differing, integers in _compare(kind, args.files, Path(scratch), root):
                print(f"{kind:26}  {args.files:5}  {name:9}  {integers:9,}  {differing:,}", flush=True)
                worst = max(worst, differing)
    return int(worst > 0)


def _compare(kind: str, files: int, folder: Path, root: Path) -> list[tuple[str, int, int]]:
    """(kernel set, differing integers, all) of the files of one kind."""
    listed = []
    for seed in range(files):
        net, out, xs = one_operator(kind, seed)
        path = net.save(folder / f"{seed}.tflite", out)
        results = {name: _run_graph(path, xs, name) for name in KERNELS}
        np.savez(folder / f"{seed}.tflite.npz", **{f"x{k}": x for k, x in enumerate(xs)}, **results)
        listed += [
            {"file": path.name, "kind": kind, "name": name, "resolver": resolver} for name, resolver in KERNELS.items()
        ]
    (folder / "list.json").write_text(json.dumps(listed))
    (folder / "runner.py").write_text(_RUNNER)
    done = subprocess.run(
        [*emulator_argv(root), "runner.py"], cwd=folder, capture_output=True, text=True, timeout=_STEP_S, check=False
    )
    if done.returncode:
        sys.exit(f"LiteRT on the emulated machine ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    found = json.loads((folder / "found.json").read_text())
    return [
        (name, *(sum(entry[column] for entry in found if entry[1] == name) for column in (2, 3))) for name in KERNELS
    ]


def _run_graph(path: Path, xs: list[np.ndarray], kernels: str) -> np.ndarray:
    """The integers of the file's one output, as they are stored."""
    lowered = lower_source(read_model(path, kernels))
    edges = lowered.graph.edges
    feeds = {
        edge: x.astype(np.int64).reshape(len(x), *edges[edge].shape)
        for edge, x in zip(lowered.graph.inputs, xs, strict=True)
    }
    return run_graph(lowered.graph, feeds)[lowered.outputs[0].edge]


if __name__ == "__main__":
    sys.exit(main())
