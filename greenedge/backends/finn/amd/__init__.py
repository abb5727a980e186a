"""AMD boards: a Vivado project of the stitched core, an overlay with its driver, and FINN's complete flow.

`request` says what is known when a build is planned; `python -m greenedge.backends.finn.amd` in the build folder writes
the rest and runs Vivado where it is on PATH. Vivado is a condition of nothing but AMD's own bitstream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from greenedge.errors import TargetError
from greenedge.target import Target

if TYPE_CHECKING:
    from greenedge.backends.finn.stitch import Stitched

DSP = {"zynq": 1, "zynq-us": 2, "virtex-us": 2}  # family -> version of the DSP slice in FINN's core: DSP48E1, DSP48E2
REQUEST, RESULT = "amd.json", "vivado.json"
# target -> (FINN's name of the board, Vivado's board part or None, how FINN makes the shell)
BOARDS = {
    "pynq-z1": ("Pynq-Z1", "www.digilentinc.com:pynq-z1:part0:1.0", "vivado_zynq"),
    "pynq-z2": ("Pynq-Z2", "tul.com.tw:pynq-z2:part0:1.0", "vivado_zynq"),
    "ultra96": ("Ultra96", "avnet.com:ultra96v1:part0:1.2", "vivado_zynq"),
    "zcu104": ("ZCU104", "xilinx.com:zcu104:part0:1.1", "vivado_zynq"),
    "kv260": ("KV260_SOM", "xilinx.com:kv260_som:part0:1.4", "vivado_zynq"),
    "alveo-u250": ("U250", None, "vitis_alveo"),
}


def request(target: Target, model: str, clock_hz: int | None = None, fps: float | None = None) -> dict[str, Any]:
    """Everything about the board that the later steps need: plain data for a plan's amd.json.

    `fps` is what FINN's own flow folds for.

    Raises TargetError for a family or board that is not AMD's.
    """
    if target.device.family not in DSP:
        raise TargetError(
            f"{target.name}: family {target.device.family!r} is none of AMD's; those are {', '.join(DSP)}."
        )
    finn, board_part, shell = BOARDS.get(target.name, (None, None, None))
    return {
        "target": target.name,
        "model": model,
        "part": target.device.part,
        "family": target.device.family,
        "clock_hz": clock_hz or target.clock_hz,
        "dsp": target.device.resources.get("dsp", 0),
        "finn_board": finn,
        "board_part": board_part,
        "shell": shell,
        "fps": fps,
    }


def pack_units(stitched: Stitched, request: Mapping[str, Any]) -> tuple[Stitched, dict[str, bytes]]:
    """(the stitched core with FINN's DSP-packed units where they fit, {file: content} of FINN's core where it is used).

    Raises ToolError where FINN+'s environment cannot be had.
    """
    from greenedge.backends.finn.amd.units import MODULE, replace_units
    from greenedge.backends.finn.finnplus.environment import finn_packages
    from greenedge.backends.finn.library import core_files

    instances = replace_units(stitched.instances, DSP[request["family"]], request["dsp"])
    used = any(i.unit is not None and i.unit.module == MODULE for i in instances)
    core = core_files(finn_packages(lambda line: print(f"progress: {line}", flush=True))) if used else {}
    return replace(stitched, instances=instances), core
