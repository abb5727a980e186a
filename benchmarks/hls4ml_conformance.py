"""Does the HLS project compute what the model says? Ours beside stock hls4ml, on the same QONNX files and the same
samples.

    python benchmarks/hls4ml_conformance.py [--samples 500] [--only NAME]…

Ours: greenedge lowers the file to the exact integer graph and hands that to hls4ml; its C simulation is compared with
the graph, all integers, ==. Stock: the file goes through qonnx's clean-up (and channels-last conversion for images) and
hls4ml's own converter with default settings; its C simulation is compared with qonnx's execution of the same file, in
steps of the output quantiser. Both projects are compiled by g++ -O0 for Vitis HLS.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import tempfile
import warnings
from pathlib import Path

import hls_networks
import numpy as np

from greenedge.backends import hls4ml as ours
from greenedge.graph import run_graph
from greenedge.legalise import legalise
from greenedge.lower import lower_file
from greenedge.lower.float_io import run_prologue
from greenedge.target import load_target
from greenedge.tools.run import execute


def run_ours(model: Path, x: np.ndarray, folder: Path) -> tuple[int, int, np.ndarray]:
    """(samples of which an integer differs, of which the largest output is another one, the graph's outputs)."""
    lowered = legalise(lower_file(model), ours.BACKEND.passes)
    graph, target = lowered.graph, load_target("vcu118")
    reasons = ours.check(graph, target, {})
    if reasons:
        raise RuntimeError(str(reasons[0]))
    execute(ours.plan(graph, target, {"synthesis": "no"}), folder)
    integers = next(iter(run_prologue(lowered, x).values()))
    expected = run_graph(graph, integers)[graph.outputs[0]]
    got = ours.simulate(folder, integers)[graph.outputs[0]]
    return int((expected != got).any(axis=1).sum()), int((expected.argmax(1) != got.argmax(1)).sum()), expected


def run_stock(model: Path, x: np.ndarray, folder: Path) -> tuple[int, int]:
    """The same two counts for hls4ml's own converter, against qonnx on the same file."""
    import hls4ml

    prepared = _prepare(model, len(x.shape) > 2)
    config = hls4ml.utils.config_from_onnx_model(prepared, granularity="name", backend="Vitis")
    project = hls4ml.converters.convert_from_onnx_model(
        prepared, output_dir=str(folder), backend="Vitis", io_type="io_parallel", hls_config=config
    )
    project.write()
    script = folder / "build_lib.sh"
    script.write_text(script.read_text().replace("-O3", "-O0"))
    project._compile()
    stored = np.moveaxis(x, 1, -1) if x.ndim > 2 else x
    got = np.asarray(project.predict(np.ascontiguousarray(stored))).reshape(len(x), -1)
    expected = _reference(prepared, stored)
    step = np.abs(np.diff(np.unique(expected))).min()
    differ = (np.abs(got - expected) > 0.25 * step).any(axis=1)
    return int(differ.sum()), int((got.argmax(1) != expected.argmax(1)).sum())


def _prepare(path: Path, image: bool):
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.channels_last import ConvertToChannelsLastAndClean
    from qonnx.transformation.gemm_to_matmul import GemmToMatMul
    from qonnx.util.cleanup import cleanup_model

    model = cleanup_model(ModelWrapper(str(path)))
    for node in [n for n in model.graph.node if n.op_type == "Gemm" and len(n.input) < 3]:  # qonnx wants a third input
        name = f"{node.name}_zero"
        model.set_initializer(name, np.zeros(model.get_tensor_shape(node.output[0])[-1], np.float32))
        node.input.append(name)
    model = cleanup_model(model.transform(GemmToMatMul()))
    to_last = ConvertToChannelsLastAndClean(make_input_channels_last=True)
    return cleanup_model(model.transform(to_last)) if image else model


def _reference(model, x: np.ndarray) -> np.ndarray:
    from qonnx.core.onnx_exec import execute_onnx

    name, output = model.graph.input[0].name, model.graph.output[0].name
    shape = model.get_tensor_shape(name)
    return np.stack([execute_onnx(model, {name: row.reshape(shape)})[output].ravel() for row in x])


def format_counts(counts: tuple[int, int] | str, samples: int) -> str:
    return f"{counts[0]:6} {counts[1]:6}" if isinstance(counts, tuple) else f"fails: {counts}"[:60]


def try_run(run, *arguments):
    """What it gives, or the first line of what it raised: hls4ml and qonnx raise all kinds."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return run(*arguments)
    except Exception as error:
        return f"{type(error).__name__} {str(error).splitlines()[0] if str(error) else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--only", action="append")
    arguments = parser.parse_args()
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    print(
        f"{'':24} {'ours: differ, argmax':>20}   stock hls4ml, defaults: differ, argmax; of {arguments.samples} samples"
    )
    for network in hls_networks.NETWORKS:
        if arguments.only and network.name not in arguments.only:
            continue
        with tempfile.TemporaryDirectory(prefix="hls-conformance-") as scratch:
            model = Path(scratch) / "model.onnx"
            x = hls_networks.export(network, model, arguments.samples)
            mine = try_run(run_ours, model, x, Path(scratch) / "ours")
            mine = mine[:2] if isinstance(mine, tuple) else mine
            theirs = try_run(run_stock, model, x, Path(scratch) / "stock")
        print(f"{network.name:24} {format_counts(mine, len(x)):>20}   {format_counts(theirs, len(x))}", flush=True)


if __name__ == "__main__":
    main()
