"""Every refusal by its full text: the node, what is there, the rule it breaks, what to change; all reasons at once."""

from __future__ import annotations

import numpy as np
import pytest

from greenedge.errors import UnsupportedError
from greenedge.lower import lower_file
from greenedge.lower.builder import QUANTISE_IN_FILE
from tests.lower.models import QONNX, Model


def _said(model: Model, tmp_path, outputs=None, declared=None) -> list[str]:
    with pytest.raises(UnsupportedError) as error:
        lower_file(model.save(tmp_path / "m.onnx", outputs), declared)
    assert error.value.exit_code == 4
    return [str(reason) for reason in error.value.reasons]


def _image() -> Model:
    return Model((1, 2, 6, 6)).quant()


def _scales_along_two_axes() -> Model:
    """A scale for each channel of one branch, and for each row of the other."""
    m = _image()
    first = m.tensor
    m.quant(np.array([0.25, 0.3], np.float32).reshape(1, 2, 1, 1), 8, source=first)
    left = m.tensor
    m.quant(np.array([1, 2, 1, 2, 1, 2], np.float32).reshape(1, 1, 6, 1), 8, source=first)
    return m.node("Add", left, name="join")


def _softmax_between() -> Model:
    return Model((1, 2, 4)).quant().dense().node("Softmax", name="attention", axis=1).quant().dense(3, 2)


def _dynamic_scale() -> Model:
    m = Model()
    m.node("Abs")
    scale = m.tensor
    return m.node(
        "Quant",
        scale,
        m.constant(0),
        m.constant(4),
        source="x",
        domain=QONNX,
        signed=1,
        narrow=0,
        rounding_mode="ROUND",
        name="q",
    )


def _conv(m: Model, name="conv", **attrs) -> Model:
    return m.node("Conv", m.weight(np.ones((2, 2, 3, 3))), name=name, **attrs)


def _per_channel_input() -> Model:
    m = Model((1, 2, 6, 6))
    return _conv(m.quant(np.float32([0.1, 0.17]).reshape(1, 2, 1, 1)))


CASES = {
    "float weights": (
        lambda: (m := Model().quant()).node("MatMul", m.constant(np.full((4, 3), 0.3)), name="fc"),
        [
            "fc: its weights are float32 of shape (4, 3); an integer layer needs quantised weights (cure: use "
            "qnn.QuantLinear(weight_bit_width=4) and train or calibrate again)."
        ],
    ),
    "float input": (
        lambda: Model().dense(),
        [
            "MatMul_2: the model's input reaches it without a quantiser; integer layers need quantised inputs (cure: "
            "put a "
            "QuantIdentity(bit_width=8) first, or declare the input, for example --input-type uint8:1/255)."
        ],
    ),
    "all reasons at once": (
        lambda: (
            (m := Model().quant())
            .node("MatMul", m.constant(np.full((4, 3), 0.3)), name="fc1")
            .node("Relu")
            .node("MatMul", m.constant(np.full((3, 2), 0.7)), name="fc2")
        ),
        [
            "fc1: its weights are float32 of shape (4, 3); an integer layer needs quantised weights (cure: use "
            "qnn.QuantLinear(weight_bit_width=4) and train or calibrate again).",
            "fc2: its weights are float32 of shape (3, 2); an integer layer needs quantised weights (cure: use "
            "qnn.QuantLinear(weight_bit_width=4) and train or calibrate again).",
        ],
    ),
    "no quantiser between layers": (
        lambda: (m := Model().quant().dense().node("Sigmoid")).node("MatMul", m.weight(np.ones((3, 2))), name="fc2"),
        [
            "fc2: its input is not quantised; integer layers need quantised inputs (cure: put a QuantIdentity or "
            f"QuantReLU(bit_width=…) before this layer, {QUANTISE_IN_FILE})."
        ],
    ),
    "softmax along another axis": (
        _softmax_between,
        [
            "attention: Softmax along axis 1 of a tensor of 3; rows lie along the last axis (cure: transpose the "
            "tensor before it)."
        ],
    ),
    "unequal scales": (
        _scales_along_two_axes,
        [
            "join: it adds branches whose scales are in 12 different ratios along the axes [0, 1]; the ratio of scales "
            "may differ along one axis (cure: quantise each branch per tensor before the addition, "
            f"{QUANTISE_IN_FILE})."
        ],
    ),
    "negative scale": (
        lambda: Model().quant(-0.5),
        [
            "Quant_1: scale -0.5; scales must be positive (cure: train a few steps before the export, or remove the "
            "dead channel)."
        ],
    ),
    "zero scale": (
        lambda: Model().quant(0.0),
        [
            "Quant_1: scale 0; scales must be positive (cure: train a few steps before the export, or remove the dead "
            "channel)."
        ],
    ),
    "rounding": (
        lambda: Model().quant(mode="STOCHASTIC"),
        [
            "Quant_1: rounding mode 'STOCHASTIC'; the modes are ROUND, HALF_EVEN, HALF_UP, HALF_DOWN, CEIL, FLOOR, UP, "
            "DOWN (cure: use "
            "ROUND)."
        ],
    ),
    "fractional bits": (
        lambda: Model().quant(bits=3.5),
        ["Quant_1: bit width 3.5; whole widths from 1 to 32 bits (cure: set bit_width to a whole number)."],
    ),
    "wide activations": (
        lambda: Model().quant(bits=24),
        ["Quant_1: 24-bit activations; activations have at most 16 bits (cure: use 8 bits or fewer)."],
    ),
    "scale computed at run time": (
        _dynamic_scale,
        [
            "q: its scale is computed at run time; quantisers must have constant parameters (cure: call model.eval() "
            "before the export and use a static quantiser)."
        ],
    ),
    "float quantiser": (
        lambda: Model().node("FloatQuant", domain=QONNX, name="f8"),
        [
            "f8: FloatQuant quantises to floating point; the integer graph holds integers only (cure: use an integer "
            "quantiser "
            "such as Int8ActPerTensorFloat)."
        ],
    ),
    "recurrent": (
        lambda: (m := Model((5, 1, 4)).quant()).node(
            "LSTM", m.constant(np.ones((1, 12, 4))), m.constant(np.ones((1, 12, 3))), name="rnn", hidden_size=3
        ),
        ["rnn: LSTM; networks are feed-forward (cure: unroll the loop or keep it on the host)."],
    ),
    "quotient of activations": (
        lambda: Model().quant().dense(4, 4).quant(0.7).node("Div", "t1", name="gate"),
        [
            "gate: Div of two different activations; branches are joined by Add, Mul or Concat (cure: multiply by the "
            "inverse, or divide on the host)."
        ],
    ),
    "per-channel input scale": (
        _per_channel_input,
        [
            "conv: its input channels have scales in no small whole ratio; a sum needs one scale (cure: use one "
            "per-tensor "
            "quantiser before this layer)."
        ],
    ),
    "batch moved": (
        lambda: _image().node("Transpose", name="t", perm=[1, 0, 2, 3]).quant(),
        [
            "t: a transposition (1, 0, 2, 3) that moves the batch; the batch axis stays where it is (cure: keep the "
            "batch axis first)."
        ],
    ),
    "batch reshaped": (
        lambda: (m := _image()).node("Reshape", m.constant([2, 36], np.int64), name="r").quant(),
        ["r: a reshape of (1, 2, 6, 6) to (2, 36); the batch axis must stay the first (cure: flatten from axis 1)."],
    ),
    "bilinear": (
        lambda: (m := _image()).node("Resize", "", m.constant([1, 1, 2, 2]), name="up", mode="linear").quant(),
        ["up: linear resizing; nearest neighbour by whole factors is taken (cure: use mode='nearest')."],
    ),
    "uneven average": (
        lambda: _image().node("AveragePool", name="avg", kernel_shape=[3, 3], pads=[1, 1, 1, 1]).quant(),
        [
            "avg: an average pool whose divisor changes at the border; all windows must have one divisor (cure: use "
            "count_include_pad=True, or pad explicitly)."
        ],
    ),
    "window too large": (
        lambda: _image().node("MaxPool", name="pool", kernel_shape=[9, 9]).quant(),
        [
            "pool: its window (9, 9) does not fit (6, 6); the window must fit its padded input (cure: use a smaller "
            "kernel or "
            "more padding)."
        ],
    ),
    "reflecting pad": (
        lambda: (
            (m := _image())
            .node("Pad", m.constant([0, 0, 1, 1, 0, 0, 1, 1], np.int64), name="p", mode="reflect")
            .quant()
        ),
        ["p: padding mode 'reflect'; padding is by a constant (cure: use padding_mode='zeros')."],
    ),
    "pad off the grid": (
        lambda: (
            (m := _image())
            .node("Pad", m.constant([0, 0, 1, 1, 0, 0, 1, 1], np.int64), m.constant(0.3), name="p")
            .quant()
        ),
        [
            "p: padding by 0.3, which is not on the tensor's grid; the fill must be one of the quantiser's values "
            "(cure: pad with "
            "zeros)."
        ],
    ),
    "max of a function that turns": (
        lambda: _image().node("Abs").node("Sub", "c0").node("MaxPool", name="pool", kernel_shape=[2, 2]).quant(),
        [
            "pool: it follows a function that is not monotone; a maximum commutes with rising functions only (cure: "
            "put the quantiser before the pool)."
        ],
    ),
    "training batch norm": (
        lambda: (
            (m := Model(opset=15).quant().dense())
            .node("BatchNormalization", *(m.constant(np.ones(3)) for _ in range(4)), name="bn", training_mode=1)
            .quant()
        ),
        [
            "bn: a batch norm in training mode; its statistics must be constant (cure: call model.eval() before the "
            "export)."
        ],
    ),
    "dead variance": (
        lambda: (
            (m := Model().quant().dense())
            .node("BatchNormalization", *(m.constant(np.full(3, -1.0)) for _ in range(4)), name="bn")
            .quant()
        ),
        [
            "bn: a batch norm whose variance is not positive; its variance plus epsilon must be positive (cure: train "
            "or calibrate the "
            "model again)."
        ],
    ),
    "division by zero": (
        lambda: (m := Model().quant()).node("Div", m.constant(0.0), name="d").quant(),
        ["d: a division by zero; divisors must not be zero (cure: export the model again)."],
    ),
    "strange domain": (
        lambda: Model().quant().dense().node("Frobnicate", name="f", domain="com.stranger").quant().dense(3, 2),
        ["f: operator com.stranger.Frobnicate; it is no standard ONNX or QONNX operator (cure: replace the layer)."],
    ),
    "attention": (
        lambda: (m := Model((1, 2, 4)).quant()).node("MatMul", m.tensor, name="qk").quant(),
        [
            "qk: a product of matrices of shapes (2, 4) and (2, 4); both have the same leading axes, and as many "
            "columns as the other has rows (cure: split the heads of both alike)."
        ],
    ),
    "nothing quantised": (
        lambda: Model().node("Relu"),
        [
            "tiny: a float model, without any quantiser; integer layers need quantised weights and activations (cure: "
            "run `greenedge quantise FLOAT.onnx --calibrate SAMPLES.npy -o OUT.onnx`, or train it with Brevitas "
            "quantisers)."
        ],
    ),
    "open shape": (
        lambda: Model(("n", "k")).quant(),
        ["x: input of shape (1, None); only the batch axis may be open (cure: export with a fixed input shape)."],
    ),
    "features do not match": (
        lambda: Model((1, 5)).quant().dense(4, 3),
        ["MatMul_3: its input has 5 features and its weights 4; they must match (cure: export the model again)."],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refusal(tmp_path, case):
    make, said = CASES[case]
    assert _said(make(), tmp_path) == said


def test_the_torch_module_stands_beside_the_node(tmp_path):
    import onnx

    m = Model().quant()
    m.node("MatMul", m.constant(np.full((4, 3), 0.3)), name="node_linear")
    proto = m.proto()
    entry = proto.graph.node[-1].metadata_props.add()
    entry.key, entry.value = "namespace", ": Net/features.3: brevitas.nn.QuantLinear/linear: aten.linear.default"
    onnx.save(proto, str(tmp_path / "m.onnx"))
    with pytest.raises(UnsupportedError) as error:
        lower_file(tmp_path / "m.onnx")
    assert str(error.value.reasons[0]).startswith("node_linear (features.3): its weights are float32")


def test_reasons_behind_the_first_are_given_too(tmp_path):
    """What stands behind a refused node is judged as if integers came out of it; a float function that follows another
    is named with it."""
    model = Model((1, 4)).quant().dense(4, 4).node("Sin").quant().node("Cos").quant()
    model.dense(4, 3).node("Pow", model.constant(3.0)).quant().dense(3, 3).quant(scale=0.0)
    with pytest.raises(UnsupportedError) as refusal:
        lower_file(model.save(tmp_path / "m.onnx"))
    told = {reason.node: str(reason) for reason in refusal.value.reasons}
    assert list(told) == ["MatMul_9", "Pow_10", "Quant_14"]
    assert told["MatMul_9"] == (
        "MatMul_9: its input passed through Sin (Sin_4), which has no integer form here, and Cos (Cos_6), likewise; "
        "float arithmetic is possible before the first and after the last integer layer only "
        "(cure: remove Sin and Cos or move them behind the last layer)."
    )


def test_nothing_stands_in_where_two_branches_meet(tmp_path):
    """The scales of two branches are what an addition is judged by, and one of them is unknown."""
    model = Model((1, 4)).quant()
    start = model.tensor
    model.node("Pow", model.constant(3.0), source=start).node("Add", start).quant().dense()
    with pytest.raises(UnsupportedError) as refusal:
        lower_file(model.save(tmp_path / "m.onnx"))
    assert [reason.node for reason in refusal.value.reasons] == ["Pow_2"]
