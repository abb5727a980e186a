"""Compiles and runs the package's own self-test, and has cross compilers on PATH measure the size of the code.

python -m greenedge.backends.c99.selftest       in the build folder; writes selftest.json
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from greenedge.backends.c99.cores import CORES, LEVEL, measure_core
from greenedge.backends.c99.memory_plan import plan_memory
from greenedge.backends.c99.run import compile_selftest, run_program
from greenedge.errors import GreenedgeError, VerificationError
from greenedge.files.atomic_write import atomic_write
from greenedge.graph import load_graph

_ASK_S = 300


def main() -> int:
    """Runs the self-test of the package in the working directory; exit status 1 where it fails."""
    here = Path(".").absolute()
    try:
        compile_selftest(here, here / "selftest")
        said = run_program([str(here / "selftest")], here, _ASK_S, "the self-test of the C package").decode().strip()
        (here / "selftest").unlink()
        if not re.fullmatch(r"[1-9]\d* output integers, 0 differ, hash ([0-9a-f]{8}), expected \1", said):
            raise VerificationError(f"the self-test of the C package says: {said[:100]}.")
        calls = len(plan_memory(load_graph(here)).calls)
        cores = {name: measure_core(core, here, calls) for name, core in CORES.items()}
        record = {"said": said, "level": LEVEL, "cores": {name: found for name, found in cores.items() if found}}
        with atomic_write(here / "selftest.json") as path:
            path.write_text(json.dumps(record, indent=1) + "\n")
    except GreenedgeError as error:
        print(f"error: {error}")
        return 1
    print(said)
    return 0


if __name__ == "__main__":
    sys.exit(main())
