"""Checks the emulated arithmetic against the ONNX Runtime at hand, in about a second.

    python -m greenedge.backends.int8.onnxruntime.selftest OUT.json

Every operator that a certificate speaks of is run with random scales, with scales full of exact ties, and with the
largest weights and inputs (on processors without exact 8-bit products those saturate), and compared value by value.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from greenedge.backends.int8.arithmetic import EMULATIONS, INT8_MAX, INT8_MIN, Emulation, Float32s, requantise
from greenedge.backends.int8.onnxruntime.onnx_builder import CONTRIB, IR, OPSET, SHIFT
from greenedge.backends.int8.onnxruntime.worker import run, session_for
from greenedge.backends.int8.proof_record import Record
from greenedge.graph.ops.base import Array, Ints

CHANNELS, INPUTS, SAMPLES = 32, 36, 96
KINDS = ("QGemm", "QLinearConv", "depthwise", "QuantizeLinear")
_SEED = 20261125


@dataclass(frozen=True, eq=False)
class Case:
    """One operator on SAMPLES vectors: its file, its input, and what the emulation needs to compute its output."""

    operator: str
    content: bytes
    x: Array
    acc: Ints
    scale_in: float
    scales: Float32s
    scale_out: float
    zero_point: int
    ties: int
    bounds: tuple[int, int] = (INT8_MIN, INT8_MAX)
    shift: int = SHIFT  # what is stored less the value


def cases() -> list[Case]:
    """Random scales, scales with ties, and largest values, for every operator; weights in uint8 for those that have
    them."""
    rng = np.random.default_rng(_SEED)
    flavours = ("random", "ties", "largest")
    more = [_case(rng, kind, "unsigned") for kind in KINDS if kind != "QuantizeLinear"]
    sums = [_sums(rng, kind, largest) for kind in ("MatMulInteger", "ConvInteger") for largest in (False, True)]
    return [*(_case(rng, kind, flavour) for kind in KINDS for flavour in flavours), *more, *sums]


def _sums(rng: np.random.Generator, kind: str, largest: bool) -> Case:
    """Sums that are stored as they are, of weights over all of uint8."""
    from onnx import TensorProto, helper, numpy_helper

    x, weight = rng.integers(0, 256, (SAMPLES, INPUTS)), rng.integers(0, 256, (CHANNELS, INPUTS))
    if largest:
        x, weight = rng.choice(np.array([0, 255]), x.shape), rng.choice(np.array([0, 255]), weight.shape)
    zeros = [int(rng.integers(0, 256)) for _ in range(2)]
    is_dense = kind == "MatMulInteger"
    fed = x.astype(np.uint8)[(..., *[None] * (0 if is_dense else 2))]
    constants = {
        "w": weight.astype(np.uint8).T if is_dense else weight.astype(np.uint8)[:, :, None, None],
        "xz": np.array(zeros[0], np.uint8),
        "wz": np.array(zeros[1], np.uint8),
    }
    more: dict[str, Any] = {} if is_dense else {"kernel_shape": [1, 1]}
    shape = [None] * fed.ndim
    graph = helper.make_graph(
        [helper.make_node(kind, ["x", "w", "xz", "wz"], ["y"], **more)],
        "selftest",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("y", TensorProto.INT32, shape)],
        [numpy_helper.from_array(np.ascontiguousarray(v), name) for name, v in constants.items()],
    )
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    acc, ones = (x - zeros[0]) @ (weight - zeros[1]).T, np.ones(1, np.float32)
    return Case(kind, content.SerializeToString(), fed, acc, 1.0, ones, 1.0, 0, 0, (-(1 << 31), (1 << 31) - 1), 0)


def _case(rng: np.random.Generator, kind: str, flavour: str) -> Case:
    alone, depthwise = kind == "QuantizeLinear", kind in ("depthwise", "QuantizeLinear")
    zero_in, zero_out = (0 if alone else int(rng.integers(-20, 20))), int(rng.integers(-60, 60))
    shape = (SAMPLES, CHANNELS if depthwise else INPUTS)
    x = rng.choice(np.array([-128, 127]), shape) if flavour == "largest" else rng.integers(-128, 128, shape)
    low, top = {"random": (-127, 127), "ties": (-3, 3), "largest": (-127, 127), "unsigned": (-55, 200)}[flavour]
    weight = rng.integers(low, top + 1, (CHANNELS, 1 if depthwise else INPUTS))
    weight = np.where(flavour == "largest", np.where(weight < 0, -127, 127), weight)
    bias = (rng.normal(0, 300, CHANNELS)).astype(np.int64)
    values = x - zero_in
    acc = (values * weight[:, 0] if depthwise else values @ weight.T) + bias
    if flavour == "ties":
        scale_in, scale_out = (1.0, 1.0) if alone else (0.5, 2.0)
        scales = (2 * rng.integers(0, 4, CHANNELS) + 1) * 2.0 ** -rng.integers(2, 6, CHANNELS)
    else:
        scale_in, scale_out = (1.0, 1.0) if alone else (float(np.float32(rng.uniform(0.1, 2))) for _ in range(2))
        scales = (
            np.exp(rng.uniform(np.log(0.5), np.log(200), CHANNELS))
            / (np.abs(acc).max(axis=0) + 1)
            * scale_out
            / scale_in
        )
    scales = scales.astype(np.float32)
    content = _file(kind, weight, bias, scale_in, scales, scale_out, zero_in, zero_out)
    real = acc * scales.astype(np.float64) * scale_in / scale_out
    fed = (x + SHIFT).astype(np.uint8)
    return Case(
        "QLinearConv" if kind == "depthwise" else kind,
        content,
        fed if kind == "QGemm" or alone else fed[:, :, None, None],
        acc,
        scale_in,
        scales,
        scale_out,
        zero_out,
        int(((real % 1 == 0.5) & (np.abs(real) < 64)).sum()),
    )


def _file(
    kind: str,
    weight: Ints,
    bias: Ints,
    scale_in: float,
    scales: Float32s,
    scale_out: float,
    zero_in: int,
    zero_out: int,
) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    is_int8 = weight.max() <= INT8_MAX
    zero, kind_of_weight = (0, np.int8) if is_int8 else (-int(weight.min()), np.uint8)
    constants: dict[str, Array] = {
        "xs": np.array(scale_in, np.float32),
        "xz": np.array(zero_in + SHIFT, np.uint8),
        "ws": scales,
        "wz": np.full(len(weight), zero, kind_of_weight),
        "ys": np.array(scale_out, np.float32),
        "yz": np.array(zero_out + SHIFT, np.uint8),
        "b": bias.astype(np.int32),
        "w": (weight + zero).astype(kind_of_weight),
    }
    if kind == "QGemm":
        constants["w"] = constants["w"].T
        nodes = [helper.make_node("QGemm", ["x", "xs", "xz", "w", "ws", "wz", "b", "ys", "yz"], ["y"], domain=CONTRIB)]
    elif kind == "QuantizeLinear":
        constants |= {"w": weight[:, 0].astype(np.float32), "b": (bias - SHIFT * weight[:, 0]).astype(np.float32)}
        nodes = [
            helper.make_node("Cast", ["x"], ["f"], to=1),
            helper.make_node("Mul", ["f", "w"], ["m"]),
            helper.make_node("Add", ["m", "b"], ["a"]),
            helper.make_node("Mul", ["a", "ws"], ["r"]),
            helper.make_node("QuantizeLinear", ["r", "ys", "yz"], ["y"]),
        ]
    else:
        constants["w"] = constants["w"][:, :, None, None]
        nodes = [
            helper.make_node(
                "QLinearConv",
                ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"],
                ["y"],
                kernel_shape=[1, 1],
                group=len(weight) if kind == "depthwise" else 1,
            )
        ]
    used = {name for node in nodes for name in node.input}
    tail = [None, None] if kind in ("depthwise", "QLinearConv") else []
    ends = [helper.make_tensor_value_info(name, TensorProto.UINT8, [None, None, *tail]) for name in "xy"]
    tensors = [numpy_helper.from_array(np.ascontiguousarray(v), name) for name, v in constants.items() if name in used]
    graph = helper.make_graph(nodes, "selftest", ends[:1], ends[1:], tensors)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR).SerializeToString()


def self_test(emulations: Mapping[str, Mapping[str, Emulation]] = EMULATIONS) -> Record:
    """{"runtime", "version", "kernels": {"mlas": {"pairs", "ties", "mismatches"}}}: emulated against real, value by
    value."""
    import onnxruntime

    entry = {"pairs": 0, "ties": 0, "mismatches": 0}
    for case in cases():
        (got,) = run(session_for(case.content), [case.x])
        expected = requantise(
            emulations[case.operator]["mlas"],
            case.acc,
            case.scale_in,
            case.scales,
            case.scale_out,
            case.zero_point,
            case.bounds,
        )
        entry["pairs"] += expected.size
        entry["ties"] += case.ties
        entry["mismatches"] += int((got.reshape(expected.shape).astype(np.int64) - case.shift != expected).sum())
    return {"runtime": "onnxruntime", "version": onnxruntime.__version__, "kernels": {"mlas": entry}}


def main(out: Path) -> None:
    """Writes what the self-test found to `out`."""
    result = {"format": "greenedge-runtime/1", **self_test(), "left_to_builtins": {}}
    out.write_text(json.dumps(result, indent=1) + "\n")
    entry = result["kernels"]["mlas"]
    print(
        f"mlas: {entry['pairs']:,} values, {entry['ties']:,} of them exact ties, {entry['mismatches']} differ from the "
        "emulation"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
