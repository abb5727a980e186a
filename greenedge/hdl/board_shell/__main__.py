"""`python -m greenedge.hdl.board_shell` in a build folder: see greenedge/hdl/board_shell/__init__.py."""

import sys
from pathlib import Path

from greenedge.errors import GreenedgeError
from greenedge.hdl.board_shell import write_shell


def main() -> int:
    """Writes the shell around the core in the working directory; the exit status."""
    try:
        board = write_shell(Path("."))
    except (GreenedgeError, OSError, KeyError, ValueError) as error:
        print(f"error: {error}")
        return 1
    print(f"board/ is written: {board['link']} at {board['baud']:,} baud, core at {board['clock_hz'] / 1e6:g} MHz")
    return 0


if __name__ == "__main__":
    sys.exit(main())
