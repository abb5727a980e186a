"""Bytes and latency of our 8-bit files against float runtimes: one thread, batch 1, all in turns within one run.

    python benchmarks/edge_latency.py [--rounds N] [--reference kws_ref_model_int8.tflite] [--compile]

ResNet-8 and DS-CNN shapes with random weights (w8a8, float batch norm); `--reference` puts MLPerf Tiny's own int8 DS-CNN beside ours.
The baseline is a float *runtime* (ONNX Runtime, LiteRT with XNNPACK); PyTorch eager is shown for what it is. Ratios are taken round by
round; in brackets the middle 80 % of them. The float networks are those behind the same integer graphs, batch norm folded in.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from float_tflite import float_tflite
from mlperf_tiny import NETWORKS, autoencoder

from greenedge.backends.onnxruntime.emit import write_file as write_onnx
from greenedge.backends.tflite.emit import write_file
from greenedge.graph import Graph
from greenedge.int8.record import certificate, summary
from greenedge.lower import lower_file
from greenedge.runtimes import open_runtime
from greenedge.runtimes.floats import float_model
from greenedge.runtimes.latency import interleaved

OURS = "LiteRT int8 (ours)"


def litert_call(content: bytes, kind=np.int8) -> Callable[[], object]:
    """One inference of a .tflite file on XNNPACK with random input."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    entry = interpreter.get_input_details()[0]
    x = np.random.default_rng(0).integers(-128, 128, entry["shape"]).astype(kind)

    def call() -> None:
        interpreter.set_tensor(entry["index"], x)
        interpreter.invoke()

    call.interpreter, call.x = interpreter, x
    return call


def _checked(graph: Graph, content: bytes, levels: np.ndarray) -> Callable[[], object]:
    """The float .tflite, which must give what ONNX Runtime gives with the float network."""
    call = litert_call(content, np.float32)
    call.x[:] = np.moveaxis(levels, 1, -1).reshape(call.x.shape)
    call()
    got = call.interpreter.get_tensor(call.interpreter.get_output_details()[0]["index"])
    (expected,) = open_runtime("onnxruntime-float", graph).run(levels).values()
    assert np.allclose(got, expected, atol=1e-2 * np.abs(expected).max()), "the float .tflite computes something else"
    return call


def contenders(
    graph: Graph, shape, reference: Path | None, compiled: bool
) -> tuple[dict[str, Callable], dict[str, int]]:
    """(calls, bytes of their files)."""
    levels = np.random.default_rng(0).integers(-128, 128, (1, *shape))
    onnx_float = float_model(graph)
    files = {
        OURS: write_file(graph).content,
        "LiteRT float": float_tflite(onnx_float),
        "ONNX Runtime int8 (ours)": write_onnx(graph).content,
        "ONNX Runtime float": onnx_float.SerializeToString(),
    }
    calls = {OURS: litert_call(files[OURS]), "LiteRT float": _checked(graph, files["LiteRT float"], levels)}
    if reference is not None:
        files["MLPerf Tiny reference int8"] = reference.read_bytes()
        calls["MLPerf Tiny reference int8"] = litert_call(files["MLPerf Tiny reference int8"])
    calls["ONNX Runtime int8 (ours)"] = open_runtime("onnxruntime", graph).prepare(levels)
    calls["ONNX Runtime float"] = open_runtime("onnxruntime-float", graph).prepare(levels)
    calls["PyTorch float, eager"] = open_runtime("torch", graph).prepare(levels)
    if compiled:
        calls["PyTorch float, compiled"] = open_runtime("torch-compile", graph).prepare(levels)
    return calls, {name: len(content) for name, content in files.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--compile", action="store_true", help="torch.compile too (takes minutes)")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, (make, shape) in NETWORKS.items():
            path = Path(folder) / f"{name}.onnx"
            make(path)
            graph = lower_file(path).graph
            calls, sizes = contenders(graph, shape, words.reference if name == "DS-CNN" else None, words.compile)
            timings = interleaved(calls, words.rounds)
            print(f"{name}: {sum(op.weight.size for op in graph.ops if hasattr(op, 'weight')):,} weights")
            print(f"  {'runtime':28} {'bytes':>9} {'microseconds':>24}   ours / this")
            for each in calls:
                us = [v * 1e6 for v in vars(timings.latency_s(each)).values()]
                size = f"{sizes[each]:,}" if each in sizes else "–"
                print(
                    f"  {each:28} {size:>9} {us[0]:>9.1f} ({us[1]:.1f} … {us[2]:.1f})   {'' if each == OURS else timings.ratio(OURS, each)}"
                )
        _int4(Path(folder) / "autoencoder.onnx", words.rounds)


def _int4(path: Path, rounds: int) -> None:
    """Dense weights of 4 bits in half a byte each, against the same in int8."""
    autoencoder(path)
    graph = lower_file(path).graph
    wide, narrow = write_file(graph), write_file(graph, int4=True)
    timings = interleaved({"int8": litert_call(wide.content), "int4-dense": litert_call(narrow.content)}, rounds)
    print(f"autoencoder w4a4: {sum(op.weight.size for op in graph.ops if hasattr(op, 'weight')):,} weights")
    for name, emitted in (("int8", wide), ("int4-dense", narrow)):
        told = summary(certificate(emitted.layers), "xnnpack")
        print(
            f"  storage={name:11} {len(emitted.content):>9,} bytes, {timings.latency_s(name).median * 1e6:.1f} microseconds "
            f"({timings.ratio(name, 'int8')} of int8), {told['certified']:,} of {told['channels']:,} channels certified, "
            f"{told['differing_accumulators']:,} accumulators differ"
        )


if __name__ == "__main__":
    main()
