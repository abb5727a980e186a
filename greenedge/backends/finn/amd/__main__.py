"""In the build folder, after stitching:

python -m greenedge.backends.finn.amd write      what Vivado and the board want, from amd.json and streams.json
python -m greenedge.backends.finn.amd run        Vivado, and FINN's complete flow, where they are; writes vivado.json
python -m greenedge.backends.finn.amd read       vivado.json from the reports of a Vivado that the plan itself ran
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from greenedge.backends.finn.amd import REQUEST, RESULT
from greenedge.backends.finn.amd.flow import FINN
from greenedge.backends.finn.amd.project import FOLDER, project_files
from greenedge.backends.finn.amd.results import fmax_hz, utilisation
from greenedge.errors import GreenedgeError, ToolError
from greenedge.files.atomic_write import atomic_write
from greenedge.graph import load_graph
from greenedge.tools.capture import capture

_LIMIT_S = 3 * 3600
_MISSING = (
    "vivado is not on PATH: the project, the overlay and its driver, and FINN's own flow (finn-build/) are written, "
    "nothing was synthesised by Vivado; run `vivado -mode batch -source vivado/core.tcl` (and overlay.tcl) in the "
    "build folder where it is, or build with --set build.synthesis=vivado, with --docker in its image."
)


def main(what: str) -> int:
    """Everything for what lies in the working directory."""
    here = Path(".")
    try:
        request = json.loads((here / REQUEST).read_text())
        if what == "write":
            about = json.loads((here / "streams.json").read_text())
            files = project_files(request, about, load_graph(here))
            files["core.f"] = "".join(f"rtl/{name}\n" for name in about["sources"]).encode()
        else:
            vivado = shutil.which("vivado")
            result: dict[str, Any]
            if what == "read":
                result = _read_implementation(here, request, vivado, None)
            elif vivado is None:
                result = {"vivado": None, "said": _MISSING}
            else:
                result = _read_implementation(here, request, vivado, vivado)
            files = {RESULT: (json.dumps(result, indent=1) + "\n").encode()}
        for name, content in files.items():
            with atomic_write(here / name) as path:
                path.write_bytes(content)
    except (GreenedgeError, OSError, ValueError, KeyError) as error:
        print(f"error: {error}")
        return 1
    return 0


def _read_implementation(here: Path, request: Mapping[str, Any], vivado: str | None, run: str | None) -> dict[str, Any]:
    """Vivado's numbers of the core, and the overlay where the board has one.

    `vivado` is the one on PATH, if there is one; `run` is the one to run first, None where the plan has run it.
    """
    if run:
        _run(here, run, "core")
    counted = utilisation(here / FOLDER / "utilization.rpt")
    highest = fmax_hz(here / FOLDER / "timing.rpt", request["clock_hz"])
    if highest < request["clock_hz"]:
        raise ToolError(
            f"Vivado closes the core at {highest / 1e6:.1f} MHz, {request['clock_hz'] / 1e6:g} MHz are asked for; "
            "ask for a slower clock with --set build.clock_hz=…."
        )
    bitstream = None
    if request["shell"] == "vivado_zynq":
        if run:
            _run(here, run, "overlay")
        bitstream = f"{FOLDER}/greenedge.bit"
        if not (here / bitstream).is_file():
            raise ToolError(
                f"Vivado ended without an error but did not make {bitstream}; its log is {FOLDER}/overlay.log."
            )
    return {
        "vivado": _version(vivado) if vivado else "in an image",
        "core": {**counted, "fmax_hz": highest},
        "bitstream": bitstream,
        "finn": _finn(here),
    }


def _finn(here: Path) -> str | None:
    """FINN's complete flow where it is installed as a whole; the folder of what it made, or None where it is not."""
    finn = shutil.which("finn")
    if finn is None or not (here / FINN).is_dir():
        return None
    print("progress: FINN's complete flow", flush=True)
    folder = here / FINN
    with open(folder / "finn.log", "wb") as log:
        try:
            done = subprocess.run(
                [finn, "build", "build.yaml", "model.onnx"],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": str(folder.absolute())},
                timeout=_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ToolError(
                f"finn build did not end within {_LIMIT_S // 3600} hours and was stopped; its log is "
                f"{folder / 'finn.log'}."
            ) from None
    if done.returncode != 0 or not (folder / "output").is_dir():
        raise ToolError(
            f"finn build ended with exit status {done.returncode} and left no output; its log is {folder / 'finn.log'}."
        )
    return f"{FINN}/output"


def _run(here: Path, vivado: str, name: str) -> None:
    log = here / FOLDER / f"{name}.log"
    print(f"progress: Vivado on {name}.tcl", flush=True)
    argv = [vivado, "-mode", "batch", "-nojournal", "-log", str(log), "-source", f"{FOLDER}/{name}.tcl"]
    try:
        done = capture(argv, _LIMIT_S, cwd=here)
    except subprocess.TimeoutExpired:
        raise ToolError(f"vivado did not end within {_LIMIT_S // 3600} hours on {name}.tcl and was stopped.") from None
    if done.returncode != 0:
        said = re.search(r"^ERROR:.*$", done.stdout + done.stderr, re.MULTILINE)
        raise ToolError(
            f"vivado ended with exit status {done.returncode} on {name}.tcl: "
            f"{said[0][:200] if said else 'it printed no error'}; its log is {log}."
        )


def _version(vivado: str) -> str:
    done = subprocess.run(
        [vivado, "-version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False
    )
    found = re.search(r"v(\d{4}\.\d[\w.]*)", done.stdout)
    return found[1] if found else "unknown"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
