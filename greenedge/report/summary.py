"""Collects what a run recorded into summary.json, the one file that other programs read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from greenedge.backends import BACKENDS, load_backend
from greenedge.backends.decoder.choice import DECODER_BACKENDS, load_decoder_backend
from greenedge.errors import GreenedgeError
from greenedge.files import json_file
from greenedge.run.folder import STAGE_FOLDERS, RunFolder, inside
from greenedge.run.manifest import Manifest, find_fault, load_manifest

FORMAT = "greenedge-summary/1"
SCORE = "score.json"  # of a language model that a recipe trained: bits per token as floats and as integers
NO_HOST = "The bitstream has no host interface yet: it computes, but no cable carries samples in and answers out."
_PRODUCTS = (".bit", ".bin", ".fs", ".tflite", ".onnx", ".v", ".sv")
_MAX_BYTES = 64 << 20


def summarise(run: Path) -> dict:
    """The run's numbers as the stages wrote them; unknown ones are absent.

    Keys: format, model, title, target, backend, inputs ({name: shape}, where there are several), accuracy,
    bits_per_token (of a language model that a recipe trained: before and after quantisation, with interval), verify,
    beside (compared as well, equality not claimed), read_back (what was built, compared without running it),
    unverified (why the build was not compared), hardware, edge, energy, seconds, tools, files, notes, evidence,
    training (what metrics.json says of the ledger and of each technique), changed ({stage: why what lies there is not
    what the run made}, whose figures are left out). Raises GreenedgeError for a folder that is no run or whose files
    are damaged.
    """
    manifest = load_manifest(run)
    changed = find_changed_stages(run, manifest)
    source, target = _table(manifest, "source"), _table(manifest, "target")
    verified = {} if "verify" in changed else read_json(run, "verify", "verify.json") or {}
    built = {} if "build" in changed else _build_report(run, manifest)
    if figures := verified.get("figures"):  # what simulating the build showed, beside whether it is equal
        built["hardware"] = (built.get("hardware") or {}) | add_rates(figures, built.get("hardware") or {})
    if built.get("hardware") and target:
        built["hardware"] = {"part": target.get("part")} | built["hardware"]
    notes = list(built.get("notes", []))
    score = None if "decoder" in changed else read_json(run, "decoder", SCORE)
    files = _files(run, manifest)
    inputs = None if "lower" in changed else _several_inputs(run)
    if inputs:
        shown = ", ".join(f"{name} ({' × '.join(map(str, shape))})" for name, shape in inputs.items())
        notes.insert(0, f"The model has {len(inputs)} inputs: {shown}.")
    summary = {
        "format": FORMAT,
        "model": source.get("name"),
        "title": source.get("title"),
        "target": manifest.about.get("target"),
        "backend": manifest.about.get("backend"),
        "inputs": inputs,
        "accuracy": verified.get("accuracy", {}),
        "bits_per_token": score,
        "verify": verified.get("verify", []),
        "beside": verified.get("beside", []),
        "read_back": verified.get("read_back"),
        "unverified": _describe_change(changed) or verified.get("unverified"),
        "changed": changed or None,
        "hardware": built.get("hardware"),
        "edge": built.get("edge"),
        "energy": [] if "measure" in changed else _energy(run, manifest),
        "seconds": {name: r.seconds for name, r in manifest.stages.items() if r.status == "done" and name != "report"},
        "tools": _tools(manifest, built),
        "files": files,
        "training": None if "train" in changed else _training(run),
        "evidence": built.get("evidence"),
        "notes": notes,
    }
    notes += [
        f"{path.name} is the energy of an earlier build; measure again."
        for path, document in energy_documents(run)
        if not _of_build(document, manifest)
    ]
    if score:
        notes.insert(0, _describe_score(score))
    if manifest.about.get("backend_reason"):
        notes.insert(0, f"The back end {manifest.about['backend_reason']}.")
    bitstream = any(name.endswith((".bit", ".bin", ".fs")) for name in files)
    if bitstream and not (built.get("hardware") or {}).get("host_interface"):
        notes.append(NO_HOST)
    return {key: value for key, value in summary.items() if value is not None}


def _describe_score(score: Mapping[str, Any]) -> str:
    try:
        return (
            f"{score['after']:.4f} bits per token as integers, {score['before']:.4f} as floats: "
            f"{100 * score['increase']:+.2f} % ± {100 * score['half_width']:.2f} (95 %, {score['texts']} texts that "
            "were not trained on)."
        )
    except (KeyError, TypeError, ValueError):
        raise GreenedgeError(f"{SCORE} of the run is damaged; run the same command again to write it anew.") from None


def _several_inputs(run: Path) -> dict[str, list[int]] | None:
    """The shapes of a sample of every input, by name; None of a model with one."""
    stored = (read_json(run, "lower", "lower.json") or {}).get("inputs")
    return {str(entry["name"]): list(entry["shape"]) for entry in stored} if stored else None


_BEFORE = (
    "train",
    "export",
    "lower",
    "decoder",
    "build",
    "verify",
    "measure",
)  # the stages that a report speaks of, in order


def find_changed_stages(run: Path, manifest: Manifest) -> dict[str, str]:
    """{stage: why what lies there now is not what the run made}; a verification and a measurement of something that has
    changed is none of what lies there."""
    done = [name for name in _BEFORE if name in manifest.stages and manifest.stages[name].status == "done"]
    changed = {name: fault for name in done if (fault := find_fault(run, manifest, name))}
    earlier = [name for name in ("export", "lower", "decoder", "build") if name in changed]
    if earlier:
        changed |= {name: changed[earlier[0]] for name in ("verify", "measure") if name in done and name not in changed}
    return changed


def _describe_change(changed: Mapping[str, str]) -> str | None:
    """Why nothing is said of a verification, where it is of something else; None where it is of what lies there."""
    return f"changed since it was verified: {changed['verify']}" if "verify" in changed else None


def energy_documents(run: Path) -> list[tuple[Path, dict]]:
    """What `greenedge energy measure RUN` kept, checked. Raises GreenedgeError for a file whose labels are broken."""
    folder = RunFolder(run).measure
    if not folder.is_dir():
        return []
    from greenedge.energy import results

    return [(path, results.load(path)) for path in sorted(folder.glob("*.json"))]


def read_measured_energy(run: Path, manifest: Manifest) -> dict | None:
    """One document with all rows of the present build, traces included; None without a row."""
    documents = [document for _, document in energy_documents(run) if _of_build(document, manifest)]
    return documents[0] | {"rows": [row for document in documents for row in document["rows"]]} if documents else None


def build_digests(manifest: Manifest) -> dict[str, str]:
    """{file: sha256} of the build, without files that differ between equal builds."""
    outputs = manifest.stages["build"].outputs if "build" in manifest.stages else {}
    return {path: digest for path, digest in outputs.items() if not path.endswith((".log", "/build.json"))}


def _of_build(document: dict, manifest: Manifest) -> bool:
    return bool(document.get("build")) and document["build"] == build_digests(manifest)


def _energy(run: Path, manifest: Manifest) -> list[dict]:
    """The rows of 6-measure without traces and repetitions."""
    rows = (read_measured_energy(run, manifest) or {"rows": []})["rows"]
    return [{key: value for key, value in row.items() if key not in ("trace", "repetitions")} for row in rows]


_TRAINING = (
    "parameters",
    "epochs",
    "samples_seen",
    "steps",
    "weights_sha256",
    "ledger",
    "prune",
    "distil",
    "subset",
    "search",
)


def _training(run: Path) -> dict | None:
    metrics = read_json(run, "train", "metrics.json") or {}
    return {key: metrics[key] for key in _TRAINING if key in metrics} or None


def read_json(run: Path, stage: str, name: str) -> dict | None:
    """A JSON file of a run, None where it is absent. Raises GreenedgeError where it is damaged."""
    path = inside(run, f"{STAGE_FOLDERS[stage]}/{name}")
    if not path.is_file():
        return None
    try:
        data = json_file.read_json(path, _MAX_BYTES)
        if not isinstance(data, dict):
            raise ValueError("it is no table")
    except ValueError as error:
        raise GreenedgeError(f"{path} is damaged ({error}); run the same command again to write it anew.") from None
    return data


def _table(manifest: Manifest, key: str) -> dict:
    """A table of the manifest's `about`, empty where it is absent."""
    found = manifest.about.get(key)
    return found if isinstance(found, dict) else {}


def _build_report(run: Path, manifest: Manifest) -> dict:
    """What the back end reports of the build; empty without a finished build."""
    record, backend = manifest.stages.get("build"), manifest.about.get("backend")
    if record is None or record.status != "done" or (read := _find_reader(backend)) is None:
        return {}
    folder = RunFolder(run).build
    try:
        return read(folder)
    except (KeyError, TypeError, IndexError, AttributeError) as error:  # records of another form
        raise GreenedgeError(
            f"{folder} has records that are damaged or of another greenedge ({type(error).__name__}: {error}); "
            "run the build stage again."
        ) from None


def _find_reader(backend: object) -> Callable[[Path], dict[str, Any]] | None:
    """What reads the numbers of a back end's builds; None where there is no such back end."""
    if backend in BACKENDS:
        return load_backend(str(backend)).report
    return load_decoder_backend(str(backend)).report if backend in DECODER_BACKENDS else None


def add_rates(figures: Mapping[str, float], hardware: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a language model's simulation, with tokens per second at the build's clock."""
    cycles, clock_hz = figures.get("cycles_per_token"), hardware.get("clock_hz")
    return {**figures, **({"tokens_per_s": round(clock_hz / cycles, 1)} if cycles and clock_hz else {})}


def hardware_phrases(hardware: Mapping) -> list[str]:
    """An FPGA build in words for a terminal: cycles, clock, size and the error of the estimate."""
    said = []
    if cycles := hardware.get("cycles_per_inference"):
        said.append(f"{cycles:,.0f} cycles an inference (simulated)")
    if hardware.get("fmax_hz"):
        said.append(f"{hardware['fmax_hz'] / 1e6:.1f} MHz reached of {hardware['clock_hz'] / 1e6:g}")
    if error := hardware.get("estimated_lut4_error"):
        said.append(f"core of {hardware['core']['lut4']:,} LUT4 (estimate {error})")
    return said


def _tools(manifest: Manifest, built: dict) -> dict[str, str]:
    """Name and version of every tool used; of greenedge without the digest of the code."""
    tools: dict[str, str] = {}
    for record in manifest.stages.values():
        tools |= record.tools
    tools |= built.get("tools") or (built.get("hardware") or {}).get("tools") or {}
    return {name: version.split("+")[0] if name == "greenedge" else version for name, version in sorted(tools.items())}


def _files(run: Path, manifest: Manifest) -> dict[str, int]:
    """{file: bytes} of the models and the built products."""
    names = [
        name
        for stage in ("export", "lower", "decoder", "build")
        if stage in manifest.stages
        for name in manifest.stages[stage].outputs
    ]
    wanted = [name for name in names if name.endswith(_PRODUCTS) and (name.count("/") == 1 or "/npu/" in name)]
    return {name: inside(run, name).stat().st_size for name in wanted if inside(run, name).is_file()}
