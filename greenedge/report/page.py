"""Turns summaries into the page: texts and formats of numbers; layout and style are in page.html and style.css."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from greenedge import __version__
from greenedge.report.format import count, coverage, duration, hertz, joules, percent, size
from greenedge.report.summary import read_json, read_measured_energy
from greenedge.report.token_energy import read_published_energy
from greenedge.report.training import tradeoff
from greenedge.report.training import view as training_view
from greenedge.run.folder import STAGE_FOLDERS
from greenedge.run.manifest import Manifest, load_manifest

if TYPE_CHECKING:
    from jinja2 import Template

_HERE = Path(__file__).resolve().parent
STAGE_TITLES = {
    "torch": "PyTorch",
    "expected": "Expected outputs",
    "qonnx": "QONNX",
    "litert": "LiteRT (XNNPACK) on the original file",
    "litert-reference": "LiteRT (reference kernels) on the original file",
    "graph": "Integer graph",
    "decoder": "Decoder in numpy",
    "rtl": "RTL",
    "rtl-stalls": "RTL with random stalls",
    "rtl-faults": "RTL, vectors for memory faults",
    "c-simulation": "C simulation",
    "tflite": "TFLite (XNNPACK)",
    "tflite-reference": "TFLite (reference kernels)",
    "onnxruntime": "ONNX Runtime",
    "c99": "C99",
    "netlist": "Simulated netlist",
    "board": "Virtual board",
    "epilogue": "Epilogue (host)",
}
# key in hardware/edge -> (label, filter that formats it); other keys with a number or text keep their own name
_FIGURES = {
    "cycles_per_inference": ("cycles per inference", "count"),
    "cycles_per_token": ("cycles per token, drawn, mean", "count"),
    "cycles_per_token_greedy": ("cycles per token, the likeliest taken, mean", "count"),
    "tokens_per_s": ("tokens per second at the clock", "rate"),
    "kv_cache_bytes": ("keys and values", "size"),
    "fmax_hz": ("highest clock", "hertz"),
    "estimated_cycles": ("cycles, estimated beforehand", "count"),
    "estimated_lut4": ("LUT4 of the core, estimated beforehand", "count"),
    "estimated_lut4_error": ("that estimate against yosys's count", "text"),
    "estimated_bram_bits": ("block RAM bits of the core, estimated beforehand", "count"),
    "core_fmax_hz": ("highest clock of the core", "hertz"),
    "clock_hz": ("clock", "hertz"),
    "latency_s": ("latency", "time"),
    "latency_cycles": ("latency in cycles", "count"),
    "latency_at_core_fmax_s": ("latency at the core's highest clock", "time"),
    "adders": ("adders", "count"),
    "pipeline_stages": ("pipeline stages", "count"),
    "trace_s": ("unrolling into Verilog took", "time"),
    "loop_interval_cycles": ("interval of the slowest loop, cycles", "count"),
    "loop_latency_cycles": ("latency of the longest loop, cycles", "count"),
    "area_score": ("area score", "count"),
    "toolchain": ("toolchain", "text"),
    "io": ("inputs and outputs", "text"),
    "write_s": ("writing the project took", "time"),
    "csim_compile_s": ("compiling the C simulation took", "time"),
    "ips": ("inferences per second", "rate"),
    "bytes": ("size of the model", "size"),
    "ram_bytes": ("working memory", "size"),
    "flash_bytes_cortex_m4": ("flash, kernels and model, Cortex-M4", "size"),
    "stack_bytes_cortex_m4": ("stack, Cortex-M4", "size"),
    "instructions_cortex_m4": ("instructions per inference, Cortex-M4", "count"),
    "flash_bytes_rv32imac": ("flash, kernels and model, RV32IMAC", "size"),
    "stack_bytes_rv32imac": ("stack, RV32IMAC", "size"),
    "instructions_rv32imac": ("instructions per inference, RV32IMAC", "count"),
    "npu_bytes": ("size of the NPU's file", "size"),
    "estimated_latency_s": ("latency", "time"),
    "estimated_clock_hz": ("clock", "hertz"),
    "estimated_sram_bytes": ("SRAM", "size"),
    "estimated_flash_and_dram_bytes": ("flash and DRAM", "size"),
    "runtime": ("runtime", "text"),
    "kernels": ("kernels", "text"),
}
_RESOURCES = {
    "lut4": "LUT4",
    "lut": "LUTs",
    "alm": "ALMs",
    "alut": "ALUTs",
    "ff": "Flip-flops",
    "dsp": "DSP blocks",
    "bram_bits": "Block RAM bits",
    "ram_blocks": "RAM blocks",
    "uram": "UltraRAM blocks",
    "mlab": "MLABs",
    "comb": "Logic cells, placed",
}
# column of the table of hardware layers -> heading; shown where any layer has it
_LAYER_COLUMNS = {
    "kind": "built as",
    "reuse_factor": "reuse factor",
    "strategy": "strategy",
    "cycles": "cycles, estimated",
    "result": "result",
    "within": "types within",
    "instructions_cortex_m4": "instructions, Cortex-M4, simulated",
    "instructions_rv32imac": "instructions, RV32IMAC, simulated",
    "adders": "adders",
    "cost": "bits of adders",
    "stages": "pipeline stages",
    "seconds": "seconds to trace",
}
_WITHIN = {"weight": "weights", "accum": "accumulator", "scale": "scale", "bias": "bias"}
_POOL = {"comb": "lut4"}  # a placed logic cell takes a LUT4, also for carry and small memories
_ELSEWHERE = (
    "selftest",
    "part",
    "tools",
    "bitstream_bytes",
    "rtl_sha256",
)  # shown in the heading, the files and the digests
ESTIMATED = ("estimated", "estimate")


def render(runs: Sequence[tuple[Path, dict]]) -> str:
    """The HTML page over these runs, each a folder and its summary; it loads nothing from elsewhere."""
    views = [_view(run, summary) for run, summary in runs]
    return template("page.html").render(
        runs=views, several=len(views) > 1, version=__version__, heading=_heading(views), verdict=_overall(views)
    )


def template(name: str) -> Template:
    """A template of this folder, with the filters that format numbers."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    env = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    env.filters |= {
        "count": count,
        "hertz": hertz,
        "time": duration,
        "size": size,
        "rate": count,
        "text": str,
        "joules": joules,
        "percent": percent,
        "coverage": coverage,
        "title_of": lambda stage: STAGE_TITLES.get(stage, stage),
    }
    return env.get_template(name)


def _heading(views: list[dict]) -> str:
    return ", ".join(dict.fromkeys(view["title"] for view in views))


def _overall(views: list[dict]) -> str:
    verdicts = {view["verdict"] for view in views}
    return next((verdict for verdict in ("differs", "open", "certified") if verdict in verdicts), "equal")


def _view(run: Path, summary: dict) -> dict:
    """What the page shows of one run, as texts."""
    manifest = load_manifest(run)
    entries, unverified = _sort_by_stage(summary.get("verify", [])), summary.get("unverified")
    target = {"name": run.name, "title": None, "part": None} | (summary.get("target") or {})
    failed = [
        (name, record.error) for name, record in manifest.stages.items() if record.status in ("failed", "interrupted")
    ]
    changed = summary.get("changed") or {}
    failed += [(f"{name}: changed since", why) for name, why in changed.items()]
    lowered = {} if "lower" in changed else read_json(run, "lower", "lower.json") or {}
    metrics = {} if "train" in changed else read_json(run, "train", "metrics.json") or {}
    build = f"{STAGE_FOLDERS['build']}/"
    return {
        "name": summary.get("model") or run.name,
        "title": summary.get("title") or run.name,
        "target": target,
        "backend": summary.get("backend"),
        "verdict": _verdict(manifest, entries, unverified),
        "verify": entries,
        "beside": summary.get("beside", []),
        "sentence": _sentence(entries) + (f" What was built is not verified: {unverified}" if unverified else ""),
        "chain": _chain([entry for entry in entries if entry.get("within") is None and not _is_again(entry)]),
        "covered": any(entry.get("coverage") for entry in entries),
        "read_back": summary.get("read_back", []),
        "accuracy": summary.get("accuracy", {}),
        "resources": _resources(summary, target.get("resources") or {}),
        "figures": _figures(summary),
        "files": summary.get("files", {}),
        "notes": summary.get("notes", []),
        "built": {
            name.removeprefix(build): size for name, size in summary.get("files", {}).items() if name.startswith(build)
        },
        "trained_elsewhere": bool(manifest.stages.get("train") and manifest.stages["train"].reused_from),
        "made": _build_heading(summary),
        "hardware_layers": _hardware_layers(summary),
        "stages": _stages(manifest),
        "failed": failed,
        "layers": lowered.get("layers", []),
        "proofs": {p["name"]: p.get("proved") or p.get("form", "") for p in lowered.get("requantisers", [])},
        "energy": "" if "measure" in changed else _energy(run, manifest),
        "energy_cells": _energy_cells(summary),
        "published": read_published_energy() if "decoder" in manifest.stages else (),
        "loss": curve(metrics.get("train_loss") or []),
        "metrics": metrics,
        "bill": training_view(metrics),
        "tradeoff": tradeoff([("training", metrics)]),
        "tools": summary.get("tools", {}),
        "digests": {
            name: digest
            for record in manifest.stages.values()
            for name, digest in record.outputs.items()
            if name in summary.get("files", {})
        }
        | _rtl_digest(summary),
    }


def _rtl_digest(summary: dict) -> dict[str, str]:
    digest = (summary.get("hardware") or {}).get("rtl_sha256")
    return {"all RTL that was verified": digest} if digest else {}


def _verdict(manifest: Manifest, entries: list[dict], unverified: str | None) -> str:
    """ "differs" where anything differed, "equal" where the verify stage ended well ("certified" where that took the
    build's certificate), else "open"."""
    if any(entry["mismatches"] for entry in entries):
        return "differs"
    record = manifest.stages.get("verify")
    if unverified or not entries or record is None or record.status != "done":
        return "open"
    return "certified" if any(entry.get("within_certificate") for entry in entries) else "equal"


def _sentence(entries: list[dict]) -> str:
    """The verdict in one sentence."""
    wrong = next((entry for entry in entries if entry["mismatches"]), None)
    if wrong:
        first = wrong.get("first")
        where = f"; first at sample {first['sample']}, layer {first['layer']}" if first else ""
        candidate, reference = _stage_phrase(wrong["candidate"]), _stage_phrase(wrong["reference"])
        unit = wrong.get("unit", "samples")
        return f"{candidate} differs from {reference} on {wrong['mismatches']} of {wrong['samples']} {unit}{where}."
    if not entries:
        return "Nothing has been compared yet."
    entries = [entry for entry in entries if entry.get("within") is None]  # the others compare floats, in rows below
    covered = [entry for entry in entries if entry.get("coverage")]
    entries = [entry for entry in entries if not entry.get("coverage")] or entries
    certified = [entry for entry in entries if entry.get("within_certificate")]
    most = max(entry["samples"] for entry in entries)
    entries = [entry for entry in entries if entry not in certified]
    fewer = [entry for entry in entries if entry["samples"] < most]
    names = [_stage_phrase(stage) for stage in _chain([entry for entry in entries if entry not in fewer])]
    unit = next((entry["unit"] for entry in entries if "unit" in entry), "samples")
    text = f"{', '.join(names[:-1])} and {names[-1]} gave the same integers on all {most:,} {unit}"
    text += "".join(f", {_stage_phrase(entry['candidate'])} on {entry['samples']:,} of them" for entry in fewer)
    text += "".join(
        f"; {_stage_phrase(entry['candidate'])} on {entry['samples']:,} vectors, {coverage(entry['coverage'])}"
        for entry in covered
    )
    text += "".join(
        f"; {_stage_phrase(entry['candidate'])} differs on {entry['within_certificate']:,} of {entry['samples']:,}, "
        "within its certificate"
        for entry in certified
    )
    tied = sum(entry.get("float_ties", 0) for entry in entries)
    return text + (f", but for {tied} proven float32 tie{'s' if tied > 1 else ''}." if tied else ".")


def _is_again(entry: dict) -> bool:
    """Whether the entry is a stage of another entry on further vectors."""
    return str(entry["candidate"]).endswith("-faults")


def _stage_phrase(stage: str) -> str:
    """A stage's name within a sentence."""
    phrases = {
        "graph": "the integer graph",
        "decoder": "the decoder in numpy",
        "epilogue": "the host's epilogue",
        "netlist": "the simulated netlist",
        "rtl-faults": "the RTL again",
        "board": "the virtual board",
    }
    return phrases.get(stage) or STAGE_TITLES.get(stage, stage)


def _chain(entries: list[dict]) -> list[str]:
    """The stages of these entries, in the order of the pipeline."""
    order = list(STAGE_TITLES)
    stages = {stage for entry in entries for stage in (entry["reference"], entry["candidate"])}
    return sorted(stages, key=lambda stage: order.index(stage) if stage in order else len(order))


def _sort_by_stage(entries: list[dict]) -> list[dict]:
    """The entries by candidate, then reference, in the order of the pipeline."""
    chain = _chain(entries)
    return sorted(entries, key=lambda entry: (chain.index(entry["candidate"]), chain.index(entry["reference"])))


def _evidence(summary: dict, key: str) -> str | None:
    """The evidence that the back end states for a figure, None where it states none."""
    words = summary.get("evidence")
    word = words.get(key) if isinstance(words, dict) else None
    return str(word) if word else None


def _is_estimate(word: str | None) -> bool:
    return word is not None and word.split()[0].rstrip(":,") in ESTIMATED


def _resources(summary: dict, available: dict) -> list[dict]:
    """Rows of used and available resources; `share` (%) is the width of the bar."""
    rows = []
    hardware = summary.get("hardware") or {}
    for key, label in _RESOURCES.items():
        used, total, word = hardware.get(key), available.get(_POOL.get(key, key)), _evidence(summary, key)
        if used is not None:
            share = min(100.0, 100.0 * used / total) if total else None
            rows.append(
                {
                    "label": label,
                    "used": used,
                    "total": total,
                    "share": share,
                    "evidence": word,
                    "estimated": _is_estimate(word),
                    "core": (hardware.get("core") or {}).get(key),
                    "before": (hardware.get("hls_estimates") or {}).get(key),
                }
            )
    return rows


def _build_heading(summary: dict) -> str:
    """The heading of the figures: chip, HLS project or binary."""
    hardware = summary.get("hardware") or {}
    return (
        "On the chip"
        if any(hardware.get(key) is not None for key in _RESOURCES)
        else "The HLS project"
        if "toolchain" in hardware
        else "The binary"
    )


def _hardware_layers(summary: dict) -> dict:
    """{"columns": headings, "rows": [(layer, its cells)]} of what the back end recorded of each layer it built."""
    layers = [dict(layer) for part in ("hardware", "edge") for layer in (summary.get(part) or {}).get("layers") or []]
    for layer in layers:
        if types := [f"{word} {layer[key]}" for key, word in _WITHIN.items() if key in layer]:
            layer["within"] = ", ".join(types)
    keys = [key for key in _LAYER_COLUMNS if any(key in layer for layer in layers)]
    return {
        "columns": [_LAYER_COLUMNS[key] for key in keys],
        "rows": [(layer["layer"], [layer.get(key) for key in keys]) for layer in layers],
    }


def _figures(summary: dict) -> list[dict]:
    """Rows of the build's figures: label, format, value and evidence."""
    rows = []
    for part in ("hardware", "edge"):
        for key, value in (summary.get(part) or {}).items():
            if key in _RESOURCES or key in _ELSEWHERE or value is None or isinstance(value, (dict, list, bool)):
                continue
            label, kind = _FIGURES.get(key, (key.replace("_", " "), "text"))
            word = _evidence(summary, key)
            rows.append(
                {
                    "key": key,
                    "label": label,
                    "kind": kind,
                    "value": value,
                    "evidence": word,
                    "estimated": _is_estimate(word),
                }
            )
    core_hz = ((summary.get("hardware") or {}).get("core") or {}).get("fmax_hz")
    if core_hz is not None:
        rows.append(
            {
                "key": "core_fmax_hz",
                "label": "highest clock of the core",
                "kind": "hertz",
                "value": core_hz,
                "evidence": _evidence(summary, "fmax_hz"),
                "estimated": False,
            }
        )
    return sorted(rows, key=lambda row: list(_FIGURES).index(row["key"]) if row["key"] in _FIGURES else len(_FIGURES))


def _energy(run: Path, manifest: Manifest) -> str:
    """The section on energy as HTML, empty where nothing was measured or estimated."""
    document = read_measured_energy(run, manifest)
    if document is None:
        return ""
    from greenedge.energy.html import section

    return section(document)


def _energy_cells(summary: dict) -> list[str]:
    """Energy per inference as texts with covers and evidence, for the table over several runs."""
    if not summary.get("energy"):
        return []
    from greenedge.energy import results
    from greenedge.energy.terminal import energy_text

    found = [(row, results.figure(row, "total")) for row in summary["energy"]]
    return [
        f"{energy_text(total, False) or energy_text(total, True)}, {row['source']['covers']}"
        for row, total in found
        if total
    ]


def _stages(manifest: Manifest) -> list[dict]:
    """Rows of the stages with their seconds; `width` (%) is that of the bar."""
    records = {name: record for name, record in manifest.stages.items() if name != "report"}
    longest = max((r.seconds or 0 for r in records.values()), default=0) or 1
    return [
        {
            "name": name,
            "seconds": r.seconds,
            "status": r.status,
            "note": r.note,
            "copied": r.reused_from,
            "width": 100 * (r.seconds or 0) / longest,
        }
        for name, r in records.items()
    ]


def curve(values: list[float], width: float = 320, height: float = 72) -> str:
    """The points of an SVG polyline through the values in a box of that size; empty for fewer than two."""
    numbers = [float(value) for value in values if isinstance(value, (int, float))]
    if len(numbers) < 2:
        return ""
    low, high = min(numbers), max(numbers)
    span = (high - low) or 1.0
    step = width / (len(numbers) - 1)
    return " ".join(f"{k * step:.1f},{height - (value - low) / span * height:.1f}" for k, value in enumerate(numbers))
