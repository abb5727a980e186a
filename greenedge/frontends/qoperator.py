"""QOperator files: operators on integers, each as the same operator on real numbers between quantisers.

    QLinearX(a, a_scale, a_zero, ..., y_scale, y_zero)  ->  QuantizeLinear(X(DequantizeLinear(a), ...))

A convolution or product of matrices multiplies the integers first, adds the bias to the sum and scales what comes out:
its dequantisers have a scale of one and two multiplications follow, so that no scale is a product rounded to float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from greenedge.frontends.names import take_name

if TYPE_CHECKING:
    import onnx

_EXACT = 1 << 24  # the largest integer up to which float32 holds every one


def replace_qoperators(proto: onnx.ModelProto) -> list[str]:
    """Nodes of the operators in RULES → quantisers and standard operators, in place; what was done, in words.

    A node with fewer inputs than its operator has, or whose weights are no constants, stays as it is.
    """
    rewriter = _Rewriter(proto.graph)
    nodes: list[onnx.NodeProto] = []
    count = 0
    for node in proto.graph.node:
        domain, needs, rule = RULES.get(node.op_type, (None, 0, None))
        rewriter.written = []
        if rule is not None and node.domain == domain and len(node.input) >= needs and rule(rewriter, node):
            nodes += rewriter.written
            count += 1
        else:
            nodes.append(node)
    if not count:
        return []
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return [f"{count} operators on integers (QOperator) are read as quantisers around real ones"]


class _Rewriter:
    """The nodes that take the place of one, and constants for them."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._taken = {*self._constants, *(name for node in graph.node for name in (node.name, *node.output))}
        self._taken |= {value.name for value in graph.input}
        self.written: list[onnx.NodeProto] = []

    def name(self, base: str) -> str:
        return take_name(base, self._taken)

    def read(self, name: str) -> NDArray[Any] | None:
        """The constant of that name."""
        from onnx import numpy_helper

        return numpy_helper.to_array(self._constants[name]) if name in self._constants else None

    def constant(self, values: NDArray[Any], base: str) -> str:
        from onnx import numpy_helper

        name = self.name(base)
        self._graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def node(self, at: onnx.NodeProto, op: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """One more node in the place of `at`; its output."""
        import onnx

        output = output or self.name(f"{at.output[0]}.{op}")
        self.written.append(
            onnx.helper.make_node(op, inputs, [output], name=self.name(f"{at.name}.{op}"), **attributes)
        )
        return output

    def dequantise(self, at: onnx.NodeProto, position: int) -> str:
        """The real numbers behind the inputs (integers, scale, zero point) from `position` on."""
        return self.node(at, "DequantizeLinear", at.input[position : position + 3])

    def quantise(self, at: onnx.NodeProto, real: str, position: int) -> bool:
        """The node's output: `real` at the (scale, zero point) from `position` on."""
        self.node(at, "QuantizeLinear", [real, *at.input[position : position + 2]], at.output[0])
        return True

    def keep(self, at: onnx.NodeProto, inputs: Sequence[str], *left_out: str) -> str:
        """The operator itself on real numbers: QLinearX → X, with its attributes but for those left out."""
        import onnx

        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in at.attribute if a.name not in left_out}
        return self.node(at, at.op_type.removeprefix("QLinear"), inputs, **attributes)


def _read_attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    import onnx

    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _one_input(at: _Rewriter, node: onnx.NodeProto) -> bool:
    """X(x, x_scale, x_zero, y_scale, y_zero)."""
    if _read_attribute(node, "channels_last", 0):
        return False
    return at.quantise(node, at.keep(node, [at.dequantise(node, 0)], "channels_last", "opset"), 3)


def _softmax(at: _Rewriter, node: onnx.NodeProto) -> bool:
    """As _one_input. With `opset` below 13 it runs over all axes from `axis` on: the same over the last one only."""
    is_over_one_axis = _read_attribute(node, "opset", 1) >= 13 or _read_attribute(node, "axis", -1) == -1
    return is_over_one_axis and _one_input(at, node)


def _two_inputs(at: _Rewriter, node: onnx.NodeProto) -> bool:
    """X(a, a_scale, a_zero, b, b_scale, b_zero, c_scale, c_zero)."""
    return at.quantise(node, at.keep(node, [at.dequantise(node, 0), at.dequantise(node, 3)]), 6)


def _concat(at: _Rewriter, node: onnx.NodeProto) -> bool:
    """QLinearConcat(y_scale, y_zero, then tensor, scale and zero of each part)."""
    parts = [at.dequantise(node, k) for k in range(2, len(node.input) - 2, 3)]
    return at.quantise(node, at.keep(node, parts), 0)


def _convolve(at: _Rewriter, node: onnx.NodeProto) -> bool:
    """QLinearConv(x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias): y = (sum + bias) * x_scale * w_scale
    / y_scale + y_zero."""
    weight = at.read(node.input[3])
    if weight is None or weight.ndim < 3:
        return False
    bias = node.input[8] if len(node.input) > 8 else ""
    sums = at.keep(node, [_lift(at, node, 0, 0), _lift(at, node, 3, 0)])
    real = _scale(at, node, sums, bias, (-1, *[1] * (weight.ndim - 2)))
    return real is not None and at.quantise(node, real, 6)


def _multiply_matrices(at: _Rewriter, node: onnx.NodeProto) -> bool:
    """QLinearMatMul(a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero)."""
    sums = at.keep(node, [_lift(at, node, 0, 0), _lift(at, node, 3, 1)])
    real = _scale(at, node, sums, "", (-1,))
    return real is not None and at.quantise(node, real, 6)


def _gemm(at: _Rewriter, node: onnx.NodeProto) -> bool:
    """QGemm(a, a_scale, a_zero, b, b_scale, b_zero, bias, y_scale, y_zero); real numbers without the last two."""
    if _read_attribute(node, "alpha", 1.0) != 1.0:
        return False
    turned = {key: _read_attribute(node, key, 0) for key in ("transA", "transB")}
    inputs = [_lift(at, node, 0, 0), _lift(at, node, 3, 0 if turned["transB"] else 1)]
    sums = at.node(node, "Gemm", inputs, **turned)
    real = _scale(at, node, sums, node.input[6] if len(node.input) > 6 else "", (-1,))
    if real is None:
        return False
    if len(node.input) > 7 and node.input[7]:
        return at.quantise(node, real, 7)
    at.node(node, "Identity", [real], node.output[0])
    return True


def _lift(at: _Rewriter, node: onnx.NodeProto, position: int, axis: int) -> str:
    """integers - zero point of the inputs (integers, scale, zero point) from `position` on."""
    integers, scale, zero = node.input[position : position + 3]
    points = at.read(zero)
    count = points.size if points is not None and points.ndim else 0
    ones = np.ones(count if count > 1 else (), np.float32)
    if count == 1 and points is not None:
        zero = at.constant(points.reshape(()), f"{zero}.scalar")
    attributes: dict[str, Any] = {"axis": axis} if count > 1 else {}
    return at.node(node, "DequantizeLinear", [integers, at.constant(ones, f"{scale}.one"), zero], **attributes)


def _scale(at: _Rewriter, node: onnx.NodeProto, sums: str, bias: str, channels: tuple[int, ...]) -> str | None:
    """(sums + bias) * the scales at inputs 1 and 4; None where one of them is no constant. A bias beyond float32 is
    added in two parts."""
    scales = [scale for scale in (at.read(node.input[k]) for k in (1, 4)) if scale is not None]
    offsets = at.read(bias) if bias else np.zeros(0, np.int32)
    if offsets is None or offsets.dtype != np.int32 or len(scales) < 2:
        return None
    low = offsets.astype(np.int64) % _EXACT
    parts = [offsets] if np.all(np.abs(offsets.astype(np.int64)) <= _EXACT) else [offsets - low, low]
    for part in parts:
        if np.any(part):
            added = at.constant(part.astype(np.float32).reshape(channels), f"{node.name}.bias")
            sums = at.node(node, "Add", [sums, added])
    for scale in scales:
        factor = scale.reshape(channels if scale.size > 1 else ())
        sums = at.node(node, "Mul", [sums, at.constant(factor, f"{node.name}.scale")])
    return sums


Rule = Callable[[_Rewriter, "onnx.NodeProto"], bool]
_MICROSOFT = "com.microsoft"
RULES: dict[str, tuple[str, int, Rule]] = {  # operator: its domain, the inputs that it must have, its rule
    "QLinearConv": ("", 8, _convolve),
    "QLinearMatMul": ("", 8, _multiply_matrices),
    "QGemm": (_MICROSOFT, 6, _gemm),
    **{f"QLinear{op}": (_MICROSOFT, 8, _two_inputs) for op in ("Add", "Mul")},
    **{
        f"QLinear{op}": (_MICROSOFT, 5, _one_input)
        for op in ("AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid")
    },
    "QLinearSoftmax": (_MICROSOFT, 5, _softmax),
    "QLinearConcat": (_MICROSOFT, 5, _concat),
}
