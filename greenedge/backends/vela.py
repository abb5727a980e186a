"""Back end `vela`: the exact int8 .tflite, compiled for an Arm Ethos-U by Arm's Vela.

Tools: vela (PyPI: ethos-u-vela). Options: none. Files: those of `tflite`, and npu/: model_vela.tflite for the board,
model_summary_….csv and model_per-layer.csv with what Vela estimates.

What is verified is model.tflite, the file that goes into Vela. A command stream cannot be run here; its cycles and memory
are estimates of Vela's static model, never measurements.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np

import greenedge.backends.tflite as tflite
from greenedge.errors import GreenedgeError, Reason
from greenedge.graph import Graph
from greenedge.target import Target
from greenedge.tools import Command, Plan

STAGE, BUILT_ON = tflite.STAGE, ("tflite",)
FOLDER, COMPILED, LAYERS = "npu", "npu/model_vela.tflite", "npu/model_per-layer.csv"
_SUMMARY = "model_summary_*.csv"
_KIB = 1024
_BY_VELA = "estimated by Vela"


def check(graph: Graph, target: Target, options: Mapping[str, object]) -> list[Reason]:
    """Every reason why the graph has no exact int8 file, or the target is no Ethos-U."""
    reasons = tflite.check(graph, target, options)
    if "vela" not in target.device.toolchain:
        reasons.append(Reason(graph.name, "unsupported-target", f"device {target.device.name}",
                              "its file gives no toolchain.vela", "choose a target such as ethos-u55-128"))
    return reasons


def plan(graph: Graph, target: Target, options: Mapping[str, object]) -> Plan:
    """The plan of `tflite`, then Vela."""
    before = tflite.plan(graph, target, options)
    compile_it = Command(("{vela}", tflite.MODEL, *target.device.toolchain["vela"], "--output-dir", FOLDER, "--verbose-performance"),
                         "vela.log", "compiling for the Ethos-U with Vela", timeout_s=600)
    return Plan(before.files, (*before.commands, compile_it), (*before.products, COMPILED, LAYERS))


def simulate(folder: Path, x: np.ndarray | Mapping[str, np.ndarray], keep: Sequence[str] = (), progress=lambda *_: None,
             kernels: str = "xnnpack") -> dict[str, np.ndarray]:
    """model.tflite, which Vela compiled, under LiteRT (see `tflite.simulate`)."""
    return tflite.simulate(folder, x, keep, progress, kernels)


def proved(folder: Path) -> str | None:
    """What holds for model.tflite on every input (see `tflite.proved`)."""
    return tflite.proved(folder)


def report(folder: Path) -> dict:
    """The report of `tflite`, and Vela's estimates with the layers that it leaves to the CPU."""
    found = tflite.report(folder)
    summary, layers = _only_row(folder), _rows(folder / LAYERS)
    left = [f"{row['Name']} ({row['Original Operator']})" for row in layers if row["Target"].strip() != "NPU"]
    kib = lambda *keys: int(sum(float(summary[key]) for key in keys) * _KIB)
    estimates = {"estimated_cycles": int(float(summary["cycles_total"])), "estimated_latency_s": float(summary["inference_time"]),
                 "estimated_sram_bytes": kib("sram_memory_used"),
                 "estimated_flash_and_dram_bytes": kib("off_chip_flash_memory_used", "on_chip_flash_memory_used", "dram_memory_used"),
                 "estimated_clock_hz": float(summary["core_clock"])}
    edge = {**found["edge"], "npu_bytes": (folder / COMPILED).stat().st_size, **estimates,
            "left_to_the_cpu": ", ".join(left) or "no layer"}
    evidence = {**found["evidence"], **dict.fromkeys(estimates, _BY_VELA), "left_to_the_cpu": "reported by Vela", "npu_bytes": "measured"}
    notes = ["Verified is the int8 file that Vela compiled; its command stream cannot be run here, and its figures are Vela's estimates."]
    return {**found, "edge": edge, "evidence": evidence, "notes": notes, "tools": {**found["tools"], **tools({})}}


def tools(options: Mapping[str, object]) -> dict[str, str]:
    """Those of `tflite`, and Vela."""
    try:
        return {**tflite.tools(options), "ethos-u-vela": metadata.version("ethos-u-vela")}
    except metadata.PackageNotFoundError:
        return tflite.tools(options)


def _only_row(folder: Path) -> dict[str, str]:
    found = sorted((folder / FOLDER).glob(_SUMMARY))
    rows = _rows(found[0]) if found else []
    if len(rows) != 1:
        raise GreenedgeError(f"{folder / FOLDER / _SUMMARY} is missing or damaged; run the build stage again.")
    return rows[0]


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise GreenedgeError(f"{path} is missing or damaged ({error}); run the build stage again.") from None
