"""Checks the emulated arithmetic against the runtime at hand, in about a second, and which operators XNNPACK runs.

    python -m greenedge.backends.int8.tflite.selftest MODEL OUT.json

Every operator that a certificate speaks of is run with random scales and with scales full of exact ties, in both kernel
sets, and compared with `arithmetic.py` value by value. A certificate counts only where nothing differs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from greenedge.backends.int8.arithmetic import (
    EMULATIONS,
    EXACT_FLOAT,
    FLOAT_SUM,
    LITERT,
    Emulation,
    Float32s,
    activation_bounds,
    mean_emulations,
    requantise,
)
from greenedge.backends.int8.proof_record import Record
from greenedge.backends.int8.tflite.flatbuffer import Quantisation, Writer
from greenedge.backends.int8.tflite.worker import RESOLVERS, load_runtime, run
from greenedge.graph.ops.base import Array, Ints

CHANNELS, INPUTS, SAMPLES = 48, 8, 160
_SEED = 20261123


@dataclass(frozen=True, eq=False)
class Case:
    """One operator on SAMPLES vectors: its file, its input, and what the emulation needs to compute its output."""

    operator: str
    content: bytes
    x: tuple[Array, ...]
    acc: Ints
    scale_in: float
    scales: Float32s
    scale_out: float
    zero_point: int
    bounds: tuple[int, int]
    ties: int
    own: Mapping[str, Emulation] | None = None


def cases(int4: bool = False) -> list[Case]:
    """Random scales and tie scales for every operator that a certificate speaks of; with `int4` narrow dense weights
    too."""
    rng = np.random.default_rng(_SEED)
    operators = [name for name, sets in EMULATIONS.items() if "xnnpack" in sets]
    own = {"ADD": _addition, "QUANTIZE": _quantisation}
    own |= {name: _float_sums for name in operators if name.startswith(FLOAT_SUM)}
    return (
        [own.get(name, _case)(rng, name, ties) for name in operators for ties in (False, True)]
        + [_mean(rng, ties) for ties in (False, True)]
        + ([_case(rng, "FULLY_CONNECTED", ties, int4=True) for ties in (False, True)] if int4 else [])
    )


def _addition(rng: np.random.Generator, operator: str, ties: bool) -> Case:
    """Every pair of int8."""
    a, b = (v.reshape(1, -1).astype(np.int8) for v in np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)))
    zero_in, zero_out = int(rng.integers(-20, 20)), int(rng.integers(-60, 60))
    scale_in, scale_out = (1.0, 2.0) if ties else (float(np.float32(rng.uniform(0.1, 2))) for _ in range(2))
    writer = Writer("selftest")
    x = [writer.tensor(name, a.shape, "INT8", Quantisation((scale_in,), zero_in)) for name in "ab"]
    y = writer.tensor("y", a.shape, "INT8", Quantisation((scale_out,), zero_out))
    writer.operator(operator, x, [y], 2, fusedActivationFunction="RELU")
    acc = a.astype(np.int64) + b - 2 * zero_in
    return Case(
        operator,
        writer.finish(x, [y]),
        (a, b),
        acc,
        scale_in,
        np.ones(1, np.float32),
        scale_out,
        zero_out,
        activation_bounds("RELU", scale_out, zero_out, "reference"),  # of RELU alone the sets have one bound
        int((acc % 2).sum()) if ties else 0,
    )


def _quantisation(rng: np.random.Generator, operator: str, ties: bool) -> Case:
    """Every int8, and ratios of the scales from 1/8 to 100."""
    x = np.arange(-128, 128).reshape(1, 1, 1, -1).astype(np.int8)
    zero_in, zero_out = int(rng.integers(-128, 128)), int(rng.integers(-60, 60))
    scale_in, scale_out = (1.0, 2.0) if ties else (float(np.float32(v)) for v in np.exp(rng.uniform(-1, 1, 2)) * (7, 1))
    writer = Writer("selftest")
    a = writer.tensor("x", x.shape, "INT8", Quantisation((scale_in,), zero_in))
    y = writer.tensor("y", x.shape, "INT8", Quantisation((scale_out,), zero_out))
    writer.operator(operator, [a], [y], 2)
    acc = x.astype(np.int64) - zero_in
    return Case(
        operator,
        writer.finish([a], [y]),
        (x,),
        acc,
        scale_in,
        np.ones(1, np.float32),
        scale_out,
        zero_out,
        (-128, 127),
        int((acc % 2).sum()) if ties else 0,
    )


def _mean(rng: np.random.Generator, ties: bool) -> Case:
    """Means over images of 5x7 around every int8, zero points far apart."""
    count, zero_in, zero_out = 32 if ties else 35, int(rng.integers(-128, 128)), int(rng.integers(-60, 60))
    x = np.clip(
        rng.integers(-128, 128, (SAMPLES, 1, 1, CHANNELS)) + rng.integers(-9, 10, (SAMPLES, count, 1, CHANNELS)),
        -128,
        127,
    ).astype(np.int8)
    scale_in, scale_out = (1.0, 1.0) if ties else (float(np.float32(rng.uniform(0.1, 2))) for _ in range(2))
    writer = Writer("selftest")
    a = writer.tensor("x", (1, count, 1, CHANNELS), "INT8", Quantisation((scale_in,), zero_in))
    y = writer.tensor("y", (1, 1, 1, CHANNELS), "INT8", Quantisation((scale_out,), zero_out))
    writer.operator("MEAN", [a, writer.constant("axes", np.array([1, 2], np.int32))], [y], 2, keepDims=True)
    acc = x.astype(np.int64).sum(axis=(1, 2))
    tied = int((acc % count == count // 2).sum()) if ties else 0
    return Case(
        "MEAN",
        writer.finish([a], [y]),
        (x,),
        acc,
        scale_in,
        np.ones(1, np.float32),
        scale_out,
        zero_out,
        (-128, 127),
        tied,
        mean_emulations(count, zero_in, zero_out),
    )


def _float_sums(rng: np.random.Generator, operator: str, ties: bool) -> Case:
    """Whole numbers in float32, sums up to 2**24 - 1 or down to its opposite: there are no ties."""
    operator = operator.removeprefix(FLOAT_SUM)
    dense, depthwise = operator == "FULLY_CONNECTED", operator == "DEPTHWISE_CONV_2D"
    fan_in = CHANNELS if depthwise else INPUTS
    x = rng.choice(np.array([-128, -1, 77, 127]), (SAMPLES, *([] if dense else [1, 1]), fan_in)).astype(np.int8)
    weight = rng.choice(np.array([-127, -126, 3, 127]), (CHANNELS, 1 if depthwise else INPUTS))
    reach = 128 * np.abs(weight).sum(axis=1)
    bias = (EXACT_FLOAT - 1 - reach) * (-1 if ties else 1)
    flat = x.reshape(SAMPLES, fan_in).astype(np.int64)
    acc = (flat * weight[:, 0] if depthwise else flat @ weight.T) + bias
    content = _float_file(operator, weight.astype(np.int8), bias, x.shape[1:])
    ones, whole = np.ones(1, np.float32), (-(1 << 31), (1 << 31) - 1)
    return Case(FLOAT_SUM + operator, content, (x,), acc, 1.0, ones, 1.0, 0, whole, 0)


def _float_file(operator: str, weight: Array, bias: Ints, shape: tuple[int, ...]) -> bytes:
    writer, dense, depthwise = Writer("selftest"), operator == "FULLY_CONNECTED", operator == "DEPTHWISE_CONV_2D"
    x = writer.tensor("x", (1, *shape), "INT8", Quantisation((1.0,)))
    real, total = (
        writer.tensor(name, (1, *shape[:-1], size), "FLOAT32") for name, size in (("f", shape[-1]), ("t", CHANNELS))
    )
    writer.operator("CAST", [x], [real])
    shaped = weight.T[None, None] if depthwise else weight if dense else weight[:, None, None, :]
    w = writer.tensor("w", shaped.shape, "FLOAT32")
    writer.operator("DEQUANTIZE", [writer.constant("stored", shaped, Quantisation((1.0,)))], [w], 2)
    b = writer.constant("b", bias.astype(np.float32))
    window = {} if dense else {"strideH": 1, "strideW": 1, "padding": "VALID"}
    if operator == "TRANSPOSE_CONV":
        size = writer.constant("s", np.array([1, 1, 1, CHANNELS], np.int32))
        writer.operator(operator, [size, w, real, b], [total], 3, **window)
    else:
        window |= {} if dense else {"dilationHFactor": 1, "dilationWFactor": 1}
        window |= {"depthMultiplier": 1} if depthwise else {}
        writer.operator(operator, [real, w, b], [total], 5 if dense else 3, fusedActivationFunction="NONE", **window)
    y = writer.tensor("y", (1, *shape[:-1], CHANNELS), "INT32")
    writer.operator("CAST", [total], [y])
    return writer.finish([x], [y])


def _case(rng: np.random.Generator, operator: str, ties: bool, int4: bool = False) -> Case:
    depthwise = operator == "DEPTHWISE_CONV_2D"
    fan_in = CHANNELS if depthwise else INPUTS
    x = rng.integers(-128, 128, (SAMPLES, 1, 1, fan_in)).astype(np.int8)
    zero_in, zero_out = int(rng.integers(-20, 20)), int(rng.integers(-60, 60))
    top, reach = (3, 2.0**8) if ties else (7 if int4 else 127, 2.0 ** rng.uniform(5, 22, CHANNELS))
    weight = rng.integers(-top, top + 1, (CHANNELS, 1 if depthwise else INPUTS))
    bias = (rng.normal(0, 1, CHANNELS) * reach).astype(np.int64)
    values = x[:, 0, 0].astype(np.int64) - zero_in
    acc = (values * weight[:, 0] if depthwise else values @ weight.T) + bias
    if ties:  # odd / 2**n: exactly representable, and many accumulators fall half-way
        scale_in, scale_out = 0.5, 2.0
        scales = (2 * rng.integers(0, 4, CHANNELS) + 1) * 2.0 ** -rng.integers(2, 6, CHANNELS)
    else:
        scale_in, scale_out = float(np.float32(rng.uniform(0.1, 2))), float(np.float32(rng.uniform(0.1, 2)))
        scales = (
            np.exp(rng.uniform(np.log(0.5), np.log(200), CHANNELS))
            / (np.abs(acc).max(axis=0) + 1)
            * scale_out
            / scale_in
        )
    scales = scales.astype(np.float32)
    activation = "RELU" if operator == "CONV_2D" else "NONE"
    content = _file(operator, weight, bias, scale_in, scales, scale_out, zero_in, zero_out, activation, int4)
    real = acc * scales.astype(np.float64) * scale_in / scale_out  # exact where there are ties
    return Case(
        operator,
        content,
        (x.reshape(SAMPLES, fan_in) if operator == "FULLY_CONNECTED" else x,),
        acc,
        scale_in,
        scales,
        scale_out,
        zero_out,
        activation_bounds(activation, scale_out, zero_out, "reference"),
        int(((real % 1 == 0.5) & (np.abs(real) < 64)).sum()),
    )


def _file(
    operator: str,
    weight: Ints,
    bias: Ints,
    scale_in: float,
    scales: Float32s,
    scale_out: float,
    zero_in: int,
    zero_out: int,
    activation: str,
    int4: bool,
) -> bytes:
    writer = Writer("selftest")
    dense, depthwise = operator == "FULLY_CONNECTED", operator == "DEPTHWISE_CONV_2D"
    fan_in = CHANNELS if depthwise else INPUTS
    lead = (1,) if dense else (1, 1, 1)
    x = writer.tensor("x", (*lead, fan_in), "INT8", Quantisation((scale_in,), zero_in))
    y = writer.tensor("y", (*lead, CHANNELS), "INT8", Quantisation((scale_out,), zero_out))
    shaped = weight.T[None, None] if depthwise else weight if dense else weight[:, None, None, :]
    floats = tuple(float(s) for s in scales)
    parameters = Quantisation(floats, 0, 3 if depthwise else 0)
    w = writer.pack_int4("w", shaped, parameters) if int4 else writer.constant("w", shaped.astype(np.int8), parameters)
    b = writer.constant(
        "b", bias.astype(np.int32), Quantisation(tuple(float(np.float32(scale_in) * s) for s in scales))
    )
    window = {} if dense else {"strideH": 1, "strideW": 1, "padding": "VALID"}
    if operator == "TRANSPOSE_CONV":
        writer.operator(
            operator, [writer.constant("s", np.array([1, 1, 1, CHANNELS], np.int32)), w, x, b], [y], 3, **window
        )
        return writer.finish([x], [y])
    window |= {} if dense else {"dilationHFactor": 1, "dilationWFactor": 1}
    window |= {"depthMultiplier": 1} if depthwise else {}
    writer.operator(
        operator, [x, w, b], [y], (12 if int4 else 5) if dense else 3, fusedActivationFunction=activation, **window
    )
    return writer.finish([x], [y])


def self_test(emulations: Mapping[str, Mapping[str, Emulation]] = EMULATIONS, int4: bool = False) -> Record:
    """{"runtime", "version", "kernels": {set: {"pairs", "ties", "mismatches"}}}: emulated against real, value by value.

    Raises RuntimeError where no runtime works.
    """
    runtime, package, version = load_runtime()
    result = {kernels: {"pairs": 0, "ties": 0, "mismatches": 0} for kernels in LITERT}
    for case in cases(int4):
        for kernels in LITERT:
            resolver = getattr(runtime.OpResolverType, RESOLVERS[kernels])
            interpreter = runtime.Interpreter(
                model_content=case.content, num_threads=1, experimental_op_resolver_type=resolver
            )
            interpreter.allocate_tensors()
            (got,) = run(interpreter, list(case.x), lambda done: None).values()
            expected = requantise(
                (case.own or emulations[case.operator])[kernels],
                case.acc,
                case.scale_in,
                case.scales,
                case.scale_out,
                case.zero_point,
                case.bounds,
            )
            entry = result[kernels]
            entry["pairs"] += expected.size
            entry["ties"] += case.ties
            entry["mismatches"] += int((got.reshape(expected.shape) != expected).sum())
    return {"runtime": package, "version": version, "kernels": result}


def left_to_builtins(model: Path) -> dict[str, int]:
    """{operator: how many} of those that XNNPACK does not take, so that LiteRT's own kernels run them.

    An ADD of integers wider than a level (the index of a table) rounds nothing: it is called "ADD int32", so that it
    raises no doubt about the additions that do.
    """
    runtime, _, _ = load_runtime()
    interpreter = runtime.Interpreter(model_path=str(model), num_threads=1)
    interpreter.allocate_tensors()
    nodes = interpreter._get_ops_details()  # the runtime has no public list of its operators
    delegates = [node for node in nodes if node["op_name"] == "DELEGATE"]
    delegate_inputs = {int(t) for node in delegates for t in node["inputs"]}
    delegate_outputs = {int(t) for node in delegates for t in node["outputs"]}
    outputs = {out["index"] for out in interpreter.get_output_details()}
    dtypes = {tensor["index"]: np.dtype(tensor["dtype"]).name for tensor in interpreter.get_tensor_details()}
    inside: set[int] = set()  # tensors that only delegated operators can have written
    left: dict[str, int] = {}
    needed: set[int] = set()  # tensors read by operators that were not delegated
    for node in reversed([node for node in nodes if node["op_name"] != "DELEGATE"]):
        written = {int(t) for t in node["outputs"]}
        if delegates and (written & delegate_outputs or not written & (delegate_inputs | outputs | needed)):
            inside |= written
            continue
        name = " ".join([node["op_name"], *sorted({dtypes[t] for t in written} & {"int32"})])
        left[name] = left.get(name, 0) + 1
        needed |= {int(t) for t in node["inputs"]}
    return dict(sorted(left.items()))


def _has_int4(model: Path) -> bool:
    from ai_edge_litert import schema_py_generated as schema

    from greenedge.backends.int8.tflite.runtime import parse_model, read_model

    return any(
        tensor.type == schema.TensorType.INT4 for tensor in parse_model(read_model(model), model).subgraphs[0].tensors
    )


def main(model: Path, out: Path) -> None:
    """Writes what the self-test found to `out`."""
    record: Record = {
        "format": "greenedge-runtime/1",
        **self_test(int4=_has_int4(model)),
        "left_to_builtins": left_to_builtins(model),
    }
    out.write_text(json.dumps(record, indent=1) + "\n")
    for kernels, entry in record["kernels"].items():
        print(
            f"{kernels}: {entry['pairs']:,} values, {entry['ties']:,} of them exact ties, {entry['mismatches']} differ "
            "from the emulation"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
