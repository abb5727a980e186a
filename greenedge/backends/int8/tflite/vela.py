"""Arm Ethos-U: the exact int8 .tflite, compiled by Arm's Vela (PyPI: ethos-u-vela).

Files, in npu/: model_vela.tflite for the board, model_summary_….csv and model_per-layer.csv with Vela's estimates.
Verified is model.tflite, the file that goes into Vela. A command stream cannot be run here; its cycles and memory are
estimates of Vela's static model, never measurements.
"""

from __future__ import annotations

import csv
from importlib import metadata
from pathlib import Path

from greenedge.backends.int8.proof_record import Record
from greenedge.errors import GreenedgeError, Reason
from greenedge.graph import Graph
from greenedge.target import Target
from greenedge.tools.plan import Command

FOLDER, COMPILED, LAYERS = "npu", "npu/model_vela.tflite", "npu/model_per-layer.csv"
_SUMMARY = "model_summary_*.csv"
_KIB = 1024
_BY_VELA = "estimated by Vela"


def find_reasons(graph: Graph) -> list[Reason]:
    """None: Vela leaves to the CPU what the NPU lacks, and the report names it."""
    return []


def commands(model: str, target: Target) -> tuple[Command, ...]:
    """Vela on the file `model`."""
    argv = ("{vela}", model, *target.device.toolchain["vela"], "--output-dir", FOLDER, "--verbose-performance")
    return (Command(argv, "vela.log", "compiling for the Ethos-U with Vela", timeout_s=600),)


def products() -> tuple[str, ...]:
    """What then exists."""
    return COMPILED, LAYERS


def report(folder: Path) -> Record:
    """{"edge", "evidence", "notes", "tools"}: Vela's estimates, and the layers that it leaves to the CPU."""
    summary, layers = _only_row(folder), _rows(folder / LAYERS)
    on_cpu = [f"{row['Name']} ({row['Original Operator']})" for row in layers if row["Target"].strip() != "NPU"]

    def kib(*keys: str) -> int:
        return int(sum(float(summary[key]) for key in keys) * _KIB)

    estimates = {
        "estimated_cycles": int(float(summary["cycles_total"])),
        "estimated_latency_s": float(summary["inference_time"]),
        "estimated_sram_bytes": kib("sram_memory_used"),
        "estimated_flash_and_dram_bytes": kib(
            "off_chip_flash_memory_used", "on_chip_flash_memory_used", "dram_memory_used"
        ),
        "estimated_clock_hz": float(summary["core_clock"]),
    }
    edge = {
        "npu_bytes": (folder / COMPILED).stat().st_size,
        **estimates,
        "left_to_the_cpu": ", ".join(on_cpu) or "no layer",
    }
    evidence = {**dict.fromkeys(estimates, _BY_VELA), "left_to_the_cpu": "reported by Vela", "npu_bytes": "measured"}
    notes = [
        "Verified is the int8 file that Vela compiled; its command stream cannot be run here, and its figures are "
        "Vela's estimates."
    ]
    return {"edge": edge, "evidence": evidence, "notes": notes, "tools": tools()}


def is_built_for(folder: Path) -> bool:
    """Whether a build folder is one for an Ethos-U."""
    return (folder / COMPILED).is_file()


def tools() -> dict[str, str]:
    """Vela, where it is installed."""
    try:
        return {"ethos-u-vela": metadata.version("ethos-u-vela")}
    except metadata.PackageNotFoundError:
        return {}


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
