"""Int8 .tflite files against LiteRT on the original: integer graph, C, emitted .tflite and RTL, in both kernel sets.

    python benchmarks/tflite_files.py [FILE.tflite …] [--samples 1000] [--c 200] [--rtl 0] [--operators 0]

Without a file: three of random weights in the shapes of MLPerf Tiny's ResNet-8, MobileNetV1-0.25 and autoencoder. Per
file and set: seconds to read and lower, integers before the softmax that differ from LiteRT's on so many random inputs,
the same of the C package (compiled for this machine), of the .tflite that is written (XNNPACK), and of the RTL for
ulx3s-85f by Verilator. --operators N adds N one-operator files of every kind and set.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

from greenedge.backends import load_backend  # noqa: E402
from greenedge.backends.int8.tflite import worker  # noqa: E402
from greenedge.errors import GreenedgeError, UnsupportedError  # noqa: E402
from greenedge.frontends.source import parse_normal, read_normal  # noqa: E402
from greenedge.frontends.tflite.file import read_file  # noqa: E402
from greenedge.frontends.tflite.kernels import KERNELS  # noqa: E402
from greenedge.graph import run_graph  # noqa: E402
from greenedge.legalise import legalise  # noqa: E402
from greenedge.lower import lower_source  # noqa: E402
from greenedge.progress import no_progress  # noqa: E402
from greenedge.target import load_target  # noqa: E402
from greenedge.tools.run import execute  # noqa: E402
from greenedge.verify.litert_reference import read_origin, run_litert  # noqa: E402
from tests.lower.tflite_files import ONE_OPERATOR, Net, one_operator  # noqa: E402

PORTION = 250  # samples at once


def resnet8(rng):
    """MLPerf Tiny's image classifier: 32 × 32 × 3, 16, 32 and 64 channels."""
    net = Net(rng, (1, 32, 32, 3))
    x = net.conv(net.inputs[0], 16, act="RELU")
    x = net.binary("ADD", x, net.conv(net.conv(x, 16, act="RELU"), 16), "RELU")
    for channels in (32, 64):
        y = net.conv(net.conv(x, channels, strides=(2, 2), act="RELU"), channels)
        x = net.binary("ADD", net.conv(x, channels, (1, 1), (2, 2)), y, "RELU")
    x = net.pool("AVERAGE_POOL_2D", x, (8, 8), (8, 8))
    return net, net.softmax(net.dense(net.reshape(x, (1, 64)), 10))


def mobilenet(rng):
    """MLPerf Tiny's visual wake words: MobileNetV1 with a quarter of the channels, 96 × 96 × 3."""
    net = Net(rng, (1, 96, 96, 3))
    x = net.conv(net.inputs[0], 8, strides=(2, 2), act="RELU")
    shapes = [(16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 2), (256, 1)]
    for channels, stride in shapes:
        x = net.conv(net.depthwise(x, strides=(stride, stride), act="RELU"), channels, (1, 1), act="RELU")
    x = net.pool("AVERAGE_POOL_2D", x, (3, 3), (3, 3))
    return net, net.softmax(net.dense(net.reshape(x, (1, 256)), 2))


def autoencoder(rng):
    """MLPerf Tiny's anomaly detector: 640 inputs, nine hidden layers."""
    net = Net(rng, (1, 640))
    x = net.inputs[0]
    for width in (128, 128, 128, 128, 8, 128, 128, 128, 128):
        x = net.dense(x, width, "RELU")
    return net, net.dense(x, 640)


SHAPES = {"resnet8": resnet8, "mobilenet-0.25": mobilenet, "autoencoder": autoencoder}


def main() -> None:
    """Prints a line for each file, set and thing that was compared."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--c", type=int, default=200)
    parser.add_argument("--rtl", type=int, default=0)
    parser.add_argument("--operators", type=int, default=0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for path in chosen.files or [_make(name, Path(scratch)) for name in SHAPES]:
            for kernels in KERNELS:
                compare_file(path, kernels, chosen, Path(scratch))
        for kind in ONE_OPERATOR if chosen.operators else ():
            for kernels in KERNELS:
                compare_operator(kind, kernels, chosen.operators, Path(scratch) / "one.tflite")


def _make(name: str, folder: Path) -> Path:
    net, out = SHAPES[name](np.random.default_rng(7))
    return net.save(folder / f"{name}.tflite", out)


class Reading:
    """A file as it was read in one set's arithmetic: its integer graph, and LiteRT beside it."""

    def __init__(self, path: Path, kernels: str) -> None:
        began = time.monotonic()
        normal = read_normal(path, kernels)
        self.lowered = lower_source(parse_normal(normal, path.stem))
        self.seconds = time.monotonic() - began
        self.path, self.file, self.origin = path, read_file(path), read_origin(normal.proto)

    def draw(self, rng, count):
        """{edge: random stored values} of the graph's inputs."""
        edges = self.lowered.graph.edges
        return {
            e: rng.integers(edges[e].lo, edges[e].hi, (count, *edges[e].shape), endpoint=True)
            for e in self.lowered.graph.inputs
        }

    def litert(self, x):
        """LiteRT's integers of the first output, counted from where the graph's are."""
        output = self.lowered.outputs[0]
        number = self.origin.tensors[output.tensor]
        tensors = [self.file.tensors[k] for k in self.file.inputs]
        samples = {e: self.read(t, v) for (e, v), t in zip(x.items(), tensors, strict=True)}
        values = run_litert(self.file, self.path, samples, [number], self.origin.arithmetic, no_progress)[number]
        offset = int(self.file.tensors[number].zeros[0]) - int(np.ravel(output.zero)[0])
        return values.reshape(len(values), -1).astype(np.int64) - offset

    def read(self, tensor, levels):
        """Samples as a file takes them: stored integers, or the real numbers of the levels of its first quantiser."""
        levels = levels.reshape(len(levels), *tensor.shape[1:])
        if tensor.kind != "FLOAT32":
            return levels
        reader = next(op for op in self.file.operators if tensor.number in op.inputs)
        code = self.file.tensors[reader.outputs[0]]
        return ((levels - code.zeros[0]) * code.scales[0]).astype(np.float32)

    def first(self, outputs):
        """The first output's integers, a row a sample."""
        values = outputs[self.lowered.outputs[0].edge]
        return values.reshape(len(values), -1)


def compare_file(path: Path, kernels: str, chosen: argparse.Namespace, scratch: Path) -> None:
    """Everything that can be compared of a file."""
    try:
        reading = Reading(path, kernels)
    except UnsupportedError as refusal:
        print(f"{path.name} {kernels}: refused, {refusal.reasons[0]}", flush=True)
        return
    layers = len(reading.lowered.graph.layers)
    print(f"{path.name} {kernels}: read and lowered in {reading.seconds:.1f} s, {layers} layers", flush=True)
    rng, wrong, total = np.random.default_rng(11), 0, 0
    met: set[int] = set()
    for first in range(0, chosen.samples, PORTION):
        x = reading.draw(rng, min(PORTION, chosen.samples - first))
        expected, got = reading.litert(x), reading.first(run_graph(reading.lowered.graph, x))
        wrong, total = wrong + int((expected != got).sum()), total + got.size
        met.update(np.unique(expected).tolist())
    print(
        f"  graph: {wrong} of {total:,} integers ({len(met)} different values) differ from LiteRT, "
        f"{chosen.samples:,} inputs",
        flush=True,
    )
    for name, target, count in (
        ("c99", "cortex-m4", chosen.c),
        ("tflite", "linux-x86", chosen.c if kernels == "xnnpack" else 0),
        ("finn", "ulx3s-85f", chosen.rtl),
    ):
        if count:
            compare_build(reading, name, target, count, rng, scratch / f"{path.stem}-{name}-{kernels}")


def compare_build(reading: Reading, name: str, target: str, count: int, rng, folder: Path) -> None:
    """What a back end writes, up to its first simulation, against LiteRT."""
    backend, board = load_backend(name), load_target(target)
    legal = legalise(reading.lowered, backend.passes)
    if reasons := backend.check(legal.graph, board, {}):
        print(f"  {name}: refused, {reasons[0]}", flush=True)
        return
    began = time.monotonic()
    plan = backend.plan(legal.graph, board, {}, backend.float_epilogue(legal, board, {}))
    commands = plan.commands[:2] if name == "finn" else ()
    execute(dataclasses.replace(plan, commands=commands, products=()), folder, lambda line: None)
    x = reading.draw(rng, count)
    got = reading.first(backend.simulate(folder, x))
    wrong = int((got != reading.litert(x)).any(axis=1).sum())
    seconds = time.monotonic() - began
    print(f"  {name}: {wrong} of {count:,} inputs differ from LiteRT ({seconds:.0f} s)", flush=True)


def compare_operator(kind: str, kernels: str, count: int, path: Path) -> None:
    """One-operator files of a kind."""
    wrong = total = refused = 0
    runtime, _, _ = worker.load_runtime()  # in this process: a file takes milliseconds, a process half a second
    for seed in range(count):
        net, out, xs = one_operator(kind, seed)
        try:
            reading = Reading(net.save(path, out), kernels)
        except GreenedgeError:
            refused += 1
            continue
        edges = reading.lowered.graph.edges
        x = {
            e: v.reshape(len(v), *edges[e].shape).astype(np.int64)
            for e, v in zip(reading.lowered.graph.inputs, xs, strict=True)
        }
        got = reading.first(run_graph(reading.lowered.graph, x))
        expected = worker.run(worker.interpreter_for(runtime, path, kernels), xs, lambda done: None)[str(out)]
        wrong, total = wrong + int((got != expected.reshape(got.shape)).sum()), total + got.size
    more = f", {refused} refused" if refused else ""
    print(f"{kind} {kernels}: {wrong} of {total:,} integers differ, {count - refused} files{more}", flush=True)


if __name__ == "__main__":
    main()
