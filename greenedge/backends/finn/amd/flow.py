"""What a plan for an AMD board writes, and its commands after the core is stitched and simulated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from greenedge.backends.finn.amd import REQUEST, RESULT
from greenedge.graph import Graph
from greenedge.graph.qonnx import to_qonnx
from greenedge.tools.plan import Command

FINN = "finn-build"
PRODUCTS = ("vivado/core.tcl", f"{FINN}/build.yaml", RESULT)
_TEMPLATES = Path(__file__).with_name("templates")
_MODULE = "greenedge.backends.finn.amd"
_FPS = 10_000  # FINN's flow has no "fastest that fits": without --fps it folds for this
# yosys's family for the resource check
_XILINX = {"zynq": "xc7", "zynq-us": "xcup", "virtex-us": "xcup"}


def amd_files(graph: Graph, request: Mapping[str, Any]) -> dict[str, bytes]:
    """{name: content}: the request, the resource check, and FINN's own flow where FINN knows the board."""
    files = {REQUEST: (json.dumps(dict(request), indent=1) + "\n").encode(), "amd.ys": _check_script(request).encode()}
    if request["finn_board"]:
        files |= finn_files(graph, request)
    return files


def _check_script(request: Mapping[str, Any]) -> str:
    return f"""read_slang --threads 1 --ignore-assertions --allow-use-before-declare -D VERILATOR --top top -f core.f
synth_xilinx -family {_XILINX[request["family"]]} -top top -flatten
tee -q -o stat.json stat -json
"""


def finn_files(graph: Graph, request: Mapping[str, Any]) -> dict[str, bytes]:
    """FINN's complete flow on the integer graph: model, configuration, the step that hands it over, how to run it."""
    outputs = ["estimate_reports", "stitched_ip", "bitfile", "pynq_driver", "deployment_package"]
    steps = [
        "greenedge_steps.step_hand_over",
        "step_convert_to_hw",
        "step_create_dataflow_partition",
        "step_specialize_layers",
        "step_target_fps_parallelization",
        "step_apply_folding_config",
        "step_generate_estimate_reports",
        "step_generate_hardware",
        "step_create_stitched_ip",
        "step_prepare_synthesis",
        "step_synthesize_bitfile",
        "step_make_driver",
        "step_deployment_package",
    ]
    settings = {
        "output_dir": "output",
        "board": request["finn_board"],
        "shell_flow_type": request["shell"],
        "synth_clk_period_ns": round(1e9 / request["clock_hz"], 3),
        "standalone_thresholds": True,
        "target_fps": round(request["fps"] or _FPS),
        "generate_outputs": outputs,
        "steps": steps,
    }
    # JSON is YAML
    text = "# FINN's complete flow for this model. Made by greenedge.\n" + json.dumps(settings, indent=1) + "\n"
    return {
        f"{FINN}/build.yaml": text.encode(),
        f"{FINN}/model.onnx": to_qonnx(graph).SerializeToString(deterministic=True),
        f"{FINN}/greenedge_steps.py": (_TEMPLATES / "greenedge_steps.py").read_bytes(),
        f"{FINN}/README.md": (_TEMPLATES / "finn-build.md").read_bytes(),
    }


def _run_module(what: str) -> tuple[str, ...]:
    return "{python}", "-m", _MODULE, what


def amd_commands(request: Mapping[str, Any], vivado: bool = False) -> tuple[Command, ...]:
    """The project's texts, a resource check with open tools, then Vivado: where it is, or (`vivado`) as a step that
    must succeed, which --docker can run in its image."""
    before = (
        Command(_run_module("write"), "amd.log", "writing the Vivado project"),
        Command(("{yosys}", "-q", "-l", "yosys.log", "-s", "amd.ys"), "yosys-out.log", "checking resources with yosys"),
    )
    if not vivado:
        return (*before, Command(_run_module("run"), "vivado.log", "Vivado, where it is", timeout_s=8 * 3600))
    names = ("core", "overlay") if request["shell"] == "vivado_zynq" else ("core",)
    return (
        *before,
        *(
            Command(
                ("vivado", "-mode", "batch", "-nojournal", "-source", f"vivado/{name}.tcl"),
                f"vivado-{name}.log",
                f"Vivado on {name}.tcl",
                timeout_s=3 * 3600,
            )
            for name in names
        ),
        Command(_run_module("read"), "vivado.log", "reading Vivado's reports"),
    )
