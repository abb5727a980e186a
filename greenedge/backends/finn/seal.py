"""Ties the bitstream to the RTL it was made from: `python -m greenedge.backends.finn.seal`, last in a build.

Every file of the RTL must still be what the simulation ran; then seal.json names its digest and the bitstream's.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from greenedge.backends.finn.built import rtl_digest, rtl_files
from greenedge.errors import GreenedgeError, ToolError
from greenedge.files import sha256_file


def seal(folder: Path) -> dict:
    """The record as written to seal.json. Raises ToolError when the RTL changed between simulation and synthesis."""
    now = rtl_digest(folder)
    simulated = json.loads((folder / "simulation.json").read_text())["rtl"]
    if now != simulated:
        raise ToolError("the RTL changed between its simulation and its synthesis; run the build stage again.")
    return {"rtl": now, "files": rtl_files(folder), "bitstream": sha256_file(folder / "top.bit")}


def main() -> int:
    try:
        record = seal(Path("."))
    except GreenedgeError as error:
        print(f"error: {error}")
        return 1
    Path("seal.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"top.bit {record['bitstream'][:12]} is made from RTL {record['rtl'][:12]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
