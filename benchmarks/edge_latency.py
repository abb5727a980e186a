"""Bytes and latency of greenedge's 8-bit files against float runtimes: one thread, batch 1, time_in_turns in one run.

    python benchmarks/edge_latency.py [--rounds N] [--reference kws_ref_model_int8.tflite] [--compile]
    python benchmarks/edge_latency.py --prepare FOLDER [--reference …]       writes the files, inputs and expected
    outputs python benchmarks/edge_latency.py --from FOLDER [--rounds N] [--compile] times them, on this machine or
    another

ResNet-8 and DS-CNN shapes with random weights (w8a8, float batch norm); `--reference` adds MLPerf Tiny's int8 DS-CNN.
The baseline is a float *runtime* (ONNX Runtime, LiteRT with XNNPACK); PyTorch (eager; on CUDA where there is one) is
shown for comparison. Ratios are taken per round; in brackets the middle 80 % of them. The float networks are those of
the same integer graphs, with batch norm folded in. `--from` needs numpy, ai-edge-litert, onnxruntime and, for its rows,
torch; greenedge may be on PYTHONPATH without being installed. Before timing, each file must give the outputs that it
gave where it was written: 8-bit ones every integer, float ones to a hundredth.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
from edge_runtimes import ABOUT, FORMAT, open_file

from greenedge.backends.int8.onnxruntime.worker import saturates
from greenedge.runtimes.latency import time_in_turns

_NEAR = 1e-2  # of the largest float output: runtimes sum in different orders


def _ways(about: dict, compiled: bool) -> dict[str, str]:
    """{name of the row: how} of one prepared file."""
    if about["runtime"] != "torch":
        return {about["name"]: "cpu"}
    import torch

    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    on = {"cpu": "", "cuda": f", {torch.cuda.get_device_name()}" if len(devices) > 1 else ""}
    ways = {f"{about['name']}, eager{on[d]}": d for d in devices}
    return ways | ({f"{about['name']}, compiled{on[d]}": f"compiled-{d}" for d in devices} if compiled else {})


def contenders(folder: Path, network: dict, compiled: bool) -> tuple[dict[str, Callable], dict[str, int | None]]:
    """(calls, bytes of their files) of all that can run here; says what cannot, and what gives something else."""
    calls: dict[str, Callable] = {}
    sizes: dict[str, int | None] = {}
    for about in network["contenders"]:
        try:
            ready = {name: open_file(folder, about, how) for name, how in _ways(about, compiled).items()}
        except ImportError as error:
            print(f"  {about['name']}: not run here ({error})")
            continue
        with np.load(folder / f"{about['file']}.npz") as sample:
            expected = sample["y"]
        for name, each in ready.items():
            _compare(name, about["exact"], expected, each.output)
            calls[name], sizes[name] = each.call, about["bytes"]
    return calls, sizes


def _compare(name: str, exact: bool, expected: np.ndarray, got: np.ndarray) -> None:
    expected, got = expected.reshape(-1), np.asarray(got).reshape(-1)
    if (
        expected.size != got.size
        or not exact
        and not np.allclose(got, expected, atol=_NEAR * np.abs(expected).max(), rtol=0)
    ):
        sys.exit(f"{name} computes something else than it must; nothing was timed.")
    if exact and (differing := int((got != expected).sum())):
        print(f"  {name}: {differing} of {got.size} output integers are other than where the file was written")


def time_files(folder: Path, rounds: int, compiled: bool) -> None:
    """Prints one table a network."""
    print(_machine())
    for network in _read(folder)["networks"]:
        print(f"{network['name']}: {network['weights']:,} weights")
        calls, sizes = contenders(folder, network, compiled)
        timings, base = time_in_turns(calls, rounds), network["base"]
        print(f"  {'runtime':34} {'bytes':>9} {'microseconds':>24}   {base} / this")
        for each in calls:
            us = [v * 1e6 for v in vars(timings.latency_s(each)).values()]
            size = f"{sizes[each]:,}" if sizes[each] else "–"
            ratio = "" if each == base or base not in calls else timings.ratio(base, each)
            print(f"  {each:34} {size:>9} {us[0]:>9.1f} ({us[1]:.1f} … {us[2]:.1f})   {ratio}")
        for line in network["told"]:
            print(f"  {line}")


def _read(folder: Path) -> dict:
    try:
        about = json.loads((folder / ABOUT).read_text())
    except (OSError, ValueError) as error:
        sys.exit(f"{folder} holds no prepared files ({error}); write them with --prepare {folder}.")
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        sys.exit(f"{folder / ABOUT} is of another version of this benchmark; write it again with --prepare {folder}.")
    return about


def _machine() -> str:
    """Processor and versions, one line."""
    try:
        rows = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        rows = []
    name = next((row.partition(":")[2].strip() for row in rows if row.startswith("model name")), platform.machine())
    found = [name, "one thread", *(["no VNNI: ONNX Runtime is asked for exact 8-bit products"] if saturates() else [])]
    for package in ("ai-edge-litert", "onnxruntime", "torch", "numpy"):
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            found.append(f"no {package}")
    return ", ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--compile", action="store_true", help="torch.compile too (takes minutes)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--prepare", type=Path, metavar="FOLDER", help="write the files there and time nothing")
    where.add_argument("--from", type=Path, metavar="FOLDER", dest="prepared", help="time the files that lie there")
    words = parser.parse_args()
    if words.prepared is not None:
        time_files(words.prepared, words.rounds, words.compile)
        return
    from edge_files import prepare

    if words.reference is not None and not words.reference.is_file():
        parser.error(f"there is no file {words.reference}")
    if words.prepare is not None:
        prepare(words.prepare, words.reference)
        print(f"written; time them with --from {words.prepare}")
        return
    with tempfile.TemporaryDirectory(prefix="greenedge-latency-") as scratch:
        prepare(Path(scratch), words.reference)
        time_files(Path(scratch), words.rounds, words.compile)


if __name__ == "__main__":
    main()
