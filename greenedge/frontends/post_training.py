"""A float model as one of 8 bits: onnxruntime's static quantisation, with ranges seen on calibration samples.

Weights are signed, one scale an output channel; activations are unsigned with a zero point, one scale a tensor. Batch
norms are folded into the layers before them first.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greenedge.errors import GreenedgeError, UnsupportedError
from greenedge.files.scratch import scratch_folder
from greenedge.frontends.domains import QUANTISERS
from greenedge.frontends.samples import Samples
from greenedge.frontends.source import Source, parse_normal, read_normal
from greenedge.progress import ProgressFn

_STANDARD_QUANTISERS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")


def is_float(source: Source) -> bool:
    """Whether nothing in the model is quantised."""
    return not any(node.op in (*QUANTISERS, *_STANDARD_QUANTISERS) for node in source.nodes)


def read_float_model(path: Path) -> Source:
    """The model in `path`. Raises GreenedgeError where it is quantised already, UnsupportedError where it breaks ONNX's
    rules or mixes the samples of a batch, and as `read_model`."""
    source = parse_normal(read_normal(path), path.stem)
    if not is_float(source):
        found = next(node for node in source.nodes if node.op in (*QUANTISERS, *_STANDARD_QUANTISERS))
        raise GreenedgeError(
            f"{path} is quantised already ({found.name}: {found.op}); `greenedge check {path} --target NAME` says "
            "what it can be built for."
        )
    if source.complaints:
        raise UnsupportedError(f"{path.name} cannot be quantised:", source.complaints)
    return source


def quantise_file(path: Path, samples: Samples, out: Path, progress: ProgressFn) -> None:
    """Writes the quantised model of a float one to `out`; `samples` are float arrays by the names of its inputs.

    Raises GreenedgeError for a model that onnxruntime cannot run or quantise.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with scratch_folder("quantise") as scratch, _quiet():
        given, folded, quantised = (Path(scratch) / f"{name}.onnx" for name in ("given", "folded", "quantised"))
        given.write_bytes(read_normal(path).proto.SerializeToString())
        try:
            quant_pre_process(str(given), str(folded), skip_symbolic_shape=True)
            _flatten_biases(folded)
            quantize_static(
                str(folded),
                str(quantised),
                _make_reader(samples, progress),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
            )
        except Exception as error:  # of onnxruntime: its classes are many, and none of them ours
            said = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise GreenedgeError(
                f"{path} cannot be quantised by onnxruntime ({said}); quantise it in training."
            ) from None
        out.write_bytes(quantised.read_bytes())


def _flatten_biases(path: Path) -> None:
    """Biases of dense layers of shape (1, N) → (N,): the quantiser takes the first axis for the channels."""
    import onnx
    from onnx import numpy_helper

    proto = onnx.load(str(path))
    biases = {node.input[2] for node in proto.graph.node if node.op_type == "Gemm" and len(node.input) > 2}
    for tensor in proto.graph.initializer:
        if tensor.name in biases and list(tensor.dims[:-1]) == [1]:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).reshape(-1), tensor.name))
    onnx.save(proto, str(path))


def _make_reader(samples: Samples, progress: ProgressFn) -> Any:
    """onnxruntime's reader of calibration data, one sample at a time."""
    from onnxruntime.quantization import CalibrationDataReader

    total = len(next(iter(samples.values())))

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.read = 0

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            if self.read == total:
                return None
            k, self.read = self.read, self.read + 1
            progress(self.read, total, "calibration")
            return {name: np.asarray(x[k : k + 1], np.float32) for name, x in samples.items()}

    return Reader()


def run_float(path: Path, samples: Samples) -> list[NDArray[Any]]:
    """The model's outputs, by onnxruntime in float32."""
    import onnxruntime

    with _quiet():
        session = onnxruntime.InferenceSession(
            read_normal(path).proto.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        total = len(next(iter(samples.values())))
        rows = [
            session.run(None, {name: np.asarray(x[k : k + 1], np.float32) for name, x in samples.items()})
            for k in range(total)
        ]
    return [np.concatenate(parts) for parts in zip(*rows, strict=True)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without onnxruntime's advice about its own options, which it prints and logs."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(level)
