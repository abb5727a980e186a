"""The rarer refusals, each by its full text in tests/golden/refusals.txt; GOLDEN=1 writes that file anew."""

from __future__ import annotations

import os

import numpy as np
import pytest

from greenedge.errors import UnsupportedError
from greenedge.lower import lower_file
from tests.lower.models import QONNX, Model


def image(channels=2, **quant) -> Model:
    return Model((1, channels, 6, 6)).quant(**quant)


def ones(m: Model, *shape) -> str:
    return m.weight(np.ones(shape))


def per_channel(values, m: Model | None = None, zero=0.0, shape=(1, 2, 6, 6)) -> Model:
    return (m or Model(shape)).quant(np.float32(values).reshape(1, -1, *(1,) * (len(shape) - 2)), zero=zero)


def dynamic(m: Model) -> tuple[Model, str]:
    """A float tensor computed from the input, and the model back at its quantised tensor."""
    now = m.tensor
    m.node("Abs", source="x")
    made, m.tensor = m.tensor, now
    return m, made


def dynamic_batch_norm() -> Model:
    m, made = dynamic(Model((1, 3)).quant())
    return m.node("BatchNormalization", made, *(m.constant(np.ones(3)) for _ in range(3)), name="n").quant()


def dynamic_bias() -> Model:
    m, made = dynamic(Model((1, 3)).quant())
    return m.node("Gemm", ones(m, 3, 3), made, name="n").quant()


def dynamic_shape() -> Model:
    m, made = dynamic(Model((1, 3)).quant())
    now = m.tensor
    m.node("Cast", source=made, to=7)
    return m.node("Reshape", m.tensor, source=now, name="n").quant()


def skip_from_the_float_input() -> Model:
    return Model((1, 4)).quant().node("Add", "x", name="n").quant()


def pool_with_indices() -> Model:
    m = image().node("MaxPool", name="n", kernel_shape=[2, 2])
    m.nodes[-1].output.append("indices")
    return m.quant()


def joined_with_a_constant() -> Model:
    m = Model((1, 4)).quant()
    return m.node("Concat", m.constant(np.ones((1, 2))), name="n", axis=1).quant()


def two_maxima() -> Model:
    m = Model().quant()
    first = m.tensor
    return m.node("Relu").quant(0.7).node("Max", first, name="n").quant()


def weights_along_inputs() -> Model:
    m = Model().quant()
    now = m.tensor
    m.quant(np.float32([[0.5], [0.6], [0.7], [0.8]]), 4, source=m.constant(np.ones((4, 3))))
    weight, m.tensor = m.tensor, now
    return m.node("MatMul", weight, name="n").quant()


def conv_weights_along_inputs(op="Conv", shape=(2, 2, 3, 3), axis=1) -> Model:
    m = image()
    now = m.tensor
    spread = [1] * 4
    spread[axis] = 2
    m.quant(np.float32([0.5, 0.7]).reshape(spread), 4, source=m.constant(np.ones(shape)))
    weight, m.tensor = m.tensor, now
    return m.node(op, weight, name="n").quant()


def grouped_unequal() -> Model:
    m = per_channel([0.1, 0.17, 0.1, 0.3], shape=(1, 4, 6, 6))
    return m.node("Conv", ones(m, 4, 2, 3, 3), name="n", group=2).quant()


def scale_over_the_image(op="MaxPool", **attrs) -> Model:
    m = Model((1, 2, 6, 6)).quant(np.float32(np.linspace(0.1, 0.2, 6)).reshape(1, 1, 6, 1))
    return (m.node("Conv", ones(m, 2, 2, 3, 3), name="n") if op == "Conv" else m.node(op, name="n", **attrs)).quant()


def wide() -> Model:
    m = Model((1, 4)).quant(0.25, 16)
    m.node("MatMul", m.weight(np.full((4, 1), 2.0**31), 1.0, 32), name="n")
    return m.quant()


def values_on_no_grid() -> Model:
    m = Model((1, 4)).quant(float(np.float32(0.1)), 8).node("LeakyRelu", alpha=0.123, name="leaky")
    return m.node("MatMul", ones(m, 4, 2), name="n").quant()


def trunc(m: Model, *values, **attrs) -> Model:
    return m.node("Trunc", *(m.constant(v) for v in values), domain=QONNX, name="n", **attrs)


def wide_dense(bits: int = 8, fan_in: int = 400) -> Model:
    """Accumulators over more values than are ever tabulated or put on a grid."""
    return Model((1, fan_in)).quant(0.25, bits).dense(fan_in, 3)


def bad_weight_scale() -> Model:
    m = Model().quant()
    now = m.tensor
    m.quant(np.full(5, 0.5, np.float32), 4, source=m.constant(np.ones((4, 3))))
    weight, m.tensor = m.tensor, now
    return m.node("MatMul", weight, name="n").quant()


CASES = {
    "activation over a wide range": lambda: (
        (m := wide_dense().node("Relu")).node("MatMul", ones(m, 3, 2), name="n").quant()
    ),
    "a function that turns over a wide range": lambda: wide_dense(16).node("Abs").quant(),
    "fractional zero point": lambda: (
        (m := Model().quant(0.25, 4, zero=0.5)).node("MatMul", ones(m, 4, 3), name="n").quant()
    ),
    "scale along a kept axis": lambda: (
        (m := Model((1, 4, 3)).quant(np.float32([0.1, 0.2, 0.3, 0.4]).reshape(1, 4, 1)))
        .node("MatMul", ones(m, 3, 2), name="n")
        .quant()
    ),
    "a reshape that cannot be": lambda: (m := Model()).node("Reshape", m.constant([7], np.int64), name="n").quant(),
    "padded average with a fractional zero point": lambda: (
        image(zero=0.5)
        .node("AveragePool", name="n", kernel_shape=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1)
        .quant()
    ),
    "trunc to too many levels": lambda: trunc(wide_dense(12), 0.125, 0.0, 20.0, 20.0, rounding_mode="FLOOR"),
    "trunc by several amounts": lambda: trunc(
        Model().quant(0.25, 8), 0.25, 0.0, 8.0, [0.5, 1.0, 0.5, 0.5], 4.0, rounding_mode="FLOOR"
    ),
    "thresholds without a step": lambda: (m := Model().quant()).node(
        "MultiThreshold", m.constant(np.ones((1, 3))), domain=QONNX, name="n", out_dtype="UINT2", out_scale=0.0
    ),
    "thresholds for other channels": lambda: (m := Model().quant()).node(
        "MultiThreshold", m.constant(np.ones((3, 3))), domain=QONNX, name="n", out_dtype="UINT2"
    ),
    "float zero point": lambda: (m := Model().quant()).node(
        "QuantizeLinear", m.constant(0.1), m.constant(0.0), name="n"
    ),
    "weight scale of another shape": bad_weight_scale,
    "activation scale of another shape": lambda: (m := Model().quant()).node(
        "Quant",
        m.constant(np.full(5, 0.1)),
        m.constant(0.0),
        m.constant(4.0),
        domain=QONNX,
        signed=1,
        narrow=0,
        rounding_mode="ROUND",
        name="n",
    ),
    "resize between samples": lambda: (
        (m := image())
        .node(
            "Resize",
            "",
            m.constant([1, 1, 2, 2]),
            name="n",
            mode="nearest",
            coordinate_transformation_mode="half_pixel",
            nearest_mode="floor",
        )
        .quant()
    ),
    "channels do not match": lambda: (m := image(3)).node("Conv", ones(m, 2, 2, 3, 3), name="n").quant(),
    "pool of a vector": lambda: Model().quant().node("MaxPool", name="n", kernel_shape=[2]).quant(),
    "shapes of branches": lambda: image().node("MaxPool", kernel_shape=[2, 2]).node("Add", "t1", name="n").quant(),
    "accumulator too wide": wide,
    "constant along the batch": lambda: (
        (m := Model((2, 4)).quant()).node("Add", m.constant(np.arange(8.0).reshape(2, 4)), name="n").quant()
    ),
    "constant of higher rank": lambda: (
        (m := Model().quant()).node("Add", m.constant(np.ones((2, 1, 4))), name="n").quant()
    ),
    "constant that widens": lambda: (
        (m := Model((1, 1)).quant()).node("Add", m.constant(np.ones((1, 5))), name="n").quant()
    ),
    "two axes": lambda: (
        (m := Model((1, 64, 65)).quant()).node("Mul", m.constant(np.outer(np.arange(1, 65), np.arange(1, 66)))).quant()
    ),
    "no grid": values_on_no_grid,
    "pool of a falling function": lambda: image().node("Neg").node("MaxPool", name="n", kernel_shape=[2, 2]).quant(),
    "batch norm at run time": dynamic_batch_norm,
    "bias at run time": dynamic_bias,
    "shape at run time": dynamic_shape,
    "two powers": lambda: (m := Model().quant()).node("Pow", m.constant([2.0, 1.0, 2.0, 2.0]), name="n").quant(),
    "power": lambda: (m := Model().quant()).node("Pow", m.constant(3.0), name="n").quant(),
    "divided by": lambda: (m := Model().quant()).node("Div", "t1", source=m.constant(1.0), name="n").quant(),
    "maximum of two": two_maxima,
    "weights of three axes": lambda: (m := Model((1, 4, 4)).quant()).node("MatMul", ones(m, 2, 4, 3), name="n").quant(),
    "weights on the left of a vector": lambda: (
        (m := Model((1, 4)).quant()).node("MatMul", "t1", source=ones(m, 3, 4), name="n").quant()
    ),
    "transposed gemm": lambda: (m := Model((1, 4)).quant()).node("Gemm", ones(m, 1, 3), name="n", transA=1).quant(),
    "weights along the inputs": weights_along_inputs,
    "conv weights along the inputs": conv_weights_along_inputs,
    "transposed conv weights along the inputs": lambda: conv_weights_along_inputs("ConvTranspose", axis=0),
    "transposed conv with a shape": lambda: (
        (m := image()).node("ConvTranspose", ones(m, 2, 2, 3, 3), name="n", output_shape=[8, 8]).quant()
    ),
    "transposed conv with a zero point": lambda: (
        (m := image(zero=2.0)).node("ConvTranspose", ones(m, 2, 2, 3, 3), name="n").quant()
    ),
    "padding with two zero points": lambda: (
        (m := per_channel([0.1, 0.1], zero=np.float32([0, 1]).reshape(1, 2, 1, 1)))
        .node("Conv", ones(m, 2, 2, 3, 3), name="n", pads=[1, 1, 1, 1])
        .quant()
    ),
    "groups of unequal scales": grouped_unequal,
    "scale over the image": lambda: scale_over_the_image("Conv"),
    "pool over the image": lambda: scale_over_the_image(kernel_shape=[2, 2]),
    "conv behind softmax": lambda: (
        (m := image().node("Softmax", axis=1, name="soft")).node("Conv", ones(m, 2, 2, 3, 3), name="n").quant()
    ),
    "skip from the float input": skip_from_the_float_input,
    "pool with indices": pool_with_indices,
    "dilated average": lambda: (
        Model((1, 2, 6, 6), opset=19)
        .quant()
        .node("AveragePool", name="n", kernel_shape=[2, 2], dilations=[2, 2])
        .quant()
    ),
    "trunc of floats": lambda: trunc(Model(), 0.25, 0.0, 8.0, 4.0, rounding_mode="FLOOR"),
    "trunc upwards": lambda: trunc(Model().quant(0.25, 8), 0.25, 0.0, 4.0, 8.0, rounding_mode="FLOOR"),
    "trunc of a curve that turns": lambda: trunc(
        Model().quant(0.25, 8).node("Abs"), 0.25, 0.0, 8.0, 4.0, rounding_mode="FLOOR"
    ),
    "thresholds on floats": lambda: (m := Model()).node(
        "MultiThreshold", m.constant(np.ones((1, 3))), domain=QONNX, name="n", out_dtype="UINT2"
    ),
    "dequantised floats": lambda: (
        (m := Model()).node("DequantizeLinear", m.constant(0.1), m.constant(0, np.int8), name="n").dense()
    ),
    "two bit widths": lambda: (m := Model()).node(
        "Quant",
        m.constant(0.1),
        m.constant(0.0),
        m.constant([4.0, 8.0, 4.0, 4.0]),
        domain=QONNX,
        signed=1,
        narrow=0,
        rounding_mode="ROUND",
        name="n",
    ),
    "resize at run time": lambda: (d := dynamic(image()))[0].node("Resize", "", d[1], name="n", mode="nearest").quant(),
    "axis of the batch": lambda: image().node("Concat", "t1", name="n", axis=0).quant(),
    "flatten from the batch": lambda: image().node("Flatten", name="n", axis=2).quant(),
    "negative padding": lambda: (
        (m := image()).node("Pad", m.constant([0, 0, -1, 0, 0, 0, 0, 0], np.int64), name="n").quant()
    ),
    "joined with a constant": joined_with_a_constant,
    "resize by a fraction": lambda: (
        (m := image()).node("Resize", "", m.constant([1, 1, 1.5, 1.5]), name="n", mode="nearest").quant()
    ),
    "resize that shifts": lambda: (
        (m := image())
        .node(
            "Resize",
            "",
            m.constant([1, 1, 2, 2]),
            name="n",
            mode="nearest",
            coordinate_transformation_mode="align_corners",
        )
        .quant()
    ),
    "depth to space per channel": lambda: (
        per_channel([0.1, 0.2, 0.3, 0.4], shape=(1, 4, 6, 6)).node("DepthToSpace", name="n", blocksize=2).quant()
    ),
}


def _said(case: str, tmp_path) -> str:
    try:
        lower_file(CASES[case]().save(tmp_path / "m.onnx"))
    except UnsupportedError as error:
        return "\n".join(str(reason) for reason in error.reasons)
    return "it lowers"


@pytest.fixture(scope="module")
def golden(repo) -> dict[str, str]:
    path = repo / "tests" / "golden" / "refusals.txt"
    if os.environ.get("GOLDEN") == "1":
        return {}
    blocks = path.read_text().strip().split("\n\n")
    return {block.split("\n", 1)[0].removeprefix("# "): block.split("\n", 1)[1] for block in blocks}


@pytest.mark.parametrize("case", CASES)
def test_refusal(case, tmp_path, golden, repo):
    said = _said(case, tmp_path)
    if os.environ.get("GOLDEN") == "1":
        path = repo / "tests" / "golden" / "refusals.txt"
        kept = path.read_text() if path.exists() and case != next(iter(CASES)) else ""
        path.write_text(f"{kept}# {case}\n{said}\n\n")
        return
    assert said == golden[case]
