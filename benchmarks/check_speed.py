"""CPU seconds of `greenedge check`, against those of a bare `import onnx, numpy` in the same run.

    python benchmarks/check_speed.py kws.onnx ic.onnx --target linux-x86 cortex-m4 ulx3s-85f
    python benchmarks/check_speed.py *.onnx --target ulx3s-85f --against OTHER/CHECKOUT

Every check is a process of its own, as a user starts it; its user and system CPU seconds are those that the kernel
counts, the best of --repeat rounds. A round runs the bare import, this checkout and the one to compare with one after
the other, so that a loaded machine slows all of them alike. Bytecode is written to a folder of the run's own, and the
first round, which compiles, does not count. With --against the two answers (`--json`) must be equal.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
BARE = "import numpy, onnx"
CHECK = "import sys; from greenedge.cli import main; sys.argv[0] = 'greenedge'; main()"


def measure(code: str, words: list[str], tree: Path, bytecode: Path) -> tuple[float, str]:
    """(CPU seconds, standard output) of a Python process that finds greenedge in `tree`."""
    hidden = ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH")
    variables = {name: value for name, value in os.environ.items() if name not in hidden}
    variables |= {"PYTHONPATH": str(tree), "PYTHONPYCACHEPREFIX": str(bytecode)}
    before = os.times()
    done = subprocess.run([sys.executable, "-P", "-c", code, *words], env=variables, capture_output=True, text=True)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return used, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--target", nargs="+", default=["linux-x86", "cortex-m4", "ulx3s-85f"])
    parser.add_argument("--against", type=Path, help="another checkout of greenedge")
    parser.add_argument("--repeat", type=int, default=5)
    given = parser.parse_args()
    trees = {"this": HERE} | ({"other": given.against.resolve()} if given.against else {})
    print(f"{'model':<12} {'target':<12} {'import':>7} " + " ".join(f"{name:>7} {'ratio':>6}" for name in trees))
    with tempfile.TemporaryDirectory() as folder:
        for model in given.models:
            for target in given.target:
                words = ["check", str(model.resolve()), "--target", target, "--json"]
                best = dict.fromkeys(("import", *trees), float("inf"))
                answers: dict[str, str] = {}
                for k in range(given.repeat + 1):
                    for name in best:
                        bytecode = Path(folder) / name
                        if name == "import":
                            seconds, _ = measure(BARE, [], HERE, bytecode)
                        else:
                            seconds, answers[name] = measure(CHECK, words, trees[name], bytecode)
                        best[name] = min(best[name], seconds) if k else best[name]
                assert len(set(answers.values())) == 1, f"{model} for {target}: the answers differ"
                shown = " ".join(f"{best[name]:>7.2f} {best[name] / best['import']:>6.2f}" for name in trees)
                print(f"{model.stem:<12} {target:<12} {best['import']:>7.2f} {shown}", flush=True)


if __name__ == "__main__":
    main()
