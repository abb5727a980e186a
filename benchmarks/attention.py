"""Random transformer blocks (bits, heads, lengths, masks, norms) through the back ends that take them: every stored
integer against the integer graph's, worked out on the integers before it; a dense layer of onnxruntime may be one level
off, as its certificate says.

    python benchmarks/attention.py [--blocks 500] [--seed 0]

It stops at the first difference with the block's seed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.backends.test_attention import TARGETS, agree  # noqa: E402


def main() -> int:
    """Prints a line for each back end; 1 where one differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for name in TARGETS:
        integers = 0
        for number in range(args.seed, args.seed + args.blocks):
            with tempfile.TemporaryDirectory(prefix="greenedge-attention-") as folder:
                try:
                    integers += agree(name, np.random.default_rng(number), Path(folder))
                except AssertionError as error:
                    print(f"{name}: block {number} differs: {error}")
                    return 1
        print(f"{name:12}  {args.blocks} blocks  {integers:,} integers  0 differ", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
