"""Runs the FINN+ worker in its environment.

python -m greenedge.backends.finn.finnplus.launch job.json        in the build folder
"""

from __future__ import annotations

import os
import sys

from greenedge.backends.finn.finnplus.environment import WORKER, finn_python
from greenedge.errors import GreenedgeError


def main(job: str) -> int:
    """Replaces this process by the worker, so that whoever ends us ends it."""
    try:
        python = finn_python(lambda line: print(line, flush=True))
    except GreenedgeError as error:
        print(f"error: {error} FINN+ only checks the cycles: --set build.finn_plus=0 builds without it.")
        return 1
    os.execv(python, [str(python), "-I", "-B", str(WORKER), job])
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
