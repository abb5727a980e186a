"""What LiteRT's certificates prove on trained networks, and how many test images differ: a row per network and width.

    python benchmarks/edge_certificates.py [--epochs N] [--only NAME …]

The recipes digits-mlp and digits-cnn (convolution, depthwise, residual addition, both poolings) are trained with float
scales; their float batch norms stay in. `snap` rows are the same networks with biases on the accumulator's grid
(greenedge snap), `kernels=all` rows with build.kernels=all. `Int32Bias` rows are networks whose batch norms were folded
after training, with Brevitas' Int32Bias on that grid (quantise.fold_batch_norm, a weight scale per channel). Every row
compares all test images with `==`, on all outputs, on both kernel sets of LiteRT and in ONNX Runtime. "worst" is the
channel with the most differing accumulators, of those that it can reach. Below the table are the preflight notes on the
8-bit networks.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from greenedge.backends.int8 import tflite
from greenedge.backends.int8.proof_record import certificate, summary
from greenedge.backends.int8.tflite.emit import find_reasons, write_file
from greenedge.backends.int8.tflite.selftest import self_test
from greenedge.backends.preflight import check_model
from greenedge.frontends.brevitas import export_stage
from greenedge.graph import Graph, run_graph
from greenedge.legalise import legalise_graph
from greenedge.lower import lower_file
from greenedge.lower.float_io import run_epilogue, run_prologue
from greenedge.lower.snap import snap_file
from greenedge.run.jobs import find_recipe
from greenedge.runtimes import open_runtime
from greenedge.target import load_target
from greenedge.train import train_stage

SNAP_BITS = 16


@dataclass(frozen=True)
class Row:
    """A recipe and its bit widths; `snapped` where biases are put on the grid after training, `int32_bias` where batch
    norms are folded."""

    recipe: str
    weight_bits: int
    act_bits: int
    snapped: bool = False
    all_sets: bool = False
    int32_bias: bool = False

    @property
    def name(self) -> str:
        kinds = {"snap": self.snapped, "kernels=all": self.all_sets, "Int32Bias": self.int32_bias}
        return " ".join(
            [f"{self.recipe} w{self.weight_bits}a{self.act_bits}", *(kind for kind, on in kinds.items() if on)]
        )


ROWS = tuple(
    Row(recipe, w, a, snapped, False, int32_bias)
    for recipe in ("digits-mlp", "digits-cnn")
    for w, a, snapped, int32_bias in (
        (2, 2, False, False),
        (3, 3, False, False),
        (4, 4, False, False),
        (8, 8, True, False),
        (8, 8, False, True),
        (8, 8, False, False),
    )
) + tuple(Row("digits-cnn", w, w, all_sets=True) for w in (2, 3, 4))


def train_network(row: Row, epochs: int, folder: Path) -> Path:
    """The export folder of the trained network (trained once for rows that share it)."""
    place = folder / f"{row.recipe}-w{row.weight_bits}a{row.act_bits}{'-int32bias' if row.int32_bias else ''}"
    if not (place / "2-export" / "model.onnx").is_file():
        settings = {
            "quantise.weight_bits": str(row.weight_bits),
            "quantise.act_bits": str(row.act_bits),
            "train.epochs": str(epochs),
        }
        if row.int32_bias:
            settings |= {"quantise.fold_batch_norm": "true", "quantise.per_channel": "true"}
        recipe = find_recipe(row.recipe, settings)
        train_stage(recipe, place / "1-train")
        export_stage(recipe, place / "1-train", place / "2-export")
    return place / "2-export"


def measure(row: Row, epochs: int, folder: Path) -> dict:
    export = train_network(row, epochs, folder)
    model, changed = export / "model.onnx", None
    if row.snapped:
        model = export / "snapped.onnx"
        entries = snap_file(export / "model.onnx", model, SNAP_BITS)
        changed = sum(e.changed for e in entries) / sum(e.accumulators for e in entries)
    lowered = lower_file(model)
    graph = legalise_graph(lowered.graph, tflite.PASSES)
    assert not find_reasons(graph), find_reasons(graph)
    emitted = write_file(graph, all_sets=row.all_sets)
    proved = certificate(emitted.layers)
    layers = {
        (layer["operator"], kernels): layer["kernels"][kernels]
        for layer in proved["layers"]
        for kernels in ("xnnpack", "reference")
    }
    worst = max(
        (int(n), int(of))
        for layer in emitted.layers
        for n, of in zip(layer.solution.verdicts["xnnpack"].differing, layer.accumulators, strict=True)
    )
    preflight = check_model(model, load_target("linux-x86"), "tflite").notes if row.act_bits == 8 else ()
    levels = run_prologue(lowered, np.load(export / "inputs.npy"))
    (x,) = levels.values()
    labels = np.load(export / "labels.npy")
    expected = run_graph(graph, x)
    shown = {"graph": (0, _accuracy(lowered, expected, labels))}
    built = folder / "built"
    built.mkdir(exist_ok=True)
    (built / "model.tflite").write_bytes(emitted.content)
    (built / "edges.json").write_text(json.dumps(tflite.edges_of(graph, emitted)))
    for name in ("litert", "litert-reference", "onnxruntime"):
        got = open_runtime(name, graph, None if name == "onnxruntime" else built / "model.tflite").run(x)
        shown[name] = (_differing(graph, expected, got), _accuracy(lowered, got, labels))
    return {
        "row": row.name,
        "xnnpack": summary(proved, "xnnpack"),
        "reference": summary(proved, "reference"),
        "worst_channel": worst,
        "preflight": preflight,
        "shown": shown,
        "samples": len(x),
        "snap_changed": changed,
        "operators": sorted({name for name, _ in layers}),
    }


def _differing(graph: Graph, expected, got) -> int:
    """Samples of which any output integer differs."""
    differing = np.zeros(len(next(iter(expected.values()))), bool)
    for edge in graph.outputs:
        differing |= (expected[edge] != got[edge]).reshape(len(differing), -1).any(axis=1)
    return int(differing.sum())


def _accuracy(lowered, edges, labels) -> float:
    output = next(iter(run_epilogue(lowered, edges).values()))
    return float((output.reshape(len(output), -1).argmax(axis=1) == labels).mean())


def _print(results: list[dict]) -> None:
    print(
        f"{'network':24} {'XNNPACK channels':>17} {'differ at':>22} {'worst':>16} {'reference channels':>19} "
        f"{'samples that differ: XNNPACK, reference, ORT':>46} {'accuracy: graph, XNNPACK, reference, ORT':>42}"
    )
    for r in results:
        a, b = r["xnnpack"], r["reference"]
        worst = f"{r['worst_channel'][0]} of {r['worst_channel'][1]:,}"
        differing = (
            ", ".join(f"{r['shown'][n][0]}" for n in ("litert", "litert-reference", "onnxruntime"))
            + f" of {r['samples']}"
        )
        accuracy = " ".join(f"{r['shown'][n][1]:.4f}" for n in ("graph", "litert", "litert-reference", "onnxruntime"))
        print(
            f"{r['row']:24} {a['certified']:>8} of {a['channels']:<5} "
            f"{a['differing_accumulators']:>8,} ({a['share']:.1e}) {worst:>16} "
            f"{b['certified']:>10} of {b['channels']:<5} {differing:>46} {accuracy:>42}"
        )
    for r in results:
        if r["snap_changed"] is not None:
            print(f"{r['row']}: snap changed {r['snap_changed']:.1e} of the accumulators of the model as trained")
    for r in results:
        for note in r["preflight"] or (["all channels tried are equal everywhere"] if "w8a8" in r["row"] else []):
            print(f"{r['row']}, preflight: {note}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--only", nargs="*", default=[], help="rows whose name holds one of these")
    parser.add_argument("--keep", type=Path, help="folder for the trained networks, to use them again")
    words = parser.parse_args()
    tested = self_test()
    for kernels, entry in tested["kernels"].items():
        print(
            f"self-test of {tested['runtime']} {tested['version']}, {kernels}: {entry['mismatches']} of "
            f"{entry['pairs']:,} values differ from the emulation ({entry['ties']:,} exact ties)"
        )
    rows = [row for row in ROWS if not words.only or any(word in row.name for word in words.only)]
    with tempfile.TemporaryDirectory(prefix="greenedge-certificates-") as scratch:
        _print([measure(row, words.epochs, words.keep or Path(scratch)) for row in rows])


if __name__ == "__main__":
    main()
